"""Extend and shorten: move the promised end of an active binding. No call to the provider is made.

The provider was asked for the longest time at the start (`max_expire_s`); what is left of it when the promised end
comes is released by `recover`. One statement each; no SQL and no HTTP here.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from bindings import errors
from bindings.domain.binding import State
from bindings.errors import InvalidRequest
from bindings.failpoints import hit
from bindings.lifecycle.older_versions import PROMISED_ENDS
from bindings.store import end_changes
from bindings.store.bindings import find

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.database import Transaction

ATTEMPTS = 3


def extend(runtime: Runtime, binding_id: str, *, expire_s: int, actor: str | None = None) -> Binding:
    """Move the end to `expire_s` seconds from now, and return the binding; never to an earlier end.

    `actor`: only a binding that this actor requested exists (None: any). Raises `NotFound`, `NotActive`,
    `InvalidRequest` with the latest possible end, or `Busy`. Safe to repeat: a repeated call counts from then.
    """

    def move(now: datetime, tx: Transaction) -> Binding | None:
        extended = end_changes.extend(tx, binding_id, runtime.caller, expire_s=expire_s, now=now, actor=actor)
        hit("extend.in_transaction")
        return extended

    def needs_no_change(binding: Binding, now: datetime, began_at: datetime) -> bool:
        lifetime, latest_end = timedelta(seconds=expire_s), binding.provider_end
        if binding.expires_at is not None and began_at + lifetime <= binding.expires_at:
            return True  # perhaps moved by an attempt of this call whose response was lost
        if latest_end is not None and now + lifetime > latest_end:
            raise _too_long(latest_end, now)
        return False

    return _move_end(runtime, binding_id, move, needs_no_change, actor)


def shorten(runtime: Runtime, binding_id: str, *, after_s: int, reason: str | None) -> Binding:
    """Move the end to `after_s` seconds from now if that is sooner, and return the binding. Safe to repeat.

    Raises `NotFound`, `NotActive` or `Busy`.
    """

    def move(now: datetime, tx: Transaction) -> Binding | None:
        shortened = end_changes.shorten(tx, binding_id, runtime.caller, after_s=after_s, reason=reason, now=now)
        hit("shorten.in_transaction")
        return shortened

    def needs_no_change(binding: Binding, now: datetime, _: datetime) -> bool:
        return binding.expires_at is not None and now + timedelta(seconds=after_s) >= binding.expires_at

    return _move_end(runtime, binding_id, move, needs_no_change, None)


def _move_end(
    runtime: Runtime,
    binding_id: str,
    move: Callable[[datetime, Transaction], Binding | None],
    needs_no_change: Callable[[Binding, datetime, datetime], bool],
    actor: str | None,
) -> Binding:
    """Run `move`, one statement; if it has changed nothing, find out why, and try again if nothing explains it.

    `needs_no_change` gets the binding, the present instant, and one at which this call had not yet sent anything.
    """
    runtime.older_versions.require_none(PROMISED_ENDS)
    started_at, now = runtime.clock.monotonic(), runtime.clocks.expected_instant()
    for _ in range(ATTEMPTS):
        attempt = partial(move, now)
        moved = runtime.database.write(
            attempt, attempt_timeout_s=runtime.database.timeout_s, autocommit_first=attempt
        )
        if moved is not None:
            return moved
        binding, now = _read_again(runtime, binding_id, actor)
        if needs_no_change(binding, now, now - timedelta(seconds=runtime.clock.monotonic() - started_at)):
            return binding
    raise errors.Busy("other calls keep changing the end of this binding; this one has changed nothing")


def _read_again(runtime: Runtime, binding_id: str, actor: str | None) -> tuple[Binding, datetime]:
    """Return an active binding whose end was not moved, and the instant; raises if it is unknown or not active."""
    binding = runtime.database.read(find, binding_id)
    if binding is None or actor not in (None, binding.actor):
        raise errors.NotFound(binding_id=binding_id)
    now = runtime.database.clock()
    runtime.clocks.verify(now)
    if not binding.is_active(now):
        raise errors.NotActive(why_not_active(binding), binding_id=binding.id)
    return binding, now


def why_not_active(binding: Binding) -> str:
    """Return why a call that needs an active binding has changed nothing."""
    if binding.state is not State.ACTIVE:
        return f"the binding is {binding.state.value.replace('_', ' ')}; nothing was changed"
    if binding.unbind_requested_at is not None:
        return "the binding is being unbound; nothing was changed"
    return "the end of the binding has passed; nothing was changed"


def _too_long(latest_end: datetime, now: datetime) -> InvalidRequest:
    remaining_s = max(0, int((latest_end - now).total_seconds()))
    message = (
        f"must be at most {remaining_s} now: the provider may end the binding at {latest_end:%Y-%m-%dT%H:%M:%SZ};"
        " for a longer time replace it, or bind with a longer max_expire_s"
    )
    return InvalidRequest.of_field("expire_s", message)
