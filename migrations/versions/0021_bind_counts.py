"""Counts of binds by application and pool, for the shares of failures, and counts of events by day.

Code of 0020 does not count into either: the console says how many binds are in no application's count, and the
next event of a day makes its counts complete.

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES = {
    "the counts of failures by application and pool": "SELECT 1 FROM bind_counts",
}
DAY = {
    "postgresql": "date_trunc('day', began_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'",
    "sqlite": "substr(began_at, 1, 10) || 'T00:00:00.000000Z'",
}
COMMENTS = {
    "COLUMN tallies.period_s": ("60, 3600 or 86400", "60 or 3600"),
    "COLUMN tallies.began_at": ("when the minute, hour or day began", "when the minute or hour began"),
    "TABLE tallies": (
        "How many events of each kind there were, by minute, hour and day",
        "How many events of each kind there were, by minute and by hour",
    ),
}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    instant = sa.String(27) if dialect == "sqlite" else sa.DateTime(timezone=True)
    op.create_table(
        "bind_counts",
        sa.Column("period_s", sa.Integer, autoincrement=False, nullable=False, comment="60, 3600 or 86400"),
        sa.Column("began_at", instant, nullable=False, comment="when the minute, hour or day began"),
        sa.Column("app_id", sa.String(64), nullable=False, comment="the provider's application"),
        sa.Column("pool_number", sa.String(20), nullable=False, comment="the pool that was asked for"),
        sa.Column("kind", sa.String(32), nullable=False, comment="requested, failed, in_doubt or refused"),
        sa.Column("code", sa.String(32), nullable=False, comment="status or reason where the kind has one, or ''"),
        sa.Column("number", sa.Integer, nullable=False, comment="how many"),
        sa.PrimaryKeyConstraint(
            "period_s", "began_at", "app_id", "pool_number", "kind", "code", name="pk_bind_counts"
        ),
        comment="How many binds were requested, failed, in doubt and refused, by application and pool",
    )
    op.execute(
        "INSERT INTO tallies (period_s, began_at, kind, code, number, examples)"
        f" SELECT 86400, {DAY[dialect]} AS day, kind, code, sum(number), '[]' FROM tallies"
        " WHERE period_s = 3600 GROUP BY day, kind, code"
    )
    _comment(0)
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    _comment(1)
    op.execute("DELETE FROM tallies WHERE period_s = 86400")
    op.drop_table("bind_counts")


def _comment(index: int) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for subject, comments in COMMENTS.items():
            op.execute(f"COMMENT ON {subject} IS '{comments[index]}'")
