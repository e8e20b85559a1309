"""The check of what protects the database from other programs and users of its host: the modes of its files."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from bindings.monitoring.check import Check, Level
from bindings.store.sqlite_connection import files_open_to_others

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.store.database import Database


def of_file_modes(database: Database) -> Check:
    """Return a warning with the command that corrects it if the mode of an SQLite file allows other users."""
    modes = {} if database.postgres else database.read(files_open_to_others)
    if not modes:
        return Check(name="file_modes", level=Level.OK, seen="no SQLite file has a mode that allows other users")
    listed = ", ".join(f"{path} ({mode:04o})" for path, mode in modes.items())
    observed = f"the modes of the database's files, which have phones and secrets, allow other users: {listed}"
    return Check(name="file_modes", level=Level.WARN, seen=observed, todo=f"run `chmod 600 {shlex.join(modes)}`")


PROTECTION_CHECKS: dict[str, Callable[[Database], Check]] = {"file_modes": of_file_modes}


def of_database(database: Database) -> list[Check]:
    """Return every check of this module. `Busy` if the database does not answer."""
    return [probe(database) for probe in PROTECTION_CHECKS.values()]
