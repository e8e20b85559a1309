"""Named places at which a test may stop the process; nothing at all in normal use.

`reach(name)` is one comparison with None. The fault harness (tests/faults) installs a hook that kills, stops or
delays the process when a name is reached, which is how "whatever dies, and whenever" is tried out for real.
The product never installs one, and no setting and no variable of the environment can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Every name, in the order of the story; a test holds this list equal to the places that reach them.
NAMES = (
    "bind.before_reserve",
    "bind.reserve_in_transaction",
    "bind.after_reserve",
    "bind.before_send",
    "bind.after_answer",
    "bind.settle_in_transaction",
    "bind.after_settle",
    "unbind.wish_in_transaction",
    "unbind.after_wish",
    "unbind.after_answer",
    "unbind.settle_in_transaction",
    "unbind.after_settle",
    "expire.in_transaction",
    "expire.after_batch",
    "warn.in_transaction",
    "warn.after_batch",
    "pools.in_transaction",
    "recover.before",
    "recover.in_transaction",
    "recover.before_unbinds",
    "reconcile.after_first_scan",
    "reconcile.adopt_in_transaction",
    "reconcile.after_adopt",
    "reconcile.after_second_scan",
    "retention.before_begin",
    "retention.in_transaction",
    "retention.after_mark",
    "retention.after_detach",
    "migrate.in_transaction",
)

_hook: Callable[[str], None] | None = None


def hit(name: str) -> None:
    """Tell the hook, if a test installed one, that this place was reached."""
    if _hook is not None:
        _hook(name)


def install(hook: Callable[[str], None] | None) -> None:
    """Install the hook of a test, or take it away with None."""
    global _hook  # noqa: PLW0603 -- one process, one experiment
    _hook = hook
