"""The check that names the processes which use the database, and their versions."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.serialization import duration
from bindings.monitoring.check import Check, Level
from bindings.store import replicas

if TYPE_CHECKING:
    from bindings.store.database import Database

RECENT = timedelta(minutes=3)  # a process records itself once a minute
MAX_NAMES = 5  # of processes that the check lists


def replicas_at_work(database: Database) -> Check:
    """Name the processes of the last minutes by version; a warning if there is more than one version."""
    recent = database.read(replicas.seen_since, database.clock() - RECENT)
    names_by_version: dict[str, list[str]] = {}
    for replica in recent:
        names_by_version.setdefault(replica.version, []).append(replica.name)
    versions = "; ".join(
        f"{len(names)} of version {version}: {_first_names(names)}"
        for version, names in sorted(names_by_version.items())
    )
    observed = f"processes recorded in the last {duration(RECENT.total_seconds())}: {versions or 'none'}"
    if len(names_by_version) > 1:
        todo = "after an upgrade, replace the processes of the older version"
        return Check(name="replicas", level=Level.WARN, seen=observed, todo=todo)
    return Check(name="replicas", level=Level.OK, seen=observed)


def _first_names(names: list[str]) -> str:
    return ", ".join(sorted(names)[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "")
