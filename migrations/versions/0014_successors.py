"""Successors: a replace links the binding that it ends with the one that takes over.

Only columns that may be empty and an index with few rows are added: no row is rewritten. On PostgreSQL the table
is locked for half a second at a time, and the index is built without a lock and hence outside a transaction; an
interrupted migration is repeated from its beginning.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

from contextlib import nullcontext

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import locked

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES: dict[str, str] = {}
INDEX = "ix_bindings_waiting"
WAITING = "waits_for IS NOT NULL AND ended_at IS NULL"
COLUMNS = {
    "replaces": "the binding that was ended for this one",
    "replaced_by": "the newest binding that this one was ended for",
    "waits_for": "not sent until the end of this binding is confirmed",
}


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    binding_id = sa.String(36) if sqlite else sa.Uuid(as_uuid=False, native_uuid=True)
    present = {existing["name"] for existing in sa.inspect(op.get_bind()).get_columns("bindings")}
    missing = [sa.Column(name, binding_id, comment=COLUMNS[name]) for name in COLUMNS if name not in present]
    if missing:
        with nullcontext() if sqlite else locked("bindings"):
            for column in missing:
                op.add_column("bindings", column)
    if sqlite:
        op.execute(f"CREATE INDEX {INDEX} ON bindings (settle_by) WHERE {WAITING}")
    else:
        with op.get_context().autocommit_block():
            allowed = op.get_bind().execute(sa.text("SHOW lock_timeout")).scalar()
            op.execute("SET lock_timeout = 0")
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")  # of an interrupted build
            op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON bindings (settle_by) WHERE {WAITING}")
            op.execute(f"SET lock_timeout = '{allowed}'")
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    """Undo the change; the columns stay if a binding was replaced: the links belong to the history."""
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    op.drop_index(INDEX, "bindings")
    linked = op.get_bind().execute(
        sa.text("SELECT 1 FROM bindings WHERE replaces IS NOT NULL OR replaced_by IS NOT NULL LIMIT 1")
    )
    if linked.scalar() is None:
        for name in COLUMNS:
            op.drop_column("bindings", name)
