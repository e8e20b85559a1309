"""What the provider's status codes mean: the only home of their numbers.

Here stands the documented table and nothing that acts on it. A status that is not in the table, and one whose
effect the provider itself does not know, is no refusal: the outcome is then unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """One row of the table: what the provider says, and what that means for a binding.

    `refusal` is set where the answer is a definite no; `todo` says how to put an account right.
    """

    code: str
    meaning: str
    effect: str
    refusal: Refusal | None = None
    todo: str | None = None


_NOTHING = "nothing came into being; the phones are free"
_ACCOUNT = "nothing came into being; no call will pass until the account is put right"

STATUSES: tuple[Status, ...] = (
    Status(code=SUCCESS, meaning="success", effect="done as asked"),
    Status(
        code=ACCOUNT,
        meaning="account authentication failed",
        effect=_ACCOUNT,
        refusal=Refusal.ACCOUNT,
        todo="check BINDINGS_PROVIDER_API_KEY and BINDINGS_PROVIDER_API_SECRET: one of them is wrong",
    ),
    Status(
        code="-2",
        meaning="IP restriction",
        effect=_ACCOUNT,
        refusal=Refusal.ACCOUNT,
        todo="have this host's outgoing IP address admitted in the provider's console",
    ),
    Status(code=CLOCK, meaning="timestamp expired", effect=_NOTHING, refusal=Refusal.CLOCK),
    Status(code=ANOMALY, meaning="system anomaly", effect="unknown: a binding may have come into being"),
    Status(code=PARAMETERS, meaning="parameter error", effect=_NOTHING, refusal=Refusal.REQUEST),
    Status(code=NOT_FOUND, meaning="binding does not exist", effect="there was nothing to unbind, or no longer"),
    Status(
        code="-29",
        meaning="workspace disabled",
        effect=_ACCOUNT,
        refusal=Refusal.ACCOUNT,
        todo="have the workspace enabled by the provider",
    ),
    Status(
        code="-30",
        meaning="API key disabled",
        effect=_ACCOUNT,
        refusal=Refusal.ACCOUNT,
        todo="enable the API key in the provider's console, or set another one",
    ),
    Status(
        code="-31",
        meaning="IP not in the whitelist",
        effect=_ACCOUNT,
        refusal=Refusal.ACCOUNT,
        todo="add this host's outgoing IP address to the whitelist in the provider's console",
    ),
    Status(
        code=IN_USE,
        meaning="an AXB binding exists for number A or number B",
        effect="nothing came into being; another binding holds a phone",
        refusal=Refusal.IN_USE,
    ),
    Status(
        code=NO_NUMBER,
        meaning="no middle number available in the pool",
        effect=_NOTHING,
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
    """What to do about a status that refuses the account; None for the others."""
    return next((status.todo for status in STATUSES if status.code == code), None)
