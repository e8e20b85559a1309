"""The check that new events are sealed in time, and that heads reach the anchor command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.domain.serialization import duration
from bindings.monitoring.check import Check, Level
from bindings.store import job_runs, seals

if TYPE_CHECKING:
    from bindings.store.read_once import Reads

OLD_S = 300.0  # the alert BindingsSealsOld has the same number


def seals_in_time(database: Reads) -> Check:
    """Return red if events wait to be sealed for five minutes: that is also how a change would be prepared."""
    name = "seals"
    last = database.read(seals.last)
    if last is None:
        return Check(name=name, level=Level.OK, seen="the history is not sealed")
    if not database.read(seals.is_reached, last):
        observed = f"seal {last.number} ends after the newest event: it is forged, and nothing is sealed after it"
        todo = "run `bindings audit verify`, and see who can write to the database"
        return Check(name=name, level=Level.RED, seen=observed, todo=todo)
    now = database.clock()
    oldest = database.read(seals.oldest_unsealed)
    waiting_s = 0.0 if oldest is None else (now - oldest).total_seconds()
    if waiting_s > OLD_S:
        observed = f"the oldest event after seal {last.number} has not been sealed for {duration(waiting_s)}"
        todo = "check that a process with BINDINGS_SEAL_KEY_FILE runs, and that no transaction stays open"
        return Check(name=name, level=Level.RED, seen=observed, todo=todo)
    error = database.read(job_runs.last_counts, "seal").get("anchor_error")
    if error is not None:
        observed = f"the last head is not anchored: {error}"
        todo = "check BINDINGS_ANCHOR_COMMAND; each run of the job `seal` tries again"
        return Check(name=name, level=Level.WARN, seen=observed, todo=todo)
    age = duration((now - last.created_at).total_seconds())
    return Check(name=name, level=Level.OK, seen=f"seal {last.number} is {age} old, and no older event waits")
