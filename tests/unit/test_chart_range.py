"""The ranges of charts: rounded outwards to what is stored, with few enough steps for any length."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bindings.monitoring.chart_range import MAX_STEPS, TimeRange, range_between

NOW = datetime(2026, 11, 29, 14, 32, 7, tzinfo=UTC)  # a Sunday


@pytest.mark.parametrize(
    ("time_range", "since", "until", "steps"),
    [
        (TimeRange.HOUR, "2026-11-29T13:33", "2026-11-29T14:33", 60),
        (TimeRange.DAY, "2026-11-28T15:00", "2026-11-29T15:00", 24),
        (TimeRange.WEEK, "2026-11-22T15:00", "2026-11-29T15:00", 168),
        (TimeRange.MONTH, "2026-10-30T18:00", "2026-11-29T18:00", 120),
        (TimeRange.YEAR, "2025-11-24T00:00", "2026-11-30T00:00", 53),
    ],
)
def test_range_up_to_now_ends_with_the_step_that_has_begun(
    time_range: TimeRange, since: str, until: str, steps: int
) -> None:
    shown = time_range.chart_range(NOW)
    assert [f"{at:%Y-%m-%dT%H:%M}" for at in (shown.period.since, shown.period.until)] == [since, until]
    assert len(shown.steps) == steps
    assert shown.steps[-1] <= NOW < shown.period.until


@pytest.mark.parametrize(
    ("ago", "length", "unit_s", "step_s"),
    [
        (timedelta(hours=1), timedelta(minutes=30), 60, 60),
        (timedelta(hours=30), timedelta(minutes=30), 3_600, 3_600),  # minutes are not stored for so long
        (timedelta(days=3), timedelta(days=3), 3_600, 3_600),
        (timedelta(days=34), timedelta(days=30), 3_600, 6 * 3_600),
        (timedelta(days=60), timedelta(days=1), 86_400, 86_400),
        (timedelta(days=390), timedelta(days=390), 86_400, 7 * 86_400),
    ],
)
def test_period_is_counted_in_the_shortest_periods_that_are_stored(
    ago: timedelta, length: timedelta, unit_s: int, step_s: int
) -> None:
    since = NOW - ago
    shown = range_between(since, since + length, NOW)
    assert (shown.period.unit_s, shown.step_s) == (unit_s, step_s)
    assert shown.period.since <= since < shown.period.since + timedelta(seconds=unit_s)
    assert since + length <= shown.period.until < since + length + timedelta(seconds=unit_s)
    assert len(shown.steps) <= MAX_STEPS


def test_period_between_whole_hours_is_not_lengthened() -> None:
    since = datetime(2026, 11, 20, tzinfo=UTC)
    shown = range_between(since, since + timedelta(days=2), NOW)
    assert (shown.period.since, shown.period.until) == (since, since + timedelta(days=2))


@pytest.mark.parametrize("since", [NOW - timedelta(days=4_000), NOW, NOW + timedelta(days=4)])
@pytest.mark.parametrize("until", [None, NOW - timedelta(days=3_000), NOW + timedelta(days=5)])
def test_what_is_not_stored_is_left_out_and_something_is_left(since: datetime, until: datetime | None) -> None:
    shown = range_between(since, until, NOW)
    assert len(shown.steps) >= 1
    assert shown.period.since <= NOW
    assert shown.period.until - NOW <= timedelta(days=1)
    assert NOW - shown.period.since <= timedelta(days=401)
