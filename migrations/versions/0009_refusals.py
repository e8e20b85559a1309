"""A table of refused binds: found by reference, phone or request id, although the provider was not called.

Events name no phone and are never deleted one by one, so the phones of a refused bind have a table of their own,
whose rows may be deleted. Code of 0008 works on this schema, and goes on writing only the event.

A reference can also be found by its beginning. On PostgreSQL an index serves that only if it compares byte by
byte, so the index of the references of bindings is built again, without a lock. An interrupted migration is
repeated from its beginning.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import outside_transaction

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES = {
    "the records of refused binds": "SELECT 1 FROM refusals",
}
BYTE_ORDER = {"reference": "varchar_pattern_ops"}
REFERENCE = "ix_bindings_reference"
INDEXES = {
    "ix_refusals_reference": (["reference", "at"], "reference IS NOT NULL"),
    "ix_refusals_phone_a": (["phone_a", "at"], None),
    "ix_refusals_phone_b": (["phone_b", "at"], None),
    "ix_refusals_request_id": (["request_id"], "request_id IS NOT NULL"),
    "ix_refusals_at_id": (["at", "id"], None),
}


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    if not sqlite:
        _replace_reference_index(BYTE_ORDER)
    instant = sa.String(27) if sqlite else sa.DateTime(timezone=True)
    key = sa.String(36) if sqlite else sa.Uuid(as_uuid=False)
    op.create_table(
        "refusals",
        sa.Column("id", key, nullable=False, comment="UUIDv7"),
        sa.Column("at", instant, nullable=False, comment="database time"),
        sa.Column("event_position", sa.BigInteger, comment="events.position of its event; none: it has no event"),
        sa.Column("code", sa.String(32), nullable=False, comment="code of the error that the caller got"),
        sa.Column("provider_status", sa.String(16), comment="the provider's earlier status, if that is the cause"),
        sa.Column("mode", sa.String(4), nullable=False, comment="AXB or AXXB"),
        sa.Column("phone_a", sa.String(20), nullable=False, comment="real phone of party A, digits"),
        sa.Column("phone_b", sa.String(20), nullable=False, comment="real phone of party B, digits"),
        sa.Column("pool_number", sa.String(20), nullable=False, comment="pool that was asked for"),
        sa.Column("app_id", sa.String(64), nullable=False, comment="the provider's application"),
        sa.Column("reference", sa.String(255), comment="the caller's order id"),
        sa.Column("actor", sa.String(128), nullable=False, comment="who asked for the binding"),
        sa.Column("request_id", sa.String(128), comment="the request that asked for it"),
        sa.Column("holder_id", key, comment="the binding of ours that held a phone, if one did"),
        sa.Column("held_by", sa.String(16), comment="binding, or the reason of a hold; none: no phone was held"),
        sa.Column("held_until", instant, comment="until when the phone was held, as far as known then"),
        sa.PrimaryKeyConstraint("id", name="pk_refusals"),
        comment="Binds that were refused before the provider was called; rows may be deleted",
    )
    for name, (columns, condition) in INDEXES.items():
        where = None if condition is None else sa.text(condition)
        order = BYTE_ORDER if "reference" in columns else {}
        op.create_index(
            name, "refusals", columns, sqlite_where=where, postgresql_where=where, postgresql_ops=order
        )
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    op.drop_table("refusals")
    if op.get_bind().dialect.name != "sqlite":
        _replace_reference_index({})


def _replace_reference_index(order: dict[str, str]) -> None:
    """Build the index of the references of bindings in this order; the old one serves until then."""
    new = f"{REFERENCE}_new"
    with outside_transaction():
        op.drop_index(new, "bindings", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            new,
            "bindings",
            ["reference", "requested_at"],
            postgresql_where=sa.text("reference IS NOT NULL"),
            postgresql_ops=order,
            postgresql_concurrently=True,
        )
        op.drop_index(REFERENCE, "bindings", if_exists=True, postgresql_concurrently=True)
        op.execute(f"ALTER INDEX {new} RENAME TO {REFERENCE}")
