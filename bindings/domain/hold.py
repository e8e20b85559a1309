"""Holds as an answer about a number shows them: the cause, from when, until when, and what ends them. Pure.

A hold is a phone that the provider holds for something other than a binding that is in force here. How holds are
written is in `store.holds`; the phones that our own bindings hold are in no hold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from bindings.domain.phone import Phone  # noqa: TC001 -- the HTTP API makes its schemas of it at run time

if TYPE_CHECKING:
    from collections.abc import Iterable


class HoldReason(StrEnum):
    """Why a phone is held."""

    ORPHAN = "orphan"
    REFUSED = "refused"
    LATE_SUCCESS = "late_success"


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldExplanation:
    """What a hold means: `title` in a few words, the `cause`, and what ends it, each without a full stop."""

    title: str
    cause: str
    ends_by: str


_LIST_END = "a reconciliation that does not find the binding in the provider's list any more, or `held_until`"

ORPHAN = HoldExplanation(
    title="held by a binding at the provider that is not recorded here",
    cause="the provider's list shows a binding with this phone that is not recorded here: another system may use"
    " the account, or the record was lost",
    ends_by=f"{_LIST_END}; with BINDINGS_ON_ORPHAN=release a reconciliation unbinds it if its application is"
    " known",
)
ORPHAN_OF_BIND = replace(
    ORPHAN,
    title="held by a binding at the provider that fits a bind which ended here without a binding",
    cause="the provider's list shows a binding that fits a bind which is failed or lapsed here",
)
REVENANT = HoldExplanation(
    title="held by our own binding, which ended here and lives at the provider",
    cause="the provider's list shows a binding as live that has ended here: the list hid it for a while, the"
    " provider took an unbind back, or the database was restored",
    ends_by=f"an unbind of that binding, {_LIST_END}",
)
REFUSED = HoldExplanation(
    title="held after a -35",
    cause="the provider refused this phone as in use, and no binding here explains it",
    ends_by="a reconciliation that finds the cause or proves that there is none, or `held_until`, which is at most"
    " an hour after the last refusal",
)
LATE_SUCCESS = HoldExplanation(
    title="held by a late success",
    cause="the provider reported success for a bind that had ended here, or whose record was lost",
    ends_by="`bindings recover`, which unbinds it, or `held_until`",
)
_LAST_MINUTE = datetime.max.replace(tzinfo=UTC) - timedelta(minutes=1)
_NOT_VISIBLE = "the provider holds the phone for something that you may not see"


def explain(reason: str, *, has_origin: bool, is_revenant: bool) -> HoldExplanation:
    """Return what a hold means; `has_origin`: a binding recorded here fits it, `is_revenant`: by its bindId."""
    match reason:
        case HoldReason.ORPHAN if is_revenant:
            return REVENANT
        case HoldReason.ORPHAN:
            return ORPHAN_OF_BIND if has_origin else ORPHAN
        case HoldReason.REFUSED:
            return REFUSED
        case HoldReason.LATE_SUCCESS:
            return LATE_SUCCESS
        case _:
            return HoldExplanation(
                title=f"held: recorded as “{reason}”",
                cause=f"another version of bindings recorded “{reason}”; this version has no text for it",
                ends_by="`held_until`",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PhoneHold:
    """A phone that the provider holds, or held, for something other than a binding in force here.

    `why` is a `HoldReason`, or another text if a later version wrote it; `cause` says it in words. The phone was
    not necessarily held all the time between `first_held_at` and `held_until`. `in_force` is by the database's
    clock. `ends_by` is what ends it; None if it is over. `binding_id` is the binding recorded here that it comes
    from and `actor` the one that requested that; `bind_id` and `app_id` are the provider's. Each is None if there
    is none or if it is not known.
    """

    phone: Phone
    why: str
    cause: str
    in_force: bool
    first_held_at: datetime | None
    held_until: datetime
    ends_by: str | None
    binding_id: str | None
    actor: str | None
    bind_id: str | None
    app_id: str | None


def round_up(instant: datetime) -> datetime:
    """Return the next whole minute, or the instant itself if it is one or if there is no later minute."""
    minute = instant.replace(second=0, microsecond=0)
    return instant if instant == minute or minute > _LAST_MINUTE else minute + timedelta(minutes=1)


def visible_holds(holds: Iterable[PhoneHold], actor: str | None, phones: Iterable[Phone]) -> tuple[PhoneHold, ...]:
    """Return the holds as `actor`, who asked for these phones, may see them (None: everything).

    Of a hold that comes from no binding of the actor only the phone, `why` and `held_until`, rounded up to a
    minute, stay, as in a conflict check; and only while it is in force, and if the actor gave the phone.
    """
    if actor is None:
        return tuple(holds)
    known_phones = {phone.key for phone in phones}
    return tuple(
        hold if hold.actor == actor else _redact(hold)
        for hold in holds
        if hold.actor == actor or (hold.in_force and hold.phone.key in known_phones)
    )


def _redact(hold: PhoneHold) -> PhoneHold:
    return replace(
        hold,
        cause=_NOT_VISIBLE,
        first_held_at=None,
        held_until=round_up(hold.held_until),
        ends_by=None,
        binding_id=None,
        actor=None,
        bind_id=None,
        app_id=None,
    )
