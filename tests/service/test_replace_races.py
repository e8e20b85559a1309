"""Replace beside other calls: bulk releases, rivals for the phones, and the jobs of a version before."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import text

from bindings import errors, failpoints
from bindings.domain.binding import Caller, Reason, State
from bindings.store import expiry, reserve, settle, successors
from bindings.store.database import Database
from tests.faults.test_properties import WAITING_FOR_A_LOCK, wait_for_end_or_lock
from tests.service.harness import APP, POOL, A, B, C, D, assert_sound, wait_for
from tests.service.test_replace import set_waits_for, successor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.domain.binding import Binding
    from bindings.store.database import Transaction
    from tests.service.harness import ServiceHarness

HOUR = 3_600
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


# Beside `recover` of the version before, which takes a waiting successor for a bind whose process stopped.


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


@pytest.mark.parametrize("state", [State.PENDING, State.IN_DOUBT])
def test_no_job_and_no_list_takes_a_waiting_successor_for_one_that_was_sent(
    harness: ServiceHarness, state: State
) -> None:
    harness.bind(C, D)  # a witness for scans
    harness.clock.advance(61)
    driver = harness.bind(A, B)
    stop_at("replace.after_begin", lambda: harness.service.replace(driver.id, idempotency_key="k"))
    waiting = successor_of(harness, driver)
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=HOUR)
    result = harness.service.reconcile()
    assert (result.adopted, result.orphans) == (0, 1)
    harness.clock.advance(TAKEOVER_S)
    if state is State.IN_DOUBT:
        set_waits_for(harness, waiting.id, None)
        harness.database.write(partial(expiry.mark_unsettled_in_doubt, caller=Caller(actor="before"), limit=10))
        set_waits_for(harness, waiting.id, driver.id)
    for change in (expiry.mark_unsettled_in_doubt, expiry.lapse):
        assert harness.database.write(partial(change, caller=Caller(actor="test"), limit=10)) == 0
    assert harness.service.get(waiting.id).state is state
    assert waiting.id not in [doubt.id for doubt in harness.service.doubts()]
    assert harness.service.reconcile().absent == 0
    ended = harness.service.get(waiting.id)
    assert (ended.state, ended.reason) == (State.FAILED, Reason.NEVER_SENT)


def test_cleared_successor_is_not_ended_as_never_sent(harness: ServiceHarness) -> None:
    """A job may have read that it waits before it was cleared."""
    driver = harness.bind(A, B)
    ended: list[Binding | None] = []

    def end() -> None:
        waiting = successor_of(harness, driver)
        ended.append(harness.database.write(lambda tx: settle.end_waiting(tx, waiting.id, Caller(actor="test"))))

    at("replace.after_clear", end)
    assert harness.service.replace(driver.id).state is State.ACTIVE
    assert ended == [None]


# Beside a rival for the new phone, and a second transaction that takes long.


def test_rival_waits_for_the_commit_that_clears_the_successor(harness: ServiceHarness) -> None:
    """The hold of the waiting successor ends meanwhile, and its new one is not visible yet."""
    driver, rival = harness.bind(A, B), harness.open()
    refused: list[BaseException] = []
    ended = threading.Event()

    def bind_the_new_phone() -> None:
        try:
            rival.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=HOUR, mode="AXB")
        except errors.PhoneInUse as error:
            refused.append(error)
        ended.set()

    rival_thread = threading.Thread(target=bind_the_new_phone, daemon=True)

    def meanwhile() -> None:
        harness.clock.advance(TAKEOVER_S + 1)
        rival_thread.start()
        wait_for_end_or_lock(ended, harness.url)

    at("replace.clear_in_transaction", meanwhile)
    assert harness.service.replace(driver.id, phone_b=C).state is State.ACTIVE
    rival_thread.join(300)
    assert [type(error) for error in refused] == [errors.PhoneInUse]
    assert harness.received("bind") == 2


@pytest.mark.postgres
def test_clock_of_the_second_transaction_is_read_after_its_locks(harness: ServiceHarness) -> None:
    if not harness.database.postgres:
        pytest.skip("on SQLite a transaction begins when it has the only lock")
    driver = harness.bind(A, B)
    stop_at("replace.after_begin", lambda: harness.service.replace(driver.id, phone_b=C))
    waiting = successor_of(harness, driver)
    database, key = Database(harness.url), reserve._lock_key("default", waiting.phone_b.key)
    limits = harness.service.runtime.limits

    def clear(tx: Transaction) -> Binding:
        caller = Caller(actor="test")
        return successors.clear(tx, waiting, lambda _: None, limits, caller, in_doubt=lambda _: False)

    harness.rewrite(
        text("UPDATE bindings SET settle_by = clock_timestamp() + interval '1 s' WHERE waits_for IS NOT NULL")
    )
    with psycopg.connect(harness.url) as holder, ThreadPoolExecutor(1) as threads:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        cleared = threads.submit(database.write, clear)
        wait_for(lambda: holder.execute(WAITING_FOR_A_LOCK).fetchone() == (1,))
        is_past = "SELECT clock_timestamp() > settle_by FROM bindings WHERE id = %s"
        wait_for(lambda: holder.execute(is_past, [waiting.id]).fetchone() == (True,))
        holder.rollback()
        successor = cleared.result(300)
    database.close()
    assert (successor.state, successor.reason) == (State.FAILED, Reason.NEVER_SENT)


# An order that lasts longer than the provider lets a binding live.


def test_order_of_five_days_is_one_chain_and_no_phone_is_free_in_between(harness: ServiceHarness) -> None:
    """Renewed just before 72 hours, given another party, renewed again, and unbound after five days."""
    longest_s = 72 * HOUR
    bound = [harness.bind(A, B, expire_s=longest_s, reference="order-1")]
    began_at = harness.clock.at

    def attack() -> None:
        for phone in (bound[-1].phone_a, bound[-1].phone_b):
            with pytest.raises(errors.PhoneInUse):
                harness.bind(D, phone.digits, expire_s=60)

    for hours, phone_b in ((71.9, None), (96, C), (119.9, None)):
        while harness.clock.at < began_at + timedelta(hours=hours):
            harness.clock.at = min(began_at + timedelta(hours=hours), harness.clock.at + timedelta(hours=12))
            harness.service.expire_due()
            harness.service.recover()
            assert harness.service.lookup(reference="order-1") == [bound[-1]]
            attack()
        at("replace.after_unbind", attack)
        bound.append(harness.service.replace(bound[-1].id, phone_b=phone_b))
        attack()
    harness.clock.at = began_at + timedelta(hours=120)
    harness.service.unbind(bound[-1].id)
    chain = [harness.service.get(binding.id) for binding in bound]
    ids: list[str | None] = [binding.id for binding in chain]
    assert [binding.replaces for binding in chain] == [None, *ids[:-1]]
    assert [binding.replaced_by for binding in chain] == [*ids[1:], None]
    assert [binding.reason for binding in chain] == [Reason.REPLACED] * 3 + [Reason.ASKED]
    assert harness.received("unbind") == len(chain)
    assert all(harness.entry(binding).unbound_at is not None for binding in chain)
    assert harness.service.check(phone_a=A, phone_b=C, mode="AXB") == []
    assert_sound(harness.service)
