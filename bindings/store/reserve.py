"""Reserve: lock both phones, check the conflict policy, record the intent. The first transaction of a bind.

The only place where phones are locked and conflicts are checked (I1); it commits before a request is sent (I3).
The holders of a phone are derived from the bindings and holds. Nothing here knows the provider's responses.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import String, and_, bindparam, literal_column, null, select, type_coerce, union

from bindings.domain import conflict
from bindings.domain.acts import RestoreCause
from bindings.domain.binding import Binding, BindRequest, EventKind, Holder, Mode, State
from bindings.domain.hold import HoldReason
from bindings.sealing.facts import BINDING_FACTS, facts_hash, new_salt
from bindings.store import account, events, rollback_detection
from bindings.store import phones as stored_phones
from bindings.store.bindings import (
    COLUMNS,
    FIELDS,
    PHONES,
    BindingFields,
    find,
    frozen,
    idempotency_key,
    in_state,
    new_value,
    to_binding,
)
from bindings.store.column_types import Instant
from bindings.store.compiled import CompiledStatement
from bindings.store.phone_keys import KeyNumbers
from bindings.store.schema import bindings, holds
from bindings.store.sql import to_json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from bindings.domain.binding import Caller
    from bindings.domain.conflict import Policy
    from bindings.domain.phone import Phone
    from bindings.store.database import SqlDialect, Transaction
    from bindings.store.phones import PhoneStorage
    from bindings.store.rollback_detection import CommittedVersion

# The detail of a `requested` event; phones and the reference are in the binding only.
_DETAIL = (
    "mode",
    "pool_number",
    "app_id",
    "replaces",
    "waits_for",
    "expire_s",
    "max_expire_s",
    "warn_s",
    "requested_at",
    "send_by",
    "settle_by",
    "held_until",
)

SEND_WINDOW_S = 5.0  # from the intent to the last instant at which its request may be sent
_MICROSECOND = timedelta(microseconds=1)
SETTLE_MARGIN_S = 1.0  # past the call's own timeout
ATTEMPTS = 3
LOCK_TIMEOUT_S = 4.0  # below the send window: a request that cannot be sent in time need not wait longer


class Durations(NamedTuple):
    """How long after its record an intent may be sent, must be settled, and holds its phones."""

    until_send: timedelta
    until_settle: timedelta
    until_free: timedelta
    until_send_us: int
    until_settle_us: int
    until_free_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BindLimits:
    """The settings that limit a bind: scope, policy, and durations in seconds."""

    scope: str
    policy: Policy
    call_timeout_s: float
    tolerance_s: float
    guard_for: Callable[[int], float]
    warn_s: int | None

    def lifetimes(self, at: datetime, expire_s: int) -> dict[str, datetime]:
        """Return the deadlines of an intent that is recorded at the instant `at`, by column.

        `expire_s` are the seconds that the provider is asked for.
        """
        durations = self.durations(expire_s)
        return {
            "requested_at": at,
            "send_by": at + durations.until_send,
            "settle_by": at + durations.until_settle,
            "held_until": at + durations.until_free,
        }

    def durations(self, expire_s: int) -> Durations:
        """Return how long after its record an intent may be sent, must be settled, and holds its phones."""
        guard_s = self.guard_for(expire_s)
        return _durations(self.call_timeout_s, self.tolerance_s + expire_s + guard_s)

    def warning(self, request: BindRequest) -> int | None:
        """Return how many seconds before its end to warn, or None; the setting applies to longer bindings only."""
        if request.warn_s is not None:
            return request.warn_s or None
        return self.warn_s if self.warn_s is not None and self.warn_s < request.expire_s else None


@lru_cache(maxsize=1_024)  # of each bind twice, and few programs have more different ones
def _durations(call_timeout_s: float, held_s: float) -> Durations:
    """Return `BindLimits.durations`; the phones are held for `held_s` after the send window."""
    until_send = timedelta(seconds=SEND_WINDOW_S)
    until_settle = timedelta(seconds=SEND_WINDOW_S + call_timeout_s + SETTLE_MARGIN_S)
    until_free = timedelta(seconds=SEND_WINDOW_S + held_s)
    return Durations(
        until_send=until_send,
        until_settle=until_settle,
        until_free=until_free,
        until_send_us=until_send // _MICROSECOND,
        until_settle_us=until_settle // _MICROSECOND,
        until_free_us=until_free // _MICROSECOND,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reserved:
    """The intent is recorded and the phones are held: from the commit on the request may be sent."""

    binding: Binding


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """The caller has used the idempotency key before, for the same request (`same`) or for a different one."""

    binding: Binding
    same: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """A phone is held; nothing was written."""

    holder: Holder


@dataclass(frozen=True, kw_only=True, slots=True)
class FullScanRequired:
    """The database was restored, so the provider may hold phones that are unknown here; nothing was reserved.

    With `rollback_detected` this bind found it out: the database lacks a version that this process knows to be
    committed.
    """

    rollback_detected: bool


def reserve(
    tx: Transaction,
    binding_id: str,
    request: BindRequest,
    limits: BindLimits,
    caller: Caller,
    *,
    committed: CommittedVersion | None = None,
    verify_clock: Callable[[datetime], None] | None = None,
    on_phone_storage: Callable[[PhoneStorage], None] | None = None,
) -> Reserved | Replayed | Conflict | FullScanRequired:
    """Lock both phones, check the conflict policy, and record the intent: the first transaction of a bind.

    `verify_clock` gets the clock's reading and raises if it cannot be trusted; then nothing is written, because
    under such a clock the holders of a phone are not known. `on_phone_storage` gets how phones are written,
    as it was read here.

    Safe to repeat with the same `binding_id`: after a COMMIT whose response was lost, it finds the first row. If
    the database lacks the `committed` version, it was restored to an earlier state: a full scan is then required.
    """
    reading = (*account.BEFORE_INTENT, account.PHONES_SEALED_AT, rollback_detection.VERSION)
    known_id = binding_id if committed is None else committed.id
    phones = (request.phone_a, request.phone_b)
    now, (scan_owed_since, index_key, data_key, sealed_at, version) = lock_phones(
        tx, limits.scope, phones, reading, known_id=known_id
    )
    numbers = KeyNumbers(index_key, data_key)
    storage = stored_phones.PhoneStorage(numbers=numbers, all_sealed=sealed_at is not None)
    stored_phones.require_keys(tx.connection.dialect, numbers)
    if on_phone_storage is not None:
        on_phone_storage(storage)
    if rollback_detection.was_rolled_back(tx, committed, version):
        account.require_full_scan(tx, caller, RestoreCause.ROLLED_BACK)
        return FullScanRequired(rollback_detected=True)
    if tx.attempt > 1 and (earlier := find(tx.connection, binding_id)) is not None:
        return Reserved(binding=earlier)
    if verify_clock is not None:
        verify_clock(now)
    for _ in range(ATTEMPTS):
        current_holders = holders(tx.connection, request, limits, now, storage.only_index_key)
        if not current_holders and scan_owed_since is None:
            recorded = record(tx, new_intent(binding_id, request, limits, caller, now), request, caller, numbers)
        else:
            recorded = replay(tx.connection, request, caller.actor)
        if recorded is not None:
            return recorded
        if not _may_be_own_intent(current_holders, request, caller):
            break
    if not current_holders:
        return FullScanRequired(rollback_detected=False)
    return Conflict(holder=current_holders[0])


def _may_be_own_intent(current_holders: list[Holder], request: BindRequest, caller: Caller) -> bool:
    """Return whether a holder may be an earlier intent of the request's key that has failed since it was read.

    A failure frees the key: then neither the holder nor the earlier intent is there any more.
    """
    return request.idempotency_key is not None and any(
        holder.state is State.PENDING and holder.actor == caller.actor for holder in current_holders
    )


def lock_phones(
    tx: Transaction, scope: str, phones: Iterable[Phone], reading: tuple[ColumnElement[Any], ...], **values: object
) -> tuple[datetime, Sequence[Any]]:
    """Wait for the locks of these phones; return the clock's reading after that, and what `reading` selects."""
    return tx.lock(lock_keys(scope, phones), timeout_s=LOCK_TIMEOUT_S, reading=reading, **values)


def lock_keys(scope: str, phones: Iterable[Phone]) -> list[int]:
    """Return the keys of the locks of these phones, each once; they are acquired in sorted order."""
    return list({_lock_key(scope, phone.key): None for phone in phones})


def record(
    tx: Transaction, intent: Binding, request: BindRequest, caller: Caller, numbers: KeyNumbers
) -> Reserved | Replayed | None:
    """Insert the intent; or return the earlier binding of its key, or None if only its id is in use already."""
    # In the second column if another actor used the key first; again if the key was freed before it was read.
    for key_column in ("idempotency_key", "duplicate_key") * ATTEMPTS:
        if _insert(tx, intent, caller, key_column, numbers):
            return Reserved(binding=intent)
        replayed = replay(tx.connection, request, intent.actor)
        if replayed is not None or request.idempotency_key is None:
            return replayed
    return None


def holders(
    connection: Connection, request: BindRequest, limits: BindLimits, now: datetime, index_key: int | None = None
) -> list[Holder]:
    """Return the holders that conflict with the request at the instant `now`, the longest first.

    `index_key` is the key of the phones in every row, or None if that is not known (`store.phones.forms`).
    The binding that a replace ends first is no holder, nor is what the provider still has of it.
    """
    phones = [request.phone_a, request.phone_b]
    pair = stored_phones.forms(connection.dialect, *phones, index_key=index_key)
    conflicting = [
        row
        for row in find_holding_rows(connection, phones, limits.scope, now, index_key)
        if row.id is None or conflicts(limits.policy, row, request.mode, pair)
    ]
    named = _with_origins(connection, conflicting, phones, limits.scope, now)
    current = [_holder(row, now) for row in named if row.id is None or row.id != request.replaces]
    return sorted(current, key=lambda holder: holder.held_until, reverse=True)


def conflicts(policy: Policy, row: Row[Any], mode: Mode, pair: Sequence[str]) -> bool:
    """Return True if a binding that holds one of the phones forbids `mode` for the `pair` (all their forms).

    The phones of one row are stored in the same form and differ, so two that are in the pair are the pair.
    """
    return conflict.conflicts(
        policy,
        held=Mode(row.mode),
        state=State(row.state),
        requested=mode,
        same_pair=row.phone_a in pair and row.phone_b in pair,
    )


@cache
def _holding(form_count: int) -> CompiledStatement:
    """Build the SELECT of the bindings and holds of one of two phones at :now, by index over (phone, held_until).

    Its phones are texts, as they are stored, in one of `form_count` forms. A binding that failed holds nothing,
    regardless of its `held_until`. A hold has no id here. One statement, because a bind waits for each round trip.
    """
    names = ("id", "actor", "reference", "mode", "state", "held_until", *PHONES)
    columns = [
        *(
            type_coerce(bindings.c[name], String).label(name) if name in PHONES else bindings.c[name]
            for name in names
        ),
        literal_column("'binding'", String).label("why"),
    ]
    now = bindparam("now", type_=Instant)
    either = [
        parameter for name in ("phone_1", "phone_2") for parameter in stored_phones.parameters(name, form_count)
    ]

    def branch(phone: ColumnElement[Any]) -> Select[Any]:
        return select(*columns).where(
            phone.in_(either),
            bindings.c.held_until > now,
            bindings.c.scope == bindparam("scope"),
            ~in_state(State.FAILED),
        )

    hold_columns = {"held_until": holds.c.held_until}
    foreign = select(*(hold_columns.get(name, null()) for name in names), holds.c.why).where(
        holds.c.phone.in_(either), holds.c.held_until > now, holds.c.scope == bindparam("scope")
    )
    return CompiledStatement(union(branch(bindings.c.phone_a), branch(bindings.c.phone_b), foreign))


def find_holding_rows(
    connection: Connection, phones: Sequence[Phone], scope: str, now: datetime, index_key: int | None = None
) -> Sequence[Row[Any]]:
    """Return the bindings and holds of one of two phones at `now`, for any policy; a hold has no id."""
    dialect = connection.dialect
    values = stored_phones.parameter_values(dialect, index_key, phone_1=phones[0], phone_2=phones[1])
    statement = _holding(stored_phones.form_count(dialect, index_key))
    return statement.fetch_all(connection, values | {"scope": scope, "now": now})


def other_holder(connection: Connection, binding: Binding, now: datetime) -> Holder | None:
    """Return another holder of a binding's phones, our binding before a hold, or None if there is none."""
    phones = (binding.phone_a, binding.phone_b)
    own_ids = (binding.id, binding.replaces or binding.id)
    rows = [row for row in find_holding_rows(connection, phones, binding.scope, now) if row.id not in own_ids]
    other_holders = [_holder(row, now) for row in _with_origins(connection, rows, phones, binding.scope, now)]
    return min(other_holders, key=lambda holder: (holder.foreign, -holder.retry_after_s), default=None)


def _with_origins(
    connection: Connection, rows: Sequence[Row[Any]], phones: Sequence[Phone], scope: str, now: datetime
) -> list[Row[Any]]:
    """Return the rows, one for each orphan; the holds of revenants name our binding that lives at the provider."""
    if all(row.why != HoldReason.ORPHAN for row in rows):
        return list(rows)
    is_origin = and_(bindings.c.id == holds.c.origin_id, bindings.c.bind_id == holds.c.bind_id)
    columns = (bindings.c[name] for name in ("id", "actor", "reference", "mode", "state"))
    statement = (
        select(*columns, holds.c.held_until, holds.c.why, holds.c.app_id, holds.c.bind_id)
        .select_from(holds.outerjoin(bindings, is_origin))
        .where(
            holds.c.phone.in_(stored_phones.forms(connection.dialect, *phones)),
            holds.c.held_until > now,
            holds.c.scope == scope,
            holds.c.why == HoldReason.ORPHAN,
        )
        .distinct()
    )
    return [row for row in rows if row.why != HoldReason.ORPHAN] + list(connection.execute(statement))


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
    """Return the whole seconds from `now` to `then`, rounded up, at least 1: how long a caller should wait."""
    return max(1, -int((now - then) // timedelta(seconds=1)))


def _lock_key(scope: str, phone: str) -> int:
    digest = hashlib.blake2b(f"bindings:{scope}:{phone}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def new_intent(
    binding_id: str, request: BindRequest, limits: BindLimits, caller: Caller, now: datetime
) -> Binding:
    """Return the pending binding of a request that is recorded at the instant `now`."""
    return frozen(
        BindingFields(
            id=binding_id,
            mode=request.mode,
            phone_a=request.phone_a,
            phone_b=request.phone_b,
            pool_number=request.pool_number,
            app_id=request.app_id,
            scope=limits.scope,
            reference=request.reference,
            idempotency_key=request.idempotency_key,
            replaces=request.replaces,
            expire_s=request.expire_s,
            max_expire_s=request.max_expire_s,
            warn_s=limits.warning(request),
            state=State.PENDING,
            actor=caller.actor,
            request_id=caller.request_id,
            version=1,
            **limits.lifetimes(now, request.provider_expire_s),
        )
    )


def _insert(tx: Transaction, binding: Binding, caller: Caller, key_column: str, numbers: KeyNumbers) -> bool:
    """Insert the row, with its key in `key_column`, and its event; return False if the id or the key is in use."""
    dialect = tx.connection.dialect
    both = {name: getattr(binding, name) for name in PHONES}
    row = {name: getattr(binding, name) for name in FIELDS}
    row |= stored_phones.stored(dialect, numbers, "bindings", binding.id, both)
    digest = fingerprint(binding)
    row["fingerprint"] = None if digest is None else stored_phones.fingerprint(dialect, numbers, digest)
    detail = {
        name: to_json_value(getattr(binding, name)) for name in _DETAIL if getattr(binding, name) is not None
    }
    salt = new_salt()
    row["facts_salt"] = stored_phones.stored_salt(dialect, numbers, "bindings", binding.id, salt)
    detail["facts"] = binding_facts(salt, binding)
    values = {f"new_{name}": value for name, value in row.items()}
    inserted = _insertion(tx.dialect, key_column, tuple(row)).run(tx, EventKind.REQUESTED, caller, detail, values)
    return bool(inserted)


@cache
def _insertion(dialect: SqlDialect, key_column: str, names: tuple[str, ...]) -> events.ChangeWithEvents:
    values: dict[str, Any] = {name: new_value(name) for name in names}
    values[key_column] = values.pop("idempotency_key")
    statement = (
        dialect.insert(bindings)
        .values(values | {"change_tx": events.this_tx(dialect)})
        .on_conflict_do_nothing()
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return events.ChangeWithEvents(dialect, statement)


def binding_facts(salt: str, binding: Binding) -> str:
    """Return the hash by which the `requested` event proves what the row says was asked for."""
    phones = {"phone_a": binding.phone_a.digits, "phone_b": binding.phone_b.digits}
    values = {name: getattr(binding, name) for name in BINDING_FACTS if name not in phones}
    return facts_hash(salt, values | phones, BINDING_FACTS)


def fingerprint(request: BindRequest | Binding) -> str | None:
    """Return the unkeyed digest to compare requests with the same idempotency key, or None if there is no key.

    It is made of the digits of the phones: so it is stored as it is only where they are stored as digits.

    `warn_s` is not in it: it does not concern the provider, its default may change between two attempts of one
    request, and the digests of older versions do not have it. The value of the first attempt is used. Older
    versions know no `max_expire_s` and no `replaces`: these are in it only if they are set.
    """
    return None if request.idempotency_key is None else request_digest(request)


def request_digest(request: Any) -> str:
    """Return the unkeyed digest of what a request, a binding or its row asks for."""
    values: dict[str, Any] = {
        "phone_a": request.phone_a.key,
        "phone_b": request.phone_b.key,
        "pool_number": request.pool_number,
        "expire_s": request.expire_s,
        "mode": request.mode,
        "reference": request.reference,
    }
    later_fields = {"max_expire_s": request.max_expire_s, "replaces": request.replaces}
    values |= {name: value for name, value in later_fields.items() if value is not None}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def replay(connection: Connection, request: BindRequest, actor: str) -> Replayed | None:
    """Return the earlier binding of the request's idempotency key, or None if `actor` has not used the key."""
    if request.idempotency_key is None:
        return None
    row = connection.execute(
        select(*COLUMNS, bindings.c.fingerprint).where(
            idempotency_key == request.idempotency_key,
            bindings.c.app_id == request.app_id,
            bindings.c.actor == actor,
        )
    ).one_or_none()
    if row is None:
        return None
    is_same = stored_phones.has_fingerprint(connection.dialect, row.fingerprint, fingerprint(request))
    return Replayed(binding=to_binding(row[:-1]), same=is_same)
