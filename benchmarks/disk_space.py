"""How large the tables of bindings and of events are, and each index: bytes on disk, at the sizes of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.measure import Result, Target

if TYPE_CHECKING:
    from benchmarks.bench_context import Place

TABLES = "bindings", "events"
PARTS = "(SELECT '{table}'::regclass UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = '{table}'::regclass)"
BYTES = f"SELECT sum(pg_relation_size(oid)), sum(pg_indexes_size(oid)) FROM pg_class WHERE oid IN {PARTS}"
INDEXES = f"""
    SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index
    WHERE indrelid IN {PARTS} AND pg_relation_size(indexrelid) > 0 ORDER BY 2 DESC
"""


def measure(place: Place) -> list[Result]:
    """Rows and indexes of each table, on PostgreSQL."""
    filled = place.postgres()
    results = []
    for table in TABLES:
        rows, indexes = filled.run(BYTES.format(table=table)).fetchone()
        each = ", ".join(
            f"{name} {size / 1e6:,.0f}" for name, size in filled.run(INDEXES.format(table=table)).fetchall()
        )
        for what, size, note in (("rows", rows, ""), ("indexes", indexes, each)):
            target = Target(id="space", what=f"{table}, {what}", unit="MB")
            results.append(Result(target=target, value=float(size) / 1e6, note=note))
    return results
