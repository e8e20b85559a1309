"""The check that names the processes which use the database, and their versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.domain.serialization import duration
from bindings.domain.text import first_names
from bindings.monitoring.check import Check, Level
from bindings.store import replicas

if TYPE_CHECKING:
    from bindings.store.read_once import Reads

BEFORE_REVISIONS = "before 0011"  # such code records no revision


def replicas_at_work(database: Reads) -> Check:
    """Name the processes of the last minutes by version and schema; a warning if these differ.

    The schema is the revision that the code was made for: two builds of one version number may differ in it.
    """
    recent = database.read(replicas.seen_since, database.clock() - replicas.RECENT)
    names_by_version: dict[tuple[str, str], list[str]] = {}
    for replica in recent:
        version = replica.version, replica.schema_revision or BEFORE_REVISIONS
        names_by_version.setdefault(version, []).append(replica.name)
    versions = "; ".join(
        f"{len(names)} of version {version} for schema {revision}: {first_names(sorted(names))}"
        for (version, revision), names in sorted(names_by_version.items())
    )
    observed = f"processes recorded in the last {duration(replicas.RECENT.total_seconds())}: {versions or 'none'}"
    if len(names_by_version) > 1:
        todo = "after an upgrade, replace the processes with the lower version or schema"
        return Check(name="replicas", level=Level.WARN, seen=observed, todo=todo)
    return Check(name="replicas", level=Level.OK, seen=observed)
