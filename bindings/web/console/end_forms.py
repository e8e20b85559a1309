"""The forms that end a binding, move its end or replace it: why one cannot be sent now, and what is entered.

The service decides again when a form is sent; what the page says is only as of its own reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.domain.binding import State
from bindings.errors import Busy
from bindings.lifecycle.older_versions import PROMISED_ENDS, SUCCESSORS
from bindings.validation import fields
from bindings.validation import requests as validation
from bindings.validation.requests import FieldErrors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.lifecycle.runtime import Runtime
    from bindings.validation.requests import Replacement

UNITS = {"seconds": 1, "minutes": 60, "hours": 3_600, "days": 86_400}
MAX_DIGITS = 9
NO_ACCOUNT = (
    "This process has no provider account: set BINDINGS_PROVIDER_API_KEY and BINDINGS_PROVIDER_API_SECRET."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacles:
    """Why a binding cannot be extended, shortened, unbound or replaced now, as sentences; None if it can be."""

    extend: str | None
    shorten: str | None
    unbind: str | None
    replace: str | None


def obstacles(runtime: Runtime, binding: Binding, successor: Binding | None, now: datetime) -> Obstacles:
    """Return the obstacles at the instant `now`; reads the processes that use the database, once a minute.

    `successor` is the newest one of the binding.
    """
    ended = _why_ended(binding, now)
    no_account = NO_ACCOUNT if runtime.client is None else None
    fixed = ended or _why_fixed(binding) or _older_versions(runtime, PROMISED_ENDS)
    return Obstacles(
        extend=fixed or _why_at_its_longest(binding),
        shorten=fixed,
        unbind=ended or no_account,
        replace=_why_not_replaced(binding, successor, now) or no_account or _older_versions(runtime, SUCCESSORS),
    )


def _why_ended(binding: Binding, now: datetime) -> str | None:
    if binding.state.terminal:
        return "It has ended."
    if binding.unbind_requested_at is not None:
        return "An unbind was requested, and nothing takes that back."
    if binding.state is State.ACTIVE and not binding.is_active(now):
        return "Its promised end has come."
    return None


def _why_fixed(binding: Binding) -> str | None:
    if binding.state is State.ACTIVE:
        return None
    return "Only the end of an active binding can be moved."


def _why_at_its_longest(binding: Binding) -> str | None:
    if binding.provider_end != binding.expires_at:
        return None
    return (
        "Its promised end is the provider's own end. For a later one replace the binding; max_expire_s in the bind"
        " leaves time to extend it."
    )


def _why_not_replaced(binding: Binding, successor: Binding | None, now: datetime) -> str | None:
    if successor is not None and successor.state is not State.FAILED and not successor.has_waited_too_long(now):
        return "It has a successor already."
    if binding.is_replaceable:
        return None
    if binding.state is State.ACTIVE:
        return "An unbind was requested, and nothing takes that back."
    return "It has ended." if binding.state.terminal else "It is not active yet."


def _older_versions(runtime: Runtime, first_revision: str) -> str | None:
    try:
        runtime.older_versions.require_none(first_revision)
    except Busy as busy:
        text = f"{busy}. {busy.next_step()}"
        return text[0].upper() + text[1:]
    return None


def extension(form: Mapping[str, str]) -> int:
    """Return the seconds by which the form extends a binding from now on. Raise `InvalidRequest`."""
    errors = FieldErrors()
    duration_s = errors.check("amount", _seconds, form)
    errors.raise_if_any()
    return duration_s or 0


def early_end(form: Mapping[str, str]) -> tuple[str, int | None]:
    """Return the reason of an early end, and in how many seconds it is; None: now. Raise `InvalidRequest`."""
    errors = FieldErrors()
    reason = errors.check("reason", fields.single_line("reason"), form.get("reason", ""))
    if form.get("when") not in ("now", "later"):
        errors.add("when", "must be now or later")
    delay_s = errors.check("amount", _seconds, form) if form.get("when") == "later" else None
    errors.raise_if_any()
    return reason or "", delay_s


def replacement(form: Mapping[str, str]) -> Replacement:
    """Return what the successor is to have; an empty field: what its predecessor has. Raise `InvalidRequest`."""
    errors = FieldErrors()
    expire_s = errors.check("amount", _seconds, form) if form.get("amount") else None
    errors.raise_if_any()
    names = ("phone_a", "phone_b", "mode", "pool_number", "reference")
    changes = {name: form[name] for name in names if form.get(name)}
    return validation.replacement(**changes, expire_s=expire_s, force="force" in form)


def _seconds(form: Mapping[str, str]) -> int:
    """Return the time that was entered; the service checks its bounds."""
    amount, unit_s = form.get("amount", ""), UNITS.get(form.get("unit", ""))
    if unit_s is None or not (amount.isascii() and amount.isdigit()) or len(amount) > MAX_DIGITS:
        raise ValueError("must be a whole number, with a unit")
    return int(amount) * unit_s
