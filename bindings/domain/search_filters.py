"""The filters of a search and the orders of a list: names and types, help texts, and which may stand in a URL.

The command line reads its options from here, the store its conditions; `validation.requests` checks the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Mode, State
    from bindings.domain.phone import Phone


class Order(StrEnum):
    """The order of a list of bindings; the soonest end is that of bindings that are active now."""

    NEWEST = "newest"
    OLDEST = "oldest"
    ENDS_SOONEST = "ends_soonest"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFilters:
    """What the bindings of a search match, all of it; a filter that is None matches every binding.

    `state` is the state as recorded, and `state_reason` why it is so; `active` is whether a caller may rely on the
    binding now, as in a lookup. `phone` and `middle_number` match either party. The time of the request is in
    [requested_from, requested_to).
    """

    state: State | None = None
    provider_status: str | None = None
    state_reason: str | None = None
    active: bool | None = None
    mode: Mode | None = None
    phone: Phone | None = None
    middle_number: str | None = None
    reference: str | None = None
    reference_prefix: str | None = None
    idempotency_key: str | None = None
    bind_id: str | None = None
    pool_number: str | None = None
    app_id: str | None = None
    actor: str | None = None
    requested_from: datetime | None = None
    requested_to: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusalFilters:
    """What the refused binds of a search match, all of it; a filter that is None matches every one.

    `phone` matches either party.
    """

    reference: str | None = None
    reference_prefix: str | None = None
    phone: Phone | None = None
    request_id: str | None = None
    actor: str | None = None


# Filters on what never changes of a binding: by these it is known later whether an earlier export may have had it.
FIXED_FILTERS = ("mode", "app_id", "pool_number", "actor", "reference", "reference_prefix")

HELP = {
    "state": "State as recorded: pending, active, in_doubt, failed, expired, unbound or lapsed.",
    "provider_status": "The provider's status that decided the state, such as -41.",
    "state_reason": "Why the state is what it is, such as never_sent or no_number.",
    "active": "Only bindings that are active now, as in a lookup; one recorded as active may be past its end.",
    "mode": "AXB or AXXB.",
    "phone": "A real phone, as A or as B.",
    "middle_number": "A middle number of either party.",
    "reference": "Your order id.",
    "reference_prefix": "The beginning of your order id.",
    "idempotency_key": "The key that the bind was sent with, also if it was given back.",
    "bind_id": "The provider's id.",
    "pool_number": "The pool.",
    "app_id": "The application.",
    "actor": "Requested by this actor, such as key:NAME.",
    "requested_from": "Requested at or after this time.",
    "requested_to": "Requested before this time, which must be later than the start.",
}
REFUSAL_HELP = {
    "reference": HELP["reference"],
    "reference_prefix": HELP["reference_prefix"],
    "phone": HELP["phone"],
    "request_id": "The id of the request.",
    "actor": HELP["actor"],
}
# On the command line: switches, and the short names of times.
FLAGS = frozenset({"active"})
INSTANTS = {"requested_from": "--since", "requested_to": "--until"}
# They may identify a person, and URLs are logged.
BODY_ONLY = frozenset({"phone", "middle_number", "idempotency_key", "actor"})
