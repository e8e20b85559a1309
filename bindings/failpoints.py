"""Fail points: named places at which a test can stop the process. Without effect in normal use.

`hit(name)` is one comparison with None. The fault tests (tests/faults) install a hook that kills, stops or delays
the process when it hits a name, to test that it may die at any of these places. The product never installs a hook,
and no setting or environment variable can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Every name, in the order of a binding's lifetime; a test checks that this list matches the calls of `hit`.
NAMES = (
    "bind.before_reserve",
    "bind.reserve_in_transaction",
    "bind.after_reserve",
    "bind.refusal_in_transaction",
    "bind.before_send",
    "bind.after_answer",
    "bind.settle_in_transaction",
    "bind.after_settle",
    "extend.in_transaction",
    "shorten.in_transaction",
    "unbind.request_in_transaction",
    "unbind.after_request",
    "unbind.after_answer",
    "unbind.settle_in_transaction",
    "unbind.after_settle",
    "replace.before_begin",
    "replace.begin_in_transaction",
    "replace.after_begin",
    "replace.after_unbind",
    "replace.end_waiting_in_transaction",
    "replace.clear_in_transaction",
    "replace.after_clear",
    "unbind_all.requests_in_transaction",
    "unbind_all.after_requests",
    "expire.in_transaction",
    "expire.after_batch",
    "warn.in_transaction",
    "warn.after_batch",
    "pools.in_transaction",
    "recover.before",
    "recover.end_waiting_in_transaction",
    "recover.in_transaction",
    "recover.before_unbinds",
    "reconcile.after_page",
    "reconcile.after_first_scan",
    "reconcile.hold_in_transaction",
    "reconcile.adopt_in_transaction",
    "reconcile.after_adopt",
    "reconcile.after_second_scan",
    "look.after_pages",
    "seal.before_insert",
    "seal.in_transaction",
    "seal.after_insert",
    "phones.after_switch",
    "phones.batch_in_transaction",
    "phones.after_batch",
    "retention.before_begin",
    "retention.in_transaction",
    "retention.after_mark",
    "retention.after_detach",
    "erase.after_journal",
    "erase.in_transaction",
    "erase.after_batch",
    "erase.end_in_transaction",
    "migrate.in_transaction",
)

_hook: Callable[[str], None] | None = None


def hit(name: str) -> None:
    """Call the hook with this name, if a test installed one."""
    if _hook is not None:
        _hook(name)


def install(hook: Callable[[str], None] | None) -> None:
    """Install the hook of a test, or remove it with None."""
    global _hook  # noqa: PLW0603 -- one hook in a process
    _hook = hook
