"""Downgrade of the schema: what it would delete, which processes it would stop, and the downgrade itself.

Each migration has `LOSSES`, what is lost if it is undone, and may have `OBSTACLES`, what forbids that; each with a
query, which finds a row if it is so.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import exc, text

from bindings.domain.acts import Act
from bindings.errors import Busy, FieldError, InvalidRequest, SchemaOutOfDate
from bindings.store import events, migrations, replicas, schema_version
from bindings.store.database import Database, migration_transaction
from bindings.store.engine import make_engine
from bindings.store.failures import RETRY_LATE_S, explain
from bindings.store.schema import HEAD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alembic.runtime.migration import MigrationInfo
    from alembic.script import Script
    from sqlalchemy import Connection

    from bindings.domain.binding import Caller

_log = logging.getLogger(__name__)

VACUUM_WAIT = "5s"  # longer than the server's deadlock_timeout, after which an autovacuum gives way
PREVIOUS = "previous"
ACTS_SINCE = "0019"  # before it, a version reads no event of the kind `administered`
OLDEST = "0008"  # before it, a schema does not say which code can work on it, nor which processes use it


@dataclass(frozen=True, kw_only=True, slots=True)
class UndoneMigration:
    """A migration to be undone, what is lost with it, and what forbids to undo it."""

    revision: str
    losses: list[str]
    obstacles: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Downgrade:
    """What a downgrade does; nothing if there are no `migrations`.

    `processes` are those at work in the last minutes whose code cannot work on the older schema, each with the
    revision that it needs.
    """

    before: str
    revision: str
    migrations: list[UndoneMigration]
    processes: list[str]

    def require(self, *, lose_data: bool, processes_ended: bool) -> None:
        """Raise `InvalidRequest` if it cannot be done, or needs a confirmation that is not given."""
        errors = [
            FieldError("revision", f"must be {migration.revision} or later: {'; '.join(migration.obstacles)}")
            for migration in self.migrations
            if migration.obstacles
        ]
        losses = [f"{loss} ({migration.revision})" for migration in self.migrations for loss in migration.losses]
        if losses and not lose_data:
            errors.append(FieldError("lose_data", f"is needed: this deletes {', '.join(losses)}"))
        if self.processes and not processes_ended:
            need = f"processes at work in the last three minutes need a newer schema: {', '.join(self.processes)}"
            errors.append(FieldError("processes_ended", f"is needed, after these have ended: {need}"))
        if errors:
            raise InvalidRequest(errors)


def plan(database_url: str, revision: str) -> Downgrade:
    """Return what a downgrade to `revision`, four digits or "previous", does. Changes nothing.

    Raises `InvalidRequest` for a revision that is newer than the schema or before 0008, and for the database of
    another program; `SchemaOutOfDate` if this version does not have the schema's migration.
    """
    if revision != PREVIOUS and not re.fullmatch(r"[0-9]{4}", revision, re.ASCII):
        raise InvalidRequest.of_field("revision", f"must be four digits, as {HEAD}, or {PREVIOUS}")
    database = Database(database_url)
    try:
        before = _undoable(schema_version.read(database))
        scripts = migrations.script_directory()
        target = str(scripts.get_revision(before).down_revision) if revision == PREVIOUS else revision
        _require_older(target, before)
        undone_migrations = [
            database.read(_describe, script) for script in scripts.iterate_revisions(before, target)
        ]
        since = database.clock() - replicas.RECENT
        processes = database.read(replicas.names_of_newer, target, since) if undone_migrations else []
    finally:
        database.close()
    return Downgrade(before=before, revision=target, migrations=undone_migrations, processes=processes)


def run(database_url: str, downgrade: Downgrade, caller: Caller) -> None:
    """Undo the migrations of `downgrade`, the newest first. Safe to repeat; `require` its confirmations first.

    Each is logged, and recorded as an act of the caller in its own transaction, if the version of the older schema
    reads such events.

    Each is undone as a whole or not at all. A table is waited for in steps of half a second, which other work does
    not notice; after a minute `Busy` says which revision was reached.
    """
    from alembic import command

    from bindings.store.migration_locks import LOCK_WAIT, is_locked, repeat_while_locked

    engine = make_engine(database_url)

    def attempt() -> None:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                _keep_vacuum_out(connection)
            config = migrations.config_of_scripts()
            config.attributes.update(
                connection=connection, lock_timeout=LOCK_WAIT, record=partial(_record, downgrade, caller)
            )
            command.downgrade(config, downgrade.revision)
            connection.commit()

    try:
        repeat_while_locked(attempt)
    except TimeoutError as error:  # another process holds the lock of the migrations
        raise Busy(str(error), retry_after_s=RETRY_LATE_S) from error
    except exc.DBAPIError as error:
        if is_locked(error):
            raise _locked(migrations.current(database_url).revision) from error
        raise explain(error, engine.url).error() from error
    finally:
        engine.dispose()


def _record(downgrade: Downgrade, caller: Caller, connection: Connection, step: MigrationInfo) -> None:
    """Write the event of an undone migration, or only a log line if the older version does not read it."""
    [revision] = step.destination_revision_ids
    migration = {script.revision: script for script in downgrade.migrations}[str(step.up_revision_id)]
    losses = "; ".join(migration.losses) or "nothing"
    if revision >= ACTS_SINCE:
        facts = {"migration": migration.revision, "revision": revision, "losses": migration.losses}
        events.append_act(migration_transaction(connection), Act.SCHEMA_DOWNGRADED, caller, facts)
        _log.info("%s undid migration %s, lost: %s", caller.actor, migration.revision, losses)
    else:
        message = "%s undid migration %s, lost: %s; it is no event, which versions of the older schema do not read"
        _log.warning(message, caller.actor, migration.revision, losses)


def _keep_vacuum_out(connection: Connection) -> None:
    """End the autovacuums: one gives way to a lock that is waited for longer than half a second.

    This lock blocks no reader or writer while it is waited for.
    """
    tables = ", ".join(schema_version.own_table_names(connection))
    connection.execute(text(f"SET LOCAL lock_timeout = '{VACUUM_WAIT}'"))
    connection.execute(text(f"LOCK TABLE {tables} IN SHARE UPDATE EXCLUSIVE MODE"))
    connection.commit()


def _undoable(version: schema_version.SchemaVersion) -> str:
    """Return the revision of the schema. Raises if this version cannot undo its migration."""
    if version.foreign or version.fault is not None:
        version.require()
    if version.revision is None:
        raise SchemaOutOfDate("the database has no schema of bindings; nothing was changed")
    if version.newer:
        raise SchemaOutOfDate(
            f"the database schema is at {version.revision}, and this version has the migrations up to {HEAD};"
            " nothing was changed. Run this command with the newer version of bindings"
        )
    return version.revision


def _require_older(target: str, before: str) -> None:
    if target > before:
        message = (
            f"must not be newer than the schema, which is at {before}: `bindings db upgrade` migrates forward"
        )
        raise InvalidRequest.of_field("revision", message)
    if target < OLDEST:
        message = f"must be {OLDEST} or later: to go back further, restore a backup"
        raise InvalidRequest.of_field("revision", message)


def _describe(connection: Connection, script: Script) -> UndoneMigration:
    def matching(queries: Mapping[str, str]) -> list[str]:
        return [
            sentence for sentence, query in queries.items() if connection.execute(text(query)).first() is not None
        ]

    return UndoneMigration(
        revision=script.revision,
        losses=matching(script.module.LOSSES),
        obstacles=matching(getattr(script.module, "OBSTACLES", {})),
    )


def _locked(revision: str | None) -> Busy:
    return Busy(
        f"a transaction or a VACUUM keeps a table locked; the schema is at {revision}, and nothing more was done",
        retry_after_s=RETRY_LATE_S,
        todo="end it (pg_stat_activity shows it)",
    )
