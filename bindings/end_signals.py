"""The signals that ask a process to end, on each system, and their handling for the duration of a block."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object]


def of_running_commands() -> list[signal.Signals]:
    """Return the signals that end a command that runs until then: SIGTERM, SIGINT (Ctrl-C) and SIGHUP.

    A terminal that closes sends SIGHUP. It is left out on Windows, and if the caller ignores it (nohup).
    """
    return [signal.SIGTERM, signal.SIGINT, *with_default_effect("SIGHUP")]


def with_default_effect(*names: str) -> list[signal.Signals]:
    """Return those of the named signals that this system has, and that are neither ignored nor handled."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]


@contextmanager
def handle(numbers: Sequence[signal.Signals], handler: Handler | None) -> Iterator[None]:
    """Handle the signals in the block, and restore the former handling after it. For the main thread only.

    Without a `handler` the first signal restores the former handling, and has no other effect. A signal that the
    host program handles in C is left to it, because Python could not restore that handling.
    """
    handlers = {number: signal.getsignal(number) for number in numbers}
    previous = {number: former for number, former in handlers.items() if former is not None}

    def restore(*_: object) -> None:
        for number, former in previous.items():
            signal.signal(number, former)

    try:
        for number in previous:
            signal.signal(number, handler or restore)
        yield
    finally:
        restore()
