"""What is odd about the bindings of one number, and what is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bindings.domain.binding import Binding, Mode, State
from bindings.domain.conflict import Policy
from bindings.domain.overlaps import QUICK_REUSE, Overlap, Reuse, find_anomalies
from bindings.domain.phone import Phone

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def binding(name: str, start: datetime, end: datetime, **changes: Any) -> Binding:
    template = Binding(
        id=name, mode=Mode.AXB, phone_a=Phone("911"), phone_b=Phone("912"), pool_number="1", app_id="a",
        scope="s", reference=name, idempotency_key=None, expire_s=3_600, bind_id=name, middle_number_a="99",
        middle_number_b="99", state=State.EXPIRED, provider_status=None, reason=None, actor="x", request_id=None,
        requested_at=start, send_by=start, settle_by=start, sent_at=start, answered_at=start, expires_at=end,
        held_until=end, unbind_requested_at=None, ended_at=end, version=3, warn_s=None, max_expire_s=None,
        provider_expires_at=None, replaces=None, replaced_by=None, waits_for=None,
    )  # fmt: skip
    return replace(template, **changes)


def other_phones(number: str) -> dict[str, Any]:
    return {"phone_a": Phone(f"92{number}"), "phone_b": Phone(f"93{number}")}


def test_bindings_with_a_common_phone_overlap_only_if_both_may_exist() -> None:
    first = binding("first", NOON, NOON + HOUR)
    overlapping = binding(
        "overlapping", NOON + HOUR / 2, NOON + 2 * HOUR, phone_b=Phone("913"), middle_number_a="98"
    )
    assert [type(anomaly) for anomaly in find_anomalies([overlapping, first], Policy.LITERAL)] == [Overlap]
    after = binding(
        "after", NOON + HOUR, NOON + 2 * HOUR, phone_b=Phone("913"), middle_number_a="98", middle_number_b="98"
    )
    assert find_anomalies([first, after], Policy.LITERAL) == []
    assert find_anomalies([first, replace(overlapping, **other_phones("1"))], Policy.LITERAL) == []


@pytest.mark.parametrize(
    ("held", "requested", "policy", "answered", "allowed"),
    [
        (Mode.AXXB, Mode.AXXB, Policy.LITERAL, True, True),
        (Mode.AXXB, Mode.AXB, Policy.LITERAL, True, True),
        (Mode.AXXB, Mode.AXB, Policy.LITERAL, False, False),
        (Mode.AXXB, Mode.AXXB, Policy.STRICT, True, False),
        (Mode.AXB, Mode.AXXB, Policy.LITERAL, True, False),
    ],
)
def test_overlap_is_allowed_as_the_conflict_policy_says(
    held: Mode, requested: Mode, policy: Policy, *, answered: bool, allowed: bool
) -> None:
    first = binding("first", NOON, NOON + HOUR, mode=held, answered_at=NOON if answered else None)
    second = binding("second", NOON + HOUR / 2, NOON + HOUR, mode=requested, phone_b=Phone("913"))
    [overlap] = find_anomalies([first, second], policy)
    assert isinstance(overlap, Overlap)
    assert overlap.allowed is allowed
    [same_pair] = find_anomalies([first, replace(second, phone_b=first.phone_b)], policy)
    assert isinstance(same_pair, Overlap)
    assert not same_pair.allowed


def test_middle_number_reused_by_another_pair_is_reported_if_soon() -> None:
    first = binding("first", NOON, NOON + HOUR)
    soon = binding("soon", NOON + HOUR + QUICK_REUSE, NOON + 3 * HOUR, **other_phones("1"))
    [reuse] = find_anomalies([soon, first], Policy.LITERAL)
    assert isinstance(reuse, Reuse)
    assert (reuse.first.id, reuse.second.id, reuse.middle_number, reuse.gap_s) == ("first", "soon", "99", 600.0)
    late = replace(soon, sent_at=soon.requested_at + timedelta(seconds=1))
    assert find_anomalies([first, late], Policy.LITERAL) == []
    same_pair = replace(soon, phone_a=first.phone_b, phone_b=first.phone_a)
    assert find_anomalies([first, same_pair], Policy.LITERAL) == []


def test_failed_binding_is_not_an_anomaly() -> None:
    first = binding("first", NOON, NOON + HOUR)
    assert find_anomalies([first, replace(first, id="failed", state=State.FAILED)], Policy.LITERAL) == []
