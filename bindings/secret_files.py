"""Files with secrets: create one for its owner only, read one, and see whether other users may use it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# Of a folder that may not be read, or of a file system that cannot write one to disk at a program's request.
_FOLDER_CANNOT_BE_SYNCED = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


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


def read(path: str | Path, *, max_bytes: int) -> tuple[bytes, str | None]:
    """Return the content of a file, and its mode if other users may use it (`mode_for_others`).

    Raises `OSError` if it cannot be read, and `ValueError` if it is longer than that: it is another file then.
    """
    with Path(path).open("rb") as file:
        mode = mode_for_others(os.fstat(file.fileno()))
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"the file has more than {max_bytes} bytes")
    return content, mode


def cause(error: OSError | ValueError) -> str:
    """Return why `read`, or decoding what it returned, failed; without the path and the content."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    return str(error if isinstance(error, ValueError) else error.strerror)


def create(path: str | Path, content: bytes) -> None:
    """Create a file with this content that only its owner can use; return when it is on disk.

    So is its name, except in a folder that cannot be written to disk (`_sync_folder`). Raises `FileExistsError` if
    there is such a file, which is not changed, and `OSError` if it cannot be written: then there is no file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 -- it is a descriptor
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        _sync_folder(Path(path).parent)
    except OSError:
        Path(path).unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk: after a crash a new file may have none otherwise.

    If the system, the file system or the mode of the folder does not allow that, the system decides when.
    """
    if os.name != "posix":
        return  # a folder cannot be opened
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _FOLDER_CANNOT_BE_SYNCED:
            raise
