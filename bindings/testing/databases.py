"""Temporary databases with the newest schema: SQLite files, or databases on a PostgreSQL server.

The migrations run once for a template; every database is a copy of it, and is deleted after its use.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bindings.store import migrations
from bindings.store import temporary_database as server_databases

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/dev/shm")  # noqa: S108 -- no test ends the machine: no SQLite file needs to wait for a disk
LEAST_MEMORY_BYTES = 2**29  # a container may have much less


@cache
def memory_folder() -> Path | None:
    """Return a folder in memory for SQLite files, or None if there is none with enough space."""
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    return MEMORY if usable and shutil.disk_usage(MEMORY).free >= LEAST_MEMORY_BYTES else None


@contextmanager
def temporary_database(server_url: str | None = None) -> Iterator[str]:
    """Provide the URL of a new database with the newest schema, and delete it afterwards.

    It is an SQLite file; with `server_url`, the URL of any database on a PostgreSQL server, it is another database
    there. The user of that URL needs the right CREATEDB.
    """
    with database_template(server_url) as template, template.copy() as url:
        yield url


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseTemplate:
    """A migrated database at `url`, for copies; nothing may be connected to it. `server_url` None: in a file."""

    server_url: str | None
    url: str

    @contextmanager
    def copy(self) -> Iterator[str]:
        """Provide the URL of a copy, and delete it afterwards."""
        if self.server_url is None:
            with _new_folder() as folder:
                file = folder / "bindings.db"
                shutil.copy(self.url.removeprefix("sqlite:///"), file)  # with its mode
                yield f"sqlite:///{file}"
        else:
            with _server_database(self.server_url, template=self.url) as url:
                yield url


@contextmanager
def database_template(server_url: str | None = None) -> Iterator[DatabaseTemplate]:
    """Provide a migrated database for copies, and delete it afterwards; `server_url`: see `temporary_database`."""
    if server_url is None:
        with _new_folder() as folder:
            yield _migrated(None, f"sqlite:///{folder / 'template.db'}")
    else:
        with _server_database(server_url, template=None) as url:
            yield _migrated(server_url, url)


def _migrated(server_url: str | None, url: str) -> DatabaseTemplate:
    migrations.upgrade(url)
    return DatabaseTemplate(server_url=server_url, url=url)


@contextmanager
def _new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix="bindings-", dir=memory_folder(), ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@contextmanager
def _server_database(server_url: str, *, template: str | None) -> Iterator[str]:
    url = server_databases.create(server_url, template=template)
    try:
        yield url
    finally:
        server_databases.drop(server_url, url)
