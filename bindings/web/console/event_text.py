"""The history of a binding in sentences: what happened, what the provider responded, why the binding ended.

Pure functions. What a failure means and who can fix it belongs to `failure_text`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from bindings.domain.binding import EventKind, Reason, State
from bindings.errors import REASONS
from bindings.provider.statuses import STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from bindings.domain.binding import Binding, Event

LONG_GAP_S = 60.0  # a gap from this length on gets a line of its own
_MEANING = {status.code: status.meaning for status in STATUSES}
# Details that the page shows elsewhere, or that say nothing to a reader.
_HIDDEN_DETAILS = frozenset(
    {
        "mode",
        "pool_number",
        "app_id",
        "reference",
        "expire_s",
        "max_expire_s",
        "after_s",
        "facts",
        "requested_at",
        "unbind_requested_at",
        "send_by",
        "settle_by",
        "sent_at",
        "answered_at",
        "what",
    }
)
# Details that are part of the sentence, of the provider's response, or are listed under another name.
_DETAILS_IN_SENTENCE = frozenset({"status", "said", "reason", "because"})


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineEntry:
    """One event as a sentence.

    `gap_s` is the time since the event before, None for the first. `provider_response` is None if the event
    records none. `details` are the remaining names and values of the event.
    """

    event: Event
    gap_s: float | None
    sentence: str
    provider_response: str | None
    details: tuple[tuple[str, str], ...]

    @property
    def has_long_gap(self) -> bool:
        """Return whether the gap before this event is long enough for a line of its own."""
        return self.gap_s is not None and self.gap_s >= LONG_GAP_S


def timeline(events: Iterable[Event]) -> list[TimelineEntry]:
    """Return one entry for each event, in the same order."""
    entries: list[TimelineEntry] = []
    for event in events:
        previous_at = entries[-1].event.at if entries else None
        entries.append(
            TimelineEntry(
                event=event,
                gap_s=None if previous_at is None else max(0.0, (event.at - previous_at).total_seconds()),
                sentence=_event_sentence(event),
                provider_response=_provider_response(event),
                details=_details(event),
            )
        )
    return entries


def _text_of(event: Event) -> _KindText:
    unknown = _KindText(sentence=f"Recorded by another version of bindings as “{event.kind}”")
    return _TEXTS.get(event.kind, unknown)


def _event_sentence(event: Event) -> str:
    sentence = _text_of(event).sentence
    return sentence if isinstance(sentence, str) else sentence(event)


def _requested_sentence(event: Event) -> str:
    if event.detail.get("waits_for") is not None:
        return "Requested as a successor; it is not sent before the binding that it replaces has ended"
    return "Requested; the intent was recorded before the call to the provider"


def _confirmation_sentence(event: Event) -> str:
    """Return how a binding that had ended here has ended at the provider."""
    reason = event.detail.get("reason")
    if reason in (Reason.ASKED, Reason.REPLACED):
        return "The provider confirmed the unbind after the binding had ended here"
    if reason in (Reason.NOT_FOUND, Reason.GONE_AT_PROVIDER):
        return "The provider no longer had the binding, which had ended here before"
    return "The binding, which had ended here before, ended at the provider too"


def _with_reason(beginning: str) -> Callable[[Event], str]:
    """Return the function that gives an event's sentence: this beginning, and the recorded reason in words."""
    return lambda event: f"{beginning}: {reason_text(event.detail.get('reason'))}"


def reason_text(reason: object) -> str:
    """Return why a binding is in its state, in words; an unknown reason is returned as it is recorded."""
    try:
        return REASONS[Reason(str(reason))].sentence
    except ValueError:
        return str(reason or "no reason was recorded")


def _provider_response(event: Event) -> str | None:
    """Return the provider's status, its meaning and its message, or None if the event has none of them."""
    status, message = event.detail.get("status"), event.detail.get("said")
    if status is None:
        return None if message is None else str(message)
    meaning = _MEANING.get(str(status), "a status that is not documented")
    text = f"status {status}, {meaning}"
    return text if message in (None, meaning) else f"{text}: {message}"


def _details(event: Event) -> tuple[tuple[str, str], ...]:
    detail, text = event.detail, _text_of(event)
    hidden = _HIDDEN_DETAILS | _DETAILS_IN_SENTENCE | text.hidden
    details = [
        (name, str(value))
        for name, value in detail.items()
        if name not in hidden and value is not None and not isinstance(value, list | dict)
    ]
    if text.lists_reason and detail.get("reason"):
        details.insert(0, ("reason", str(detail["reason"])))
    if detail.get("because"):
        details.insert(0, ("reason", str(detail["because"])))
    return tuple(details)


@dataclass(frozen=True, kw_only=True, slots=True)
class _KindText:
    """What the page says of events of a kind, and which further details it hides.

    `lists_reason`: the reason is the actor's own text, and is not in the sentence.
    """

    sentence: str | Callable[[Event], str]
    hidden: frozenset[str] = frozenset()
    lists_reason: bool = False


_TEXTS: dict[str, _KindText] = {
    EventKind.REQUESTED: _KindText(sentence=_requested_sentence),
    EventKind.ACTIVATED: _KindText(sentence="The provider created the binding"),
    EventKind.FAILED: _KindText(
        sentence=_with_reason("Failed"),
        hidden=frozenset({"ended_at", "held_until"}),  # the instant of the event itself
    ),
    EventKind.IN_DOUBT: _KindText(sentence=_with_reason("In doubt")),
    EventKind.ADOPTED: _KindText(sentence="Found in the provider's list and adopted"),
    EventKind.EXPIRED: _KindText(sentence="Expired: its lifetime was over"),
    EventKind.UNBIND_REQUESTED: _KindText(
        sentence="Unbind requested; from then on it was not offered as active", lists_reason=True
    ),
    EventKind.UNBOUND: _KindText(sentence=_with_reason("Ended early")),
    EventKind.UNBIND_CONFIRMED: _KindText(sentence=_confirmation_sentence),
    EventKind.LAPSED: _KindText(sentence="Lapsed: it was in doubt until its longest possible lifetime was over"),
    EventKind.REFUSED: _KindText(sentence="Refused before the call"),
    EventKind.LATE_SUCCESS: _KindText(sentence="The provider reported success after the binding had ended here"),
    EventKind.HELD: _KindText(sentence="A phone is held because another binding at the provider has it"),
    EventKind.HOLD_ENDED: _KindText(sentence="A hold ended"),
    EventKind.DRIFTED: _KindText(sentence="The provider's list differs from this record"),
    EventKind.EXTENDED: _KindText(sentence="Extended: its promised end was moved to a later time"),
    EventKind.SHORTENED: _KindText(
        sentence="Shortened: its promised end was moved to an earlier time", lists_reason=True
    ),
    EventKind.REPLACED: _KindText(
        sentence="A successor was requested; from then on this binding was not offered as active"
    ),
    EventKind.CLEARED: _KindText(
        sentence="Cleared to be sent: the end of the binding that it replaces is confirmed"
    ),
    EventKind.REVEALED: _KindText(sentence="Full phones were shown", lists_reason=True),
    EventKind.EXPORTED: _KindText(sentence="A list was exported"),
    EventKind.ADMINISTERED: _KindText(sentence="The service or its records were administered"),
    EventKind.PHONE_SEARCHED: _KindText(sentence="A reader searched by a full phone"),
    EventKind.BUDGET_USED_UP: _KindText(sentence="An API key used up a budget of questions"),
    EventKind.ERASED: _KindText(
        sentence="The phone of a party was erased on request, with what names the person", lists_reason=True
    ),
    EventKind.EXPIRES_SOON: _KindText(sentence="Expiry warning recorded"),
    EventKind.POOL_LOW: _KindText(sentence="The pool is running low"),
    EventKind.SEALED: _KindText(sentence="The events before were sealed"),
}


def status_sentence(binding: Binding, at: datetime) -> str:  # noqa: PLR0911 -- one sentence for each state
    """Return why the binding ended, or what happens next, as of the instant `at`."""
    unbind_is_requested = binding.unbind_requested_at is not None
    to_be_unbound = (
        " An unbind was requested; it is made as soon as the binding is known to exist."
        if unbind_is_requested
        else ""
    )
    match binding.state:
        case State.PENDING | State.IN_DOUBT if binding.waits_for is not None:
            return _waiting_sentence(binding, at)
        case State.PENDING:
            return (
                "The call is in progress, or its process ended; the binding will soon be settled or in doubt."
                + to_be_unbound
            )
        case State.IN_DOUBT:
            return f"It is not known whether the binding exists: {reason_text(binding.reason)}." + to_be_unbound
        case State.ACTIVE if unbind_is_requested:
            return (
                "An unbind was requested; the provider has not confirmed it yet, and will be asked until it does."
            )
        case State.ACTIVE:
            return (
                "It is active until its promised end."
                if binding.is_active(at)
                else "Its lifetime is over; the next expire job records the end."
            )
        case State.FAILED:
            meaning = _MEANING.get(str(binding.provider_status))
            status = f" (status {binding.provider_status}, {meaning})" if meaning else ""
            return f"No binding was created: {reason_text(binding.reason)}{status}."
        case State.EXPIRED:
            return "It ended because its lifetime was over."
        case State.UNBOUND:
            return f"It ended early: {reason_text(binding.reason)}."
        case State.LAPSED:
            return "It stayed in doubt until its longest possible lifetime was over."
        case _:
            assert_never(binding.state)


def _waiting_sentence(binding: Binding, at: datetime) -> str:
    if binding.has_waited_too_long(at):
        return (
            "It has not been sent and will not be: it has waited too long for the end of the binding that it"
            " replaces, and the next recover job records that."
        )
    waiting = "It has not been sent: it waits until the provider has ended the binding that it replaces."
    if binding.unbind_requested_at is None:
        return waiting
    return f"{waiting} An unbind was requested, so it will not be sent."
