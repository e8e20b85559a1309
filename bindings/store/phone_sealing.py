"""The pass that converts stored phones to other keys: from digits, or from an earlier key, in batches by row id.

First `account` is changed, under a lock that waits for every transaction which has read it: so all that is written
afterwards is written with the new keys, and what is left to convert only becomes less. A row changes only if it is
as it was read; its version and its events stay, because nothing of the binding changes (I7).
"""

from __future__ import annotations

from dataclasses import dataclass
from string import digits
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, and_, bindparam, case, delete, func, or_, select, text, type_coerce, update

from bindings.domain.acts import Act
from bindings.store import account as account_rows
from bindings.store import events, job_runs, phones, replicas, schema_version
from bindings.store import holds as hold_rows
from bindings.store.one_row import one_row
from bindings.store.phone_keys import BLIND, KeyNumbers, blind_prefix
from bindings.store.reserve import request_digest
from bindings.store.schema import SEALED_PHONES, account, holds, metadata

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Dialect, Row, Select, Table

    from bindings.domain.binding import Caller
    from bindings.store.database import Transaction
    from bindings.store.phone_keys import PhoneKeys
    from bindings.store.read_once import Reads

BATCH = 500
JOB = "phones"  # its row in `passes`, which has how far the conversion is
TABLES = {
    "bindings": ("phone_a", "phone_b"),
    "refusals": ("phone_a", "phone_b"),
    "holds": ("phone",),
    "searches": ("number", "party"),
}
LOCK_WAIT = "1s"  # while it waits, so does every bind


class ReplicasWithoutKeys(Exception):
    """Processes at work lack the keys, have others under their numbers, or run code that knows none; by name."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = tuple(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhoneCount:
    """How many rows of a table have phones in digits, and how many by key (`index:number`, `data:number`)."""

    digits: int
    by_key: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class PhoneStatus:
    """How phones are written, since when no row has digits, and the keys that rows need, with their checks."""

    numbers: KeyNumbers
    sealed_at: datetime | None
    checks: dict[str, str]


def _to_status(
    index_key: int | None, data_key: int | None, sealed_at: datetime | None, checks: dict[str, str] | None
) -> PhoneStatus:
    return PhoneStatus(numbers=KeyNumbers(index_key, data_key), sealed_at=sealed_at, checks=checks or {})


@one_row(_to_status)
def status() -> Select[Any]:
    """Return what `account` records about phones."""
    columns = ("phone_index_key", "phone_data_key", "phones_sealed_at", "phone_key_checks")
    return select(*(account.c[name] for name in columns))


def switch(tx: Transaction, keys: PhoneKeys, numbers: KeyNumbers, caller: Caller) -> None:
    """Let every process write phones with these keys from the commit on, and no older code start.

    Raises `ReplicasWithoutKeys` if a process at work cannot. Safe to repeat.
    """
    if tx.dialect.postgres:
        tx.connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'"))
        tx.connection.execute(text("LOCK TABLE account IN ACCESS EXCLUSIVE MODE"))
    unfit = replicas_without(tx.connection, keys, numbers, tx.instant() - replicas.RECENT)
    if unfit:
        raise ReplicasWithoutKeys(unfit)
    checks = status(tx.connection).checks | {name: keys.checks[name] for name in numbers.names}
    values = {
        "phone_index_key": numbers.index,
        "phone_data_key": numbers.data,
        "phone_key_checks": checks,
        "phones_sealed_at": None,
    }
    tx.connection.execute(update(account).values(values))
    schema_version.refuse_code_before(tx.connection, SEALED_PHONES)
    events.append_act(tx, Act.PHONES_KEYS_CHANGED, caller, _facts(numbers) | {"phone_key_checks": checks})


def replicas_without(connection: Connection, keys: PhoneKeys, numbers: KeyNumbers, since: datetime) -> list[str]:
    """Return the names of the processes at work since an instant that cannot write with these keys."""
    needed = {f"{name}:{keys.checks[name]}" for name in numbers.names}
    return [
        replica.name
        for replica in replicas.seen_since(connection, since)
        if (replica.schema_revision or "") < SEALED_PHONES or not needed <= set(replica.phone_key_ids)
    ]


def finish(tx: Transaction, caller: Caller) -> bool:
    """Record that no row needs an earlier key any more; return False, and record nothing, if one does."""
    current = status(tx.connection)
    if any(remaining(tx.connection, current.numbers).values()):
        return False
    checks = {name: current.checks[name] for name in current.numbers.names}
    if current.sealed_at is None:
        sealed = {"phone_key_checks": checks, "phones_sealed_at": tx.instant()}
        tx.connection.execute(update(account).values(sealed))
        events.append_act(tx, Act.PHONES_SEALED, caller, _facts(current.numbers) | sealed)
    return True


def _facts(numbers: KeyNumbers) -> dict[str, Any]:
    return {"index_key": numbers.index, "data_key": numbers.data}


def remaining(connection: Connection, numbers: KeyNumbers) -> dict[str, int]:
    """Return by table how many rows are not written with these keys. Reads every row."""
    return {
        name: connection.execute(
            select(func.count()).select_from(_table(name)).where(_to_convert(name, numbers))
        ).scalar_one()
        for name in TABLES
    }


def record_rows_left(tx: Transaction, rows: int, replica: str) -> None:
    """Record how many rows are left to convert, for `left_to_convert`."""
    job_runs.record_progress(tx, JOB, replica, {"left": rows}, finished=rows == 0)


def left_to_convert(database: Reads) -> int:
    """Return how many rows were left to convert when the conversion last counted them; reads no row of them.

    0 if none is to be converted.
    """
    current = database.read(status)
    if current.numbers.index is None or current.sealed_at is not None:
        return 0
    return int(database.read(job_runs.progress, JOB).get("left", 0))


def counts(connection: Connection, keys: Sequence[str]) -> dict[str, PhoneCount]:
    """Return by table how phones are stored, for these keys (`index:number`, `data:number`). Reads every row."""
    return {name: _count(connection, name, keys) for name in TABLES}


def _count(connection: Connection, name: str, keys: Sequence[str]) -> PhoneCount:
    table, column = _table(name), _table(name).c[TABLES[name][0]]
    conditions = {"digits": _in_digits(column)}
    for key in keys:
        kind, _, number = key.partition(":")
        has_key = column.startswith(blind_prefix(int(number)), autoescape=True)
        conditions[key] = has_key if kind == "index" else table.c.phone_key == int(number)
    sums = (func.coalesce(func.sum(case((condition, 1), else_=0)), 0) for condition in conditions.values())
    digits, *by_key = connection.execute(select(*sums).select_from(table)).one()
    return PhoneCount(digits=int(digits), by_key=dict(zip(keys, map(int, by_key), strict=True)))


def convert_batch(
    tx: Transaction, name: str, numbers: KeyNumbers, after: str | None, caller: Caller
) -> tuple[int, str | None]:
    """Convert the next rows of a table to these keys; return how many, and the last id, or None at the end.

    Only the owner of the tables may. Safe to repeat, and to run beside every other use of the database.
    """
    table = _table(name)
    raw = [type_coerce(table.c[column], String).label(f"raw_{column}") for column in TABLES[name]]
    statement = select(table, *raw).where(_to_convert(name, numbers)).order_by(table.c.id).limit(BATCH)
    if after is not None:
        statement = statement.where(table.c.id > after)
    rows = tx.connection.execute(statement).all()
    changes = [(row, _converted(tx.connection.dialect, name, row, numbers)) for row in rows]
    if changes:
        with account_rows.rewrites_allowed(tx):
            if name == "holds":
                _write_holds(tx, changes, caller)
            else:
                _write(tx, name, changes)
    return len(rows), rows[-1].id if len(rows) == BATCH else None


def _converted(dialect: Dialect, name: str, row: Row[Any], numbers: KeyNumbers) -> dict[str, Any]:
    """Return the new values of a row, by column."""
    opened = {
        column: phone
        for column, phone in phones.opened(row, name, TABLES[name]).items()
        if phone is None or not phone.is_erased
    }
    values = phones.stored(dialect, numbers, name, row.id, opened)
    if name == "bindings":
        values["fingerprint"] = _fingerprint(dialect, row, opened, numbers)
    if name in ("bindings", "holds") and row.facts_salt is not None:
        salt = phones.opened_salt(row.phone_key, name, row.id, row.facts_salt)
        values["facts_salt"] = phones.stored_salt(dialect, numbers, name, row.id, salt)
    return values


def _fingerprint(dialect: Dialect, row: Row[Any], opened: dict[str, Any], numbers: KeyNumbers) -> str | None:
    """Return the fingerprint under the index key; None if the row's own values do not give the one it has."""
    if row.fingerprint is None or row.fingerprint.startswith(blind_prefix(numbers.index or 0)):
        return row.fingerprint  # type: ignore[no-any-return]
    if not row.fingerprint.startswith(BLIND):
        return phones.fingerprint(dialect, numbers, row.fingerprint)
    digest = request_digest(SimpleNamespace(**(row._asdict() | opened)))
    if phones.has_fingerprint(dialect, row.fingerprint, digest):
        return phones.fingerprint(dialect, numbers, digest)
    return None


def _write(tx: Transaction, name: str, changes: Sequence[tuple[Row[Any], dict[str, Any]]]) -> None:
    """Write the new values of rows that are as they were read. Rows with the same columns are one statement."""
    table = _table(name)
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row, values in changes:
        old = {f"old_{column}": getattr(row, f"raw_{column}") for column in TABLES[name]}
        new = {f"new_{column}": value for column, value in values.items()}
        by_columns.setdefault(tuple(values), []).append(new | old | {"of_id": row.id})
    for columns, parameters in by_columns.items():
        unchanged = (
            table.c[column].is_not_distinct_from(bindparam(f"old_{column}", type_=table.c[column].type))
            for column in TABLES[name]
        )
        statement = (
            update(table)
            .where(table.c.id == bindparam("of_id", type_=table.c.id.type), *unchanged)
            .values({column: bindparam(f"new_{column}", type_=table.c[column].type) for column in columns})
        )
        tx.connection.execute(statement, parameters)


def _write_holds(tx: Transaction, changes: Sequence[tuple[Row[Any], dict[str, Any]]], caller: Caller) -> None:
    """Write the new values of holds; one that is there in the new form already gets the longer time of both."""
    for row, values in changes:
        same_binding = (
            holds.c.bind_id.is_(None)
            if row.bind_id is None
            else and_(holds.c.app_id == row.app_id, holds.c.bind_id == row.bind_id)
        )
        is_twin = holds.c.scope == row.scope, holds.c.phone == values["phone"], same_binding, holds.c.id != row.id
        twin = tx.connection.execute(select(holds.c.id).where(*is_twin)).scalar()
        if twin is None:
            _write(tx, "holds", [(row, values)])
            continue
        tx.connection.execute(delete(holds).where(holds.c.id == row.id))
        hold_rows.extend(tx, twin, row.held_until, caller)


def _to_convert(name: str, numbers: KeyNumbers) -> ColumnElement[bool]:
    """Return the condition that a row is not written with these keys."""
    table = _table(name)
    other_key = table.c.phone_key != numbers.data
    current = blind_prefix(numbers.index or 0)
    conditions = [
        or_(_in_digits(table.c[column]), _is_blind_otherwise(table.c[column], current)) for column in TABLES[name]
    ]
    if name == "bindings":
        conditions.append(
            and_(table.c.phone_key.is_not(None), ~table.c.fingerprint.startswith(current, autoescape=True))
        )
    return or_(other_key, *conditions)


def _in_digits(column: ColumnElement[Any]) -> ColumnElement[bool]:
    first: ColumnElement[str] = func.substr(type_coerce(column, String), 1, 1)
    return first.in_(list(digits))


def _is_blind_otherwise(column: ColumnElement[Any], current: str) -> ColumnElement[bool]:
    raw = type_coerce(column, String)
    return and_(raw.startswith(BLIND), ~raw.startswith(current, autoescape=True))


def _table(name: str) -> Table:
    return metadata.tables[name]
