"""P13: the product against the alternatives: rate, double binds in races, and losses after kill -9."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import servers
from benchmarks.alternatives import ALTERNATIVES, instant_provider, phone
from benchmarks.bench_context import NotMeasuredError
from benchmarks.measure import Result, Target
from bindings.store import migrations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.alternatives import Alternative
    from benchmarks.bench_context import BenchContext

CALLERS = 16
RACES = 20
KILLS = 3
PROVIDER_S = 0.005
RUN_BEFORE_KILL_S = 0.4

TITLES = {
    "bindings": "bindings on PostgreSQL",
    "psycopg": "psycopg by hand",
    "orm": "check, call, insert with the ORM",
    "redis": "Redis, SET NX PX and a hash",
    "redis-always": "Redis, the same with appendfsync always",
    "bindings-sqlite": "bindings on SQLite",
    "sqlite3": "sqlite3 by hand",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Deployment:
    """A deployed alternative: its name, the address of its data, and its server if it has one."""

    alternative: str
    address: str
    server: servers.KillableServer | None


def measure(context: BenchContext) -> list[Result]:
    """Return P13 for each alternative, all in one run on new and empty stores."""
    results = []
    for name in context.sizes.alternatives:
        target = Target(id="P13", title=TITLES[name], unit="binds/s")
        with ExitStack() as stack:
            try:
                deployment = _deploy(name, context, stack)
            except NotMeasuredError as error:
                results.append(Result(target=target, note=f"not measured: {error}"))
                continue
            results.append(_measure(target, deployment, context))
    return results


def _deploy(name: str, context: BenchContext, stack: ExitStack) -> _Deployment:
    alternative = name.partition("-always")[0]
    folder = context.folder()
    if name in {"bindings-sqlite", "sqlite3"}:
        file = folder / "data.db"
        if name == "sqlite3":
            return _Deployment(alternative=alternative, address=str(file), server=None)
        migrations.upgrade(f"sqlite:///{file}")
        return _Deployment(alternative=alternative, address=f"sqlite:///{file}", server=None)
    if alternative == "redis":
        server = servers.redis_server(folder, append_only="always" if name.endswith("always") else "no")
    else:
        server = servers.postgres(folder)
    stack.callback(server.kill)
    server.start()
    if name == "bindings":
        migrations.upgrade(server.url)
    return _Deployment(alternative=alternative, address=server.url, server=server)


def _measure(target: Target, deployment: _Deployment, context: BenchContext) -> Result:
    alternative = ALTERNATIVES[deployment.alternative](deployment.address)
    rate = _rate(alternative, context.sizes.alternative_s)
    lookup_us = _lookup_us(alternative, context.sizes.lookups)
    double = sum(_race(alternative) for _ in range(RACES))
    unknown, created = _kill_client(deployment, context, alternative)
    note = (
        f"lookup {lookup_us:,.0f} us; {double} double binds in {RACES} races of {CALLERS};"
        f" client killed: {unknown} of {created} bindings unknown"
    )
    if deployment.server is not None:
        missing, acknowledged = _kill_server(deployment, deployment.server, context, alternative)
        note += f"; server killed: {missing:,} of {acknowledged:,} acknowledged binds lost"
    return Result(target=target, value=rate, note=note)


def _rate(alternative: Alternative, seconds: float) -> float:
    counts = [0] * CALLERS
    until = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < until:
            alternative.bind(phone(), phone(), instant_provider)
            counts[index] += 1

    _run_in_threads(work)
    return sum(counts) / seconds


def _run_in_threads(work: Callable[[int], None]) -> None:
    workers = [threading.Thread(target=work, args=(index,)) for index in range(CALLERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _lookup_us(alternative: Alternative, lookups: int) -> float:
    phones = [phone() for _ in range(lookups)]
    for phone_a in phones:
        alternative.bind(phone_a, phone(), instant_provider)
    started_at = time.perf_counter()
    count = sum(alternative.lookup(phone_a) for phone_a in phones)
    elapsed_s = time.perf_counter() - started_at
    if count != lookups:
        raise AssertionError(f"{count} of {lookups} found")
    return elapsed_s / lookups * 1e6


def _race(alternative: Alternative) -> int:
    """Return the excess bindings of one phone that all threads try to bind at the same moment."""
    contended_phone, start = phone(), threading.Barrier(CALLERS)
    bound = [False] * CALLERS

    def slow_provider(phone_a: str, phone_b: str) -> tuple[str, str]:
        time.sleep(PROVIDER_S)
        return instant_provider(phone_a, phone_b)

    def work(index: int) -> None:
        other = phone()
        start.wait()
        bound[index] = alternative.bind(contended_phone, other, slow_provider)

    _run_in_threads(work)
    return max(0, sum(bound) - 1)


def _kill_client(deployment: _Deployment, context: BenchContext, alternative: Alternative) -> tuple[int, int]:
    """Return how many bindings of the provider are not recorded after kills, and how many it created."""
    created: set[str] = set()
    for _ in range(KILLS):
        folder = context.folder()
        process = _start_binding_process(deployment, folder)
        process.kill()
        process.wait()
        created |= _read_phones(folder / "created")
    return len(created - alternative.recorded_phones()), len(created)


def _kill_server(
    deployment: _Deployment, server: servers.KillableServer, context: BenchContext, alternative: Alternative
) -> tuple[int, int]:
    """Return how many acknowledged binds are missing after the server was killed and restarted, of how many."""
    folder = context.folder()
    process = _start_binding_process(deployment, folder)
    server.kill()
    process.kill()
    process.wait()
    server.start()
    acknowledged = _read_phones(folder / "acknowledged")
    del alternative  # its connections do not survive the restart
    restarted = ALTERNATIVES[deployment.alternative](deployment.address)
    return len(acknowledged - restarted.recorded_phones()), len(acknowledged)


def _start_binding_process(deployment: _Deployment, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process of the alternative, and return it when it has been binding for a while."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.alternatives",
        deployment.alternative,
        deployment.address,
        str(folder),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not _read_phones(folder / "acknowledged"):
        if time.monotonic() > until or process.poll() is not None:
            raise AssertionError(f"{deployment.alternative} does not bind")
        time.sleep(0.02)
    time.sleep(RUN_BEFORE_KILL_S)
    return process


def _read_phones(file: Path) -> set[str]:
    """Return the phones in a file, without a last line that the kill cut off."""
    if not file.exists():
        return set()
    whole, _, _ = file.read_text().rpartition("\n")
    return set(whole.split())
