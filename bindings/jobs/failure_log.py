"""Log lines about what fails again and again: one for each cause, then one a minute with a count.

A job that meets a database that is away fails once a second, and so do the others beside it. A known cause (an
error of `bindings.errors`) is one line; an unknown one brings its traceback, once. No line has the text of another
program's exception, because that may contain a value.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bindings.errors import BindingsError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

REPEAT_S = 60.0
MAX_CAUSES = 100  # the oldest is forgotten


@dataclass(slots=True)
class _Failures:
    """What one cause has done since its last line; `failing` are the subjects that have not succeeded since."""

    logged_at: float
    not_logged: Counter[str] = field(default_factory=Counter)
    failing: set[str] = field(default_factory=set)


class FailureLog:
    """Writes the lines of one scheduler or sender to `log`. Thread-safe.

    With `by_subject` the same cause is another one for each subject: receivers of webhooks fail for themselves.
    """

    def __init__(
        self,
        log: logging.Logger,
        *,
        by_subject: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._by_subject = by_subject
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._causes: dict[tuple[str, str], _Failures] = {}

    def failed(self, subject: str, error: BaseException | str) -> None:
        """Record that `subject` (a job, a webhook) failed, with an error or with a cause in words."""
        cause = error if isinstance(error, str) else _cause_of(error)
        key = (subject if self._by_subject else "", cause)
        with self._lock:
            failures = self._causes.get(key)
            if failures is None:
                self._forget_oldest()
                self._causes[key] = _Failures(logged_at=self._monotonic(), failing={subject})
                frames = "" if isinstance(error, BindingsError | str) else f"\n{_frames_of(error)}"
                self._log.error("%s: failed and is tried again: %s%s", subject, cause, frames)
                return
            failures.failing.add(subject)
            failures.not_logged[subject] += 1
            now = self._monotonic()
            if now - failures.logged_at >= REPEAT_S:
                counts = ", ".join(f"{name} {count}" for name, count in sorted(failures.not_logged.items()))
                self._log.error("again in the last %.0f s: %s: %s", now - failures.logged_at, cause, counts)
                failures.logged_at = now
                failures.not_logged.clear()

    def succeeded(self, subject: str) -> None:
        """Record that `subject` works; a cause from which all have recovered is forgotten, with a line."""
        if not self._causes:  # the usual case, without the lock
            return
        with self._lock:
            for key, failures in list(self._causes.items()):
                if subject not in failures.failing:
                    continue
                failures.failing.discard(subject)
                if not failures.failing:
                    del self._causes[key]
                    more = failures.not_logged.total()
                    self._log.warning("%s: works again after: %s (%d more times)", subject, key[1], more)

    def _forget_oldest(self) -> None:
        if len(self._causes) >= MAX_CAUSES:
            del self._causes[next(iter(self._causes))]


def _cause_of(error: BaseException) -> str:
    if isinstance(error, BindingsError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _frames_of(error: BaseException) -> str:
    """Return where the error was raised, without any text of an exception or of a line of code."""
    frames = traceback.extract_tb(error.__traceback__)
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
