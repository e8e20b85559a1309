"""A person's word that ends a doubt: what it changes, and what comes of it where it was wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import EventKind, Reason, State
from bindings.lifecycle.doubts import next_steps
from bindings.store import holds, settle
from tests.service.world import A, B, C, D

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from tests.service.world import World

WHY = "their console shows no such pair, ticket 4711"


def doubt(world: World, fault: str = "reset_before", *, age_s: float = 400) -> Binding:
    world.simulator.script(fault, times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.bind(A, B)
    world.clock.advance(age_s)
    return unknown.value.binding


def test_a_doubt_that_somebody_vouches_for_fails_frees_its_phones_and_says_who_and_why(world: World) -> None:
    found = doubt(world)
    marked = world.service.as_caller(actor="key:ann").mark_absent(found.id, reason=WHY)
    failed = world.service.get(found.id)
    assert marked.after == failed
    assert (failed.state, failed.reason, failed.held_until) == (State.FAILED, Reason.VOUCHED, world.clock())
    event = world.service.history(found.id)[-1]
    assert marked.event == event
    assert (event.kind, event.actor, event.detail["because"]) == (EventKind.FAILED, "key:ann", WHY)
    assert world.bind(A, C).state is State.ACTIVE


def test_a_dry_run_shows_exactly_that_and_changes_nothing(world: World) -> None:
    found = doubt(world)
    history = world.service.history(found.id)
    shown = world.service.mark_absent(found.id, reason=WHY, dry_run=True)
    assert (shown.before, shown.dry_run) == (world.service.get(found.id), True)
    assert world.service.history(found.id) == history
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C)
    done = world.service.mark_absent(found.id, reason=WHY)
    assert (shown.after, shown.event.detail) == (done.after, done.event.detail)


def test_nobody_can_vouch_while_the_request_may_still_be_accepted(world: World) -> None:
    found = doubt(world, age_s=60)
    with pytest.raises(errors.InvalidRequest, match="too young"):
        world.service.mark_absent(found.id, reason=WHY)
    assert world.service.get(found.id).state is State.IN_DOUBT


def test_nobody_can_vouch_for_what_is_no_doubt_or_without_a_reason(world: World) -> None:
    active = world.bind(C, D)
    with pytest.raises(errors.InvalidRequest, match="this one is active"):
        world.service.mark_absent(active.id, reason=WHY)
    with pytest.raises(errors.InvalidRequest, match="reason"):
        world.service.mark_absent(active.id, reason="")
    with pytest.raises(errors.NotFound):
        world.service.mark_absent("01890000-0000-7000-8000-000000000000", reason=WHY)


def test_vouching_twice_is_vouching_once(world: World) -> None:
    found = doubt(world)
    once = world.service.mark_absent(found.id, reason=WHY)
    world.clock.advance(5)
    again = world.service.mark_absent(found.id, reason="again")
    assert (again.before, again.after, again.event) == (once.after, once.after, once.event)


def test_the_key_of_such_a_bind_brings_back_that_it_was_vouched_for(world: World) -> None:
    world.simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.bind(A, B, idempotency_key="k")
    world.clock.advance(400)
    world.service.mark_absent(str(unknown.value.binding_id), reason=WHY)
    with pytest.raises(errors.ProviderUnreachable, match="vouched"):
        world.bind(A, B, idempotency_key="k")


def test_a_yes_that_comes_after_a_wrong_word_is_kept_held_and_unbound(world: World) -> None:
    found = doubt(world, "lost_reply")
    world.service.mark_absent(found.id, reason="wrong")
    (entry,) = world.simulator.ledger
    now = world.clock()
    success = settle.Success(
        bind_id=str(entry.bind_id),
        middle_number_a=entry.middle_number_a,
        middle_number_b=entry.middle_number_b,
        sent_at=now,
        answered_at=now,
        expires_at=now + timedelta(seconds=3_000),
        held_until=now + timedelta(seconds=3_100),
        warn_s=None,
    )
    caller = world.service._caller
    world.database.write(lambda tx: settle.settle_success(tx, found.id, success, caller))
    assert world.service.get(found.id).state is State.FAILED
    assert world.kinds(found)[-1] is EventKind.LATE_SUCCESS
    with pytest.raises(errors.PhoneInUseAtProvider):
        world.bind(A, C)
    world.service.recover()
    assert world.simulator.ledger.get(entry.bind_id).unbound_at is not None  # type: ignore[union-attr]
    assert world.bind(A, C).state is State.ACTIVE


def test_a_scan_after_a_wrong_word_holds_the_phones_again_and_names_the_doubt(world: World) -> None:
    found = doubt(world, "lost_reply")
    world.service.mark_absent(found.id, reason="wrong")
    assert world.service.reconcile(reason="ticket 4712").orphans == 1
    held = world.database.read(holds.live, "default", world.clock())
    assert {(hold.why, hold.origin_id) for hold in held} == {(holds.HoldReason.ORPHAN, found.id)}
    assert world.service.report(world.service.reports().data[0].id).counts["reason"] == "ticket 4712"


def test_reports_are_listed_without_their_cases_where_nobody_wants_them(world: World) -> None:
    doubt(world, "lost_reply")
    world.service.reconcile()
    (listed,) = world.service.reports(cases=False).data
    whole = world.service.report(listed.id)
    assert listed.cases == []
    assert [case["case"] for case in whole.cases] == ["adopted"]
    assert (listed.counts, listed.began_at) == (whole.counts, whole.began_at)
    with pytest.raises(errors.NotFound):
        world.service.report("no such")


def test_the_outlook_says_what_the_next_scan_can_still_do(world: World) -> None:
    config = world.service.settings
    found = doubt(world, age_s=0)
    soon = found.requested_at + timedelta(seconds=60)

    def told(scan: float | None) -> list[str]:
        at = None if scan is None else found.requested_at + timedelta(seconds=scan)
        return [step.what for step in next_steps(found, soon, config, at)]

    assert "adopts" in told(120)[0]
    assert "may also prove" in told(120)[1]
    assert "or proves" in told(400)[0]
    assert "too late" in told(3_601)[0]
    assert all("lapses" in told(scan)[-1] for scan in (None, 120, 400, 3_601))
    overdue, *_ = next_steps(found, soon, config, found.requested_at)
    assert overdue.at == soon, "at once"
    active = world.bind(C, D)
    assert next_steps(active, soon, config, None)[-1].at == active.expires_at
