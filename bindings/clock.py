"""The clocks of this host: wall time, monotonic time and sleep, in one value that tests replace.

The database's clock decides when bindings end; this one measures durations and clock skew. The monotonic clock is
one that also counts while the host is suspended (CLOCK_BOOTTIME), where there is one: after a suspension a request
is too late to be sent, and what was sent before is not counted too early. Deadlines of statements do not belong
here: they always use `time.monotonic`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)
_MONOTONIC = time.monotonic if _BOOT_CLOCK is None else partial(time.clock_gettime, _BOOT_CLOCK)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostClock:
    """Functions that read the clocks of this host and sleep; all in seconds, `wall` since the Unix epoch."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = _MONOTONIC
    sleep: Callable[[float], object] = time.sleep


SYSTEM_CLOCK = HostClock()
MAX_SKEW_S = 60.0  # two clocks that differ by more are in doubt
