"""The check that the change feed goes on: no move to another PostgreSQL cluster, no open transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.domain.serialization import duration
from bindings.monitoring.check import Check, Level
from bindings.store import cluster_move, events

if TYPE_CHECKING:
    from bindings.store.read_once import Reads

WAIT_WARN_S = 60.0


def feed_in_order(database: Reads) -> Check:
    """Return red if new events would stand before older ones, and a warning if they wait for an open transaction.

    Readers and webhooks wait in both cases.
    """
    if cluster_move.numbers_are_behind(database):
        observed = (
            "the feed and webhooks wait: this PostgreSQL cluster has run fewer transactions than the one before"
        )
        return Check(name="feed", level=Level.RED, seen=observed, todo="run `bindings db moved`")
    oldest = database.read(events.oldest_not_final)
    waiting_s = 0.0 if oldest is None else (database.clock() - oldest).total_seconds()
    if waiting_s > WAIT_WARN_S:
        waited = duration(waiting_s)
        observed = f"the events of the last {waited} are in no feed and no webhook: a transaction is open"
        todo = "end it: in pg_stat_activity it is the one with the oldest xact_start"
        return Check(name="feed", level=Level.WARN, seen=observed, todo=todo)
    return Check(name="feed", level=Level.OK, seen="new events follow the older ones")
