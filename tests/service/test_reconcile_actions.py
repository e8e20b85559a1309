"""Actions of reconcile by setting, its reports, binds after a restore, and the scope and host of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import pytest
from sqlalchemy import text, update

from bindings import errors
from bindings.domain.binding import State
from bindings.lifecycle import unbind as unbind_calls
from bindings.store import account
from bindings.store.failures import ConstraintViolated
from bindings.store.schema import account as account_table
from tests.service.harness import APP, A, B, C, D, E, F

if TYPE_CHECKING:
    from bindings.store.database import Transaction
    from tests.service.harness import ServiceHarness


def put_in_doubt(harness: ServiceHarness) -> str:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(A, B)
    harness.clock.advance(20)
    return excinfo.value.binding.id


def test_observed_doubt_is_reported_and_stays_in_doubt(harness: ServiceHarness) -> None:
    observer = harness.open(on_doubt="observe")
    binding_id = put_in_doubt(harness)
    counts = observer.reconcile()
    assert (counts.adopted, counts.observed, counts.unresolved) == (0, 1, 1)
    assert observer.get(binding_id).state is State.IN_DOUBT
    (case,) = observer.reports().data[0].cases
    assert (case["case"], case["action"], case["binding_id"]) == ("adopted", "observe", binding_id)


def test_observed_orphan_is_not_held_and_released_orphan_is_unbound(harness: ServiceHarness) -> None:
    observer, releaser = harness.open(on_orphan="observe"), harness.open(on_orphan="release")
    planted = harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP, expire_s=3_600)
    assert observer.reconcile().observed == 1
    assert observer.check(phone_a=C, phone_b=A, mode="AXB") == []
    assert releaser.reconcile().orphans == 1
    entry = harness.simulator.ledger.get(planted.bind_id)
    assert entry is not None
    assert entry.unbound_at is not None
    assert releaser.check(phone_a=C, phone_b=A, mode="AXB") == []


def test_releases_of_orphans_end_with_the_first_that_the_provider_refuses_to_the_account(
    harness: ServiceHarness,
) -> None:
    releaser = harness.open(on_orphan="release")
    for phones in ((A, B), (C, D), (E, F)):
        harness.simulator.add_foreign_binding(phone_a=phones[0], phone_b=phones[1], app_id=APP, expire_s=3_600)
    harness.simulator.script("refuse:-1", rate=1.0, on="unbind")
    assert releaser.reconcile().orphans == 3
    assert harness.simulator.counts.received["unbind"] == 1
    assert all(releaser.check(phone_a=phone, phone_b="91880677", mode="AXB") for phone in (A, B, C, D, E, F))
    harness.simulator.clear_faults()
    releaser.reconcile()
    assert harness.simulator.ledger.live(harness.simulator.now()) == ()


def test_releases_of_orphans_have_a_budget_of_time_and_the_next_scan_continues(harness: ServiceHarness) -> None:
    releaser = harness.open(on_orphan="release")
    for phones in ((A, B), (C, D)):
        harness.simulator.add_foreign_binding(phone_a=phones[0], phone_b=phones[1], app_id=APP, expire_s=3_600)
    with mock.patch.object(unbind_calls, "UNBIND_BUDGET_S", -1.0):
        releaser.reconcile()
    assert "unbind" not in harness.simulator.counts.received
    releaser.reconcile()
    assert harness.simulator.counts.received["unbind"] == 2
    assert harness.simulator.ledger.live(harness.simulator.now()) == ()


def test_release_of_an_orphan_is_repeated_when_the_provider_refuses_the_timestamp(harness: ServiceHarness) -> None:
    releaser = harness.open(on_orphan="release")
    harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP, expire_s=3_600)
    harness.simulator.script("refuse:-16", times=1, on="unbind")
    releaser.reconcile()
    assert harness.simulator.ledger.live(harness.simulator.now()) == ()


def test_observed_ghost_stays_active(harness: ServiceHarness) -> None:
    observer = harness.open(on_ghost="observe")
    witness, ghost = harness.bind(A, B), harness.bind(C, D)
    harness.simulator.remove_binding(int(ghost.bind_id or 0))
    harness.clock.advance(61)
    counts = observer.reconcile()
    assert (counts.ghosts, counts.observed) == (0, 1)
    assert observer.get(ghost.id).state is observer.get(witness.id).state is State.ACTIVE


def test_reports_are_append_only_and_listed_newest_first_in_pages(harness: ServiceHarness) -> None:
    report_ids = []
    for _ in range(3):
        report_ids.append(harness.service.reconcile().report_id)
        harness.clock.advance(60)
    page = harness.service.reports(limit=2)
    second_page = harness.service.reports(limit=2, cursor=page.next_cursor)
    assert [report.id for report in (*page.data, *second_page.data)] == report_ids[::-1]
    assert second_page.next_cursor is None
    for change in ("UPDATE reports SET actor = 'x'", "DELETE FROM reports"):
        with pytest.raises((errors.Busy, ConstraintViolated), match="append-only"):
            harness.database.write(lambda tx, change=change: tx.connection.execute(text(change)))  # type: ignore[misc]


def test_bind_after_a_restore_is_refused_until_a_full_scan_completes(harness: ServiceHarness) -> None:
    account.register_scope(harness.database, "default")
    harness.bind(A, B)
    harness.service.mark_restored()
    harness.clock.advance(1)
    with pytest.raises(errors.Busy, match="restored"):
        harness.bind(C, D)
    assert harness.received("bind") == 1
    harness.simulator.script("bad_gateway", times=3, on="page")
    harness.service.reconcile()
    with pytest.raises(errors.Busy):
        harness.bind(C, D)
    harness.service.reconcile(dry_run=True)
    with pytest.raises(errors.Busy):
        harness.bind(C, D)
    harness.service.reconcile()
    assert harness.bind(C, D).state is State.ACTIVE


def test_bind_of_a_held_phone_raises_phone_in_use_also_while_a_full_scan_is_required(
    harness: ServiceHarness,
) -> None:
    account.register_scope(harness.database, "default")
    harness.bind(A, B)
    harness.service.mark_restored()
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)


def test_sqlite_file_accepts_one_host_and_postgresql_several(harness: ServiceHarness) -> None:
    database = harness.database
    account.register_scope(database, "default")

    def another_host(tx: Transaction) -> None:
        tx.connection.execute(update(account_table).values(host="another", host_seen_at=tx.instant()))

    database.write(another_host)
    if database.postgres:
        account.register_scope(database, "default")
        return
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_DATABASE_URL"):
        account.register_scope(database, "default")
    harness.clock.advance(61)
    account.register_scope(database, "default")


def test_scope_of_another_account_is_refused(harness: ServiceHarness) -> None:
    account.register_scope(harness.database, "default")
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_SCOPE"):
        account.register_scope(harness.database, "another")
