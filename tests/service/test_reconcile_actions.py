"""What reconcile does about a case is a setting, and every reconciliation leaves a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import exc, text, update

from bindings import errors
from bindings.domain.binding import State
from bindings.store import account
from bindings.store.database import ConstraintViolated
from bindings.store.schema import account as account_table
from tests.service.world import APP, A, B, C, D

if TYPE_CHECKING:
    from bindings.store.database import Transaction
    from tests.service.world import World


def doubt(world: World) -> str:
    world.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.bind(A, B)
    world.clock.advance(20)
    return unknown.value.binding.id


def test_a_doubt_that_is_only_observed_is_reported_and_stays_open(world: World) -> None:
    observer = world.open(on_doubt="observe")
    binding_id = doubt(world)
    counts = observer.reconcile()
    assert (counts.adopted, counts.observed, counts.unresolved) == (0, 1, 1)
    assert observer.get(binding_id).state is State.IN_DOUBT
    (case,) = observer.reports().data[0].cases
    assert (case["case"], case["action"], case["binding_id"]) == ("adopted", "observe", binding_id)


def test_an_orphan_that_is_only_observed_holds_nothing_and_one_that_is_released_is_unbound(world: World) -> None:
    observer, releaser = world.open(on_orphan="observe"), world.open(on_orphan="release")
    planted = world.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP, expire_s=3_600)
    assert observer.reconcile().observed == 1
    assert observer.check(phone_a=C, phone_b=A, mode="AXB") == []
    assert releaser.reconcile().orphans == 1
    entry = world.simulator.ledger.get(planted.bind_id)
    assert entry is not None
    assert entry.unbound_at is not None
    assert releaser.check(phone_a=C, phone_b=A, mode="AXB") == []


def test_a_ghost_that_is_only_observed_stays_active(world: World) -> None:
    observer = world.open(on_ghost="observe")
    witness, ghost = world.bind(A, B), world.bind(C, D)
    world.simulator.remove_binding(int(ghost.bind_id or 0))
    world.clock.advance(10)
    counts = observer.reconcile()
    assert (counts.ghosts, counts.observed) == (0, 1)
    assert observer.get(ghost.id).state is observer.get(witness.id).state is State.ACTIVE


def test_reports_are_listed_newest_first_page_by_page_and_never_changed(world: World) -> None:
    made = []
    for _ in range(3):
        made.append(world.service.reconcile().report_id)
        world.clock.advance(60)
    page = world.service.reports(limit=2)
    rest = world.service.reports(limit=2, cursor=page.next_cursor)
    assert [report.id for report in (*page.data, *rest.data)] == made[::-1]
    assert rest.next_cursor is None
    for change in ("UPDATE reports SET actor = 'x'", "DELETE FROM reports"):
        with pytest.raises((exc.DBAPIError, ConstraintViolated), match="append-only"):
            world.database.write(lambda tx, change=change: tx.connection.execute(text(change)))  # type: ignore[misc]


def test_after_a_restore_nobody_binds_until_a_whole_scan_is_through(world: World) -> None:
    account.register_scope(world.database, "default")
    world.bind(A, B)
    world.service.mark_restored()
    world.clock.advance(1)
    with pytest.raises(errors.Busy, match="restored"):
        world.bind(C, D)
    assert world.received("bind") == 1
    world.simulator.script("bad_gateway", times=3, on="page")
    world.service.reconcile()
    with pytest.raises(errors.Busy):
        world.bind(C, D)
    world.service.reconcile(dry_run=True)
    with pytest.raises(errors.Busy):
        world.bind(C, D)
    world.service.reconcile()
    assert world.bind(C, D).state is State.ACTIVE


def test_a_refused_phone_is_told_also_while_a_scan_is_owed(world: World) -> None:
    account.register_scope(world.database, "default")
    world.bind(A, B)
    world.service.mark_restored()
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C)


def test_an_sqlite_file_serves_one_host_and_postgresql_many(world: World) -> None:
    database = world.database
    account.register_scope(database, "default")

    def another_host(tx: Transaction) -> None:
        tx.connection.execute(update(account_table).values(host="another", host_seen_at=tx.instant()))

    database.write(another_host)
    if database.postgres:
        account.register_scope(database, "default")
        return
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_DATABASE_URL"):
        account.register_scope(database, "default")
    world.clock.advance(61)
    account.register_scope(database, "default")


def test_a_database_of_another_account_is_refused_by_name(world: World) -> None:
    account.register_scope(world.database, "default")
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_SCOPE"):
        account.register_scope(world.database, "another")
