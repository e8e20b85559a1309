"""Questions with a full phone: the record of those of readers, and the budgets of API keys.

A reader sees masked phones, and could find a full one by asking about candidates. So each of its questions is an
event, which never holds the number, and those that match nothing have a budget. An app learns from a check that
another caller holds a phone: such answers have a budget too.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from bindings.domain.binding import EventKind
from bindings.domain.budget import Budget
from bindings.domain.serialization import to_plain
from bindings.store import budgets, events

if TYPE_CHECKING:
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.budgets import UsedUp
    from bindings.store.database import Transaction


class PhoneSearches:
    """The questions of the runtime's caller. Thread-safe. No call is safe to repeat: each is counted."""

    def __init__(self, runtime: Runtime) -> None:
        self._database = runtime.database
        self._caller = runtime.caller
        self._settings = runtime.settings

    def record(self, question: str, *, has_match: bool) -> None:
        """Record a question with a full phone, without a budget."""
        detail = {"question": question, "match": has_match}
        self._database.write(
            lambda tx: events.append_without_binding(tx, EventKind.PHONE_SEARCHED, self._caller, detail)
        )

    def record_for_key(self, question: str, *, has_match: bool, is_counted: bool) -> int | None:
        """Record a question with a full phone before it is answered, and return None if it may be answered.

        Otherwise the budget of the caller's key is used up, for as many seconds as are returned. `is_counted` is
        whether the question takes one from it.
        """
        detail = {"question": question, "match": has_match}

        def work(tx: Transaction) -> UsedUp | None:
            used_up = self._use(tx, Budget.PHONE_SEARCHES, is_counted=is_counted)
            if used_up is None:
                events.append_without_binding(tx, EventKind.PHONE_SEARCHED, self._caller, detail)
            return used_up

        return _seconds_left(self._database.write(work))

    def count_held_answer(self) -> int | None:
        """Count a check whose answer is that another caller holds a phone; returns as `record_for_key` does."""
        return _seconds_left(self._database.write(lambda tx: self._use(tx, Budget.HELD_ANSWERS, is_counted=True)))

    def _use(self, tx: Transaction, budget: Budget, *, is_counted: bool) -> UsedUp | None:
        limit = self.limit(budget)
        used_up = budgets.use(tx, self._caller, budget, limit=limit, amount=int(is_counted))
        if used_up is not None and used_up.is_first:
            detail: dict[str, Any] = {
                "budget": budget.value,
                "limit": limit,
                "until": to_plain(used_up.until),
            }
            events.append_without_binding(tx, EventKind.BUDGET_USED_UP, self._caller, detail)
        return used_up

    def limit(self, budget: Budget) -> int:
        """Return how many a key has in an hour, by the settings."""
        settings = self._settings
        return settings.phone_search_budget if budget is Budget.PHONE_SEARCHES else settings.check_budget


def _seconds_left(used_up: UsedUp | None) -> int | None:
    return None if used_up is None else max(1, ceil((used_up.until - used_up.now).total_seconds()))
