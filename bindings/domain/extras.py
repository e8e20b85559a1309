"""The extras of the distribution: its optional dependencies, and how to install what is missing."""

from __future__ import annotations


def install_hint(extra: str) -> str:
    """Return how to install the product with an extra.

    It names no distribution: on an index, the name may be that of another project.
    """
    return f"run `pip install '.[{extra}]'` in a checkout, or with the path of a wheel instead of the dot"
