"""Bytes on disk of the tables of bindings and events and of each of their indexes, at the sizes of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.measure import Result, Target

if TYPE_CHECKING:
    from benchmarks.bench_context import BenchContext

TABLES = "bindings", "events"
PARTS = "(SELECT '{table}'::regclass UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = '{table}'::regclass)"
BYTES = f"SELECT sum(pg_relation_size(oid)), sum(pg_indexes_size(oid)) FROM pg_class WHERE oid IN {PARTS}"
INDEXES = f"""
    SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index
    WHERE indrelid IN {PARTS} AND pg_relation_size(indexrelid) > 0 ORDER BY 2 DESC
"""


def measure(context: BenchContext) -> list[Result]:
    """Return the size of the rows and of the indexes of each table, on PostgreSQL."""
    bench_db = context.postgres()
    results = []
    for table in TABLES:
        rows, indexes = bench_db.execute(BYTES.format(table=table)).fetchone()
        index_sizes = ", ".join(
            f"{name} {size / 1e6:,.0f}" for name, size in bench_db.execute(INDEXES.format(table=table)).fetchall()
        )
        for title, size, note in (("rows", rows, ""), ("indexes", indexes, index_sizes)):
            target = Target(id="space", title=f"{table}, {title}", unit="MB")
            results.append(Result(target=target, value=float(size) / 1e6, note=note))
    return results
