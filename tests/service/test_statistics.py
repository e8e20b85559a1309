"""Events are counted once each, minute by minute and hour by hour, and pools get a trend and plain words."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select

from bindings import errors
from bindings.domain.binding import EventKind
from bindings.jobs.statistics import update_statistics
from bindings.monitoring.overview import build_overview, latency, next_scan
from bindings.monitoring.statistics import TimeRange, event_statistics, forecast, pool_forecasts
from bindings.store.pools import Pool
from bindings.store.schema import events as events_table
from bindings.store.schema import pools as pools_table
from bindings.store.schema import tallies as tallies_table
from tests.service.world import A, B, C, D, E, F, G, H, feed_has_caught_up, in_threads

if TYPE_CHECKING:
    from bindings.monitoring.statistics import EventStatistics
    from tests.service.world import World

ALL = tuple(EventKind)


def counted(world: World, span: TimeRange = TimeRange.HOUR) -> EventStatistics:
    feed_has_caught_up(world.service)
    world.service.tally()
    return event_statistics(world.database, span, ALL)


def totals(figures: EventStatistics) -> dict[tuple[str, str], int]:
    return {(one.kind.value, one.code): one.total for one in figures.series}


def test_every_event_is_counted_by_kind_and_by_code(world: World) -> None:
    world.bind(A, B)
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C, reference="order-7")
    world.simulator.script("refuse:-41", times=2, on="bind")
    for _ in range(2):
        with pytest.raises(errors.NoMiddleNumber):
            world.bind(C, D)
    world.simulator.script("anomaly_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        world.bind(E, F)
    figures = counted(world)
    assert totals(figures) == {
        ("requested", ""): 4,
        ("activated", ""): 1,
        ("refused", "binding"): 1,
        ("failed", "-41"): 2,
        ("in_doubt", "-18"): 1,
        ("pool_low", ""): 1,
    }
    assert figures.counted_to == world.clock()
    (refused,) = [one for one in figures.series if one.kind is EventKind.REFUSED]
    assert refused.examples[0]["binding_id"] == world.service.lookup(phone=A)[0].id
    assert refused.examples[0]["reference"] == "order-7"
    (failed,) = [one for one in figures.series if one.kind is EventKind.FAILED]
    assert [world.service.get(one["binding_id"]).provider_status for one in failed.examples] == ["-41", "-41"]


def test_counting_again_counts_nothing_twice_however_small_the_steps(world: World) -> None:
    for pair in ((A, B), (C, D), (E, F), (G, H)):
        world.bind(*pair)
    feed_has_caught_up(world.service)
    assert update_statistics(world.database, batch=3).events == 8
    assert world.service.tally().events == 0
    assert totals(counted(world)) == {("requested", ""): 4, ("activated", ""): 4}


def test_what_several_replicas_count_at_once_is_counted_once(world: World) -> None:
    for pair in ((A, B), (C, D), (E, F), (G, H)):
        world.bind(*pair)
    feed_has_caught_up(world.service)
    assert in_threads(*(lambda: update_statistics(world.database, batch=1) for _ in range(4))) == []
    assert totals(counted(world)) == {("requested", ""): 4, ("activated", ""): 4}


def test_a_pass_that_runs_out_of_time_says_so_and_the_next_goes_on(world: World) -> None:
    world.bind(A, B)
    feed_has_caught_up(world.service)
    first = update_statistics(world.database, batch=1, budget_s=0)
    assert (first.events, first.finished) == (1, False)
    assert update_statistics(world.database).finished


def test_minutes_and_hours_hold_the_same_events(world: World) -> None:
    world.bind(A, B)
    world.clock.advance(61)
    world.bind(C, D)
    world.clock.advance(3_540)
    minutes, hours = counted(world, TimeRange.HOUR), event_statistics(world.database, TimeRange.DAY, ALL)
    assert sum(minutes.counts_of(EventKind.REQUESTED)) == 1, "the first is more than an hour ago"
    assert [count for count in hours.counts_of(EventKind.REQUESTED) if count] == [2]
    assert len(minutes.steps) == 60
    assert len(hours.steps) == 24


def test_no_phone_gets_into_a_tally(world: World) -> None:
    world.bind(A, B)
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C)
    world.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider):
        world.bind(C, D)
    counted(world)
    rows = world.database.read(lambda connection: connection.execute(select(tallies_table)).all())
    assert rows
    assert not any(phone in str(row) for row in rows for phone in (A, B, C, D))


def test_what_is_too_old_to_be_shown_is_forgotten(world: World) -> None:
    world.bind(A, B)
    counted(world)
    world.clock.advance(timedelta(days=401).total_seconds())
    world.service.tally()
    rows = world.database.read(lambda connection: connection.execute(select(tallies_table)).all())
    assert rows == []
    kept = world.database.read(lambda connection: connection.execute(select(events_table.c.kind)).all())
    assert len(kept) == 2, "the history itself is never forgotten"


def _pool(world: World, live: int, **known: object) -> None:
    now = world.clock()

    def work(tx: object) -> None:
        connection = tx.connection  # type: ignore[attr-defined]
        connection.execute(pools_table.delete())
        values = {"app_id": "app", "pool_number": "918806", "live": live, "counted_at": now}
        connection.execute(insert(pools_table).values(values | known))

    world.database.write(work)
    world.service.tally()


def test_a_pool_that_grows_towards_its_known_size_says_when_it_is_full(world: World) -> None:
    for live in (100, 110, 120, 130, 140):
        _pool(world, live, capacity=200, refused_at=world.clock())
        world.clock.advance(300)
    (found,) = pool_forecasts(world.database)
    assert [live for _, live in found.levels] == [100, 110, 120, 130, 140]
    assert found.forecast.per_hour == pytest.approx(120)
    assert found.forecast.summary == "140 of about 200 in use (70%), growing by 120 an hour: full in about 30 min"
    assert found.forecast.needs_attention


def test_a_pool_claims_no_size_that_nobody_has_seen_and_no_trend_of_a_moment(world: World) -> None:
    _pool(world, 5)
    (found,) = pool_forecasts(world.database)
    assert "its trend is not known yet" in found.forecast.summary
    assert "its size is not known" in found.forecast.summary
    assert (found.forecast.used, found.forecast.needs_attention) == (None, False)


@pytest.mark.parametrize(
    ("live", "slope", "says", "bad"),
    [
        (50, 0, "50 of about 200 in use (25%), steady", False),
        (190, -60, "shrinking by 60 an hour", True),
        (200, 0, "as full as when it ran out", True),
        (250, 0, "250 of about 200", True),
        (20, 2, "growing by 2 an hour: full in about 3 d", False),
    ],
)
def test_forecasts(world: World, live: int, slope: float, says: str, bad: bool) -> None:
    now = world.clock()
    pool = Pool(app_id="a", pool_number="p", live=live, counted_at=now, capacity=200, refused_at=now, low_at=None)
    levels = [(now + timedelta(hours=hour), round(live + slope * (hour - 3))) for hour in range(4)]
    found = forecast(pool, levels)
    assert says in found.summary
    assert found.needs_attention is bad


def test_the_overview_tells_who_runs_the_passes_and_how_long_the_provider_takes(world: World) -> None:
    assert next_scan(world.service) is None
    assert build_overview(world.service).latency is None
    world.bind(A, B)
    world.service.sweep()
    world.service.run_once_per_period("reconcile", 300, world.service.reconcile)
    seen = build_overview(world.service)
    assert [replica.name for replica in seen.replicas] == [world.service._replica]
    assert seen.latency is not None
    assert seen.latency.calls == 1
    assert next_scan(world.service) == world.clock() + timedelta(seconds=300)
    world.clock.advance(901)
    assert next_scan(world.service) is None, "nobody has scanned for three intervals"


def test_latency_is_that_of_the_answered(world: World) -> None:
    now = world.clock()
    calls = [(now, now, now + timedelta(milliseconds=ms)) for ms in range(1, 101)]
    found = latency(calls)
    assert found is not None
    assert (round(found.p50_s, 4), round(found.p99_s, 4)) == (0.0505, 0.0990)
