"""Unbind every open binding of a phone, a middle number or a reference.

One transaction commits all requests; from then on no lookup returns one of the bindings. The calls go out within
the budget of one run of `recover`, which makes the rest of them. No SQL and no HTTP here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from bindings import errors
from bindings.domain.binding import State
from bindings.domain.selection import MAX_BINDINGS, SelectionToken
from bindings.failpoints import hit
from bindings.lifecycle.unbind import release, unbind_each
from bindings.store import open_bindings

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.domain.selection import Selection
    from bindings.lifecycle.runtime import Runtime
    from bindings.lifecycle.unbind import NotRecorded
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import UnbindOutcome
    from bindings.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseResult:
    """What `unbind_all` has done, or in a dry run would do.

    For `requested` bindings the request to unbind is recorded (in a dry run none): the provider has confirmed the
    end of `confirmed` of them, and `unclear` of them have not ended yet, so that `recover` goes on. `bindings` are
    the bindings of the call, as they are after it. `token` is that of a dry run, else None. With `more` the
    selection has further bindings, past the 1,000 of one call: repeat the call for them.
    """

    requested: int
    confirmed: int
    unclear: int
    bindings: tuple[Binding, ...]
    token: str | None
    more: bool


def list_open(runtime: Runtime, selection: Selection, *, actor: str | None) -> ReleaseResult:
    """Return what `unbind_all` would act on, with the token of these bindings; nothing is changed."""
    now = runtime.clocks.trusted_instant(runtime.database.clock())
    selected = runtime.database.read(open_bindings.find, selection, now, actor=actor, limit=MAX_BINDINGS + 1)
    listed, more = tuple(selected[:MAX_BINDINGS]), len(selected) > MAX_BINDINGS
    token = SelectionToken.of(listed, complete=not more).encode()
    return ReleaseResult(requested=0, confirmed=0, unclear=0, bindings=listed, token=token, more=more)


def unbind_all(
    runtime: Runtime, selection: Selection, *, reason: str, token: SelectionToken | None, actor: str | None
) -> ReleaseResult:
    """Commit the requests to unbind, call the provider within the budget, and return the result. Safe to repeat.

    `actor`: only bindings that this actor requested are selected (None: of any). With a `token` only bindings that
    its dry run listed; raises `SelectionChanged` if there are others, and `Busy`.
    """
    client = runtime.require_client()
    if runtime.caller.request_id is None:  # the events of one call have one request id
        runtime = runtime.for_caller(replace(runtime.caller, request_id=str(uuid7())))

    def work(tx: Transaction) -> tuple[list[Binding], bool]:
        now = runtime.clocks.trusted_instant(tx.instant())
        selected = open_bindings.find(tx.connection, selection, now, actor=actor, limit=MAX_BINDINGS + 1)
        listed = selected if token is None else _listed(selected, token)
        more = len(selected) > len(listed[:MAX_BINDINGS])
        listed = listed[:MAX_BINDINGS]
        requested = [binding for binding in listed if binding.unbind_requested_at is not None]
        ids = [binding.id for binding in listed if binding.unbind_requested_at is None]
        requested += open_bindings.request_unbinds(tx, ids, runtime.caller, reason)
        hit("unbind_all.requests_in_transaction")
        return requested, more

    requested, more = runtime.database.write(work, attempt_timeout_s=runtime.database.timeout_s)
    hit("unbind_all.after_requests")
    active = [binding for binding in requested if binding.state is State.ACTIVE]
    random.shuffle(active)  # or a few without an answer would keep the others from their turn at each repetition
    ended = {binding.id: binding for binding in unbind_each(runtime, active, partial(_release, runtime, client))}
    return ReleaseResult(
        requested=len(requested),
        confirmed=len(ended),
        unclear=len(requested) - len(ended),
        bindings=tuple(ended.get(binding.id, binding) for binding in requested),
        token=None,
        more=more,
    )


def _release(
    runtime: Runtime, client: ProviderClient, binding: Binding
) -> tuple[Binding, UnbindOutcome | NotRecorded | None]:
    """Return as `release`; without an answer while the database is busy, because the request is recorded."""
    try:
        return release(runtime, client, binding)
    except errors.Busy:
        return binding, None


def _listed(selected: list[Binding], token: SelectionToken) -> list[Binding]:
    """Return those that the dry run listed; raise `SelectionChanged` if it was complete and there are others."""
    listed = [binding for binding in selected if token.has(binding)]
    added = len(selected) - len(listed)
    if token.complete and added:
        message = (
            f"{added} bindings were added since the dry run"
            if added > 1
            else "a binding was added since the dry run"
        )
        raise errors.SelectionChanged(f"{message}; nothing was changed; run the dry run again")
    return listed
