"""Statistics: each event is counted once per minute and per hour; pools get a trend and a forecast."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, select

from bindings import errors
from bindings.domain.binding import EventKind, State
from bindings.jobs.registry import EXPIRE, RECONCILE
from bindings.jobs.runner import JobRunner
from bindings.jobs.statistics import update_statistics
from bindings.lifecycle.resolution_times import next_scan
from bindings.monitoring.bind_outcomes import ALL_BINDS, BindFilter, Outcomes, outcomes_by_app, outcomes_by_pool
from bindings.monitoring.chart_range import TimeRange, range_between
from bindings.monitoring.health_reads import reads_of_all
from bindings.monitoring.overview import build_overview, latency
from bindings.monitoring.statistics import event_statistics, forecast, pool_forecasts
from bindings.store import replicas, statistics
from bindings.store.pools import Pool
from bindings.store.queries import Outcome
from bindings.store.schema import bind_counts
from bindings.store.schema import events as events_table
from bindings.store.schema import pools as pools_table
from bindings.store.schema import tallies as tallies_table
from tests.service.harness import A, B, C, D, E, F, G, H, feed_has_caught_up, in_threads

if TYPE_CHECKING:
    from bindings.monitoring.overview import Overview
    from bindings.monitoring.statistics import EventStatistics
    from tests.service.harness import ServiceHarness

ALL = tuple(EventKind)


def count_events(harness: ServiceHarness, span: TimeRange = TimeRange.HOUR) -> EventStatistics:
    feed_has_caught_up(harness.service)
    harness.service.update_statistics()
    return shown(harness, span)


def shown(harness: ServiceHarness, span: TimeRange = TimeRange.HOUR) -> EventStatistics:
    return event_statistics(harness.database, span.chart_range(harness.clock()), ALL)


def examples(harness: ServiceHarness, kind: EventKind, code: str) -> list[dict[str, Any]]:
    period = TimeRange.HOUR.chart_range(harness.clock()).period
    return harness.database.read(statistics.newest_examples, period, kind=kind, code=code, limit=20)


def totals(statistics: EventStatistics) -> dict[tuple[str, str], int]:
    return {(str(series.kind), series.code): series.total for series in statistics.series}


def test_every_event_is_counted_by_kind_and_code(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C, reference="order-7")
    harness.simulator.script("refuse:-41", times=2, on="bind")
    for _ in range(2):
        with pytest.raises(errors.NoMiddleNumber):
            harness.bind(C, D)
    harness.simulator.script("anomaly_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(E, F)
    counted = count_events(harness)
    assert totals(counted) == {
        ("requested", ""): 4,
        ("activated", ""): 1,
        ("refused", "binding"): 1,
        ("failed", "-41"): 2,
        ("in_doubt", "-18"): 1,
        ("pool_low", ""): 1,
    }
    assert counted.counted_to == harness.clock()
    (refusal,) = examples(harness, EventKind.REFUSED, "binding")
    assert refusal["binding_id"] == harness.service.lookup(phone=A)[0].id
    (refused,) = harness.service.search_refusals(reference="order-7").data
    assert refusal["refusal_id"] == refused.id
    failed = examples(harness, EventKind.FAILED, "-41")
    assert [harness.service.get(each["binding_id"]).provider_status for each in failed] == ["-41", "-41"]


def test_counting_again_in_small_batches_counts_nothing_twice(harness: ServiceHarness) -> None:
    for pair in ((A, B), (C, D), (E, F), (G, H)):
        harness.bind(*pair)
    feed_has_caught_up(harness.service)
    assert update_statistics(harness.database, batch=3).events == 8
    assert harness.service.update_statistics().events == 0
    assert totals(count_events(harness)) == {("requested", ""): 4, ("activated", ""): 4}


def test_concurrent_replicas_count_each_event_once(harness: ServiceHarness) -> None:
    for pair in ((A, B), (C, D), (E, F), (G, H)):
        harness.bind(*pair)
    feed_has_caught_up(harness.service)
    assert in_threads(*(lambda: update_statistics(harness.database, batch=1) for _ in range(4))) == []
    assert totals(count_events(harness)) == {("requested", ""): 4, ("activated", ""): 4}


def test_job_that_runs_out_of_time_reports_it_and_the_next_run_continues(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    feed_has_caught_up(harness.service)
    first = update_statistics(harness.database, batch=1, budget_s=0)
    assert (first.events, first.finished) == (1, False)
    assert update_statistics(harness.database).finished


def test_minutes_and_hours_count_the_same_events(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    harness.clock.advance(61)
    harness.bind(C, D)
    harness.clock.advance(3_540)
    minutes, hours = count_events(harness, TimeRange.HOUR), shown(harness, TimeRange.DAY)
    assert sum(minutes.counts_of(EventKind.REQUESTED)) == 1, "the first is more than an hour ago"
    assert [count for count in hours.counts_of(EventKind.REQUESTED) if count] == [2]
    assert len(minutes.steps) == 60
    assert len(hours.steps) == 24


def test_binds_are_counted_by_application_and_pool(harness: ServiceHarness) -> None:
    harness.bind(A, B, app_id="food", pool_number="918807")
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C, app_id="food", pool_number="918808")
    harness.simulator.script("refuse:-41", times=1, on="bind")
    with pytest.raises(errors.NoMiddleNumber):
        harness.bind(C, D, app_id="rides", pool_number="918807")
    harness.simulator.script("anomaly_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(E, F, app_id="rides", pool_number="918808")
    count_events(harness)
    for span in (TimeRange.HOUR, TimeRange.DAY, TimeRange.YEAR):
        period = span.chart_range(harness.clock()).period
        counts = harness.database.read(statistics.count_binds, period)
        assert outcomes_by_app(counts, ALL_BINDS) == [
            Outcomes(name="food", requested=1, failed=0, in_doubt=0, refused=1),
            Outcomes(name="rides", requested=2, failed=1, in_doubt=1, refused=0),
        ]
        assert outcomes_by_pool(counts, BindFilter(app_id="rides")) == [
            Outcomes(name="918807", requested=1, failed=1, in_doubt=0, refused=0),
            Outcomes(name="918808", requested=1, failed=0, in_doubt=1, refused=0),
        ]
        of_pool = BindFilter(app_id="rides", pool_number="918808")
        filtered = event_statistics(harness.database, span.chart_range(harness.clock()), ALL, bind_filter=of_pool)
        assert totals(filtered) == {("requested", ""): 1, ("in_doubt", "-18"): 1}


def test_steps_of_a_chart_hold_what_happened_in_them(harness: ServiceHarness) -> None:
    start = harness.clock()
    for number, pair in enumerate(((A, B), (C, D), (E, F))):
        harness.clock.at = start + timedelta(hours=7 * number)
        harness.bind(*pair)
    count_events(harness)
    chart_range = range_between(start, None, harness.clock())
    counted = event_statistics(harness.database, chart_range, ALL)
    counts = dict(zip(counted.steps, counted.counts_of(EventKind.REQUESTED), strict=True))
    assert [(at - start).total_seconds() // 3_600 for at, count in counts.items() if count] == [0, 7, 14]
    assert sum(counts.values()) == 3


def test_day_is_the_sum_of_its_hours_also_of_those_that_an_earlier_version_has_counted(
    harness: ServiceHarness,
) -> None:
    of_year = TimeRange.YEAR.chart_range(harness.clock())
    harness.bind(A, B)
    count_events(harness)
    earlier_hour = {"period_s": 3_600, "began_at": harness.clock() - timedelta(hours=2), "examples": []}
    row = earlier_hour | {"kind": "requested", "code": "", "number": 5}
    harness.database.write(lambda tx: tx.connection.execute(insert(tallies_table), row))
    assert event_statistics(harness.database, of_year, ALL).total_of(EventKind.REQUESTED) == 1
    harness.clock.advance(3_600)
    harness.bind(C, D)
    for _ in range(2):
        count_events(harness)
        assert event_statistics(harness.database, of_year, ALL).total_of(EventKind.REQUESTED) == 7


def test_statistics_contain_no_phone(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(C, D)
    count_events(harness)
    rows = harness.database.read(lambda connection: connection.execute(select(tallies_table)).all())
    assert rows
    assert not any(phone in str(row) for row in rows for phone in (A, B, C, D))


def test_statistics_too_old_to_show_are_deleted_and_events_are_kept(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    count_events(harness)
    harness.clock.advance(timedelta(days=401).total_seconds())
    harness.service.update_statistics()
    for table in (tallies_table, bind_counts):
        assert harness.database.read(lambda connection: connection.execute(select(table)).all()) == []  # noqa: B023
    remaining_events = harness.database.read(
        lambda connection: connection.execute(select(events_table.c.kind)).all()
    )
    assert len(remaining_events) == 2, "the history itself is not deleted"


def _set_pool(harness: ServiceHarness, live: int, **fields: object) -> None:
    now = harness.clock()

    def work(tx: object) -> None:
        connection = tx.connection  # type: ignore[attr-defined]
        connection.execute(pools_table.delete())
        values = {"app_id": "app", "pool_number": "918806", "live": live, "counted_at": now}
        connection.execute(insert(pools_table).values(values | fields))

    harness.database.write(work)
    harness.service.update_statistics()


def test_growing_pool_of_known_size_forecasts_when_it_is_full(harness: ServiceHarness) -> None:
    for live in (100, 110, 120, 130, 140):
        _set_pool(harness, live, capacity=200, refused_at=harness.clock())
        harness.clock.advance(300)
    (result,) = pool_forecasts(harness.database)
    assert [live for _, live in result.levels] == [100, 110, 120, 130, 140]
    assert result.forecast.per_hour == pytest.approx(120)
    summary = "140 of about 200 in use (70%), growing by 120 per hour: full in about 30 min"
    assert result.forecast.summary == summary
    assert result.forecast.needs_attention


def test_pool_without_observations_has_no_known_size_and_no_trend(harness: ServiceHarness) -> None:
    _set_pool(harness, 5)
    (result,) = pool_forecasts(harness.database)
    assert "trend not known yet" in result.forecast.summary
    assert "the capacity is not known" in result.forecast.summary
    assert (result.forecast.used, result.forecast.needs_attention) == (None, False)


@pytest.mark.parametrize(
    ("live", "slope", "text", "needs_attention"),
    [
        (50, 0, "50 of about 200 in use (25%), steady", False),
        (190, -60, "shrinking by 60 per hour", True),
        (200, 0, "steady; full", True),
        (250, 0, "250 of about 200", True),
        (20, 2, "growing by 2 per hour: full in about 3 d", False),
        (20, 1, "growing by 1 per hour: not full within 7 d at this rate", False),
    ],
)
def test_forecast_summarizes_use_and_trend(
    harness: ServiceHarness, live: int, slope: float, text: str, needs_attention: bool
) -> None:
    now = harness.clock()
    pool = Pool(app_id="a", pool_number="p", live=live, counted_at=now, capacity=200, refused_at=now, low_at=None)
    levels = [(now + timedelta(hours=hour), round(live + slope * (hour - 3))) for hour in range(4)]
    result = forecast(pool, levels)
    assert text in result.summary
    assert result.needs_attention is needs_attention


def _overview(harness: ServiceHarness) -> Overview:
    runtime = harness.service.runtime
    return build_overview(runtime, reads_of_all(runtime.database, runtime.settings))


def test_overview_shows_replicas_provider_latency_and_next_scan(harness: ServiceHarness) -> None:
    assert next_scan(harness.service.runtime) is None
    assert _overview(harness).latency is None
    harness.bind(A, B)
    harness.database.write(replicas.record)
    JobRunner(harness.service.runtime).run(EXPIRE)
    JobRunner(harness.service.runtime).run_once_per_period(RECONCILE, 300)
    overview = _overview(harness)
    assert [replica.name for replica in overview.replicas] == [harness.service.runtime.replica]
    assert overview.latency is not None
    assert overview.latency.calls == 1
    assert next_scan(harness.service.runtime) == harness.clock() + timedelta(seconds=300)
    harness.clock.advance(901)
    assert next_scan(harness.service.runtime) is None, "no replica has scanned for three intervals"


def test_latency_does_not_count_a_binding_that_a_scan_adopted(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.bind(C, D)
    harness.clock.advance(400)
    assert harness.service.reconcile().adopted == 1
    for _ in range(2):
        shown = _overview(harness).latency
        assert shown is not None
        assert (shown.calls, shown.p99_s < 60) == (1, True)
        harness.service.unbind(str(unknown.value.binding_id))


def test_latency_percentiles_of_answered_calls_are_exact(harness: ServiceHarness) -> None:
    now = harness.clock()
    outcomes = [
        Outcome(
            requested_at=now,
            sent_at=now,
            answered_at=now + timedelta(milliseconds=ms),
            settle_by=now + timedelta(seconds=10),
            state=State.ACTIVE,
            provider_status="0",
            reason=None,
        )
        for ms in range(1, 101)
    ]
    result = latency(outcomes)
    assert result is not None
    assert (round(result.p50_s, 4), round(result.p99_s, 4)) == (0.0505, 0.0990)
