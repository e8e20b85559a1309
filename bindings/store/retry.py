"""Try again what may pass, within a budget; what will not is raised immediately, with its cause."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import exc

from bindings.store.failures import ConstraintViolated, DatabaseWaitTimeout, constraint_of, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL

Result = TypeVar("Result")

FIRST_WAIT_S = 0.02
LONGEST_WAIT_S = 0.5


def with_retry(run: Callable[[int], Result], *, ends_at: float, url: URL) -> Result:
    """Return `run(attempt)`, with `attempt` from 1; one that fails for a cause that may pass is run again.

    No attempt begins after `ends_at` (monotonic clock). Between attempts it waits, with jitter, so that callers do
    not return in step. Raises `Busy` with the cause, or `ConstraintViolated`.
    """
    attempt = 1
    while True:
        try:
            return run(attempt)
        except exc.IntegrityError as error:
            raise ConstraintViolated(constraint_of(error)) from error
        except (exc.DBAPIError, DatabaseWaitTimeout) as error:
            failure = explain(error, url)
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt, 10)) * _jitter()
            if not failure.may_pass or time.monotonic() + wait_s >= ends_at:
                raise failure.error() from error
        time.sleep(wait_s)
        attempt += 1


def _jitter() -> float:
    return random.uniform(0.5, 1)  # noqa: S311 -- not for security
