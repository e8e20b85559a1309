"""Files with secrets: create one for its owner only, and see whether other users may use one."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def mode_for_others(status: os.stat_result) -> str | None:
    """Return the mode of a file that other users may use, such as "0644"; None if they may not.

    The group of a file may use it if another user owns it: so a container gets a secret that it cannot own. Always
    None on a system without such modes.
    """
    if os.name != "posix":
        return None
    barred = stat.S_IRWXO
    if status.st_uid == os.getuid():
        barred |= stat.S_IRWXG
    mode = stat.S_IMODE(status.st_mode)
    return f"{mode:04o}" if mode & barred else None


def create(path: str | Path, content: bytes) -> None:
    """Create a file with this content that only its owner can use, and return when the content is on disk.

    Raises `FileExistsError` if there is such a file, which is not changed, and `OSError` if it cannot be written:
    then there is no file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 -- it is a descriptor
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        os.unlink(path)  # noqa: PTH108 -- the path may be a text
        raise
