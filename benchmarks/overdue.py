"""P22: lookups over HTTP while one replica ends many overdue bindings, as after an outage of the scheduler.

`bindings serve` runs with its scheduler inside, and 16 callers look up without a pause, so that both CPUs of the
machine on which the target was set are busy. The bindings become overdue while the replica runs: its start is P10.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import data, service
from benchmarks.measure import Result, Target, p99
from bindings.service import BindingService

if TYPE_CHECKING:
    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase

MAX_P99_MS = 50.0
TIMEOUT_S = 180.0
# Loaded events need hours to be counted, and a database in use has none that are not counted.
COUNT_NO_LOADED_EVENTS = """
    INSERT INTO tally_marks (id, tx, position)
    SELECT 1, tx, position FROM events ORDER BY tx DESC, position DESC LIMIT 1
    ON CONFLICT (id) DO UPDATE SET tx = excluded.tx, position = excluded.position
"""


def measure(context: BenchContext) -> list[Result]:
    """Return P22 on PostgreSQL: the p99 of lookups, and the time until nothing is overdue."""
    bench_db, sizes = context.postgres(), context.sizes
    with BindingService.open(database_url=bench_db.url) as library:
        key = library.api_keys.create(name="bench", role="router", rate_limit=100_000).key
    bench_db.execute(COUNT_NO_LOADED_EVENTS)
    phones = [data.phone(1, number) for number in random.sample(range(bench_db.live // 6), 200)]
    with service.product_server(bench_db.url, scheduler=True) as server:
        client = service.Client(server.url, key)
        before = client.lookups(phones, callers=service.CALLERS, seconds=sizes.baseline_s)
        bench_db.add_due(sizes.overdue)
        started_at = time.monotonic()
        during = _look_up_while_due(client, phones, bench_db)
        ended_s = time.monotonic() - started_at
    title = f"HTTP lookups, {service.CALLERS} callers, beside {sizes.overdue:,} overdue ends, p99"
    return [
        Result(
            target=Target(id="P22", title=title, bound=MAX_P99_MS, unit="ms"),
            value=p99(during) * 1e3,
            note=f"{_rate(during, ended_s)}; before it {_rate(before, sizes.baseline_s)}",
        ),
        Result(
            target=Target(id="P22", title="time until nothing was overdue", unit="s"),
            value=ended_s,
            note=f"{sizes.overdue / ended_s:,.0f} ends/s",
        ),
    ]


def _look_up_while_due(client: service.Client, phones: list[str], bench_db: BenchDatabase) -> list[float]:
    """Return the seconds of each lookup until no binding is overdue."""
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(bench_db.wait_until_none_due, TIMEOUT_S)
        durations = client.lookups(phones, callers=service.CALLERS, is_enough=waiting.done)
        waiting.result()
    return durations


def _rate(durations: list[float], seconds: float) -> str:
    p50 = median(durations) * 1e3
    return f"{len(durations) / seconds:,.0f} lookups/s, p50 {p50:.1f} ms, p99 {p99(durations) * 1e3:.1f} ms"
