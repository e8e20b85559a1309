"""How Alembic reaches the database: the address from Settings, one migrator at a time.

On PostgreSQL a session advisory lock lets one migrator run while others wait, and lock and statement timeouts
keep a migration from standing in the way of traffic. The others ask again and again and hold nothing meanwhile:
CREATE INDEX CONCURRENTLY waits for every statement that runs, so a statement that waits for the migrator would
be a deadlock. Needs a direct connection, not a transaction pooler.
"""

from __future__ import annotations

import time
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection, text

from bindings.failpoints import hit
from bindings.settings import load
from bindings.store.engine import make_engine
from bindings.store.schema import metadata

MIGRATION_LOCK = 0x62696E64_6D696772  # "bindmigr"
LOCK_TIMEOUT = "5s"
WAIT_FOR_OTHERS_S = 120
ASK_AGAIN_S = 0.2

config = context.config
if config.config_file_name is not None and config.attributes.get("connection") is None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)


def run(connection: Connection) -> None:
    """Run the migrations on one connection, holding the lock on PostgreSQL."""
    postgres = connection.dialect.name == "postgresql"
    if postgres:
        wait_for_others(connection)
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            render_as_batch=not postgres,
            transactional_ddl=True,  # the engine's BEGIN IMMEDIATE makes it so on SQLite too
            transaction_per_migration=postgres,  # SQLite: one write lock around all of it
            compare_type=True,
            on_version_apply=lambda **_: hit("migrate.in_transaction"),
            compare_server_default=False,
            autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        if postgres:
            connection.rollback()
            connection.execute(text(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})"))
            connection.execute(text("RESET lock_timeout"))
            connection.commit()


def wait_for_others(connection: Connection) -> None:
    """Take the migrators' lock, or give up after two minutes."""
    give_up_at = time.monotonic() + WAIT_FOR_OTHERS_S
    while not connection.execute(text(f"SELECT pg_try_advisory_lock({MIGRATION_LOCK})")).scalar():
        connection.commit()
        if time.monotonic() > give_up_at:
            raise TimeoutError("another migrator has been at work for two minutes; nothing was changed")
        time.sleep(ASK_AGAIN_S)
    connection.commit()


def main() -> None:
    """Use the caller's connection where one is handed in, else the one that the settings name."""
    if context.is_offline_mode():
        raise SystemExit("bindings migrates online only: the SQLite and PostgreSQL scripts differ")
    given = config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    engine = make_engine(load().database_url.get_secret_value())
    try:
        with engine.connect() as connection:
            run(connection)
    finally:
        engine.dispose()


main()
