"""Revenants: rows of the provider's list that are live although the binding has ended here."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from bindings import errors
from bindings.domain.binding import EventKind, Reason, State
from bindings.domain.serialization import instant
from bindings.monitoring import health
from bindings.monitoring.check import Check, Level
from bindings.monitoring.health_metrics import health_metrics
from bindings.store.schema import events
from tests.service.harness import APP, A, B, C, D, E, F

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness

LAG_S = 61  # more than the list's lag


def make_false_ghost(harness: ServiceHarness) -> Binding:
    """Let the list omit a living binding for one reconciliation; return the binding, which has ended here."""
    binding, _ = harness.bind(A, B), harness.bind(E, F)
    harness.clock.advance(LAG_S)
    harness.simulator.list_as(int(binding.bind_id or 0), hidden=True)
    assert harness.service.reconcile().ghosts == 1
    harness.simulator.list_as(int(binding.bind_id or 0))
    harness.clock.advance(LAG_S)
    return harness.service.get(binding.id)


def make_undone_unbind(harness: ServiceHarness) -> Binding:
    """Let the provider take back an unbind that it confirmed; return the binding, which has ended here."""
    binding, _ = harness.bind(A, B), harness.bind(E, F)
    harness.service.unbind(binding.id)
    harness.simulator.restore_binding(str(binding.bind_id))
    harness.clock.advance(LAG_S)
    return harness.service.get(binding.id)


@pytest.mark.parametrize("make", [make_false_ghost, make_undone_unbind])
def test_I4_live_row_of_an_ended_binding_holds_its_phones_until_its_end(
    harness: ServiceHarness, make: Callable[[ServiceHarness], Binding]
) -> None:
    ended = make(harness)
    sent = harness.received("bind")
    counts = harness.service.reconcile()
    assert (counts.revenants, counts.orphans, counts.ghosts) == (1, 0, 0)
    with pytest.raises(errors.PhoneInUse) as excinfo:
        harness.bind(B, C)
    holder = excinfo.value.holder
    assert (holder.id, holder.state, holder.why) == (ended.id, State.UNBOUND, "orphan")
    assert holder.held_until.timestamp() >= harness.entry(ended).expires_at
    assert harness.received("bind") == sent
    details = select(events.c.detail).where(events.c.kind == EventKind.REFUSED)
    (refused,) = harness.database.read(lambda connection: connection.execute(details).scalars().all())
    assert (refused["holder_id"], refused["held_by"]) == (ended.id, "revenant")
    assert harness.service.get(ended.id) == ended, "a binding that has ended stays as it is"
    assert harness.service.reconcile().revenants == 0, "the case is known"
    (case,) = harness.service.reports().data[1].cases
    assert (case["case"], case["binding_id"], case["bind_id"]) == ("revenants", ended.id, ended.bind_id)
    assert instant(datetime.fromisoformat(case["ends_at"])) == case["ends_at"], "as in every other answer"
    assert harness.all_kinds().count(EventKind.HELD) == 1


def test_unbind_of_a_revenant_ends_it_at_the_provider_and_frees_its_phones(harness: ServiceHarness) -> None:
    ended = make_undone_unbind(harness)
    assert harness.service.unbind(ended.id) == ended
    assert harness.received("unbind") == 1, "nothing is known of it before a scan"
    harness.service.reconcile()
    assert harness.service.unbind(ended.id) == ended
    assert harness.received("unbind") == 2
    assert harness.entry(ended).unbound_at is not None
    assert harness.bind(A, B).state is State.ACTIVE
    assert harness.service.unbind(ended.id) == ended
    assert harness.received("unbind") == 2, "there is nothing left to end"


def test_checks_and_metrics_count_orphans_and_revenants_until_their_holds_end(harness: ServiceHarness) -> None:
    ended = make_undone_unbind(harness)
    harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP, expire_s=600)
    runtime = harness.service.runtime

    def check() -> Check:
        return next(check for check in health.readiness_checks(runtime) if check.name == "orphans")

    assert check().level is Level.OK
    harness.service.reconcile()
    metrics = health_metrics(runtime, runtime.database)
    assert (metrics.orphans, metrics.revenants) == (1, 1)
    assert (check().level, "1 that ended here" in check().seen) == (Level.WARN, True)
    harness.service.unbind(ended.id)
    assert "0 that ended here" in check().seen
    harness.clock.advance(700)
    assert check().level is Level.OK


def test_unbind_of_a_revenant_without_a_clear_answer_leaves_its_phones_held(harness: ServiceHarness) -> None:
    ended = make_undone_unbind(harness)
    harness.service.reconcile()
    for fault, error in (
        ("lost_reply", errors.OutcomeUnknown),
        ("reset_before", errors.OutcomeUnknown),
        ("refuse:-22", errors.ProviderRefused),
    ):
        harness.simulator.script(fault, times=1, on="unbind")
        with pytest.raises(error, match="its phones stay held; unbind it again"):
            harness.service.unbind(ended.id)
        with pytest.raises(errors.PhoneInUse):
            harness.bind(A, C)
    assert harness.service.unbind(ended.id) == ended
    (held,) = harness.service.check(phone_a=A, phone_b=C, mode="AXB")
    assert held.retry_after_s <= 5, "the first call has ended it: the provider may refuse its phones for a while"


@pytest.mark.parametrize("action", ["release", "observe"])
def test_revenant_is_released_or_observed_as_an_orphan_is(harness: ServiceHarness, action: str) -> None:
    ended = make_undone_unbind(harness)
    counts = harness.open(on_orphan=action).reconcile()
    entry = harness.entry(ended)
    if action == "release":
        assert (counts.revenants, entry.unbound_at is not None) == (1, True)
        assert harness.bind(A, B).state is State.ACTIVE
    else:
        assert (counts.revenants, counts.observed, entry.unbound_at) == (0, 1, None)
        assert harness.service.check(phone_a=A, phone_b=B, mode="AXB") == []


def test_list_that_is_late_makes_neither_ghosts_nor_revenants(harness: ServiceHarness) -> None:
    harness.simulator.change(list_lag_s=30)
    unbound, _ = harness.bind(A, B), harness.bind(E, F)
    harness.clock.advance(LAG_S)
    young = harness.bind(C, D)
    harness.service.unbind(unbound.id)
    for seconds in (0, 10, 15, 40):
        harness.clock.advance(seconds)
        counts = harness.service.reconcile()
        assert (counts.ghosts, counts.revenants, counts.orphans) == (0, 0, 0), seconds
    assert harness.service.get(young.id).state is State.ACTIVE


def test_late_list_shows_a_released_revenant_for_a_while_and_it_is_not_held_again(harness: ServiceHarness) -> None:
    ended = make_undone_unbind(harness)
    harness.service.reconcile()
    harness.simulator.change(list_lag_s=5)
    harness.service.unbind(ended.id)
    harness.clock.advance(1)
    assert harness.service.reconcile().revenants == 0
    assert harness.bind(A, B).state is State.ACTIVE


def test_hold_of_a_revenant_ends_when_two_scans_miss_it(harness: ServiceHarness) -> None:
    ended = make_undone_unbind(harness)
    harness.service.reconcile()
    harness.simulator.remove_binding(str(ended.bind_id))
    assert harness.service.reconcile().holds_ended == 2
    assert harness.bind(A, B).state is State.ACTIVE


def test_hold_after_minus_35_stays_while_nothing_else_holds_the_phone(harness: ServiceHarness) -> None:
    """The row that explains the refusal is only observed: without the hold each bind would meet -35 again."""
    holder, observer = harness.open(), harness.open(on_orphan="observe")
    make_undone_unbind(harness)
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, B)
    sent = harness.received("bind")
    assert observer.reconcile().holds_ended == 0
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, B)
    assert harness.received("bind") == sent
    assert holder.reconcile().holds_ended == 2, "the hold of the revenant takes its place"


def test_dry_run_counts_a_revenant_and_the_holds_that_it_explains(
    harness: ServiceHarness,
) -> None:
    make_undone_unbind(harness)
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, B)
    before = len(harness.all_kinds())
    dry = harness.service.reconcile(dry_run=True)
    assert len(harness.all_kinds()) == before
    real = harness.service.reconcile()
    assert (dry.revenants, dry.holds_ended) == (real.revenants, real.holds_ended) == (1, 2)


def test_orphan_that_the_list_hid_is_held_again_and_reported_again(harness: ServiceHarness) -> None:
    harness.bind(E, F)
    entry = harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP)
    harness.clock.advance(LAG_S)
    assert harness.service.reconcile().orphans == 1
    harness.simulator.list_as(entry.bind_id, hidden=True)
    assert harness.service.reconcile().holds_ended == 2
    harness.simulator.list_as(entry.bind_id)
    assert harness.service.reconcile().orphans == 1
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, C)


def test_binding_that_expired_here_and_is_listed_with_a_later_end_is_held(harness: ServiceHarness) -> None:
    binding, _ = harness.bind(A, B, expire_s=600), harness.bind(E, F)
    ledger = harness.simulator.ledger
    with ledger.lock:
        ended = ledger.end(harness.entry(binding), at=harness.clock.unix())
        ledger.restore(replace(ended, expires_at=ended.expires_at + 900), at=ended.accepted_at)
    harness.clock.advance(660)
    harness.service.expire_due()
    assert harness.service.get(binding.id).state is State.EXPIRED
    assert harness.service.reconcile().revenants == 1
    assert harness.service.unbind(binding.id).state is State.EXPIRED
    assert harness.bind(A, B).state is State.ACTIVE


def test_unbind_that_was_confirmed_but_not_recorded_says_so(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    write = harness.database.write
    calls = 0

    def write_once(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise errors.Busy
        return write(*arguments, **options)  # type: ignore[arg-type]

    harness.database.write = write_once  # type: ignore[method-assign,assignment]
    try:
        with pytest.raises(errors.OutcomeUnknown, match="the provider has ended the binding") as excinfo:
            harness.service.unbind(binding.id)
    finally:
        harness.database.write = write  # type: ignore[method-assign]
    assert "no clear answer" not in str(excinfo.value)
    assert harness.service.recover().unbound == 1
    assert harness.service.get(binding.id).reason == Reason.NOT_FOUND


def test_list_that_shows_an_ended_ghost_again_ends_no_other_binding(harness: ServiceHarness) -> None:
    """A list that is late by minutes would otherwise end every new binding, one reconciliation after the other."""
    make_false_ghost(harness)
    second = harness.bind(C, D)
    harness.simulator.list_as(int(second.bind_id or 0), hidden=True)
    harness.clock.advance(LAG_S)
    counts = harness.service.reconcile()
    assert (counts.ghosts, counts.revenants) == (0, 1)
    assert harness.service.get(second.id).state is State.ACTIVE
    assert counts.notes == (
        (
            "the list shows 1 binding(s) again that were ended as gone at the provider: what is missing now is not"
            " taken for ended"
        ),
    )
    harness.simulator.remove_binding(str(harness.service.search(phone=A).data[0].bind_id))
    assert harness.service.reconcile().ghosts == 1, "nothing shows any more that the list is late"


def bind_many(harness: ServiceHarness, *, hidden: int) -> list[Binding]:
    """Make thirty bindings, and let the list omit so many of them; return those."""
    made = [harness.bind(f"9188060010{number:02}", f"9188060020{number:02}") for number in range(30)]
    harness.clock.advance(LAG_S)
    show(harness, made[:hidden], hidden=True)
    return made[:hidden]


def show(harness: ServiceHarness, bindings: list[Binding], *, hidden: bool = False) -> None:
    for binding in bindings:
        harness.simulator.list_as(int(binding.bind_id or 0), hidden=hidden)


def test_many_missing_bindings_are_ended_when_runs_have_missed_them_for_ten_minutes(
    harness: ServiceHarness,
) -> None:
    missing = bind_many(harness, hidden=11)
    for _ in range(2):
        counts = harness.service.reconcile()
        assert counts.ghosts == 0
        [note] = counts.notes
        assert note.startswith(f"the list lacks many bindings of {APP}: 11 of 30 active here; they are ended when")
        assert counts.suspicions == (f"many_missing:{APP}",)
        harness.clock.advance(300)
    assert harness.service.get(missing[0].id).state is State.ACTIVE
    assert harness.service.reconcile().ghosts == 11


def test_list_that_is_whole_again_is_not_taken_for_one_that_lacks_bindings_for_long(
    harness: ServiceHarness,
) -> None:
    missing = bind_many(harness, hidden=11)
    assert harness.service.reconcile().ghosts == 0
    show(harness, missing)
    assert harness.service.reconcile().notes == ()
    show(harness, missing, hidden=True)
    harness.clock.advance(660)
    assert harness.service.reconcile().ghosts == 0


def test_runs_that_could_not_read_the_list_leave_open_for_how_long_it_lacks_bindings(
    harness: ServiceHarness,
) -> None:
    """Else a provider that fails at every other run would keep them for ever."""
    bind_many(harness, hidden=11)
    assert harness.service.reconcile().ghosts == 0
    harness.clock.advance(660)
    harness.simulator.script("bad_gateway", times=3, on="page")
    assert harness.service.reconcile().incomplete == 1
    harness.simulator.change(total_offset=1)
    assert harness.service.reconcile().unproved == 1
    harness.simulator.change(total_offset=0)
    assert harness.service.reconcile().ghosts == 11


def test_few_missing_bindings_are_ended_at_once(harness: ServiceHarness) -> None:
    bind_many(harness, hidden=10)
    assert harness.service.reconcile().ghosts == 10
