"""A table of the texts of events that may name a person: reasons, and the provider's own words.

An event is never changed, and a text in it could never be erased. So the text has a row of its own, and the event
a salted digest of it. Code of 0008 to 0016 works on this schema, and goes on writing the texts into the events;
newer code does so too as long as a process of such code is at work.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES = {
    "the reasons and the provider's words of events": "SELECT 1 FROM texts",
}


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    key = sa.String(36) if sqlite else sa.Uuid(as_uuid=False)
    op.create_table(
        "texts",
        sa.Column("event_position", sa.BigInteger, nullable=False, autoincrement=False, comment="events.position"),
        sa.Column("name", sa.String(32), nullable=False, comment="name of the text in the detail of the event"),
        sa.Column("binding_id", key, comment="binding of the event; none for what belongs to no binding"),
        sa.Column("text", sa.Text, nullable=False, comment="what a person or the provider wrote"),
        sa.Column("salt", sa.LargeBinary, nullable=False, comment="makes its digest in the event unpredictable"),
        sa.PrimaryKeyConstraint("event_position", "name", name="pk_texts"),
        comment="Texts of events that may name a person; rows may be deleted",
    )
    where = sa.text("binding_id IS NOT NULL")
    op.create_index("ix_texts_binding_id", "texts", ["binding_id"], sqlite_where=where, postgresql_where=where)
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    op.drop_table("texts")
