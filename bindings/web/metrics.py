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

from bindings.health import vitals

if TYPE_CHECKING:
    from bindings.errors import BindingsError
    from bindings.health import Vitals
    from bindings.service import BindingService
    from bindings.web.desk import Desk

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
        self._gauges = _Gauges(self.registry)
        self._read_at = float("-inf")

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; a status of 0 is one whose caller went away."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def bound(self, *, replayed: bool) -> None:
        """Count a bind that came into being, or was replayed."""
        self._binds.labels("replayed" if replayed else "bound", "0").inc()

    def not_bound(self, error: BindingsError) -> None:
        """Count a bind that did not, by its code."""
        self._binds.labels(error.code, getattr(error, "status", None) or "none").inc()
        if error.code == "phone-in-use":
            self._conflicts.inc()

    def called(self, call: str, outcome: str, seconds: float) -> None:
        """Count a call of the provider. For `ProviderClient.watch`."""
        self._calls.labels(call, outcome).observe(seconds)

    def delivered(self, result: str, count: int) -> None:
        """Count attempts to deliver."""
        self._deliveries.labels(result).inc(count)

    def due(self) -> bool:
        """Whether the database should be read again for a scrape."""
        return time.monotonic() > self._read_at + READ_EVERY_S

    def read(self, service: BindingService, desk: Desk) -> None:
        """Read what the database knows. One question; call it where questions run."""
        self._read_at = time.monotonic()
        self._gauges.set(vitals(service), desk)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


class _Gauges:
    """What is a level and no count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, told: str) -> Gauge:
            return Gauge(f"bindings_{name}", told, registry=registry)

        self._doubts = gauge("doubts_open", "Bindings whose outcome is not known yet (counted up to 200)")
        self._doubt_age = gauge("doubt_oldest_seconds", "Age of the oldest of them; 0 where there is none")
        self._sweep_age = gauge("sweep_age_seconds", "Time since a sweep last finished anywhere")
        self._sweep_lag = gauge("sweep_lag_seconds", "How long the longest overdue binding is over, unswept")
        self._circuit = gauge("circuit_open", "1 while the provider refuses the account")
        self._skew = gauge("provider_skew_seconds", "The provider's clock minus this host's")
        self._binds_open = gauge("binds_in_flight", "Binds and unbinds that run in this process")
        self._questions_open = gauge("questions_in_flight", "Questions that run or wait in this process")
        self._pool = gauge("database_connections_in_use", "Connections of this process's pools that are in use")

    def set(self, seen: Vitals, desk: Desk) -> None:
        self._doubts.set(seen.doubts)
        self._doubt_age.set(seen.oldest_doubt_s)
        self._sweep_age.set(float("inf") if seen.sweep_age_s is None else seen.sweep_age_s)
        self._sweep_lag.set(seen.sweep_lag_s)
        self._circuit.set(seen.circuit_open)
        self._skew.set(seen.provider_skew_s or 0.0)
        self._pool.set(seen.connections_in_use)
        self._binds_open.set(desk.binds_open)
        self._questions_open.set(desk.questions_open)
