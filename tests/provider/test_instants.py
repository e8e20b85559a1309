"""Instants as the provider writes them: every form that is read, what is refused, and the bounds."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindings.provider import instants

CHINA = timezone(timedelta(hours=8))
NINE = datetime(2023, 10, 22, 1, tzinfo=UTC)  # nine in the morning in China


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2023-10-22 09:00:00", NINE),
        ("2023-10-22T09:00:00", NINE),
        ("2023-10-22T09:00", NINE),
        ("2023-10-22 01:00Z", NINE),
        ("2023-10-22 09:00:00.5", NINE + timedelta(seconds=0.5)),
        ("2023-10-22T09:00:00,250", NINE + timedelta(seconds=0.25)),
        ("2023-10-22T01:00:00.123456789Z", NINE + timedelta(microseconds=123_456)),
        ("2023-10-22t01:00:00z", NINE),
        ("2023-10-22T03:00:00+02:00", NINE),
        ("2023-10-22 03:00:00 +0200", NINE),
        ("1697936400", NINE),
        ("1697936400.5", NINE + timedelta(seconds=0.5)),
        ("1697936400000", NINE),
    ],
)
def test_form_is_read_and_the_zone_counts_only_without_one_in_the_text(text: str, instant: datetime) -> None:
    assert instants.parse(text, zone=CHINA) == instant


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("9999-12-31 23:59:59", instants.LATEST),
        ("9999-12-31T23:59:59-14:00", instants.LATEST),
        ("253402300799", instants.LATEST),
        ("253402300799999", instants.LATEST),
        ("999999999999", instants.LATEST),
    ],
)
def test_instant_that_cannot_be_computed_with_becomes_the_last_that_can(text: str, instant: datetime) -> None:
    assert instants.parse(text, zone=CHINA) == instant


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "2023-10-22", "2023-13-01 00:00:00", "0000-00-00 00:00:00", "2023-10-22 25:00:00", "for ever"),
        # A count that may as well be a date, or that means "none".
        *("0", "-1", "20231022", "20231022090000", "1e9", "\u0661" * 10),
        # What systems write for "no end".
        *("0001-01-01 00:00:00", "0001-01-01T00:00:00+14:00", "1900-01-01 00:00:00", "1970-01-01 08:00:00"),
        *("1999-12-31 23:59:59", "946684799", "000000000", "0000000000000", "2023-10-22T09:00.5"),
    ],
)
def test_text_that_is_no_instant_is_refused_without_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a time$"):
        instants.parse(text, zone=CHINA)


@given(
    st.datetimes(
        min_value=datetime(2002, 1, 1),  # noqa: DTZ001 -- drawn naive
        max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    ),
    st.integers(min_value=-12, max_value=14),
    st.sampled_from(instants.FORMS),
)
def test_every_form_is_read_as_it_was_written(drawn: datetime, hours: int, form: str) -> None:
    zone, instant = timezone(timedelta(hours=hours)), drawn.replace(tzinfo=UTC)
    read = instants.parse(str(instants.format_as(form, instant, zone=zone)), zone=zone)
    assert abs(read - instant) <= timedelta(seconds=1)


@given(st.text(max_size=40))
def test_any_text_is_an_instant_within_the_bounds_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert instants.EARLIEST <= instants.parse(text, zone=CHINA) <= instants.LATEST
