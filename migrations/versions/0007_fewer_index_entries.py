"""Fewer index entries for each bind, each end and each run of a job; fewer vacuum settings.

A binding without a number needs no entry for it, and if both parties have the same number, as in AXB, the index of
A's number finds it. The last finish of a job is found among the hundred rows that are kept for a job: without an
index on it, that time is written without changing any index.

The vacuum settings that were measured to have no effect are removed: see docs/explanation/performance.md.

On PostgreSQL the indexes are built without a lock and hence outside a transaction; an interrupted build is
repeated. Code of earlier versions searches B's number by a condition that the narrower index does not serve, and
reads the whole table: restart it.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import outside_transaction

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NUMBERS = {
    "middle_number_a": "middle_number_a IS NOT NULL",
    "middle_number_b": "middle_number_b <> middle_number_a",
}
# Fresher statistics changed no plan; fewer dead rows made nothing faster, except in bindings.
NO_USE: dict[str, dict[str, float]] = {
    "bindings": {"autovacuum_analyze_scale_factor": 0.02},
    "deliveries": {"autovacuum_vacuum_scale_factor": 0.02, "autovacuum_vacuum_threshold": 1000},
    "holds": {"autovacuum_vacuum_scale_factor": 0.02, "autovacuum_vacuum_threshold": 1000},
    "passes": {"autovacuum_vacuum_scale_factor": 0, "autovacuum_vacuum_threshold": 500},
}
FINISHED = "ix_passes_task_finished_at"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index(FINISHED, "passes")
    else:
        with outside_transaction():
            op.drop_index(FINISHED, "passes", if_exists=True, postgresql_concurrently=True)
    for column, where in NUMBERS.items():
        _replace(column, sa.text(where))
    for table, options in NO_USE.items():
        _set_options(f"ALTER TABLE {table} RESET ({', '.join(options)})")


def downgrade() -> None:
    for table, options in NO_USE.items():
        _set_options(
            f"ALTER TABLE {table} SET ({', '.join(f'{name} = {value}' for name, value in options.items())})"
        )
    op.create_index(FINISHED, "passes", ["task", "finished_at"], if_not_exists=True)
    for column in NUMBERS:
        _replace(column, None)


def _set_options(statement: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(statement)


def _replace(column: str, where: sa.TextClause | None) -> None:
    name, columns = f"ix_bindings_{column}_held_until", [column, "held_until"]
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index(name, "bindings")
        op.create_index(name, "bindings", columns, sqlite_where=where)
        return
    new = f"{name}_new"
    with outside_transaction():
        op.drop_index(new, "bindings", if_exists=True, postgresql_concurrently=True)
        op.create_index(new, "bindings", columns, postgresql_where=where, postgresql_concurrently=True)
        op.drop_index(name, "bindings", if_exists=True, postgresql_concurrently=True)
        op.execute(f"ALTER INDEX {new} RENAME TO {name}")
