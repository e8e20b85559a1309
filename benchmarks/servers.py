"""PostgreSQL and Redis of the bench's own, for kill -9: started in a folder, killed, started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import redis

from benchmarks.bench_context import NotMeasuredError
from tests.faults.cluster import _kill_all, find_binaries
from tests.store.databases import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START_S = 60.0


def variables(**given: str) -> dict[str, str]:
    """The environment of a process of the product's: this one's without settings of the product, and `given`."""
    # Without the second one every start would compile every module anew, as no installation does.
    others = ("BINDINGS_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)} | given


@dataclass(kw_only=True)
class Killable:
    """A server of ours."""

    url: str
    command: list[str]
    folder: Path
    answers: Callable[[], object]
    user: str | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """Start it, on the data that it left, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command, user=self.user, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + START_S
        while True:
            try:
                self.answers()
            except (psycopg.OperationalError, redis.ConnectionError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill -9, with every process that it started."""
        if self._process is not None:
            _kill_all(self._process)
            self._process = None


def postgres(folder: Path, *settings: str) -> Killable:
    """A PostgreSQL with its own defaults, which are durable, but for the `settings` (name=value)."""
    binaries = find_binaries()
    if binaries is None:
        raise NotMeasuredError("there are no PostgreSQL binaries here")
    data, port = folder / "data", free_port()
    if binaries.user is not None:
        shutil.chown(folder, binaries.user)
    binaries.run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", data, cwd=folder)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    command = [str(binaries.folder / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
    command += [part for setting in settings for part in ("-c", setting)]
    return Killable(
        url=url,
        command=command,
        folder=folder,
        answers=lambda: psycopg.connect(url).close(),
        user=binaries.user,
    )


def redis_server(folder: Path, *, append_only: str) -> Killable:
    """A Redis; `append_only` is "no" (its default: snapshots), "everysec" or "always"."""
    program = shutil.which("redis-server")
    if program is None:
        raise NotMeasuredError("no redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    if append_only != "no":
        command += ["--appendonly", "yes", "--appendfsync", append_only]
    url = f"redis://127.0.0.1:{port}"
    return Killable(url=url, command=command, folder=folder, answers=redis.Redis.from_url(url).ping)
