"""Checks of what protects the history and the phones: triggers, rights, modes of files, encryption."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from bindings.domain.text import first_names
from bindings.monitoring.check import Check, Level
from bindings.monitoring.phone_checks import of_phones
from bindings.store import integrity, protection, schema_version
from bindings.store.schema import HEAD
from bindings.store.sqlite_connection import files_open_to_others

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.store.read_once import Reads
    from bindings.store.schema_version import SchemaVersion


def of_file_modes(database: Reads) -> Check:
    """Return a warning with the command that corrects it if the mode of an SQLite file allows other users."""
    modes = {} if database.postgres else database.read(files_open_to_others)
    if not modes:
        return Check(name="file_modes", level=Level.OK, seen="no SQLite file has a mode that allows other users")
    listed = ", ".join(f"{path} ({mode:04o})" for path, mode in modes.items())
    observed = f"the modes of the database's files, which have phones and secrets, allow other users: {listed}"
    return Check(name="file_modes", level=Level.WARN, seen=observed, todo=f"run `chmod 600 {shlex.join(modes)}`")


def of_triggers(database: Reads) -> Check:
    """Return red if a trigger that guards the history is not as the migrations made it."""
    name = "triggers"
    version = schema_version.read(database)
    if version.revision != HEAD:
        return _not_compared(name, "triggers", version)
    faults = database.read(protection.trigger_faults)
    if faults:
        observed = f"triggers that guard what was recorded are not as they must be: {', '.join(faults)}"
        todo = "find out who changed them, and what was written since; a new database has them as they must be"
        return Check(name=name, level=Level.RED, seen=observed, todo=todo)
    until = database.read(protection.maintenance_until)
    if until is not None and until > database.clock():
        observed = f"those of bindings and exports let changes pass until {until:%Y-%m-%d %H:%M:%SZ}"
        todo = "set account.maintenance_until to NULL when the work is done"
        return Check(name=name, level=Level.WARN, seen=observed, todo=todo)
    return Check(name=name, level=Level.OK, seen="all that guard the history are there, enabled and unchanged")


def of_integrity(database: Reads) -> Check:
    """Return red if a unique index, a constraint, or the sequence or a partition of events is missing or wrong."""
    name = "integrity"
    version = schema_version.read(database)
    if version.revision != HEAD:
        return _not_compared(name, "indexes", version)
    positions = database.read(integrity.new_positions)
    if positions.recorded_to is not None:
        observed = (
            "new events would get positions that are recorded already, as after a move that copied only rows"
        )
        return Check(
            name=name, level=Level.RED, seen=observed, todo="run `bindings db moved` as the owner of the tables"
        )
    if positions.missing is not None:
        lower, upper = positions.missing
        observed = (
            "the partition of the table events for new events is missing or detached, so nothing can be recorded"
        )
        todo = f"attach it again: ALTER TABLE events ATTACH PARTITION ... FOR VALUES FROM ({lower}) TO ({upper})"
        return Check(name=name, level=Level.RED, seen=observed, todo=todo)
    missing = database.read(integrity.missing_objects)
    if missing.constraints:
        observed = f"unique indexes or constraints are missing or not valid: {first_names(missing.constraints)}"
        todo = "create them as in a new database, once no rows violate them; a restore may have ended with errors"
        return Check(name=name, level=Level.RED, seen=observed, todo=todo)
    if missing.indexes:
        observed = (
            f"indexes are missing or not valid, so some queries read whole tables: {first_names(missing.indexes)}"
        )
        todo = "create them as in a new database, on PostgreSQL with CONCURRENTLY"
        return Check(name=name, level=Level.WARN, seen=observed, todo=todo)
    return Check(name=name, level=Level.OK, seen="every index and constraint is there and valid")


def _not_compared(name: str, objects: str, version: SchemaVersion) -> Check:
    observed = f"not compared: the schema is at {version.revision}, and this version knows the {objects} of {HEAD}"
    return Check(name=name, level=Level.OK, seen=observed)


def of_rights(database: Reads) -> Check:
    """Return whether the role of this process may do more, or less, than the application's role."""
    name = "rights"
    if not database.postgres:
        return Check(name=name, level=Level.OK, seen="SQLite has no roles: the mode of the file decides")
    role = database.read(protection.role)
    if role.row_security_tables:
        observed = (
            f"row-level security may hide rows from {role.name}, so that a conflict is not seen, and refuse new"
            f" ones: {first_names(role.row_security_tables)}"
        )
        todo = "turn it off for each table (DISABLE ROW LEVEL SECURITY), or give the role BYPASSRLS"
        return Check(name=name, level=Level.RED, seen=observed, todo=todo)
    if role.owner:
        observed = f"this process uses {role.name}, which may change the tables and disable the triggers"
        todo = "use a role with the rights of `bindings db grants` for the service, and this one to administer it"
        return Check(name=name, level=Level.WARN, seen=observed, todo=todo)
    rights = database.read(protection.role_rights)
    differences = [
        f"{words}: {first_names(names)}"
        for words, names in (("more than it needs", rights.excess), ("lacking", rights.missing))
        if names
    ]
    if differences:
        observed = f"the rights of {role.name} are not those of this version; {'; '.join(differences)}"
        todo = "run the SQL of `bindings db grants` as the owner of the tables"
        return Check(name=name, level=Level.WARN, seen=observed, todo=todo)
    return Check(
        name=name, level=Level.OK, seen=f"{role.name} has the rights that the service needs, and no others"
    )


PROTECTION_CHECKS: dict[str, Callable[[Reads], Check]] = {
    "file_modes": of_file_modes,
    "triggers": of_triggers,
    "integrity": of_integrity,
    "rights": of_rights,
    "phones": of_phones,
}


def of_database(database: Reads) -> list[Check]:
    """Return the checks of this module that the schema of the database allows. `Busy` if it does not answer."""
    if schema_version.read(database).accepted:
        return [probe(database) for probe in PROTECTION_CHECKS.values()]
    return [of_file_modes(database)]
