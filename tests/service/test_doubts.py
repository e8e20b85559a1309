"""Binds without a clear response: in doubt after one call, then resolved by list, proof of absence, or time."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import Binding, EventKind, Reason, State
from tests.service.harness import POOL, A, B, C, D, E, F, ServiceHarness, hold_answers, wait_for

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


def doubtful(harness: ServiceHarness, service: BindingService, fault: str, *, mode: str = "AXB") -> Binding:
    """Bind A and B under a fault that leaves the outcome unknown."""
    harness.simulator.script(fault, times=1, on="bind")
    before = harness.received("bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=3_600, mode=mode)
    doubt = service.get(excinfo.value.binding.id)
    assert doubt == excinfo.value.binding
    assert (doubt.state, doubt.bind_id, doubt.expires_at) == (State.IN_DOUBT, None, None)
    assert doubt.held_until == doubt.send_by + timedelta(
        seconds=service.settings.timestamp_tolerance_s + 3_600 + 36
    )
    assert harness.received("bind") == before + 1
    return doubt


@pytest.mark.parametrize(
    ("fault", "mode"), [(fault, "AXB") for fault in ACTED] + [("lost_reply", "AXXB"), ("garbage", "AXXB")]
)
def test_I2_binding_without_a_clear_response_is_adopted_from_the_list(
    harness: ServiceHarness, fault: str, mode: str
) -> None:
    service = harness.open(provider_timeout_s=LIMIT_S)
    doubt = doubtful(harness, service, fault, mode=mode)
    wait_for(lambda: len(harness.simulator.ledger) == 1)
    harness.clock.advance(60)
    assert service.reconcile().adopted == 1
    (entry,) = harness.simulator.ledger
    adopted = service.get(doubt.id)
    assert (adopted.state, adopted.reason, adopted.bind_id) == (State.ACTIVE, Reason.ADOPTED, str(entry.bind_id))
    assert (adopted.middle_number_a, adopted.middle_number_b) == (entry.middle_number_a, entry.middle_number_b)
    assert adopted.expires_at is not None
    assert adopted.expires_at.timestamp() <= entry.expires_at
    assert adopted.held_until >= doubt.held_until
    assert harness.kinds(adopted)[-1] is EventKind.ADOPTED
    assert service.lookup(phone=A) == [adopted]
    assert harness.received("bind") == 1


@pytest.mark.parametrize("fault", NOT_ACTED)
def test_I4_doubt_without_a_binding_keeps_its_phones_until_absence_is_proved(
    harness: ServiceHarness, fault: str
) -> None:
    service = harness.open(provider_timeout_s=LIMIT_S, timestamp_tolerance_s=1)
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=7_200, mode="AXB")  # the witness
    harness.clock.advance(60)  # from then on the list must have it
    doubt = doubtful(harness, service, fault)
    counts = service.reconcile()
    assert (counts.absent, counts.unresolved) == (0, 1), "too early: the request may still be accepted"
    with pytest.raises(errors.PhoneInUse):
        service.bind(phone_a=A, phone_b=C, pool_number=POOL, expire_s=60, mode="AXB")
    harness.clock.advance(70)
    assert service.reconcile().absent == 1
    failed = service.get(doubt.id)
    assert (failed.state, failed.reason, failed.held_until) == (State.FAILED, Reason.ABSENT, harness.clock())
    assert service.bind(phone_a=A, phone_b=C, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE


def test_I4_doubt_is_not_absent_while_its_pair_is_listed_with_the_id_of_a_living_binding(
    harness: ServiceHarness,
) -> None:
    service = harness.open(provider_timeout_s=LIMIT_S, timestamp_tolerance_s=1)
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=7_200, mode="AXB")  # the witness
    living_binding = service.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=7_200, mode="AXB")
    doubt = doubtful(harness, service, "reset_before")
    harness.simulator.list_as(str(living_binding.bind_id), {"phone_a": A, "phone_b": B})
    harness.clock.advance(130)
    assert (service.reconcile().absent, service.get(doubt.id).state) == (0, State.IN_DOUBT)
    harness.simulator.list_as(str(living_binding.bind_id))
    assert (service.reconcile().absent, service.get(doubt.id).state) == (1, State.FAILED)


def test_absence_is_not_proved_while_the_request_may_still_be_accepted(harness: ServiceHarness) -> None:
    service = harness.service
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=7_200, mode="AXB")
    doubt = doubtful(harness, harness.open(provider_timeout_s=LIMIT_S), "reset_before")
    harness.clock.advance(300)
    assert service.reconcile().absent == 0
    harness.clock.advance(20)
    assert service.reconcile().absent == 1
    assert service.get(doubt.id).state is State.FAILED


def test_absence_is_not_proved_while_a_late_list_may_not_show_the_binding_yet(harness: ServiceHarness) -> None:
    """The list is 60 s late; requests are accepted for a much shorter time."""
    harness.simulator.change(list_lag_s=59)
    service = harness.open(provider_timeout_s=LIMIT_S, timestamp_tolerance_s=1)
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=7_200, mode="AXB")
    harness.clock.advance(61)
    doubt = doubtful(harness, service, "lost_reply")
    wait_for(lambda: len(harness.simulator.ledger) == 2)
    for seconds in (20, 30, 5):
        harness.clock.advance(seconds)
        assert service.reconcile().absent == 0
        assert service.get(doubt.id).state is State.IN_DOUBT
    harness.clock.advance(20)
    assert (service.reconcile().adopted, service.get(doubt.id).state) == (1, State.ACTIVE)


def test_absence_is_not_proved_after_the_binding_would_have_ended_and_the_doubt_lapses(
    harness: ServiceHarness,
) -> None:
    service = harness.open(provider_timeout_s=LIMIT_S, timestamp_tolerance_s=1)
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=259_200, mode="AXB")
    doubt = doubtful(harness, service, "reset_before")
    harness.clock.at = doubt.requested_at + timedelta(seconds=3_600)
    assert service.reconcile().absent == 0
    assert service.get(doubt.id).state is State.IN_DOUBT
    harness.clock.at = doubt.held_until - timedelta(microseconds=1)
    assert service.recover().lapsed == 0
    harness.clock.at = doubt.held_until
    assert service.recover().lapsed == 1
    lapsed = service.get(doubt.id)
    assert (lapsed.state, lapsed.ended_at) == (State.LAPSED, doubt.held_until)
    assert service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE


def _doubt_with_witness(harness: ServiceHarness, *, witness: bool = True) -> tuple[BindingService, Binding]:
    service = harness.open(provider_timeout_s=LIMIT_S, timestamp_tolerance_s=1)
    if witness:
        service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=7_200, mode="AXB")
        harness.clock.advance(60)  # from then on the list must have it
    doubt = doubtful(harness, service, "reset_before")
    harness.clock.advance(70)
    return service, doubt


def test_scan_without_a_witness_proves_nothing(harness: ServiceHarness) -> None:
    service, doubt = _doubt_with_witness(harness, witness=False)
    assert service.reconcile().absent == 0
    assert service.get(doubt.id).state is State.IN_DOUBT


def test_scan_that_misses_the_witness_proves_no_absence(harness: ServiceHarness) -> None:
    service, doubt = _doubt_with_witness(harness)
    for entry in harness.simulator.ledger:
        harness.simulator.remove_binding(entry.bind_id)
    counts = service.reconcile()
    assert (counts.absent, counts.ghosts) == (0, 0)
    assert service.get(doubt.id).state is State.IN_DOUBT


@pytest.mark.parametrize(
    "fault", ["bad_gateway", "reset_before", "garbage", "anomaly_before", "refuse:-2", "truncated"]
)
def test_failed_scan_proves_nothing_and_reports_the_cause(harness: ServiceHarness, fault: str) -> None:
    service, doubt = _doubt_with_witness(harness)
    harness.simulator.script(fault, rate=1.0, on="page")
    counts = service.reconcile()
    assert (counts.absent, counts.ghosts, counts.incomplete) == (0, 0, 1)
    assert counts.faults
    assert service.get(doubt.id).state is State.IN_DOUBT


def test_scan_that_fails_on_its_second_page_proves_nothing(harness: ServiceHarness) -> None:
    service, doubt = _doubt_with_witness(harness)
    harness.add_foreign_bindings(120)
    faults = harness.simulator._own_state.faults
    from bindings.provider.simulator import Call, fault

    original_next_fault = faults.next_fault
    pages = [0]

    def fail_after_first_page(call: Call) -> object:
        if call is Call.PAGE:
            pages[0] += 1
            if pages[0] > 1:
                return fault("bad_gateway", rate=1.0)
        return original_next_fault(call)

    faults.next_fault = fail_after_first_page  # type: ignore[method-assign, assignment]
    counts = service.reconcile()
    assert pages[0] > 1
    assert (counts.absent, counts.incomplete) == (0, 1)
    assert service.get(doubt.id).state is State.IN_DOUBT


def test_two_rows_that_fit_one_doubt_are_not_adopted_and_reported_as_unresolved(harness: ServiceHarness) -> None:
    doubt = doubtful(harness, harness.open(provider_timeout_s=LIMIT_S), "lost_reply", mode="AXXB")
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id="4luaKsL2", expire_s=3_600, mode="AXXB")
    harness.clock.advance(60)
    counts = harness.service.reconcile()
    assert (counts.adopted, counts.orphans, counts.unresolved) == (0, 0, 1)
    assert harness.service.get(doubt.id).state is State.IN_DOUBT


@pytest.mark.parametrize(
    "difference",
    [
        {"expire_s": 60},
        {"expire_s": 7_200},
        {"mode": "AXXB"},
        {"app_id": "foreign-app"},
        {"phone_b": D},
    ],
)
def test_row_that_does_not_fit_is_not_adopted(harness: ServiceHarness, difference: dict[str, object]) -> None:
    doubt = doubtful(harness, harness.open(provider_timeout_s=LIMIT_S), "reset_before")
    row = {"phone_a": A, "phone_b": B, "app_id": "4luaKsL2", "expire_s": 3_600, "mode": "AXB"} | difference
    harness.simulator.add_foreign_binding(**row)  # type: ignore[arg-type]
    assert harness.service.reconcile().adopted == 0
    assert harness.service.get(doubt.id).state is State.IN_DOUBT


def test_row_with_swapped_phones_is_adopted_with_swapped_middle_numbers(harness: ServiceHarness) -> None:
    doubt = doubtful(harness, harness.open(provider_timeout_s=LIMIT_S), "reset_before", mode="AXXB")
    entry = harness.simulator.add_foreign_binding(
        phone_a=B, phone_b=A, app_id="4luaKsL2", expire_s=3_600, mode="AXXB"
    )
    assert harness.service.reconcile().adopted == 1
    adopted = harness.service.get(doubt.id)
    assert (adopted.middle_number_a, adopted.middle_number_b) == (entry.middle_number_b, entry.middle_number_a)


def test_I2_process_killed_between_its_two_transactions_leaves_a_doubt_that_is_adopted(
    harness: ServiceHarness,
) -> None:
    """The intent of a killed process is a pending row past its settle_by."""
    answer = hold_answers(harness.simulator, "delay")
    service = harness.open(provider_timeout_s=60.0)
    threading.Thread(target=lambda: _bind_quietly(service), daemon=True).start()
    wait_for(lambda: len(harness.simulator.ledger) == 1)
    (intent,) = harness.service.search().data
    harness.clock.at = intent.settle_by - timedelta(microseconds=1)
    assert harness.service.recover().in_doubt == 0
    harness.clock.at = intent.settle_by
    assert harness.service.recover().in_doubt == 1
    assert harness.service.get(intent.id).reason == Reason.NOT_SETTLED
    assert harness.service.reconcile().adopted == 1
    answer.set()
    wait_for(lambda: "done" in _FINISHED_BINDS)
    _FINISHED_BINDS.clear()
    late = harness.service.get(intent.id)
    assert (late.state, late.reason) == (State.ACTIVE, Reason.ADOPTED)
    assert EventKind.LATE_SUCCESS not in harness.kinds(late), "the same bind_id is not a late success"


_FINISHED_BINDS: list[str] = []


def _bind_quietly(service: BindingService) -> None:
    with suppress(errors.BindingsError):
        service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=3_600, mode="AXB")
    _FINISHED_BINDS.append("done")


def test_doubts_are_listed_oldest_first(harness: ServiceHarness) -> None:
    first = doubtful(harness, harness.open(provider_timeout_s=LIMIT_S), "lost_reply")
    harness.clock.advance(1)
    unbind_requested = harness.bind(C, D)
    harness.simulator.script("lost_reply", times=1, on="unbind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.service.unbind(unbind_requested.id)
    assert [doubt.id for doubt in harness.service.doubts()] == [first.id, unbind_requested.id]
    assert harness.service.stats()["by_state"]["in_doubt"] == 1
