"""Cost of a thousand binds: CPU seconds of the process and of PostgreSQL's backends, and bytes in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import bind
from benchmarks.measure import Result, Target
from benchmarks.servers import cpu_seconds
from bindings.provider.client import ProviderClient

if TYPE_CHECKING:
    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase

THREADS = 16


def measure(context: BenchContext) -> list[Result]:
    """Return the cost of binds that have not ended yet, on PostgreSQL."""
    bench_db = context.postgres()
    with mock.patch.object(ProviderClient, "bind", bind.instant_bind), bind.open_service(bench_db.url) as service:
        bind.bind_for(service, bind.WARM_UP_S, THREADS)
        bytes_before, server_before = _size(bench_db), _server_cpu_s(bench_db)
        binds, _, cpu_s = bind.bind_for(service, context.sizes.bind_s, THREADS)
        bytes_after, server_after = _size(bench_db), _server_cpu_s(bench_db)
    thousand = binds / 1_000
    figures = [("CPU of the process for 1 000 binds", cpu_s / thousand, "s", "16 threads")]
    if server_before is not None and server_after is not None:
        figures.append(
            ("CPU of PostgreSQL's backends for the same", (server_after - server_before) / thousand, "s", "")
        )
    note = "rows and indexes of a bind and its two events; tables grow by whole pages"
    figures.append(
        ("bytes in the database for 1 000 binds", (bytes_after - bytes_before) / thousand / 1e3, "kB", note)
    )
    return [
        Result(target=Target(id="cost", title=title, unit=unit), value=value, note=note)
        for title, value, unit, note in figures
    ]


def _size(bench_db: BenchDatabase) -> int:
    tables = "pg_total_relation_size('bindings') + pg_total_relation_size('events')"
    parts = "(SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) FROM pg_inherits WHERE inhparent = {})"
    row = bench_db.execute(f"SELECT {tables} + " + parts.format("'events'::regclass")).fetchone()
    return int(row[0])


def _server_cpu_s(bench_db: BenchDatabase) -> float | None:
    """Return the CPU seconds of this database's backends, or None if they run on another machine."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    processes = [process_id for (process_id,) in bench_db.execute(query).fetchall()]
    try:
        return sum(map(cpu_seconds, processes))
    except OSError:
        return None
