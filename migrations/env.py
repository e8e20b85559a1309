"""The environment of Alembic: the database URL from Settings, one migration process at a time.

On PostgreSQL a session advisory lock lets one process migrate while others wait, and a lock timeout keeps a
migration from blocking traffic. Timeouts of the role or the database for statements do not apply: with them no
retry would end. The others poll for the lock and run no statement meanwhile: CREATE INDEX CONCURRENTLY waits for
every running statement, so a statement that waits for the lock would be a deadlock. A pooler that shares sessions
is refused: there the lock and the timeouts may be those of another client's session.
"""

from __future__ import annotations

import time
from logging.config import fileConfig
from typing import TYPE_CHECKING

from alembic import context
from sqlalchemy import Connection, inspect, text

from bindings.errors import FieldError, InvalidRequest
from bindings.failpoints import hit
from bindings.settings import load
from bindings.store.engine import make_engine, shares_sessions
from bindings.store.failures import URL_VARIABLE
from bindings.store.schema import SEALED_PHONES, metadata
from bindings.store.schema_version import refuse_code_before, require_own_tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from alembic.runtime.migration import MigrationInfo

    Record = Callable[[Connection, MigrationInfo], None]

MIGRATION_LOCK = 0x62696E64_6D696772  # "bindmigr"
LOCK_TIMEOUT = "5s"
SESSION_TIMEOUTS = [
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",  # from PostgreSQL 17 on
]
TURN_OFF = text("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY (:timeouts)")
RESET = text("SELECT set_config(name, reset_val, false) FROM pg_settings WHERE name = ANY (:timeouts)")
WAIT_FOR_OTHERS_S = 120
POLL_S = 0.2

config = context.config
if config.config_file_name is not None and config.attributes.get("connection") is None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)


def run(connection: Connection) -> None:
    """Run the migrations on one connection, holding the lock on PostgreSQL."""
    postgres = connection.dialect.name == "postgresql"
    if postgres:
        require_direct(connection)
        connection.execute(TURN_OFF, {"timeouts": SESSION_TIMEOUTS})
        connection.commit()
        require_own_tables(connection)
        wait_for_others(connection)
        connection.execute(text(f"SET lock_timeout = '{config.attributes.get('lock_timeout', LOCK_TIMEOUT)}'"))
        connection.execute(text("SET quote_all_identifiers = off"))  # reflection does not know quoted types
        connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            render_as_batch=not postgres,
            transactional_ddl=True,  # also on SQLite, by the engine's BEGIN IMMEDIATE
            transaction_per_migration=postgres,  # SQLite: one transaction, so one write lock, for all migrations
            compare_type=True,
            on_version_apply=lambda step, **_: record(step),
            compare_server_default=False,
            autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        if postgres:
            connection.rollback()
            connection.execute(text(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})"))
            connection.execute(RESET, {"timeouts": ["lock_timeout", *SESSION_TIMEOUTS]})
            connection.execute(text("RESET quote_all_identifiers"))
            connection.commit()


def require_direct(connection: Connection) -> None:
    """Raise `InvalidRequest` behind a pooler that shares sessions."""
    if shares_sessions(connection):
        message = "leads to a connection pooler: a migration needs a direct connection to the server"
        raise InvalidRequest([FieldError(URL_VARIABLE, message)])


def record(step: MigrationInfo) -> None:
    """Write what is recorded of a migration, in the transaction of that; also what the caller records."""
    hit("migrate.in_transaction")
    refuse_code_that_cannot_read_phones(context.get_bind())
    write: Record | None = config.attributes.get("record")
    if write is not None:
        write(context.get_bind(), step)


def refuse_code_that_cannot_read_phones(connection: Connection) -> None:
    """Keep code that knows no encrypted phones from starting, also on the revision that is added now."""
    if not inspect(connection).has_table("account"):
        return
    if "phone_index_key" in {column["name"] for column in inspect(connection).get_columns("account")}:
        sealed = connection.execute(text("SELECT 1 FROM account WHERE phone_index_key IS NOT NULL"))
        if sealed.scalar() is not None:
            refuse_code_before(connection, SEALED_PHONES)


def wait_for_others(connection: Connection) -> None:
    """Take the migration lock. Raises `TimeoutError` after two minutes."""
    give_up_at = time.monotonic() + WAIT_FOR_OTHERS_S
    while not connection.execute(text(f"SELECT pg_try_advisory_lock({MIGRATION_LOCK})")).scalar():
        connection.commit()
        if time.monotonic() > give_up_at:
            raise TimeoutError(
                "another process has been migrating for two minutes; nothing was changed; try again"
            )
        time.sleep(POLL_S)
    connection.commit()


def main() -> None:
    """Run the migrations on the caller's connection if there is one, else on the database of the settings."""
    if context.is_offline_mode():
        raise SystemExit("bindings migrates online only: the SQLite and PostgreSQL scripts differ")
    callers_connection = config.attributes.get("connection")
    if callers_connection is not None:
        run(callers_connection)
        return
    engine = make_engine(load().database_url.get_secret_value())
    try:
        with engine.connect() as connection:
            run(connection)
    finally:
        engine.dispose()


main()
