"""The overview page's data, from the database: the same on every replica.

Latency of the newest provider calls, and which processes use the database. Checks are in `health`, charts in
`statistics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.monitoring.activity_checks import MAX_BINDS
from bindings.monitoring.health_metrics import health_metrics
from bindings.monitoring.response_times import percentile
from bindings.store import queries, replicas, schema_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bindings.lifecycle.runtime import Runtime
    from bindings.monitoring.health_metrics import HealthMetrics
    from bindings.store.queries import Outcome
    from bindings.store.read_once import ReadOnce
    from bindings.store.replicas import Replica


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


def build_overview(runtime: Runtime, reads: ReadOnce) -> Overview:
    """Return the overview. A few index probes and the newest two hundred bindings; safe to repeat."""
    now = reads.clock()
    return Overview(
        now=now,
        metrics=health_metrics(runtime, reads),
        latency=latency(reads.read(queries.newest_outcomes, limit=MAX_BINDS)),
        replicas=tuple(reads.read(replicas.seen_since, now - replicas.RECENT)),
        schema=schema_version.read(reads).revision,
    )


def latency(outcomes: Sequence[Outcome]) -> Latency | None:
    """Return the latency of those of some binds, the newest first, that were answered; None if none was."""
    answered = [
        (outcome.requested_at, outcome.response_s) for outcome in outcomes if outcome.response_s is not None
    ]
    if not answered:
        return None
    durations_s = sorted(response_s for _, response_s in answered)
    return Latency(
        calls=len(durations_s),
        since=answered[-1][0],
        until=answered[0][0],
        p50_s=percentile(durations_s, 50),
        p99_s=percentile(durations_s, 99),
    )
