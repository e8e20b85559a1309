"""The state of the whole service at a glance, from what the database knows: the same on every replica.

What is red and why is `health`'s; how often what happened is `figures`'. Here stands what the newest calls say
of the provider, and who runs the passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from statistics import quantiles
from typing import TYPE_CHECKING

from bindings.monitoring import health
from bindings.store import job_runs, queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bindings.monitoring.health import HealthMetrics
    from bindings.service import BindingService
    from bindings.store.job_runs import Replica

CALLS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """How long the provider took over the newest binds that it answered; seconds."""

    calls: int
    since: datetime
    until: datetime
    p50_s: float
    p99_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What the first look shows. `now` is the database's time; `latency` None where no bind was answered yet."""

    now: datetime
    vitals: HealthMetrics
    latency: Latency | None
    replicas: tuple[Replica, ...]
    schema: str | None


def build_overview(service: BindingService) -> Overview:
    """Look at everything once. A few index probes and the newest two hundred bindings; safe to repeat."""
    database = service.database
    return Overview(
        now=database.clock(),
        vitals=health.health_metrics(service),
        latency=latency(database.read(queries.newest_calls, limit=CALLS)),
        replicas=tuple(database.read(job_runs.replicas)),
        schema=database.revision(),
    )


def latency(calls: Sequence[tuple[datetime, datetime, datetime]]) -> Latency | None:
    """What (requested_at, sent_at, answered_at) of the newest calls say; the newest come first."""
    if not calls:
        return None
    took = sorted((answered - sent).total_seconds() for _, sent, answered in calls)
    cuts = quantiles(took, n=100, method="inclusive") if len(took) > 1 else took * 99
    return Latency(calls=len(took), since=calls[-1][0], until=calls[0][0], p50_s=cuts[49], p99_s=cuts[98])


def next_scan(service: BindingService) -> datetime | None:
    """When the next reconciliation is due by itself; None where nothing runs them."""
    database = service.database
    last = database.read(job_runs.last_started, "reconcile")
    interval = timedelta(seconds=service.settings.reconcile_interval_s)
    if last is None or database.clock() > last + 3 * interval:
        return None
    return last + interval
