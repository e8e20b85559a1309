"""Freed keys: an idempotency key may be used again if its bind certainly created nothing.

The key moves from `idempotency_key` or `duplicate_key` to `freed_key`, which no unique index covers. Code of 0012
frees no keys, and takes a freed key as one that was never used.

On PostgreSQL the table is locked for half a second at a time, and the index is built without a lock and hence
outside a transaction; an interrupted migration is repeated from its beginning.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

from contextlib import nullcontext

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import locked

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES: dict[str, str] = {}
COLUMN = "freed_key"
INDEX = "ix_bindings_freed_key"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    column = sa.Column(
        COLUMN, sa.String(255), comment="the caller's key, if it may be used again: no binding was created"
    )
    present = {existing["name"] for existing in sa.inspect(op.get_bind()).get_columns("bindings")}
    if COLUMN not in present:
        with nullcontext() if sqlite else locked("bindings"):
            op.add_column("bindings", column)
    where = f"{COLUMN} IS NOT NULL"
    if sqlite:
        op.execute(f"CREATE INDEX {INDEX} ON bindings ({COLUMN}) WHERE {where}")
    else:
        with op.get_context().autocommit_block():
            allowed = op.get_bind().execute(sa.text("SHOW lock_timeout")).scalar()
            op.execute("SET lock_timeout = 0")
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")  # of an interrupted build
            op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON bindings ({COLUMN}) WHERE {where}")
            op.execute(f"SET lock_timeout = '{allowed}'")
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    """Undo the change; the column stays if it has keys: they belong to the history of their bindings."""
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    op.drop_index(INDEX, "bindings")
    keys = op.get_bind().execute(sa.text(f"SELECT 1 FROM bindings WHERE {COLUMN} IS NOT NULL LIMIT 1")).scalar()
    if keys is None:
        op.drop_column("bindings", COLUMN)
