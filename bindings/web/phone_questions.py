"""Questions with a full phone over HTTP and in the console: which are recorded, and refused past a budget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bindings.domain.budget import Budget
from bindings.domain.roles import Permission
from bindings.web import problems

if TYPE_CHECKING:
    from bindings.service import BindingService
    from bindings.web.auth import Principal


def record_question(
    service: BindingService,
    principal: Principal,
    question: str,
    *,
    has_match: bool,
    is_counted: bool | None = None,
) -> None:
    """Record a reader's question with a full phone, before its answer is shown; nothing for other principals.

    An app and a router see the phones of what they are shown in full. Raises `BudgetUsedUp`: then the answer must
    not be shown. If `is_counted` is None, a question that matches nothing takes one from the budget.
    """
    if not principal.has_permission(Permission.READ):
        return
    retry_after_s = service.phone_searches.record_for_key(
        question,
        has_match=has_match,
        is_counted=not has_match if is_counted is None else is_counted,
    )
    if retry_after_s is not None:
        raise _budget_used_up(service, Budget.PHONE_SEARCHES, retry_after_s)


class HeldAnswers:
    """The budget of apps for checks that are answered with a phone that another caller holds.

    A key that has used it up is refused every check, without a question to the database: a refusal must not say
    what the answer would be. Each process learns of it with its own first answer that is refused.
    """

    def __init__(self) -> None:
        self._refused_until: dict[tuple[str, str | None], float] = {}

    def require_budget(self, service: BindingService, principal: Principal) -> None:
        """Raise `BudgetUsedUp` if this process knows that the budget of the principal's key is used up."""
        remaining_s = self._refused_until.get((principal.actor, principal.key_id), 0.0) - time.monotonic()
        if remaining_s > 0:
            raise _budget_used_up(service, Budget.HELD_ANSWERS, int(remaining_s) + 1)

    def count(self, service: BindingService, principal: Principal) -> None:
        """Count an answer, before it is shown. Raises `BudgetUsedUp`: then it must not be shown."""
        retry_after_s = service.phone_searches.count_held_answer()
        if retry_after_s is not None:
            self._refused_until[principal.actor, principal.key_id] = time.monotonic() + retry_after_s
            raise _budget_used_up(service, Budget.HELD_ANSWERS, retry_after_s)


def _budget_used_up(service: BindingService, budget: Budget, retry_after_s: int) -> problems.BudgetUsedUp:
    limit = service.phone_searches.limit(budget)
    return problems.BudgetUsedUp(budget, limit=limit, retry_after_s=retry_after_s)
