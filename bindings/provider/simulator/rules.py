"""The provider's rules: the answer to a call, and its effect on the ledger.

No sockets and no faults; the clock is injected. The rules are written from the provider's documents and share no
code with the product's own conflict policy, so that an error in one of them is found. One lock (the ledger's)
covers every decision together with its write.
"""

from __future__ import annotations

import random
import zlib
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

    from bindings.provider.simulator.behaviour import Behaviour
    from bindings.provider.simulator.ledger import Entry, Ledger

MAX_EXPIRE_S = 259_200
MAX_POOL_NUMBER_LENGTH = 20
MIN_DIGITS_B = 4
MAX_PAGE_SIZE = 100
ECHOED_SIZE = 20  # for any requested size: clients cannot rely on the echoed size
FIRST_NUMBER = 1024  # the first number of pool 918806 is then 9188061024, as in the provider's sample
NUMBER_DIGITS = 10

_CONTENT_TYPE = signing.CONTENT_TYPE_HEADER.lower()
_KEY = signing.KEY_HEADER.lower()
_SIGN = signing.SIGN_HEADER.lower()
_TIMESTAMP = signing.TIMESTAMP_HEADER.lower()

ProviderRequest = BindRequest | wire.UnbindRequest | wire.PageRequest | wire.PoolsRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The account: its key, and its applications (None: any). `zone` is the time zone of the list's ends."""

    api_key: str
    api_secret: str
    app_ids: frozenset[str] | None
    zone: tzinfo


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The status and the data of the envelope."""

    status: str
    data: Any = None

    @property
    def reason(self) -> str:
        """Return the documented meaning of the status."""
        return statuses.meaning(self.status)


class _Refused(Exception):
    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Rules:
    """The provider without its HTTP. Thread-safe. `clock` returns Unix seconds."""

    def __init__(
        self, *, account: Account, behaviour: Behaviour, ledger: Ledger, clock: Callable[[], float], seed: int
    ) -> None:
        self.ledger = ledger
        self.behaviour = behaviour
        self._account = account
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 -- repeatable on purpose
        self._pools: dict[str, None] = {}  # a set, in the order of the first request
        self._hidden: set[int] = set()
        self._replaced: dict[int, dict[str, Any]] = {}

    def now(self) -> float:
        """Return the provider's clock, in Unix seconds."""
        return self._clock() + self.behaviour.clock_offset_s

    def change(self, changes: Mapping[str, Any]) -> Behaviour:
        """Change the behaviour, also during calls. Raises ValueError, and then changes nothing."""
        with self.ledger.lock:
            self.behaviour = self.behaviour.with_changes(changes)
            return self.behaviour

    def answer(self, call: Call, headers: Mapping[str, str], body: bytes) -> Answer:
        """Decide a call, carry it out and return the answer; the names in `headers` are in lower case.

        The checks are in the provider's order; decision and effect are under one lock.
        """
        with self.ledger.lock:
            now = self._advance()
            try:
                request = self._read(call, headers, body)
                self._authenticate(headers, now)
                return Answer(status=statuses.SUCCESS, data=self._act(request, now))
            except wire.Malformed:
                return Answer(status=statuses.PARAMETERS)
            except _Refused as refused:
                return Answer(status=refused.status)

    def add_foreign_binding(self, request: BindRequest) -> Entry:
        """Add a binding to the ledger without any rule except that of the middle numbers, and return it.

        Raises ValueError if the pool has no middle number available.
        """
        with self.ledger.lock:
            entry = self._accept(request, self._advance(), foreign=True)
        if entry is None:
            raise ValueError(statuses.meaning(statuses.NO_NUMBER))
        return entry

    def remove_binding(self, bind_id: int) -> Entry | None:
        """End a live binding without an unbind, and return it; None if no live binding has that id."""
        with self.ledger.lock:
            now = self._advance()
            entry = self.ledger.get(bind_id)
            if entry is None or entry.ended_at <= now:
                return None
            return self.ledger.end(entry, at=now, vanished=True)

    def list_as(self, bind_id: int, *, hidden: bool, replaced: Mapping[str, Any]) -> None:
        """Show a binding differently in the list: not at all, or with other values; neither: as it is.

        Raises ValueError for a name that a row does not have.
        """
        unknown = sorted(set(replaced) - set(wire.ROW_FIELDS))
        if unknown:
            raise ValueError(f"a row has no {', '.join(unknown)}; it has {', '.join(wire.ROW_FIELDS)}")
        with self.ledger.lock:
            self._replaced[bind_id] = dict(replaced)
            self._hidden = self._hidden | {bind_id} if hidden else self._hidden - {bind_id}

    def restore_binding(self, bind_id: int) -> Entry | None:
        """Take back the unbind or removal of a binding; None if no binding with that id has ended early."""
        with self.ledger.lock:
            now = self._advance()
            entry = self.ledger.get(bind_id)
            if entry is None or entry.unbound_at is None or entry.expires_at <= now:
                return None
            return self.ledger.restore(entry, at=now)

    def _advance(self) -> float:
        now = self.now()
        self.ledger.advance(now, lag_s=self.behaviour.release_lag_s)
        return now

    # The checks, in the provider's order.

    def _read(self, call: Call, headers: Mapping[str, str], body: bytes) -> ProviderRequest:
        kind, _, charset = headers.get(_CONTENT_TYPE, "").lower().partition(";")
        if kind.strip() != "application/json" or charset.strip() not in ("", "charset=utf-8"):
            raise _Refused(statuses.PARAMETERS)
        request = _READ[call](body)
        if not _within_bounds(request):
            raise _Refused(statuses.PARAMETERS)
        allowed = self._account.app_ids
        app_id = None if isinstance(request, wire.PoolsRequest) else request.app_id
        if allowed is not None and app_id is not None and app_id not in allowed:
            raise _Refused(statuses.PARAMETERS)
        return request

    def _authenticate(self, headers: Mapping[str, str], now: float) -> None:
        stamp = headers.get(_TIMESTAMP, "")
        if headers.get(_KEY) != self._account.api_key or not self._signed(headers, stamp):
            raise _Refused(statuses.ACCOUNT)
        if abs(now - int(stamp)) > self.behaviour.timestamp_tolerance_s:
            raise _Refused(statuses.CLOCK)
        if self.behaviour.account_status is not None:
            raise _Refused(self.behaviour.account_status)

    def _signed(self, headers: Mapping[str, str], stamp: str) -> bool:
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):  # noqa: PLR2004 -- no instant is longer
            return False
        account = self._account
        right = signing.signature(api_key=account.api_key, api_secret=account.api_secret, timestamp=int(stamp))
        return headers.get(_SIGN, "").lower() == right.lower()

    # What each call does.

    def _act(self, request: ProviderRequest, now: float) -> Any:
        match request:
            case BindRequest():
                return self._bind(request, now)
            case wire.UnbindRequest():
                return self._unbind(request, now)
            case wire.PageRequest():
                return self._page(request, now)
            case wire.PoolsRequest():
                return self._list_pools(request)
            case _:
                assert_never(request)

    def _bind(self, request: BindRequest, now: float) -> dict[str, Any]:
        if self._in_use(request.phone_a.digits) or self._in_use(request.phone_b.digits):
            raise _Refused(statuses.IN_USE)
        entry = self._accept(request, now, foreign=False)
        if entry is None:
            raise _Refused(statuses.NO_NUMBER)
        return wire.bound_data(
            bind_id=entry.bind_id,  # an integer, as sampled
            middle_number_a=entry.middle_number_a,
            middle_number_b=entry.middle_number_b,
        )

    def _in_use(self, phone: str) -> bool:
        """Return whether -35 applies to this phone: an AXB holds it, or under `strict` any binding."""
        strict = self.behaviour.policy is Policy.STRICT
        return any(strict or entry.mode is Mode.AXB for entry in self.ledger.holders(phone))

    def _accept(self, request: BindRequest, now: float, *, foreign: bool) -> Entry | None:
        phones = request.phone_a.digits, request.phone_b.digits
        self._pools[request.pool_number] = None
        picked = self.ledger.pick(
            middle_numbers(request.pool_number, self.behaviour.pool_size),
            mode=request.mode,
            phone_a=phones[0],
            phone_b=phones[1],
            max_concurrency=self.behaviour.max_concurrency,
        )
        if picked is None:
            return None
        return self.ledger.accept(
            app_id=request.app_id,
            pool_number=request.pool_number,
            mode=request.mode,
            phones=phones,
            middle_numbers=picked,
            accepted_at=now,
            expires_at=now + request.expire_s,
            foreign=foreign,
        )

    def _unbind(self, request: wire.UnbindRequest, now: float) -> None:
        is_number = request.bind_id.isascii() and request.bind_id.isdigit()
        entry = self.ledger.get(int(request.bind_id)) if is_number else None
        if entry is None or entry.app_id != request.app_id or entry.ended_at <= now:
            raise _Refused(statuses.NOT_FOUND)
        self.ledger.end(entry, at=now)

    def _page(self, request: wire.PageRequest, now: float) -> dict[str, Any]:
        rows = self._listed(request.app_id, now)
        size = min(request.size, self.behaviour.max_page_rows or request.size)
        first = (request.current - 1) * size
        data = wire.page_data(
            [self._row(entry) for entry in rows[first : first + size]],
            total=max(0, len(rows) + self.behaviour.total_offset),
            current=request.current,
            size=size,
        )
        return data | {wire.SIZE: ECHOED_SIZE}

    def _row(self, entry: Entry) -> dict[str, Any]:
        return wire.listed_row(
            _provider_binding(entry),
            zone=self._account.zone,
            form=self.behaviour.end_form,
            replaced=self._replaced.get(entry.bind_id),
        )

    def _listed(self, app_id: str | None, now: float) -> list[Entry]:
        entries = self._entries_at(now - self.behaviour.list_lag_s)
        rows = [entry for entry in entries if entry.bind_id not in self._hidden]
        if app_id is not None and not self.behaviour.list_all_apps:
            rows = [entry for entry in rows if entry.app_id == app_id]
        if self.behaviour.shuffle_pages:
            self._random.shuffle(rows)
        return rows

    def _entries_at(self, at: float) -> list[Entry]:
        """Return the entries that the list had at that instant."""
        if self.behaviour.list_expired:
            entries = [entry for entry in self.ledger.entries() if entry.accepted_at <= at]
            return [entry for entry in entries if entry.unbound_at is None or entry.unbound_at > at]
        if self.behaviour.list_lag_s == 0:
            return [entry for entry in self.ledger.held() if entry.ended_at > at]
        return list(self.ledger.live(at))

    def _list_pools(self, request: wire.PoolsRequest) -> dict[str, Any]:
        first = (request.current - 1) * request.size
        names = list(self._pools)[first : first + request.size]
        pools = [
            wire.Pool(
                pool_number=name,
                max_concurrency=self.behaviour.max_concurrency,
                numbers=middle_numbers(name, self.behaviour.pool_size),
            )
            for name in names
        ]
        return wire.pools_data(pools, total=len(self._pools), current=request.current, size=request.size)


@lru_cache(maxsize=1_024)
def middle_numbers(pool_number: str, size: int) -> tuple[str, ...]:
    """Return the middle numbers of a pool: its own digits and a count, ten digits in all if they fit.

    A pool whose name is not a number has the digits of a checksum of its name instead.
    """
    checksum = f"9{zlib.crc32(pool_number.encode()) % 100_000:05d}"
    prefix = pool_number if pool_number.isascii() and pool_number.isdigit() else checksum
    width = max(4, NUMBER_DIGITS - len(prefix))
    return tuple(f"{prefix}{FIRST_NUMBER + position:0{width}d}" for position in range(size))


_READ: dict[Call, Callable[[bytes], ProviderRequest]] = {
    Call.BIND: wire.read_bind,
    Call.UNBIND: wire.read_unbind,
    Call.PAGE: wire.read_page,
    Call.POOLS: wire.read_pools,
}


def _within_bounds(request: ProviderRequest) -> bool:
    match request:
        case BindRequest():
            return (
                len(request.phone_b.digits) >= MIN_DIGITS_B
                and request.phone_a != request.phone_b
                and _share_country_code(request)
                and len(request.pool_number) <= MAX_POOL_NUMBER_LENGTH
                and 1 <= request.expire_s <= MAX_EXPIRE_S
            )
        case wire.UnbindRequest():
            return True
        case wire.PageRequest() | wire.PoolsRequest():
            return request.current >= 1 and 1 <= request.size <= MAX_PAGE_SIZE
        case _:
            assert_never(request)


def _share_country_code(request: BindRequest) -> bool:
    """Return whether the phones have one country code, as far as both are international numbers."""
    codes = request.phone_a.country_code(), request.phone_b.country_code()
    return None in codes or codes[0] == codes[1]


def _provider_binding(entry: Entry) -> ProviderBinding:
    return ProviderBinding(
        bind_id=str(entry.bind_id),
        phone_a=Phone.stored(entry.phone_a),
        phone_b=Phone.stored(entry.phone_b),
        middle_number_a=entry.middle_number_a,
        middle_number_b=entry.middle_number_b,
        ends_at=datetime.fromtimestamp(entry.expires_at, UTC),
    )
