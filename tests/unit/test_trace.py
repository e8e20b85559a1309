"""Who had a middle number at an instant: intervals to the microsecond, certainty, near misses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bindings.domain.binding import Binding, Certainty, Mode, Reason, State
from bindings.domain.phone import Phone
from bindings.domain.trace import classify

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def binding(name: str = "1", **changed: Any) -> Binding:
    """Requested at noon, sent 1 s later, answered at 3 s, ends at 61 s, held until 68 s."""
    values: dict[str, Any] = dict.fromkeys(Binding.__dataclass_fields__)
    values |= {
        "id": name,
        "mode": Mode.AXB,
        "phone_a": Phone("9188067701"),
        "phone_b": Phone("9188067799"),
        "state": State.ACTIVE,
        "requested_at": NOON,
        "sent_at": after(1),
        "answered_at": after(3),
        "expires_at": after(61),
        "held_until": after(68),
    }
    return Binding(**(values | changed))


EXPIRED: dict[str, Any] = {"state": State.EXPIRED, "ended_at": after(61)}
UNBOUND: dict[str, Any] = {
    "state": State.UNBOUND,
    "reason": Reason.ASKED,
    "unbind_requested_at": after(20),
    "ended_at": after(22),
    "held_until": after(22),
}
GONE: dict[str, Any] = {"state": State.UNBOUND, "reason": Reason.GONE_AT_PROVIDER, "ended_at": after(30)}
DOUBT: dict[str, Any] = {
    "state": State.IN_DOUBT,
    "sent_at": None,
    "answered_at": None,
    "expires_at": None,
    "held_until": after(370),
}


@pytest.mark.parametrize(
    ("facts", "at", "certainty"),
    [
        ({}, after(1) - TICK, None),
        ({}, after(1), Certainty.POSSIBLE),
        ({}, after(3) - TICK, Certainty.POSSIBLE),
        ({}, after(3), Certainty.CERTAIN),
        ({}, after(61) - TICK, Certainty.CERTAIN),
        ({}, after(61), Certainty.POSSIBLE),
        ({}, after(68) - TICK, Certainty.POSSIBLE),
        ({}, after(68), None),
        (EXPIRED, after(60), Certainty.CERTAIN),
        (EXPIRED, after(61), Certainty.POSSIBLE),
        (UNBOUND, after(20) - TICK, Certainty.CERTAIN),
        (UNBOUND, after(20), Certainty.POSSIBLE),
        (UNBOUND, after(22), None),
        (GONE, after(10), Certainty.POSSIBLE),
        (DOUBT, NOON - TICK, None),
        (DOUBT, NOON, Certainty.POSSIBLE),
        (DOUBT, after(370) - TICK, Certainty.POSSIBLE),
        (DOUBT, after(370), None),
    ],
)
def test_holder_is_certain_or_possible_to_the_microsecond(
    facts: dict[str, Any], at: datetime, certainty: Certainty | None
) -> None:
    trace = classify([binding(**facts)], at=at, window_s=0)
    assert [holder.certainty for holder in trace.holders] == ([] if certainty is None else [certainty])


def test_a_near_miss_ended_within_the_window() -> None:
    (miss,) = classify([binding(**EXPIRED)], at=after(100), window_s=39).near_misses
    assert (miss.relation, miss.at, miss.offset_s, miss.id) == ("ended", after(61), -39.0, "1")
    assert not classify([binding(**EXPIRED)], at=after(100), window_s=38.999).near_misses


def test_a_near_miss_began_within_the_window() -> None:
    (miss,) = classify([binding()], at=NOON, window_s=1).near_misses
    assert (miss.relation, miss.at, miss.offset_s) == ("began", after(1), 1.0)
    assert not classify([binding()], at=NOON, window_s=0.999).near_misses


def test_holder_is_not_also_a_near_miss() -> None:
    for second in range(-10, 400, 3):
        trace = classify([binding()], at=after(second), window_s=1_000)
        assert len(trace.holders) + len(trace.near_misses) <= 1


def test_holders_are_sorted_by_certainty_and_both_lists_by_distance() -> None:
    early = binding("early", answered_at=after(2))
    late = binding("late", sent_at=after(4), answered_at=after(5))
    doubtful = binding("doubtful", **(DOUBT | {"requested_at": after(9)}))
    trace = classify([doubtful, early, late], at=after(10), window_s=300)
    assert [holder.id for holder in trace.holders] == ["late", "early", "doubtful"]
    ended = [
        binding(f"{end}", state=State.EXPIRED, expires_at=after(end), ended_at=after(end), held_until=after(end))
        for end in (10, 90, 50)
    ]
    misses = classify(ended, at=after(100), window_s=300).near_misses
    assert [miss.id for miss in misses] == ["90", "50", "10"]


def test_trace_without_bindings_is_empty() -> None:
    assert classify([], at=NOON, window_s=300) == classify([], at=after(5), window_s=0)
