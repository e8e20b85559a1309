"""P5, burst: many bindings that end within one second, one scheduler, and lookups during the whole backlog.

The scheduler is a separate process, as in production. It is started when all bindings are due, and its time counts
from its start. Lookups run at a fixed rate that does not depend on how long they take; each is timed from its
scheduled moment, so that waiting counts.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks import data, servers
from benchmarks.measure import Result, Target, p99
from bindings.domain.binding import Caller
from bindings.jobs import expire
from bindings.jobs.batches import DueBatches
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase

MAX_EXPIRY_S = 60.0
MAX_LOOKUP_MS = 50.0
LOOKUPS_PER_S = 100
TIMEOUT_S = 600.0
# The smallest and the largest number of terminal events of a binding of the burst.
EVENTS = """
    SELECT min(expired), max(expired) FROM (
        SELECT count(events.binding_id) AS expired FROM bindings
        LEFT JOIN events ON events.binding_id = bindings.id AND events.kind = 'expired'
        WHERE bindings.id >= '{first}' AND bindings.id < '{last}' GROUP BY bindings.id) AS burst
"""


def measure(context: BenchContext) -> list[Result]:
    """Return the time to expire the burst, and the p99 of lookups during it, on PostgreSQL."""
    bench_db, burst = context.postgres(), context.sizes.burst
    with BindingService.open(database_url=bench_db.url) as service:
        expire.expire_due(
            DueBatches(database=service.runtime.database, caller=Caller(actor="bench"), budget_s=TIMEOUT_S)
        )
        before = _time_lookups(service, bench_db, lambda: time.sleep(context.sizes.baseline_s))
        first = bench_db.add_due(burst, over_s=1)
        with _scheduler(bench_db.url):
            started_at = time.monotonic()
            during = _time_lookups(service, bench_db, lambda: bench_db.wait_until_none_due(TIMEOUT_S))
            expired_s = time.monotonic() - started_at
    ids = {"first": data.binding_id(first), "last": data.binding_id(first + burst)}
    least, most = bench_db.execute(EVENTS.format(**ids)).fetchone()
    return [
        Result(
            target=Target(id="P5", title=f"{burst:,} due in one second, all ended", bound=MAX_EXPIRY_S, unit="s"),
            value=expired_s,
            note=f"{burst / expired_s:,.0f} rows/s; terminal events of each: {least} to {most}",
            conditions_met=(least, most) == (1, 1),
        ),
        Result(
            target=Target(id="P5", title="lookups meanwhile, p99", bound=MAX_LOOKUP_MS, unit="ms"),
            value=p99(during) * 1e3,
            note=f"{len(during):,} at {LOOKUPS_PER_S}/s; before it {p99(before) * 1e3:.1f} ms",
        ),
    ]


@contextmanager
def _scheduler(url: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bindings", "scheduler"],
        env=servers.product_environment(BINDINGS_DATABASE_URL=url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(90)


def _time_lookups(service: BindingService, bench_db: BenchDatabase, work: Callable[[], None]) -> list[float]:
    """Return the seconds of each lookup made while `work` runs, counted from the scheduled start of the lookup."""
    stop = threading.Event()

    def look_up() -> list[float]:
        durations: list[float] = []
        scheduled_at = time.perf_counter()
        while not stop.is_set():
            rows = random.choice((1, 2, 3))
            service.lookup(phone=data.phone(rows, random.randrange(bench_db.live // 6)))
            durations.append(time.perf_counter() - scheduled_at)
            scheduled_at += 1 / LOOKUPS_PER_S
            time.sleep(max(0.0, scheduled_at - time.perf_counter()))
        return durations

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(look_up)
        try:
            work()
        finally:
            stop.set()
        return future.result()
