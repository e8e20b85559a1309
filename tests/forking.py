"""Work in a forked child: its result or its error comes back to the test, and a child that hangs is killed."""

from __future__ import annotations

import os
import pickle
import select
import signal
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildResult:
    """What the work in a child returned, or the class and the text of its exception."""

    value: Any = None
    error: str | None = None
    message: str = ""


def fork_child(work: Callable[[], Any]) -> Callable[[], ChildResult]:
    """Start `work` in a child of this process and thread; return a function that waits for its result."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads at every fork
        process = os.fork()
    if process == 0:
        _run_and_exit(work, writing)
    os.close(writing)

    def wait() -> ChildResult:
        try:
            return _read_result(reading)
        finally:
            os.close(reading)
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)

    return wait


def run_in_child(work: Callable[[], Any]) -> ChildResult:
    """Return the result of `work` in a child of this process and thread."""
    return fork_child(work)()


def _run_and_exit(work: Callable[[], Any], writing: int) -> None:
    try:
        result = ChildResult(value=work())
    except BaseException as error:  # noqa: BLE001 -- the parent shows it
        result = ChildResult(error=type(error).__name__, message=str(error))
    with os.fdopen(writing, "wb") as pipe:
        pickle.dump(result, pipe)
    signal.pause()  # an exit here would run the exit functions of the tests; the parent ends this process


def _read_result(reading: int) -> ChildResult:
    received = b""
    while True:
        ready, _, _ = select.select([reading], [], [], LONGEST_S)
        if not ready:
            return ChildResult(error="TimeoutError", message="the child hangs")
        part = os.read(reading, 65_536)
        if not part:
            result: ChildResult = pickle.loads(received)
            return result
        received += part
