"""Why a bind failed, stayed in doubt, or was refused before the call: explanations for the failure pages.

Provider statuses are explained in `provider.statuses`, our own reasons in `errors.REASONS`; here are the
explanations of refusals before the call, and the choice between the three.
"""

from __future__ import annotations

from dataclasses import dataclass

from bindings.domain.binding import EventKind, Reason
from bindings.domain.explanation import ResponsibleParty
from bindings.errors import MAYBE_CREATED, NO_BINDING, REASONS
from bindings.provider import statuses
from bindings.store.statistics import OWN_IN_USE


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureExplanation:
    """What a code means: `title` in a few words."""

    title: str
    effect: str
    cause: str
    todo: str
    whose: str


_STOPPED = "no call was made; the client was told who holds the phone, and until when"

_OWN_IN_USE = FailureExplanation(
    title="refused for one of our bindings",
    effect=NO_BINDING,
    cause="the provider reported a phone as in use that one of our bindings held: this bind should have been"
    " refused before the call",
    todo="report it, with the example: this must never happen",
    whose=ResponsibleParty.PRODUCT,
)

_STOPPED_BY = {
    "binding": FailureExplanation(
        title="held by a binding of ours",
        effect=_STOPPED,
        cause="the phone is in a binding that is active, pending, in doubt, or just over",
        todo="wait until it ends, or unbind it; the example is the holder",
        whose=ResponsibleParty.CLIENT,
    ),
    "orphan": FailureExplanation(
        title="held by a stranger that a scan saw",
        effect=_STOPPED,
        cause="somebody else binds with the same account: the provider's list has a binding that is not ours",
        todo="find out who else uses the account; BINDINGS_ON_ORPHAN=release unbinds such rows",
        whose=ResponsibleParty.OTHER_SYSTEM,
    ),
    "refused": FailureExplanation(
        title="held after a -35",
        effect=_STOPPED,
        cause="the provider has just refused this phone; until a scan explains it, it is not tried again",
        todo="wait for the next reconciliation, or run one",
        whose=ResponsibleParty.OTHER_SYSTEM,
    ),
    "late_success": FailureExplanation(
        title="held by a late yes",
        effect=_STOPPED,
        cause="the provider said yes for a binding that had ended here; it is being unbound",
        todo="nothing: recover unbinds it",
        whose=ResponsibleParty.PROVIDER,
    ),
}


def explain(kind: EventKind, code: str) -> FailureExplanation:
    """Explain a code of this kind of event; unknown codes get a generic explanation."""
    if kind is EventKind.REFUSED:
        return _STOPPED_BY.get(code, _unknown(code, _STOPPED))
    if code == OWN_IN_USE:
        return _OWN_IN_USE
    status = statuses.find(code)
    if status is not None:
        return FailureExplanation(
            title=status.meaning,
            effect=status.effect,
            cause=status.cause,
            todo=status.remedy,
            whose=status.responsible,
        )
    explanation = REASONS[Reason(code)].explanation if code in set(Reason) else None
    if explanation is None:
        return _unknown(code, MAYBE_CREATED)
    return FailureExplanation(
        title=explanation.title,
        effect=explanation.effect,
        cause=explanation.cause,
        todo=explanation.remedy,
        whose=explanation.responsible,
    )


def _unknown(code: str, effect: str) -> FailureExplanation:
    return FailureExplanation(
        title=statuses.meaning(code),
        effect=effect,
        cause="the provider's documents do not have it",
        todo="ask the provider what it means, with the example",
        whose=ResponsibleParty.PROVIDER,
    )
