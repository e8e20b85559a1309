"""Replace: a successor takes over from a binding, and the phones are never free in between."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bindings.domain.binding import EventKind, Reason, State
from bindings.domain.phone import Phone
from tests.service.harness import A, B, C, D, assert_sound

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness

HOUR = 3_600


def holders(harness: ServiceHarness, phone_a: str, phone_b: str) -> list[str | None]:
    return [holder.id for holder in harness.service.check(phone_a=phone_a, phone_b=phone_b, mode="AXB")]


def activated(harness: ServiceHarness, binding: Binding) -> dict[str, Any]:
    (event,) = (event for event in harness.service.history(binding.id) if event.kind == EventKind.ACTIVATED)
    return event.detail


def test_another_party_takes_over_and_both_bindings_are_linked(harness: ServiceHarness) -> None:
    driver = harness.bind(A, B, reference="order-1", expire_s=2 * HOUR, warn_s=60)
    successor = harness.service.replace(driver.id, phone_b=C)
    ended = harness.service.get(driver.id)
    assert successor.state is State.ACTIVE
    assert (successor.phone_a, successor.phone_b) == (driver.phone_a, Phone(C))
    for field in ("mode", "pool_number", "expire_s", "reference", "app_id", "warn_s"):
        assert getattr(successor, field) == getattr(driver, field), field
    assert (successor.replaces, ended.replaced_by, successor.waits_for) == (driver.id, successor.id, None)
    assert (ended.state, ended.reason) == (State.UNBOUND, Reason.REPLACED)
    assert harness.kinds(driver) == [
        EventKind.REQUESTED,
        EventKind.ACTIVATED,
        EventKind.REPLACED,
        EventKind.UNBOUND,
    ]
    assert harness.kinds(successor) == [EventKind.REQUESTED, EventKind.CLEARED, EventKind.ACTIVATED]
    detail = activated(harness, successor)
    assert detail["middle_number_changed"] is (successor.middle_number_a != driver.middle_number_a)
    assert 0 <= detail["gap_s"] < 60
    assert holders(harness, B, D) == []
    assert harness.service.lookup(phone=A) == [successor]
    assert_sound(harness.service)


def test_renewal_keeps_both_phones_and_counts_from_now(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=HOUR)
    harness.clock.advance(HOUR - 60)
    successor = harness.service.replace(binding.id)
    assert successor.expires_at is not None
    assert successor.expires_at - harness.clock.at > timedelta(seconds=HOUR - 60)
    assert harness.service.lookup(phone=B) == [successor]
    assert_sound(harness.service)
