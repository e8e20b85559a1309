"""The two lanes of a webhook sender: receivers that answer in time never wait for those that do not.

Each webhook with work gets a worker of its own, and each lane has a fixed number of places. A worker that waits
longer than `PROMPT_S` for a receiver moves to the slow lane and frees its place in the fast one. From then on its
webhook starts in the slow lane, until the receiver has answered in time again. Each process knows what a receiver
has done since its start; one that it does not know yet gets only some of the places of the fast lane.

What a worker does is decided in `sender`.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PROMPT_S = 1.0  # a receiver that needs longer for an answer is slow
FAST_WORKERS = 8
NEW_WORKERS = 6  # of them, for receivers that are not known yet
SLOW_WORKERS = 32

Result = TypeVar("Result")


class Pace(Enum):
    """How a receiver answered last."""

    NEW = "not known yet"
    PROMPT = "within PROMPT_S"
    SLOW = "later"
    SILENT = "not within the time of an attempt"

    @property
    def is_slow(self) -> bool:
        """Return whether the receiver belongs to the slow lane."""
        return self in (Pace.SLOW, Pace.SILENT)


class Lanes(Generic[Result]):
    """Runs `work(webhook_id)` for each webhook that is offered, at most once at a time. Thread-safe."""

    def __init__(self, work: Callable[[str], Result]) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(FAST_WORKERS + SLOW_WORKERS, thread_name_prefix="bindings-deliver")
        self._changed = threading.Condition()
        self._waiting: dict[str, None] = {}  # in the order in which they were offered
        self._fast: set[str] = set()  # running
        self._slow: set[str] = set()  # running
        self._paces: dict[str, Pace] = {}
        self._ended: list[tuple[str, Result | Exception]] = []
        self._stopped = False

    def offer(self, webhook_ids: Iterable[str]) -> None:
        """Start a worker for each webhook that has none, now or as soon as there is a place in its lane."""
        with self._changed:
            if self._stopped:
                return
            for webhook_id in webhook_ids:
                if webhook_id not in self._fast and webhook_id not in self._slow:
                    self._waiting.setdefault(webhook_id)
            self._start_waiting()

    def pace(self, webhook_id: str) -> Pace:
        """Return how the receiver answered last."""
        return self._paces.get(webhook_id, Pace.NEW)

    def record(self, webhook_id: str, pace: Pace) -> None:
        """Note how a receiver answers; one that is slow moves to the slow lane if that has a place."""
        with self._changed:
            self._paces[webhook_id] = pace
            self._start_waiting()

    def wait(self, timeout_s: float | None) -> None:
        """Wait until no webhook waits or runs, at most `timeout_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._fast or self._slow), timeout_s)

    def take_ended(self) -> list[tuple[str, Result | Exception]]:
        """Return what the workers that have ended returned or raised, each once."""
        with self._changed:
            ended, self._ended = self._ended, []
            return ended

    def stop(self) -> None:
        """Start no worker from now on, also for what is offered afterwards, and wait for those that run."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
        self._pool.shutdown(wait=True)

    def _start_waiting(self) -> None:
        """Start what there is a place for; with the lock held."""
        for webhook_id in [running for running in self._fast if self.pace(running).is_slow]:
            if len(self._slow) < SLOW_WORKERS:
                self._fast.remove(webhook_id)
                self._slow.add(webhook_id)
        # Receivers that are known to answer first: a new one may turn out not to.
        for webhook_id in sorted(self._waiting, key=lambda waiting: self.pace(waiting) is not Pace.PROMPT):
            lane = self._lane_with_place(webhook_id)
            if lane is not None:
                del self._waiting[webhook_id]
                lane.add(webhook_id)
                self._pool.submit(self._run, webhook_id)

    def _lane_with_place(self, webhook_id: str) -> set[str] | None:
        """Return the lane in which a worker may start, or None if it must wait."""
        pace = self.pace(webhook_id)
        if pace.is_slow:
            return self._slow if len(self._slow) < SLOW_WORKERS else None
        unproven = sum(self.pace(running) is not Pace.PROMPT for running in self._fast)
        is_full = len(self._fast) >= FAST_WORKERS or (pace is Pace.NEW and unproven >= NEW_WORKERS)
        return None if is_full else self._fast

    def _run(self, webhook_id: str) -> None:
        ended: Result | Exception
        try:
            ended = self._work(webhook_id)
        except Exception as error:  # noqa: BLE001 -- handed to `take_ended`
            ended = error
        with self._changed:
            self._fast.discard(webhook_id)
            self._slow.discard(webhook_id)
            self._ended.append((webhook_id, ended))
            self._start_waiting()
            self._changed.notify_all()
