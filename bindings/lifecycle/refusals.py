"""Record binds that are refused before the provider is called, so that they are found later.

Recorded are the refusals that say why a bind cannot succeed: a phone is held, or the provider refuses the account.
`Busy` is not: it says nothing about the bind, and a write for each would add to an overload. A record uses up no
idempotency key, and the refusal holds without it if the database fails.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from uuid_utils import uuid7

from bindings import errors
from bindings.failpoints import hit
from bindings.lifecycle.storable import require_storable
from bindings.store import refusals

if TYPE_CHECKING:
    from bindings.domain.binding import BindRequest, Holder
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.database import Transaction


def record_conflict(runtime: Runtime, request: BindRequest, holder: Holder) -> errors.PhoneInUse:
    """Record that a phone of the request is held, with an event, and return the error for the caller."""
    error = (errors.PhoneInUseAtProvider if holder.foreign else errors.PhoneInUse)(holder=holder)
    detail = {
        "holder_id": holder.id,
        "held_by": holder.held_by,
        "holder_mode": holder.mode,
        "holder_state": holder.state,
    }
    _record(runtime, request, detail, code=error.code, holder=holder)
    return error


def record_account_refusal(runtime: Runtime, request: BindRequest, error: errors.ProviderAccountRefused) -> None:
    """Record that the circuit of binds is open, with an event."""
    with suppress(errors.InvalidRequest, errors.Busy):
        require_storable(runtime.database, request)
        _record(runtime, request, {"status": error.status}, code=error.code, provider_status=error.status)


def _record(
    runtime: Runtime,
    request: BindRequest,
    detail: dict[str, Any],
    *,
    code: str,
    provider_status: str | None = None,
    holder: Holder | None = None,
) -> None:
    """Record the refusal in a transaction of its own, if the database can."""
    refusal_id = str(uuid7())
    detail |= {"mode": request.mode, "app_id": request.app_id}

    def work(tx: Transaction) -> bool:
        recorded = refusals.record(
            tx,
            refusal_id,
            request,
            runtime.caller,
            code=code,
            event_detail=detail,
            provider_status=provider_status,
            holder=holder,
        )
        hit("bind.refusal_in_transaction")
        return recorded

    # With keys it reads which are written with, and inserts: one transaction, or a sealing may come in between.
    is_one_statement = runtime.database.phone_keys is None
    with suppress(errors.Busy):
        runtime.database.write(work, autocommit_first=work if is_one_statement else None)
