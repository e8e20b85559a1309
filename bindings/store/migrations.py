"""Migrations: bring the schema to head and read its revision. By Alembic, from a checkout or from a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import exc

from bindings.errors import Busy
from bindings.store import schema_version
from bindings.store.database import Database
from bindings.store.engine import UTF8, is_pooled, make_engine
from bindings.store.failures import RETRY_LATE_S, explain
from bindings.store.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from bindings.store.schema_version import SchemaVersion


def upgrade(database_url: str) -> str:
    """Run the missing migrations and return the revision that was reached.

    Safe to repeat, and safe from several replicas at the same time: one runs them, the others wait. Nothing is run
    on a schema that is newer than this version; raises `SchemaOutOfDate` if this version cannot work on it,
    `InvalidRequest` for the database of another program, and if a migration is missing and the URL leads to a
    pooler that shares sessions, and `Busy` with the cause if the database fails. Each migration is done as a whole
    or not at all.
    """
    from alembic import command

    version = _upgradable(database_url)
    if version.revision is not None and version.newer:
        version.require()
        return version.revision
    engine = make_engine(database_url)
    try:
        with engine.connect() as connection:
            if version.revision == HEAD and is_pooled(connection):
                schema_version.require_own_tables(connection)
                return HEAD
            config = config_of_scripts()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except exc.DBAPIError as error:
        raise explain(error, engine.url).error() from error
    except TimeoutError as error:  # of a migration that waited for a lock
        raise Busy(str(error), retry_after_s=RETRY_LATE_S) from error
    finally:
        engine.dispose()
    return HEAD


def current(database_url: str) -> SchemaVersion:
    """Return the version of the database's schema."""
    database = Database(database_url)
    try:
        return schema_version.read(database)
    finally:
        database.close()


def _upgradable(database_url: str) -> SchemaVersion:
    """Return the version of the schema. `InvalidRequest` if it is another program's, or a new one not in UTF-8."""
    database = Database(database_url)
    try:
        tables = database.read(schema_version.own_table_names)  # first: another replica may be migrating
        version = schema_version.read(database)
        encoding = database.encoding
    finally:
        database.close()
    if version.revision is None and encoding != UTF8:
        raise schema_version.wrong_encoding(encoding)
    if version.foreign or version.fault is not None:
        version.require()
    if version.revision is None and {"bindings", "schema_info"} <= set(tables):
        raise schema_version.without_revision()
    if version.revision is None and tables:
        raise schema_version.another_program(f"it has the tables {', '.join(tables)}")
    return version


def scripts() -> Path:
    """Return the folder of the migrations: next to the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent / "migrations"
    # The checkout first: a copy inside the package of an editable install would be out of date.
    return checkout if (checkout / "env.py").is_file() else package / "_migrations"


def script_directory() -> ScriptDirectory:
    """Return the migrations as Alembic reads them."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config_of_scripts())


def config_of_scripts() -> Config:
    """Return the configuration of Alembic for these migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    return config
