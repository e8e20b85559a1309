"""A binding's history in words: what happened, what the provider said, how long nothing did, why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from bindings.domain.binding import EventKind, Reason, State
from bindings.errors import REASONS
from bindings.provider.statuses import STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bindings.domain.binding import Binding, Event

LONG_S = 60.0  # a gap that is shown as a line of its own
_MEANING = {status.code: status.meaning for status in STATUSES}
# What stands elsewhere on the page, or says nothing to a person.
_NOT_SHOWN = frozenset(
    {
        "mode",
        "pool_number",
        "app_id",
        "reference",
        "expire_s",
        "send_by",
        "settle_by",
        "sent_at",
        "answered_at",
        "what",
    }
)
_TOLD = frozenset({"status", "said", "reason", "because"})


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineEntry:
    """One event in words. `gap_s` is how long after the one before; `reply` what the provider said."""

    event: Event
    gap_s: float | None
    words: str
    reply: str | None
    facts: tuple[tuple[str, str], ...]

    @property
    def long(self) -> bool:
        """Whether nothing happened for so long before it that the gap is to be seen."""
        return self.gap_s is not None and self.gap_s >= LONG_S


def timeline(events: Iterable[Event]) -> list[TimelineEntry]:
    """The steps of a history, in its order."""
    steps: list[TimelineEntry] = []
    for event in events:
        before = steps[-1].event.at if steps else None
        steps.append(
            TimelineEntry(
                event=event,
                gap_s=None if before is None else max(0.0, (event.at - before).total_seconds()),
                words=_event_sentence(event),
                reply=_reply(event),
                facts=_facts(event),
            )
        )
    return steps


def _event_sentence(event: Event) -> str:  # noqa: C901, PLR0911, PLR0912 -- one sentence for each kind
    reason = _why(event.detail.get("reason"))
    match event.kind:
        case EventKind.REQUESTED:
            return "Asked for; the intent was written before the call"
        case EventKind.ACTIVATED:
            return "The provider made it"
        case EventKind.FAILED:
            return f"Failed: {reason}"
        case EventKind.IN_DOUBT:
            return f"In doubt: {reason}"
        case EventKind.ADOPTED:
            return "Found in the provider's list and adopted"
        case EventKind.EXPIRED:
            return "Its time was over"
        case EventKind.UNBIND_REQUESTED:
            return "An unbind was asked for; from here on it was offered to nobody"
        case EventKind.UNBOUND:
            return f"Ended early: {reason}"
        case EventKind.UNBIND_CONFIRMED:
            return "The provider confirmed an unbind after its end"
        case EventKind.LAPSED:
            return "In doubt until it must have been over"
        case EventKind.REFUSED:
            return "Refused before the call"
        case EventKind.LATE_SUCCESS:
            return "The provider said yes after it had ended here"
        case EventKind.HELD:
            return "A phone is held by something else at the provider"
        case EventKind.HOLD_ENDED:
            return "A hold ended"
        case EventKind.DRIFTED:
            return "The provider's list says otherwise"
        case EventKind.REVEALED:
            return "Full phones were shown"
        case EventKind.EXPIRES_SOON:
            return "Its end was announced"
        case EventKind.POOL_LOW:
            return "Its pool ran low"
        case _:
            assert_never(event.kind)


def _why(reason: object) -> str:
    try:
        return REASONS[Reason(str(reason))].sentence
    except ValueError:
        return str(reason or "no reason was recorded")


def _reply(event: Event) -> str | None:
    """What the provider said: its status, what that means, and its own words."""
    status, said = event.detail.get("status"), event.detail.get("said")
    if status is None:
        return None if said is None else str(said)
    meaning = _MEANING.get(str(status), "a status that is not documented")
    told = f"status {status}, {meaning}"
    return told if said in (None, meaning) else f"{told}: {said}"


def _facts(event: Event) -> tuple[tuple[str, str], ...]:
    detail = event.detail
    shown = [
        (name, str(value))
        for name, value in detail.items()
        if name not in _NOT_SHOWN | _TOLD and value is not None and not isinstance(value, list | dict)
    ]
    if event.kind in (EventKind.UNBIND_REQUESTED, EventKind.REVEALED) and detail.get("reason"):
        shown.insert(0, ("reason", str(detail["reason"])))
    if detail.get("because"):
        shown.insert(0, ("because", str(detail["because"])))
    return tuple(shown)


def status_sentence(binding: Binding, *, over: bool) -> str:  # noqa: PLR0911 -- one sentence for each state
    """Why a binding ended, or what is to come, in one sentence. `over`: its time has passed."""
    match binding.state:
        case State.PENDING:
            return "The call is under way, or its process died; it is settled or in doubt soon."
        case State.IN_DOUBT:
            return f"Nobody knows yet whether it exists: {_why(binding.reason)}."
        case State.ACTIVE if binding.unbind_requested_at is not None:
            return "An unbind was asked for; the provider has not answered clearly, and is asked again."
        case State.ACTIVE:
            return "Its time is over; the next sweep says so." if over else "It lives until its time is over."
        case State.FAILED:
            meaning = _MEANING.get(str(binding.provider_status))
            said = f" (status {binding.provider_status}, {meaning})" if meaning else ""
            return f"Nothing came into being: {_why(binding.reason)}{said}."
        case State.EXPIRED:
            return "It ended because its time was over."
        case State.UNBOUND:
            return f"It ended early: {_why(binding.reason)}."
        case State.LAPSED:
            return "It stayed in doubt until its longest possible life was over."
        case _:
            assert_never(binding.state)
