"""Explanations for the failure pages: why a bind failed, stayed in doubt, or was refused here before any call.

`provider.statuses` explains the provider's statuses and `errors.REASONS` our own reasons; this module chooses
between them and explains what is refused here.
"""

from __future__ import annotations

import re

from bindings.domain import hold
from bindings.domain.binding import EventKind, Reason
from bindings.domain.explanation import Explanation, ResponsibleParty
from bindings.errors import MAYBE_CREATED, NO_BINDING, REASONS
from bindings.provider import statuses
from bindings.store.statistics import OWN_IN_USE

_REFUSED_HERE = "no call was made; the response names the holder of the phone and the end of the hold"

_STATUS = re.compile(r"-?\d+")

_OWN_IN_USE = Explanation(
    title="refused because of our own binding",
    effect=NO_BINDING,
    cause="the provider reported a phone as in use that our own binding held: it should have been refused here",
    remedy="report it as a defect of this product, with the example",
    responsible=ResponsibleParty.PRODUCT,
)

_BY_HOLDER = {
    "binding": Explanation(
        title="held by our own binding",
        effect=_REFUSED_HERE,
        cause="the phone is in a binding that is active, pending, in doubt, or has just ended",
        remedy="wait until it ends, or unbind it; the example is the holder",
        responsible=ResponsibleParty.CLIENT,
    ),
    "orphan": Explanation(
        title=hold.ORPHAN.title,
        effect=_REFUSED_HERE,
        cause=hold.ORPHAN.cause,
        remedy="find out which system uses the account; BINDINGS_ON_ORPHAN=release unbinds such rows",
        responsible=ResponsibleParty.OTHER_SYSTEM,
    ),
    "revenant": Explanation(
        title=hold.REVENANT.title,
        effect=_REFUSED_HERE,
        cause=hold.REVENANT.cause,
        remedy="unbind the binding of the example: that ends it at the provider and frees its phones",
        responsible=ResponsibleParty.PROVIDER,
    ),
    "refused": Explanation(
        title=hold.REFUSED.title,
        effect=_REFUSED_HERE,
        cause=hold.REFUSED.cause,
        remedy="wait for the next reconciliation, or run one",
        responsible=ResponsibleParty.OTHER_SYSTEM,
    ),
    "late_success": Explanation(
        title=hold.LATE_SUCCESS.title,
        effect=_REFUSED_HERE,
        cause=hold.LATE_SUCCESS.cause,
        remedy="nothing: recover unbinds it",
        responsible=ResponsibleParty.PROVIDER,
    ),
}


def _account_refused(code: str) -> Explanation | None:
    """Explain why a bind was refused after this status of the account; None if the code is not a status."""
    status = statuses.find(code)
    if status is None:
        return None
    return Explanation(
        title=f"the provider had refused the account: {status.meaning}",
        effect="no call was made: binds wait after a refusal of the account, and then one tries again",
        cause=status.cause,
        remedy=status.remedy,
        responsible=status.responsible,
    )


def explain(kind: str, code: str) -> Explanation:
    """Explain a code of this event kind; unknown codes get a generic explanation."""
    if kind == EventKind.REFUSED:
        return _BY_HOLDER.get(code) or _account_refused(code) or _unknown_word(code, _REFUSED_HERE)
    if code == OWN_IN_USE:
        return _OWN_IN_USE
    status = statuses.find(code)
    if status is not None:
        return Explanation(
            title=status.meaning,
            effect=status.effect,
            cause=status.cause,
            remedy=status.remedy,
            responsible=status.responsible,
        )
    if code in set(Reason):
        return REASONS[Reason(code)].explanation or _unknown_word(code, MAYBE_CREATED)
    return _unknown_status(code) if _STATUS.fullmatch(code) else _unknown_word(code, MAYBE_CREATED)


def _unknown_word(code: str, effect: str) -> Explanation:
    return Explanation(
        title=f"recorded as “{code}”",
        effect=effect,
        cause="another version of bindings recorded this word; this version has no text for it",
        remedy="see the documentation of the newest version that is in use",
        responsible=ResponsibleParty.NONE,
    )


def _unknown_status(code: str) -> Explanation:
    return Explanation(
        title=statuses.meaning(code),
        effect=MAYBE_CREATED,
        cause="the provider's documentation does not list it",
        remedy="ask the provider what it means, with the example",
        responsible=ResponsibleParty.PROVIDER,
    )
