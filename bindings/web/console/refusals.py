"""Refused binds on the pages of a search: the cause of each, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bindings.domain.binding import EventKind
from bindings.provider import statuses
from bindings.web.console import time_zones
from bindings.web.console.failure_text import explain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bindings.domain.binding import Holder, RefusedBind
    from bindings.web.console.page_context import PageContext


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusalRow:
    """A refused bind as the principal may see it. `link_to` is the id of its holder, if that has a page for it."""

    bind: RefusedBind
    cause: str
    remedy: str
    link_to: str | None


def rows(context: PageContext, refused: Iterable[RefusedBind]) -> list[RefusalRow]:
    """Return the rows of the table; an app does not see which binding of another actor held a phone."""
    return [_row(context, bind) for bind in refused]


def _row(context: PageContext, bind: RefusedBind) -> RefusalRow:
    if bind.holder is None:
        return RefusalRow(bind=bind, cause=_account_cause(bind), remedy=_ACCOUNT_REMEDY, link_to=None)
    holder = context.require_principal.redact_holder(bind.holder)
    return RefusalRow(
        bind=replace(bind, holder=holder),
        cause=explain(EventKind.REFUSED, bind.holder.held_by).title,
        remedy=_remedy(context, holder),
        link_to=holder.id if holder.actor is not None else None,
    )


_ACCOUNT_REMEDY = "correct the account, see `bindings doctor`; then bind again"


def _account_cause(bind: RefusedBind) -> str:
    if bind.provider_status is None:
        return "the provider had refused the account"
    return f"the provider had refused the account: {bind.provider_status} {statuses.meaning(bind.provider_status)}"


def _remedy(context: PageContext, holder: Holder) -> str:
    until = time_zones.format_instant(holder.held_until, context.zone)
    if holder.held_until <= context.now:
        return f"bind again: by what was known then, the phone was held until {until}"
    if holder.id is not None:
        return f"wait until {until}, or unbind the binding that holds the phone"
    if holder.why == "binding":
        return f"wait until {until}"
    return f"wait until {until}, or for a reconciliation that explains the hold"
