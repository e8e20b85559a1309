"""The provider's rules: what a call is answered, and what it leaves in the ledger.

No sockets and no faults; the clock is injected. The rules are written from the provider's documents and share
nothing with the product's own conflict policy, so that a mistake in one of them shows. One lock (the
ledger's) covers every decision together with what it writes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, assert_never

from bindings.domain.binding import BindRequest, Mode
from bindings.domain.conflict import Policy
from bindings.domain.phone import Phone
from bindings.provider import signing, statuses, wire
from bindings.provider.outcome import ProviderBinding
from bindings.provider.simulator.faults import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo

    from bindings.provider.simulator.conditions import Behaviour
    from bindings.provider.simulator.ledger import Entry, Ledger

LONGEST_LIFE_S = 259_200
LONGEST_POOL_NUMBER = 20
LEAST_DIGITS_B = 4
LARGEST_PAGE = 100
ECHOED_SIZE = 20  # whatever was asked for: the echoed size cannot be trusted
FIRST_NUMBER = 1024  # pool 918806 then lends 9188061024 first, as in the provider's sample
NUMBER_DIGITS = 10

_CONTENT_TYPE = signing.CONTENT_TYPE_HEADER.lower()
_KEY = signing.KEY_HEADER.lower()
_SIGN = signing.SIGN_HEADER.lower()
_TIMESTAMP = signing.TIMESTAMP_HEADER.lower()

Asked = BindRequest | wire.UnbindRequest | wire.PageRequest | wire.PoolsRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Who may call. Any application may where `app_ids` is None. `zone` is that of the list's ends."""

    api_key: str
    api_secret: str
    app_ids: frozenset[str] | None
    zone: tzinfo


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What goes into the envelope."""

    status: str
    data: Any = None

    @property
    def reason(self) -> str:
        """The provider's words for the status."""
        return statuses.meaning(self.status)


class _Refused(Exception):
    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Rules:
    """The provider behind its HTTP. Thread-safe. `clock` gives Unix seconds."""

    def __init__(
        self, *, account: Account, conditions: Behaviour, ledger: Ledger, clock: Callable[[], float], seed: int
    ) -> None:
        self.ledger = ledger
        self.conditions = conditions
        self._account = account
        self._clock = clock
        self._dice = random.Random(seed)  # noqa: S311 -- repeatable on purpose
        self._pools: dict[str, None] = {}  # in the order in which they were first asked for

    def now(self) -> float:
        """The provider's clock, in Unix seconds."""
        return self._clock() + self.conditions.clock_offset_s

    def change(self, changes: Mapping[str, Any]) -> Behaviour:
        """Change conditions while calls are running. Raises ValueError, and then changes nothing."""
        with self.ledger.lock:
            self.conditions = self.conditions.changed(changes)
            return self.conditions

    def answer(self, call: Call, headers: Mapping[str, str], body: bytes) -> Answer:
        """Decide a call and carry it out; the names in `headers` are in lower case.

        The checks stand in the provider's order, and what a call does it does here, under the lock.
        """
        with self.ledger.lock:
            now = self._advance()
            try:
                asked = self._read(call, headers, body)
                self._authenticate(headers, now)
                return Answer(status=statuses.SUCCESS, data=self._act(asked, now))
            except wire.Malformed:
                return Answer(status=statuses.PARAMETERS)
            except _Refused as refused:
                return Answer(status=refused.status)

    def plant(self, asked: BindRequest) -> Entry:
        """Put a binding in the ledger past every rule but the middle numbers: nobody asked us for it.

        Raises ValueError where the pool has no middle number left.
        """
        with self.ledger.lock:
            entry = self._accept(asked, self._advance(), foreign=True)
        if entry is None:
            raise ValueError(statuses.meaning(statuses.NO_NUMBER))
        return entry

    def vanish(self, bind_id: int) -> Entry | None:
        """End a live binding without an unbind; None where there is no live one of that id."""
        with self.ledger.lock:
            now = self._advance()
            entry = self.ledger.get(bind_id)
            if entry is None or entry.ended_at <= now:
                return None
            return self.ledger.end(entry, at=now, vanished=True)

    def _advance(self) -> float:
        now = self.now()
        self.ledger.advance(now, lag_s=self.conditions.release_lag_s)
        return now

    # The checks, in the provider's order.

    def _read(self, call: Call, headers: Mapping[str, str], body: bytes) -> Asked:
        kind, _, charset = headers.get(_CONTENT_TYPE, "").lower().partition(";")
        if kind.strip() != "application/json" or charset.strip() not in ("", "charset=utf-8"):
            raise _Refused(statuses.PARAMETERS)
        asked = _READ[call](body)
        if not _within_bounds(asked):
            raise _Refused(statuses.PARAMETERS)
        allowed = self._account.app_ids
        if allowed is not None and not isinstance(asked, wire.PoolsRequest) and asked.app_id not in allowed:
            raise _Refused(statuses.PARAMETERS)
        return asked

    def _authenticate(self, headers: Mapping[str, str], now: float) -> None:
        stamp = headers.get(_TIMESTAMP, "")
        if headers.get(_KEY) != self._account.api_key or not self._signed(headers, stamp):
            raise _Refused(statuses.ACCOUNT)
        if abs(now - int(stamp)) > self.conditions.timestamp_tolerance_s:
            raise _Refused(statuses.CLOCK)
        if self.conditions.account_status is not None:
            raise _Refused(self.conditions.account_status)

    def _signed(self, headers: Mapping[str, str], stamp: str) -> bool:
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):  # noqa: PLR2004 -- no instant is longer
            return False
        account = self._account
        right = signing.signature(api_key=account.api_key, api_secret=account.api_secret, timestamp=int(stamp))
        return headers.get(_SIGN, "").lower() == right.lower()

    # What each call does.

    def _act(self, asked: Asked, now: float) -> Any:
        match asked:
            case BindRequest():
                return self._bind(asked, now)
            case wire.UnbindRequest():
                return self._unbind(asked, now)
            case wire.PageRequest():
                return self._page(asked, now)
            case wire.PoolsRequest():
                return self._list_pools(asked)
            case _:
                assert_never(asked)

    def _bind(self, asked: BindRequest, now: float) -> dict[str, Any]:
        if self._in_use(asked.phone_a.digits) or self._in_use(asked.phone_b.digits):
            raise _Refused(statuses.IN_USE)
        entry = self._accept(asked, now, foreign=False)
        if entry is None:
            raise _Refused(statuses.NO_NUMBER)
        return wire.bound_data(
            bind_id=entry.bind_id,  # an integer, as sampled
            middle_number_a=entry.middle_number_a,
            middle_number_b=entry.middle_number_b,
        )

    def _in_use(self, phone: str) -> bool:
        """Whether -35 answers for this phone: an AXB holds it, or under `strict` anything does."""
        strict = self.conditions.policy is Policy.STRICT
        return any(strict or entry.mode is Mode.AXB for entry in self.ledger.holders(phone))

    def _accept(self, asked: BindRequest, now: float, *, foreign: bool) -> Entry | None:
        phones = asked.phone_a.digits, asked.phone_b.digits
        self._pools[asked.pool_number] = None
        picked = self.ledger.pick(
            middle_numbers(asked.pool_number, self.conditions.pool_size),
            mode=asked.mode,
            phone_a=phones[0],
            phone_b=phones[1],
            max_concurrency=self.conditions.max_concurrency,
        )
        if picked is None:
            return None
        return self.ledger.accept(
            app_id=asked.app_id,
            pool_number=asked.pool_number,
            mode=asked.mode,
            phones=phones,
            middle_numbers=picked,
            accepted_at=now,
            expires_at=now + asked.expire_s,
            foreign=foreign,
        )

    def _unbind(self, asked: wire.UnbindRequest, now: float) -> None:
        known = asked.bind_id.isascii() and asked.bind_id.isdigit()
        entry = self.ledger.get(int(asked.bind_id)) if known else None
        if entry is None or entry.app_id != asked.app_id or entry.ended_at <= now:
            raise _Refused(statuses.NOT_FOUND)
        self.ledger.end(entry, at=now)

    def _page(self, asked: wire.PageRequest, now: float) -> dict[str, Any]:
        rows = self._listed(asked.app_id, now)
        first = (asked.current - 1) * asked.size
        data = wire.page_data(
            [_row(entry) for entry in rows[first : first + asked.size]],
            total=len(rows),
            current=asked.current,
            size=asked.size,
            zone=self._account.zone,
        )
        return data | {wire.SIZE: ECHOED_SIZE}

    def _listed(self, app_id: str, now: float) -> list[Entry]:
        if self.conditions.list_expired:
            rows = [e for e in self.ledger.entries() if e.app_id == app_id and e.unbound_at is None]
        else:
            rows = [e for e in self.ledger.held() if e.app_id == app_id and e.expires_at > now]
        if self.conditions.shuffle_pages:
            self._dice.shuffle(rows)
        return rows

    def _list_pools(self, asked: wire.PoolsRequest) -> dict[str, Any]:
        first = (asked.current - 1) * asked.size
        names = list(self._pools)[first : first + asked.size]
        pools = [
            wire.Pool(
                pool_number=name,
                max_concurrency=self.conditions.max_concurrency,
                numbers=middle_numbers(name, self.conditions.pool_size),
            )
            for name in names
        ]
        return wire.pools_data(pools, total=len(self._pools), current=asked.current, size=asked.size)


@lru_cache(maxsize=1_024)
def middle_numbers(pool_number: str, size: int) -> tuple[str, ...]:
    """Name the middle numbers of a pool: its own digits and a count, ten digits where they fit."""
    width = max(4, NUMBER_DIGITS - len(pool_number))
    return tuple(f"{pool_number}{FIRST_NUMBER + position:0{width}d}" for position in range(size))


_READ: dict[Call, Callable[[bytes], Asked]] = {
    Call.BIND: wire.read_bind,
    Call.UNBIND: wire.read_unbind,
    Call.PAGE: wire.read_page,
    Call.POOLS: wire.read_pools,
}


def _within_bounds(asked: Asked) -> bool:
    match asked:
        case BindRequest():
            return (
                len(asked.phone_b.digits) >= LEAST_DIGITS_B
                and asked.phone_a != asked.phone_b
                and len(asked.pool_number) <= LONGEST_POOL_NUMBER
                and 1 <= asked.expire_s <= LONGEST_LIFE_S
            )
        case wire.UnbindRequest():
            return True
        case wire.PageRequest() | wire.PoolsRequest():
            return asked.current >= 1 and 1 <= asked.size <= LARGEST_PAGE
        case _:
            assert_never(asked)


def _row(entry: Entry) -> ProviderBinding:
    return ProviderBinding(
        bind_id=str(entry.bind_id),
        phone_a=Phone.stored(entry.phone_a),
        phone_b=Phone.stored(entry.phone_b),
        middle_number_a=entry.middle_number_a,
        middle_number_b=entry.middle_number_b,
        ends_at=datetime.fromtimestamp(entry.expires_at, UTC),
    )
