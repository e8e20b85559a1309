"""The distribution that has this package: its name on package indexes, its extras, and a check for a clash.

On public indexes, `bindings` is the distribution of another project.
"""

from __future__ import annotations

import os

NAME = "pns-bindings"


def install_hint(extra: str) -> str:
    """Return how to install the product with an extra."""
    return f"run `pip install '{NAME}[{extra}]'`, or `pip install '.[{extra}]'` in a checkout"


def refuse_clash(package: str) -> None:
    """Raise `ImportError` if the folder `package` has files of a distribution named `bindings` as well.

    One listing of the folder around it: reading the metadata of everything that is installed takes longer than
    starting Python. Safe to repeat.
    """
    folder = os.path.dirname(package)
    try:
        entries = os.listdir(folder)
    except OSError:  # imported from an archive
        return
    for entry in entries:
        if entry.startswith("bindings-") and entry.endswith(".dist-info") and _owns_package(f"{folder}/{entry}"):
            other = entry.removesuffix(".dist-info").replace("-", " ", 1)
            raise ImportError(
                f"the package bindings in {folder} has files of two distributions, {NAME} and {other}: either may"
                f" have replaced modules of the other. Run `pip uninstall bindings {NAME}`, then install {NAME}"
                " again"
            )


def _owns_package(metadata: str) -> bool:
    try:
        with open(f"{metadata}/RECORD", encoding="utf-8") as record:
            return any(line.startswith("bindings/") for line in record)
    except (OSError, ValueError):
        return False
