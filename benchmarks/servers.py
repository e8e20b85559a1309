"""PostgreSQL and Redis servers that the bench starts in a folder, can kill with SIGKILL, and restart.

Also the environment of the product's processes, and the CPU time and the memory of a process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import redis

from benchmarks.bench_context import NotMeasuredError
from tests.faults.cluster import _kill_all, find_binaries
from tests.store.databases import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

START_S = 60.0


def cpu_seconds(process_id: int, *, with_ended_children: bool = False) -> float:
    """Return the CPU seconds of a process; raise `OSError` if it has ended, or is on another machine."""
    stat = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii")
    fields = stat.rpartition(")")[2].split()
    ticks = sum(map(int, fields[11 : 15 if with_ended_children else 13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def product_environment(**settings: str) -> dict[str, str]:
    """Return this environment without the product's settings, plus `settings`, for a process of the product."""
    # PYTHONDONTWRITEBYTECODE would make every start compile every module, which no installation does.
    excluded = ("BINDINGS_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(excluded)} | settings


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that all threads of a process have used, in the kernel too (Linux)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text(encoding="ascii").split()[0]) for thread in threads) / 1e9


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has had in RAM so far (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel reports no peak of memory")


@dataclass(kw_only=True)
class KillableServer:
    """A server process that the bench starts, kills and restarts."""

    url: str
    command: list[str]
    folder: Path
    ping: Callable[[], object]
    user: str | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def cpu_s(self) -> float:
        """Return the CPU seconds of the running server and of all processes that it has started."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        main = self._process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text(encoding="ascii").split()
        return cpu_seconds(main, with_ended_children=True) + sum(cpu_seconds(int(child)) for child in children)

    def start(self) -> None:
        """Start the server on the data in its folder, and wait until it responds."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command, user=self.user, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + START_S
        while True:
            try:
                self.ping()
            except (psycopg.OperationalError, redis.ConnectionError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill the server and every process that it started, with SIGKILL."""
        if self._process is not None:
            _kill_all(self._process)
            self._process = None


def postgres(folder: Path, *settings: str) -> KillableServer:
    """Return a PostgreSQL server with default settings, which are durable, except `settings` (name=value)."""
    binaries = find_binaries()
    if binaries is None:
        raise NotMeasuredError("there are no PostgreSQL binaries here")
    data, port = folder / "data", free_port()
    if binaries.user is not None:
        shutil.chown(folder, binaries.user)
    binaries.run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", data, cwd=folder)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    command = [str(binaries.folder / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", ""]
    command += [part for setting in settings for part in ("-c", setting)]
    return KillableServer(
        url=url,
        command=command,
        folder=folder,
        ping=lambda: psycopg.connect(url).close(),
        user=binaries.user,
    )


def redis_server(folder: Path, *, append_only: str) -> KillableServer:
    """Return a Redis server; `append_only` is "no" (the default: snapshots), "everysec" or "always"."""
    program = shutil.which("redis-server")
    if program is None:
        raise NotMeasuredError("no redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    if append_only != "no":
        command += ["--appendonly", "yes", "--appendfsync", append_only]
    url = f"redis://127.0.0.1:{port}"
    return KillableServer(url=url, command=command, folder=folder, ping=redis.Redis.from_url(url).ping)
