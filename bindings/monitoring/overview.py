"""The overview page's data, from the database: the same on every replica.

Latency of the newest provider calls, and which processes use the database. Checks are in `health`, charts in
`statistics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.monitoring.health_metrics import health_metrics
from bindings.monitoring.response_times import percentile
from bindings.store import queries, replicas, schema_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bindings.lifecycle.runtime import Runtime
    from bindings.monitoring.health_metrics import HealthMetrics
    from bindings.store.replicas import Replica

CALLS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """How long the provider took to answer the newest binds, in seconds."""

    calls: int
    since: datetime
    until: datetime
    p50_s: float
    p99_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What the overview shows. `now` is the database's time; `latency` is None if no bind was answered yet."""

    now: datetime
    metrics: HealthMetrics
    latency: Latency | None
    replicas: tuple[Replica, ...]
    schema: str | None


def build_overview(runtime: Runtime) -> Overview:
    """Return the overview. A few index probes and the newest two hundred bindings; safe to repeat."""
    database = runtime.database
    now = database.clock()
    return Overview(
        now=now,
        metrics=health_metrics(runtime),
        latency=latency(database.read(queries.newest_calls, limit=CALLS)),
        replicas=tuple(database.read(replicas.seen_since, now - replicas.RECENT)),
        schema=schema_version.read(database).revision,
    )


def latency(calls: Sequence[tuple[datetime, datetime, datetime]]) -> Latency | None:
    """Return the latency of calls given as (requested_at, sent_at, answered_at), newest first; None if none."""
    if not calls:
        return None
    durations_s = sorted((answered - sent).total_seconds() for _, sent, answered in calls)
    return Latency(
        calls=len(durations_s),
        since=calls[-1][0],
        until=calls[0][0],
        p50_s=percentile(durations_s, 50),
        p99_s=percentile(durations_s, 99),
    )
