"""Keys, webhooks and their deliveries, pools; and when the event before a binding's end is due.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    instant = sa.String(27) if sqlite else sa.DateTime(timezone=True)
    key = sa.String(36) if sqlite else sa.Uuid(as_uuid=False)
    detail = sa.JSON() if sqlite else postgresql.JSONB()

    # Nullable and without a default: no row is rewritten.
    op.add_column(
        "bindings",
        sa.Column("warn_s", sa.Integer, comment="seconds before its end at which its expires_soon event is due"),
    )
    op.add_column(
        "bindings",
        sa.Column("warn_at", instant, comment="when that event is due; none where none is, or it was written"),
    )
    op.create_table(
        "keys",
        sa.Column("id", key, nullable=False, comment="UUIDv7"),
        sa.Column(
            "name", sa.String(64), nullable=False, comment="who uses it; two keys may share one, for rotation"
        ),
        sa.Column("role", sa.String(16), nullable=False, comment="app, auditor, investigator or admin"),
        sa.Column(
            "hash", sa.String(64), nullable=False, comment="SHA-256 of the key, which itself is stored nowhere"
        ),
        sa.Column("prefix", sa.String(16), nullable=False, comment="how the key begins, to tell keys apart"),
        sa.Column("rate_limit", sa.Integer, comment="requests per second and replica; none: the setting's"),
        sa.Column("created_at", instant, nullable=False, comment="database time"),
        sa.Column("created_by", sa.String(128), nullable=False, comment="who made it"),
        sa.Column("expires_at", instant, comment="good until then; none: until revoked"),
        sa.Column("last_used_at", instant, comment="good to a minute"),
        sa.Column("revoked_at", instant, comment="good until then"),
        sa.Column("revoked_by", sa.String(128), comment="who revoked it"),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("hash", name="uq_keys_hash"),
        sa.CheckConstraint("role IN ('app', 'auditor', 'investigator', 'admin')", name=op.f("ck_keys_role")),
        comment="Who may use the HTTP service, and as what",
    )
    op.create_table(
        "webhooks",
        sa.Column("id", key, nullable=False, comment="UUIDv7"),
        sa.Column("url", sa.String(2048), nullable=False, comment="where events are sent"),
        sa.Column("kinds", detail, comment="the kinds of event that are sent; none: all"),
        sa.Column("secret", sa.String(128), nullable=False, comment="signs every delivery (Standard Webhooks)"),
        sa.Column("old_secret", sa.String(128), comment="signs beside it after a rotation"),
        sa.Column("old_secret_until", instant, comment="... until then"),
        sa.Column(
            "tx", sa.BigInteger, nullable=False, comment="the feed's events up to here have their deliveries: tx"
        ),
        sa.Column("position", sa.BigInteger, nullable=False, comment="... and position"),
        sa.Column("created_at", instant, nullable=False, comment="database time"),
        sa.Column("created_by", sa.String(128), nullable=False, comment="who added it"),
        sa.Column("disabled_at", instant, comment="nothing is sent from then on"),
        sa.Column("disabled_why", sa.String(255), comment="by whom, or because the receiver answered 410"),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        comment="Who is told of events",
    )
    op.create_table(
        "deliveries",
        sa.Column("id", key, nullable=False, comment="UUIDv7; the receiver's webhook-id, the same on each try"),
        sa.Column("webhook_id", key, nullable=False, comment="to whom"),
        sa.Column("event_position", sa.BigInteger, nullable=False, comment="of what: events.position"),
        sa.Column("state", sa.String(16), nullable=False, comment="pending, delivered or dead"),
        sa.Column("attempts", sa.Integer, nullable=False, comment="how often it was sent"),
        sa.Column("created_at", instant, nullable=False, comment="database time"),
        sa.Column(
            "next_at",
            instant,
            nullable=False,
            comment="not sent (again) before; a sender that dies frees it so",
        ),
        sa.Column("finished_at", instant, comment="when it was delivered or given up"),
        sa.Column("status", sa.Integer, comment="the receiver's last HTTP status"),
        sa.Column("error", sa.String(255), comment="why the last try failed"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_deliveries_webhook_id"),
        sa.UniqueConstraint("webhook_id", "event_position", name="uq_deliveries_webhook_id_event_position"),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'dead')", name=op.f("ck_deliveries_state")),
        comment="One row for each event and each webhook that it goes to",
    )
    _partial_index("ix_deliveries_due", "deliveries", ["webhook_id", "next_at"], "state = 'pending'")
    _partial_index("ix_deliveries_finished", "deliveries", ["state", "finished_at"], "state <> 'pending'")
    op.create_table(
        "pools",
        sa.Column("app_id", sa.String(64), nullable=False, comment="the provider's application"),
        sa.Column("pool_number", sa.String(20), nullable=False, comment="pool that middle numbers come from"),
        sa.Column("live", sa.Integer, comment="live bindings when they were last counted"),
        sa.Column("counted_at", instant, comment="when that was"),
        sa.Column("capacity", sa.Integer, comment="live bindings when the provider last had no number left (-41)"),
        sa.Column("refused_at", instant, comment="when that was"),
        sa.Column(
            "low_at", instant, comment="when the last pool_low event was written; none while there is enough"
        ),
        sa.PrimaryKeyConstraint("app_id", "pool_number", name="pk_pools"),
        comment="How full each pool is, as far as we can know",
    )


def downgrade() -> None:
    for table in ("pools", "deliveries", "webhooks", "keys"):
        op.drop_table(table)
    op.drop_column("bindings", "warn_at")
    op.drop_column("bindings", "warn_s")


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=clause, postgresql_where=clause)
