"""P6: how long after its end a binding's `expired` event is written, with 200 ends a second and the real timer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg

from benchmarks.measure import Result, Target, p99
from bindings.scheduler import Scheduler
from bindings.service import BindingService

if TYPE_CHECKING:
    from benchmarks.bench_context import Place

PER_S = 200
LEAD_S = 3.0
LAGS = """
    SELECT extract(epoch FROM events.at - bindings.expires_at)::float8
    FROM bindings JOIN events ON events.binding_id = bindings.id AND events.kind = 'expired'
    WHERE bindings.expires_at >= to_timestamp(%s) AND bindings.ended_at < to_timestamp(%s)
"""


def measure(place: Place) -> list[Result]:
    """P6, on PostgreSQL."""
    filled, lasts = place.postgres(), place.sizes.lag_s
    ends = PER_S * lasts
    with BindingService.open(database_url=filled.url) as service:
        interval_s = service.settings.sweep_interval_s
        service.expire_due()
        began = time.time()
        filled.due(ends, after_s=LEAD_S, over_s=lasts)
        with Scheduler(service):
            time.sleep(max(0.0, began + LEAD_S + lasts + 3 * interval_s - time.time()))
    with psycopg.connect(filled.url) as connection:
        lags = [row[0] for row in connection.execute(LAGS, (began, began + LEAD_S + lasts + 1))]
    if len(lags) != ends:
        raise AssertionError(f"{len(lags)} ended, {ends} were due")
    half, most = sorted(lags)[ends // 2], max(lags)
    return [
        Result(
            target=Target(id="P6", what=f"expiry lag, p99, {PER_S} ends/s, of the interval", bound=1.5),
            value=p99(lags) / interval_s,
            note=f"{ends:,} ends; p50 {half:.2f} s, p99 {p99(lags):.2f} s, most {most:.2f} s",
        )
    ]
