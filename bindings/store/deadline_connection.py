"""A PostgreSQL connection whose waits have a deadline: a server that never answers must not block a caller.

`statement_timeout` does not bound a COMMIT that waits for a synchronous standby, and a machine that is frozen
does not answer at all. Only the client can end such a wait, and only by dropping the connection: it is then in
doubt whether the work was committed. A wait that an operator cancels on the server reports success although no
standby has the commit, so that success is an error here. Nothing here knows SQLAlchemy; only `engine` uses this.
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

Response = TypeVar("Response")

_POLL_S = 0.1  # how late a wait may end
_NOT_REPLICATED = ("01000", "SyncRepWaitForLSN")  # the warning's state and C function: the same in every language


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection that is dropped in a wait when the monotonic clock passes `give_up_at`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.give_up_at = math.inf
        self._unreplicated: list[bool] = []
        self.add_notice_handler(partial(_note_unreplicated, self._unreplicated))

    def wait(self, gen: PQGen[Response], *args: Any, **kwargs: Any) -> Response:
        """Wait for the server's response, not past `give_up_at`.

        Raises `OperationalError` at the deadline, and if the server committed without waiting for a standby.
        """
        if self.give_up_at == math.inf:
            response = super().wait(gen, *args, **kwargs)
        else:
            response = super().wait(self._bounded(gen), _POLL_S)
        if self._unreplicated:
            self._drop()
            raise psycopg.OperationalError("committed on this server, but perhaps on no standby")
        return response

    def _bounded(self, gen: PQGen[Response]) -> Generator[Any, Any, Response]:
        try:
            waits_for = next(gen)
            while True:
                ready = yield waits_for
                if not ready and time.monotonic() >= self.give_up_at:
                    gen.close()
                    self._drop()
                    raise psycopg.OperationalError("the server did not answer in time")
                waits_for = gen.send(ready)
        except StopIteration as end:
            response: Response = end.value
            return response

    def _drop(self) -> None:
        self.pgconn.finish()  # never a cancel request: see the head of this module


def _note_unreplicated(unreplicated: list[bool], warning: psycopg.errors.Diagnostic) -> None:
    if (warning.sqlstate, warning.source_function) == _NOT_REPLICATED:
        unreplicated.append(True)
