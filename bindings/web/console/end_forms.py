"""The forms that move the end of a binding: why one cannot be sent now, and the times that are entered.

The service decides again when a form is sent; what the page says is only as of its own reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.domain.binding import State
from bindings.errors import Busy
from bindings.lifecycle.older_releases import PROMISED_ENDS
from bindings.validation import fields
from bindings.validation.requests import FieldErrors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.lifecycle.runtime import Runtime

UNITS = {"seconds": 1, "minutes": 60, "hours": 3_600, "days": 86_400}
MAX_DIGITS = 9
NO_ACCOUNT = (
    "This process has no provider account: set BINDINGS_PROVIDER_API_KEY and BINDINGS_PROVIDER_API_SECRET."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacles:
    """Why a binding cannot be extended, shortened or unbound now, as sentences; None if it can be."""

    extend: str | None
    shorten: str | None
    unbind: str | None


def obstacles(runtime: Runtime, binding: Binding, now: datetime) -> Obstacles:
    """Return the obstacles at the instant `now`; reads the processes that use the database, once a minute."""
    ended = _why_ended(binding, now)
    fixed = ended or _why_fixed(binding) or _older_releases(runtime)
    return Obstacles(
        extend=fixed or _why_at_its_longest(binding),
        shorten=fixed,
        unbind=ended or (NO_ACCOUNT if runtime.client is None else None),
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
        "Its promised end is the provider's own end. A later one needs another binding; max_expire_s in the bind"
        " leaves time to extend it."
    )


def _older_releases(runtime: Runtime) -> str | None:
    try:
        runtime.older_releases.require_none(PROMISED_ENDS)
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


def _seconds(form: Mapping[str, str]) -> int:
    """Return the time that was entered; the service checks its bounds."""
    amount, unit_s = form.get("amount", ""), UNITS.get(form.get("unit", ""))
    if unit_s is None or not (amount.isascii() and amount.isdigit()) or len(amount) > MAX_DIGITS:
        raise ValueError("must be a whole number, with a unit")
    return int(amount) * unit_s
