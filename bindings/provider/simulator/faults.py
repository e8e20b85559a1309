"""Fault injection: the kinds of faults, how they are written on a command line, and which call gets one.

The effect of a fault on a response is in `replies`, that on a connection in `server`. No HTTP and no rules here.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Call(StrEnum):
    """The provider's calls that the simulator supports."""

    BIND = "bind"
    UNBIND = "unbind"
    PAGE = "page"
    POOLS = "pools"


class FaultKind(StrEnum):
    """The kinds of faults. "acts": the provider carries out the request before the fault."""

    LOST_REPLY = "lost_reply"  # acts, then closes without a byte
    RESET_BEFORE = "reset_before"  # resets the connection without acting
    RESET_AFTER = "reset_after"  # acts, then resets
    DELAY = "delay"  # acts, answers `seconds` later
    DELAY_BEFORE = "delay_before"  # acts `seconds` later, then answers
    DRIP_HEADERS = "drip_headers"  # acts, sends the whole answer a byte per `seconds`
    DRIP_BODY = "drip_body"  # acts, sends the body a byte per `seconds`
    ANOMALY_BEFORE = "anomaly_before"  # -18 without acting
    ANOMALY_AFTER = "anomaly_after"  # -18 although it acted
    BAD_GATEWAY = "bad_gateway"  # 502 with HTML, without acting
    BAD_GATEWAY_AFTER = "bad_gateway_after"  # 502 with HTML although it acted
    GARBAGE = "garbage"  # acts, answers 200 with a body that is not JSON
    CUT_BODY = "cut_body"  # acts, closes in the middle of the body
    REDIRECT = "redirect"  # 302 to another path, without acting
    RATE_LIMIT = "rate_limit"  # 429 with HTML and `seconds` to wait, without acting
    TRUNCATED = "truncated"  # acts, answers its status without the data
    WRONG_TOTAL = "wrong_total"  # acts; the list's total is a million
    REFUSE = "refuse"  # answers `status` without acting

    @property
    def acts(self) -> bool:
        """Return whether the provider carries out the request."""
        return self not in _WITHOUT_ACTING


_WITHOUT_ACTING = frozenset(
    {
        FaultKind.RESET_BEFORE,
        FaultKind.ANOMALY_BEFORE,
        FaultKind.BAD_GATEWAY,
        FaultKind.REDIRECT,
        FaultKind.RATE_LIMIT,
        FaultKind.REFUSE,
    }
)
_ALIASES = {
    "502": FaultKind.BAD_GATEWAY,
    "502_after": FaultKind.BAD_GATEWAY_AFTER,
    "429": FaultKind.RATE_LIMIT,
    "drip": FaultKind.DRIP_BODY,
    "_18": FaultKind.ANOMALY_AFTER,
    "_18_before": FaultKind.ANOMALY_BEFORE,
    "_18_after": FaultKind.ANOMALY_AFTER,
}
_DEFAULT_SECONDS = {
    FaultKind.DELAY: 1.0,
    FaultKind.DELAY_BEFORE: 1.0,
    FaultKind.DRIP_HEADERS: 0.5,
    FaultKind.DRIP_BODY: 0.5,
    FaultKind.RATE_LIMIT: 1.0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A fault to inject: at a `rate` (0..1) or into the next `times` calls, exactly one of the two.

    `on` limits it to one kind of call. `seconds` is the pause of a delay, the pause between two bytes of a drip,
    or the time to wait of a rate limit (None: 1 s, 0.5 s and 1 s). `status` is the status of `refuse`. Raises
    ValueError for wrong values.
    """

    kind: FaultKind
    rate: float | None = None
    times: int | None = None
    on: Call | None = None
    seconds: float | None = None
    status: str | None = None

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.times is None):
            raise ValueError("a fault needs either a rate or a number of times")
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise ValueError("a rate must be between 0 and 1")
        if self.times is not None and self.times < 1:
            raise ValueError("times must be at least 1")
        if self.seconds is not None and not 0 <= self.seconds <= 3_600:  # noqa: PLR2004 -- also refuses NaN
            raise ValueError("seconds must be between 0 and 3600")
        if (self.kind is FaultKind.REFUSE) != (self.status is not None):
            raise ValueError("refuse needs a status, and no other kind has one: refuse:-35")

    @property
    def pause_s(self) -> float:
        """Return the duration of one pause of this fault, in seconds."""
        return _DEFAULT_SECONDS.get(self.kind, 0.0) if self.seconds is None else self.seconds


def fault(
    kind: str,
    *,
    rate: float | None = None,
    times: int | None = None,
    on: str | None = None,
    seconds: float | None = None,
) -> Fault:
    """Return the fault of a kind as written by hand: `lost-reply`, `502`, `refuse:-35`, `delay:2.5`.

    After the colon is the status of `refuse`, or the seconds of any other kind. Raises ValueError whose text lists
    the kinds.
    """
    name, _, parameter = kind.strip().partition(":")
    fault_kind = _kind(name)
    status = None
    if fault_kind is FaultKind.REFUSE:
        status = parameter or None
    elif parameter:
        seconds = _number(parameter, "the seconds after the colon")
    return Fault(
        kind=fault_kind,
        rate=rate,
        times=times,
        on=None if on is None else _call(on),
        seconds=seconds,
        status=status,
    )


def parse_fault(text: str) -> Fault:
    """Parse `KIND=RATE` from a command line; also `KIND@CALL=RATE`, `refuse:-35=0.1` and `delay:2.5=1`.

    Raises ValueError whose text lists the kinds.
    """
    left, equals, rate = text.partition("=")
    if not equals:
        raise ValueError(f"write KIND=RATE, for example lost_reply=0.1; {_kinds()}")
    kind, at, call = left.partition("@")
    return fault(kind, rate=_number(rate, "the rate"), on=call if at else None)


class FaultScript:
    """Chooses the fault of each call. Thread-safe; the random numbers are seeded, so runs can be repeated."""

    def __init__(self, *, seed: int) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 -- repeatable on purpose
        self._script: list[tuple[Fault, int | None]] = []
        self._fired: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        """Add a fault. If several apply to a call, the one that was added first has precedence."""
        with self._lock:
            self._script.append((fault, fault.times))

    def clear(self) -> None:
        """Remove all faults; the counts stay."""
        with self._lock:
            self._script.clear()

    def scripted(self) -> tuple[Fault, ...]:
        """Return the faults that can still be injected."""
        with self._lock:
            return tuple(fault for fault, _ in self._script)

    def fired(self) -> dict[str, int]:
        """Return how often each kind was injected."""
        with self._lock:
            return dict(self._fired)

    def next_fault(self, call: Call) -> Fault | None:
        """Return the fault to inject into this call, or None, and count it."""
        with self._lock:
            for position, (fault, remaining) in enumerate(self._script):
                if fault.on not in (None, call) or not self._is_due(fault):
                    continue
                if remaining is not None:
                    self._decrement(position, fault, remaining)
                self._fired[fault.kind.value] += 1
                return fault
            return None

    def _is_due(self, fault: Fault) -> bool:
        return fault.rate is None or self._random.random() < fault.rate

    def _decrement(self, position: int, fault: Fault, remaining: int) -> None:
        if remaining == 1:
            del self._script[position]
        else:
            self._script[position] = (fault, remaining - 1)


def _kind(name: str) -> FaultKind:
    normalised = name.strip().lower().replace("-", "_")
    if normalised in _ALIASES:
        return _ALIASES[normalised]
    try:
        return FaultKind(normalised)
    except ValueError:
        raise ValueError(f"{name!r} is not a kind of fault; {_kinds()}") from None


def _kinds() -> str:
    return "the kinds are " + ", ".join(kind.value for kind in FaultKind)


def _call(name: str) -> Call:
    try:
        return Call(name)
    except ValueError:
        raise ValueError(f"{name!r} is not a call; the calls are " + ", ".join(Call)) from None


def _number(text: str, label: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{label} must be a number; {_kinds()}") from None
