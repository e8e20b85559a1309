"""What a call to the provider came to: made, refused, not sent, or unknown.

The vocabulary between the client and the service, free of the wire's names and of status codes' meanings.
Instants are readings of the monotonic clock of this process, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bindings.http_transport import NotSent, Unknown

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.phone import Phone


class Refusal(StrEnum):
    """Why the provider refused; each is definite: nothing came into being."""

    ACCOUNT = "account"  # the key, the workspace or the address: no request will pass
    CLOCK = "clock"  # the stamp was too old or too new
    IN_USE = "in_use"  # a phone is already bound
    NO_NUMBER = "no_number"  # the pool has no middle number to lend
    REQUEST = "request"  # this request was found faulty


@dataclass(frozen=True, kw_only=True, slots=True)
class BindSucceeded:
    """The provider made the binding."""

    bind_id: str
    middle_number_a: str
    middle_number_b: str
    sent: float
    answered: float


@dataclass(frozen=True, kw_only=True, slots=True)
class UnbindSucceeded:
    """The provider did what was asked (an unbind)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnbindNotFound:
    """The provider knows no such binding (an unbind)."""

    status: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The provider answered no, for certain."""

    why: Refusal
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderBinding:
    """One row of the provider's own list. `ends_at` is cut to whole seconds by the provider."""

    bind_id: str
    phone_a: Phone
    phone_b: Phone
    middle_number_a: str
    middle_number_b: str
    ends_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderPage:
    """One page of the provider's list. `total` is what the provider says the whole list holds."""

    total: int
    rows: tuple[ProviderBinding, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderPool:
    """One pool of the account, and how many bindings fit into it: so many on each of its numbers."""

    pool_number: str
    capacity: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderPools:
    """One page of the account's pools."""

    pools: tuple[ProviderPool, ...]


BindOutcome = BindSucceeded | Refused | NotSent | Unknown
UnbindOutcome = UnbindSucceeded | UnbindNotFound | Refused | NotSent | Unknown
PageOutcome = ProviderPage | Refused | NotSent | Unknown
PoolsOutcome = ProviderPools | Refused | NotSent | Unknown
