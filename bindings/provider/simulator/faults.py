"""The faults that can be scripted, how they are written on a command line, and when one strikes.

What a fault does to a connection is in `server`; here is only which one, how often and on which call. No
HTTP and no rules.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Call(StrEnum):
    """The provider's calls that the simulator knows."""

    BIND = "bind"
    UNBIND = "unbind"
    PAGE = "page"
    POOLS = "pools"


class FaultKind(StrEnum):
    """What can go wrong. "acts": the provider has done what was asked when it goes wrong."""

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
    GARBAGE = "garbage"  # acts, answers 200 with what is not JSON
    CUT_BODY = "cut_body"  # acts, closes in the middle of the body
    REDIRECT = "redirect"  # 302 to another path, without acting
    TRUNCATED = "truncated"  # acts, answers its status without the data
    REFUSE = "refuse"  # answers `status` without acting

    @property
    def acts(self) -> bool:
        """Whether the provider does what was asked."""
        return self not in _WITHOUT_ACTING


_WITHOUT_ACTING = frozenset(
    {
        FaultKind.RESET_BEFORE,
        FaultKind.ANOMALY_BEFORE,
        FaultKind.BAD_GATEWAY,
        FaultKind.REDIRECT,
        FaultKind.REFUSE,
    }
)
_ALIASES = {
    "502": FaultKind.BAD_GATEWAY,
    "502_after": FaultKind.BAD_GATEWAY_AFTER,
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
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A fault to script: at a `rate` (0..1) or for the next `times` calls, exactly one of the two.

    `on` limits it to one call. `seconds` is the pause of a delay, or the pause between two bytes of a drip
    (None: 1 s and 0.5 s). `status` is what `refuse` answers. Raises ValueError for anything else.
    """

    kind: FaultKind
    rate: float | None = None
    times: int | None = None
    on: Call | None = None
    seconds: float | None = None
    status: str | None = None

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.times is None):
            raise ValueError("a fault takes either a rate or a number of times")
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise ValueError("a rate lies between 0 and 1")
        if self.times is not None and self.times < 1:
            raise ValueError("a fault strikes at least once")
        if self.seconds is not None and not 0 <= self.seconds <= 3_600:  # noqa: PLR2004 -- also refuses NaN
            raise ValueError("the seconds lie between 0 and 3600")
        if (self.kind is FaultKind.REFUSE) != (self.status is not None):
            raise ValueError("refuse, and nothing else, takes a status: refuse:-35")

    @property
    def pause_s(self) -> float:
        """Seconds that one pause of this fault lasts."""
        return _DEFAULT_SECONDS.get(self.kind, 0.0) if self.seconds is None else self.seconds


def fault(
    kind: str,
    *,
    rate: float | None = None,
    times: int | None = None,
    on: str | None = None,
    seconds: float | None = None,
) -> Fault:
    """Make a fault from a kind as people write it: `lost-reply`, `502`, `refuse:-35`, `delay:2.5`.

    What follows the colon is the status of `refuse` and the seconds of every other kind. Raises ValueError
    whose text lists the kinds.
    """
    name, _, parameter = kind.strip().partition(":")
    found = _kind(name)
    status = None
    if found is FaultKind.REFUSE:
        status = parameter or None
    elif parameter:
        seconds = _number(parameter, "the seconds after the colon")
    return Fault(
        kind=found,
        rate=rate,
        times=times,
        on=None if on is None else _call(on),
        seconds=seconds,
        status=status,
    )


def parse_fault(text: str) -> Fault:
    """Read `KIND=RATE` from a command line; also `KIND@CALL=RATE`, `refuse:-35=0.1` and `delay:2.5=1`.

    Raises ValueError whose text lists the kinds.
    """
    left, equals, rate = text.partition("=")
    if not equals:
        raise ValueError(f"write KIND=RATE, for example lost_reply=0.1; {_kinds()}")
    kind, at, call = left.partition("@")
    return fault(kind, rate=_number(rate, "the rate"), on=call if at else None)


class FaultScript:
    """Which fault strikes the next call. Thread-safe; the dice are seeded, so a run can be repeated."""

    def __init__(self, *, seed: int) -> None:
        self._lock = threading.Lock()
        self._dice = random.Random(seed)  # noqa: S311 -- repeatable on purpose
        self._script: list[tuple[Fault, int | None]] = []
        self._fired: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        """Script one more fault; where several fit a call, the one scripted first is asked first."""
        with self._lock:
            self._script.append((fault, fault.times))

    def clear(self) -> None:
        """Script nothing any more; what has struck stays counted."""
        with self._lock:
            self._script.clear()

    def scripted(self) -> tuple[Fault, ...]:
        """The faults that may still strike."""
        with self._lock:
            return tuple(fault for fault, _ in self._script)

    def fired(self) -> dict[str, int]:
        """How often each kind has struck."""
        with self._lock:
            return dict(self._fired)

    def next_fault(self, call: Call) -> Fault | None:
        """Say which fault strikes this call, if any, and count it."""
        with self._lock:
            for position, (fault, left) in enumerate(self._script):
                if fault.on not in (None, call) or not self._is_due(fault):
                    continue
                if left is not None:
                    self._use_up(position, fault, left)
                self._fired[fault.kind.value] += 1
                return fault
            return None

    def _is_due(self, fault: Fault) -> bool:
        return fault.rate is None or self._dice.random() < fault.rate

    def _use_up(self, position: int, fault: Fault, left: int) -> None:
        if left == 1:
            del self._script[position]
        else:
            self._script[position] = (fault, left - 1)


def _kind(name: str) -> FaultKind:
    plain = name.strip().lower().replace("-", "_")
    if plain in _ALIASES:
        return _ALIASES[plain]
    try:
        return FaultKind(plain)
    except ValueError:
        raise ValueError(f"{name!r} is no kind of fault; {_kinds()}") from None


def _kinds() -> str:
    return "the kinds are " + ", ".join(kind.value for kind in FaultKind)


def _call(name: str) -> Call:
    try:
        return Call(name)
    except ValueError:
        raise ValueError(f"{name!r} is no call; the calls are " + ", ".join(Call)) from None


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} must be a number; {_kinds()}") from None
