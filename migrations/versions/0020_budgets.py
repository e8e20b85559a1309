"""Budgets of API keys: how many questions about phones each has asked in an hour, and an index of their events.

Code of 0019 neither asks nor writes any of it: it answers without a budget and without a record.

On PostgreSQL the index is built on each partition without a lock that blocks writers, and hence outside a
transaction; an interrupted migration is repeated from its beginning.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import LOCK_WAIT, execute_when_unlocked

if TYPE_CHECKING:
    from collections.abc import Iterator

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES = {
    "how much of its budgets each key has used in this hour": "SELECT 1 FROM budgets",
}
INDEX = "ix_events_phone_searched"
INDEXED = "(at, position) WHERE kind IN ('phone_searched', 'budget_used_up')"
PARTITIONS = (
    "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
    " WHERE inhparent = CAST('events' AS regclass) AND NOT inhdetachpending ORDER BY pg_class.oid"
)


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        op.execute(f"CREATE INDEX {INDEX} ON events {INDEXED}")
    else:
        _index_partitions()
    instant = sa.String(27) if sqlite else sa.DateTime(timezone=True)
    op.create_table(
        "budgets",
        sa.Column("actor", sa.String(128), nullable=False, comment="who asked"),
        sa.Column("key_id", sa.String(36), nullable=False, comment="by which API key; empty without one"),
        sa.Column("budget", sa.String(32), nullable=False, comment="phone_searches or held_answers"),
        sa.Column("began_at", instant, nullable=False, comment="beginning of the hour that is counted"),
        sa.Column("used", sa.Integer, nullable=False, comment="how many since then"),
        sa.Column(
            "used_up_at",
            instant,
            comment="when the event was written that says so; none: not in this hour",
        ),
        sa.PrimaryKeyConstraint("actor", "key_id", "budget", name="pk_budgets"),
        comment="How much of its budgets each API key has used",
    )
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    op.drop_table("budgets")
    op.drop_index(INDEX, "events")


def _index_partitions() -> None:
    """Build the index of each partition, and attach it to that of the table, which is valid from then on."""
    with op.get_context().autocommit_block():
        allowed = op.get_bind().execute(sa.text("SHOW lock_timeout")).scalar()
        for statement in _statements():
            _execute(statement)
        op.execute(f"SET lock_timeout = '{allowed}'")


def _statements() -> Iterator[str]:
    """Yield the statements; a partition that is created meanwhile gets an attached index of its own."""
    yield f"CREATE INDEX IF NOT EXISTS {INDEX} ON ONLY events {INDEXED}"
    for partition in op.get_bind().execute(sa.text(PARTITIONS)).scalars():
        own = INDEX.replace("events", partition)
        attached = sa.text(f"SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass('{own}')")
        if op.get_bind().execute(attached).scalar() is None:
            yield f"DROP INDEX CONCURRENTLY IF EXISTS {own}"  # of an interrupted build
            yield f"CREATE INDEX CONCURRENTLY {own} ON {partition} {INDEXED}"
            yield f"ALTER INDEX {INDEX} ATTACH PARTITION {own}"


def _execute(statement: str) -> None:
    """Run a statement: a concurrent one waits as long as it must, another for half a second at a time."""
    if "CONCURRENTLY" in statement:
        op.execute("SET lock_timeout = 0")
        op.execute(statement)
        return
    op.execute(f"SET lock_timeout = '{LOCK_WAIT}'")
    execute_when_unlocked(statement)
