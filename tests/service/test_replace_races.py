"""Replace beside other calls: bulk releases, rivals for the phones, and the jobs of a release before."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from bindings import errors, failpoints
from bindings.domain.binding import Caller, Reason, State
from bindings.store import expiry
from tests.service.harness import A, B, C, assert_sound
from tests.service.test_replace import set_waits_for, successor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness

TAKEOVER_S = 10  # the longest time that a successor waits, with the time limit of these calls


class Stopped(BaseException):
    """Ends a call in the middle, as the end of its process would."""


@pytest.fixture(autouse=True)
def _no_hook() -> Iterator[None]:
    yield
    failpoints.install(None)


def at(place: str, action: Callable[[], object]) -> None:
    """Run the action once, at the first reach of a fail point."""

    def hook(name: str) -> None:
        if name == place:
            failpoints.install(None)
            action()

    failpoints.install(hook)


def stop_at(place: str, call: Callable[[], object]) -> None:
    """Make the call and stop it at a fail point."""

    def stop() -> None:
        raise Stopped

    at(place, stop)
    with suppress(Stopped):
        call()


@pytest.mark.parametrize("late_s", [0, TAKEOVER_S + 1])
@pytest.mark.parametrize("selected", ["reference", "phone"])
def test_released_order_is_not_brought_back_by_a_repeated_replace(
    harness: ServiceHarness, late_s: int, selected: str
) -> None:
    """Also one whose successor has waited too long when the order is released: it was not ended yet."""
    driver = harness.bind(A, B, reference="order-1")
    replace = partial(harness.service.replace, driver.id, phone_b=C, idempotency_key="k")
    stop_at("replace.after_begin", replace)
    harness.clock.advance(late_s)
    release = partial(harness.service.unbind_all, reason="over")
    released = release(reference="order-1") if selected == "reference" else release(phone=A)
    successor = successor_of(harness, driver)
    assert {driver.id, successor.id} <= {binding.id for binding in released.bindings}
    harness.clock.advance(TAKEOVER_S + 1)
    with pytest.raises(errors.BindingsError) as repeated:
        replace()
    assert repeated.value.binding_id == successor.id
    ended = harness.service.get(successor.id)
    assert (ended.state, ended.reason, ended.idempotency_key) == (State.FAILED, Reason.NEVER_SENT, "k")
    assert harness.received("bind") == 1
    assert harness.service.lookup(phone=A) == []
    assert_sound(harness.service)


# Beside `recover` of the release before, which takes a waiting successor for a bind whose process stopped.


def recover_as_before(harness: ServiceHarness, waiting: Binding) -> None:
    set_waits_for(harness, waiting.id, None)
    for change in (expiry.mark_unsettled_in_doubt, expiry.lapse):
        harness.database.write(partial(change, caller=Caller(actor="before"), limit=10))
    set_waits_for(harness, waiting.id, waiting.waits_for)


def test_successor_that_is_lapsed_before_its_predecessor_has_ended_is_not_sent(harness: ServiceHarness) -> None:
    driver = harness.bind(A, B)

    def meanwhile() -> None:
        harness.clock.advance(TAKEOVER_S)
        recover_as_before(harness, successor_of(harness, driver))

    at("replace.after_unbind", meanwhile)
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.service.replace(driver.id, phone_b=C)
    assert unknown.value.predecessor_ended
    assert unknown.value.binding == successor_of(harness, driver)
    assert harness.service.get(driver.id).state is State.UNBOUND
    assert harness.received("bind") == 1
