"""Reserve: lock both phones, check the conflict policy, record the intent. The first transaction of a bind.

The one place where phones are locked and conflicts are checked (I1); it commits before anything is sent (I3).
Who holds a phone is derived from the bindings and holds themselves. Nothing here knows what the provider said.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, bindparam, literal_column, null, select, union

from bindings.domain import conflict
from bindings.domain.binding import Binding, EventKind, Holder, Mode, State
from bindings.store import account, events, rollback_detection
from bindings.store.bindings import COLUMNS, FIELDS, find, new_value, to_binding, to_json_value
from bindings.store.column_types import Instant, PhoneNumber
from bindings.store.compiled import CompiledStatement
from bindings.store.schema import bindings, holds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, CompoundSelect, Connection, Row, Select

    from bindings.domain.binding import BindRequest, Caller
    from bindings.domain.conflict import Policy
    from bindings.domain.phone import Phone
    from bindings.store.database import SqlDialect, Transaction
    from bindings.store.rollback_detection import CommittedVersion

# What a `requested` event tells; phones stand in the binding only.
_TOLD = ("mode", "pool_number", "app_id", "reference", "expire_s", "warn_s", "send_by", "settle_by", "held_until")

SEND_WINDOW_S = 5.0  # from the intent to the last moment at which its request may leave
SETTLE_MARGIN_S = 1.0  # past the call's own time limit
LOCK_TIMEOUT_S = 4.0  # below the send window: a request that cannot leave in time need not wait longer


@dataclass(frozen=True, kw_only=True, slots=True)
class BindLimits:
    """What the settings say about how long things may take and last; seconds."""

    scope: str
    policy: Policy
    call_timeout_s: float
    tolerance_s: float
    guard_for: Callable[[int], float]
    warn_s: int | None

    def lifetimes(self, at: datetime, expire_s: int) -> dict[str, datetime]:
        """The limits of an intent made at the instant `at` (lifecycle: bind, T1)."""
        send_by = at + timedelta(seconds=SEND_WINDOW_S)
        return {
            "requested_at": at,
            "send_by": send_by,
            "settle_by": send_by + timedelta(seconds=self.call_timeout_s + SETTLE_MARGIN_S),
            "held_until": send_by + timedelta(seconds=self.tolerance_s + expire_s + self.guard_for(expire_s)),
        }

    def warning(self, request: BindRequest) -> int | None:
        """How long before its end a binding is announced; the settings' lead is for those that outlast it."""
        if request.warn_s is not None:
            return request.warn_s or None
        return self.warn_s if self.warn_s is not None and self.warn_s < request.expire_s else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reserved:
    """The intent is recorded and the phones are held; now, and only now, the request may be sent."""

    binding: Binding


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """The idempotency key was used before, by the same request (`same`) or by another one."""

    binding: Binding
    same: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """A phone is held; nothing was written."""

    holder: Holder


@dataclass(frozen=True, kw_only=True, slots=True)
class FullScanRequired:
    """The database was restored, and what the provider holds since is not known yet; nothing was reserved.

    `lost`: it is this bind that noticed, for the database lacks what this process knows to be committed.
    """

    lost: bool


def reserve(
    tx: Transaction,
    binding_id: str,
    request: BindRequest,
    terms: BindLimits,
    caller: Caller,
    *,
    known: CommittedVersion | None = None,
) -> Reserved | Replayed | Conflict | FullScanRequired:
    """Lock both phones, check the conflict policy, and record the intent: the first transaction of a bind.

    Run again with the same `binding_id` after a COMMIT whose reply was lost, it finds the first one's row. A
    database that lacks what is `known` to be committed is an older one: from then on a full scan is owed.
    """
    phones = (request.phone_a, request.phone_b)
    now, (scan_owed_since, version) = tx.lock(
        [_lock_key(terms.scope, phone.key) for phone in phones],
        timeout_s=LOCK_TIMEOUT_S,
        reading=(account.SCAN_OWED_SINCE, rollback_detection.VERSION),
        known_id=binding_id if known is None else known.id,
    )
    if rollback_detection.was_rolled_back(tx, known, version):
        account.require_full_scan(tx)
        return FullScanRequired(lost=True)
    if tx.attempt > 1 and (earlier := find(tx.connection, binding_id)) is not None:
        return Reserved(binding=earlier)
    held = holders(tx.connection, request, terms, now)
    if not held and scan_owed_since is None:
        binding = _new(binding_id, request, terms, caller, now)
        if _insert(tx, binding, caller):
            return Reserved(binding=binding)
    if (replayed := replay(tx.connection, request)) is not None:
        return replayed
    if not held:
        return FullScanRequired(lost=False)
    return Conflict(holder=held[0])


def holders(connection: Connection, request: BindRequest, terms: BindLimits, now: datetime) -> list[Holder]:
    """Who forbids the request at the instant `now`, the one that holds longest first."""
    phones = [request.phone_a, request.phone_b]
    pair = {phone.key for phone in phones}
    found = [
        _holder(row, now)
        for row in find_holding_rows(connection, phones, terms.scope, now)
        if row.id is None or conflicts(terms.policy, row, request.mode, pair)
    ]
    return sorted(found, key=lambda holder: holder.held_until, reverse=True)


def conflicts(policy: Policy, row: Row[Any], asked: Mode, pair: set[str]) -> bool:
    """Whether a binding that holds one of the phones forbids the `asked` mode for the `pair` (of `Phone.key`)."""
    return conflict.conflicts(
        policy,
        held=Mode(row.mode),
        state=State(row.state),
        requested=asked,
        same_pair={row.phone_a.key, row.phone_b.key} == pair,
    )


def _holding() -> CompoundSelect[Any]:
    """What holds one of the two phones at :now, found by index and never by state: bindings, and holds.

    A hold has no id here. One statement, for a bind that waits for each.
    """
    names = ("id", "actor", "reference", "mode", "state", "held_until", "phone_a", "phone_b")
    columns = [*(bindings.c[name] for name in names), literal_column("'binding'", String).label("why")]
    now = bindparam("now", type_=Instant)
    either = [bindparam(name, type_=PhoneNumber) for name in ("phone_1", "phone_2")]

    def branch(phone: ColumnElement[Any]) -> Select[Any]:
        return select(*columns).where(
            phone.in_(either), bindings.c.held_until > now, bindings.c.scope == bindparam("scope")
        )

    known = {"held_until": holds.c.held_until}
    foreign = select(*(known.get(name, null()) for name in names), holds.c.why).where(
        holds.c.phone.in_(either), holds.c.held_until > now, holds.c.scope == bindparam("scope")
    )
    return union(branch(bindings.c.phone_a), branch(bindings.c.phone_b), foreign)


_HOLDING = CompiledStatement(_holding())


def find_holding_rows(
    connection: Connection, phones: Sequence[Phone], scope: str, now: datetime
) -> Sequence[Row[Any]]:
    """What holds one of two phones at the instant `now`, whatever the policy says; a hold has no id."""
    values = {"phone_1": phones[0], "phone_2": phones[1], "scope": scope, "now": now}
    return _HOLDING.fetch_all(connection, values)


def other_holder(connection: Connection, binding: Binding, now: datetime) -> Holder | None:
    """Who holds a phone of a binding besides itself, a binding of ours before a hold; None where nobody does."""
    rows = find_holding_rows(connection, (binding.phone_a, binding.phone_b), binding.scope, now)
    others = [_holder(row, now) for row in rows if row.id != binding.id]
    return min(others, key=lambda holder: (holder.foreign, -holder.retry_after_s), default=None)


def _holder(row: Row[Any], now: datetime) -> Holder:
    return Holder(
        id=row.id,
        actor=row.actor,
        reference=row.reference,
        mode=row.mode and Mode(row.mode),
        state=row.state and State(row.state),
        held_until=row.held_until,
        retry_after_s=seconds_until(row.held_until, now),
        why=row.why,
    )


def seconds_until(then: datetime, now: datetime) -> int:
    """Whole seconds from `now` to `then`, rounded up, at least 1: what a caller should wait."""
    return max(1, -int((now - then) // timedelta(seconds=1)))


def _lock_key(scope: str, phone: str) -> int:
    digest = hashlib.blake2b(f"bindings:{scope}:{phone}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _new(binding_id: str, request: BindRequest, terms: BindLimits, caller: Caller, now: datetime) -> Binding:
    unset = dict.fromkeys(FIELDS)
    asked = {field.name: getattr(request, field.name) for field in fields(request)}
    made = {"id": binding_id, "scope": terms.scope, "state": State.PENDING, "version": 1}
    by = {"actor": caller.actor, "request_id": caller.request_id, "warn_s": terms.warning(request)}
    limits = terms.lifetimes(now, request.expire_s)
    return Binding(**(unset | asked | made | by | limits))  # type: ignore[arg-type]


def _insert(tx: Transaction, binding: Binding, caller: Caller) -> bool:
    """Insert the row and its event; False where the id or the idempotency key is there already."""
    values = {f"new_{name}": getattr(binding, name) for name in FIELDS}
    detail = {name: to_json_value(getattr(binding, name)) for name in _TOLD if getattr(binding, name) is not None}
    inserted = _insertion(tx.dialect).run(
        tx, EventKind.REQUESTED, caller, detail, new_fingerprint=fingerprint(binding), **values
    )
    return bool(inserted)


@cache
def _insertion(dialect: SqlDialect) -> events.ChangeWithEvents:
    names = (*FIELDS, "fingerprint")
    values: dict[str, Any] = {name: new_value(name) for name in names}
    statement = (
        dialect.insert(bindings)
        .values(values | {"change_tx": events.this_tx(dialect)})
        .on_conflict_do_nothing()
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return events.ChangeWithEvents(dialect, statement)


def fingerprint(request: BindRequest | Binding) -> str | None:
    """A keyless digest of what was asked, to compare requests that carry the same idempotency key.

    `warn_s` is no part of it: it asks nothing of the provider, its default may change between two tries of one
    request, and digests of older versions do not know it. The first try's lead stands.
    """
    if request.idempotency_key is None:
        return None
    asked = {
        "phone_a": request.phone_a.key,
        "phone_b": request.phone_b.key,
        "pool_number": request.pool_number,
        "expire_s": request.expire_s,
        "mode": request.mode,
        "reference": request.reference,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def replay(connection: Connection, request: BindRequest) -> Replayed | None:
    """The binding that the request's idempotency key made before, if there is one."""
    if request.idempotency_key is None:
        return None
    row = connection.execute(
        select(*COLUMNS, bindings.c.fingerprint).where(
            bindings.c.app_id == request.app_id, bindings.c.idempotency_key == request.idempotency_key
        )
    ).one_or_none()
    if row is None:
        return None
    return Replayed(binding=to_binding(row[:-1]), same=row.fingerprint == fingerprint(request))
