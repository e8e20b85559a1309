"""Reserve in one round trip: a function in the database that records the intent of a bind in the plain case.

The function (PostgreSQL, migration 0022) does what `reserve.reserve` does: it locks both phones, checks, and
inserts the binding with its event. If anything is in the way it changes nothing and returns NULL, and the
transaction decides. So each refusal, replay and doubt is decided in one place. The function must never record an
intent that the transaction would refuse (I1).

Its statement is committed in the same round trip. After the client has given it up it records nothing, because
`latest` is over then (`ClockMonitor.trusted_range`): it compares that after it has the locks, and after it has
inserted.
"""

from __future__ import annotations

import logging
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Boolean, Integer, LargeBinary, Text, bindparam, cast, exc, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from bindings import telemetry
from bindings.domain import conflict
from bindings.domain.binding import Mode, State
from bindings.sealing.facts import BINDING_FACTS, facts_hash, new_salt
from bindings.store import phones as stored_phones
from bindings.store import reserve
from bindings.store.column_types import BindingId, Instant
from bindings.store.compiled import CompiledStatement
from bindings.store.grants import FUNCTION
from bindings.store.phone_keys import PLAIN, keys_of
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from sqlalchemy import ColumnElement

    from bindings.domain.binding import BindRequest, Caller
    from bindings.domain.conflict import Policy
    from bindings.store.database import Transaction
    from bindings.store.rollback_detection import CommittedVersion

    TrustedRange = tuple[datetime, datetime]

_log = logging.getLogger(__name__)

# Why the database does not run it, by SQLSTATE.
NOT_CALLABLE = {
    "42883": "it is missing",
    "42501": "the user of the database may not call it",
    "25004": "default_transaction_isolation of the user or the database is not read committed",
}
_LOCK_WAIT = f"{reserve.LOCK_TIMEOUT_S}s"


class ReserveCall:
    """Calls the function of one database. Thread-safe: each attribute is replaced as a whole."""

    def __init__(self) -> None:
        self._phone_storage = stored_phones.PhoneStorage(numbers=PLAIN, all_sealed=False)  # until it is read
        self._callable = True

    def remember(self, storage: stored_phones.PhoneStorage) -> None:
        """Remember how phones are written: the function compares it, and records nothing if it has changed."""
        self._phone_storage = storage

    def reserve(
        self,
        tx: Transaction,
        binding_id: str,
        request: BindRequest,
        limits: reserve.BindLimits,
        caller: Caller,
        *,
        committed: CommittedVersion | None,
        trusted_range: Callable[[float], TrustedRange | None],
    ) -> reserve.Reserved | None:
        """Record the intent if nothing is in the way, by one statement in AUTOCOMMIT; None if nothing was changed.

        `trusted_range` is `ClockMonitor.trusted_range`.
        """
        storage = self._phone_storage
        readings = trusted_range(tx.give_up_at - time.monotonic())
        if readings is None or not self._callable:
            return None
        keys = keys_of(tx.connection.dialect)
        if storage.numbers.index is not None and (keys is None or not keys.has(storage.numbers)):
            return None
        values = _values(tx, binding_id, request, limits, caller, storage=storage)
        values["earliest"], values["latest"] = readings
        values["known_id"] = None if committed is None else committed.id
        values["known_version"] = None if committed is None else committed.version
        values["fixed_clock"] = None if tx.dialect.server_clock else tx.instant()
        try:
            ((now,),) = _CALL.fetch_all(tx.connection, values)
        except exc.DBAPIError as error:
            self._require_other_error(error)
            return None
        if now is None:
            return None
        return reserve.Reserved(binding=reserve.new_intent(binding_id, request, limits, caller, now))

    def _require_other_error(self, error: exc.DBAPIError) -> None:
        """Call the function no more if it cannot be called; raise any other error again."""
        cause = NOT_CALLABLE.get(getattr(error.orig, "sqlstate", None) or "")
        if cause is None:
            raise error
        if self._callable:
            self._callable = False
            _log.warning(
                "the function %s was not called: %s; binds take more round trips until this process starts again;"
                " see `bindings doctor`",
                FUNCTION,
                cause,
            )


def _values(
    tx: Transaction,
    binding_id: str,
    request: BindRequest,
    limits: reserve.BindLimits,
    caller: Caller,
    *,
    storage: stored_phones.PhoneStorage,
) -> dict[str, Any]:
    """Return the values of the parameters that the clock and the known version are not in."""
    dialect, numbers = tx.connection.dialect, storage.numbers
    phones = {"phone_a": request.phone_a, "phone_b": request.phone_b}
    pair, salt = phones.values(), new_salt()
    digest = reserve.fingerprint(request)
    durations = limits.durations(request.provider_expire_s)
    facts: dict[str, Any] = {
        "id": binding_id,
        "mode": str(request.mode),
        "phone_a": request.phone_a.key,
        "phone_b": request.phone_b.key,
        "pool_number": request.pool_number,
        "app_id": request.app_id,
        "scope": limits.scope,
        "actor": caller.actor,
        "reference": request.reference,
        "idempotency_key": request.idempotency_key,
        "expire_s": request.expire_s,
        "max_expire_s": request.max_expire_s,
        "warn_s": limits.warning(request),
        "replaces": None,
    }
    return {
        **facts,
        **stored_phones.stored(dialect, numbers, "bindings", binding_id, phones),
        "request_id": caller.request_id,
        "fingerprint": None if digest is None else stored_phones.fingerprint(dialect, numbers, digest),
        "facts_salt": stored_phones.stored_salt(dialect, numbers, "bindings", binding_id, salt),
        "lock_wait": _LOCK_WAIT,
        "lock_keys": _array(map(str, sorted(reserve.lock_keys(limits.scope, pair)))),
        "index_key": numbers.index,
        "data_key": numbers.data,
        "all_sealed": storage.all_sealed,
        "stored_phones": _array(stored_phones.forms(dialect, *pair, index_key=storage.only_index_key)),
        "allowed_holders": allowed_holders(limits.policy, request.mode),
        "send_us": durations.until_send_us,
        "settle_us": durations.until_settle_us,
        "held_us": durations.until_free_us,
        "facts": facts_hash(salt, facts, BINDING_FACTS),
        "trace": telemetry.traceparent(),
        "event_key_id": caller.key_id,
    }


@cache
def allowed_holders(policy: Policy, mode: Mode) -> str:
    """Return the holders that allow a bind of the mode: an array of mode, state and "pair" for the same pair."""
    return _array(
        f"{held} {state} pair" if same_pair else f"{held} {state}"
        for held in Mode
        for state in State
        for same_pair in (False, True)
        if not conflict.conflicts(policy, held=held, state=state, requested=mode, same_pair=same_pair)
    )


def _array(texts: Iterable[str]) -> str:
    """Return an array of texts without quotes, as PostgreSQL reads it: the driver takes longer to write one."""
    quoted = '","'.join(texts)
    return f'{{"{quoted}"}}' if quoted else "{}"


def _statement() -> CompiledStatement:
    """Build the call. Each argument has the exact type of its parameter.

    Another function of this name, whose parameters fit better, would be called instead.
    """

    def array(name: str, item: type[Any]) -> ColumnElement[Any]:
        return cast(bindparam(name, type_=Text), ARRAY(item))

    def parameter(name: str, type_: type[Any]) -> ColumnElement[Any]:
        return cast(bindparam(name, type_=type_), type_)

    columns = {
        "id": BindingId,
        **dict.fromkeys(("mode", "phone_a", "phone_b"), Text),
        **dict.fromkeys(("phone_a_sealed", "phone_b_sealed"), LargeBinary),
        "phone_key": Integer,
        **dict.fromkeys(("pool_number", "app_id", "scope", "reference", "idempotency_key", "fingerprint"), Text),
        **dict.fromkeys(("expire_s", "max_expire_s", "warn_s"), Integer),
        **dict.fromkeys(("actor", "request_id", "facts_salt"), Text),
    }
    call = getattr(func, FUNCTION)(
        parameter("lock_wait", Text),
        array("lock_keys", BigInteger),
        *(parameter(name, Instant) for name in ("fixed_clock", "earliest", "latest")),
        *(parameter(name, Integer) for name in ("index_key", "data_key")),
        parameter("all_sealed", Boolean),
        parameter("known_id", BindingId),
        parameter("known_version", Integer),
        array("stored_phones", Text),
        array("allowed_holders", Text),
        *(parameter(name, BigInteger) for name in ("send_us", "settle_us", "held_us")),
        *(parameter(name, Text) for name in ("facts", "trace")),
        parameter("event_key_id", BindingId),
        *(cast(bindparam(name, type_=bindings.c[name].type), type_) for name, type_ in columns.items()),
        type_=Instant,
    )
    return CompiledStatement(select(call.label("requested_at")))


_CALL = _statement()
