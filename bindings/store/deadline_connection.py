"""A PostgreSQL connection whose waits have a deadline: a server that never answers must not block a caller.

`statement_timeout` does not bound a COMMIT that waits for a synchronous standby, and a machine that is frozen
does not answer at all. Only the client can end such a wait, and only by dropping the connection: it is then in
doubt whether the work was committed. A wait that an operator cancels on the server reports success although no
standby has the commit, so that success is an error here.

A statement inside an open transaction is cancelled at the server first, so that it does not wait on there; so is a
read. A COMMIT or a change in AUTOCOMMIT never is: a cancelled wait for a standby would commit it on this server
alone. Its connection counts (`connection_limit`) until the server has closed it. What a connection returns after a
cancel is not read. Nothing here knows SQLAlchemy; only `engine` uses this.
"""

from __future__ import annotations

import itertools
import math
import select
import selectors
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import psycopg
from psycopg import capabilities, waiting
from psycopg.pq import TransactionStatus

from bindings.fork_safety import ProcessMark

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psycopg.abc import PQGen, Transformer

    from bindings.store.connection_limit import ConnectionLimit

Params = ParamSpec("Params")
Response = TypeVar("Response")

_POLL_S = 0.1  # how late a wait may end
_LATE_S = 1.0  # how long a server may go on sending then: a response, or notices without an end
_CANCEL_S = 1.0  # how long the server may take to end a cancelled statement
_REPEAT_CANCEL_S = 0.05
_NO_ANSWER = "the server did not answer in time"
_NOT_REPLICATED = ("01000", "SyncRepWaitForLSN")  # the warning's state and C function: the same in every language


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection that is dropped in a wait when the monotonic clock passes `give_up_at`."""

    limit: ConnectionLimit | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.give_up_at = math.inf
        self._late_since = math.inf  # since when the server goes on sending after `give_up_at`
        self.only_reads = False
        self.prepared: dict[Any, bytes] = {}  # names of statements at the server, and the transformer: `prepared`
        # No number is used again: after an interrupt the server may have a statement that has no entry above.
        self.statement_numbers = itertools.count()
        self.transformer: Transformer | None = None
        self._poll = _new_poll(self.pgconn.socket)
        self._process = ProcessMark()
        self._committing = False
        self._unreplicated: list[bool] = []
        self.add_notice_handler(partial(_note_unreplicated, self._unreplicated))

    def wait(self, gen: PQGen[Response], *_args: Any, **_kwargs: Any) -> Response:
        """Wait for what a generator of the driver waits for, as `run` does."""
        return self.run(self._wait, gen)

    def run(self, exchange: Callable[Params, Response], *args: Params.args, **kwargs: Params.kwargs) -> Response:
        """Return `exchange(*args, **kwargs)`, which sends to the server and waits for its response.

        Its waits are `receive`, which do not go past `give_up_at`. Raises `OperationalError` at the deadline, and
        if the server committed without waiting for a standby. After any exception that ends the wait early, a
        signal's too, the connection is closed. `ForkedProcessError` in a child of the process that connected:
        nothing is sent then.
        """
        self._process.check("this connection to the database", "begin again what used it, in this process")
        self._late_since = math.inf
        try:
            response = exchange(*args, **kwargs)
        except BaseException:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # the response was not read
                self._give_up()
            raise
        if self._unreplicated:
            self.close()
            raise psycopg.OperationalError("committed on this server, but perhaps on no standby")
        return response

    def receive(self) -> None:
        """Wait until the server has sent something, and receive it; `OperationalError` at `give_up_at`."""
        while not self._is_readable():
            self._check_time(is_sent=False)
        self._check_time(is_sent=True)
        self.pgconn.consume_input()

    def _check_time(self, *, is_sent: bool) -> None:
        """Raise `OperationalError` at `give_up_at`; what is sent by then is received, for `_LATE_S` at most."""
        now = time.monotonic()
        if now < self.give_up_at:
            return
        self._late_since = min(self._late_since, now)
        if not is_sent or now - self._late_since >= _LATE_S:
            raise psycopg.OperationalError(_NO_ANSWER)

    def _is_readable(self) -> bool:
        """Return whether there is something to receive, after `_POLL_S` at most."""
        if self._poll is None:
            return bool(select.select([self.pgconn.socket], [], [], _POLL_S)[0])
        return bool(self._poll.poll(_POLL_S * 1_000))

    def set_autocommit(self, value: bool) -> None:
        """Change it for the next transactions; between two of them without a wait, which the driver would make."""
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            self._autocommit = value
        else:
            super().set_autocommit(value)

    def rollback(self) -> None:
        """Roll back the transaction, if there is one; the driver would make a wait also if there is none."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            if self._prepared._names:  # noqa: SLF001 -- then the driver deallocates all statements with its own
                self.prepared.clear()
            super().rollback()

    def commit(self) -> None:
        """Commit the transaction; a wait for that is never cancelled at the server."""
        self._committing = True
        try:
            super().commit()
        finally:
            self._committing = False

    def close(self) -> None:
        """Close the connection; it counts until the server has closed it too. Without effect in a forked child."""
        if not self._process.is_this_process:
            return
        if self.limit is None or self.closed:
            super().close()
        else:
            self.limit.drop(self.pgconn.socket, super().close)

    def _wait(self, gen: PQGen[Response]) -> Response:
        return waiting.wait(self._bounded(gen), self.pgconn.socket, interval=_POLL_S)

    def _bounded(self, gen: PQGen[Response]) -> Generator[Any, Any, Response]:
        try:
            waits_for = next(gen)
            while True:
                ready = yield waits_for
                try:
                    self._check_time(is_sent=bool(ready))
                except psycopg.OperationalError:
                    gen.close()
                    raise
                waits_for = gen.send(ready)
        except StopIteration as end:
            response: Response = end.value
            return response

    def _give_up(self) -> None:
        commits = not self.only_reads and (self.autocommit or self._committing)
        if not commits and capabilities.has_cancel_safe():
            # Without that capability a cancel request may itself wait without end.
            self._cancel_until_answered()
        self.close()

    def _cancel_until_answered(self) -> None:
        """Cancel the statement at the server; a request that arrives before the server begins it has no effect."""
        give_up_at = time.monotonic() + _CANCEL_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.pgconn.socket, selectors.EVENT_READ)
            while (remaining_s := give_up_at - time.monotonic()) > 0:
                with suppress(psycopg.Error):
                    self.cancel_safe(timeout=remaining_s)
                if selector.select(_REPEAT_CANCEL_S):
                    return


def _new_poll(file_number: int) -> select.poll | None:
    """Return what waits for data on a socket; None on Windows, which has no poll."""
    if not hasattr(select, "poll"):
        return None
    poll = select.poll()
    poll.register(file_number, select.POLLIN)
    return poll


def _note_unreplicated(unreplicated: list[bool], warning: psycopg.errors.Diagnostic) -> None:
    if (warning.sqlstate, warning.source_function) == _NOT_REPLICATED:
        unreplicated.append(True)
