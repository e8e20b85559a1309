"""What was asked for, and a finished export, is not changed: triggers refuse it, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import LargeBinary, select, text, update

from bindings import errors
from bindings.domain.binding import State
from bindings.store.column_types import BindingId, Instant, PhoneKeyNumber, PhoneNumber
from bindings.store.failures import ConstraintViolated
from bindings.store.grants import RIGHTS
from bindings.store.schema import account, bindings, exports
from tests.migrations.test_migrations import ROW
from tests.service.harness import A, B, C, D, ServiceHarness

if TYPE_CHECKING:
    from sqlalchemy import Column, Executable

REFUSED = (errors.Busy, ConstraintViolated)  # PostgreSQL by its state, SQLite as a constraint
LATER = datetime(2030, 1, 1, tzinfo=UTC)
OTHER_ID = "0190b5a0-0000-7000-8000-000000000001"
DEADLINES = "requested_at", "send_by", "settle_by"
ASSIGNED = "bind_id", "middle_number_a", "middle_number_b"
KEYS = "idempotency_key", "duplicate_key", "freed_key"


def _other_value(column: Column[Any]) -> Any:
    by_type = {
        Instant: LATER,
        BindingId: OTHER_ID,
        PhoneNumber: "919999999999",
        LargeBinary: b"x",
        PhoneKeyNumber: 7,
    }
    if type(column.type) in by_type:
        return by_type[type(column.type)]
    if column.name == "mode":
        return "AXXB"
    return 77 if column.type.python_type is int else "919999999999"


def _is_refused(harness: ServiceHarness, change: Executable) -> bool:
    try:
        harness.database.write(lambda tx: tx.connection.execute(change))
    except REFUSED as error:
        return "keep what was recorded" in str(error)
    return False


def test_each_column_is_either_fixed_or_one_that_the_application_may_change(harness: ServiceHarness) -> None:
    active = harness.bind(A, B, reference="order-1", idempotency_key="k", warn_s=60)
    harness.service.unbind(harness.bind(C, D).id)
    changeable = {*RIGHTS["bindings"].update} - {*DEADLINES, *ASSIGNED, *KEYS, "waits_for"}
    for column in bindings.columns:
        change = update(bindings).values({column.name: _other_value(column)})
        if column.name in changeable:
            continue
        assert _is_refused(harness, change), column.name
        assert _is_refused(harness, change.where(bindings.c.id == active.id)), column.name
    for name in (*ASSIGNED, *KEYS[:1], "reference"):
        assert _is_refused(harness, update(bindings).values({name: None})), name


def test_key_moves_to_the_freed_one_only_when_the_bind_fails(harness: ServiceHarness) -> None:
    harness.simulator.script("refuse:-22", times=1, on="bind")
    with pytest.raises(errors.BindingsError):
        harness.bind(A, B, idempotency_key="k")
    [failed] = harness.service.search(idempotency_key="k").data
    assert failed.state is State.FAILED
    for change in ({"idempotency_key": "k", "freed_key": None}, {"freed_key": None}, {"freed_key": "other"}):
        assert _is_refused(harness, update(bindings).values(change)), change
    active = harness.bind(A, B, idempotency_key="k")
    moved = {"idempotency_key": None, "freed_key": "k"}
    assert _is_refused(harness, update(bindings).where(bindings.c.id == active.id).values(moved))


def test_exported_rows_are_finished_once_and_never_deleted(harness: ServiceHarness) -> None:
    log = harness.service.access_log
    export_id = log.start_export(view="find", filters={}, format="csv", reason="drill")
    for change in ({"reason": None}, {"actor": "key:innocent"}, {"began_at": LATER}):
        assert _is_refused(harness, update(exports).values(change)), change
    log.finish_export(export_id, row_count=1, sha256="a")
    for statement in ("UPDATE exports SET sha256 = 'x'", "DELETE FROM exports"):
        assert _is_refused(harness, text(statement)), statement
    if harness.database.postgres:
        assert _is_refused(harness, text("TRUNCATE exports"))


def test_maintenance_passes_the_triggers_until_its_end(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    rename = update(bindings).where(bindings.c.id == binding.id).values(reference="erased")
    harness.rewrite(rename)
    assert harness.service.get(binding.id).reference == "erased"
    over = datetime.now(UTC) - timedelta(hours=1)
    harness.database.write(lambda tx: tx.connection.execute(update(account).values(maintenance_until=over)))
    assert _is_refused(harness, rename.values(reference="again"))


def test_I3_only_a_waiting_successor_gets_new_deadlines(harness: ServiceHarness) -> None:
    predecessor = harness.bind(A, B)
    successor = harness.service.replace(predecessor.id, phone_b=C)
    assert successor.requested_at is not None
    assert _is_refused(harness, update(bindings).values(requested_at=LATER))
    assert _is_refused(harness, update(bindings).values(waits_for=predecessor.id))


@pytest.mark.postgres
def test_temporary_table_of_the_caller_opens_no_way_around(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        columns, values = ", ".join(ROW), ", ".join(f"%({name})s" for name in ROW)
        connection.execute(f"INSERT INTO bindings ({columns}) VALUES ({values})".encode(), ROW)
        connection.execute("SET LOCAL search_path = pg_temp, public, pg_catalog")
        connection.execute("CREATE TEMP TABLE account AS SELECT 'infinity'::timestamptz AS maintenance_until")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="bindings keep what was recorded"):
            connection.execute("UPDATE public.bindings SET actor = 'x'")


def test_a_rewriting_transaction_leaves_the_triggers_on_for_every_other_one(harness: ServiceHarness) -> None:
    binding_id = harness.bind(A, B).id
    rewrite = update(bindings).where(bindings.c.id == binding_id).values(reference="rewritten")

    harness.rewrite(rewrite)
    assert harness.service.get(binding_id).reference == "rewritten"
    assert _is_refused(harness, rewrite.values(reference="again"))
    assert (
        harness.database.read(lambda connection: connection.execute(select(account.c.maintenance_until)).scalar())
        is None
    )


def test_rows_can_be_rewritten_while_maintenance_has_no_end(harness: ServiceHarness) -> None:
    if not harness.database.postgres:
        pytest.skip("SQLite has no infinite instant")
    binding_id = harness.bind(A, B).id
    endless = text("UPDATE account SET maintenance_until = 'infinity'")
    harness.database.write(lambda tx: tx.connection.execute(endless))
    harness.rewrite(update(bindings).where(bindings.c.id == binding_id).values(reference="rewritten"))
    assert harness.service.get(binding_id).reference == "rewritten"
