"""Create and drop PostgreSQL databases that live as long as a test. No table and no schema here."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from bindings.extras import require_extra
from bindings.store.engine import driver_url

if TYPE_CHECKING:
    from psycopg import sql
    from sqlalchemy.engine import URL


def create(server_url: str, *, template: str | None = None) -> str:
    """Create a database on the server of a URL and return its URL; `template` is the URL of one to copy.

    The user of the URL needs the right CREATEDB, and nothing may be connected to the template. It does not wait
    for the disk at a commit. Not safe to repeat: each call creates another database.
    """
    with require_extra("postgres", field="server_url"):
        from psycopg import sql

    name = f"bindings_test_{os.getpid()}_{secrets.token_hex(6)}"
    database = sql.Identifier(name)
    create_database = sql.SQL("CREATE DATABASE {}").format(database)
    if template is not None:
        create_database += sql.SQL(" TEMPLATE {}").format(sql.Identifier(name_of(template)))
    _run(server_url, create_database)
    _run(server_url, sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(database))
    return _libpq_url(driver_url(server_url).set(database=name))


def drop(server_url: str, url: str) -> None:
    """Drop the database of `url`, and end the connections to it. Safe to repeat."""
    from psycopg import sql

    _run(server_url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name_of(url))))


def name_of(url: str) -> str:
    """Return the name of the database of a URL."""
    return str(driver_url(url).database)


def _run(server_url: str, statement: sql.SQL | sql.Composed) -> None:
    import psycopg

    with psycopg.connect(_libpq_url(driver_url(server_url)), autocommit=True) as connection:
        connection.execute(statement)


def _libpq_url(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
