"""Work in a forked child: its result or its error comes back to the test, and a child that hangs is killed."""

from __future__ import annotations

import os
import pickle
import select
import signal
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bindings.fork_safety import ForkedProcessError

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildResult:
    """What the work in a child returned, or the class and the text of its exception."""

    value: Any = None
    error: type[BaseException] | None = None
    message: str = ""

    @property
    def is_refusal(self) -> bool:
        """Return whether the work was refused because of the fork, with a text that says so."""
        return self.error is not None and issubclass(self.error, ForkedProcessError) and "forked" in self.message


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
        result = ChildResult(error=type(error), message=str(error))
    pickled = pickle.dumps(result)
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(len(pickled).to_bytes(8) + pickled)
    signal.pause()  # an exit here would run the exit functions of the tests; the parent ends this process


def _read_result(reading: int) -> ChildResult:
    received = b""
    # Not to the end of the pipe: another child may have been forked with its other end open.
    while len(received) < 8 or len(received) < 8 + int.from_bytes(received[:8]):
        ready, _, _ = select.select([reading], [], [], LONGEST_S)
        part = os.read(reading, 65_536) if ready else b""
        if not part:
            return ChildResult(error=TimeoutError, message="the child hangs, or has died")
        received += part
    result: ChildResult = pickle.loads(received[8:])
    return result
