"""Counts of events by minute and by hour, and the past levels of the pools.

New tables only: no existing table is changed.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    instant = sa.String(27) if sqlite else sa.DateTime(timezone=True)
    detail = sa.JSON() if sqlite else postgresql.JSONB()
    op.create_table(
        "tallies",
        sa.Column("period_s", sa.Integer, autoincrement=False, nullable=False, comment="60 or 3600"),
        sa.Column("began_at", instant, nullable=False, comment="when the minute or hour began"),
        sa.Column("kind", sa.String(16), nullable=False, comment="the kind of event"),
        sa.Column("code", sa.String(32), nullable=False, comment="status or reason where the kind has one, or ''"),
        sa.Column("number", sa.Integer, nullable=False, comment="how many"),
        sa.Column("examples", detail, nullable=False, comment="the newest few, by their ids; no phones"),
        sa.PrimaryKeyConstraint("period_s", "began_at", "kind", "code", name="pk_tallies"),
        comment="How many events of each kind there were, by minute and by hour",
    )
    op.create_table(
        "tally_marks",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False, comment="always 1"),
        sa.Column("tx", sa.BigInteger, nullable=False, comment="the feed's events up to here are counted: tx"),
        sa.Column("position", sa.BigInteger, nullable=False, comment="... and position"),
        sa.Column("counted_to", instant, comment="what happened until then is counted"),
        sa.PrimaryKeyConstraint("id", name="pk_tally_marks"),
        sa.CheckConstraint("id = 1", name=op.f("ck_tally_marks_single")),
        comment="Up to which event the tallies have counted",
    )
    op.create_table(
        "pool_levels",
        sa.Column("app_id", sa.String(64), nullable=False, comment="the provider's application"),
        sa.Column("pool_number", sa.String(20), nullable=False, comment="the pool"),
        sa.Column("at", instant, nullable=False, comment="the five minutes in which it was counted"),
        sa.Column("live", sa.Integer, nullable=False, comment="live bindings then"),
        sa.PrimaryKeyConstraint("app_id", "pool_number", "at", name="pk_pool_levels"),
        comment="How full each pool was, for its trend",
    )
    op.create_index("ix_pool_levels_at", "pool_levels", ["at"])


def downgrade() -> None:
    op.drop_table("pool_levels")
    op.drop_table("tally_marks")
    op.drop_table("tallies")
