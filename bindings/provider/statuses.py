"""The provider's status codes and what they mean. No other module has their numbers.

The documented table belongs here, and nothing that acts on it. A status that is not in the table, and one whose
effect the provider itself does not know, is not a refusal: the outcome is then unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

from bindings.domain.explanation import ResponsibleParty
from bindings.provider.outcome import Refusal

SUCCESS = "0"
ACCOUNT = "-1"
CLOCK = "-16"
ANOMALY = "-18"
PARAMETERS = "-22"
NOT_FOUND = "-24"
IN_USE = "-35"
NO_NUMBER = "-41"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """One row of the table: the provider's `meaning`, and the `effect` on a binding.

    `cause` is the usual cause, `remedy` what to do about it, and `responsible` who can do that. `refusal` is set
    if the status is a definite refusal.
    """

    code: str
    meaning: str
    effect: str
    cause: str
    remedy: str
    responsible: ResponsibleParty
    refusal: Refusal | None = None


_NO_BINDING = "no binding was created; the phones are free"
_ACCOUNT = "no binding was created; every call is refused until the account is corrected"

STATUSES: tuple[Status, ...] = (
    Status(
        code=SUCCESS,
        meaning="success",
        effect="done as requested",
        cause="the call was in order",
        remedy="nothing",
        responsible=ResponsibleParty.NONE,
    ),
    Status(
        code=ACCOUNT,
        meaning="account authentication failed",
        effect=_ACCOUNT,
        cause="the key or the secret is wrong, or one of them was changed only at the provider",
        remedy="check BINDINGS_PROVIDER_API_KEY and BINDINGS_PROVIDER_API_SECRET",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.ACCOUNT,
    ),
    Status(
        code="-2",
        meaning="IP restriction",
        effect=_ACCOUNT,
        cause="the provider does not accept calls from the IP address of this host",
        remedy="have this host's outgoing IP address allowed in the provider's console",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.ACCOUNT,
    ),
    Status(
        code="-13",
        meaning="account locked",
        effect=_ACCOUNT,
        cause="the provider has locked the account",
        remedy="have the account unlocked by the provider",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.ACCOUNT,
    ),
    Status(
        code=CLOCK,
        meaning="timestamp expired",
        effect=_NO_BINDING,
        cause="this host's clock and the provider's differed too much, or the request took too long to arrive",
        remedy="synchronise this host's clock (NTP); the provider's Date header may correct the next timestamp",
        responsible=ResponsibleParty.HOST,
        refusal=Refusal.CLOCK,
    ),
    Status(
        code=ANOMALY,
        meaning="system anomaly",
        effect="unknown: a binding may have been created",
        cause="a failure inside the provider's system",
        remedy="nothing: a scan of the provider's list resolves it; if it recurs, contact the provider",
        responsible=ResponsibleParty.PROVIDER,
    ),
    Status(
        code=PARAMETERS,
        meaning="parameter error",
        effect=_NO_BINDING,
        cause="the provider does not accept a value that is valid here, such as a pool or an application",
        remedy="compare pool_number and app_id of the example with the provider's console",
        responsible=ResponsibleParty.CLIENT,
        refusal=Refusal.REQUEST,
    ),
    Status(
        code=NOT_FOUND,
        meaning="binding does not exist",
        effect="there was no binding to end, or no longer",
        cause="the binding had already ended at the provider, or another system unbound it",
        remedy="nothing, unless it is frequent: then find out which other system unbinds",
        responsible=ResponsibleParty.OTHER_SYSTEM,
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
        cause="the IP address of this host is not in the whitelist: the host or its gateway has a new one",
        remedy="add this host's outgoing IP address to the whitelist in the provider's console",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.ACCOUNT,
    ),
    Status(
        code=IN_USE,
        meaning="an AXB binding exists for number A or number B",
        effect="no binding was created; another binding holds a phone",
        cause="the provider has a binding for a phone that is free here: by another system, or beside our own",
        remedy="run `bindings reconcile`, which lists foreign bindings; `bindings stats` shows which policy fits",
        responsible=ResponsibleParty.OTHER_SYSTEM,
        refusal=Refusal.IN_USE,
    ),
    Status(
        code=NO_NUMBER,
        meaning="no middle number available in the pool",
        effect=_NO_BINDING,
        cause="every middle number of the pool is in use, or in use by one of these phones",
        remedy="have the pool enlarged, use another pool, or bind for a shorter time",
        responsible=ResponsibleParty.ACCOUNT,
        refusal=Refusal.NO_NUMBER,
    ),
)

_BY_CODE = {status.code: status for status in STATUSES}


def refusal(code: str) -> Refusal | None:
    """Return why the provider refused, or None if the status is not a definite refusal."""
    status = _BY_CODE.get(code)
    return None if status is None else status.refusal


def meaning(code: str) -> str:
    """Return the documented meaning of a status; "unknown status" for any other."""
    status = _BY_CODE.get(code)
    return "unknown status" if status is None else status.meaning


def remedy(code: str) -> str | None:
    """Return what to do about a status; None if it is not documented."""
    status = _BY_CODE.get(code)
    return None if status is None else status.remedy


def find(code: str) -> Status | None:
    """Return the row of a status; None if it is not documented."""
    return _BY_CODE.get(code)
