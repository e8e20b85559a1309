"""A PostgreSQL connection that stops waiting: what the server never answers must not hold a caller for ever.

`statement_timeout` does not bound a COMMIT that waits for a synchronous standby, and a machine that is frozen
answers nothing at all. Only the client can end such a wait, and only by dropping the connection: whether the
work was committed is then in doubt. A wait that is cancelled instead reports success for what no standby has,
so that report is not believed either. Nothing here knows SQLAlchemy; only `engine` uses this.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Generator

    from psycopg.abc import PQGen

Answer = TypeVar("Answer")

_POLL_S = 0.1  # how late a wait may end
_NOT_REPLICATED = ("01000", "SyncRepWaitForLSN")  # the warning's state, and who gives it, in any language


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection whose waits end, by dropping it, once the monotonic clock has passed `give_up_at`."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.give_up_at = math.inf
        self._unreplicated: list[bool] = []
        self.add_notice_handler(partial(_note_unreplicated, self._unreplicated))

    def wait(self, gen: PQGen[Answer], *given: Any, **named: Any) -> Answer:
        """Wait for the server's answer, not longer than `give_up_at`.

        Raises where the answer is that the server stopped waiting for a standby, and committed alone.
        """
        if self.give_up_at == math.inf:
            answer = super().wait(gen, *given, **named)
        else:
            answer = super().wait(self._bounded(gen), _POLL_S)
        if self._unreplicated:
            self._drop()
            raise psycopg.OperationalError("committed here, but perhaps on no standby")
        return answer

    def _bounded(self, gen: PQGen[Answer]) -> Generator[Any, Any, Answer]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() >= self.give_up_at:
                    gen.close()
                    self._drop()
                    raise psycopg.OperationalError("the server did not answer in time")
                wanted = gen.send(ready)
        except StopIteration as end:
            answer: Answer = end.value
            return answer

    def _drop(self) -> None:
        self.pgconn.finish()  # never a cancel request, see above


def _note_unreplicated(found: list[bool], warning: psycopg.errors.Diagnostic) -> None:
    if (warning.sqlstate, warning.source_function) == _NOT_REPLICATED:
        found.append(True)
