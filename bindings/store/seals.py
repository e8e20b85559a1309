"""The rows of the sealed history: the seals, the events that are to be sealed, and a snapshot to verify.

A seal is inserted once and never changed; triggers refuse the rest. What a seal states is made and compared in
`bindings.sealing`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sqlalchemy import LargeBinary, String, Text, and_, case, cast, exc, func, or_, select, text, type_coerce
from sqlalchemy.types import NullType

from bindings.domain.acts import Act
from bindings.domain.binding import EventKind
from bindings.sealing.encoding import instant_text, parse_any_json, parse_json, plain_instant, sha256
from bindings.sealing.facts import BINDING_FACTS, facts_hash
from bindings.sealing.findings import UNREADABLE
from bindings.sealing.seals import BEGINNING, Seal, cursor
from bindings.store import phones, sql
from bindings.store.bindings import FIELDS, PHONES
from bindings.store.column_types import BindingId, BlindIndex, Instant
from bindings.store.events import PARTITION_SPAN, after_position, oldest_running, retention_position, unreadable
from bindings.store.holds import COLUMNS as HOLD_COLUMNS
from bindings.store.holds import hold_facts, to_hold
from bindings.store.one_row import first_column, one_row
from bindings.store.reserve import request_digest
from bindings.store.schema import account, bindings, events, exports, holds, keys, texts, webhooks
from bindings.store.schema import seals as table
from bindings.store.texts import DELETED_FIELDS, digest, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Column, ColumnElement, Connection, Dialect, Select

    from bindings.domain.phone import Phone
    from bindings.store.database import Transaction
    from bindings.store.phone_keys import DataKey

_COLUMNS = sql.columns(table, Seal)
_NAMES = tuple(column.name for column in _COLUMNS)
KEY_COLUMNS = ("idempotency_key", "duplicate_key", "freed_key")
MAX_ACTS = 200  # that are looked at; the limit of retention moves once a day
_SECRET = {"url", "secret", "old_secret"}
_NOT_UTF_8 = "Could not decode to UTF-8"  # how the message of SQLite's driver begins
_PRIVATE = {"phone_a", "phone_b", "reference", "idempotency_key"}  # the hash of the facts has them
_PUBLIC = (*(field for field in FIELDS if field not in _PRIVATE), "warn_at")


def _raw(column: Column[Any]) -> ColumnElement[Any]:
    """Return a column as the driver reads it, an id as text: most of it is only hashed or compared."""
    as_text = cast(column, Text) if isinstance(column.type, BindingId) else type_coerce(column, NullType)
    return as_text.label(column.name)


_EVENT_NAMES = tuple(events.c.keys())  # every one: a column that is added later is sealed too
_EVENT_COLUMNS = tuple(cast(column, Text) if column is events.c.detail else _raw(column) for column in events.c)
_TYPED = (*PHONES, "phone_key")
_HASHED = ("reference", *KEY_COLUMNS, "fingerprint", "facts_salt", *(f"{name}{phones.SUFFIX}" for name in PHONES))
_BINDING_NAMES = (*_PUBLIC, "change_tx", *_TYPED, *_HASHED)
_BINDING_COLUMNS = tuple(bindings.c[name] if name in _TYPED else _raw(bindings.c[name]) for name in _BINDING_NAMES)
_BINDING_INSTANTS = tuple(name for name in _PUBLIC if isinstance(bindings.c[name].type, Instant))


@one_row(lambda *values: None if values[0] is None else Seal(**dict(zip(_NAMES, values, strict=True))))
def last() -> Select[Any]:
    """Return the last seal, or None if there is none."""
    return select(*_COLUMNS).order_by(table.c.number.desc()).limit(1)


def is_reached(connection: Connection, seal: Seal) -> bool:
    """Return whether the feed has reached the end of a seal; if not, no run of the job has written the seal."""
    newest = select(events.c.tx, events.c.position).order_by(events.c.tx.desc(), events.c.position.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    ends = (None if row is None else (row.tx, row.position), retention_position(connection))
    return seal.end <= max((end for end in ends if end is not None), default=BEGINNING)


def insert(tx: Transaction, seal: Seal) -> bool:
    """Insert a seal; False if its number is taken: another process was first."""
    values = {column.name: getattr(seal, column.name) for column in _COLUMNS}
    inserted = tx.dialect.insert(table).values(values).on_conflict_do_nothing(index_elements=["number"])
    return tx.connection.execute(inserted.returning(table.c.number)).scalar() is not None


def list_all(connection: Connection) -> Iterator[Seal]:
    """Yield every seal, in order."""
    for row in _stream(connection, select(*_COLUMNS).order_by(table.c.number)):
        yield sql.record(Seal, row)


def unsealed(connection: Connection, after: Seal | None, *, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` final events after a seal, in the order of the feed, as `list_events`.

    They are of one partition: retention drops whole partitions, and so whole seals.
    """
    postgres = sql.is_postgres(connection)
    statement = _feed().where(after_position(_end(after), postgres=postgres)).limit(limit)
    if postgres:
        statement = statement.where(events.c.tx < oldest_running())
    rows = list(_to_events(connection.execute(statement), parse_any_json))
    partition = rows[0]["position"] // PARTITION_SPAN if rows else 0
    return list(takewhile(lambda row: row["position"] // PARTITION_SPAN == partition, rows))


def _end(seal: Seal | None) -> tuple[int, int]:
    return BEGINNING if seal is None else seal.end


def _feed() -> Select[*tuple[Any, ...]]:
    return select(*_EVENT_COLUMNS).order_by(events.c.tx, events.c.position)


@one_row(first_column, by_dialect=True)
def oldest_unsealed(*, postgres: bool) -> Select[Any]:
    """Return when the oldest committed event after the last seal was written; None if all are sealed or none is.

    Also an event that is not final yet: an open transaction must not delay the seals unseen. `sealed` events do
    not count: they wait for others.
    """
    newest = select(table.c.to_tx, table.c.to_position).order_by(table.c.number.desc()).limit(1)
    of_end = newest.with_only_columns(table.c.to_tx), newest.with_only_columns(table.c.to_position)
    after = after_position((of_end[0].scalar_subquery(), of_end[1].scalar_subquery()), postgres=postgres)
    statement = select(events.c.at).where(after, events.c.kind != EventKind.SEALED)
    return statement.order_by(events.c.tx, events.c.position).limit(1)


def end_up_to(connection: Connection, position: int) -> int | None:
    """Return the last position, up to this one, at which a seal ends, or None (SQLite)."""
    ends = select(table.c.to_position).where(table.c.to_position <= position)
    return connection.execute(ends.order_by(table.c.to_position.desc()).limit(1)).scalar()


def are_acts_sealed(connection: Connection) -> bool:
    """Return whether every event of an administrative act is sealed; True if the history is not sealed at all."""
    newest = last(connection)
    if newest is None:
        return True
    after = after_position(newest.end, postgres=sql.is_postgres(connection))
    unsealed_act = select(events.c.position).where(after, events.c.kind == EventKind.ADMINISTERED).limit(1)
    return connection.execute(unsealed_act).first() is None


def is_deletion_recorded(connection: Connection, kept_from: datetime) -> bool:
    """Return whether an event says that retention deletes what ended before `kept_from`."""
    acts = select(events.c.detail).where(sql.equals_literal(events.c.kind, EventKind.ADMINISTERED))
    newest = acts.order_by(events.c.at.desc(), events.c.position.desc()).limit(MAX_ACTS)
    return any(
        detail["act"] == Act.RETENTION_APPLIED and datetime.fromisoformat(detail["kept_from"]) == kept_from
        for detail in connection.execute(newest).scalars()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadableEvent:
    """An event with a value that cannot be read, at `position` of the feed as far as that can be read."""

    position: tuple[int, int]


def list_events(connection: Connection) -> Iterator[dict[str, Any] | UnreadableEvent]:
    """Yield every committed event, in the order of the feed, as dicts of their columns; the instant is text.

    An event cannot be read on SQLite, which stores JSON as it was written, also if a name is there twice.
    """
    after: tuple[Any, Any] | None = None
    is_complete = False
    while not is_complete:
        try:
            for event in _read_events(connection, _feed_after(after)):
                yield event
                after = event["tx"], event["position"]
            is_complete = True
        except UNREADABLE:  # in this row, or in a later one that was fetched with it
            event_or_place = _next_event(connection, after)
            while isinstance(event_or_place, dict):
                yield event_or_place
                after = event_or_place["tx"], event_or_place["position"]
                event_or_place = _next_event(connection, after)
            tx = event_or_place[0] if isinstance(event_or_place[0], int) else (after or BEGINNING)[0]
            yield UnreadableEvent(position=(tx, event_or_place[1]))
            after = event_or_place


def export_events(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield every committed event as `list_events`; `Busy`, which names the event, if one cannot be read."""
    for event in list_events(connection):
        if isinstance(event, UnreadableEvent):
            raise unreadable(cursor(event.position))
        yield event


def _feed_after(after: tuple[Any, Any] | None) -> Select[*tuple[Any, ...]]:
    return _feed() if after is None else _feed().where(_is_after(after))


def _is_after(after: tuple[Any, Any]) -> ColumnElement[bool]:
    """Return the condition that an event comes after a place, whose `tx` may have been changed to anything."""
    tx: ColumnElement[Any] = type_coerce(events.c.tx, NullType)
    position = type_coerce(events.c.position, NullType)
    if isinstance(after[0], bytes):
        tx = case((func.typeof(tx).in_(("text", "blob")), cast(tx, LargeBinary)))
    return or_(tx > after[0], and_(tx == after[0], position > after[1]))


def _next_event(connection: Connection, after: tuple[Any, Any] | None) -> dict[str, Any] | tuple[Any, Any]:
    """Return the next event after a place, or only its place if it cannot be read."""
    tx_column: ColumnElement[Any] = type_coerce(events.c.tx, NullType)
    if not sql.is_postgres(connection):  # a text there may be no UTF-8, which the driver does not return
        tx_column = case((func.typeof(tx_column) == "text", cast(tx_column, LargeBinary)), else_=tx_column)
    columns = tx_column, type_coerce(events.c.position, NullType)
    place: Select[*tuple[Any, ...]] = select(*columns).order_by(events.c.tx, events.c.position).limit(1)
    tx, position = connection.execute(place if after is None else place.where(_is_after(after))).one()
    try:
        return next(_read_events(connection, _feed().where(events.c.position == position)))
    except UNREADABLE:
        return tx, position


def _read_events(connection: Connection, feed: Select[*tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    return _to_events(_stream(connection, feed), parse_json)


def _to_events(rows: Iterable[Any], parse: Callable[[str], Any]) -> Iterator[dict[str, Any]]:
    for row in rows:
        event = dict(zip(_EVENT_NAMES, row, strict=True))
        event["at"] = plain_instant(event["at"])
        event["detail"] = parse(event["detail"])
        yield event


def _stream(connection: Connection, statement: Select[*tuple[Any, ...]]) -> Iterator[Any]:
    with connection.execute(statement) as rows:
        try:
            yield from rows
        except exc.DBAPIError as error:
            if not isinstance(error, exc.DataError) and not str(error.orig).startswith(_NOT_UTF_8):
                raise
            raise ValueError("a row has a value that cannot be read") from None


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """Let every statement of the block read the same state; on PostgreSQL its transaction sees to that already."""
    if sql.is_postgres(connection):
        yield
        return
    connection.execute(text("BEGIN"))
    try:
        yield
    finally:
        connection.execute(text("ROLLBACK"))


def list_bindings(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield the row of every binding as plain values, without its phones, its reference and its key.

    `facts` is the hash of what was asked for (None without a salt), `key_columns` are those that have a key, and
    `has_fingerprint` is whether the fingerprint is that of the request. A row whose phones do not open, or are not
    those by which it is found, has only its id and `unreadable`.
    """
    dialect = connection.dialect
    for row in _stream(connection, select(*_BINDING_COLUMNS)):
        stored = dict(zip(_BINDING_NAMES, row, strict=True))
        try:
            values = _plain_binding(dialect, stored)
        except Exception:  # noqa: BLE001 -- any way in which a changed row does not open
            values = None
        yield {"id": stored["id"], "unreadable": True} if values is None else values


def _plain_binding(dialect: Dialect, stored: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row as `list_bindings` yields it, or None if its phones are not those by which it is found."""
    binding_id, key = stored["id"], stored["phone_key"]
    phones_by_name: dict[str, Any] = {}
    for name in PHONES:
        value, sealed = stored[name], stored[f"{name}_sealed"]
        phone = phones.read_phone(key, f"bindings.{name}", binding_id, value, sealed)
        if phone is None or not _is_findable(dialect, phone, value, sealed, key):
            return None
        phones_by_name[name] = phone
    for name in _BINDING_INSTANTS:
        if stored[name] is not None:
            stored[name] = plain_instant(stored[name])
    key_columns = [name for name in KEY_COLUMNS if stored[name] is not None]
    request_values = stored | {"idempotency_key": stored[key_columns[0]] if key_columns else None}
    facts = None
    if stored["facts_salt"] is not None:
        digits = {name: phone.digits for name, phone in phones_by_name.items()}
        salt = phones.opened_salt(key, "bindings", binding_id, stored["facts_salt"])
        facts = facts_hash(salt, request_values | digits, BINDING_FACTS)
    digest = request_digest(SimpleNamespace(**(request_values | phones_by_name))) if key_columns else None
    return {name: stored[name] for name in _PUBLIC} | {
        "change_tx": stored["change_tx"],
        "facts": facts,
        "key_columns": sorted(key_columns),
        "has_fingerprint": phones.has_fingerprint(dialect, stored["fingerprint"], digest),
    }


def _is_findable(
    dialect: Dialect, phone: Phone, value: Phone | BlindIndex, sealed: bytes | None, key: DataKey | None
) -> bool:
    """Return whether the row has a phone by one of its texts, or says that it was erased."""
    if phone.is_erased:
        return sealed is None
    text_of_row = value if isinstance(value, BlindIndex) else value.key
    return text_of_row in phones.forms(dialect, phone) and (sealed is None) == (key is None)


def list_holds(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield every hold: the hash of what never changes in its row (None without a salt), and the rest of it."""
    columns = (*HOLD_COLUMNS, type_coerce(holds.c.phone, String).label("stored_phone"))
    for row in _stream(connection, select(*columns, holds.c.scope, holds.c.facts_salt)):
        names = "held_until", "origin_id", "strikes", "created_at"
        current = {name: _plain(getattr(row, name)) for name in names}
        yield {"id": row.id, "facts": _facts_of_hold(connection.dialect, row)} | current


def _facts_of_hold(dialect: Dialect, row: Any) -> str | None:
    """Return the hash of a hold, None without a salt; a text that is not one if its phone cannot be read."""
    if row.facts_salt is None:
        return None
    try:
        hold = to_hold(row)
        salt = phones.opened_salt(row.phone_key, "holds", row.id, row.facts_salt)
    except Exception:  # noqa: BLE001 -- any way in which a changed row does not open
        return "unreadable"
    is_findable = row.stored_phone in phones.forms(dialect, hold.phone)
    if not is_findable or (row.phone_key is None) != (row.phone_sealed is None):
        return "unreadable"
    return hold_facts(salt, row.scope, hold)


def list_texts(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield the id (`POSITION NAME`) of every text of an event, its digest, and its binding or event (`group`)."""
    columns = texts.c.event_position, texts.c.name, texts.c.binding_id, texts.c.text, texts.c.salt
    for row in _stream(connection, select(*columns)):
        identity = f"{row.event_position} {row.name}"
        group = row.binding_id or str(row.event_position)
        yield {"id": identity, "facts": digest(row.salt, row.text), "group": group}


def list_keys(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield every API key, with the hash of its digest in place of the digest."""
    for row in _stream(connection, select(keys)):
        values = {name: _plain(value) for name, value in row._asdict().items() if name != "hash"}
        yield values | {"hash_sha256": sha256(row.hash.encode())}


def list_webhooks(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield every webhook, with the hash of its URL in place of the URL, and without its secrets."""
    for row in _stream(connection, select(webhooks)):
        values = {name: _plain(value) for name, value in row._asdict().items() if name not in _SECRET}
        yield values | {"url_sha256": sha256(row.url.encode())}


def list_exports(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield every export; `reason` and `filter` are hashes, as in its event, or missing if they are deleted."""
    of_event = events.c.detail["export_id"].as_string()
    stored = select(of_event, texts.c.name, texts.c.salt).join(events, events.c.position == texts.c.event_position)
    of_exports = _stream(connection, stored.where(events.c.kind == EventKind.EXPORTED))
    salts = {(row[0], row.name): row.salt for row in of_exports}
    for row in _stream(connection, select(exports)):
        values = {name: _plain(value) for name, value in row._asdict().items()}
        for name, deleted in (("reason", row.reason), ("filter", DELETED_FIELDS)):
            salt = salts.get((row.id, name))
            if values[name] is not None and salt is not None:
                values[name] = digest(salt, text_of(values[name]))
            elif values[name] is not None and values[name] == deleted:  # or an older version wrote the reason
                del values[name]
        yield values


def list_account(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield the row of the account; `is_scope_of_bindings` is False if a binding has another scope."""
    for row in _stream(connection, select(account)):
        of_another_scope = select(bindings.c.id).where(bindings.c.scope != row.scope).limit(1)
        values = {name: _plain(value) for name, value in row._asdict().items()}
        yield values | {"is_scope_of_bindings": connection.execute(of_another_scope).first() is None}


ROWS = {
    "binding": list_bindings,
    "hold": list_holds,
    "text": list_texts,
    "key": list_keys,
    "webhook": list_webhooks,
    "export": list_exports,
    "account": list_account,
}


def _plain(value: Any) -> Any:
    return instant_text(value) if isinstance(value, datetime) else value
