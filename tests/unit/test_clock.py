"""The clocks of the host."""

from __future__ import annotations

import time

import pytest

from bindings.clock import SYSTEM_CLOCK


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts suspension")
def test_monotonic_clock_counts_the_time_of_a_suspension() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    reading = SYSTEM_CLOCK.monotonic()
    assert before <= reading <= time.clock_gettime(time.CLOCK_BOOTTIME)
