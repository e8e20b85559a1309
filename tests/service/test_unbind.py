"""Unbind in every state: the request is recorded, then the call is made, with or without a clear response."""

from __future__ import annotations

import threading

import pytest
from uuid_utils.compat import uuid7

from bindings import errors
from bindings.domain.binding import Binding, Caller, EventKind, Reason, State
from bindings.store import settle
from tests.service.harness import A, B, C, ServiceHarness, hold_answers, in_threads, wait_for


def test_confirmed_unbind_ends_the_binding_and_frees_its_phones_immediately(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    harness.clock.advance(10)
    ended = harness.service.unbind(binding.id, reason="trip ended")
    assert (ended.state, ended.reason) == (State.UNBOUND, Reason.ASKED)
    assert ended.unbind_requested_at == ended.ended_at == ended.held_until == harness.clock()
    assert harness.kinds(binding)[2:] == [EventKind.UNBIND_REQUESTED, EventKind.UNBOUND]
    assert harness.entry(binding).unbound_at is not None
    assert harness.bind(A, C).state is State.ACTIVE


def test_unbind_of_an_unbound_binding_returns_it_without_a_call(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    assert harness.service.unbind(binding.id) == harness.service.unbind(binding.id)
    assert harness.received("unbind") == 1


def test_I4_unbind_unknown_to_the_provider_keeps_the_guard(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=3_600)
    harness.simulator.remove_binding(str(binding.bind_id))
    ended = harness.service.unbind(binding.id)
    assert (ended.state, ended.reason) == (State.UNBOUND, Reason.NOT_FOUND)
    assert (ended.held_until - harness.clock()).total_seconds() == 36
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    harness.clock.at = ended.held_until
    assert harness.bind(A, C).state is State.ACTIVE


def test_guard_of_a_missing_binding_never_outlasts_its_hold(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=3_600)
    harness.simulator.remove_binding(str(binding.bind_id))
    harness.clock.at = binding.held_until
    harness.clock.advance(-50)
    assert harness.service.unbind(binding.id).held_until <= binding.held_until


UNCLEAR = ["lost_reply", "reset_before", "anomaly_after", "bad_gateway", "garbage", "cut_body", "redirect"]


@pytest.mark.parametrize("fault", UNCLEAR)
def test_unclear_unbind_keeps_the_phones_and_recover_repeats_it_until_confirmed(
    harness: ServiceHarness, fault: str
) -> None:
    binding = harness.bind(A, B)
    harness.simulator.script(fault, times=2, on="unbind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.service.unbind(binding.id)
    assert excinfo.value.binding.id == binding.id
    pending_unbind = harness.service.get(binding.id)
    assert (pending_unbind.state, pending_unbind.held_until) == (State.ACTIVE, binding.held_until)
    assert harness.service.lookup(phone=A) == []
    assert [doubt.id for doubt in harness.service.doubts()] == [binding.id]
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    assert harness.service.recover().still_unclear == 1
    assert harness.service.recover().unbound == 1
    assert harness.service.get(binding.id).state is State.UNBOUND
    assert harness.service.doubts() == []
    assert harness.bind(C, "9188067755").state is State.ACTIVE


def test_unbind_that_cannot_be_sent_stays_requested(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    harness.simulator.stop()
    with pytest.raises(errors.ProviderUnreachable) as excinfo:
        harness.service.unbind(binding.id)
    assert excinfo.value.binding_id == binding.id
    assert harness.service.lookup(phone=A) == []
    harness.simulator.start()
    assert harness.service.recover().unbound == 1


def test_unbind_refused_for_the_account_stays_requested(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    harness.simulator.change(account_status="-30")
    with pytest.raises(errors.ProviderAccountRefused):
        harness.service.unbind(binding.id)
    harness.simulator.change(account_status=None)
    harness.service.recover()
    assert harness.service.get(binding.id).state is State.UNBOUND


def test_unbind_sends_the_binding_s_own_app_id(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, app_id="other")
    assert harness.service.unbind(binding.id).reason == Reason.ASKED
    assert harness.entry(binding).unbound_at is not None


def test_unbind_of_a_pending_binding_is_executed_on_its_success(harness: ServiceHarness) -> None:
    answer = hold_answers(harness.simulator)
    binding: list[Binding] = []
    thread = threading.Thread(target=lambda: binding.append(harness.bind(A, B)), daemon=True)
    thread.start()
    wait_for(lambda: harness.received("bind") == 1)
    (intent,) = harness.service.search().data
    with pytest.raises(errors.OutcomeUnknown):
        harness.service.unbind(intent.id)
    assert harness.received("unbind") == 0
    answer.set()
    thread.join(300)
    assert binding[0].state is State.UNBOUND
    assert harness.entry(binding[0]).unbound_at is not None


def test_unbind_of_a_doubt_is_executed_on_its_adoption(harness: ServiceHarness) -> None:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(A, B)
    doubt = excinfo.value.binding
    with pytest.raises(errors.OutcomeUnknown):
        harness.service.unbind(doubt.id)
    assert harness.received("unbind") == 0
    harness.clock.advance(60)
    assert harness.service.reconcile().adopted == 1
    assert harness.service.get(doubt.id).state is State.UNBOUND


@pytest.mark.parametrize("fault", ["refuse:-22"])
def test_unbind_of_a_failed_binding_returns_it(harness: ServiceHarness, fault: str) -> None:
    harness.simulator.script(fault, times=1, on="bind")
    with pytest.raises(errors.ProviderRefused) as excinfo:
        harness.bind(A, B)
    assert harness.service.unbind(str(excinfo.value.binding_id)).state is State.FAILED
    assert harness.received("unbind") == 0


def test_unbind_of_an_expired_or_lapsed_binding_returns_it(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=60)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(C, "9188067755", expire_s=60)
    harness.clock.advance(10_000)
    harness.service.expire_due()
    harness.service.recover()
    assert harness.service.unbind(binding.id).state is State.EXPIRED
    assert harness.service.unbind(excinfo.value.binding.id).state is State.LAPSED
    assert harness.received("unbind") == 0


def test_unbind_of_an_unknown_id_is_not_found(harness: ServiceHarness) -> None:
    for name in (str(uuid7()), "1002", ""):
        with pytest.raises(errors.NotFound):
            harness.service.unbind(name)


def test_unbind_confirmed_after_the_sweep_keeps_expired_and_frees_the_phones(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=60)
    caller = Caller(actor="test")
    harness.clock.advance(59)
    harness.database.write(lambda tx: settle.request_unbind(tx, binding.id, caller, None))
    harness.clock.advance(2)
    harness.service.expire_due()
    after = harness.database.write(lambda tx: settle.settle_unbound(tx, binding.id, caller, reason=Reason.ASKED))
    assert (after.state, after.held_until) == (State.EXPIRED, harness.clock())
    assert harness.kinds(binding)[-1] is EventKind.UNBIND_CONFIRMED
    assert harness.bind(A, C).state is State.ACTIVE


def test_I5_concurrent_unbind_and_sweep_end_a_binding_exactly_once(harness: ServiceHarness) -> None:
    replica = harness.open()
    for _ in range(10):
        binding = harness.bind(A, B, expire_s=60)
        harness.clock.advance(60.2)

        def unbind(binding: Binding = binding) -> None:
            harness.service.unbind(binding.id)

        assert in_threads(unbind, replica.expire_due) == []
        kinds = harness.kinds(binding)
        assert sum(kind in (EventKind.EXPIRED, EventKind.UNBOUND) for kind in kinds) == 1
        assert harness.service.get(binding.id).state.terminal
        harness.clock.advance(100)


def test_twenty_concurrent_unbinds_end_the_binding_once_and_return_the_same_state(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    results: list[Binding] = []
    assert in_threads(*[lambda: results.append(harness.service.unbind(binding.id)) for _ in range(20)]) == []
    assert {result.state for result in results} == {State.UNBOUND}
    assert harness.kinds(binding).count(EventKind.UNBOUND) == 1
    assert harness.kinds(binding).count(EventKind.UNBIND_REQUESTED) == 1
