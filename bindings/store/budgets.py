"""The use of budgets: one row for each actor, API key and budget, which is locked while it is changed.

So a budget is exact for any number of concurrent questions, on all replicas and across restarts. An hour begins
with the first answer that is counted; hence 60 minutes can contain up to twice the limit less one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, update

from bindings.domain.budget import WINDOW
from bindings.store.schema import budgets

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Caller
    from bindings.domain.budget import Budget
    from bindings.store.database import SqlDialect, Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class UsedUp:
    """A budget that is used up. `is_first` is whether it is refused for the first time in its hour."""

    now: datetime
    until: datetime
    is_first: bool


def use(tx: Transaction, caller: Caller, budget: Budget, *, limit: int, amount: int) -> UsedUp | None:
    """Add `amount` to what the caller's key has used; return None, or `UsedUp` if nothing is left of the limit."""
    row_key = {"actor": caller.actor, "key_id": caller.key_id or "", "budget": budget.value}
    row = tx.connection.execute(_lock_row(tx.dialect), row_key).one()
    used, began_at = row.used, row.began_at
    if not began_at <= row.now < began_at + WINDOW:
        used, began_at = 0, row.now
    if used >= limit:
        is_first = row.used_up_at is None
        if is_first:
            _change(tx, row_key, {"used_up_at": row.now})
        return UsedUp(now=row.now, until=began_at + WINDOW, is_first=is_first)
    if amount:
        _change(tx, row_key, {"began_at": began_at, "used": used + amount, "used_up_at": None})
    return None


@cache
def _lock_row(dialect: SqlDialect) -> Any:
    """Return the statement that creates the row if there is none, locks it, and returns it with the clock."""
    values: dict[str, Any] = {name: bindparam(name) for name in ("actor", "key_id", "budget")}
    statement = dialect.insert(budgets).values(**values, began_at=dialect.now, used=0)
    unchanged = {"used": budgets.c.used}
    columns = (budgets.c.began_at, budgets.c.used, budgets.c.used_up_at, dialect.now.label("now"))
    return statement.on_conflict_do_update(index_elements=list(values), set_=unchanged).returning(*columns)


def _change(tx: Transaction, row_key: dict[str, str], values: dict[str, datetime | int | None]) -> None:
    condition = [budgets.c[name] == value for name, value in row_key.items()]
    tx.connection.execute(update(budgets).where(*condition).values(values))
