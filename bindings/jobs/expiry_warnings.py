"""Announce the ends that are near: one `expires_soon` event for each binding that asked for one.

A pass of its own, so that nothing which is wrong with it holds up expiry; like that one it is late at worst. A
binding whose end came first is not announced any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.failpoints import hit
from bindings.jobs.expire import BATCH, BUDGET_S, STATEMENT_LIMIT_S, run_in_batches
from bindings.store import expiry

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Caller
    from bindings.store.database import Database, Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpiryWarningsResult:
    """What one pass did. `finished` is False where the time budget ended before the backlog did."""

    warned: int
    batches: int
    finished: bool


def warn(
    database: Database, caller: Caller, *, batch: int = BATCH, budget_s: float = BUDGET_S
) -> ExpiryWarningsResult:
    """Announce every binding that is due, batch by batch, for at most about `budget_s` seconds.

    Safe to repeat and to run in any number of processes: each binding gets at most one `expires_soon` event.
    """

    def one_batch(since: datetime) -> tuple[int, datetime]:
        warned = database.write(lambda tx: _one_batch(tx, caller, batch, since))
        hit("warn.after_batch")
        return warned

    warned, batches, finished = run_in_batches(one_batch, batch=batch, budget_s=budget_s)
    return ExpiryWarningsResult(warned=warned, batches=batches, finished=finished)


def _one_batch(tx: Transaction, caller: Caller, batch: int, since: datetime) -> tuple[int, datetime]:
    tx.set_statement_timeout(STATEMENT_LIMIT_S)
    warned = expiry.warn(tx, caller, limit=batch, since=since)
    hit("warn.in_transaction")
    return warned
