"""Explanations of failures: why a bind failed, stayed in doubt, or was refused here, with the remedy.

The meaning of the provider's statuses belongs to `provider.statuses`; this module explains the reasons that are
recorded if there is no status, and the conflicts that are refused before any call.
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
    """The explanation of a code: a short title, the effect on the binding, cause, remedy and responsible party."""

    title: str
    effect: str
    cause: str
    remedy: str
    responsible: str


_FREE = "no binding was created; the phones are free"
_UNKNOWN = "unknown: a binding may have been created; its phones stay held until that is known"
_REFUSED_HERE = "no call was made; the response names the holder of the phone and the end of the hold"

_BY_REASON = {
    Reason.NEVER_SENT: FailureExplanation(
        title="never sent",
        effect=_FREE,
        cause="the provider was not reached: DNS, the network, TLS, or a clock that cannot be trusted",
        remedy="check BINDINGS_PROVIDER_URL, the network and the clocks: `bindings doctor`",
        responsible=ResponsibleParty.HOST,
    ),
    Reason.ABSENT: FailureExplanation(
        title="proved absent",
        effect=_FREE,
        cause="there was no clear response; two readings of the provider's list proved that it created nothing",
        remedy="nothing: bind again with a new key",
        responsible=ResponsibleParty.PROVIDER,
    ),
    Reason.VOUCHED: FailureExplanation(
        title="marked absent by an operator",
        effect="the phones are free, on that operator's statement",
        cause="an operator stated that the provider created nothing; the history has the operator and the reason",
        remedy="nothing, unless a late success follows: then the statement was wrong",
        responsible=ResponsibleParty.NOBODY,
    ),
    Reason.BIND_ID_TAKEN: FailureExplanation(
        title="duplicate bindId",
        effect=_UNKNOWN,
        cause="the provider responded with a bindId that another binding has",
        remedy="report it to the provider, with both bindings",
        responsible=ResponsibleParty.PROVIDER,
    ),
    Reason.NOT_SETTLED: FailureExplanation(
        title="never settled",
        effect=_UNKNOWN,
        cause="the process that called the provider ended, or its database was unavailable",
        remedy="nothing: a scan of the provider's list resolves it; find out why the process ended",
        responsible=ResponsibleParty.HOST,
    ),
    Reason.NO_CLEAR_ANSWER: FailureExplanation(
        title="no clear response",
        effect=_UNKNOWN,
        cause="the response was lost, late, cut off or unreadable",
        remedy="nothing: a scan of the provider's list resolves it; if the number grows, check the network",
        responsible=ResponsibleParty.PROVIDER,
    ),
    OWN_IN_USE: FailureExplanation(
        title="refused because of our own binding",
        effect=_FREE,
        cause="the provider reported a phone in use that our own binding held: it should have been refused here",
        remedy="report it as a defect of this product, with the example",
        responsible="this product",
    ),
}

_BY_HOLDER = {
    "binding": FailureExplanation(
        title="held by our own binding",
        effect=_REFUSED_HERE,
        cause="the phone is in a binding that is active, pending, in doubt, or has just ended",
        remedy="wait until it ends, or unbind it; the example is the holder",
        responsible=ResponsibleParty.CALLER,
    ),
    "orphan": FailureExplanation(
        title="held by a foreign binding that a scan found",
        effect=_REFUSED_HERE,
        cause="another system binds with the same account: the provider's list has a binding that is not ours",
        remedy="find out who else uses the account; BINDINGS_ON_ORPHAN=release unbinds such rows",
        responsible=ResponsibleParty.OTHERS,
    ),
    "refused": FailureExplanation(
        title="held after a -35",
        effect=_REFUSED_HERE,
        cause="the provider has just refused this phone; it is not tried again until a scan explains the refusal",
        remedy="wait for the next reconciliation, or run one",
        responsible=ResponsibleParty.OTHERS,
    ),
    "late_success": FailureExplanation(
        title="held by a late success",
        effect=_REFUSED_HERE,
        cause="the provider reported success for a binding that had ended here; it is being unbound",
        remedy="nothing: recover unbinds it",
        responsible=ResponsibleParty.PROVIDER,
    ),
}


def explain(kind: EventKind, code: str) -> FailureExplanation:
    """Return the explanation of a code of this event kind; unknown codes get a generic explanation."""
    if kind is EventKind.REFUSED:
        return _BY_HOLDER.get(code, _unknown(code, _REFUSED_HERE))
    status = statuses.find(code)
    if status is not None:
        return FailureExplanation(
            title=status.meaning,
            effect=status.effect,
            cause=status.cause,
            remedy=status.remedy,
            responsible=status.responsible,
        )
    return _BY_REASON.get(code) or _unknown(code, _UNKNOWN)


def _unknown(code: str, effect: str) -> FailureExplanation:
    return FailureExplanation(
        title=statuses.meaning(code),
        effect=effect,
        cause="the provider's documentation does not list it",
        remedy="ask the provider what it means, with the example",
        responsible=ResponsibleParty.PROVIDER,
    )
