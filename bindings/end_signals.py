"""The signals that ask a process to end, on each system, and their handling for the duration of a block."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object]


def to_handle() -> list[signal.Signals]:
    """Return the signals by which a command that runs until a signal ends: SIGTERM, SIGINT (Ctrl-C) and SIGHUP.

    SIGHUP is what a terminal sends that closes: not on Windows, and not if the caller ignores it (nohup).
    """
    return [signal.SIGTERM, signal.SIGINT, *with_default_effect("SIGHUP")]


def with_default_effect(*names: str) -> list[signal.Signals]:
    """Return those of the named signals that this system has, and that are neither ignored nor handled."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]


@contextmanager
def handled(numbers: Sequence[signal.Signals], handler: Handler | None) -> Iterator[None]:
    """Handle the signals in the block, and as before after it, also if it raises. For the main thread only.

    Without a `handler` the first signal has no effect but to restore the former handling.
    """
    previous = {number: signal.getsignal(number) for number in numbers}

    def restore(*_: object) -> None:
        for number, former in previous.items():
            signal.signal(number, former)

    try:
        for number in numbers:
            signal.signal(number, handler or restore)
        yield
    finally:
        restore()
