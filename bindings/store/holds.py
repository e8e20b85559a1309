"""Holds: phones that the provider holds for something else than one of our bindings.

A hold has one of three reasons: a scan of the provider's list saw a binding that is not ours, or one that has
ended here (`orphan`); the provider refused a phone that was free here (`refused`); or a success arrived for a
binding that had ended (`late_success`). A hold never shortens another one; it ends by time, or when a scan proves
that the provider holds nothing. Its events belong to no binding; their detail names the binding that it came from,
if there is one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select, true, update
from uuid_utils import uuid7

from bindings.domain.binding import EventKind
from bindings.domain.hold import HoldReason
from bindings.sealing.encoding import instant_text
from bindings.sealing.facts import HOLD_FACTS, facts_hash, new_salt
from bindings.store import account, events, sql
from bindings.store import phones as stored_phones
from bindings.store.column_types import Instant
from bindings.store.one_row import one_row
from bindings.store.schema import bindings
from bindings.store.schema import holds as table
from bindings.store.sql import to_json_value

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from bindings.domain.binding import Binding, Caller
    from bindings.domain.phone import Phone
    from bindings.store.database import Transaction
    from bindings.store.phone_keys import KeyNumbers
    from bindings.store.settle import Success

FIRST_REFUSAL_S = 60  # doubled with each further refusal ...
LONGEST_REFUSAL_S = 3_600  # ... up to this
NO_APP = ""  # the application of what a list of the whole account shows
MAX_STRIKES = 6  # 60 s x 2**6 is longer than the longest
FIRST_AFTER_UNBIND_S = 2  # the same after our own unbind, which the provider may take seconds to carry out ...
LONGEST_AFTER_UNBIND_S = 60
FIRST_STRIKE_AFTER_UNBIND = -5  # ... counted in strikes from here to 0: 2 s x 2**5 is longer than the longest


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """One phone that is held, and by which provider binding if that is known. Instants are aware UTC.

    `app_id` is `NO_APP` if a list of the whole account shows the binding: then it is not known.
    `why` is a `HoldReason`, or another text if a later version wrote it.
    """

    id: str
    phone: Phone
    why: str
    app_id: str
    bind_id: str | None
    origin_id: str | None
    held_until: datetime
    strikes: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldProof:
    """What an event has of a hold: a salted hash of what never changes in its row, and the rest of it."""

    id: str
    facts: str
    held_until: str
    origin_id: str | None
    strikes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _NewHold:
    """What a new hold has in its row besides the phone."""

    scope: str
    why: HoldReason
    app_id: str
    bind_id: str | None
    origin_id: str | None
    held_until: datetime
    created_at: datetime
    strikes: int = 0


COLUMNS = (*sql.columns(table, Hold), table.c.phone_sealed, table.c.phone_key)
_PROVED = (*COLUMNS, table.c.scope, table.c.facts_salt)


def live(connection: Connection, scope: str, now: datetime, *, app_id: str | None = None) -> list[Hold]:
    """Return every hold that is in force at `now`, of one application if `app_id` is set."""
    statement = select(*COLUMNS).where(table.c.held_until > now, table.c.scope == scope)
    if app_id is not None:
        statement = statement.where(table.c.app_id == app_id)
    return [to_hold(row) for row in connection.execute(statement)]


def of_phone(connection: Connection, phone: Phone) -> list[Hold]:
    """Return every hold of a phone, in force or ended, the newest first."""
    is_phone = stored_phones.is_any_of(table.c.phone, stored_phones.forms(connection.dialect, phone))
    rows = connection.execute(select(*COLUMNS).where(is_phone).order_by(table.c.created_at.desc()))
    return [to_hold(row) for row in rows]


def of_ended_binding(connection: Connection, binding: Binding, now: datetime) -> list[Hold]:
    """Return the holds in force of what the provider still has under the bind_id of a binding."""
    statement = select(*COLUMNS).where(
        *_of_bind_id(connection, (binding.phone_a, binding.phone_b), binding.app_id, binding.bind_id),
        table.c.held_until > now,
        table.c.scope == binding.scope,
    )
    return [to_hold(row) for row in connection.execute(statement)]


def apps(connection: Connection, scope: str, now: datetime) -> set[str]:
    """Return the applications that have holds in force of a known provider binding."""
    in_force = table.c.held_until > now, table.c.scope == scope, table.c.bind_id.is_not(None)
    statement = select(table.c.app_id).where(*in_force, table.c.app_id != NO_APP).distinct()
    return set(connection.execute(statement).scalars())


@one_row(lambda total, revenants: (total - revenants, revenants))
def count_orphans(scope: str, now: ColumnElement[datetime]) -> Select[*tuple[Any, ...]]:
    """Return how many orphans and how many revenants hold phones at `now`."""
    is_origin = and_(bindings.c.id == table.c.origin_id, bindings.c.bind_id == table.c.bind_id)
    in_force = (
        select(table.c.app_id, table.c.bind_id, bindings.c.id.label("origin"))
        .select_from(table.outerjoin(bindings, is_origin))
        .where(table.c.held_until > now, table.c.scope == scope, table.c.why == HoldReason.ORPHAN)
        .distinct()
        .subquery()
    )
    return select(func.count(), func.count(in_force.c.origin))


def with_bind_id(connection: Connection, app_id: str, bind_id: str, now: datetime) -> list[Hold]:
    """Return the holds that are in force at `now` for a provider binding."""
    of_binding = table.c.app_id == app_id, table.c.bind_id == bind_id, table.c.held_until > now
    return [to_hold(row) for row in connection.execute(select(*COLUMNS).where(*of_binding))]


def hold_refused(tx: Transaction, binding: Binding, caller: Caller, now: datetime, *, just_unbound: bool) -> int:
    """Hold both phones of a binding that the provider refused as in use; return for how many seconds.

    60 s for the first refusal, doubled with each repeated one up to an hour, until a scan finds the cause or
    proves that there is none. From 2 s to 60 s if one of the phones was `just_unbound`.
    """
    seconds, numbers = 0, account.key_numbers(tx.connection)
    proofs: list[HoldProof] = []
    for phone in (binding.phone_a, binding.phone_b):
        unexplained = and_(table.c.scope == binding.scope, _is(tx.connection, phone), table.c.bind_id.is_(None))
        earlier = tx.connection.execute(
            select(table.c.strikes, table.c.held_until)
            .where(unexplained)
            .order_by(table.c.held_until.desc())
            .limit(1)
        ).one_or_none()
        age_s = float("inf") if earlier is None else (now - earlier.held_until).total_seconds()
        strikes = _next_strike(None if earlier is None else earlier.strikes, age_s, just_unbound=just_unbound)
        wait = _wait_s(strikes)
        seconds = max(seconds, wait)
        hold = _NewHold(
            scope=binding.scope,
            why=HoldReason.REFUSED,
            app_id=binding.app_id,
            bind_id=None,
            origin_id=binding.id,
            held_until=now + timedelta(seconds=wait),
            created_at=now,
            strikes=strikes,
        )
        proofs += _put(tx, numbers, phone, hold)
    detail = {"why": HoldReason.REFUSED, "origin_id": binding.id, "seconds": seconds, "holds": details(proofs)}
    events.append_without_binding(tx, EventKind.HELD, caller, detail)
    return seconds


def _next_strike(strikes: int | None, age_s: float, *, just_unbound: bool) -> int:
    """Return the strikes of a refusal after an earlier hold with `strikes`, which ended `age_s` seconds ago."""
    if strikes is not None and strikes < 0 and age_s < LONGEST_AFTER_UNBIND_S:
        return strikes + 1
    if just_unbound:
        return FIRST_STRIKE_AFTER_UNBIND
    if strikes is None or age_s >= LONGEST_REFUSAL_S:
        return 1
    return min(max(strikes, 0), MAX_STRIKES) + 1


def _wait_s(strikes: int) -> int:
    if strikes > 0:
        return min(FIRST_REFUSAL_S << (strikes - 1), LONGEST_REFUSAL_S)
    return min(FIRST_AFTER_UNBIND_S << (strikes - FIRST_STRIKE_AFTER_UNBIND), LONGEST_AFTER_UNBIND_S)


def hold_late_success(
    tx: Transaction, binding: Binding, success: Success, caller: Caller
) -> list[HoldProof] | None:
    """Hold both phones of a success that arrived after the end; return None if a hold of it is recorded already.

    Returns the proofs of the holds, for the event. A recorded hold that lasts longer now gets its own event.
    """
    phones = (binding.phone_a, binding.phone_b)
    of_bind_id = _of_bind_id(tx.connection, phones, binding.app_id, success.bind_id)
    recorded = tx.connection.execute(select(table.c.id).where(*of_bind_id).limit(1)).first()
    hold = _NewHold(
        scope=binding.scope,
        why=HoldReason.LATE_SUCCESS,
        app_id=binding.app_id,
        bind_id=success.bind_id,
        origin_id=binding.id,
        held_until=success.held_until,
        created_at=tx.instant(),
    )
    proofs = _put_all(tx, phones, hold)
    if recorded is None:
        return proofs
    if proofs:
        _append_late_success(tx, binding, success, caller, proofs)
    return None


def _append_late_success(
    tx: Transaction, binding: Binding, success: Success, caller: Caller, proofs: list[HoldProof]
) -> None:
    detail = {"why": HoldReason.LATE_SUCCESS, "bind_id": success.bind_id, "origin_id": binding.id}
    events.append_without_binding(tx, EventKind.HELD, caller, detail | {"holds": details(proofs)})


def hold_success_of_lost_intent(tx: Transaction, binding: Binding, success: Success, caller: Caller) -> None:
    """Hold both phones of a success whose binding the database has lost, with an event of no binding."""
    proofs = hold_late_success(tx, binding, success, caller)
    if proofs is not None:
        _append_late_success(tx, binding, success, caller, proofs)


def hold_orphan(
    tx: Transaction,
    caller: Caller,
    *,
    phones: tuple[Phone, ...],
    scope: str,
    app_id: str,
    bind_id: str,
    origin_id: str | None,
    held_until: datetime,
    released_since: datetime | None = None,
) -> bool:
    """Hold the phones of a listed binding until its end; return False if a hold of it was in force already.

    `phones` are both phones, or those that could be read. Does nothing if a hold of it has ended after
    `released_since`: the list may be older than that.
    """
    now = tx.instant()
    newest_end = _newest_end(tx.connection, phones, app_id, bind_id)
    if _needs_no_hold(newest_end, now, app_id=app_id, held_until=held_until, released_since=released_since):
        return False
    in_force = newest_end is not None and newest_end > now
    hold = _NewHold(
        scope=scope,
        why=HoldReason.ORPHAN,
        app_id=app_id,
        bind_id=bind_id,
        origin_id=origin_id,
        held_until=held_until,
        created_at=now,
    )
    proofs = _put_all(tx, phones, hold)
    if proofs or not in_force:
        detail = {"why": HoldReason.ORPHAN, "bind_id": bind_id, "origin_id": origin_id, "holds": details(proofs)}
        events.append_without_binding(tx, EventKind.HELD, caller, detail)
    return not in_force


def would_hold_orphan(
    connection: Connection,
    now: datetime,
    *,
    phones: tuple[Phone, ...],
    app_id: str,
    bind_id: str,
    held_until: datetime,
    released_since: datetime | None = None,
) -> bool:
    """Return what `hold_orphan` would return at `now`, and write nothing."""
    newest_end = _newest_end(connection, phones, app_id, bind_id)
    if _needs_no_hold(newest_end, now, app_id=app_id, held_until=held_until, released_since=released_since):
        return False
    return newest_end is None or newest_end <= now


def end_holds(tx: Transaction, caller: Caller, holds: Iterable[Hold], *, reason: str, guard_s: float = 0.0) -> int:
    """End holds that are in force, now or after `guard_s` seconds; return how many."""
    now = tx.instant() + timedelta(seconds=guard_s)
    ids = [hold.id for hold in holds]
    ended = tx.connection.execute(
        update(table)
        .where(table.c.id.in_(ids), table.c.held_until > now)
        .values(held_until=now)
        .returning(table.c.id, table.c.why, table.c.bind_id, table.c.origin_id, table.c.held_until)
    ).all()
    by_cause: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for hold_id, *cause, held_until in sorted(ended, key=str):
        proof = {"id": hold_id, "held_until": to_json_value(held_until)}
        by_cause.setdefault(tuple(cause), []).append(proof)
    for (hold_reason, bind_id, origin_id), proofs in sorted(by_cause.items(), key=str):
        detail = {"why": hold_reason, "bind_id": bind_id, "origin_id": origin_id, "reason": reason}
        events.append_without_binding(tx, EventKind.HOLD_ENDED, caller, detail | {"holds": proofs})
    return len(ended)


def extend(tx: Transaction, hold_id: str, held_until: datetime, caller: Caller) -> None:
    """Let a hold last until then, never shorten it; with its event."""
    is_shorter = table.c.id == hold_id, table.c.held_until < held_until
    extended = update(table).where(*is_shorter).values(held_until=held_until).returning(*_PROVED)
    for row in tx.connection.execute(extended).all():
        detail = {"why": row.why, "bind_id": row.bind_id, "origin_id": row.origin_id}
        holds = details(_proofs([row]))
        events.append_without_binding(tx, EventKind.HELD, caller, detail | {"holds": holds})


def _newest_end(connection: Connection, phones: tuple[Phone, ...], app_id: str, bind_id: str) -> datetime | None:
    newest_end = func.max(table.c.held_until, type_=Instant)
    of_bind_id = _of_bind_id(connection, phones, app_id, bind_id)
    return connection.execute(select(newest_end).where(*of_bind_id)).scalar()


def _needs_no_hold(
    newest_end: datetime | None,
    now: datetime,
    *,
    app_id: str,
    held_until: datetime,
    released_since: datetime | None,
) -> bool:
    """Return whether the newest hold of a listed binding makes another one superfluous or wrong."""
    if newest_end is None:
        return False
    is_covered = app_id == NO_APP and newest_end >= held_until  # perhaps by a hold that has its application
    was_released = released_since is not None and released_since < newest_end <= now
    return is_covered or was_released


def _put_all(tx: Transaction, phones: tuple[Phone, ...], hold: _NewHold) -> list[HoldProof]:
    """Hold the phones of a provider binding; return the proofs of the holds that were changed."""
    numbers = account.key_numbers(tx.connection)
    return [proof for phone in phones for proof in _put(tx, numbers, phone, hold)]


def _of_bind_id(
    connection: Connection, phones: tuple[Phone, ...], app_id: object, bind_id: object
) -> tuple[ColumnElement[bool], ...]:
    is_app = true() if app_id == NO_APP else table.c.app_id == app_id
    return _is(connection, *phones), table.c.bind_id == bind_id, is_app


def _is(connection: Connection, *phones: Phone) -> ColumnElement[bool]:
    """Return the condition that a hold is of one of these phones."""
    return stored_phones.is_any_of(table.c.phone, stored_phones.forms(connection.dialect, *phones))


def _put(tx: Transaction, numbers: KeyNumbers, phone: Phone, hold: _NewHold) -> list[HoldProof]:
    """Upsert a hold: insert it or extend the existing one, never shorten it; return its proof, or nothing.

    Nothing also for a hold that an older version inserted: it has no salt.
    """
    dialect, row_id = tx.connection.dialect, str(uuid7())
    stored = stored_phones.stored(dialect, numbers, "holds", row_id, {"phone": phone})
    if stored_phones.form_count(dialect) > 1:
        extended = _extend_other_form(tx, phone, stored["phone"], hold)
        if extended is not None:
            return extended
    salt = stored_phones.stored_salt(dialect, numbers, "holds", row_id, new_salt())
    statement = tx.dialect.insert(table).values(id=row_id, facts_salt=salt, **stored, **asdict(hold))
    target: dict[str, Any] = (
        {"index_elements": ["scope", "phone"], "index_where": table.c.bind_id.is_(None)}
        if hold.bind_id is None
        else {
            "index_elements": ["scope", "phone", "app_id", "bind_id"],
            "index_where": table.c.bind_id.is_not(None),
        }
    )
    new = statement.excluded
    rows = tx.connection.execute(
        statement.on_conflict_do_update(
            **target,
            set_={"held_until": new.held_until, "strikes": new.strikes, "origin_id": new.origin_id},
            where=table.c.held_until < new.held_until,
        ).returning(*_PROVED)
    ).all()
    return _proofs(rows)


def _proofs(rows: Iterable[Row[*tuple[Any, ...]]]) -> list[HoldProof]:
    return [
        HoldProof(
            id=row.id,
            facts=hold_facts(
                stored_phones.opened_salt(row.phone_key, "holds", row.id, row.facts_salt), row.scope, to_hold(row)
            ),
            held_until=to_json_value(row.held_until),
            origin_id=row.origin_id,
            strikes=row.strikes,
        )
        for row in rows
        if row.facts_salt is not None
    ]


def _extend_other_form(tx: Transaction, phone: Phone, form: str, hold: _NewHold) -> list[HoldProof] | None:
    """Extend a hold of the phone that is stored in another form, never shorten it; None if there is none.

    Returns its proof, or nothing if it was not extended.
    """
    other_forms = [text for text in stored_phones.forms(tx.connection.dialect, phone) if text != form]
    of_binding: ColumnElement[bool] = table.c.bind_id.is_(None)
    if hold.bind_id is not None:
        of_binding = and_(table.c.app_id == hold.app_id, table.c.bind_id == hold.bind_id)
    same_hold = and_(table.c.scope == hold.scope, table.c.phone.in_(other_forms), of_binding)
    ids = tx.connection.execute(select(table.c.id).where(same_hold)).scalars().all()
    if not ids:
        return None
    changed = {"held_until": hold.held_until, "strikes": hold.strikes, "origin_id": hold.origin_id}
    is_shorter = table.c.id.in_(ids), table.c.held_until < hold.held_until
    return _proofs(
        tx.connection.execute(update(table).where(*is_shorter).values(changed).returning(*_PROVED)).all()
    )


def details(proofs: Iterable[HoldProof]) -> list[dict[str, Any]]:
    """Return proofs as in the detail of an event."""
    return [asdict(proof) for proof in proofs]


def hold_facts(salt: str, scope: str, hold: Hold) -> str:
    """Return the hash by which an event proves what never changes in the row of a hold."""
    plain = {"scope": scope, "phone": hold.phone.digits, "created_at": instant_text(hold.created_at)}
    values = plain | {name: getattr(hold, name) for name in HOLD_FACTS if name not in plain}
    return facts_hash(salt, values, HOLD_FACTS)


def to_hold(row: Row[*tuple[Any, ...]]) -> Hold:
    """Return a hold from its row."""
    opened = stored_phones.opened(row, "holds", ("phone",))
    return sql.record(Hold, row, why=sql.member(HoldReason, row.why), **opened)
