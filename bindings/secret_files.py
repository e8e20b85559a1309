"""Files with secrets: whether users other than the one of this process may use them."""

from __future__ import annotations

import os
import stat


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
