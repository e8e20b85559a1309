"""Times as people type them: the last time that a clock showed them, in its zone; what names none is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bindings.errors import InvalidRequest
from bindings.web.console import time_zones

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("", "UTC", None),
        ("now", "UTC", "2026-11-25T10:00:00"),
        ("09:59", "UTC", "2026-11-25T09:59:00"),
        ("14:32", "UTC", "2026-11-24T14:32:00"),  # today it is still to come
        ("14:32", "Asia/Kolkata", "2026-11-25T09:02:00"),
        ("14:32:05", "+05:30", "2026-11-25T09:02:05"),
        ("2026-11-23 4:32", "UTC+8", "2026-11-22T20:32:00"),
        ("2026-11-23T14:32:00Z", "Asia/Kolkata", "2026-11-23T14:32:00"),
        ("2026-11-23T14:32:00+02:00", "UTC", "2026-11-23T12:32:00"),
        ("2026-11-23 14:32:00 UTC", "Asia/Kolkata", "2026-11-23T14:32:00"),
        ("2026-11-23 14:32:00 +05:30", "UTC", "2026-11-23T09:02:00"),
        ("\u202a2026-11-23\u00a014:32\u202c", "UTC", "2026-11-23T14:32:00"),
        ("\uff12\uff10\uff12\uff16-11-23 14\uff1a32", "UTC", "2026-11-23T14:32:00"),
    ],
)
def test_time_is_parsed_in_its_zone(text: str, zone: str, expected: str | None) -> None:
    parsed = time_zones.parse(text, time_zones.zone(zone), NOW)
    assert parsed == (None if expected is None else datetime.fromisoformat(expected).replace(tzinfo=UTC))


@pytest.mark.parametrize(
    "text", ["25:00", "soon", "2026-11-24", "2026-02-30 10:00", "2026-03-29 02:30", "2026-10-25 02:30"]
)
def test_text_that_is_not_an_instant_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        time_zones.parse(text, time_zones.zone("Europe/Berlin"), NOW)
    assert text not in str(refused.value)


@pytest.mark.parametrize(("zone", "hours"), [("UTC", 0), ("Asia/Kolkata", -5.5), ("-03:00", 3)])
def test_date_alone_is_the_midnight_at_its_start_where_dates_are_accepted(zone: str, hours: float) -> None:
    parsed = time_zones.parse("2026-11-24", time_zones.zone(zone), NOW, date_alone=True)
    assert parsed == datetime(2026, 11, 24, tzinfo=UTC) + timedelta(hours=hours)


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "+15:00", "+5:3", "Asia", "a" * 300, "\x00"])
def test_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        time_zones.zone(name)


def test_instant_is_formatted_with_its_offset() -> None:
    at = datetime(2026, 11, 25, 9, 2, 5, 120_000, tzinfo=UTC)
    assert time_zones.format_instant(at, time_zones.zone("Asia/Kolkata")) == "2026-11-25 14:32:05 +05:30"
    assert time_zones.format_instant(at, time_zones.DEFAULT, precise=True) == "2026-11-25 09:02:05.120 UTC"
    assert (time_zones.ago(at, NOW), time_zones.ago(NOW, at)) == ("57 min 55 s ago", "in 57 min 55 s")
