"""How many connections of clients the limit of open files of this process allows."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if sys.platform != "win32":  # which has no such limit
    import resource

if TYPE_CHECKING:
    from bindings.settings import Settings

FILES_OF_A_CONNECTION = 4  # to the database: SQLite has three files
MAX_OPEN_FILES = 16_384
OTHER_FILES = 128  # listeners, deliveries of webhooks, commands, what libraries open


def raise_limit() -> None:
    """Let this process open `MAX_OPEN_FILES`, as far as its hard limit allows; do nothing where that is refused.

    Not more: programs that it starts may close every file that they could have.
    """
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def limit() -> int | None:
    """Return how many files this process may have open, or None if there is no limit."""
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def connections_within(files: int | None, settings: Settings) -> int | None:
    """Return how many connections of clients leave room for the database and the provider; half of all or more."""
    if files is None:
        return None
    needed = OTHER_FILES + FILES_OF_A_CONNECTION * settings.pool_size + settings.bind_limit
    return max(files - needed, files // 2)
