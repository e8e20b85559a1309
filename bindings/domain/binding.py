"""Bindings: their states and transitions, their events, and the holders of phones.

Pure values: no SQL, no HTTP, no clock. The transitions are invariant I5: states only move forward, and a terminal
state never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 -- the HTTP API makes its schemas of these annotations at run time
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bindings.domain.hold import PhoneHold  # noqa: TC001 -- as above
from bindings.domain.phone import Phone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")


class Mode(StrEnum):
    """AXB: both parties see and call the same middle number. AXXB: each party has its own."""

    AXB = "AXB"
    AXXB = "AXXB"


class State(StrEnum):
    """The state of a binding; `next_states` are the allowed transitions."""

    PENDING = "pending"
    ACTIVE = "active"
    IN_DOUBT = "in_doubt"
    FAILED = "failed"
    EXPIRED = "expired"
    UNBOUND = "unbound"
    LAPSED = "lapsed"

    @property
    def next_states(self) -> frozenset[State]:
        """Return the states that may come next; empty for a terminal state."""
        return _NEXT_STATES[self]

    @property
    def terminal(self) -> bool:
        """Return whether the state can never change again."""
        return not _NEXT_STATES[self]


_NEXT_STATES: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.ACTIVE, State.IN_DOUBT, State.FAILED}),
    State.IN_DOUBT: frozenset({State.ACTIVE, State.FAILED, State.LAPSED}),
    State.ACTIVE: frozenset({State.EXPIRED, State.UNBOUND}),
    State.FAILED: frozenset(),
    State.EXPIRED: frozenset(),
    State.UNBOUND: frozenset(),
    State.LAPSED: frozenset(),
}


class EventKind(StrEnum):
    """The kinds of events. An event is written in the same transaction as the change that it records."""

    REQUESTED = "requested"
    ACTIVATED = "activated"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    ADOPTED = "adopted"
    EXPIRED = "expired"
    UNBIND_REQUESTED = "unbind_requested"
    UNBOUND = "unbound"
    UNBIND_CONFIRMED = "unbind_confirmed"
    LAPSED = "lapsed"
    REFUSED = "refused"
    LATE_SUCCESS = "late_success"
    HELD = "held"
    HOLD_ENDED = "hold_ended"
    DRIFTED = "drifted"
    EXTENDED = "extended"
    SHORTENED = "shortened"
    REPLACED = "replaced"
    CLEARED = "cleared"
    REVEALED = "revealed"
    EXPORTED = "exported"
    ADMINISTERED = "administered"
    PHONE_SEARCHED = "phone_searched"
    BUDGET_USED_UP = "budget_used_up"
    ERASED = "erased"
    EXPIRES_SOON = "expires_soon"
    POOL_LOW = "pool_low"
    SEALED = "sealed"


TERMINAL_KINDS = (EventKind.FAILED, EventKind.EXPIRED, EventKind.UNBOUND, EventKind.LAPSED)


class Reason(StrEnum):
    """Why a binding is in its state, if the state alone does not say. `errors.REASONS` has what each means."""

    NEVER_SENT = "never_sent"
    ABSENT = "absent"
    VOUCHED = "vouched"
    ACCOUNT = "account"
    CLOCK = "clock"
    IN_USE = "in_use"
    NO_NUMBER = "no_number"
    REQUEST = "request"
    NO_CLEAR_ANSWER = "no_clear_answer"
    BIND_ID_TAKEN = "bind_id_taken"  # written by earlier versions
    NOT_SETTLED = "not_settled"
    ASKED = "asked"
    REPLACED = "replaced"
    NOT_FOUND = "not_found"
    GONE_AT_PROVIDER = "gone_at_provider"
    ADOPTED = "adopted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """On whose behalf a change is made; all values are recorded in the history.

    `key_id` is the id of the API key that acts, None for the command line, the library and jobs: two keys may have
    one name, and hence one actor.
    """

    actor: str
    request_id: str | None = None
    key_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BindRequest:
    """A valid and normalised bind request (created by `validation.bind_request`).

    `warn_s` is None for the default setting, and 0 for no warning. `max_expire_s` is None if the binding cannot be
    extended past its first end. `replaces` is the id of the binding that a replace ends first, None for a bind.
    """

    phone_a: Phone
    phone_b: Phone
    pool_number: str
    expire_s: int
    mode: Mode
    app_id: str
    reference: str | None = None
    idempotency_key: str | None = None
    warn_s: int | None = None
    max_expire_s: int | None = None
    replaces: str | None = None

    @property
    def provider_expire_s(self) -> int:
        """Return the seconds for which the provider is asked: at most that long the binding can be extended."""
        return self.expire_s if self.max_expire_s is None else self.max_expire_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """One binding as recorded. Instants are aware UTC; durations are seconds.

    `expires_at` is the end that the caller was promised. `provider_expires_at` is the earliest instant at which
    the provider may end it, and never earlier (I6; None: the same instant); `held_until` is the latest at which it
    may still hold the phones (I4). The provider was asked for `max_expire_s` seconds (None: `expire_s`). `warn_s`
    seconds before `expires_at` an `expires_soon` event is written (None: no event). `state` is the last recorded
    state: treat an active binding as ended once `expires_at` has passed or `unbind_requested_at` is set
    (`is_active`).

    A replace links two bindings: the successor has `replaces`, the predecessor `replaced_by`, which names the
    newest successor, also if that one failed. A successor with `waits_for` has not been sent: the provider must
    confirm the end of this predecessor first.
    """

    id: str
    mode: Mode
    phone_a: Phone
    phone_b: Phone
    pool_number: str
    app_id: str
    scope: str
    reference: str | None
    idempotency_key: str | None
    replaces: str | None
    replaced_by: str | None
    waits_for: str | None
    expire_s: int
    max_expire_s: int | None
    warn_s: int | None
    bind_id: str | None
    middle_number_a: str | None
    middle_number_b: str | None
    state: State
    provider_status: str | None
    reason: str | None
    actor: str
    request_id: str | None
    requested_at: datetime
    send_by: datetime
    settle_by: datetime
    sent_at: datetime | None
    answered_at: datetime | None
    expires_at: datetime | None
    provider_expires_at: datetime | None
    held_until: datetime
    unbind_requested_at: datetime | None
    ended_at: datetime | None
    version: int

    @property
    def provider_expire_s(self) -> int:
        """Return the seconds for which the provider was asked."""
        return self.expire_s if self.max_expire_s is None else self.max_expire_s

    @property
    def provider_end(self) -> datetime | None:
        """Return the earliest instant at which the provider may end it; None if the provider has not made it."""
        return self.expires_at if self.provider_expires_at is None else self.provider_expires_at

    def is_release_owed(self, at: datetime) -> bool:
        """Return whether it has expired, but the provider may hold it for longer: it is to be unbound there."""
        return (
            self.state is State.EXPIRED
            and self.provider_expires_at is not None
            and self.ended_at is not None
            and self.provider_expires_at > max(self.ended_at, at)
        )

    @property
    def is_replaceable(self) -> bool:
        """Return whether a successor may take over from it, if every successor that it has had has failed."""
        if self.phone_a.is_erased or self.phone_b.is_erased:
            return False
        is_offered = self.state is State.ACTIVE and self.unbind_requested_at is None
        was_replaced = self.replaced_by is not None and self.state in (State.ACTIVE, State.UNBOUND)
        return is_offered or was_replaced or self.state is State.EXPIRED

    def has_waited_too_long(self, at: datetime) -> bool:
        """Return whether it is a successor that still waits past its time: it was not sent, and never is."""
        return self.waits_for is not None and not self.state.terminal and at >= self.settle_by

    def is_active(self, at: datetime) -> bool:
        """Return whether a caller may rely on the binding at the instant `at`."""
        return (
            self.state is State.ACTIVE
            and self.expires_at is not None
            and self.expires_at > at
            and self.unbind_requested_at is None
        )

    def counterpart(self, phone: str | Phone) -> Phone:
        """Return the phone of the other party: the one to ring when `phone` calls its middle number.

        Raises ValueError, whose text does not repeat the phone, if it is neither party's.
        """
        return self.phone_b if self._is_party_a(phone) else self.phone_a

    def middle_number_for(self, phone: str | Phone) -> str | None:
        """Return the middle number that the party with this phone sees and calls; None before there is one.

        A call from one party is presented to the other as `middle_number_for(counterpart(caller))`. Raises
        ValueError as `counterpart` does.
        """
        return self.middle_number_a if self._is_party_a(phone) else self.middle_number_b

    def _is_party_a(self, phone: str | Phone) -> bool:
        for party in (self.phone_a, self.phone_b):
            if party == phone and not party.is_erased:
                return party is self.phone_a
        Phone(phone)  # for text without digits and for an erased phone this is the error
        raise ValueError(f"the phone is not a party of binding {self.id}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event of the append-only history.

    `sequence` counts the events of a binding from 1 without a gap; `binding_id` is None for an event that belongs
    to no binding (a hold, a refusal before the call). `kind` is an `EventKind`, or another text if a later version
    wrote the event. `cursor` resumes the change feed after this event. `reference` is that of the binding, read
    with the event and not stored in it: None without a binding, and once the binding is deleted. `key_id` is the
    id of the API key that acted; None without one, and if an earlier version wrote the event.
    """

    cursor: str
    binding_id: str | None
    sequence: int
    kind: str
    at: datetime
    actor: str
    request_id: str | None
    detail: dict[str, Any]
    reference: str | None
    key_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The holder of a requested phone.

    `id` is that of the binding that holds it, or None if the holder is not one of our bindings (`foreign`);
    `actor` is the one that requested it. `retry_after_s` is the time until `held_until`, at least 1 s. `why` is
    "binding", or the reason of the hold; "orphan" with an `id` is a binding that has ended here and lives at the
    provider. Over HTTP an app gets the end of what another caller holds rounded up to a minute.
    """

    id: str | None
    actor: str | None
    reference: str | None
    mode: Mode | None
    state: State | None
    held_until: datetime
    retry_after_s: int
    why: str

    @property
    def foreign(self) -> bool:
        """Return whether the phone is held at the provider, but not by one of our bindings."""
        return self.id is None

    @property
    def held_by(self) -> str:
        """Return `why`, or "revenant" for a binding that has ended here and lives at the provider."""
        return "revenant" if self.why == "orphan" and not self.foreign else self.why


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedBind:
    """A bind that was refused here before the provider was called; it created no binding.

    `code` is that of the error that the caller got, and `provider_status` the earlier status of the provider for
    which the account's binds were refused. `holder` is what held a phone, with the end of its hold as known at the
    refusal (`retry_after_s` is counted from then); its reference and state are those of now. It is None if no
    phone was held.
    """

    id: str
    at: datetime
    code: str
    provider_status: str | None
    mode: Mode
    phone_a: Phone
    phone_b: Phone
    pool_number: str
    app_id: str
    reference: str | None
    actor: str
    request_id: str | None
    holder: Holder | None


class Certainty(StrEnum):
    """How certain it is that the middle number belonged to a binding at an instant."""

    CERTAIN = "certain"
    POSSIBLE = "possible"


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceHolder:
    """A binding that had the middle number at the instant of the trace."""

    binding: Binding
    certainty: Certainty

    @property
    def id(self) -> str:
        """Return the binding's id."""
        return self.binding.id


@dataclass(frozen=True, kw_only=True, slots=True)
class NearMiss:
    """A binding that ended shortly before, or began shortly after, the instant of the trace.

    `relation` is "ended" or "began"; `offset_s` the seconds from that instant, negative for the past.
    """

    binding: Binding
    relation: str
    at: datetime
    offset_s: float

    @property
    def id(self) -> str:
        """Return the binding's id."""
        return self.binding.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """The bindings that had a middle number at an instant, and those that had it shortly before or after.

    `other_holders` had it at that instant, but not with the given party; empty unless no holder has that party.
    `holds` may have been in force within the window of the trace: those of the party, if there is one, and those
    of bindings with the middle number that ended here and lived on at the provider. Something at the provider
    that is not recorded here may have had the number too.
    """

    holders: tuple[TraceHolder, ...]
    near_misses: tuple[NearMiss, ...]
    other_holders: tuple[TraceHolder, ...] = ()
    holds: tuple[PhoneHold, ...] = ()

    @property
    def bindings(self) -> list[Binding]:
        """Return the bindings of every part."""
        holders = (*self.holders, *self.other_holders)
        return [holder.binding for holder in holders] + [miss.binding for miss in self.near_misses]

    def has_match(self, party: Phone) -> bool:
        """Return whether a binding or a hold of this trace, which was for `party`, has that phone."""
        return bool(self.holders or self.near_misses) or any(hold.phone == party for hold in self.holds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[Item]):
    """A page of results, and the cursor of the next page (None at the end; never None for the feed)."""

    data: tuple[Item, ...]
    next_cursor: str | None

    @classmethod
    def of(cls, rows: Sequence[Item], size: int, cursor_of: Callable[[Item], str]) -> Page[Item]:
        """Return the first `size` rows as a page; if there are more, with the cursor after the last one shown."""
        data = tuple(rows[:size])
        return cls(data=data, next_cursor=cursor_of(data[-1]) if len(rows) > size else None)
