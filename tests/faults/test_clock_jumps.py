"""The deciding clock jumps and comes back: nothing is held, ended or freed by an instant that was wrong.

On PostgreSQL the server's clock jumps, on SQLite the host's wall clock. The provider's clock does not, and its
list shows what it really holds.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from bindings import failpoints
from bindings.domain.binding import State
from bindings.errors import BindingsError, Busy, OutcomeUnknown
from bindings.jobs.registry import EXPIRE, RECONCILE, RECOVER, RETENTION, WARN
from bindings.jobs.runner import JobRunner
from bindings.store.schema import bindings
from bindings.webhooks.sender import RETRIES_S, deliver_pending, send_test
from tests.service.harness import wait_for
from tests.store.databases import MOSTLY_POSTGRES
from tests.web.receivers import Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from bindings.store.deliveries import Delivery
    from tests.faults.harness import Experiment, FaultHarness

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
LIFE_S = 600
JUMPS_S = {"+1 h": 3_600.0, "+1 y": 365 * 86_400.0, "-1 h": -3_600.0}
AGREE_S = 11.0  # past the time between the two readings that end a doubt

jumps = pytest.mark.parametrize("by_s", JUMPS_S.values(), ids=JUMPS_S)
databases = pytest.mark.parametrize("kind", MOSTLY_POSTGRES)


@contextmanager
def jumping(fault_harness: FaultHarness, kind: str) -> Iterator[tuple[Experiment, BindingService]]:
    """Provide an experiment, and a service in this process whose deciding clock the experiment moves."""
    with (
        fault_harness.experiment(kind) as experiment,
        experiment.service(clock=experiment.clock.host_clock) as service,
    ):
        yield experiment, service


@contextmanager
def at_fail_point(name: str, action: Callable[[], object]) -> Iterator[None]:
    """Run `action` each time that this process passes a fail point."""

    def run(passed: str) -> None:
        if passed == name:
            action()

    failpoints.install(run)
    try:
        yield
    finally:
        failpoints.install(None)


def bind(service: BindingService, phone_a: str, phone_b: str, mode: str = "AXB") -> Binding:
    pool = phone_a[-3:]  # the oracle knows requests apart by their pools
    return service.bind(phone_a=phone_a, phone_b=phone_b, pool_number=pool, expire_s=LIFE_S, mode=mode)


def end_doubt(experiment: Experiment, service: BindingService) -> None:
    """Let the process compare its clocks twice, far enough apart to believe the database's again."""
    for _ in range(2):
        experiment.clock.advance(AGREE_S)
        with suppress(Busy):
            service.runtime.clocks.require_trusted_database()


@databases
@jumps
def test_bind_that_meets_a_jump_writes_nothing_and_holds_nothing(
    fault_harness: FaultHarness, kind: str, by_s: float
) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        bind(service, A, B)
        experiment.clock.jump(by_s)
        with pytest.raises(Busy):
            bind(service, C, D)
        assert [binding.phone_a for binding in service.search().data] == [A]
        assert experiment.simulator.counts.received["bind"] == 1
        experiment.clock.jump(-by_s)
        end_doubt(experiment, service)
        assert service.check(phone_a=C, phone_b=D, mode="AXB") == []
        assert bind(service, C, D).state is State.ACTIVE
        experiment.assert_sound()


@databases
@jumps
@pytest.mark.parametrize("answer", ["refuse:-22", "refuse:-41", "refuse:-35", "refuse_connection"])
def test_failure_recorded_after_a_jump_holds_no_phone_for_its_length(
    fault_harness: FaultHarness, kind: str, by_s: float, answer: str
) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        if answer == "refuse_connection":
            service.runtime.require_client().close()
        else:
            experiment.simulator.script(answer, times=1, on="bind")
        with at_fail_point("bind.after_answer", lambda: experiment.clock.jump(by_s)), pytest.raises(BindingsError):
            bind(service, C, D)
        [failed] = service.search().data
        assert failed.state is State.FAILED
        assert failed.ended_at is not None
        assert (
            failed.requested_at <= failed.ended_at <= failed.held_until < failed.requested_at + timedelta(hours=1)
        )
        experiment.clock.jump(-by_s)
        held = service.check(phone_a=C, phone_b=D, mode="AXB")
        assert all(holder.foreign and holder.retry_after_s < 2 * 60 for holder in held), "the hold of a -35 stays"
        assert bool(held) == (answer == "refuse:-35")


@databases
def test_failed_binding_holds_nothing_regardless_of_its_held_until(fault_harness: FaultHarness, kind: str) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        experiment.simulator.script("refuse:-22", times=1, on="bind")
        with pytest.raises(BindingsError):
            bind(service, A, B)
        [failed] = service.search().data
        later = failed.requested_at + timedelta(days=365)
        service.runtime.database.write(
            lambda tx: tx.connection.execute(update(bindings).values(held_until=later, ended_at=later))
        )
        assert service.check(phone_a=A, phone_b=B, mode="AXB") == []
        assert bind(service, A, B).state is State.ACTIVE


@databases
@jumps
def test_unbind_confirmed_after_a_jump_ends_within_the_life_of_the_binding(
    fault_harness: FaultHarness, kind: str, by_s: float
) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        bound = bind(service, A, B)
        with at_fail_point("unbind.after_answer", lambda: experiment.clock.jump(by_s)):
            ended = service.unbind(bound.id)
        assert ended.state is State.UNBOUND
        assert ended.ended_at is not None
        assert bound.requested_at <= ended.ended_at <= ended.held_until <= bound.held_until


@databases
@jumps
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed before", "noticed by the unbind"])
def test_unbind_under_a_jumped_clock_makes_its_call(
    fault_harness: FaultHarness, kind: str, by_s: float, noticed: bool
) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        bound = bind(service, A, B)
        experiment.clock.jump(by_s)
        if noticed:
            with pytest.raises(Busy):
                bind(service, C, D)
        ended = service.unbind(bound.id, reason="trip ended")
        assert (ended.state, experiment.simulator.counts.decided["unbind"]["0"]) == (State.UNBOUND, 1)
        assert not experiment.simulator.ledger.live(experiment.clock.unix())
        assert ended.ended_at is not None
        assert bound.requested_at <= ended.ended_at <= ended.held_until <= bound.held_until
        assert service.unbind(bound.id).state is State.UNBOUND, "safe to repeat"
        experiment.clock.jump(-by_s)
        end_doubt(experiment, service)
        assert service.check(phone_a=A, phone_b=B, mode="AXB") == [], "a confirmed unbind frees the phones"


@databases
@jumps
def test_unclear_unbind_is_repeated_by_recover_under_a_jumped_clock(
    fault_harness: FaultHarness, kind: str, by_s: float
) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        bound = bind(service, A, B)
        experiment.clock.jump(by_s)
        experiment.simulator.script("lost_reply", times=1, on="unbind")
        with pytest.raises(OutcomeUnknown):
            service.unbind(bound.id)
        assert service.get(bound.id).state is State.ACTIVE
        assert service.recover().unbound == 1
        assert service.get(bound.id).state is State.UNBOUND


@databases
@pytest.mark.parametrize("by_s", [3_600.0, 365 * 86_400.0])
@pytest.mark.parametrize("how", ["library", "scheduler"])
def test_nothing_ends_by_time_under_a_jumped_clock(
    fault_harness: FaultHarness, kind: str, by_s: float, how: str
) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        bound = bind(service, A, B)
        experiment.simulator.script("lost_reply", times=1, on="bind")
        with pytest.raises(OutcomeUnknown) as unknown:
            bind(service, C, D)
        doubt = unknown.value.binding
        experiment.clock.jump(by_s)
        if how == "library":
            for call in (service.expire_due, service.reconcile, service.maintenance.apply_retention):
                with pytest.raises(Busy):
                    call()
            assert service.recover().lapsed == 0
            with pytest.raises(Busy):
                service.mark_absent(doubt.id, reason="not in the provider's list")
        else:
            for job in (EXPIRE, WARN, RECOVER, RECONCILE, RETENTION):
                with pytest.raises(Busy):
                    JobRunner(service.runtime).run_once_per_period(job, 1.0)
        assert service.get(bound.id).state is State.ACTIVE
        assert service.get(doubt.id).state in {State.PENDING, State.IN_DOUBT}
        experiment.clock.jump(-by_s)
        end_doubt(experiment, service)
        assert [holder.id for holder in service.check(phone_a=A, phone_b=B, mode="AXB")] == [bound.id]
        assert service.reconcile().adopted == 1
        experiment.assert_sound()


@databases
def test_jump_between_two_batches_of_expire_ends_nothing_more(fault_harness: FaultHarness, kind: str) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        bound = bind(service, A, B)
        JobRunner(service.runtime).run(EXPIRE)
        with at_fail_point("expire.after_batch", lambda: None):
            experiment.clock.jump(3_600.0)
            with pytest.raises(Busy):
                service.expire_due()
        assert service.get(bound.id).state is State.ACTIVE


@databases
@jumps
@pytest.mark.parametrize("missing", ["ghost", "doubt"])
def test_jump_during_a_scan_ends_nothing_that_it_did_not_list(
    fault_harness: FaultHarness, kind: str, by_s: float, missing: str
) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        witness = bind(service, A, B)
        bound = bind(service, C, D) if missing == "ghost" else bind_in_doubt(experiment, service)
        experiment.clock.advance(400.0)  # past the age of a timestamp: absence can be proved
        if missing == "ghost":
            experiment.simulator.list_as(int(bound.bind_id or 0), hidden=True)
        jump = at_fail_point("reconcile.after_second_scan", lambda: experiment.clock.jump(by_s))
        with jump, pytest.raises(Busy):
            service.reconcile()
        assert service.get(bound.id) == bound
        experiment.clock.jump(-by_s)
        end_doubt(experiment, service)
        result = service.reconcile()
        assert (result.ghosts, result.absent) == ((1, 0) if missing == "ghost" else (0, 1))
        assert service.get(witness.id).state is State.ACTIVE


def bind_in_doubt(experiment: Experiment, service: BindingService) -> Binding:
    """Return a binding in doubt that the provider has not made."""
    experiment.simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(OutcomeUnknown) as unknown:
        bind(service, C, D)
    return service.get(unknown.value.binding.id)


@databases
def test_other_process_that_was_there_before_the_jump_ends_nothing(fault_harness: FaultHarness, kind: str) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        bound = bind(service, A, B)
        with experiment.service(clock=experiment.clock.host_clock) as other:
            experiment.clock.jump(3_600.0)
            with pytest.raises(Busy):
                other.expire_due()
            assert other.unbind(bound.id).state is State.UNBOUND
        assert not experiment.simulator.ledger.live(experiment.clock.unix())


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
@pytest.mark.parametrize("place", ["bind.after_reserve", "bind.before_send", "bind.after_answer"])
def test_phones_are_held_past_the_end_at_the_provider_after_a_pause_that_no_clock_counted(
    fault_harness: FaultHarness, kind: str, place: str
) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        with at_fail_point(place, lambda: experiment.clock.suspend(12.0)):
            bound = bind(service, A, B)
        [entry] = experiment.simulator.ledger.live(experiment.clock.unix())
        assert bound.held_until.timestamp() >= entry.ended_at + experiment.rules.guard_s - 0.01
        assert bound.expires_at is not None
        assert bound.expires_at.timestamp() <= entry.ended_at
        experiment.assert_sound()


@databases
@pytest.mark.parametrize("by_s", [3_600.0, 365 * 86_400.0])
def test_success_recorded_after_a_jump_is_held_for_its_longest_life_at_most(
    fault_harness: FaultHarness, kind: str, by_s: float
) -> None:
    with jumping(fault_harness, kind) as (experiment, service):
        with at_fail_point("bind.after_answer", lambda: experiment.clock.jump(by_s)):
            bound = bind(service, A, B)
        longest_s = 5.0 + experiment.rules.tolerance_s + LIFE_S + experiment.rules.guard_s
        assert bound.held_until <= bound.requested_at + timedelta(seconds=longest_s)
        experiment.clock.jump(-by_s)
        experiment.assert_sound()


@databases
@jumps
def test_webhook_that_fails_in_a_jump_is_tried_again_after_its_own_wait(
    fault_harness: FaultHarness, kind: str, by_s: float
) -> None:
    with jumping(fault_harness, kind) as (experiment, service), Receiver() as receiver:
        receiver.answers = lambda _: Reply(status=500)
        webhook = service.webhooks.add(url=receiver.url, kinds=("activated",)).webhook
        bind(service, A, B)

        def deliver() -> Delivery:
            wait_for(lambda: bool(deliver_pending(service.runtime).failed))
            [delivery] = service.webhooks.deliveries(webhook.id).data
            return delivery

        before = deliver()
        experiment.clock.jump(by_s)
        with suppress(Busy):
            service.runtime.clocks.require_trusted_database()
        assert service.runtime.clocks.database_error is not None
        assert deliver_pending(service.runtime).failed == 0, "its wait is not over"
        experiment.clock.advance(RETRIES_S[0] * 2)
        during = deliver()
        assert during.attempts == before.attempts + 1
        waits_s = (during.next_at - before.next_at).total_seconds()
        assert 0 < waits_s < 2 * RETRIES_S[1], "it waits by the clock that was right"
        experiment.clock.jump(-by_s)
        end_doubt(experiment, service)
        receiver.answers = lambda _: Reply()
        experiment.clock.advance(RETRIES_S[1] * 2)
        assert deliver_pending(service.runtime).delivered == 1


@pytest.mark.parametrize("kind", [pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_webhooks_are_signed_by_the_clock_of_the_database(fault_harness: FaultHarness, kind: str) -> None:
    """This machine's clock is ten minutes behind the server's: a receiver would refuse its signatures."""
    with jumping(fault_harness, kind) as (experiment, service), Receiver() as receiver:
        webhook = service.webhooks.add(url=receiver.url, kinds=("activated",)).webhook
        experiment.clock.advance(600.0)
        bind(service, A, B)
        wait_for(lambda: bool(deliver_pending(service.runtime).delivered))
        assert send_test(service.runtime, webhook.id).error is None
        experiment.clock.jump(3_600.0)
        assert send_test(service.runtime, webhook.id).error is None
        for message in receiver.messages:
            assert abs(int(message.headers["webhook-timestamp"]) - experiment.clock.unix()) < 60
        experiment.clock.jump(-3_600.0)
