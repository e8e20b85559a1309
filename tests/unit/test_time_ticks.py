"""The labels of time axes: round times of the reader's clock, with the date, for every span and zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bindings.web.console import time_zones
from bindings.web.console.charts import scale_for, sparklines
from bindings.web.console.time_ticks import time_ticks

NOON = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def labels(since: datetime, length: timedelta, zone: str, *, most: int = 4) -> list[tuple[str, str]]:
    ticks = time_ticks(since, since + length, time_zones.zone(zone), most=most)
    positions = [tick.x for tick in ticks]
    assert positions == sorted(set(positions))
    assert all(0 <= x <= 100 for x in positions)
    return [(tick.label, tick.second) for tick in ticks]


def test_labels_of_an_hour_are_times_and_the_first_has_the_date() -> None:
    expected = [("12:00", "29 Nov"), ("12:15", ""), ("12:30", ""), ("12:45", ""), ("13:00", "")]
    assert labels(NOON, timedelta(hours=1), "UTC") == expected


def test_labels_are_round_in_a_zone_of_half_hours_and_midnight_has_the_date() -> None:
    expected = [("18:00", "29 Nov"), ("00:00", "30 Nov"), ("06:00", ""), ("12:00", "")]
    assert labels(NOON, timedelta(days=1), "Asia/Kolkata") == expected


def test_labels_of_a_week_are_dates_at_local_midnight() -> None:
    expected = [("1 Dec", "2026"), ("3 Dec", ""), ("5 Dec", "")]
    assert labels(NOON, timedelta(days=7), "Asia/Shanghai") == expected
    at = time_ticks(NOON, NOON + timedelta(days=7), time_zones.zone("Asia/Shanghai"), most=4)[0].at
    assert at == datetime(2026, 11, 30, 16, 0, tzinfo=UTC)


def test_labels_of_a_year_are_months_with_the_year_where_it_begins() -> None:
    expected = [("Jan", "2027"), ("Apr", ""), ("Jul", ""), ("Oct", "")]
    assert labels(NOON, timedelta(days=365), "America/New_York") == expected


@pytest.mark.parametrize(
    ("since", "zone", "times"),
    [
        # Clocks in Berlin go from 02:00 to 03:00 on 29 March 2026, and from 03:00 back to 02:00 on 25 October.
        (datetime(2026, 3, 29, 0, 0, tzinfo=UTC), "Europe/Berlin", ["01:00", "03:00", "04:00", "05:00"]),
        (datetime(2026, 10, 24, 23, 0, tzinfo=UTC), "Europe/Berlin", ["01:00", "02:00", "03:00"]),
    ],
)
def test_labels_are_those_that_a_clock_shows_when_it_is_changed(
    since: datetime, zone: str, times: list[str]
) -> None:
    assert [label for label, _ in labels(since, timedelta(hours=3), zone)] == times


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "+14:00", "-12:00"])
def test_every_span_from_seconds_to_decades_has_some_labels_and_not_many(zone: str) -> None:
    length = timedelta(seconds=10)
    while length < timedelta(days=20_000):
        shown = labels(NOON, length, zone, most=7)
        assert 1 <= len(shown) <= 9, length
        assert shown[0][1], "the first label has a date"
        length *= 1.7


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize("length", [timedelta(hours=1), timedelta(days=9), timedelta(days=2_000_000)])
def test_axis_up_to_the_end_of_the_calendar_has_labels(zone: str, length: timedelta) -> None:
    end = datetime.max.replace(tzinfo=UTC)
    assert len(time_ticks(end - length, end, time_zones.zone(zone), most=7)) <= 9


@pytest.mark.parametrize(
    ("peak", "scale"),
    [(0, (1, 0)), (1, (1, 0)), (2, (2, 1, 0)), (3, (5, 0)), (7, (10, 5, 0)), (10, (10, 5, 0)), (11, (20, 10, 0))],
)
def test_scale_is_round_and_reaches_the_peak(peak: int, scale: tuple[int, ...]) -> None:
    assert scale_for(peak) == scale


def test_sparkline_has_a_gap_where_levels_are_missing() -> None:
    minutes = [0, 5, 10, 60, 65]
    levels = [(NOON + timedelta(minutes=minute), 10) for minute in minutes]
    assert [len(points.split()) for points in sparklines(levels, 10)] == [3, 2]
    assert sparklines(levels[:1], 10) == []
