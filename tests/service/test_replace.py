"""Replace: a successor takes over from a binding, and the phones are never free in between."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from bindings import errors, failpoints
from bindings.domain.binding import Caller, EventKind, Reason, State
from bindings.domain.phone import Phone
from bindings.lifecycle import replace as replacing
from bindings.store import expiry, holds
from bindings.store.schema import bindings
from tests.service.harness import (
    POOL,
    A,
    B,
    C,
    D,
    E,
    ServiceHarness,
    assert_sound,
    hold_answers,
    in_threads,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.domain.binding import Binding

HOUR = 3_600
NO_NUMBER, IN_USE = "refuse:-41", "refuse:-35"


class CallerStopped(BaseException):
    """The process of a call stops at a fail point."""


@contextmanager
def at(name: str, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` the first time that the fail point is reached."""
    acted = False

    def hook(point: str) -> None:
        nonlocal acted
        if point == name and not acted:
            acted = True
            act()

    failpoints.install(hook)
    try:
        yield
    finally:
        failpoints.install(None)
    assert acted, f"{name} was not reached"


def stop() -> None:
    raise CallerStopped


@pytest.fixture
def short_takeover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a takeover last for hardly longer than its first call, so that a test of its end is quick."""
    monkeypatch.setattr(replacing, "STEPS_S", -4.9)  # of the 5 s that a call may take


def successor_of(harness: ServiceHarness, predecessor: Binding) -> Binding:
    successor_id = harness.service.get(predecessor.id).replaced_by
    assert successor_id is not None
    return harness.service.get(successor_id)


def abandoned(harness: ServiceHarness, predecessor: Binding, point: str, **changes: Any) -> Binding:
    """Begin a replace whose process stops at a fail point; return the successor."""
    with at(point, stop), pytest.raises(CallerStopped):
        harness.service.replace(predecessor.id, **changes)
    return successor_of(harness, predecessor)


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


def test_without_a_bind_nothing_can_be_replaced(harness: ServiceHarness) -> None:
    with pytest.raises(errors.NotFound):
        harness.service.replace("0190b5a0-0000-7000-8000-000000000001", phone_b=C)
    with pytest.raises(errors.InvalidRequest) as wrong:
        harness.service.replace("0190b5a0-0000-7000-8000-000000000001", phone_b="x", expire_s=0, force=None)  # type: ignore[arg-type]
    assert {error.field for error in wrong.value.field_errors} == {"phone_b", "expire_s", "force"}
    binding = harness.bind(A, B)
    with pytest.raises(errors.InvalidRequest, match="phone_b"):
        harness.service.replace(binding.id, phone_b=A)
    with pytest.raises(errors.NotFound):
        harness.service.as_caller(actor="another").replace(binding.id, phone_b=C, own_only=True)
    assert harness.kinds(binding) == [EventKind.REQUESTED, EventKind.ACTIVATED]


@pytest.mark.parametrize("state", ["pending", "in_doubt", "failed", "unbound", "unbinding"])
def test_only_active_and_expired_bindings_are_replaced(harness: ServiceHarness, state: str) -> None:
    faults = {"in_doubt": "lost_reply", "failed": NO_NUMBER}
    if state == "pending":
        with at("bind.after_reserve", stop), pytest.raises(CallerStopped):
            harness.bind(A, B)
    elif state in faults:
        harness.simulator.script(faults[state], times=1, on="bind")
        with pytest.raises(errors.BindingsError):
            harness.bind(A, B)
    else:
        bound = harness.bind(A, B)
        if state == "unbinding":
            harness.simulator.script("lost_reply", times=1, on="unbind")
            with pytest.raises(errors.OutcomeUnknown):
                harness.service.unbind(bound.id)
        else:
            harness.service.unbind(bound.id)
    (binding,) = harness.service.search().data
    calls = harness.received("unbind"), harness.received("bind")
    with pytest.raises(errors.NotActive, match="nothing was changed") as refused:
        harness.service.replace(binding.id, phone_b=C)
    assert refused.value.predecessor_ended is None
    assert (harness.received("unbind"), harness.received("bind")) == calls
    assert harness.service.get(binding.id) == binding


@pytest.mark.parametrize("swept", [True, False])
def test_expired_binding_is_replaced_without_a_call_for_it(harness: ServiceHarness, swept: bool) -> None:
    binding = harness.bind(A, B, expire_s=HOUR)
    harness.clock.advance(24 * HOUR)
    if swept:
        harness.service.expire_due()
    successor = harness.service.replace(binding.id)
    assert (harness.service.get(binding.id).state, successor.state) == (State.EXPIRED, State.ACTIVE)
    assert harness.received("unbind") == 0
    assert activated(harness, successor)["gap_s"] == pytest.approx(23 * HOUR, abs=60)


def test_release_that_is_owed_is_confirmed_by_the_takeover(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=HOUR, max_expire_s=10 * HOUR)
    harness.clock.advance(2 * HOUR)
    successor = harness.service.replace(binding.id)
    ended = harness.service.get(binding.id)
    assert (ended.state, ended.is_release_owed(harness.clock.at)) == (State.EXPIRED, False)
    assert harness.entry(binding).unbound_at is not None
    assert (successor.expire_s, successor.max_expire_s) == (HOUR, 10 * HOUR)
    assert harness.service.recover().released == 0


# What the model has found: each rule closes a trace.


@pytest.mark.parametrize("point", ["replace.after_begin", "replace.after_unbind", "replace.after_clear"])
def test_phones_and_key_are_not_free_in_between(harness: ServiceHarness, point: str) -> None:
    binding = harness.bind(A, B)
    rival = harness.open()
    seen: list[type[BaseException]] = []

    def attack() -> None:
        for phones in ((A, D), (B, E), (C, E)):
            try:
                harness.bind(*phones)
            except errors.PhoneInUse as error:
                seen.append(type(error))
        try:
            harness.bind(D, E, idempotency_key="order-1/2")
        except errors.IdempotencyMismatch as error:
            seen.append(type(error))
        assert rival.lookup(phone=A) == []

    with at(point, attack):
        successor = harness.service.replace(binding.id, phone_b=C, idempotency_key="order-1/2")
    expected = 3 if point == "replace.after_clear" else 4  # B is free once its binding has ended
    assert len(seen) == expected or point == "replace.after_unbind"
    assert harness.service.lookup(phone=A) == [successor]
    assert len(harness.simulator.ledger) == 2 + (expected == 3)


def test_application_keeps_the_binding_that_an_admin_replaces(harness: ServiceHarness) -> None:
    rides = harness.service.as_caller(actor="key:rides")
    binding = rides.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=HOUR, mode="AXB")
    successor = harness.service.as_caller(actor="key:admin").replace(binding.id, phone_b=C, idempotency_key="k")
    assert successor.actor == "key:rides"
    assert [event.actor for event in harness.service.history(successor.id)] == ["key:admin"] * 3
    assert rides.replace(binding.id, phone_b=C, idempotency_key="k", own_only=True) == successor
    again = rides.replace(successor.id, phone_b=B, own_only=True)
    assert (again.actor, again.state) == ("key:rides", State.ACTIVE)


def test_lost_answer_of_the_first_commit_is_not_taken_for_nothing(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding = harness.bind(A, B)
    database = harness.database
    transaction, write, has_failed = database._transaction, database.write, False

    @contextmanager
    def lose_the_answer(*arguments: Any) -> Iterator[Any]:
        nonlocal has_failed
        if has_failed:
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("the database is away"))
        with transaction(*arguments) as running:
            yield running
        has_failed = True
        raise OperationalError("COMMIT", {}, sqlite3.OperationalError("the database is away"))

    with monkeypatch.context() as patch:
        patch.setattr(database, "_transaction", lose_the_answer)
        patch.setattr(database, "write", lambda work, **options: write(work, **(options | {"budget_s": 0.2})))
        with pytest.raises(errors.Busy, match="not known whether the replace has begun") as unknown:
            harness.service.replace(binding.id, phone_b=C)
    assert (unknown.value.predecessor_ended, unknown.value.retry_after_s) == (False, 10)
    assert harness.service.lookup(phone=A) == []
    harness.clock.advance(11)
    assert harness.service.replace(binding.id, phone_b=C).state is State.ACTIVE
    assert harness.received("bind") == 2


def test_two_callers_with_one_key_get_one_successor(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    released = hold_answers(harness.simulator, on="unbind")
    other = harness.open()
    results: list[Binding] = []
    calls = [
        lambda service=service: results.append(service.replace(binding.id, phone_b=C, idempotency_key="k"))
        for service in (harness.service, other)
    ]

    def release() -> None:
        wait_for(lambda: harness.service.get(binding.id).replaced_by is not None)
        released.set()

    assert in_threads(*calls, release) == []
    assert results[0] == results[1]
    assert (harness.received("bind"), harness.received("unbind")) == (2, 1)


def test_living_successor_refuses_another_replace(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    successor = harness.service.replace(binding.id, phone_b=C)
    for key in (None, "another"):
        with pytest.raises(errors.AlreadyReplaced) as refused:
            harness.service.replace(binding.id, phone_b=D, idempotency_key=key)
        assert refused.value.problem()["replaced_by"] == successor.id
    second = harness.service.replace(successor.id, phone_b=D)
    third = harness.service.replace(second.id, phone_b=B)  # and back within seconds
    assert third.state is State.ACTIVE
    assert harness.service.lookup(phone=A) == [third]


@pytest.mark.parametrize("refusal", [NO_NUMBER, IN_USE, "refuse:-22", "refuse:-16"])
def test_same_call_goes_on_after_a_refusal_of_the_successor(harness: ServiceHarness, refusal: str) -> None:
    binding = harness.bind(A, B)
    harness.simulator.script(refusal, times=1, on="bind")
    with pytest.raises(errors.BindingsError) as refused:
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert refused.value.predecessor_ended is True
    failed = successor_of(harness, binding)
    assert (failed.state, failed.idempotency_key) == (State.FAILED, None)
    assert harness.service.check(phone_a=A, phone_b=C, mode="AXB") == [], "no hold after -35"
    assert failed.id not in str(harness.database.read(holds.live, "default", harness.clock.at))
    successor = harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert successor.replaces == binding.id
    assert harness.service.get(binding.id).replaced_by == successor.id
    assert harness.received("unbind") == 1
    assert harness.service.stats()["by_met"] == ({} if refusal != IN_USE else {"AXB met nothing of ours": 1})


def test_lost_pool_refuses_before_anything_is_lost(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    harness.simulator.script(NO_NUMBER, times=1, on="bind")
    with pytest.raises(errors.NoMiddleNumber):
        harness.bind(D, E)
    with pytest.raises(errors.NoMiddleNumber) as refused:
        harness.service.replace(binding.id, phone_b=C)
    assert (refused.value.predecessor_ended, refused.value.retry_after_s) == (None, 60)
    assert harness.service.lookup(phone=B) == [binding]
    harness.clock.advance(60)
    assert harness.service.replace(binding.id, phone_b=C).state is State.ACTIVE


def test_retry_after_an_empty_pool_says_that_the_predecessor_has_ended(harness: ServiceHarness) -> None:
    """A client whose first response was lost would otherwise take the binding for one that was kept."""
    binding = harness.bind(A, B)
    harness.simulator.script(NO_NUMBER, times=2, on="bind")
    for _ in range(2):
        with pytest.raises(errors.NoMiddleNumber) as refused:
            harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
        assert (refused.value.predecessor_ended, refused.value.retry_after_s) == (True, 60)
    assert harness.service.replace(binding.id, phone_b=C, idempotency_key="k").state is State.ACTIVE
    assert harness.received("unbind") == 1


def test_conflict_and_open_circuit_refuse_before_anything_is_lost(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    other = harness.bind(C, D)
    with pytest.raises(errors.PhoneInUse) as refused:
        harness.service.replace(binding.id, phone_b=C)
    assert (refused.value.holder.id, refused.value.predecessor_ended) == (other.id, None)
    harness.simulator.script("refuse:-13", times=1, on="bind")
    with pytest.raises(errors.ProviderAccountRefused):
        harness.bind(E, "9188067709")
    with pytest.raises(errors.ProviderAccountRefused) as closed:
        harness.service.replace(binding.id)
    assert closed.value.predecessor_ended is None
    assert harness.service.lookup(phone=B) == [binding]


@pytest.mark.usefixtures("short_takeover")
def test_unclear_unbind_sends_no_successor(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    harness.simulator.script("anomaly_before", times=1, on="unbind")
    with pytest.raises(errors.OutcomeUnknown) as unclear:
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert (unclear.value.binding.id, unclear.value.predecessor_ended) == (binding.id, False)
    assert unclear.value.retry_after_s == 10
    failed = successor_of(harness, binding)
    assert (failed.state, failed.reason, failed.waits_for) == (State.FAILED, Reason.NEVER_SENT, None)
    assert harness.received("bind") == 1
    assert holders(harness, C, D) == []
    assert harness.service.recover().unbound == 1
    assert harness.service.get(binding.id).reason == Reason.REPLACED
    successor = harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert (successor.state, harness.received("unbind")) == (State.ACTIVE, 2)


def test_unclear_unbind_is_repeated_within_the_takeover(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    harness.simulator.script("lost_reply", times=1, on="unbind")
    successor = harness.service.replace(binding.id, phone_b=C)
    assert successor.state is State.ACTIVE
    assert harness.received("unbind") == 2
    assert harness.service.get(binding.id).reason == Reason.NOT_FOUND


def test_guard_of_the_predecessor_does_not_count_against_its_successor(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    harness.simulator.script("lost_reply", times=1, on="unbind")  # asked again, the provider answers -24
    harness.simulator.script(NO_NUMBER, times=1, on="bind")
    with pytest.raises(errors.NoMiddleNumber):
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert harness.service.get(binding.id).held_until > harness.clock.at
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, D)
    harness.simulator.script(IN_USE, times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k", force=True)
    (event,) = (
        event for event in harness.service.history(successor_of(harness, binding).id) if event.kind == "failed"
    )
    assert (event.detail["own"], event.detail["met"]) == ([], [])
    assert harness.service.replace(binding.id, phone_b=C, idempotency_key="k", force=True).state is State.ACTIVE


@pytest.mark.parametrize("point", ["replace.after_begin", "replace.after_unbind"])
def test_abandoned_successor_is_ended_and_was_never_sent(harness: ServiceHarness, point: str) -> None:
    binding = harness.bind(A, B)
    waiting = abandoned(harness, binding, point, phone_b=C, idempotency_key="k")
    assert (waiting.state, waiting.waits_for) == (State.PENDING, binding.id)
    assert [doubt.id for doubt in harness.service.doubts()] == [binding.id]
    harness.clock.advance(11)
    result = harness.service.recover()
    assert (result.never_sent, result.in_doubt, result.unbound) == (1, 0, 1)
    ended = harness.service.get(waiting.id)
    assert (ended.state, ended.reason, ended.idempotency_key) == (State.FAILED, Reason.NEVER_SENT, None)
    assert harness.received("bind") == 1
    assert harness.service.replace(binding.id, phone_b=C, idempotency_key="k").state is State.ACTIVE


def test_retry_ends_an_abandoned_successor_itself(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    waiting = abandoned(harness, binding, "replace.after_begin", phone_b=C, idempotency_key="k")
    harness.clock.advance(11)
    successor = harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert (successor.state, harness.service.get(waiting.id).state) == (State.ACTIVE, State.FAILED)


def test_another_key_ends_an_abandoned_successor_too(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    waiting = abandoned(harness, binding, "replace.after_begin", phone_b=C, idempotency_key="k")
    with pytest.raises(errors.AlreadyReplaced):
        harness.service.replace(binding.id, phone_b=D)
    harness.clock.advance(11)
    assert harness.service.replace(binding.id, phone_b=D).state is State.ACTIVE
    assert harness.service.get(waiting.id).state is State.FAILED


def test_scans_pass_over_a_waiting_successor(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    waiting = abandoned(harness, binding, "replace.after_begin")
    result = harness.service.reconcile()
    assert (result.adopted, result.absent, result.ghosts, result.orphans) == (0, 0, 0, 0)
    assert harness.service.get(waiting.id) == waiting


def set_waits_for(harness: ServiceHarness, binding_id: str, waits_for: str | None) -> None:
    """Hide from our code that a successor waits, or show it again: an older version does not know it."""
    statement = update(bindings).where(bindings.c.id == binding_id).values(waits_for=waits_for)
    harness.rewrite(statement)


@pytest.mark.parametrize("lapsed", [False, True])
def test_waiting_row_that_an_older_version_took_for_a_doubt(harness: ServiceHarness, lapsed: bool) -> None:
    binding = harness.bind(A, B)
    waiting = abandoned(harness, binding, "replace.after_unbind", phone_b=C, idempotency_key="k")
    harness.clock.advance(11)
    older = Caller(actor="older version")
    set_waits_for(harness, waiting.id, None)
    harness.database.write(lambda tx: expiry.mark_unsettled_in_doubt(tx, older, limit=10))
    if lapsed:
        harness.database.write(lambda tx: expiry.lapse(tx, older, limit=10))
    set_waits_for(harness, waiting.id, binding.id)
    assert waiting.id not in [doubt.id for doubt in harness.service.doubts()]
    assert harness.service.recover().never_sent == (0 if lapsed else 1)
    current = harness.service.get(waiting.id)
    expected = (State.LAPSED, "k") if lapsed else (State.FAILED, None)
    assert (current.state, current.idempotency_key) == expected
    if lapsed:
        with pytest.raises(errors.AlreadyReplaced):
            harness.service.replace(binding.id, phone_b=C)


def test_successor_that_is_to_be_unbound_is_never_sent_and_keeps_its_key(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, reference="order-1")
    outcome: list[Any] = []

    def release() -> None:
        outcome.append(harness.service.unbind_all(reference="order-1", reason="cancelled"))

    with at("replace.after_begin", release), pytest.raises(errors.ProviderUnreachable) as refused:
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert refused.value.predecessor_ended is True
    assert outcome[0].requested == 2
    successor = successor_of(harness, binding)
    assert (successor.state, successor.idempotency_key, harness.received("bind")) == (State.FAILED, "k", 1)
    with pytest.raises(errors.ProviderUnreachable, match="used up"):
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k")


def test_takeover_that_lasts_too_long_sends_nothing(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    with (
        at("replace.after_unbind", lambda: harness.clock.advance(11)),
        pytest.raises(errors.ProviderUnreachable) as late,
    ):
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert late.value.predecessor_ended is True
    assert harness.service.get(binding.id).reason == Reason.REPLACED
    assert harness.received("bind") == 1
    assert harness.service.replace(binding.id, phone_b=C, idempotency_key="k").state is State.ACTIVE


def test_key_of_a_replace_is_not_that_of_a_bind(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    successor = harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert harness.service.replace(binding.id, phone_b=C, idempotency_key="k") == successor
    with pytest.raises(errors.IdempotencyMismatch):
        harness.bind(A, C, idempotency_key="k")
    with pytest.raises(errors.IdempotencyMismatch):
        harness.service.replace(successor.id, phone_b=C, idempotency_key="k")


def test_lost_reply_of_the_successor_is_a_doubt_that_a_scan_adopts(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.service.replace(binding.id, phone_b=C, idempotency_key="k")
    assert (unknown.value.predecessor_ended, unknown.value.binding.replaces) == (True, binding.id)
    harness.clock.advance(30)
    harness.service.recover()
    assert harness.service.reconcile().adopted == 1
    successor = successor_of(harness, binding)
    assert successor.state is State.ACTIVE
    (adopted,) = (event for event in harness.service.history(successor.id) if event.kind == EventKind.ADOPTED)
    changed = successor.middle_number_a != binding.middle_number_a
    assert (adopted.detail["middle_number_changed"], "gap_s" in adopted.detail) == (changed, False)
    assert harness.service.replace(binding.id, phone_b=C, idempotency_key="k") == successor
