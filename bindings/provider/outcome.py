"""The outcomes of the provider's calls: succeeded, refused, not sent, or unknown.

The vocabulary between the client and the lifecycle. Field names of the API are in `wire`, the meaning of status
codes in `statuses`. Instants are readings of the monotonic clock of this process, in seconds. `label` is the value
of the metrics' label `outcome`, which is public: it does not follow the class name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from bindings.http_transport import NotSent, Unknown

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.phone import Phone


class Refusal(StrEnum):
    """Why the provider refused. Each is definite: no binding was created. The values are those of `Reason`."""

    ACCOUNT = "account"  # the key, the workspace or the address: every request is refused
    CLOCK = "clock"  # the timestamp was too old or too new
    IN_USE = "in_use"  # a phone is already bound
    NO_NUMBER = "no_number"  # the pool has no middle number available
    REQUEST = "request"  # a value of this request was refused


@dataclass(frozen=True, kw_only=True, slots=True)
class BindSucceeded:
    """The provider created the binding."""

    label: ClassVar[str] = "made"

    bind_id: str
    middle_number_a: str
    middle_number_b: str
    sent: float
    answered: float


@dataclass(frozen=True, kw_only=True, slots=True)
class UnbindSucceeded:
    """The provider ended the binding (an unbind)."""

    label: ClassVar[str] = "confirmed"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnbindNotFound:
    """The provider has no such binding (an unbind)."""

    label: ClassVar[str] = "missing"

    status: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The provider refused, definitely."""

    label: ClassVar[str] = "refused"

    refusal: Refusal
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
class OddRow:
    """One row of the provider's list that does not match its documents, and what of it could be read.

    `problem` names the first field that could not be read, never its value. `ends_at` is None if the row has no
    end that could be read.
    """

    bind_id: str | None
    phones: tuple[Phone, ...]
    ends_at: datetime | None
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderPage:
    """One page of the provider's list.

    `total` is the length of the whole list according to the provider; None if it gave no count.
    """

    label: ClassVar[str] = "provider_page"

    total: int | None
    rows: tuple[ProviderBinding, ...]
    odd_rows: tuple[OddRow, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderPool:
    """One pool of the account. How many bindings fit into it is in no list."""

    pool_number: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderPools:
    """One page of the account's pools."""

    label: ClassVar[str] = "provider_pools"

    pools: tuple[ProviderPool, ...]


BindOutcome = BindSucceeded | Refused | NotSent | Unknown
UnbindOutcome = UnbindSucceeded | UnbindNotFound | Refused | NotSent | Unknown
PageOutcome = ProviderPage | Refused | NotSent | Unknown
PoolsOutcome = ProviderPools | Refused | NotSent | Unknown
