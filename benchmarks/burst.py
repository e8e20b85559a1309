"""P5, the burst: a great number of bindings that end in one second, one scheduler, and lookups all the while.

The scheduler is a process of its own, as in production, and is started once all of them are due: what it takes is
told from its start. The lookups come at a steady pace, whatever the last one took, each from its turn on.
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
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.bench_context import Place
    from benchmarks.data import Filled

ENDED_S = 60.0
LOOKUP_MS = 50.0
LOOKUPS_PER_S = 100
CALM_S = 3.0
LONGEST_S = 600.0
# How many terminal events each binding of the burst has: the least and the most.
EVENTS = """
    SELECT min(told), max(told) FROM (
        SELECT count(events.binding_id) AS told FROM bindings
        LEFT JOIN events ON events.binding_id = bindings.id AND events.kind = 'expired'
        WHERE bindings.id >= '{first}' AND bindings.id < '{last}' GROUP BY bindings.id) AS burst
"""


def measure(place: Place) -> list[Result]:
    """The burst, on PostgreSQL."""
    filled, burst = place.postgres(), place.sizes.burst
    with BindingService.open(database_url=filled.url) as service:
        expire.expire_due(service.database, Caller(actor="bench"), budget_s=LONGEST_S)
        calm = _lookups(service, filled, lambda: time.sleep(CALM_S))
        first = filled.due(burst, over_s=1)
        with _scheduler(filled.url):
            began = time.monotonic()
            meanwhile = _lookups(service, filled, lambda: filled.wait_swept(LONGEST_S))
            ended_s = time.monotonic() - began
    ids = {"first": data.binding_id(first), "last": data.binding_id(first + burst)}
    least, most = filled.run(EVENTS.format(**ids)).fetchone()
    return [
        Result(
            target=Target(id="P5", what=f"{burst:,} due in one second, all ended", bound=ENDED_S, unit="s"),
            value=ended_s,
            note=f"{burst / ended_s:,.0f} rows/s; terminal events of each: {least} to {most}",
            holds=(least, most) == (1, 1),
        ),
        Result(
            target=Target(id="P5", what="lookups meanwhile, p99", bound=LOOKUP_MS, unit="ms"),
            value=p99(meanwhile) * 1e3,
            note=f"{len(meanwhile):,} at {LOOKUPS_PER_S}/s; before it {p99(calm) * 1e3:.1f} ms",
        ),
    ]


@contextmanager
def _scheduler(url: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bindings", "scheduler"],
        env=servers.variables(BINDINGS_DATABASE_URL=url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(90)


def _lookups(service: BindingService, filled: Filled, work: Callable[[], None]) -> list[float]:
    """The seconds that each lookup took, from its turn on, while `work` runs."""
    over = threading.Event()

    def ask() -> list[float]:
        took: list[float] = []
        turn = time.perf_counter()
        while not over.is_set():
            rows = random.choice((1, 2, 3))
            service.lookup(phone=data.phone(rows, random.randrange(filled.live // 6)))
            took.append(time.perf_counter() - turn)
            turn += 1 / LOOKUPS_PER_S
            time.sleep(max(0.0, turn - time.perf_counter()))
        return took

    with ThreadPoolExecutor(1) as asker:
        asked = asker.submit(ask)
        try:
            work()
        finally:
            over.set()
        return asked.result()
