"""More than one server: four scopes on four PostgreSQL servers, and binds on a server with more cores (simulated).

The servers share the CPUs of this machine, so four of them are no faster than one. What the measure shows is that
a further server adds no cost: the same processes bind as fast, and a bind takes as much of the servers' CPU time.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psycopg

from benchmarks import bind, servers
from benchmarks.capacity import BindCost, simulate
from benchmarks.measure import Result, Sample, Target, interleave, per_second
from bindings.store import migrations

if TYPE_CHECKING:
    from benchmarks.bench_context import BenchContext
    from benchmarks.bind import Fleet
    from benchmarks.servers import KillableServer

SERVERS = 4
THREADS = 4
FLUSHES = 200
BLOCK = b"\0" * 8_192
PROVIDER_S = 0.2
ROUND_TRIP_S = 0.000_5
SIMULATED = ((16, 1_024), (16, 4_096), (64, 4_096), (64, 16_384))  # cores and callers
SIMULATED_BINDS = 40_000


def measure(context: BenchContext) -> list[Result]:
    """Return the rate of four servers against one, the CPU time of a bind on each, and simulated servers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-scale-")))
        folder.chmod(0o755)  # the servers run as another user
        started = [_start(folder / f"server{number}", stack) for number in range(SERVERS)]
        urls = [server.url for server in started]
        one = stack.enter_context(bind.start_fleet(urls[:1] * SERVERS, threads=THREADS))
        four = stack.enter_context(bind.start_fleet(urls, threads=THREADS))
        for fleet in (four, one):
            fleet.bind(bind.WARM_UP_S)
        for url in urls:
            _analyze(url)
        costs: dict[str, list[float]] = {"one": [], "four": []}

        def measured(name: str, fleet: Fleet) -> Sample:
            sample, server_s = _bind(fleet, started, context.sizes.bind_s)
            costs[name].append(server_s)
            return sample

        rounds = interleave(
            context.sizes.bind_rounds, lambda _: measured("four", four), lambda _: measured("one", one)
        )
        wal_bytes = _wal_per_bind(one, urls[0], context.sizes.bind_s)
    of_one = [baseline for _, baseline in rounds]
    cost = BindCost(
        client_s=median(sample.cpu_s for sample in of_one),
        server_s=median(costs["one"]),
        flush_s=_flush_s(),
        round_trip_s=0.0,
        provider_s=0.0,
        client_on_server=True,
    )
    rate = Target(
        id="scale", title=f"bind, {SERVERS} servers against 1, same processes", bound=0.95, at_most=False
    )
    cpu = Target(id="scale", title=f"CPU time of the servers per bind, {SERVERS} against 1", bound=1.1)
    return [
        Result(target=rate, rounds=rounds, note=per_second(rounds, "binds")),
        Result(
            target=cpu,
            value=median(costs["four"]) / cost.server_s,
            note=f"{median(costs['four']) * 1e3:.3f} ms against {cost.server_s * 1e3:.3f}",
        ),
        _prediction(cost, median(sample.figure for sample in of_one)),
        *(_simulated(cost, wal_bytes, cores, callers) for cores, callers in SIMULATED),
    ]


def _start(folder: Path, stack: ExitStack) -> KillableServer:
    folder.mkdir()
    server = servers.postgres(folder, "shared_buffers=256MB", "max_wal_size=4GB")
    stack.callback(server.kill)
    server.start()
    migrations.upgrade(server.url)
    return server


def _analyze(url: str) -> None:
    """Do what the server does in its first minute: until then the plans are those of empty tables."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ANALYZE")


def _bind(fleet: Fleet, started: list[KillableServer], seconds: float) -> tuple[Sample, float]:
    """Bind for `seconds`; return the rate, and the CPU seconds of all servers per bind."""
    before = sum(server.cpu_s for server in started)
    began_at = time.perf_counter()
    sample = fleet.bind(seconds)
    binds = sample.figure * (time.perf_counter() - began_at)
    return sample, (sum(server.cpu_s for server in started) - before) / binds


def _wal_per_bind(fleet: Fleet, url: str, seconds: float) -> float:
    with psycopg.connect(url, autocommit=True) as connection:

        def written() -> int:
            row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
            return int(row[0]) if row is not None else 0

        before, began_at = written(), time.perf_counter()
        sample = fleet.bind(seconds)
        return (written() - before) / (sample.figure * (time.perf_counter() - began_at))


def _flush_s() -> float:
    """Return how long the disk of the temporary folder takes to store a block, in seconds."""
    durations = []
    with tempfile.TemporaryFile() as file:
        for _ in range(FLUSHES):
            file.write(BLOCK)
            began_at = time.perf_counter()
            file.flush()
            os.fdatasync(file.fileno())
            durations.append(time.perf_counter() - began_at)
    return median(durations)


def _prediction(cost: BindCost, rate: float) -> Result:
    """Return the simulated rate on this machine against the measured one."""
    capacity = simulate(cost, cores=os.cpu_count() or 1, callers=SERVERS * THREADS, binds=SIMULATED_BINDS)
    target = Target(id="scale", title="simulated rate on this machine against the measured one")
    note = f"{capacity.rate:,.0f} binds/s against {rate:,.0f}; a flush takes {cost.flush_s * 1e6:,.0f} us"
    return Result(target=target, value=capacity.rate / rate, note=note)


def _simulated(cost: BindCost, wal_bytes: float, cores: int, callers: int) -> Result:
    """Return the simulated rate of a server whose clients run on other machines, with a provider of 0.2 s."""
    elsewhere = replace(cost, client_on_server=False, round_trip_s=ROUND_TRIP_S, provider_s=PROVIDER_S)
    capacity = simulate(elsewhere, cores=cores, callers=callers, binds=SIMULATED_BINDS)
    target = Target(id="scale", title=f"simulated: {cores} cores, {callers:,} callers", unit="binds/s")
    note = (
        f"p50 {capacity.median_s * 1e3:.1f} ms, p99 {capacity.p99_s * 1e3:.1f} ms without the provider;"
        f" log {capacity.rate * wal_bytes / 1e6:,.0f} MB/s"
    )
    return Result(target=target, value=capacity.rate, note=note)
