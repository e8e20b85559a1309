"""Reconciliation with the provider's list: ghosts, orphans, drift, holds, wrong time zones, and dry runs."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import EventKind, Reason, State
from bindings.jobs import reconcile_orphans
from bindings.store import account
from bindings.store.queries import LONGEST_SPAN
from tests.service.harness import APP, POOL, A, B, C, D, E, F, G, H, ServiceHarness

if TYPE_CHECKING:
    from bindings.jobs import reconcile
    from bindings.jobs.reconcile_context import ReconcileContext
    from bindings.jobs.reconcile_orphans import LiveRow
    from bindings.store.database import Transaction


def test_equal_lists_change_nothing(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    harness.bind(C, D, "AXXB")
    harness.clock.advance(60)
    before = list(harness.service.export_bindings())
    counts = harness.service.reconcile()
    assert (counts.apps, counts.incomplete, counts.faults) == (1, 0, ())
    assert not any((counts.adopted, counts.absent, counts.ghosts, counts.orphans, counts.drifted))
    assert list(harness.service.export_bindings()) == before


def test_ghost_ends_after_two_scans_missed_it(harness: ServiceHarness) -> None:
    ghost, _, _ = harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)
    harness.simulator.remove_binding(str(ghost.bind_id))
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert (counts.ghosts, counts.scans) == (1, 2)
    ended = harness.service.get(ghost.id)
    assert (ended.state, ended.reason) == (State.UNBOUND, Reason.GONE_AT_PROVIDER)
    assert ended.held_until == min(ghost.held_until, harness.clock() + timedelta(seconds=36))


@pytest.mark.parametrize("action", ["hold", "release", "observe"])
def test_active_binding_that_is_listed_under_another_id_is_neither_a_ghost_nor_an_orphan(
    harness: ServiceHarness, action: str
) -> None:
    """A list that passes through JavaScript rounds long ids, and some of them stay as they are."""
    service = harness.open(on_orphan=action)
    axb, axxb, *_ = (harness.bind(*pair) for pair in ((A, B), (C, D, "AXXB"), (E, F), (G, H)))
    for binding in (axb, axxb):
        harness.simulator.list_as(str(binding.bind_id), {"bind_id": 2**53 + int(binding.bind_id or 0)})
    harness.clock.advance(61)
    for _ in range(2):
        counts = service.reconcile()
        assert (counts.ghosts, counts.orphans, counts.observed) == (0, 0, 0)
        assert counts.notes[0].startswith("the list has 2 active binding(s) under a bindId that is unknown here")
    assert [service.get(binding.id) for binding in (axb, axxb)] == [axb, axxb]
    assert harness.simulator.counts.received.get("unbind", 0) == 0


@pytest.mark.parametrize(
    "values", [{"ends_at": "2026-03-01 20:30:00"}, {"ends_at": "2026-03-01 22:00:00"}, {"middle_number_a": "918"}]
)
def test_missing_binding_is_a_ghost_beside_another_binding_of_its_pair(
    harness: ServiceHarness, values: dict[str, str]
) -> None:
    ghost, _, _ = harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)
    harness.simulator.list_as(str(ghost.bind_id), {"bind_id": "anew"} | values)
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert (counts.ghosts, counts.orphans) == (1, 1)
    assert harness.service.check(phone_a=A, phone_b=G, mode="AXB")[0].foreign


def test_missing_binding_without_a_witness_stays_active(harness: ServiceHarness) -> None:
    ghost = harness.bind(A, B)
    harness.simulator.remove_binding(str(ghost.bind_id))
    harness.clock.advance(60)
    assert harness.service.reconcile().ghosts == 0
    assert harness.service.get(ghost.id).state is State.ACTIVE


def test_new_binding_missing_from_the_list_is_not_a_ghost(harness: ServiceHarness) -> None:
    harness.bind(C, D)
    harness.bind(E, F)
    harness.clock.advance(60)
    fresh = harness.bind(A, B)
    harness.simulator.remove_binding(str(fresh.bind_id))
    assert harness.service.reconcile().ghosts == 0


def test_phones_of_an_orphan_are_held_until_it_ends(harness: ServiceHarness) -> None:
    entry = harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=600)
    assert harness.service.reconcile().orphans == 1
    with pytest.raises(errors.PhoneInUseAtProvider) as held:
        harness.bind(A, C)
    assert held.value.holder.why == "orphan"
    assert held.value.holder.held_until.timestamp() >= entry.expires_at
    assert harness.received("bind") == 0
    assert harness.service.reconcile().orphans == 0, "the orphan is already known"
    assert harness.all_kinds().count(EventKind.HELD) == 1
    (holder, *_) = harness.service.check(phone_a=A, phone_b=C, mode="AXB")
    assert holder.id is None
    harness.clock.at = holder.held_until
    assert harness.bind(A, C).state is State.ACTIVE


def test_orphan_that_is_held_for_long_enough_is_not_written_again(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.add_foreign_bindings(3)
    assert harness.service.reconcile().orphans == 3
    hold, written = reconcile_orphans._hold, []

    def record_hold(tx: Transaction, context: ReconcileContext, live_row: LiveRow) -> bool:
        written.append(live_row.row.bind_id)
        return hold(tx, context, live_row)

    monkeypatch.setattr(reconcile_orphans, "_hold", record_hold)
    new = harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP)
    later = next(iter(harness.simulator.ledger))
    harness.simulator.list_as(later.bind_id, {"ends_at": "2099-12-31 23:59:59"})
    harness.clock.advance(60)
    assert harness.service.reconcile().orphans == 1
    assert sorted(written) == sorted([str(new.bind_id), str(later.bind_id)])
    (holder,) = harness.service.check(phone_a=later.phone_a, phone_b=A, mode="AXB")
    assert holder.held_until.year == 2099
    harness.clock.advance(60)
    assert harness.service.reconcile(dry_run=True).orphans == 0
    assert len(written) == 2


def test_hold_of_an_orphan_ends_when_two_scans_miss_it(harness: ServiceHarness) -> None:
    harness.bind(E, F)
    entry = harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=3_600)
    harness.service.reconcile()
    harness.simulator.remove_binding(entry.bind_id)
    harness.clock.advance(61)
    assert harness.service.reconcile().holds_ended == 2
    assert harness.bind(A, C).state is State.ACTIVE


def test_expired_row_is_not_an_orphan(harness: ServiceHarness) -> None:
    """The provider's documentation does not say whether expired rows stay listed: they are ignored."""
    harness.simulator.change(list_expired=True)
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=60)
    harness.clock.advance(3_600)
    assert harness.service.reconcile().orphans == 0
    assert EventKind.HELD not in harness.all_kinds()


def test_expired_row_does_not_hide_the_row_that_fits_a_doubt(harness: ServiceHarness) -> None:
    harness.simulator.change(list_expired=True)
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=60)
    harness.clock.advance(3_600)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(A, B)
    harness.clock.advance(60)
    assert harness.service.reconcile().adopted == 1


def test_own_expired_rows_that_stay_listed_change_nothing(harness: ServiceHarness) -> None:
    harness.simulator.change(list_expired=True)
    harness.bind(A, B, expire_s=60)
    harness.clock.advance(3_600)
    harness.service.expire_due()
    counts = harness.service.reconcile()
    assert (counts.orphans, counts.drifted, counts.ghosts) == (0, 0, 0)


def test_hold_after_minus_35_ends_when_the_list_has_no_such_binding(harness: ServiceHarness) -> None:
    harness.bind(E, F)
    harness.clock.advance(10)
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, B)
    harness.clock.advance(51)
    harness.service.reconcile()
    assert harness.bind(A, B).state is State.ACTIVE


def refuse_as_in_use(harness: ServiceHarness) -> None:
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, B)


def test_expired_row_does_not_explain_a_hold_after_minus_35(harness: ServiceHarness) -> None:
    harness.simulator.change(list_expired=True)
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=60)
    harness.clock.advance(3_600)
    harness.bind(E, F)
    harness.clock.advance(10)
    refuse_as_in_use(harness)
    harness.clock.advance(51)
    assert harness.service.reconcile().holds_ended == 2
    assert harness.bind(A, B).state is State.ACTIVE


def test_hold_after_minus_35_that_was_denied_before_outlasts_the_lists(harness: ServiceHarness) -> None:
    """The provider refuses again what no list shows: what holds the phone is in none that can be read."""
    harness.bind(E, F)
    harness.clock.advance(10)
    refuse_as_in_use(harness)
    harness.clock.advance(51)
    assert harness.service.reconcile().holds_ended == 2
    refuse_as_in_use(harness)
    assert harness.service.reconcile().holds_ended == 0
    with pytest.raises(errors.PhoneInUseAtProvider) as in_use:
        harness.bind(A, B)
    assert in_use.value.retry_after_s == 120


def test_I2_row_of_a_late_list_is_not_taken_for_the_doubt_that_came_after_its_unbind(
    harness: ServiceHarness,
) -> None:
    """Both have the pair, the mode and, to the second, the end; the doubt was never made."""
    harness.simulator.change(list_lag_s=50.5)
    first = harness.bind(A, B)
    harness.clock.advance(1)
    harness.service.unbind(first.id)
    harness.simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.bind(A, B)
    harness.clock.advance(50)
    harness.service.recover()
    result = harness.service.reconcile()
    assert (result.adopted, result.orphans, result.revenants) == (0, 0, 0)
    assert harness.service.get(unknown.value.binding.id).state is State.IN_DOUBT


def test_I6_earlier_end_at_the_provider_moves_expires_at_forward(harness: ServiceHarness) -> None:
    binding, _ = harness.bind(A, B), harness.bind(C, D)
    ledger = harness.simulator.ledger
    sooner = replace(harness.entry(binding), expires_at=harness.entry(binding).expires_at - 120)
    ledger._entries[sooner.bind_id] = sooner
    ledger._held[sooner.bind_id] = sooner
    harness.clock.advance(60)
    assert harness.service.reconcile().drifted == 1
    narrowed = harness.service.get(binding.id)
    assert narrowed.expires_at is not None
    assert narrowed.expires_at.timestamp() <= sooner.expires_at
    assert narrowed.held_until == binding.held_until
    assert harness.kinds(binding)[-1] is EventKind.DRIFTED
    assert harness.service.reconcile().drifted == 0


def test_end_before_the_request_is_not_used(harness: ServiceHarness) -> None:
    """One of the provider's servers writes its times in UTC, the others in their zone."""
    binding, _, _ = harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)
    harness.simulator.list_as(str(binding.bind_id), {"ends_at": "2026-03-01 13:00:00"})
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert counts.notes[0].startswith("1 row(s) have an end before our binding was requested")
    assert harness.service.get(binding.id) == binding


def test_wrong_time_zone_of_every_row_is_reported_and_nothing_is_concluded(harness: ServiceHarness) -> None:
    service = harness.open(provider_zone="+00:00")
    service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=3_600, mode="AXB")
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP)
    harness.clock.advance(60)
    before = list(service.export_bindings())
    counts = service.reconcile()
    assert abs(counts.zone_misfit_s - 8 * 3_600) < 10
    assert (counts.orphans, counts.drifted, counts.ghosts) == (0, 0, 0)
    assert list(service.export_bindings()) == before


def test_dry_run_counts_and_writes_nothing(harness: ServiceHarness) -> None:
    ghost, _, _ = harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)
    harness.simulator.remove_binding(str(ghost.bind_id))
    harness.simulator.add_foreign_binding(phone_a=G, phone_b=H, app_id=APP)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind("9188067711", "9188067712")
    harness.clock.advance(61)
    before = list(harness.service.export_bindings()), len(harness.all_kinds())
    counts = harness.service.reconcile(dry_run=True)
    assert (counts.ghosts, counts.orphans, counts.adopted, counts.dry_run) == (1, 1, 1, True)
    assert (list(harness.service.export_bindings()), len(harness.all_kinds())) == before


def counts_of(result: reconcile.ReconcileResult) -> dict[str, object]:
    different = {"dry_run", "report_id", "scan_s"}
    return {name: value for name, value in asdict(result).items() if name not in different}


def put_in_doubt(harness: ServiceHarness, fault: str, phone_a: str, phone_b: str) -> None:
    harness.simulator.script(fault, times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(phone_a, phone_b)


@pytest.mark.parametrize("action", ["hold", "release", "observe"])
@pytest.mark.parametrize("on_doubt", ["adopt", "observe"])
def test_dry_run_counts_what_the_run_after_it_does(harness: ServiceHarness, action: str, on_doubt: str) -> None:
    harness.bind(E, F)  # proves that the list is read whole
    first = harness.simulator.add_foreign_binding(phone_a=G, phone_b=H, app_id=APP)
    harness.service.reconcile()  # holds the first orphan
    put_in_doubt(harness, "lost_reply", A, B)
    put_in_doubt(harness, "lost_reply", C, D)
    put_in_doubt(harness, "reset_before", "9188067711", "9188067712")
    harness.simulator.add_foreign_binding(phone_a="9188067713", phone_b="9188067714", app_id=APP)
    harness.clock.advance(400)
    service = harness.open(on_orphan=action, on_doubt=on_doubt)
    dry, real = service.reconcile(dry_run=True), service.reconcile()
    assert counts_of(dry) == counts_of(real)
    observes_doubts, observes_orphans = on_doubt == "observe", action == "observe"
    assert (dry.adopted, dry.absent, dry.unresolved) == ((0, 0, 3) if observes_doubts else (2, 1, 0))
    assert dry.orphans == (0 if observes_orphans else 1), f"row {first.bind_id} is held already"


def test_dry_run_that_reads_a_list_twice_counts_each_case_once(harness: ServiceHarness) -> None:
    harness.bind(E, F)
    put_in_doubt(harness, "lost_reply", A, B)
    harness.simulator.add_foreign_binding(phone_a=G, phone_b=H, app_id=APP)
    harness.simulator.change(total_offset=50)
    account.register_scope(harness.database, "default")
    harness.service.mark_restored()  # requires a full scan, which reads such a list twice
    harness.clock.advance(61)
    dry, real = harness.service.reconcile(dry_run=True), harness.service.reconcile()
    assert (dry.scans, dry.adopted, dry.orphans, dry.unresolved) == (2, 1, 1, 0)
    assert {**counts_of(dry), "made_good": True} == counts_of(real)


@pytest.mark.usefixtures("small_pages")
def test_list_shuffled_between_its_pages_loses_and_invents_nothing(harness: ServiceHarness) -> None:
    harness.simulator.change(shuffle_pages=True)
    harness.add_foreign_bindings(30)
    bindings = [harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)]
    harness.clock.advance(60)
    for _ in range(3):
        counts = harness.service.reconcile()
        assert (counts.ghosts, counts.absent, counts.adopted) == (0, 0, 0)
    assert harness.received("page") >= 3 * 4
    assert all(harness.service.get(binding.id).state is State.ACTIVE for binding in bindings)


@pytest.mark.usefixtures("small_pages")
def test_long_list_is_read_to_its_end(harness: ServiceHarness) -> None:
    harness.add_foreign_bindings(45)
    counts = harness.service.reconcile()
    assert (counts.orphans, counts.incomplete) == (45, 0)
    assert harness.received("page") >= 5
    assert harness.service.reconcile().orphans == 0


def test_bindings_of_every_application_are_compared(harness: ServiceHarness) -> None:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(A, B, app_id="other")
    harness.clock.advance(60)
    counts = harness.service.reconcile()
    assert (counts.apps, counts.adopted) == (2, 1)


def test_clock_skew_to_the_provider_widens_the_match(harness: ServiceHarness) -> None:
    harness.simulator.change(clock_offset_s=25)
    harness.bind(C, D)  # measures the skew
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(A, B)
    assert harness.service.reconcile().adopted == 1
    adopted = harness.service.get(excinfo.value.binding.id)
    assert adopted.expires_at is not None
    assert adopted.expires_at <= adopted.requested_at + timedelta(seconds=3_600)


@pytest.mark.parametrize("own_rows", [1, 2])
def test_end_that_no_zone_explains_neither_stops_the_pass_nor_hides_its_binding_from_a_trace(
    harness: ServiceHarness, own_rows: int
) -> None:
    """A row until the year 9999 holds the phones as long as it is listed, and no longer."""
    harness.simulator.change(list_expired=True)
    witness = harness.bind(E, F, expire_s=259_200) if own_rows > 1 else None
    binding = harness.bind(A, B)
    harness.simulator.list_as(str(binding.bind_id), {"ends_at": "9999-12-31 00:00:00"})
    harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP)
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert (counts.zone_misfit_s, counts.drifted, counts.orphans) == (0.0, 1, 1)
    traced = harness.service.trace(middle_number=str(binding.middle_number_a), at=harness.clock.at)
    assert [holder.binding.id for holder in traced.holders] == [binding.id]
    assert harness.service.reconcile().drifted == 0, "it is held as long as a binding can be"
    harness.clock.advance(3_600)
    harness.service.expire_due()
    assert harness.service.reconcile().revenants == 1
    held = harness.service.check(phone_a=A, phone_b=G, mode="AXB")
    assert max(holder.held_until.year for holder in held) == 9999
    if witness is not None:
        harness.simulator.list_as(str(binding.bind_id), hidden=True)
        assert harness.service.reconcile().holds_ended == 2
        harness.clock.at = binding.requested_at + LONGEST_SPAN
        assert harness.service.check(phone_a=A, phone_b=G, mode="AXB") == []


def test_drift_of_one_of_two_rows_is_no_wrong_time_zone(harness: ServiceHarness) -> None:
    binding, _ = harness.bind(A, B), harness.bind(E, F)
    harness.simulator.list_as(str(binding.bind_id), {"ends_at": "2026-03-01 20:30:00"})
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert (counts.zone_misfit_s, counts.drifted) == (0.0, 1)
    moved_to = harness.service.get(binding.id).expires_at
    assert moved_to is not None
    assert binding.expires_at is not None
    assert moved_to < binding.expires_at
