"""What a thousand binds cost: CPU seconds of the process and of the database's, and bytes in the database."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import bind
from benchmarks.measure import Result, Target
from bindings.provider.client import ProviderClient

if TYPE_CHECKING:
    from benchmarks.bench_context import Place
    from benchmarks.data import Filled

THREADS = 16


def measure(place: Place) -> list[Result]:
    """The cost of a bind that is made and has not ended yet, on PostgreSQL."""
    filled = place.postgres()
    with mock.patch.object(ProviderClient, "bind", bind.made_at_once), bind.opened(filled.url) as service:
        bind.bind_for(service, bind.WARM_S, THREADS)
        bytes_before, server_before = _size(filled), _server_cpu_s(filled)
        binds, _, cpu_s = bind.bind_for(service, place.sizes.bind_s, THREADS)
        bytes_after, server_after = _size(filled), _server_cpu_s(filled)
    thousand = binds / 1_000
    told = [("CPU of the process for 1 000 binds", cpu_s / thousand, "s", "16 threads")]
    if server_before is not None and server_after is not None:
        told.append(
            ("CPU of PostgreSQL's backends for the same", (server_after - server_before) / thousand, "s", "")
        )
    note = "rows and indexes of a bind and its two events; new pages are taken in steps"
    told.append(
        ("bytes in the database for 1 000 binds", (bytes_after - bytes_before) / thousand / 1e3, "kB", note)
    )
    return [
        Result(target=Target(id="cost", what=what, unit=unit), value=value, note=note)
        for what, value, unit, note in told
    ]


def _size(filled: Filled) -> int:
    tables = "pg_total_relation_size('bindings') + pg_total_relation_size('events')"
    parts = "(SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) FROM pg_inherits WHERE inhparent = {})"
    found = filled.run(f"SELECT {tables} + " + parts.format("'events'::regclass")).fetchone()
    return int(found[0])


def _server_cpu_s(filled: Filled) -> float | None:
    """CPU seconds of the backends of this database; None where they run on another machine."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ticks = 0
    for (pid,) in filled.run(query).fetchall():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
