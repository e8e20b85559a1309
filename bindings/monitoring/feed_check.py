"""The check that the change feed goes on; it may not after a move to another PostgreSQL cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.monitoring.check import Check, Level
from bindings.store import cluster_move

if TYPE_CHECKING:
    from bindings.store.database import Database


def feed_in_order(database: Database) -> Check:
    """Return red if new events would stand before older ones, so that readers and webhooks wait."""
    if not cluster_move.numbers_are_behind(database):
        return Check(name="feed", level=Level.OK, seen="new events follow the older ones")
    observed = "the feed and webhooks wait: this PostgreSQL cluster has run fewer transactions than the one before"
    return Check(name="feed", level=Level.RED, seen=observed, todo="run `bindings db moved`")
