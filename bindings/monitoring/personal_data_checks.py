"""Checks of what is kept about people: whether anything is deleted, and whether every erasure is carried out."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.access.erasure_journal import ErasureJournal
from bindings.monitoring.check import Check, Level
from bindings.store import erasure

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.settings import Settings
    from bindings.store.read_once import Reads

MAX_PAUSE = timedelta(days=2)  # between two runs that delete; the limit moves once a day
NEWEST = 100  # entries of the journal that are compared


def of_retention(database: Reads, config: Settings) -> Check:
    """Return how long bindings and events are kept; warn if what is older was not deleted for two days."""
    if config.retention_days is None:
        observed = "nothing is ever deleted: BINDINGS_RETENTION_DAYS is not set"
        return Check(name="retention", level=Level.OK, seen=observed)
    kept_from = database.read(erasure.kept_from)
    if kept_from is None or kept_from < database.clock() - timedelta(days=config.retention_days) - MAX_PAUSE:
        observed = f"the limit of {config.retention_days} days was not applied in the last two days"
        todo = "run `bindings retention` daily, on PostgreSQL as the owner of the tables, or let a scheduler do it"
        return Check(name="retention", level=Level.WARN, seen=observed, todo=todo)
    observed = f"what has ended is deleted after {config.retention_days} days"
    return Check(name="retention", level=Level.OK, seen=observed)


def of_erasures(database: Reads, config: Settings) -> Check:
    """Return red if the journal has an erasure that this database has not carried out, as after a restore."""
    name = "erasures"
    journal = None if config.erasure_journal is None else ErasureJournal(config.erasure_journal)
    if journal is None or not journal.exists:
        return Check(name=name, level=Level.OK, seen="there is no journal of erasures")
    kept_from = database.read(erasure.kept_from)
    newest = [entry for entry in journal.entries() if kept_from is None or entry.at >= kept_from][-NEWEST:]
    missing = [entry for entry in newest if not database.read(erasure.is_complete, entry.id)]
    if not missing:
        return Check(name=name, level=Level.OK, seen="every erasure of the journal is carried out")
    observed = f"the journal has {len(missing)} erasure(s) that this database has not carried out"
    todo = "run `bindings erase --replay` as the owner of the tables: a restore may have brought people back"
    return Check(name=name, level=Level.RED, seen=observed, todo=todo)


PERSONAL_DATA_CHECKS: dict[str, Callable[[Reads, Settings], Check]] = {
    "retention": of_retention,
    "erasures": of_erasures,
}
