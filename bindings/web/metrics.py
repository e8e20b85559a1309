"""What is counted, for Prometheus. No label carries a phone, an id or a key: a few words each, all known.

Counters tell of this process. What the database knows (doubts, the sweep's age) is read when it is scraped, not
more often than every few seconds, and is the same on every replica: take the maximum, not the sum.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from bindings.errors import BindingsError, PhoneInUse
from bindings.monitoring.health import health_metrics
from bindings.provider import statuses
from bindings.webhooks.sender import RESULTS

if TYPE_CHECKING:
    from bindings.monitoring.health import HealthMetrics
    from bindings.scheduler import Scheduler
    from bindings.service import BindingService
    from bindings.web.executors import Executors

CONTENT_TYPE = CONTENT_TYPE_LATEST
READ_EVERY_S = 5.0
FAST = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody reads
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "bindings_http_request_seconds",
            "Time to answer a request, by route and status",
            ("method", "route", "status"),
            buckets=FAST,
            registry=self.registry,
        )
        self._binds = Counter(
            "bindings_binds",
            "Binds that were asked of this process, by what came of them and the provider's status",
            ("outcome", "provider_status"),
            registry=self.registry,
        )
        self._conflicts = Counter(
            "bindings_conflicts_avoided",
            "Binds refused here because a phone was held: no call was made, no -35 came back",
            registry=self.registry,
        )
        self._calls = Histogram(
            "bindings_provider_call_seconds",
            "Time that the provider took, by call and outcome",
            ("call", "outcome"),
            buckets=SLOW,
            registry=self.registry,
        )
        self._deliveries = Counter(
            "bindings_webhook_deliveries",
            "Attempts to deliver an event to a webhook, by result",
            ("result",),
            registry=self.registry,
        )
        for result in RESULTS:  # there from the first scrape on: a rate needs a beginning
            self._deliveries.labels(result)
        self._gauges = _Gauges(self.registry)
        self._read_at = float("-inf")

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; a status of 0 is one whose caller went away."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def record_bind(self, *, replayed: bool) -> None:
        """Count a bind that came into being, or was replayed."""
        self._binds.labels("replayed" if replayed else "bound", "0").inc()

    def record_bind_error(self, error: BindingsError) -> None:
        """Count a bind that did not, by its code; what a key brought back was counted when it happened."""
        self._binds.labels("replayed" if error.replayed else error.code, _status(error)).inc()
        if isinstance(error, PhoneInUse) and error.binding_id is None:  # one that was sent is recorded
            self._conflicts.inc()

    def record_provider_call(self, call: str, outcome: str, seconds: float) -> None:
        """Count a call of the provider. For `ProviderClient.watch`."""
        self._calls.labels(call, outcome).observe(seconds)

    def record_deliveries(self, result: str, count: int) -> None:
        """Count attempts to deliver."""
        self._deliveries.labels(result).inc(count)

    def needs_refresh(self) -> bool:
        """Whether the database should be read again for a scrape."""
        return time.monotonic() > self._read_at + READ_EVERY_S

    def refresh_from_database(self, service: BindingService) -> None:
        """Read what the database knows. Call it where questions run; where it is away, that is what is shown."""
        self._read_at = time.monotonic()
        try:
            self._gauges.set(health_metrics(service))
        except BindingsError:
            self._gauges.mark_database_down()

    def refresh_from_process(self, executors: Executors, scheduler: Scheduler | None) -> None:
        """Read what this process knows."""
        self._gauges.look(executors, scheduler)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


def _status(error: BindingsError) -> str:
    """The provider's status behind an error, if it is one of the table: a label must not carry just any text."""
    given = getattr(error, "status", None)
    if given is None:
        return "none"
    return given if any(given == known.code for known in statuses.STATUSES) else "other"


class _Gauges:
    """What is a level and no count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, told: str, *labels: str) -> Gauge:
            return Gauge(f"bindings_{name}", told, labels, registry=registry)

        self._doubts = gauge("doubts_open", "Bindings whose outcome is not known yet (counted up to 200)")
        self._doubt_age = gauge("doubt_oldest_seconds", "Age of the oldest of them; 0 where there is none")
        self._sweep_age = gauge("sweep_age_seconds", "Time since a sweep last finished anywhere")
        self._sweep_lag = gauge("sweep_lag_seconds", "How long the longest overdue binding is over, unswept")
        self._circuit = gauge("circuit_open", "1 while the provider refuses the account")
        self._skew = gauge("provider_skew_seconds", "The provider's clock minus this host's")
        self._up = gauge("database_up", "0 where the database did not answer when it was last read for this")
        self._pool_use = gauge(
            "pool_use_ratio", "Live bindings against what fits, of the fullest pool that is known"
        )
        self._pools_low = gauge("pools_low", "Pools of middle numbers that run dry")
        self._waiting = gauge("webhook_deliveries_pending", "Deliveries that wait (counted up to 10 000)")
        self._dead = gauge("webhook_deliveries_dead", "Deliveries that were given up (counted up to 10 000)")
        self._age = gauge("pass_age_seconds", "Time since a pass last finished in this process", "task")
        self._interval = gauge("pass_interval_seconds", "How often that pass runs", "task")
        self._binds_open = gauge("binds_in_flight", "Binds and unbinds that run in this process")
        self._questions_open = gauge("questions_in_flight", "Questions that run or wait in this process")
        self._pool = gauge("database_connections_in_use", "Connections of this process's pools that are in use")

    def set(self, seen: HealthMetrics) -> None:
        self._up.set(1)
        self._doubts.set(seen.doubts)
        self._doubt_age.set(seen.oldest_doubt_s)
        self._sweep_age.set(float("inf") if seen.sweep_age_s is None else seen.sweep_age_s)
        self._sweep_lag.set(seen.sweep_lag_s)
        self._circuit.set(seen.circuit_open)
        self._skew.set(seen.provider_skew_s or 0.0)
        self._pool.set(seen.connections_in_use)
        self._pool_use.set(seen.pool_use or 0.0)
        self._pools_low.set(seen.pools_low)
        self._waiting.set(seen.deliveries_pending)
        self._dead.set(seen.deliveries_dead)

    def mark_database_down(self) -> None:
        """The database did not answer: what it knows stays as it was last read."""
        self._up.set(0)

    def look(self, executors: Executors, scheduler: Scheduler | None) -> None:
        if scheduler is not None:
            for task, age in scheduler.ages_s().items():
                self._age.labels(task).set(age)
            for task, interval in scheduler.intervals_s().items():
                self._interval.labels(task).set(interval)
        self._binds_open.set(executors.binds_open)
        self._questions_open.set(executors.questions_open)
