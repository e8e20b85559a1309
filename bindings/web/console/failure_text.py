"""Why a bind failed, stayed in doubt, or was stopped here: in words, with the cure and whose it is.

What the provider's statuses mean stands in `provider.statuses`; here are our own words for what it did not say.
"""

from __future__ import annotations

from dataclasses import dataclass

from bindings.domain.binding import EventKind, Reason
from bindings.provider import statuses
from bindings.provider.statuses import ResponsibleParty
from bindings.store.statistics import OWN_IN_USE


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureExplanation:
    """What a code means: `title` in a few words."""

    title: str
    effect: str
    cause: str
    todo: str
    whose: str


_FREE = "nothing came into being; the phones are free"
_UNKNOWN = "unknown: a binding may have come into being; its phones stay held until that is known"
_STOPPED = "no call was made; the caller was told who holds the phone, and until when"

_OURS = {
    Reason.NEVER_SENT: FailureExplanation(
        title="never sent",
        effect=_FREE,
        cause="the provider was not reached: its name, the network, TLS, a clock that cannot be believed",
        todo="check BINDINGS_PROVIDER_URL, the network and the clocks: `bindings doctor`",
        whose=ResponsibleParty.HOST,
    ),
    Reason.ABSENT: FailureExplanation(
        title="proved absent",
        effect=_FREE,
        cause="there was no clear answer; two readings of the provider's list then proved that it made nothing",
        todo="nothing: bind again with a new key",
        whose=ResponsibleParty.PROVIDER,
    ),
    Reason.VOUCHED: FailureExplanation(
        title="marked absent by a person",
        effect="the phones are free, on that person's word",
        cause="somebody saw elsewhere that the provider made nothing; the history names them and their words",
        todo="nothing, unless a late success follows: then the word was wrong",
        whose=ResponsibleParty.NOBODY,
    ),
    Reason.BIND_ID_TAKEN: FailureExplanation(
        title="bindId given twice",
        effect=_UNKNOWN,
        cause="the provider answered with a bindId that another binding has",
        todo="tell the provider, with both bindings",
        whose=ResponsibleParty.PROVIDER,
    ),
    Reason.NOT_SETTLED: FailureExplanation(
        title="never settled",
        effect=_UNKNOWN,
        cause="the process that called the provider died, or its database was away",
        todo="nothing: a scan of the provider's list resolves it; look why the process died",
        whose=ResponsibleParty.HOST,
    ),
    Reason.NO_CLEAR_ANSWER: FailureExplanation(
        title="no clear answer",
        effect=_UNKNOWN,
        cause="the answer was lost, late, cut off or could not be read",
        todo="nothing: a scan of the provider's list resolves it; if they grow in number, look at the network",
        whose=ResponsibleParty.PROVIDER,
    ),
    OWN_IN_USE: FailureExplanation(
        title="refused for a binding of ours",
        effect=_FREE,
        cause="the provider found a phone in use that a binding of ours held: it should have been stopped here",
        todo="report it, with the example: this must never happen",
        whose="this product",
    ),
}

_STOPPED_BY = {
    "binding": FailureExplanation(
        title="held by a binding of ours",
        effect=_STOPPED,
        cause="the phone is in a binding that is active, pending, in doubt, or just over",
        todo="wait until it ends, or unbind it; the example is the holder",
        whose=ResponsibleParty.CALLER,
    ),
    "orphan": FailureExplanation(
        title="held by a stranger that a scan saw",
        effect=_STOPPED,
        cause="somebody else binds with the same account: the provider's list has a binding that is not ours",
        todo="find out who else uses the account; BINDINGS_ON_ORPHAN=release unbinds such rows",
        whose=ResponsibleParty.OTHERS,
    ),
    "refused": FailureExplanation(
        title="held after a -35",
        effect=_STOPPED,
        cause="the provider has just refused this phone; until a scan explains it, it is not tried again",
        todo="wait for the next reconciliation, or run one",
        whose=ResponsibleParty.OTHERS,
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
    """What a code of this kind of event means; something honest for one that nobody knows."""
    if kind is EventKind.REFUSED:
        return _STOPPED_BY.get(code, _unknown(code, _STOPPED))
    known = statuses.find(code)
    if known is not None:
        return FailureExplanation(
            title=known.meaning, effect=known.effect, cause=known.cause, todo=known.remedy, whose=known.responsible
        )
    return _OURS.get(code) or _unknown(code, _UNKNOWN)


def _unknown(code: str, effect: str) -> FailureExplanation:
    return FailureExplanation(
        title=statuses.meaning(code),
        effect=effect,
        cause="the provider's documents do not have it",
        todo="ask the provider what it means, with the example",
        whose=ResponsibleParty.PROVIDER,
    )
