"""The sealed history: a table of seals, and salts that make rows verifiable.

A seal states what the events of a stretch of the feed were; triggers refuse to change it. A binding and a
hold get the salt of a hash that their event has: with the row it proves what the event says without a phone. Code
of 0008 to 0015 writes neither: such rows are verified without it.

On PostgreSQL each table is locked for itself, for half a second at a time; an interrupted migration is repeated
from its beginning.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import locked

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES = {
    "the seals": "SELECT 1 FROM seals",
    "the salts with which rows are verified": (
        "SELECT 1 FROM bindings WHERE facts_salt IS NOT NULL"
        " UNION ALL SELECT 1 FROM holds WHERE facts_salt IS NOT NULL"
    ),
}
SALT = "facts_salt"
SALT_COMMENT = "salt of the hash in its event, encrypted if phones are; none: there is no hash, or it was erased"
SALTED = "bindings", "holds"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        for table in SALTED:
            op.add_column(table, sa.Column(SALT, sa.String(64), comment=SALT_COMMENT))
    else:
        for table in SALTED:
            with locked(table):
                op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {SALT} varchar(64)")
                op.execute(f"COMMENT ON COLUMN {table}.{SALT} IS '{SALT_COMMENT}'")
                if table == "bindings":
                    op.execute("DROP TRIGGER IF EXISTS bindings_keep_salt ON bindings")
                    op.execute(
                        f"CREATE TRIGGER bindings_keep_salt BEFORE UPDATE OF {SALT} ON bindings FOR EACH ROW"
                        f" WHEN (NEW.{SALT} IS DISTINCT FROM OLD.{SALT}) EXECUTE FUNCTION refuse_rewriting()"
                    )
    instant = sa.String(27) if sqlite else sa.DateTime(timezone=True)
    op.create_table(
        "seals",
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False, comment="counts from 1"),
        sa.Column("to_tx", sa.BigInteger, nullable=False, comment="the last event that it seals: tx"),
        sa.Column("to_position", sa.BigInteger, nullable=False, comment="... and position"),
        sa.Column(
            "body",
            sa.Text,
            nullable=False,
            comment="canonical JSON: the stretch, its Merkle root, the hash before",
        ),
        sa.Column("signature", sa.String(128), nullable=False, comment="Ed25519 signature of the body, in base64"),
        sa.Column("created_at", instant, nullable=False, comment="database time"),
        sa.PrimaryKeyConstraint("number", name="pk_seals"),
        comment="Signed statements about stretches of the history; triggers refuse UPDATE, DELETE and TRUNCATE",
    )
    for statement in _triggers_of_sqlite() if sqlite else _triggers_of_postgresql():
        op.execute(statement)
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    on_table = " ON bindings" if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(f"DROP TRIGGER bindings_keep_salt{on_table}")
    op.drop_table("seals")
    for table in SALTED:
        op.drop_column(table, SALT)


def _triggers_of_sqlite() -> list[str]:
    now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    barred = f"coalesce((SELECT max(maintenance_until) FROM account), '') <= {now}"
    return [
        *(
            f"CREATE TRIGGER seals_refuse_{action.lower()} BEFORE {action} ON seals"
            " BEGIN SELECT RAISE(ABORT, 'seals are append-only'); END"
            for action in ("UPDATE", "DELETE")
        ),
        (
            f"CREATE TRIGGER bindings_keep_salt BEFORE UPDATE OF {SALT} ON bindings"
            f" WHEN NEW.{SALT} IS NOT OLD.{SALT} AND {barred}"
            " BEGIN SELECT RAISE(ABORT, 'bindings keep what was recorded'); END"
        ),
    ]


def _triggers_of_postgresql() -> list[str]:
    return [
        (
            "CREATE TRIGGER seals_refuse_change BEFORE UPDATE OR DELETE ON seals"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        ),
        (
            "CREATE TRIGGER seals_refuse_truncate BEFORE TRUNCATE ON seals"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        ),
    ]
