"""Cases that went wrong once: what one scan hides, what blocks others, and who is named."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import State
from bindings.provider import wire
from tests.service.world import A, B, C, D, E, F, G, H

if TYPE_CHECKING:
    from tests.service.world import World


def test_I4_no_absence_is_concluded_in_a_round_that_misses_a_live_binding(world: World) -> None:
    service = world.open(timestamp_tolerance_s=1)
    service.bind(phone_a=A, phone_b=B, pool_number="918806", expire_s=3_600, mode="AXB")
    hidden = service.bind(phone_a=C, phone_b=D, pool_number="918806", expire_s=3_600, mode="AXB")
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        service.bind(phone_a=E, phone_b=F, pool_number="918806", expire_s=3_600, mode="AXB")
    doubt = unknown.value.binding.id
    for entry in world.simulator.ledger.entries()[1:]:
        world.simulator.remove_binding(entry.bind_id)
    world.clock.advance(60)
    first = service.reconcile()
    assert (first.ghosts, first.absent, service.get(doubt).state) == (1, 0, State.IN_DOUBT)
    assert service.get(hidden.id).state is State.UNBOUND
    world.clock.advance(60)
    second = service.reconcile()
    assert (second.absent, service.get(doubt).state) == (1, State.FAILED)


def test_one_unbind_that_is_refused_for_ever_keeps_no_other_from_its_turn(world: World) -> None:
    for binding in (world.bind(A, B), world.bind(C, D)):
        world.simulator.script("lost_reply", times=1, on="unbind")
        with pytest.raises(errors.OutcomeUnknown):
            world.service.unbind(binding.id)
    world.simulator.script("refuse:-22", times=1, on="unbind")
    counts = world.service.recover()
    assert (counts.unbound, counts.still_unclear) == (1, 1)
    assert world.service.recover().unbound == 1


def test_a_phone_that_the_provider_found_in_use_is_held_as_long_as_the_error_says(world: World) -> None:
    world.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider) as refused:
        world.bind(A, B, idempotency_key="once")
    holder = refused.value.holder
    assert (holder.retry_after_s, holder.held_until) == (60, world.clock() + timedelta(seconds=60))
    with pytest.raises(errors.PhoneInUseAtProvider) as here:
        world.bind(A, G)
    assert here.value.holder.held_until == holder.held_until
    with pytest.raises(errors.PhoneInUseAtProvider) as again:
        world.bind(A, B, idempotency_key="once")
    assert again.value.holder.held_until == holder.held_until


def test_a_binding_of_ours_that_explains_the_refusal_is_named(world: World) -> None:
    ours = world.bind(A, B, mode="AXXB")
    world.simulator.change(policy="strict")
    with pytest.raises(errors.PhoneInUseAtProvider) as refused:
        world.bind(A, H, mode="AXB")
    assert refused.value.holder.id == ours.id
    world.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider):
        world.bind(C, D)
    assert world.service.stats()["by_met"] == {"AXB met AXXB active": 1, "AXB met nothing of ours": 1}


@pytest.mark.parametrize("wrong", ["a" * 129, "a\x00b", ""])
def test_who_acts_must_fit_the_history(world: World, wrong: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="request_id"):
        world.service.as_caller(request_id=wrong)


@pytest.mark.parametrize(
    ("field", "value"),
    [(wire.BIND_ID, "9" * 65), (wire.MIDDLE_NUMBER_A, "9" * 33), (wire.MIDDLE_NUMBER_B, "+91 880 6")],
)
def test_an_answer_that_would_not_fit_its_column_is_no_answer(field: str, value: str) -> None:
    data = {wire.BIND_ID: 1, wire.MIDDLE_NUMBER_A: "918806", wire.MIDDLE_NUMBER_B: "918806"} | {field: value}
    with pytest.raises(wire.Malformed, match=field):
        wire.read_bound(data)


def test_a_middle_number_is_kept_without_a_plus_and_a_status_as_long_as_its_column() -> None:
    plus = {wire.BIND_ID: 1, wire.MIDDLE_NUMBER_A: "+918806", wire.MIDDLE_NUMBER_B: "918806"}
    assert wire.read_bound(plus).middle_number_a == "918806"
    assert wire.read_envelope(b'{"status":"INTERNAL_SERVER_ERROR"}').status == "INTERNAL_SERVER_"
