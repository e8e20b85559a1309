"""Who may share a phone with whom: our answer before the call, and the provider's own after it."""

from __future__ import annotations

import itertools
import threading

import pytest

from bindings import errors
from bindings.domain.binding import EventKind, Mode, State
from tests.service.world import POOL, A, B, C, D, E, World, feed_has_caught_up

PAIRS = {"shares A": (A, C), "shares B": (C, B), "shares A as B": (C, A), "same pair": (A, B), "swapped": (B, A)}


@pytest.mark.parametrize("policy", ["literal", "strict"])
@pytest.mark.parametrize(("held", "asked"), list(itertools.product(("AXB", "AXXB"), repeat=2)))
@pytest.mark.parametrize("how", PAIRS)
def test_I1_what_we_let_pass_the_provider_lets_pass_and_what_it_refuses_we_refuse_before_the_call(
    world: World, policy: str, held: str, asked: str, how: str
) -> None:
    world.simulator.change(policy=policy)
    service = world.open(conflict_policy=policy)
    first = service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode=held)
    a, b = PAIRS[how]
    holders = service.check(phone_a=a, phone_b=b, mode=asked)
    same = how in ("same pair", "swapped")
    refused = held == "AXB" or same or policy == "strict"
    if not refused:
        assert holders == []
        assert service.bind(phone_a=a, phone_b=b, pool_number=POOL, expire_s=60, mode=asked).state is State.ACTIVE
    else:
        with pytest.raises(errors.PhoneInUse) as in_use:
            service.bind(phone_a=a, phone_b=b, pool_number=POOL, expire_s=60, mode=asked)
        assert type(in_use.value) is errors.PhoneInUse
        assert in_use.value.holder == holders[0]
        assert (holders[0].id, holders[0].mode, holders[0].state) == (first.id, Mode(held), State.ACTIVE)
        assert world.received("bind") == 1
    assert "-35" not in world.simulator.counts.decided["bind"]
    assert world.simulator.ledger.overlaps(policy) == ()


def test_a_refusal_names_the_holder_and_when_to_come_back_and_is_noted(world: World) -> None:
    first = world.bind(A, B, reference="order-42", expire_s=600)
    with pytest.raises(errors.PhoneInUse) as in_use:
        world.bind(A, C, reference="order-43")
    holder = in_use.value.holder
    assert (holder.id, holder.reference, holder.held_until) == (first.id, "order-42", first.held_until)
    assert 600 <= (in_use.value.retry_after_s or 0) <= 607
    feed_has_caught_up(world.service)
    (note,) = [event for event in world.service.export_events() if event.kind is EventKind.REFUSED]
    assert (note.binding_id, note.sequence) == (None, 0)
    assert (note.detail["holder_id"], note.detail["reference"]) == (first.id, "order-43")
    assert len(world.service.search().data) == 1


def test_I4_a_phone_stays_held_through_the_guard_after_its_expiry(world: World) -> None:
    made = world.bind(A, B, expire_s=60)
    assert made.expires_at is not None
    world.clock.at = made.held_until - (made.held_until - made.expires_at) / 2
    world.service.expire_due()
    assert world.service.get(made.id).state is State.EXPIRED
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C)
    world.clock.at = made.held_until
    assert world.bind(A, C).state is State.ACTIVE


def test_I4_a_phone_is_free_after_held_until_even_with_no_sweep(world: World) -> None:
    made = world.bind(A, B, expire_s=60)
    world.clock.at = made.held_until
    assert world.service.get(made.id).state is State.ACTIVE
    assert world.bind(B, C).state is State.ACTIVE


def test_a_doubtful_axxb_refuses_an_axb_and_lets_an_axxb_pass(world: World) -> None:
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        world.bind(A, B, "AXXB")
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C, "AXB")
    assert world.bind(A, D, "AXXB").state is State.ACTIVE
    with pytest.raises(errors.PhoneInUse):
        world.bind(B, A, "AXXB")


def test_check_reserves_nothing(world: World) -> None:
    assert world.service.check(phone_a=A, phone_b=B, mode="AXB") == []
    assert world.bind(A, B).state is State.ACTIVE


def test_I1_of_many_that_want_a_phone_at_once_exactly_one_gets_it(world: World) -> None:
    replicas = [world.service, world.open()]
    together = threading.Barrier(12)
    made: list[str] = []
    refused: list[BaseException] = []

    def bind(number: int) -> None:
        together.wait(10)
        other = f"91880680{number:02}"
        pair = (A, other) if number % 2 else (other, A)
        try:
            binding = replicas[number % 2].bind(
                phone_a=pair[0], phone_b=pair[1], pool_number=POOL, expire_s=60, mode="AXB"
            )
            made.append(binding.id)
        except errors.BindingsError as error:
            refused.append(error)

    threads = [threading.Thread(target=bind, args=(number,), daemon=True) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(made), {type(error) for error in refused}) == (1, {errors.PhoneInUse})
    assert world.received("bind") == 1


def test_another_application_of_the_same_account_meets_the_same_holds(world: World) -> None:
    world.bind(A, B)
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C, app_id="other")


def test_a_foreign_holder_is_learnt_from_minus_35_and_held_for_a_minute(world: World) -> None:
    world.service.lookup(phone=A)
    world.simulator.add_foreign_binding(phone_a=A, phone_b=E, app_id="somebody-else")
    with pytest.raises(errors.PhoneInUseAtProvider) as first:
        world.bind(A, B)
    assert first.value.holder.foreign
    with pytest.raises(errors.PhoneInUseAtProvider) as second:
        world.bind(B, C)
    assert (second.value.holder.why, second.value.retry_after_s) == ("refused", 60)
    assert world.received("bind") == 1
    assert EventKind.HELD in world.all_kinds()


def test_a_foreign_hold_doubles_while_the_provider_keeps_refusing(world: World) -> None:
    world.service.lookup(phone=A)
    world.simulator.add_foreign_binding(phone_a=A, phone_b=E, app_id="somebody-else", expire_s=259_200)
    waits = []
    for _ in range(3):
        with pytest.raises(errors.PhoneInUseAtProvider):
            world.bind(A, B)
        (holder, *_) = world.service.check(phone_a=A, phone_b=B, mode="AXB")
        waits.append(holder.retry_after_s)
        world.clock.at = holder.held_until
    assert waits == [60, 120, 240]


def test_a_minus_35_under_a_policy_that_does_not_fit_names_our_own_binding(world: World) -> None:
    world.simulator.change(policy="strict")
    own = world.bind(A, B, "AXXB")
    with pytest.raises(errors.PhoneInUseAtProvider) as refused:
        world.bind(A, C, "AXB")
    (*_, failed) = world.service.history(str(refused.value.binding_id))
    assert [holder["id"] for holder in failed.detail["met"]] == [own.id]
    assert failed.detail["own"] == [], "the policy allows it: it was right to ask"


def test_a_stranger_beside_a_binding_of_ours_that_the_policy_allows_is_held_off_all_the_same(world: World) -> None:
    """Seen in a long kill run: our AXXB on A explained a stranger's AXB on C away, and each bind was sent."""
    world.bind(A, B, "AXXB")
    world.simulator.add_foreign_binding(phone_a=C, phone_b=E, app_id="somebody-else", expire_s=3_600)
    for _ in range(2):
        with pytest.raises(errors.PhoneInUseAtProvider):
            world.bind(A, C, "AXXB")
    assert world.received("bind") == 2, "ours, and one that met the stranger: the next was refused here"
    (holder, *_) = world.service.check(phone_a=C, phone_b=D, mode="AXB")
    assert (holder.why, holder.retry_after_s) == ("refused", 60)
