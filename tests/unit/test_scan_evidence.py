"""What scans of the provider's list prove, at the limits of each rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bindings.domain.binding import Mode, State
from bindings.domain.phone import Phone
from bindings.jobs import scan_evidence
from bindings.jobs.provider_scan import Scan
from bindings.jobs.scan_evidence import LIST_LAG, ClockTolerance, LiveBindingsListed
from bindings.provider.outcome import ProviderBinding
from bindings.web.api.samples import BINDING

if TYPE_CHECKING:
    from bindings.domain.binding import Binding

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
LIFE = timedelta(seconds=3_600)
TOLERANCE = ClockTolerance.of(skew_s=1.0, tolerance_s=300.0)
DOUBT = replace(
    BINDING,
    mode=Mode.AXB,
    state=State.IN_DOUBT,
    bind_id=None,
    expire_s=3_600,
    max_expire_s=None,
    requested_at=NOON,
    send_by=NOON + timedelta(seconds=5),
    settle_by=NOON + timedelta(seconds=16),
    held_until=NOON + timedelta(seconds=3_941),
    expires_at=None,
    provider_expires_at=None,
    ended_at=None,
)
ROW = ProviderBinding(
    bind_id="1002",
    phone_a=DOUBT.phone_a,
    phone_b=DOUBT.phone_b,
    middle_number_a="9188061024",
    middle_number_b="9188061024",
    ends_at=NOON + LIFE,
)
OTHER_ROW = replace(ROW, bind_id="1003")
ENDED_ROW = replace(ROW, bind_id="1001", ends_at=NOON - timedelta(seconds=4))


def adopted(rows: list[ProviderBinding], unsettled: list[Binding]) -> list[tuple[str, str]]:
    """Return the ids of the pairs that are adopted, by a scan that ended five minutes after noon."""
    at = NOON + timedelta(minutes=5)
    return [(doubt.id, row.bind_id) for doubt, row in scan_evidence.adoptions(rows, unsettled, at, TOLERANCE)]


def test_only_a_doubt_alone_with_its_row_is_adopted() -> None:
    assert adopted([ROW], [DOUBT]) == [(DOUBT.id, ROW.bind_id)]
    assert adopted([ENDED_ROW, ROW], [DOUBT]) == [(DOUBT.id, ROW.bind_id)]
    second = replace(DOUBT, id="another doubt")
    pending = replace(DOUBT, id="a pending one", state=State.PENDING)
    for rows, unsettled in (
        ([ROW], [pending]),
        ([ROW], [DOUBT, second]),
        ([ROW], [second, DOUBT]),
        ([ROW], [DOUBT, pending]),
        ([ROW, OTHER_ROW], [DOUBT]),
        ([ROW, replace(OTHER_ROW, ends_at=NOON + 2 * LIFE)], [DOUBT]),
        ([replace(ROW, phone_b=Phone("9188067711"))], [DOUBT]),
        ([replace(ROW, middle_number_b="9188061025")], [DOUBT]),
    ):
        assert adopted(rows, unsettled) == []


def test_row_of_a_doubt_ends_in_the_window_that_its_timestamp_allows() -> None:
    earliest = NOON + LIFE - TOLERANCE.error
    latest = DOUBT.send_by + TOLERANCE.timestamp_age + LIFE + TOLERANCE.error
    for ends_at, fits in ((earliest, True), (latest, True), (earliest - MOMENT, False), (latest + MOMENT, False)):
        assert scan_evidence.matches_intent(replace(ROW, ends_at=ends_at), DOUBT, TOLERANCE) is fits


def scan(started_at: datetime, ended_at: datetime) -> Scan:
    return Scan(app_id=DOUBT.app_id, started_at=started_at, ended_at=ended_at)


LISTED_BY = DOUBT.send_by + TOLERANCE.timestamp_age + TOLERANCE.error
LISTED_UNTIL = NOON + LIFE - TOLERANCE.error


def test_I4_absence_is_proved_only_while_the_binding_would_be_listed() -> None:
    within = scan(LISTED_BY + MOMENT, LISTED_UNTIL - MOMENT)
    too_early = scan(LISTED_BY, LISTED_UNTIL - MOMENT)  # the request may be accepted after it
    too_late = scan(LISTED_BY + MOMENT, LISTED_UNTIL)  # the binding may have been there before it
    assert scan_evidence.absence_provable(DOUBT, within, within, TOLERANCE)
    assert not scan_evidence.absence_provable(replace(DOUBT, state=State.PENDING), within, within, TOLERANCE)
    for outside in (too_early, too_late):
        for first, second in ((within, outside), (outside, within)):
            assert not scan_evidence.absence_provable(DOUBT, first, second, TOLERANCE)


def test_I4_absence_is_proved_only_after_the_lag_of_the_list() -> None:
    short_age = ClockTolerance.of(skew_s=1.0, tolerance_s=1.0)
    listed_by = DOUBT.send_by + LIST_LAG + short_age.error
    for started_at, is_provable in ((listed_by, False), (listed_by + MOMENT, True)):
        both = scan(started_at, started_at)
        assert scan_evidence.absence_provable(DOUBT, both, both, short_age) is is_provable


def listed(*missing: str, count: int) -> LiveBindingsListed:
    return LiveBindingsListed(missing=frozenset(missing), listed_count=count)


def test_I4_only_two_whole_scans_that_agree_and_have_a_witness_prove_ghosts() -> None:
    whole: dict[str, Any] = {"app_id": None, "started_at": NOON, "ended_at": NOON, "total": 0}
    complete = Scan(**whole)
    assert scan_evidence.ghosts(complete, complete, listed("a", count=1), listed("a", count=1)) == frozenset("a")
    assert scan_evidence.ghosts(complete, complete, listed(count=1), listed(count=1)) == frozenset()
    for first, second in (
        (listed("a", count=0), listed("a", count=1)),
        (listed("a", count=1), listed("a", count=0)),
        (listed("a", count=3), listed("a", "b", count=2)),  # one of them overlooked "b"
        (listed("a", "b", count=2), listed("a", count=3)),
        (listed("a", "b", count=1), listed("a", "b", count=2)),  # the list is wrong rather than they are gone
        (listed("a", "b", count=2), listed("a", "b", count=1)),
    ):
        assert scan_evidence.ghosts(complete, complete, first, second) is None
    for incomplete in (
        Scan(**whole, partial=True),
        Scan(**whole, error="it was stopped"),
        Scan(**whole | {"total": 1}),
        Scan(**whole | {"total": None}),
    ):
        for scans in ((complete, incomplete), (incomplete, complete)):
            assert scan_evidence.ghosts(*scans, listed("a", count=1), listed("a", count=1)) is None


ACTIVE = replace(DOUBT, state=State.ACTIVE, bind_id=ROW.bind_id, expires_at=NOON + LIFE)


def test_I6_listed_end_that_is_earlier_by_more_than_the_error_of_the_clocks_is_followed() -> None:
    on_time = NOON + LIFE - TOLERANCE.error
    earlier = on_time - MOMENT
    for binding, ends_at, expected in (
        (ACTIVE, on_time, None),
        (ACTIVE, earlier, earlier - TOLERANCE.error),
        (replace(ACTIVE, provider_expires_at=NOON + 2 * LIFE), on_time, on_time - TOLERANCE.error),
        (replace(ACTIVE, state=State.EXPIRED), earlier, None),
    ):
        assert scan_evidence.shorter_end(replace(ROW, ends_at=ends_at), binding, TOLERANCE) == expected


def test_I4_phones_of_a_listed_end_that_is_later_are_held_for_longer_and_never_shorter() -> None:
    guard = timedelta(seconds=36)
    on_time = NOON + LIFE + TOLERANCE.error
    later = on_time + MOMENT
    held_until = later + TOLERANCE.error + guard
    for binding, ends_at, expected in (
        (replace(ACTIVE, held_until=NOON + LIFE), on_time, None),
        (replace(ACTIVE, held_until=NOON + LIFE), later, held_until),
        (replace(ACTIVE, held_until=held_until), later, None),
        (replace(ACTIVE, held_until=NOON + LIFE, state=State.EXPIRED), later, None),
    ):
        row = replace(ROW, ends_at=ends_at)
        assert scan_evidence.longer_hold(row, binding, guard, TOLERANCE) == expected


def test_list_may_show_a_binding_for_its_lag_after_an_unbind() -> None:
    started_at = NOON + timedelta(minutes=10)
    ended_at = started_at - LIST_LAG
    unbound = replace(ACTIVE, state=State.UNBOUND, ended_at=ended_at, held_until=started_at)
    assert not scan_evidence.may_be_stale(unbound, started_at)
    assert scan_evidence.may_be_stale(replace(unbound, ended_at=ended_at + MOMENT), started_at)
    assert not scan_evidence.may_be_stale(ACTIVE, started_at)
    expired = replace(ACTIVE, state=State.EXPIRED, ended_at=NOON, held_until=NOON + LIFE)
    assert not scan_evidence.may_be_stale(expired, NOON + LIFE), "it ended by time"
    assert scan_evidence.may_be_stale(replace(expired, held_until=NOON + LIFE - MOMENT), NOON + LIFE)
    revenant = replace(unbound, held_until=NOON)
    assert scan_evidence.is_revenant(ROW, revenant, started_at)
    assert not scan_evidence.is_revenant(ROW, replace(revenant, held_until=ROW.ends_at), started_at)
    assert not scan_evidence.is_revenant(ROW, replace(revenant, ended_at=started_at), started_at)
    assert not scan_evidence.is_revenant(ROW, replace(ACTIVE, held_until=NOON), started_at)
