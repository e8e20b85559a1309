"""The tables of the console: sessions, searches and exports; and two indexes of events.

The indexes come first, because PostgreSQL builds them without a lock and hence outside a transaction. An
interrupted build leaves an invalid index: it is dropped and built again.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_events_request_id", ["request_id"], "request_id IS NOT NULL AND kind <> 'activated'"),
    ("ix_events_revealed", ["at", "position"], "kind = 'revealed'"),
)


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        for name, columns, where in INDEXES:
            op.create_index(name, "events", columns, sqlite_where=sa.text(where))
    else:
        with op.get_context().autocommit_block():
            for name, columns, where in INDEXES:
                op.drop_index(name, "events", if_exists=True, postgresql_concurrently=True)
                op.create_index(
                    name, "events", columns, postgresql_where=sa.text(where), postgresql_concurrently=True
                )
    instant = sa.String(27) if sqlite else sa.DateTime(timezone=True)
    key = sa.String(36) if sqlite else sa.Uuid(as_uuid=False)
    detail = sa.JSON() if sqlite else postgresql.JSONB()
    op.create_table(
        "sessions",
        sa.Column(
            "hash",
            sa.String(64),
            nullable=False,
            comment="SHA-256 of the session's token, which itself is stored nowhere",
        ),
        sa.Column("key_id", key, nullable=False, comment="the key that signed in; revoking it ends the session"),
        sa.Column("began_at", instant, nullable=False, comment="database time"),
        sa.Column("seen_at", instant, nullable=False, comment="good to a minute; unused for long, it is over"),
        sa.Column("expires_at", instant, nullable=False, comment="over then at the latest"),
        sa.PrimaryKeyConstraint("hash", name="pk_sessions"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name="fk_sessions_key_id"),
        comment="Who is signed in to the console",
    )
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "searches",
        sa.Column("id", sa.String(32), nullable=False, comment="random; stands in the page's address"),
        sa.Column(
            "owner", sa.String(64), nullable=False, comment="SHA-256 of the token of the browser that may see it"
        ),
        sa.Column("words", sa.String(255), comment="what was looked for, where it is no number"),
        sa.Column("number", sa.String(20), comment="the phone or middle number that was looked for, digits"),
        sa.Column("party", sa.String(20), comment="the other phone of the call, digits"),
        sa.Column("at", instant, comment="the instant that was asked about"),
        sa.Column("expires_at", instant, nullable=False, comment="forgotten then"),
        sa.PrimaryKeyConstraint("id", name="pk_searches"),
        comment="What is looked for in the console, so that no address carries it; kept for an hour",
    )
    op.create_index("ix_searches_owner", "searches", ["owner"])
    op.create_index("ix_searches_expires_at", "searches", ["expires_at"])
    op.create_table(
        "exports",
        sa.Column("id", key, nullable=False, comment="UUIDv7"),
        sa.Column("began_at", instant, nullable=False, comment="database time"),
        sa.Column("finished_at", instant, comment="none while it runs, or if it was broken off"),
        sa.Column("actor", sa.String(128), nullable=False, comment="who took it"),
        sa.Column("request_id", sa.String(128), comment="the request that took it"),
        sa.Column("view", sa.String(64), nullable=False, comment="which list it was"),
        sa.Column("filter", detail, nullable=False, comment="what the list was narrowed to; phones masked"),
        sa.Column("format", sa.String(16), nullable=False, comment="csv or ndjson"),
        sa.Column("reason", sa.String(255), comment="why phones stand in it in full; none: they are masked"),
        sa.Column("row_count", sa.BigInteger, comment="rows in it"),
        sa.Column("sha256", sa.String(64), comment="sum of the file"),
        sa.PrimaryKeyConstraint("id", name="pk_exports"),
        comment="Every export that was taken from the console",
    )
    op.create_index("ix_exports_began_at_id", "exports", ["began_at", "id"])


def downgrade() -> None:
    for table in ("exports", "searches", "sessions"):
        op.drop_table(table)
    for name, _, _ in INDEXES:
        op.drop_index(name, "events")
