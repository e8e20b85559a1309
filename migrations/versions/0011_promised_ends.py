"""Promised ends: a binding may end here before it ends at the provider, and be extended until then.

Only columns that may be empty and an index with few rows are added: no row is rewritten. `replicas` records which
revision the code of a process was made for; code of an older version leaves it empty.

On PostgreSQL each table is locked for half a second at a time, and the index is built without a lock and hence
outside a transaction; an interrupted migration is repeated.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import locked

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES = {
    "the provider's end of bindings": (
        "SELECT 1 FROM bindings WHERE max_expire_s IS NOT NULL OR provider_expires_at IS NOT NULL"
    ),
}
INDEX = "ix_bindings_release_owed"
OWED = "state = 'expired' AND provider_expires_at > ended_at"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    instant = sa.String(27) if sqlite else sa.DateTime(timezone=True)
    of_bindings = (
        sa.Column("max_expire_s", sa.Integer, comment="seconds that the provider was asked for; none: expire_s"),
        sa.Column(
            "provider_expires_at",
            instant,
            comment="earliest instant at which the provider may end it; none: expires_at",
        ),
    )
    revision_of_code = sa.Column(
        "schema_revision", sa.String(32), comment="revision that its code was made for; none: before 0011"
    )
    if sqlite:
        for column in of_bindings:
            op.add_column("bindings", column)
        op.add_column("replicas", revision_of_code)
        op.execute(f"CREATE INDEX {INDEX} ON bindings (provider_expires_at) WHERE {OWED}")
    else:
        with locked("bindings"):
            for column in of_bindings:
                op.add_column("bindings", column, if_not_exists=True)
            op.execute("COMMENT ON COLUMN bindings.expires_at IS 'end that the caller was promised'")
        with locked("replicas"):
            op.add_column("replicas", revision_of_code, if_not_exists=True)
        with op.get_context().autocommit_block():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")  # of an interrupted build
            op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON bindings (provider_expires_at) WHERE {OWED}")
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    op.drop_index(INDEX, "bindings")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("COMMENT ON COLUMN bindings.expires_at IS 'earliest instant at which the provider may end it'")
    op.drop_column("replicas", "schema_revision")
    op.drop_column("bindings", "provider_expires_at")
    op.drop_column("bindings", "max_expire_s")
