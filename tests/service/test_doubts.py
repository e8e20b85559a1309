"""No clear answer: in doubt within the limit, one call, and resolved by the list, by proof, or by time."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import Binding, EventKind, Reason, State
from tests.service.world import POOL, A, B, C, D, E, F, World, wait_for

if TYPE_CHECKING:
    from bindings.service import BindingService

ACTED = [
    "lost_reply",
    "reset_after",
    "delay:5",
    "delay_before:2",
    "drip_headers:0.2",
    "drip_body:0.2",
    "anomaly_after",
    "bad_gateway_after",
    "garbage",
    "cut_body",
    "truncated",
]
NOT_ACTED = ["reset_before", "anomaly_before", "bad_gateway", "redirect", "refuse:-99"]
LIMIT_S = 1.0


def doubtful(world: World, service: BindingService, fault: str, *, mode: str = "AXB") -> Binding:
    """Bind A and B under a fault that leaves the outcome unknown."""
    world.simulator.script(fault, times=1, on="bind")
    before = world.received("bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=3_600, mode=mode)
    doubt = service.get(unknown.value.binding.id)
    assert doubt == unknown.value.binding
    assert (doubt.state, doubt.bind_id, doubt.expires_at) == (State.IN_DOUBT, None, None)
    assert doubt.held_until == doubt.send_by + timedelta(
        seconds=service.settings.timestamp_tolerance_s + 3_600 + 36
    )
    assert world.received("bind") == before + 1
    return doubt


@pytest.mark.parametrize(
    ("fault", "mode"), [(fault, "AXB") for fault in ACTED] + [("lost_reply", "AXXB"), ("garbage", "AXXB")]
)
def test_I2_whatever_hides_the_answer_the_binding_is_adopted_from_the_list(
    world: World, fault: str, mode: str
) -> None:
    service = world.open(provider_timeout_s=LIMIT_S)
    doubt = doubtful(world, service, fault, mode=mode)
    wait_for(lambda: len(world.simulator.ledger) == 1)
    world.clock.advance(60)
    assert service.reconcile().adopted == 1
    (entry,) = world.simulator.ledger
    adopted = service.get(doubt.id)
    assert (adopted.state, adopted.reason, adopted.bind_id) == (State.ACTIVE, Reason.ADOPTED, str(entry.bind_id))
    assert (adopted.middle_number_a, adopted.middle_number_b) == (entry.middle_number_a, entry.middle_number_b)
    assert adopted.expires_at is not None
    assert adopted.expires_at.timestamp() <= entry.expires_at
    assert adopted.held_until >= doubt.held_until
    assert world.kinds(adopted)[-1] is EventKind.ADOPTED
    assert service.lookup(phone=A) == [adopted]
    assert world.received("bind") == 1


@pytest.mark.parametrize("fault", NOT_ACTED)
def test_I4_a_doubt_of_which_nothing_came_keeps_its_phones_until_absence_is_proved(
    world: World, fault: str
) -> None:
    service = world.open(provider_timeout_s=LIMIT_S, timestamp_tolerance_s=1)
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=7_200, mode="AXB")  # the witness
    doubt = doubtful(world, service, fault)
    counts = service.reconcile()
    assert (counts.absent, counts.unresolved) == (0, 1), "too early: the request may still be accepted"
    with pytest.raises(errors.PhoneInUse):
        service.bind(phone_a=A, phone_b=C, pool_number=POOL, expire_s=60, mode="AXB")
    world.clock.advance(30)
    assert service.reconcile().absent == 1
    failed = service.get(doubt.id)
    assert (failed.state, failed.reason, failed.held_until) == (State.FAILED, Reason.ABSENT, world.clock())
    assert service.bind(phone_a=A, phone_b=C, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE


def test_absence_is_not_proved_while_an_old_stamp_might_still_be_accepted(world: World) -> None:
    service = world.service
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=7_200, mode="AXB")
    doubt = doubtful(world, world.open(provider_timeout_s=LIMIT_S), "reset_before")
    world.clock.advance(300)
    assert service.reconcile().absent == 0
    world.clock.advance(20)
    assert service.reconcile().absent == 1
    assert service.get(doubt.id).state is State.FAILED


def test_absence_is_not_proved_once_the_binding_would_be_over_and_then_it_lapses(world: World) -> None:
    service = world.open(provider_timeout_s=LIMIT_S, timestamp_tolerance_s=1)
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=259_200, mode="AXB")
    doubt = doubtful(world, service, "reset_before")
    world.clock.at = doubt.requested_at + timedelta(seconds=3_600)
    assert service.reconcile().absent == 0
    assert service.get(doubt.id).state is State.IN_DOUBT
    world.clock.at = doubt.held_until - timedelta(microseconds=1)
    assert service.recover().lapsed == 0
    world.clock.at = doubt.held_until
    assert service.recover().lapsed == 1
    lapsed = service.get(doubt.id)
    assert (lapsed.state, lapsed.ended_at) == (State.LAPSED, doubt.held_until)
    assert service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE


def _doubt_with_witness(world: World, *, witness: bool = True) -> tuple[BindingService, Binding]:
    service = world.open(provider_timeout_s=LIMIT_S, timestamp_tolerance_s=1)
    if witness:
        service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=7_200, mode="AXB")
    doubt = doubtful(world, service, "reset_before")
    world.clock.advance(30)
    return service, doubt


def test_without_a_witness_a_scan_proves_nothing(world: World) -> None:
    service, doubt = _doubt_with_witness(world, witness=False)
    assert service.reconcile().absent == 0
    assert service.get(doubt.id).state is State.IN_DOUBT


def test_with_a_witness_that_is_missing_from_the_list_nothing_is_absent(world: World) -> None:
    service, doubt = _doubt_with_witness(world)
    for entry in world.simulator.ledger:
        world.simulator.remove_binding(entry.bind_id)
    counts = service.reconcile()
    assert (counts.absent, counts.ghosts) == (0, 0)
    assert service.get(doubt.id).state is State.IN_DOUBT


@pytest.mark.parametrize(
    "fault", ["bad_gateway", "reset_before", "garbage", "anomaly_before", "refuse:-2", "truncated"]
)
def test_a_scan_that_fails_proves_nothing_and_says_why(world: World, fault: str) -> None:
    service, doubt = _doubt_with_witness(world)
    world.simulator.script(fault, rate=1.0, on="page")
    counts = service.reconcile()
    assert (counts.absent, counts.ghosts, counts.incomplete) == (0, 0, 1)
    assert counts.faults
    assert service.get(doubt.id).state is State.IN_DOUBT


def test_a_scan_that_breaks_off_in_the_middle_proves_nothing(world: World) -> None:
    service, doubt = _doubt_with_witness(world)
    for number in range(120):
        world.simulator.add_foreign_binding(
            phone_a=f"91770000{number:03}", phone_b=f"91770001{number:03}", app_id="4luaKsL2"
        )
    scripted = world.simulator._world.faults
    from bindings.provider.simulator import Call, fault

    real = scripted.next_fault
    pages = [0]

    def strike(call: Call) -> object:
        if call is Call.PAGE:
            pages[0] += 1
            if pages[0] > 1:
                return fault("bad_gateway", rate=1.0)
        return real(call)

    scripted.next_fault = strike  # type: ignore[method-assign, assignment]
    counts = service.reconcile()
    assert pages[0] > 1
    assert (counts.absent, counts.incomplete) == (0, 1)
    assert service.get(doubt.id).state is State.IN_DOUBT


def test_two_rows_that_fit_one_doubt_are_left_alone_and_reported(world: World) -> None:
    doubt = doubtful(world, world.open(provider_timeout_s=LIMIT_S), "lost_reply", mode="AXXB")
    world.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id="4luaKsL2", expire_s=3_600, mode="AXXB")
    world.clock.advance(60)
    counts = world.service.reconcile()
    assert (counts.adopted, counts.orphans, counts.unresolved) == (0, 0, 1)
    assert world.service.get(doubt.id).state is State.IN_DOUBT


@pytest.mark.parametrize(
    "planted",
    [
        {"expire_s": 60},
        {"expire_s": 7_200},
        {"mode": "AXXB"},
        {"app_id": "somebody-else"},
        {"phone_b": D},
    ],
)
def test_a_row_that_does_not_fit_is_not_adopted(world: World, planted: dict[str, object]) -> None:
    doubt = doubtful(world, world.open(provider_timeout_s=LIMIT_S), "reset_before")
    row = {"phone_a": A, "phone_b": B, "app_id": "4luaKsL2", "expire_s": 3_600, "mode": "AXB"} | planted
    world.simulator.add_foreign_binding(**row)  # type: ignore[arg-type]
    assert world.service.reconcile().adopted == 0
    assert world.service.get(doubt.id).state is State.IN_DOUBT


def test_a_row_that_lists_the_phones_the_other_way_round_swaps_the_numbers(world: World) -> None:
    doubt = doubtful(world, world.open(provider_timeout_s=LIMIT_S), "reset_before", mode="AXXB")
    entry = world.simulator.add_foreign_binding(
        phone_a=B, phone_b=A, app_id="4luaKsL2", expire_s=3_600, mode="AXXB"
    )
    assert world.service.reconcile().adopted == 1
    adopted = world.service.get(doubt.id)
    assert (adopted.middle_number_a, adopted.middle_number_b) == (entry.middle_number_b, entry.middle_number_a)


def test_I2_a_process_that_died_between_the_two_transactions_leaves_a_doubt_that_is_adopted(world: World) -> None:
    """The intent of a dead process is a pending row past its settle_by."""
    world.simulator.script("delay", times=1, seconds=3.0, on="bind")
    service = world.open(provider_timeout_s=4.0)
    threading.Thread(target=lambda: _bind_quietly(service), daemon=True).start()
    wait_for(lambda: len(world.simulator.ledger) == 1)
    (intent,) = world.service.search().data
    world.clock.at = intent.settle_by - timedelta(microseconds=1)
    assert world.service.recover().in_doubt == 0
    world.clock.at = intent.settle_by
    assert world.service.recover().in_doubt == 1
    assert world.service.get(intent.id).reason == Reason.NOT_SETTLED
    assert world.service.reconcile().adopted == 1
    wait_for(lambda: "done" in _DONE)
    _DONE.clear()
    late = world.service.get(intent.id)
    assert (late.state, late.reason) == (State.ACTIVE, Reason.ADOPTED)
    assert EventKind.LATE_SUCCESS not in world.kinds(late), "the same bind_id is no news"


_DONE: list[str] = []


def _bind_quietly(service: BindingService) -> None:
    with suppress(errors.BindingsError):
        service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=3_600, mode="AXB")
    _DONE.append("done")


def test_doubts_lists_what_is_open_oldest_first(world: World) -> None:
    first = doubtful(world, world.open(provider_timeout_s=LIMIT_S), "lost_reply")
    world.clock.advance(1)
    wished = world.bind(C, D)
    world.simulator.script("lost_reply", times=1, on="unbind")
    with pytest.raises(errors.OutcomeUnknown):
        world.service.unbind(wished.id)
    assert [doubt.id for doubt in world.service.doubts()] == [first.id, wished.id]
    assert world.service.stats()["by_state"]["in_doubt"] == 1
