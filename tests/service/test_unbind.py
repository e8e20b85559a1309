"""Unbind: the wish first, then the call, then a clear answer or none; in every state."""

from __future__ import annotations

import threading

import pytest
from uuid_utils.compat import uuid7

from bindings import errors
from bindings.domain.binding import Binding, Caller, EventKind, Reason, State
from bindings.store import settle
from tests.service.world import A, B, C, World, in_threads, wait_for


def test_a_confirmed_unbind_ends_the_binding_and_frees_its_phones_at_once(world: World) -> None:
    made = world.bind(A, B)
    world.clock.advance(10)
    ended = world.service.unbind(made.id, reason="trip ended")
    assert (ended.state, ended.reason) == (State.UNBOUND, Reason.ASKED)
    assert ended.unbind_requested_at == ended.ended_at == ended.held_until == world.clock()
    assert world.kinds(made)[2:] == [EventKind.UNBIND_REQUESTED, EventKind.UNBOUND]
    assert world.entry(made).unbound_at is not None
    assert world.bind(A, C).state is State.ACTIVE


def test_unbinding_again_returns_the_row_and_calls_nobody(world: World) -> None:
    made = world.bind(A, B)
    assert world.service.unbind(made.id) == world.service.unbind(made.id)
    assert world.received("unbind") == 1


def test_I4_an_unbind_that_the_provider_does_not_know_keeps_the_guard(world: World) -> None:
    made = world.bind(A, B, expire_s=3_600)
    world.simulator.remove_binding(str(made.bind_id))
    ended = world.service.unbind(made.id)
    assert (ended.state, ended.reason) == (State.UNBOUND, Reason.NOT_FOUND)
    assert (ended.held_until - world.clock()).total_seconds() == 36
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C)
    world.clock.at = ended.held_until
    assert world.bind(A, C).state is State.ACTIVE


def test_the_guard_of_a_missing_binding_never_outlasts_its_own_hold(world: World) -> None:
    made = world.bind(A, B, expire_s=3_600)
    world.simulator.remove_binding(str(made.bind_id))
    world.clock.at = made.held_until
    world.clock.advance(-50)
    assert world.service.unbind(made.id).held_until <= made.held_until


UNCLEAR = ["lost_reply", "reset_before", "anomaly_after", "bad_gateway", "garbage", "cut_body", "redirect"]


@pytest.mark.parametrize("fault", UNCLEAR)
def test_an_unclear_unbind_keeps_the_phones_and_recover_repeats_it_until_it_is_clear(
    world: World, fault: str
) -> None:
    made = world.bind(A, B)
    world.simulator.script(fault, times=2, on="unbind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.service.unbind(made.id)
    assert unknown.value.binding.id == made.id
    open_one = world.service.get(made.id)
    assert (open_one.state, open_one.held_until) == (State.ACTIVE, made.held_until)
    assert world.service.lookup(phone=A) == []
    assert [doubt.id for doubt in world.service.doubts()] == [made.id]
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C)
    assert world.service.recover().still_unclear == 1
    assert world.service.recover().unbound == 1
    assert world.service.get(made.id).state is State.UNBOUND
    assert world.service.doubts() == []
    assert world.bind(C, "9188067755").state is State.ACTIVE


def test_an_unbind_that_cannot_be_sent_stays_wished_for(world: World) -> None:
    made = world.bind(A, B)
    world.simulator.stop()
    with pytest.raises(errors.ProviderUnreachable) as unreachable:
        world.service.unbind(made.id)
    assert unreachable.value.binding_id == made.id
    assert world.service.lookup(phone=A) == []
    world.simulator.start()
    assert world.service.recover().unbound == 1


def test_an_unbind_that_the_account_forbids_stays_wished_for(world: World) -> None:
    made = world.bind(A, B)
    world.simulator.change(account_status="-30")
    with pytest.raises(errors.ProviderAccountRefused):
        world.service.unbind(made.id)
    world.simulator.change(account_status=None)
    world.service.recover()
    assert world.service.get(made.id).state is State.UNBOUND


def test_unbind_sends_the_binding_s_own_app_id(world: World) -> None:
    made = world.bind(A, B, app_id="other")
    assert world.service.unbind(made.id).reason == Reason.ASKED
    assert world.entry(made).unbound_at is not None


def test_a_wish_on_a_pending_binding_is_carried_out_on_its_success(world: World) -> None:
    world.simulator.script("delay_before", times=1, seconds=0.4, on="bind")
    made: list[Binding] = []
    thread = threading.Thread(target=lambda: made.append(world.bind(A, B)), daemon=True)
    thread.start()
    wait_for(lambda: world.received("bind") == 1)
    (intent,) = world.service.search().data
    with pytest.raises(errors.OutcomeUnknown):
        world.service.unbind(intent.id)
    assert world.received("unbind") == 0
    thread.join(10)
    assert made[0].state is State.UNBOUND
    assert world.entry(made[0]).unbound_at is not None


def test_a_wish_on_a_doubt_is_carried_out_on_its_adoption(world: World) -> None:
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.bind(A, B)
    doubt = unknown.value.binding
    with pytest.raises(errors.OutcomeUnknown):
        world.service.unbind(doubt.id)
    assert world.received("unbind") == 0
    world.clock.advance(60)
    assert world.service.reconcile().adopted == 1
    assert world.service.get(doubt.id).state is State.UNBOUND


@pytest.mark.parametrize("fault", ["refuse:-22"])
def test_unbinding_a_failed_binding_returns_it(world: World, fault: str) -> None:
    world.simulator.script(fault, times=1, on="bind")
    with pytest.raises(errors.ProviderRefused) as refused:
        world.bind(A, B)
    assert world.service.unbind(str(refused.value.binding_id)).state is State.FAILED
    assert world.received("unbind") == 0


def test_unbinding_an_expired_or_lapsed_binding_returns_it(world: World) -> None:
    made = world.bind(A, B, expire_s=60)
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.bind(C, "9188067755", expire_s=60)
    world.clock.advance(10_000)
    world.service.expire_due()
    world.service.recover()
    assert world.service.unbind(made.id).state is State.EXPIRED
    assert world.service.unbind(unknown.value.binding.id).state is State.LAPSED
    assert world.received("unbind") == 0


def test_what_is_not_there_cannot_be_unbound(world: World) -> None:
    for name in (str(uuid7()), "1002", ""):
        with pytest.raises(errors.NotFound):
            world.service.unbind(name)


def test_where_the_sweep_won_the_binding_stays_expired_and_its_phones_are_let_go(world: World) -> None:
    made = world.bind(A, B, expire_s=60)
    caller = Caller(actor="test")
    world.clock.advance(59)
    world.database.write(lambda tx: settle.request_unbind(tx, made.id, caller, None))
    world.clock.advance(2)
    world.service.expire_due()
    after = world.database.write(lambda tx: settle.settle_unbound(tx, made.id, caller, reason=Reason.ASKED))
    assert (after.state, after.held_until) == (State.EXPIRED, world.clock())
    assert world.kinds(made)[-1] is EventKind.UNBIND_CONFIRMED
    assert world.bind(A, C).state is State.ACTIVE


def test_I5_unbind_and_sweep_at_once_end_a_binding_exactly_once(world: World) -> None:
    replica = world.open()
    for _ in range(10):
        made = world.bind(A, B, expire_s=60)
        world.clock.advance(60.2)

        def unbind(made: Binding = made) -> None:
            world.service.unbind(made.id)

        assert in_threads(unbind, replica.expire_due) == []
        kinds = world.kinds(made)
        assert sum(kind in (EventKind.EXPIRED, EventKind.UNBOUND) for kind in kinds) == 1
        assert world.service.get(made.id).state.terminal
        world.clock.advance(100)


def test_twenty_unbinds_at_once_give_one_end_and_equal_answers(world: World) -> None:
    made = world.bind(A, B)
    answers: list[Binding] = []
    assert in_threads(*[lambda: answers.append(world.service.unbind(made.id)) for _ in range(20)]) == []
    assert {answer.state for answer in answers} == {State.UNBOUND}
    assert world.kinds(made).count(EventKind.UNBOUND) == 1
    assert world.kinds(made).count(EventKind.UNBIND_REQUESTED) == 1
