"""What fails again and again is one line for each cause, then one a minute with a count."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from bindings.errors import Busy
from bindings.jobs.failure_log import MAX_CAUSES, REPEAT_S, FailureLog

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger("test.failures")
PHONE = "9188067701"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> FailureLog:
    return FailureLog(LOG, monotonic=clock)


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:  # noqa: BLE001 -- any error may be logged
        return error
    raise AssertionError("nothing was raised")


def test_cause_of_many_failures_is_one_line_then_a_count_each_minute(
    failures: FailureLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(150):
        clock.now = float(second)
        failures.failed("expire", Busy("the database is away"))
        failures.failed("warn", Busy("the database is away"))
    assert caplog.messages == [
        "expire: failed and is tried again: the database is away",
        f"again in the last {REPEAT_S:.0f} s: the database is away: expire 60, warn 60",
        f"again in the last {REPEAT_S:.0f} s: the database is away: expire 60, warn 60",
    ]


def test_line_says_when_the_last_of_them_works_again(
    failures: FailureLog, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("expire", "warn", "expire"):
        failures.failed(name, Busy("the database is away"))
    failures.succeeded("expire")
    failures.succeeded("tally")
    assert len(caplog.messages) == 1
    failures.succeeded("warn")
    assert caplog.messages[1:] == ["warn: works again after: the database is away (2 more times)"]
    failures.failed("warn", Busy("the database is away"))
    assert len(caplog.messages) == 3


def test_unknown_error_brings_its_traceback_once_and_never_its_text(
    failures: FailureLog, caplog: pytest.LogCaptureFixture
) -> None:
    error = raised(lambda: int(f"x{PHONE}"))
    for _ in range(20):
        failures.failed("expire", error)
    assert len(caplog.messages) == 1
    assert "ValueError at test_failure_log.py:" in caplog.text
    assert caplog.text.count("in raised") == 1
    assert PHONE not in caplog.text


def test_causes_of_receivers_are_apart(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(LOG, by_subject=True, monotonic=clock)
    for _ in range(5):
        failures.failed("webhook 1", "the receiver answered 500")
        failures.failed("webhook 2", "the receiver answered 500")
    assert len(caplog.messages) == 2
    failures.succeeded("webhook 1")
    assert caplog.messages[2:] == ["webhook 1: works again after: the receiver answered 500 (4 more times)"]


def test_oldest_cause_is_forgotten_first(failures: FailureLog, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(MAX_CAUSES + 1):
        failures.failed("expire", f"cause {number}")
    caplog.clear()
    failures.failed("expire", "cause 1")
    assert caplog.messages == []
    failures.failed("expire", "cause 0")
    assert len(caplog.messages) == 1
