"""Metrics for Prometheus. No label carries a phone, an id or a key: each has a small, fixed set of values.

Counters cover this process only. Gauges of the database (doubts, the age of the sweep) are refreshed by a scrape,
at most every few seconds, and are the same on every replica: take the maximum, not the sum.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from bindings import telemetry
from bindings.domain.budget import Budget
from bindings.errors import BindingsError, PhoneInUse, PhoneInUseAtProvider
from bindings.monitoring.check import Level
from bindings.monitoring.health_metrics import health_metrics
from bindings.monitoring.health_reads import reads_of_all
from bindings.provider import statuses
from bindings.provider.circuit import CALLS
from bindings.webhooks.sender import RESULTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client.registry import Collector

    from bindings.monitoring.check import Check
    from bindings.monitoring.health_metrics import HealthMetrics
    from bindings.scheduler import Scheduler
    from bindings.service import BindingService
    from bindings.web.executors import Executors

CONTENT_TYPE = CONTENT_TYPE_LATEST
REFRESH_EVERY_S = 5.0
LIMITS = ("binds", "provider calls", "reads", "long polls")
UNITS = {"_seconds": "s", "_ratio": "1"}
FAST = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which no alert reads
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "bindings_http_request_seconds",
            "Seconds until a request was answered, by method, route and status",
            ("method", "route", "status"),
            buckets=FAST,
            registry=self.registry,
        )
        self._request_series: dict[tuple[str, str, int], Histogram] = {}
        self._binds = Counter(
            "bindings_binds",
            "Binds and replaces requested from this process, by outcome and provider status",
            ("outcome", "provider_status"),
            registry=self.registry,
        )
        self._conflicts = Counter(
            "bindings_conflicts_avoided",
            "Binds refused because a phone was held: no call was made, so no -35 was returned",
            registry=self.registry,
        )
        self._calls = Histogram(
            "bindings_provider_call_seconds",
            "Seconds that a call of the provider took, by call and outcome",
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
        for result in RESULTS:  # present from the first scrape on, so that a rate has a start
            self._deliveries.labels(result)
        self._concurrency_limited = Counter(
            "bindings_concurrency_limited",
            "Requests refused because their caller had its share of a limit of this process in flight, by limit",
            ("limit",),
            registry=self.registry,
        )
        for limit in LIMITS:
            self._concurrency_limited.labels(limit)
        self._budget_used_up = Counter(
            "bindings_budget_used_up",
            "Questions about phones that were not answered because their key had used up its budget, by budget",
            ("budget",),
            registry=self.registry,
        )
        for budget in Budget:
            self._budget_used_up.labels(budget.value)
        self._check_levels = Gauge(
            "bindings_check_level",
            "Level of each check of GET /v1/health: 0 ok, 1 warn, 2 red",
            ("check",),
            registry=self.registry,
        )
        self._gauges = _Gauges(self.registry)
        self._refreshed_at = float("-inf")

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; status 0 means that the client disconnected before a response."""
        labels = method, route, status
        if labels not in self._request_series:
            self._request_series[labels] = self._requests.labels(method, route, str(status))
        self._request_series[labels].observe(seconds)

    def record_bind(self, *, replayed: bool) -> None:
        """Count a successful bind, or its replay."""
        self._binds.labels("replayed" if replayed else "bound", "0").inc()

    def record_bind_error(self, error: BindingsError) -> None:
        """Count a failed bind by its code, with two exceptions.

        A replay counts as `replayed`: its failure was counted before. A phone that is in use at the provider right
        after the unbind for a replace counts as `in-use-after-unbind`: the provider may be late, and this is no
        drift.
        """
        is_after_unbind = isinstance(error, PhoneInUseAtProvider) and error.predecessor_ended
        outcome = "in-use-after-unbind" if is_after_unbind else error.code
        self._binds.labels("replayed" if error.replayed else outcome, _status(error)).inc()
        if isinstance(error, PhoneInUse) and error.binding_id is None:  # a bind that was sent has a binding id
            self._conflicts.inc()

    def record_provider_call(self, call: str, outcome: str, seconds: float) -> None:
        """Count a call of the provider. For `ProviderClient.on_call`."""
        self._calls.labels(call, outcome).observe(seconds)

    def record_deliveries(self, result: str, count: int) -> None:
        """Count attempts to deliver an event."""
        self._deliveries.labels(result).inc(count)

    def record_concurrency_limited(self, limit: str) -> None:
        """Count a request that was refused because its caller had its share of a limit in flight."""
        self._concurrency_limited.labels(limit).inc()

    def record_budget_used_up(self, budget: Budget) -> None:
        """Count a question that was not answered because its key had used up a budget."""
        self._budget_used_up.labels(budget.value).inc()

    def needs_refresh(self) -> bool:
        """Return whether a scrape should read the database again."""
        return time.monotonic() > self._refreshed_at + REFRESH_EVERY_S

    def refresh_from_database(self, service: BindingService) -> None:
        """Set the gauges of the database. It blocks: call it on a thread for reads.

        If the database is not reachable, only `database_up` changes.
        """
        self._refreshed_at = time.monotonic()
        try:
            runtime = service.runtime
            self._gauges.set_database(health_metrics(runtime, reads_of_all(runtime.database, runtime.settings)))
        except BindingsError:
            self._gauges.mark_database_down()

    def refresh_from_process(self, executors: Executors, scheduler: Scheduler | None) -> None:
        """Set the gauges of this process."""
        self._gauges.set_process(executors, scheduler)

    def set_checks(self, checks: Sequence[Check]) -> None:
        """Set the levels of the checks; a check that is not among them has no level any more."""
        self._check_levels.clear()
        for check in checks:
            self._check_levels.labels(check.name).set(list(Level).index(check.level))

    def export(self, refresh: Callable[[], None]) -> None:
        """Export every counter and gauge by OpenTelemetry too; `refresh` is called before they are read.

        Their names become those of Prometheus again where a collector converts them. The histograms are recorded
        where the durations are measured.
        """
        for family in self.registry.collect():
            if family.type in ("counter", "gauge"):
                stem, unit = _stem_and_unit(family.name)
                grows = family.type == "counter"
                of_family = self.registry.restricted_registry([family.name + "_total" * grows])
                read = partial(_values, of_family, refresh)
                telemetry.observe(stem, family.documentation, read, unit=unit, grows=grows)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _values(registry: Collector, refresh: Callable[[], None]) -> list[tuple[float, dict[str, str]]]:
    refresh()
    return [(sample.value, sample.labels) for family in registry.collect() for sample in family.samples]


def _stem_and_unit(name: str) -> tuple[str, str]:
    """Return the name and the unit of OpenTelemetry for a name of Prometheus, which ends in the unit."""
    stem = name.replace("bindings_", "bindings.", 1)
    for suffix, unit in UNITS.items():
        if stem.endswith(suffix):
            return stem.removesuffix(suffix), unit
    return stem, ""


def _status(error: BindingsError) -> str:
    """Return the provider status of an error, or "other" if it is not in the table: a label takes no free text."""
    code = getattr(error, "status", None)
    if code is None:
        return "none"
    return code if any(code == status.code for status in statuses.STATUSES) else "other"


class _DatabaseGauge(NamedTuple):
    """A gauge of one of the `HealthMetrics`: its name without the prefix, what it says, and how it is read."""

    name: str
    description: str
    read: Callable[[HealthMetrics], float]


_DATABASE_GAUGES = (
    _DatabaseGauge(
        "doubts_open",
        "Binds and unbinds whose outcome is not known (counted up to 200)",
        lambda values: values.doubts,
    ),
    _DatabaseGauge(
        "doubt_oldest_seconds",
        "Age of the oldest of them; 0 if there is none",
        lambda values: values.oldest_doubt_s,
    ),
    _DatabaseGauge(
        "sweep_age_seconds",
        "Seconds since a sweep last finished at any replica",
        lambda values: float("inf") if values.sweep_age_s is None else values.sweep_age_s,
    ),
    _DatabaseGauge(
        "sweep_lag_seconds",
        "Seconds since the oldest expiry that is not processed",
        lambda values: values.sweep_lag_s,
    ),
    _DatabaseGauge(
        "provider_skew_seconds",
        "Seconds by which the provider's Date header is ahead of this host's clock",
        lambda values: values.provider_skew_s or 0.0,
    ),
    _DatabaseGauge(
        "pool_use_ratio",
        "Live bindings divided by the capacity, of the fullest pool whose capacity is known",
        lambda values: values.pool_use or 0.0,
    ),
    _DatabaseGauge("pools_low", "Pools that are low on middle numbers", lambda values: values.pools_low),
    _DatabaseGauge(
        "reconcile_seconds",
        "Seconds that the newest reconciliation on a timer took, or since its start",
        lambda values: values.reconcile_s,
    ),
    _DatabaseGauge(
        "reconcile_interval_seconds",
        "Seconds between two reconciliations",
        lambda values: values.reconcile_interval_s,
    ),
    _DatabaseGauge(
        "orphans_held", "Bindings at the provider that are not ours and hold phones", lambda values: values.orphans
    ),
    _DatabaseGauge(
        "revenants_held",
        "Bindings that ended here and hold phones at the provider",
        lambda values: values.revenants,
    ),
    _DatabaseGauge(
        "releases_owed",
        "Expired bindings that the provider may hold for longer (counted up to 10 000)",
        lambda values: values.releases_owed,
    ),
    _DatabaseGauge(
        "release_oldest_seconds",
        "Time since the promised end of the oldest of them; 0 if there is none",
        lambda values: values.oldest_release_s,
    ),
    _DatabaseGauge(
        "webhook_deliveries_pending",
        "Webhook deliveries that are pending (counted up to 10 000)",
        lambda values: values.deliveries_pending,
    ),
    _DatabaseGauge(
        "webhook_deliveries_dead",
        "Webhook deliveries that are dead (counted up to 10 000)",
        lambda values: values.deliveries_dead,
    ),
    _DatabaseGauge(
        "seal_age_seconds",
        "Age of the oldest event that is not sealed; 0 if there is none",
        lambda values: values.seal_age_s,
    ),
    _DatabaseGauge(
        "phones_to_convert",
        "Rows whose phones are in digits or under an older key while they are encrypted or a key is rotated",
        lambda values: values.phones_to_convert,
    ),
    _DatabaseGauge(
        "database_connections_in_use",
        "Connections in use, or dropped and not yet closed by the server",
        lambda values: values.connections_in_use,
    ),
)


class _Gauges:
    """The gauges: values that go up and down."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, description: str, *labels: str) -> Gauge:
            return Gauge(f"bindings_{name}", description, labels, registry=registry)

        self._of_database = [(gauge(name, text), read) for name, text, read in _DATABASE_GAUGES]
        self._circuit = gauge("circuit_open", "1 while the provider refuses this call to the account", "call")
        self._up = gauge(
            "database_up", "0 if the database could not be read by the last refresh of these metrics, else 1"
        )
        self._age = gauge("pass_age_seconds", "Seconds since a job last finished in this process", "task")
        self._progress_age = gauge(
            "pass_progress_age_seconds", "Seconds since a job last completed a page, a batch or a run", "task"
        )
        self._interval = gauge("pass_interval_seconds", "Seconds between two runs of a job", "task")
        self._provider_calls = gauge(
            "binds_in_flight", "Binds, replaces, unbinds and reconciliations that run in this process"
        )
        self._reads = gauge("questions_in_flight", "Reads of the database that run or wait in this process")

    def set_database(self, values: HealthMetrics) -> None:
        self._up.set(1)
        for gauge, read in self._of_database:
            gauge.set(read(values))
        for call in CALLS:
            self._circuit.labels(call).set(call in values.open_circuits)

    def mark_database_down(self) -> None:
        """Note that the database did not answer; its other gauges keep their last values."""
        self._up.set(0)

    def set_process(self, executors: Executors, scheduler: Scheduler | None) -> None:
        if scheduler is not None:
            for job, age_s in scheduler.ages_s().items():
                self._age.labels(job).set(age_s)
            for job, age_s in scheduler.progress_ages_s().items():
                self._progress_age.labels(job).set(age_s)
            for job, interval_s in scheduler.intervals_s().items():
                self._interval.labels(job).set(interval_s)
        self._provider_calls.set(executors.provider_calls_in_flight)
        self._reads.set(executors.reads_in_flight)
