"""The clocks of this host: wall time, monotonic time and sleep, in one value that tests replace.

The database's clock decides when bindings end; this one measures durations and clock skew. Deadlines of sockets
and statements do not belong here: they always use the real monotonic clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True, slots=True)
class HostClock:
    """Functions that read the clocks of this host and sleep; all in seconds, `wall` since the Unix epoch."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep


SYSTEM_CLOCK = HostClock()
