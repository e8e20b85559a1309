"""Conflicts of bindings that share a phone: our check before the call, and the provider's refusal after it."""

from __future__ import annotations

import itertools
import threading

import pytest

from bindings import errors
from bindings.domain.binding import EventKind, Mode, State
from tests.service.harness import APP, POOL, A, B, C, D, E, ServiceHarness, feed_has_caught_up, wait_for

PAIRS = {"shares A": (A, C), "shares B": (C, B), "shares A as B": (C, A), "same pair": (A, B), "swapped": (B, A)}


@pytest.mark.parametrize("policy", ["literal", "strict"])
@pytest.mark.parametrize(("first_mode", "second_mode"), list(itertools.product(("AXB", "AXXB"), repeat=2)))
@pytest.mark.parametrize("relation", PAIRS)
def test_I1_conflict_policy_matches_the_provider(
    harness: ServiceHarness, policy: str, first_mode: str, second_mode: str, relation: str
) -> None:
    harness.simulator.change(policy=policy)
    service = harness.open(conflict_policy=policy)
    first = service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode=first_mode)
    a, b = PAIRS[relation]
    holders = service.check(phone_a=a, phone_b=b, mode=second_mode)
    same = relation in ("same pair", "swapped")
    conflicts = first_mode == "AXB" or same or policy == "strict"
    if not conflicts:
        assert holders == []
        assert (
            service.bind(phone_a=a, phone_b=b, pool_number=POOL, expire_s=60, mode=second_mode).state
            is State.ACTIVE
        )
    else:
        with pytest.raises(errors.PhoneInUse) as in_use:
            service.bind(phone_a=a, phone_b=b, pool_number=POOL, expire_s=60, mode=second_mode)
        assert type(in_use.value) is errors.PhoneInUse
        assert in_use.value.holder == holders[0]
        assert (holders[0].id, holders[0].mode, holders[0].state) == (first.id, Mode(first_mode), State.ACTIVE)
        assert harness.received("bind") == 1
    assert "-35" not in harness.simulator.counts.decided["bind"]
    assert harness.simulator.ledger.overlaps(policy) == ()


def test_refusal_names_the_holder_and_when_to_retry_and_is_recorded(harness: ServiceHarness) -> None:
    first = harness.bind(A, B, reference="order-42", expire_s=600)
    with pytest.raises(errors.PhoneInUse) as in_use:
        harness.bind(A, C, reference="order-43")
    holder = in_use.value.holder
    assert (holder.id, holder.reference, holder.held_until) == (first.id, "order-42", first.held_until)
    assert 600 <= (in_use.value.retry_after_s or 0) <= 607
    feed_has_caught_up(harness.service)
    (note,) = [event for event in harness.service.export_events() if event.kind is EventKind.REFUSED]
    assert (note.binding_id, note.sequence) == (None, 0)
    assert (note.detail["holder_id"], note.reference) == (first.id, "order-43")
    assert len(harness.service.search().data) == 1


def test_refusal_by_two_holders_names_the_one_that_holds_longer(harness: ServiceHarness) -> None:
    """A caller that waits for `retry_after_s` must not be refused again by a holder that was there before."""
    shorter, longer = harness.bind(A, C, expire_s=600), harness.bind(B, D, expire_s=1_200)
    for phone_a, phone_b in ((A, B), (B, A)):
        with pytest.raises(errors.PhoneInUse) as in_use:
            harness.bind(phone_a, phone_b)
        assert in_use.value.holder.id == longer.id
        holders = harness.service.check(phone_a=phone_a, phone_b=phone_b, mode="AXB")
        assert [holder.id for holder in holders] == [longer.id, shorter.id]
    harness.clock.advance(in_use.value.retry_after_s or 0)
    assert harness.bind(A, B).state is State.ACTIVE


def test_I4_phone_stays_held_through_the_guard_after_expiry(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=60)
    assert binding.expires_at is not None
    harness.clock.at = binding.held_until - (binding.held_until - binding.expires_at) / 2
    harness.service.expire_due()
    assert harness.service.get(binding.id).state is State.EXPIRED
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    harness.clock.at = binding.held_until
    assert harness.bind(A, C).state is State.ACTIVE


def test_I4_phone_is_free_after_held_until_without_a_sweep(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=60)
    harness.clock.at = binding.held_until
    assert harness.service.get(binding.id).state is State.ACTIVE
    assert harness.bind(B, C).state is State.ACTIVE


def test_axxb_in_doubt_refuses_axb_and_allows_axxb(harness: ServiceHarness) -> None:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(A, B, "AXXB")
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C, "AXB")
    assert harness.bind(A, D, "AXXB").state is State.ACTIVE
    with pytest.raises(errors.PhoneInUse):
        harness.bind(B, A, "AXXB")


def test_check_reserves_nothing(harness: ServiceHarness) -> None:
    assert harness.service.check(phone_a=A, phone_b=B, mode="AXB") == []
    assert harness.bind(A, B).state is State.ACTIVE


def test_I1_concurrent_binds_of_one_phone_succeed_exactly_once(harness: ServiceHarness) -> None:
    replicas = [harness.service, harness.open()]
    barrier = threading.Barrier(12)
    bound_ids: list[str] = []
    raised: list[BaseException] = []

    def bind(number: int) -> None:
        barrier.wait(300)
        other = f"91880680{number:02}"
        pair = (A, other) if number % 2 else (other, A)
        try:
            binding = replicas[number % 2].bind(
                phone_a=pair[0], phone_b=pair[1], pool_number=POOL, expire_s=60, mode="AXB"
            )
            bound_ids.append(binding.id)
        except errors.BindingsError as error:
            raised.append(error)

    threads = [threading.Thread(target=bind, args=(number,), daemon=True) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert (len(bound_ids), {type(error) for error in raised}) == (1, {errors.PhoneInUse})
    assert harness.received("bind") == 1


def test_other_application_of_the_account_is_refused_by_the_same_holds(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C, app_id="other")


def test_foreign_holder_is_learned_from_minus_35_and_held_for_a_minute(harness: ServiceHarness) -> None:
    harness.service.lookup(phone=A)
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=E, app_id="foreign-app")
    with pytest.raises(errors.PhoneInUseAtProvider) as first:
        harness.bind(A, B)
    assert first.value.holder.foreign
    with pytest.raises(errors.PhoneInUseAtProvider) as second:
        harness.bind(B, C)
    assert (second.value.holder.why, second.value.retry_after_s) == ("refused", 60)
    assert harness.received("bind") == 1
    assert EventKind.HELD in harness.all_kinds()


def test_foreign_hold_doubles_while_the_provider_keeps_refusing(harness: ServiceHarness) -> None:
    harness.service.lookup(phone=A)
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=E, app_id="foreign-app", expire_s=259_200)
    waits = []
    for _ in range(3):
        with pytest.raises(errors.PhoneInUseAtProvider):
            harness.bind(A, B)
        (holder, *_) = harness.service.check(phone_a=A, phone_b=B, mode="AXB")
        waits.append(holder.retry_after_s)
        harness.clock.at = holder.held_until
    assert waits == [60, 120, 240]


@pytest.mark.parametrize("shared", ["pair", "one phone"])
def test_minus_35_right_after_our_unbind_holds_for_seconds(harness: ServiceHarness, shared: str) -> None:
    harness.simulator.change(release_lag_s=3)
    harness.service.unbind(harness.bind(A, B).id)
    other = B if shared == "pair" else C
    waits = []
    for _ in range(2):
        with pytest.raises(errors.PhoneInUseAtProvider) as excinfo:
            harness.bind(A, other)
        assert excinfo.value.status == "-35"
        waits.append(excinfo.value.retry_after_s)
        harness.clock.advance(waits[-1] or 0)
    assert waits == [2, 4]
    assert harness.bind(A, other).state is State.ACTIVE


def test_hold_after_our_unbind_doubles_to_a_minute_while_the_provider_keeps_refusing(
    harness: ServiceHarness,
) -> None:
    harness.simulator.change(release_lag_s=300)
    harness.service.unbind(harness.bind(A, B).id)
    waits = []
    for _ in range(8):
        with pytest.raises(errors.PhoneInUseAtProvider) as excinfo:
            harness.bind(A, B)
        waits.append(excinfo.value.retry_after_s)
        harness.clock.advance(waits[-1] or 0)
    assert waits == [2, 4, 8, 16, 32, 60, 60, 120], "after two minutes the unbind explains it no longer"


def test_minus_35_long_after_our_unbind_is_drift(harness: ServiceHarness) -> None:
    harness.simulator.change(release_lag_s=300)
    harness.service.unbind(harness.bind(A, B).id)
    harness.clock.advance(11)
    with pytest.raises(errors.PhoneInUseAtProvider) as excinfo:
        harness.bind(A, B)
    assert excinfo.value.retry_after_s == 60


def test_minus_35_after_an_unbind_confirmed_past_the_end_holds_for_seconds(
    harness: ServiceHarness,
) -> None:
    binding = harness.bind(A, B, expire_s=60)
    harness.simulator.script("delay", times=1, on="unbind", seconds=0.3)
    pausing = threading.Thread(target=harness.service.unbind, args=(binding.id,))
    pausing.start()
    wait_for(lambda: harness.received("unbind") == 1)
    harness.clock.advance(61)
    harness.service.expire_due()
    pausing.join(10)
    assert harness.kinds(binding)[-1] is EventKind.UNBIND_CONFIRMED
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider) as excinfo:
        harness.bind(A, B)
    assert excinfo.value.retry_after_s == 2


def test_minus_35_under_a_mismatched_policy_names_our_own_binding(harness: ServiceHarness) -> None:
    harness.simulator.change(policy="strict")
    own = harness.bind(A, B, "AXXB")
    with pytest.raises(errors.PhoneInUseAtProvider) as excinfo:
        harness.bind(A, C, "AXB")
    (*_, failed) = harness.service.history(str(excinfo.value.binding_id))
    assert [holder["id"] for holder in failed.detail["met"]] == [own.id]
    assert failed.detail["own"] == [], "the policy allows the bind, so it was right to call the provider"


def test_foreign_holder_is_held_also_next_to_our_binding_that_the_policy_allows(harness: ServiceHarness) -> None:
    """Regression: our AXXB on A hid a foreign AXB on C as the cause of -35, so that every bind was sent."""
    harness.bind(A, B, "AXXB")
    harness.simulator.add_foreign_binding(phone_a=C, phone_b=E, app_id="foreign-app", expire_s=3_600)
    for _ in range(2):
        with pytest.raises(errors.PhoneInUseAtProvider):
            harness.bind(A, C, "AXXB")
    assert harness.received("bind") == 2, (
        "our first bind, and one that met the foreign binding; the next was refused before the call"
    )
    (holder, *_) = harness.service.check(phone_a=C, phone_b=D, mode="AXB")
    assert (holder.why, holder.retry_after_s) == ("refused", 60)


@pytest.mark.parametrize("apart_s", [0, 100])
def test_check_has_a_holder_for_each_orphan(harness: ServiceHarness, apart_s: int) -> None:
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=C, app_id=APP, expire_s=3_600)
    harness.simulator.add_foreign_binding(phone_a=B, phone_b=D, app_id=APP, expire_s=3_600 + apart_s)
    harness.service.reconcile()
    holders = harness.service.check(phone_a=A, phone_b=B, mode="AXB")
    assert [(holder.why, holder.id) for holder in holders] == [("orphan", None)] * 2
    assert len(harness.service.check(phone_a=A, phone_b=C, mode="AXB")) == 1, "one orphan holds both"
