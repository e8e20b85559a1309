"""An exception of a signal handler at any edge of a block leaves no lock of the connections held."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from bindings.store.connection_limit import ConnectionLimit
from bindings.store.fork_gate import ForkGate
from tests.service.harness import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


def _limit() -> Any:
    return ConnectionLimit(1)


def _gate() -> Any:
    return ForkGate(lambda: None)


USES: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "limit.count": (_limit, lambda limit: limit.count),
    "limit.acquire": (_limit, lambda limit: limit.acquire(0.0)),
    "limit.close": (_limit, lambda limit: limit.close()),
    "gate.enter": (_gate, lambda gate: gate.enter()),
    "gate.leave": (_gate, lambda gate: gate.leave(threading.get_ident())),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("edge", ["__enter__", "__exit__"])
def test_interrupt_at_the_edge_of_a_block_leaves_no_lock_held(use: str, edge: str) -> None:
    make, call = USES[use]
    made = make()
    with _interrupted_at(edge), suppress(KeyboardInterrupt):
        call(made)

    def take_and_release() -> None:
        assert made._lock.acquire(blocking=False)
        made._lock.release()

    assert in_threads(take_and_release) == []


@contextmanager
def _interrupted_at(edge: str) -> Iterator[None]:
    """Raise where the interpreter may call a signal handler: with a lock just taken, or not released yet."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_filename != threading.__file__ or code.co_name != edge:
            return None
        if event == ("return" if edge == "__enter__" else "call"):
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
