"""The index of `warn_at`, for the events before a binding's end.

A separate migration, because PostgreSQL builds it without a lock and hence outside a transaction. An interrupted
build leaves an invalid index: it is dropped and built again.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = "ix_bindings_warn_at"


def upgrade() -> None:
    due = sa.text("state = 'active' AND warn_at IS NOT NULL")
    if op.get_bind().dialect.name == "sqlite":
        op.create_index(NAME, "bindings", ["warn_at"], sqlite_where=due)
        return
    with op.get_context().autocommit_block():
        op.drop_index(NAME, "bindings", if_exists=True, postgresql_concurrently=True)
        op.create_index(NAME, "bindings", ["warn_at"], postgresql_where=due, postgresql_concurrently=True)


def downgrade() -> None:
    op.drop_index(NAME, "bindings")
