"""Bring the schema to head, say where it is, and check it: Alembic, from a checkout or an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bindings.store.database import Database
from bindings.store.engine import make_engine
from bindings.store.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config


def upgrade(database_url: str) -> str:
    """Run the migrations that are missing and return the revision reached.

    Safe to repeat, and safe from several replicas at once: one runs, the others wait for it.
    """
    from alembic import command

    engine = make_engine(database_url)
    try:
        with engine.connect() as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    finally:
        engine.dispose()
    return HEAD


def current(database_url: str) -> str | None:
    """The revision of the database, None where no migration has run."""
    database = Database(database_url)
    try:
        return database.revision()
    finally:
        database.close()


def scripts() -> Path:
    """The folder of the migrations: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent / "migrations"
    # The checkout first: a copy left inside an editable install would be stale.
    return checkout if (checkout / "env.py").is_file() else package / "_migrations"


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    return config
