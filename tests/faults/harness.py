"""The fault harness: real processes on a real database and a simulated provider, stopped or killed at fail points.

A `FaultHarness` makes an `Experiment`: a fresh database, a simulator, and a clock that all processes share.
Workers are forked from one process that has imported everything, so that a start takes milliseconds; a fail point
stops or kills them with a signal that they send to themselves. What workers do is in `worker`, the verdict in
`oracle`.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.store import migrations
from tests.faults import oracle
from tests.faults.clock import SharedClock, install_shifted_clock, shift_server
from tests.service.harness import account_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.oracle import Violation

ROOT = Path(__file__).resolve().parents[2]
CONNECTIONS = 8  # of each process for writes, and for reads: a server may allow 100 in all
KILLED = -signal.SIGKILL
WAIT_S = 300.0
MEMORY = Path("/dev/shm")  # processes are killed here, never the machine: no run needs to wait for a disk
TABLES = (
    *("events", "texts", "seals", "bindings", "holds", "refusals", "passes", "pools", "account", "reports"),
    "replicas",
)


@dataclass(frozen=True, kw_only=True)
class Process:
    """A worker process; `prefix` is its own in numbers, keys and the name of its log."""

    pid: int
    prefix: str


class ForkServer:
    """The process that workers are forked from, and what it has reported about them. Not thread-safe.

    Commands go to its standard input, reports come through a pipe that only the fork server itself keeps open.
    Workers inherit its standard output, which is a log file: libraries print there (structlog at a retry).
    """

    def __init__(self, folder: Path) -> None:
        self._reports, reports_write_end = os.pipe()
        self.log = folder / "fork_server.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker", str(reports_write_end)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(reports_write_end,),
                env={name: value for name, value in os.environ.items() if not name.startswith("BINDINGS_")},
            )
        os.close(reports_write_end)
        self._reported: dict[tuple[str, int], int] = {}
        self._buffered = b""
        self._last_started = 0

    def start(self, task: dict[str, Any]) -> int:
        """Start a worker; returns its process id."""
        self._last_started = 0
        self._command(start=task)
        while not self._last_started:
            self._receive(WAIT_S)
        return self._last_started

    def wait_until_stopped(self, pid: int, *, within_s: float = WAIT_S) -> bool:
        """Wait until a worker stops; returns False if it ended instead."""
        deadline = time.monotonic() + within_s
        while ("stopped", pid) not in self._reported:
            if ("ended", pid) in self._reported:
                return False
            self._receive(deadline - time.monotonic())
        del self._reported["stopped", pid]
        return True

    def wait_until_ended(self, pid: int, *, within_s: float = WAIT_S) -> int:
        """Wait until a worker has ended; returns its exit code, or minus the signal that killed it."""
        deadline = time.monotonic() + within_s
        while ("ended", pid) not in self._reported:
            self._receive(deadline - time.monotonic())
        return self._reported.pop(("ended", pid))

    def is_running(self, pid: int) -> bool:
        """Return whether a worker has not ended yet, according to the reports received so far."""
        while self._ready(0.0):
            self._receive(1.0)
        return ("ended", pid) not in self._reported

    def kill(self, pid: int) -> None:
        """Kill a worker unless it has ended already, and wait for its end."""
        self._command(kill=pid)
        self.wait_until_ended(pid)

    def close(self) -> None:
        """End the fork server, and with it every worker that still runs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(WAIT_S)
        os.close(self._reports)

    def _command(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def _ready(self, within_s: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._reports, selectors.EVENT_READ)
            return bool(selector.select(max(0.0, within_s)))

    def _receive(self, within_s: float) -> None:
        if within_s <= 0 or not self._ready(within_s):
            raise TimeoutError("the worker did not start, stop or end within the time limit")
        data = os.read(self._reports, 65_536)
        if not data:
            raise RuntimeError(f"the fork server has ended:\n{self.log.read_text()}")
        *lines, self._buffered = (self._buffered + data).split(b"\n")
        for line in lines:
            event, pid, code = line.decode().split()
            if event == "started":
                self._last_started = int(pid)
            else:
                self._reported[event, int(pid)] = int(code)


@dataclass(kw_only=True)
class Experiment:
    """A database, a simulator, a clock, and the workers that were started on them."""

    url: str
    folder: Path
    clock: SharedClock
    simulator: Simulator
    fork_server: ForkServer
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    rules: oracle.Rules = field(default_factory=oracle.Rules)
    _prefixes: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _running: set[int] = field(default_factory=set)

    @property
    def postgres(self) -> bool:
        """Return whether the database is PostgreSQL."""
        return self.url.startswith("postgresql")

    def start(self, task: str, *, hook: tuple[str, int, str] | None = None, **arguments: Any) -> Process:
        """Start a worker on a task of `worker.TASKS`; `hook` is (fail point, nth reach, KILL, STOP or RECORD)."""
        prefix = str(next(self._prefixes))
        message = {
            "task": task,
            "seed": self.seed,
            "prefix": prefix,
            "clock": str(self.clock.file),
            "server": self.url if self.postgres else None,
            "records": str(self.folder / "records.jsonl"),
            "log": str(self.folder / f"worker-{prefix}.log"),
            "settings": self.base_settings() | self.settings,
            "hook": None if hook is None else dict(zip(("name", "nth", "signal"), hook, strict=True)),
        } | arguments
        pid = self.fork_server.start(message)
        self._running.add(pid)
        return Process(pid=pid, prefix=prefix)

    def base_settings(self) -> dict[str, Any]:
        """Return the settings that every process of this experiment has."""
        return {
            "database_url": self.url,
            **account_settings(self.simulator.url),
            "provider_timeout_s": 5.0,
            "timestamp_tolerance_s": self.rules.tolerance_s,
            "guard_s": self.rules.guard_s,
            "scan_calls_per_s": 1_000.0,
        }

    def wait(self, process: Process, *, within_s: float = WAIT_S) -> int:
        """Wait for the end of a worker, return its exit code; fails with its log if the worker failed."""
        code = self.fork_server.wait_until_ended(process.pid, within_s=within_s)
        self._running.discard(process.pid)
        assert code in (0, KILLED), f"seed {self.seed}, exit {code}:\n{self.log(process)}"
        return code

    def run(self, task: str, **arguments: Any) -> int:
        """Start a worker, wait for its end, and return its exit code."""
        return self.wait(self.start(task, **arguments))

    def wait_until_stopped(self, process: Process) -> bool:
        """Wait until a worker has stopped itself; return False if it ended instead."""
        return self.fork_server.wait_until_stopped(process.pid)

    def resume(self, process: Process) -> None:
        """Continue a stopped worker."""
        os.kill(process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill every worker that a failed test left behind: the database is lent to the next experiment."""
        for pid in self._running:
            self.fork_server.kill(pid)

    def log(self, process: Process) -> str:
        """Return what a worker logged."""
        file = self.folder / f"worker-{process.prefix}.log"
        return file.read_text() if file.exists() else ""

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all workers: requests, responses and results."""
        file = self.folder / "records.jsonl"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text().splitlines()]

    def bind_requests(self) -> list[dict[str, Any]]:
        """Return every recorded bind request."""
        return [line["request"] for line in self.records() if line["kind"] == "request"]

    def replace_requests(self) -> list[dict[str, Any]]:
        """Return every recorded replace request."""
        return [line["request"] for line in self.records() if line["kind"] == "replace_request"]

    def judge(self, *, settled: bool = False, over: bool = False) -> list[Violation]:
        """Return the violations that the oracle finds."""
        evidence = oracle.gather(
            self.url, self.simulator, records=self.records(), rules=self.rules, settled=settled, over=over
        )
        return oracle.judge(evidence)

    def assert_sound(self, *, settled: bool = False, over: bool = False) -> None:
        """Fail with every violation, and the seed to repeat the run, if there is one."""
        violations = self.judge(settled=settled, over=over)
        listed = "\n".join(map(str, violations))
        assert not violations, f"seed {self.seed}: {len(violations)} violations\n{listed}"

    def assert_recovery(self) -> None:
        """Assert soundness after a restart, when absence is provable, and after every binding has ended."""
        self.simulator.clear_faults()
        restarted = self.start(
            "restart",
            requests=self.bind_requests(),
            replaces=self.replace_requests(),
            age_s=self.rules.tolerance_s + 15,
            beyond_s=30_000,
        )
        for settled in (False, True):
            assert self.wait_until_stopped(restarted), self.log(restarted)
            self.assert_sound(settled=settled)
            self.resume(restarted)
        self.wait(restarted)
        self.assert_sound(settled=True, over=True)
        stuck = [line for line in self.records() if line["kind"] == "stuck"]
        assert not stuck, f"seed {self.seed}: phones that stay held: {stuck}"

    @contextmanager
    def service(self, **settings: Any) -> Iterator[BindingService]:
        """Open a service in the test's own process, on the machine's clock."""
        with BindingService.open(**self.base_settings() | self.settings | settings) as service:
            yield service


class FaultHarness:
    """What lasts for a test session: fork server, migrated SQLite file, PostgreSQL databases."""

    def __init__(self, folder: Path, sqlite_template: Path, server: str | None) -> None:
        self._folder = folder
        self._sqlite_template = sqlite_template
        self._server = server
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        self._created: list[str] = []
        self._fork_server: ForkServer | None = None

    @property
    def fork_server(self) -> ForkServer:
        """Return the fork server; the first call starts it."""
        if self._fork_server is None:
            self._fork_server = ForkServer(self._folder)
        return self._fork_server

    def close(self) -> None:
        """Kill every worker and drop every database."""
        if self._fork_server is not None:
            self._fork_server.close()
        for url in self._created:
            self.on_server("DROP DATABASE IF EXISTS {} WITH (FORCE)", str(make_url(url).database))

    @contextmanager
    def experiment(
        self,
        kind: str,
        *,
        seed: int = 0,
        migrated: bool = True,
        rules: oracle.Rules | None = None,
        simulated: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Iterator[Experiment]:
        """Make a fresh database of this kind, a simulator and a clock; remove them afterwards."""
        rules = rules or oracle.Rules()
        number = next(self._numbers)
        folder = Path(tempfile.mkdtemp(prefix=f"faults-{number}-", dir=MEMORY if MEMORY.is_dir() else None))
        url = self._sqlite(folder, migrated=migrated) if kind == "sqlite" else self._postgres(migrated=migrated)
        clock = SharedClock(folder / "clock", None if kind == "sqlite" else url)
        simulator_settings = {"timestamp_tolerance_s": rules.tolerance_s, "pool_size": 20} | (simulated or {})
        try:
            with Simulator(clock=clock.unix, seed=seed, **simulator_settings) as simulator:
                experiment = Experiment(
                    url=url,
                    folder=folder,
                    clock=clock,
                    simulator=simulator,
                    fork_server=self.fork_server,
                    seed=seed,
                    settings={"pool_size": CONNECTIONS} | settings,
                    rules=rules,
                )
                try:
                    yield experiment
                finally:
                    experiment.close()
        finally:
            if kind != "sqlite":
                self._release(url, migrated=migrated)
            shutil.rmtree(folder, ignore_errors=True)

    def _sqlite(self, folder: Path, *, migrated: bool) -> str:
        file = folder / "bindings.db"
        if migrated:
            shutil.copyfile(self._sqlite_template, file)
        return f"sqlite:///{file}"

    def _postgres(self, *, migrated: bool) -> str:
        if migrated and self._free:
            return self._free.pop()
        url = self.create()
        if migrated:
            migrations.upgrade(url)
        install_shifted_clock(url)
        self.on_server("ALTER DATABASE {} SET synchronous_commit = off", str(make_url(url).database))
        return url

    def create(self, *, template: str = "template1") -> str:
        """Create a PostgreSQL database, which is dropped at the end of the session; return its address."""
        assert self._server is not None
        name = f"faults_{os.getpid()}_{next(self._numbers)}"
        self.on_server("CREATE DATABASE {} TEMPLATE {}", name, template)
        url = make_url(self._server).set(database=name, drivername="postgresql")
        self._created.append(url.render_as_string(hide_password=False))
        return self._created[-1]

    def on_server(self, statement: str, *names: str) -> None:
        """Run a statement on the server itself."""
        assert self._server is not None
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _release(self, url: str, *, migrated: bool) -> None:
        name = str(make_url(url).database)
        if not migrated:
            self.on_server("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
            return
        with psycopg.connect(url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("SET session_replication_role = replica")
            for table in TABLES:
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
        shift_server(url, 0.0)
        self._free.append(url)
