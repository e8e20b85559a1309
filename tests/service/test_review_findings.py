"""Replace where its caller, its predecessor or the account is not the usual one: each found by a review."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from bindings import errors
from bindings.clock import HostClock
from bindings.domain.binding import State
from tests.service.harness import POOL, A, B, C, D, E, F, G, H, wait_for
from tests.service.test_look import Looks
from tests.service.test_replace import at, short_takeover, successor_of

if TYPE_CHECKING:
    from tests.service.harness import ServiceHarness

HOUR = 3_600
__all__ = ["short_takeover"]


def test_key_of_a_replace_is_its_binding_s_also_while_binds_are_refused(harness: ServiceHarness) -> None:
    """An admin repeats the replace of an application's binding; the admin's own bind has another key's text."""
    rides, admin = (harness.service.as_caller(actor=actor) for actor in ("key:rides", "key:admin"))
    shared: dict[str, Any] = {"pool_number": POOL, "expire_s": HOUR, "mode": "AXB"}
    binding = rides.bind(phone_a=A, phone_b=B, **shared)
    successor = admin.replace(binding.id, phone_b=C, idempotency_key="k")
    admin.bind(phone_a=E, phone_b=F, idempotency_key="other", **shared)
    harness.simulator.script("refuse:-13", times=1, on="bind")
    with pytest.raises(errors.ProviderAccountRefused):
        harness.bind(G, H)
    assert admin.replace(binding.id, phone_b=C, idempotency_key="k") == successor
    with pytest.raises(errors.ProviderAccountRefused):
        admin.replace(successor.id, phone_b=D, idempotency_key="other")


def test_no_binding_is_lost_for_an_unbind_that_the_account_is_refused(harness: ServiceHarness) -> None:
    binding, other = harness.bind(A, B), harness.bind(C, D)
    expired = harness.bind(E, F, expire_s=1)
    harness.simulator.script("refuse:-13", times=1, on="unbind")
    with pytest.raises(errors.ProviderAccountRefused):
        harness.service.unbind(other.id)
    with pytest.raises(errors.ProviderAccountRefused) as refused:
        harness.service.replace(binding.id, phone_b=G)
    assert refused.value.predecessor_ended is None
    assert harness.service.lookup(phone=A) == [binding]
    harness.clock.advance(60)
    harness.service.expire_due()
    assert harness.service.replace(expired.id).state is State.ACTIVE  # nothing is lost, and no call is needed


@pytest.mark.usefixtures("short_takeover")
def test_unclear_end_of_an_expired_binding_promises_no_repetition(harness: ServiceHarness) -> None:
    """It ends at the provider by itself: `recover` makes no call for it, unlike for one that is owed a release."""
    plain, longer = harness.bind(A, B, expire_s=HOUR), harness.bind(C, D, expire_s=HOUR, max_expire_s=2 * HOUR)
    harness.clock.advance(HOUR + 1)
    for binding, repeated in ((plain, False), (longer, True)):
        harness.simulator.script("anomaly_before", times=1, on="unbind")
        with pytest.raises(errors.OutcomeUnknown) as unclear:
            harness.service.replace(binding.id)
        assert unclear.value.binding == harness.service.get(binding.id)
        assert ("will be repeated" in str(unclear.value)) is repeated
        assert harness.service.recover().released == repeated


def test_caller_that_waited_for_a_replace_is_not_told_that_held_phones_are_free(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding, other = harness.bind(A, B), harness.open()
    met: list[errors.BindingsError] = []

    def repeat() -> None:
        try:
            other.replace(binding.id, phone_b=C, idempotency_key="k")
        except errors.BindingsError as error:
            met.append(error)

    waiting = Thread(target=repeat, daemon=True)
    read, ids_read = other.runtime.database.read, list[Any]()

    def note_and_read(work: Any, *args: Any, **kwargs: Any) -> Any:
        ids_read.extend(args)
        return read(work, *args, **kwargs)

    def begin() -> None:
        waiting.start()
        wait_for(lambda: successor_of(harness, binding).id in ids_read)

    monkeypatch.setattr(other.runtime.database, "read", note_and_read)
    harness.simulator.script("refuse:-13", times=1, on="unbind")
    with at("replace.after_unbind", begin), pytest.raises(errors.OutcomeUnknown) as first:
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    waiting.join(60)
    (second,) = met
    assert successor_of(harness, binding).state is State.FAILED
    assert isinstance(second, errors.OutcomeUnknown)
    assert (second.binding.id, second.replayed, second.predecessor_ended) == (binding.id, True, False)
    assert str(second) == str(first.value)
    assert harness.service.check(phone_a=A, phone_b=D, mode="AXB") != []


def test_used_up_key_is_not_said_to_make_another_successor(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    cancel = partial(harness.service.unbind_all, phone=A, reason="cancelled")
    with at("replace.after_begin", cancel), pytest.raises(errors.ProviderUnreachable) as refused:
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert "never sent (its unbind was requested)" in str(refused.value)
    assert "used up" in str(refused.value)
    assert "nothing has taken its place. Run" in refused.value.next_step()


def test_order_without_a_binding_is_not_told_to_wait_for_a_minute_behind_its_own_unbind(
    harness: ServiceHarness,
) -> None:
    """A provider that carries out unbinds late answers -35: a plain bind is told to wait for 2 s then."""
    binding = harness.bind(A, B)
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider) as late:
        harness.service.replace(binding.id, phone_b=C)
    assert (late.value.predecessor_ended, late.value.retry_after_s) == (True, 2)
    assert late.value.holder.held_until > harness.clock.at


def test_database_that_is_away_after_the_unbind_does_not_say_that_nothing_was_sent(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding = harness.bind(A, B)
    harness.simulator.script("anomaly_before", times=1, on="unbind")

    def refuse(*_: object, **__: object) -> None:
        raise errors.Busy

    def go_away() -> None:
        monkeypatch.setattr(harness.database, "read", refuse)

    with at("replace.after_unbind", go_away), pytest.raises(errors.OutcomeUnknown) as unclear:
        harness.service.replace(binding.id, phone_b=C)
    monkeypatch.undo()
    assert (unclear.value.binding.id, unclear.value.predecessor_ended) == (binding.id, False)
    assert harness.service.get(binding.id).unbind_requested_at is not None


@pytest.mark.parametrize("is_look", [True, False])
def test_stale_row_of_the_predecessor_is_not_adopted_as_its_successor(
    harness: ServiceHarness, is_look: bool
) -> None:
    """The list is late; the successor of the same pair ends at the same instant, and its reply is lost."""
    looks = Looks(harness)
    service = looks.service
    harness.simulator.change(list_lag_s=50.0)
    shared: dict[str, Any] = {"pool_number": POOL, "expire_s": 2 * HOUR, "mode": "AXB"}
    binding = service.bind(phone_a=A, phone_b=B, **shared)
    service.bind(phone_a=C, phone_b=D, **shared)
    harness.clock.advance(HOUR)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        service.replace(binding.id, expire_s=HOUR)
    doubt = unknown.value.binding
    harness.clock.at = doubt.settle_by
    find = looks.look if is_look else service.reconcile
    find()
    assert service.get(doubt.id).state is State.IN_DOUBT
    assert service.lookup(phone=A) == []
    harness.clock.advance(90)
    find()
    adopted = service.get(doubt.id)
    entry = harness.entry(adopted)
    assert (adopted.state, adopted.bind_id == binding.bind_id) == (State.ACTIVE, False)
    assert (adopted.middle_number_a, entry.unbound_at) == (entry.middle_number_a, None)


def test_extension_whose_response_was_lost_is_not_refused_as_too_long(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction runs again a second later: then the same time would end after the provider's end."""
    clock = harness.clock
    service = harness.open(host_clock=HostClock(wall=clock.unix, monotonic=clock.unix))
    binding = harness.bind(A, B, expire_s=60, max_expire_s=HOUR)
    write = service.runtime.database.write

    def lose_response(*args: Any, **kwargs: Any) -> Any:
        write(*args, **kwargs)
        clock.advance(1)
        return write(*args, **kwargs)

    monkeypatch.setattr(service.runtime.database, "write", lose_response)
    extended = service.extend(binding.id, expire_s=HOUR)
    assert extended.expires_at == clock.at + timedelta(seconds=HOUR - 1)
    with pytest.raises(errors.InvalidRequest, match="at most 3598 now"):
        service.extend(binding.id, expire_s=HOUR)
