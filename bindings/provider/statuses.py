"""What the provider's status codes mean: the only home of their numbers.

Here stands the documented table and nothing that acts on it. A status that is not in the table, and one whose
effect the provider itself does not know, is no refusal: the outcome is then unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bindings.provider.outcome import Refusal

SUCCESS = "0"
ACCOUNT = "-1"
CLOCK = "-16"
ANOMALY = "-18"
PARAMETERS = "-22"
NOT_FOUND = "-24"
IN_USE = "-35"
NO_NUMBER = "-41"


class ResponsibleParty(StrEnum):
    """Who can cure a status, in the words in which it is shown."""

    NOBODY = "nobody"
    ACCOUNT = "the account: whoever keeps the contract with the provider"
    HOST = "this host: whoever runs it"
    CALLER = "the caller: whoever asked for the bind"
    PROVIDER = "the provider"
    OTHERS = "somebody else who binds with the same account, or the conflict policy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """One row of the table: what the provider says, and what that means for a binding.

    `refusal` is set where the answer is a definite no. `cause` says what usually brings it about, `todo` how it is
    cured, and `whose` by whom.
    """

    code: str
    meaning: str
    effect: str
    cause: str
    remedy: str
    responsible: ResponsibleParty
    refusal: Refusal | None = None


_NOTHING = "nothing came into being; the phones are free"
_ACCOUNT = "nothing came into being; no call will pass until the account is put right"

STATUSES: tuple[Status, ...] = (
    Status(
        code=SUCCESS,
        meaning="success",
        effect="done as asked",
        cause="the call was in order",
        remedy="nothing",
        responsible=ResponsibleParty.NOBODY,
    ),
    Status(
        code=ACCOUNT,
        meaning="account authentication failed",
        effect=_ACCOUNT,
        cause="the key or the secret is wrong, or one of them was changed at the provider only",
        remedy="check BINDINGS_PROVIDER_API_KEY and BINDINGS_PROVIDER_API_SECRET: one of them is wrong",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.ACCOUNT,
    ),
    Status(
        code="-2",
        meaning="IP restriction",
        effect=_ACCOUNT,
        cause="the provider does not admit the address that this host calls from",
        remedy="have this host's outgoing IP address admitted in the provider's console",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.ACCOUNT,
    ),
    Status(
        code=CLOCK,
        meaning="timestamp expired",
        effect=_NOTHING,
        cause="this clock and the provider's were too far apart, or the request was too long on its way",
        remedy="set this host's clock (NTP); the next request is stamped by the provider's clock",
        responsible=ResponsibleParty.HOST,
        refusal=Refusal.CLOCK,
    ),
    Status(
        code=ANOMALY,
        meaning="system anomaly",
        effect="unknown: a binding may have come into being",
        cause="a fault inside the provider's system",
        remedy="nothing: the doubt is resolved from the provider's list; if it recurs, contact the provider",
        responsible=ResponsibleParty.PROVIDER,
    ),
    Status(
        code=PARAMETERS,
        meaning="parameter error",
        effect=_NOTHING,
        cause="the provider does not take a value that passed the checks here, such as a pool or an application",
        remedy="compare pool_number and app_id of the example with the provider's console",
        responsible=ResponsibleParty.CALLER,
        refusal=Refusal.REQUEST,
    ),
    Status(
        code=NOT_FOUND,
        meaning="binding does not exist",
        effect="there was nothing to unbind, or no longer",
        cause="it was over at the provider already, or was unbound by somebody else",
        remedy="nothing, unless it is frequent: then look for who else unbinds",
        responsible=ResponsibleParty.OTHERS,
    ),
    Status(
        code="-29",
        meaning="workspace disabled",
        effect=_ACCOUNT,
        cause="the provider has disabled the workspace",
        remedy="have the workspace enabled by the provider",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.ACCOUNT,
    ),
    Status(
        code="-30",
        meaning="API key disabled",
        effect=_ACCOUNT,
        cause="the key was disabled in the provider's console",
        remedy="enable the API key in the provider's console, or set another one",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.ACCOUNT,
    ),
    Status(
        code="-31",
        meaning="IP not in the whitelist",
        effect=_ACCOUNT,
        cause="this host calls from an address that the whitelist does not have: it moved, or its gateway did",
        remedy="add this host's outgoing IP address to the whitelist in the provider's console",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.ACCOUNT,
    ),
    Status(
        code=IN_USE,
        meaning="an AXB binding exists for number A or number B",
        effect="nothing came into being; another binding holds a phone",
        cause="a phone that was free here is bound at the provider: by another system, or beside one of ours",
        remedy="run `bindings reconcile`, which names strangers; `bindings stats` says which policy fits",
        responsible=ResponsibleParty.OTHERS,
        refusal=Refusal.IN_USE,
    ),
    Status(
        code=NO_NUMBER,
        meaning="no middle number available in the pool",
        effect=_NOTHING,
        cause="every middle number of the pool is lent, or lent to one of these phones",
        remedy="have the pool enlarged, use another pool, or bind for shorter",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.NO_NUMBER,
    ),
)

_BY_CODE = {status.code: status for status in STATUSES}


def refusal(code: str) -> Refusal | None:
    """Why the provider refused, or None where the status is no definite refusal."""
    status = _BY_CODE.get(code)
    return None if status is None else status.refusal


def meaning(code: str) -> str:
    """The documented words for a status; "unknown status" for any other."""
    status = _BY_CODE.get(code)
    return "unknown status" if status is None else status.meaning


def todo(code: str) -> str | None:
    """What to do about a status; None for one that is unknown."""
    status = _BY_CODE.get(code)
    return None if status is None else status.remedy


def find(code: str) -> Status | None:
    """The row of a status; None for one that is unknown."""
    return _BY_CODE.get(code)
