"""Reconciliation with a list that has rows which do not match the documents, and ends that no clock has."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from bindings import errors
from bindings.domain.binding import Reason, State
from bindings.jobs import reconcile, reconcile_absences, reconcile_orphans, reconcile_rows
from bindings.store import account, holds
from tests.service.harness import APP, POOL, A, B, C, D, E, F, G, H, ServiceHarness

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bindings.domain.binding import Caller
    from bindings.store.database import Transaction

ODD_ROWS: list[dict[str, Any]] = [
    {"phone_b": None},
    {"phone_a": "0571-88060007"},
    {"middle_number_a": "soon"},
    {"ends_at": None},
    {"ends_at": "for ever"},
    {"ends_at": 0},
    {"ends_at": "0001-01-01 00:00:00"},
    {"bind_id": None},
    {"bind_id": {"id": 7}},
]
OTHER_NUMBERS = {"middle_number_a": "918806999", "middle_number_b": "918806999"}
ENDS = ["9999-12-31 23:59:59", "9999-12-31T23:59:59-12:00", 253_402_300_799, 253_402_300_799_999]


def put_in_doubt(harness: ServiceHarness, phone_a: str = A, phone_b: str = B) -> str:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(phone_a, phone_b)
    harness.clock.advance(61)
    return excinfo.value.binding.id


def add_listed_row(harness: ServiceHarness, values: Mapping[str, object]) -> str:
    """Add a foreign binding that the list shows with these values, and return its bind_id."""
    entry = harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP)
    harness.simulator.list_as(entry.bind_id, values)
    return str(entry.bind_id)


@pytest.mark.parametrize("values", ODD_ROWS)
def test_doubt_is_adopted_beside_an_odd_row(harness: ServiceHarness, values: dict[str, Any]) -> None:
    add_listed_row(harness, values)
    doubt = put_in_doubt(harness)
    counts = harness.service.reconcile()
    assert (counts.adopted, counts.odd_rows, counts.incomplete, counts.failures) == (1, 1, 0, 0)
    assert harness.service.get(doubt).state is State.ACTIVE


def test_doubt_is_adopted_from_a_list_that_writes_phones_with_00(harness: ServiceHarness) -> None:
    doubt = put_in_doubt(harness)
    (entry,) = harness.simulator.ledger
    harness.simulator.list_as(entry.bind_id, {"phone_a": f"00{A}", "phone_b": f"+{B}"})
    assert harness.service.reconcile().adopted == 1
    assert harness.service.get(doubt).state is State.ACTIVE


@pytest.mark.parametrize("values", ODD_ROWS)
def test_odd_row_is_named_by_its_bind_id_and_never_by_a_phone(
    harness: ServiceHarness, values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    bind_id = add_listed_row(harness, values)
    counts = harness.service.reconcile()
    (case,) = [case for case in harness.service.reports().data[0].cases if case["case"] == "odd_rows"]
    (fault,) = counts.faults
    name = "without bindId" if "bind_id" in values else bind_id
    assert f"row {name}: " in fault
    assert case.get("bind_id") == (None if "bind_id" in values else bind_id)
    assert case["problem"] in fault
    for phone in (C, D, "88060007"):
        assert phone not in f"{fault}{case}{caplog.text}"


def test_report_counts_all_odd_rows_and_names_the_first_hundred(harness: ServiceHarness) -> None:
    """A list with masked phones has nothing but odd rows, at every run."""
    harness.add_foreign_bindings(120)
    for entry in harness.simulator.ledger:
        harness.simulator.list_as(entry.bind_id, {"phone_a": "138****8000"})
    assert harness.service.reconcile().odd_rows == 120
    assert len(harness.service.reports().data[0].cases) == 100


def test_orphans_drift_and_holds_are_handled_beside_an_odd_row(harness: ServiceHarness) -> None:
    binding, _ = harness.bind(A, B), harness.bind(E, F)
    harness.simulator.list_as(str(binding.bind_id), OTHER_NUMBERS)
    harness.simulator.add_foreign_binding(phone_a=G, phone_b=H, app_id=APP)
    add_listed_row(harness, {"phone_b": None})
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert (counts.drifted, counts.orphans, counts.odd_rows) == (1, 1, 1)
    assert harness.service.check(phone_a=G, phone_b="91770000001", mode="AXB")


def test_odd_row_leaves_ghosts_and_absences_unproved_until_it_is_gone(harness: ServiceHarness) -> None:
    service = harness.open(timestamp_tolerance_s=1)
    ghost, _, _ = harness.bind(A, B), harness.bind(E, F), harness.bind(G, H)
    harness.simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        service.bind(phone_a="91770000001", phone_b="91770000002", pool_number=POOL, expire_s=3_600, mode="AXB")
    doubt = excinfo.value.binding.id
    harness.simulator.remove_binding(str(ghost.bind_id))
    odd = add_listed_row(harness, {"phone_b": None})
    harness.clock.advance(61)
    for _ in range(3):
        counts = service.reconcile()
        assert (counts.ghosts, counts.absent) == (0, 0)
        harness.clock.advance(61)
    assert service.get(ghost.id).state is State.ACTIVE
    assert service.get(doubt).state is State.IN_DOUBT
    harness.simulator.remove_binding(odd)
    assert service.reconcile().ghosts == 1
    harness.clock.advance(61)
    assert service.reconcile().absent == 1
    assert service.get(ghost.id).reason == Reason.GONE_AT_PROVIDER


@pytest.mark.parametrize("end", ["soon", "0001-01-01T00:00:00Z", "1970-01-01 08:00:00"])
def test_own_binding_that_is_listed_as_an_odd_row_stays_active(harness: ServiceHarness, end: str) -> None:
    odd, _ = harness.bind(A, B), harness.bind(E, F)
    harness.simulator.list_as(str(odd.bind_id), {"ends_at": end})
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert (counts.odd_rows, counts.ghosts, counts.orphans) == (1, 0, 0)
    assert harness.service.get(odd.id) == odd
    assert harness.service.check(phone_a=A, phone_b=C, mode="AXB")[0].id == odd.id


@pytest.mark.parametrize(
    "values", [{"middle_number_b": None}, {"ends_at": "1970-01-01 00:00:00"}, {"phone_b": None}]
)
def test_I4_phones_of_an_odd_row_are_held_while_it_is_listed(
    harness: ServiceHarness, values: dict[str, Any]
) -> None:
    harness.bind(E, F)
    bind_id = add_listed_row(harness, values)
    harness.service.reconcile()
    (holder, *_) = harness.service.check(phone_a=C, phone_b=A, mode="AXB")
    assert holder.held_until >= harness.clock() + timedelta(seconds=3_600)
    harness.simulator.remove_binding(bind_id)
    harness.clock.advance(61)
    harness.service.reconcile()
    assert harness.service.check(phone_a=C, phone_b=A, mode="AXB") == []


def test_odd_row_that_is_held_for_long_enough_is_not_written_again(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_listed_row(harness, {"phone_b": None})
    harness.service.reconcile()
    written: list[str] = []
    hold = holds.hold_orphan

    def record_hold(tx: Transaction, caller: Caller, **facts: Any) -> bool:
        written.append(facts["bind_id"])
        return hold(tx, caller, **facts)

    monkeypatch.setattr(holds, "hold_orphan", record_hold)
    harness.clock.advance(60)
    harness.service.reconcile()
    assert written == []


def test_odd_row_with_the_phone_of_a_doubt_is_not_held_for_a_foreign_binding(harness: ServiceHarness) -> None:
    doubt = put_in_doubt(harness)
    (entry,) = harness.simulator.ledger
    harness.simulator.list_as(entry.bind_id, {"middle_number_b": None})
    counts = harness.service.reconcile()
    assert (counts.adopted, counts.odd_rows, counts.unresolved) == (0, 1, 1)
    harness.simulator.list_as(entry.bind_id)
    assert harness.service.reconcile().adopted == 1
    assert harness.service.get(doubt).state is State.ACTIVE
    assert harness.service.check(phone_a=A, phone_b=C, mode="AXB")[0].id == doubt


@pytest.mark.parametrize("values", [*ODD_ROWS, *({"ends_at": end} for end in ENDS)])
def test_full_scan_after_a_restore_completes_beside_a_row_that_stays(
    harness: ServiceHarness, values: dict[str, Any]
) -> None:
    account.register_scope(harness.database, "default")
    add_listed_row(harness, values)
    harness.service.mark_restored()
    harness.clock.advance(1)
    with pytest.raises(errors.Busy, match="restored"):
        harness.bind(A, B)
    assert harness.service.reconcile().made_good
    assert harness.bind(A, B).state is State.ACTIVE


@pytest.mark.parametrize("end", ENDS)
def test_row_without_an_end_is_held_and_stops_nothing(harness: ServiceHarness, end: object) -> None:
    ghost, _, _ = harness.bind(A, B), harness.bind(E, F), harness.bind(G, H)
    harness.simulator.remove_binding(str(ghost.bind_id))
    add_listed_row(harness, {"ends_at": end})
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert (counts.orphans, counts.ghosts, counts.odd_rows, counts.failures) == (1, 1, 0, 0)
    (holder, *_) = harness.service.check(phone_a=C, phone_b=A, mode="AXB")
    assert holder.held_until.year == 9999
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, C)


@pytest.mark.parametrize("end", ["9999-12-31 23:59:59", 99_999_999_999])
def test_own_binding_that_is_listed_with_an_absurd_end_stops_nothing(harness: ServiceHarness, end: object) -> None:
    odd, *_ = (harness.bind(A, B), harness.bind(C, D), harness.bind(E, F), harness.bind(G, H))
    harness.simulator.list_as(str(odd.bind_id), {"ends_at": end})
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert (counts.drifted, counts.failures, counts.zone_misfit_s) == (1, 0, 0.0)


@pytest.mark.parametrize("form", ["unix", "unix_ms", "iso"])
def test_list_with_ends_in_another_form_is_compared_as_usual(harness: ServiceHarness, form: str) -> None:
    harness.simulator.change(end_form=form)
    service = harness.open(provider_zone="+00:00")  # counts for local times only
    harness.bind(E, F)
    doubt = put_in_doubt(harness)
    harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP)
    counts = service.reconcile()
    assert (counts.adopted, counts.orphans, counts.drifted, counts.zone_misfit_s) == (1, 1, 0, 0.0)
    assert service.get(doubt).state is State.ACTIVE


@pytest.mark.parametrize("step", ["_apply_drift", "_adopt", "_hold", "_end_ghost", "_fail_absent"])
def test_row_whose_handling_fails_is_named_and_the_others_are_handled(
    harness: ServiceHarness, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = harness.open(timestamp_tolerance_s=1)
    drifted, *_ = harness.bind("91770000001", "91770000002"), harness.bind(E, F), harness.bind(G, H)
    harness.simulator.list_as(str(drifted.bind_id), OTHER_NUMBERS)
    put_in_doubt(harness)
    harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP)
    harness.simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        service.bind(phone_a="91770000003", phone_b="91770000004", pool_number=POOL, expire_s=3_600, mode="AXB")
    if step == "_end_ghost":  # a scan that proves a ghost proves no absence
        harness.simulator.remove_binding(harness.entry(harness.bind("91770000005", "91770000006")).bind_id)
    harness.clock.advance(70)

    def fail(*_: object, **__: object) -> bool:
        raise OverflowError("91770000001")

    modules = {"_hold": reconcile_orphans, "_end_ghost": reconcile_absences, "_fail_absent": reconcile_absences}
    monkeypatch.setattr(modules.get(step, reconcile_rows), step, fail)
    counts = service.reconcile()
    assert counts.failures == 1
    assert "failed with OverflowError" in counts.faults[0]
    handled = {
        "_apply_drift": counts.drifted,
        "_adopt": counts.adopted,
        "_hold": counts.orphans,
        "_end_ghost": counts.ghosts,
        "_fail_absent": counts.absent,
    }
    assert handled.pop(step) == 0
    del handled["_fail_absent" if step == "_end_ghost" else "_end_ghost"]
    assert set(handled.values()) == {1}
    (report,) = service.reports().data
    assert "91770000001" not in str(report)


def test_row_that_cannot_be_held_keeps_no_other_row_of_its_batch_from_being_held(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        harness.simulator.add_foreign_binding(
            phone_a=f"9177000000{number}", phone_b=f"9177000001{number}", app_id=APP
        )
    unholdable = str(next(iter(harness.simulator.ledger)).bind_id)
    hold = reconcile_orphans._hold

    def fail_for_one(tx: Any, context: Any, live_row: reconcile_orphans.LiveRow) -> bool:
        if live_row.row.bind_id == unholdable:
            raise OverflowError
        return hold(tx, context, live_row)

    monkeypatch.setattr(reconcile_orphans, "_hold", fail_for_one)
    counts = harness.service.reconcile()
    assert (counts.orphans, counts.failures) == (4, 1)
    assert counts.faults == (f"hold of row {unholdable} failed with OverflowError",)


def test_error_in_one_application_keeps_no_other_from_being_reconciled(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.bind(A, B, app_id="a-first")
    harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP)
    apply = reconcile._apply

    def fail_for_one(context: Any, scan: Any, findings: Any) -> None:
        if scan.app_id == "a-first":
            raise OverflowError
        apply(context, scan, findings)

    monkeypatch.setattr(reconcile, "_apply", fail_for_one)
    counts = harness.service.reconcile()
    assert (counts.apps, counts.orphans, counts.failures) == (2, 1, 1)
    assert counts.faults == ("reconciliation of application a-first failed with OverflowError",)
