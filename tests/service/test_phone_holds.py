"""Every answer about a number tells the holds on it: their cause, from when, until when, and what ends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.phone import Phone
from tests.service.harness import APP, POOL, A, B, C, D
from tests.service.test_revenants import make_false_ghost, make_undone_unbind

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding
    from bindings.domain.hold import PhoneHold
    from tests.service.harness import ServiceHarness

ALONE = "9188067790"  # in no binding and in no hold
REASON = "seen in the provider's console"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a hold on `phone` must tell. `middle_number` is the one that lives on at the provider, if known."""

    phone: str
    why: str
    bind_id: str | None = None
    binding_id: str | None = None
    app_id: str | None = APP
    middle_number: str | None = None
    cause: str


def add_foreign_binding(harness: ServiceHarness, app_id: str = APP) -> str:
    return str(harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=app_id, expire_s=3_600).bind_id)


def make_orphan(harness: ServiceHarness) -> Origin:
    bind_id = add_foreign_binding(harness)
    assert harness.service.reconcile().orphans == 1
    return Origin(phone=C, why="orphan", bind_id=bind_id, cause="not recorded here")


def make_orphan_of_unknown_application(harness: ServiceHarness) -> Origin:
    bind_id = add_foreign_binding(harness, "another")
    assert harness.open(scan_scope="account").reconcile().orphans == 1
    return Origin(phone=C, why="orphan", bind_id=bind_id, app_id=None, cause="not recorded here")


def make_odd_row(harness: ServiceHarness) -> Origin:
    bind_id = add_foreign_binding(harness)
    harness.simulator.list_as(bind_id, {"phone_b": None})
    assert harness.service.reconcile().odd_rows == 1
    return Origin(phone=C, why="orphan", bind_id=bind_id, cause="not recorded here")


def mark_absent_wrongly(harness: ServiceHarness) -> Binding:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(A, B)
    harness.clock.advance(400)
    harness.service.mark_absent(excinfo.value.binding.id, reason=REASON)
    return harness.service.get(excinfo.value.binding.id)


def make_orphan_of_failed_bind(harness: ServiceHarness) -> Origin:
    failed = mark_absent_wrongly(harness)
    (entry,) = harness.simulator.ledger
    assert harness.service.reconcile().orphans == 1
    return Origin(
        phone=A, why="orphan", bind_id=str(entry.bind_id), binding_id=failed.id, cause="failed or lapsed"
    )


def make_late_success(harness: ServiceHarness) -> Origin:
    failed = mark_absent_wrongly(harness)
    (entry,) = harness.simulator.ledger
    harness.settle_late(failed, entry)
    return Origin(
        phone=A, why="late_success", bind_id=str(entry.bind_id), binding_id=failed.id, cause="reported success"
    )


def make_revenant(harness: ServiceHarness, make: Callable[[ServiceHarness], Binding]) -> Origin:
    ended = make(harness)
    assert harness.service.reconcile().revenants == 1
    return Origin(
        phone=A,
        why="orphan",
        bind_id=ended.bind_id,
        binding_id=ended.id,
        middle_number=ended.middle_number_a,
        cause="as live that has ended here",
    )


def make_refused(harness: ServiceHarness) -> Origin:
    add_foreign_binding(harness)
    with pytest.raises(errors.PhoneInUseAtProvider) as excinfo:
        harness.bind(C, B)
    return Origin(
        phone=C, why="refused", binding_id=excinfo.value.binding_id, cause="refused this phone as in use"
    )


ORIGINS: dict[str, Callable[[ServiceHarness], Origin]] = {
    "orphan": make_orphan,
    "orphan of an unknown application": make_orphan_of_unknown_application,
    "odd row": make_odd_row,
    "orphan of a failed bind": make_orphan_of_failed_bind,
    "late success": make_late_success,
    "false ghost": lambda harness: make_revenant(harness, make_false_ghost),
    "undone unbind": lambda harness: make_revenant(harness, make_undone_unbind),
    "refused": make_refused,
}
# Each answer about a phone, as the holds that it tells.
ANSWERS: dict[str, Callable[[ServiceHarness, str], tuple[PhoneHold, ...]]] = {
    "holds": lambda harness, phone: tuple(harness.service.holds(phone=phone)),
    "trace of a party": lambda harness, phone: (
        harness.service.trace(middle_number="1", at=harness.clock(), party=phone).holds
    ),
    "number at a time": lambda harness, phone: (
        harness.service.investigation.number_at(Phone(phone), at=harness.clock()).trace.holds
    ),
    "party at a time": lambda harness, phone: (
        harness.service.investigation.number_at(Phone("1"), at=harness.clock(), party=Phone(phone)).trace.holds
    ),
    "history of a number": lambda harness, phone: harness.service.investigation.holds_of(Phone(phone)),
}


@pytest.mark.parametrize("make", ORIGINS.values(), ids=ORIGINS)
def test_every_answer_about_a_phone_tells_the_hold_of_every_origin(
    harness: ServiceHarness, make: Callable[[ServiceHarness], Origin]
) -> None:
    origin = make(harness)
    (blocker,) = harness.service.check(phone_a=origin.phone, phone_b=ALONE, mode="AXB")
    assert blocker.why == origin.why
    for name, answer in ANSWERS.items():
        (hold,) = answer(harness, origin.phone)
        assert (hold.phone.digits, hold.why, hold.in_force) == (origin.phone, origin.why, True), name
        assert (hold.bind_id, hold.binding_id) == (origin.bind_id, origin.binding_id), name
        assert (hold.app_id, hold.held_until) == (origin.app_id, blocker.held_until), name
        assert hold.first_held_at is not None
        assert hold.first_held_at <= harness.clock() < hold.held_until
        assert origin.cause in hold.cause
        assert hold.ends_by
        assert answer(harness, ALONE) == ()


@pytest.mark.parametrize("make", [make_false_ghost, make_undone_unbind])
def test_answers_about_a_middle_number_tell_the_holds_of_its_binding_that_lives_at_the_provider(
    harness: ServiceHarness, make: Callable[[ServiceHarness], Binding]
) -> None:
    origin = make_revenant(harness, make)
    number, now = str(origin.middle_number), harness.clock()
    investigation = harness.service.investigation
    for holds in (
        harness.service.holds(middle_number=number),
        harness.service.trace(middle_number=number, at=now, window_s=0).holds,
        investigation.number_at(Phone(number), at=now).trace.holds,
        investigation.holds_of(Phone(number)),
    ):
        assert {(hold.phone.digits, hold.binding_id) for hold in holds} == {
            (phone, origin.binding_id) for phone in (A, B)
        }
    assert harness.service.holds(middle_number="918806999") == []
    harness.service.unbind(str(origin.binding_id))
    assert harness.service.holds(middle_number=number) == []


def test_ended_hold_belongs_to_the_history_of_its_phone_and_blocks_nothing(harness: ServiceHarness) -> None:
    origin = make_orphan(harness)
    began = harness.clock()
    harness.clock.advance(5_000)
    (hold,) = harness.service.holds(phone=origin.phone)
    assert (hold.in_force, hold.ends_by, hold.bind_id) == (False, None, origin.bind_id)
    assert harness.service.investigation.holds_of(Phone(origin.phone)) == (hold,)
    assert harness.service.check(phone_a=origin.phone, phone_b=ALONE, mode="AXB") == []
    assert harness.service.trace(middle_number="1", at=harness.clock(), party=origin.phone).holds == ()
    assert harness.service.trace(middle_number="1", at=began, party=origin.phone).holds == (hold,)


def test_actor_sees_of_the_holds_of_others_what_a_conflict_check_shows(harness: ServiceHarness) -> None:
    origin = make_revenant(harness, make_undone_unbind)
    investigation, phone = harness.service.investigation, Phone(origin.phone)
    assert investigation.holds_of(phone, actor="test") == investigation.holds_of(phone)
    (foreign,) = investigation.holds_of(phone, actor="another")
    assert (foreign.phone.digits, foreign.why, foreign.in_force) == (origin.phone, "orphan", True)
    hidden = ("first_held_at", "ends_by", "binding_id", "actor", "bind_id", "app_id")
    assert {name: getattr(foreign, name) for name in hidden} == dict.fromkeys(hidden)
    assert "ended here" not in foreign.cause
    number = Phone(str(origin.middle_number))
    assert investigation.holds_of(number, actor="another") == (), "it did not give the phones"
    harness.clock.advance(90_000)
    assert investigation.holds_of(phone, actor="another") == ()


@pytest.mark.parametrize("numbers", [{}, {"phone": A, "middle_number": POOL}, {"phone": "x"}])
def test_holds_needs_one_valid_number(harness: ServiceHarness, numbers: dict[str, str]) -> None:
    with pytest.raises(errors.InvalidRequest) as excinfo:
        harness.service.holds(**numbers)
    assert [error.field for error in excinfo.value.field_errors] == ["phone"]
