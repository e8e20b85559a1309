"""The time of the request in the indexes of phones and middle numbers.

In the index a trace drops the bindings that began later, and a search by number sees which bindings are on its
page: neither reads the rows of the others. Code of 0008 to 0022 uses these indexes as it used the narrower ones.

On PostgreSQL each index is built without a lock and hence outside a transaction, and then the one that it replaces
is dropped; an interrupted migration is repeated. To undo it, they only get the old names back: they serve the code
of before too, and to build the narrower ones again would take minutes on a large table.

Revision ID: 0023
Revises: 0022
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import outside_transaction

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES: dict[str, str] = {}
CONDITIONS = {
    "phone_a": "",
    "phone_b": "",
    "middle_number_a": " WHERE middle_number_a IS NOT NULL",
    "middle_number_b": " WHERE middle_number_b <> middle_number_a",
}


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for column, condition in CONDITIONS.items():
        old, new = _names(column)
        indexed = f"ON bindings ({column}, held_until, requested_at){condition}"
        if sqlite:
            op.execute(f"CREATE INDEX {new} {indexed}")
            op.execute(f"DROP INDEX {old}")
        else:
            with outside_transaction():
                if not _is_valid(new):
                    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {new}")  # of an interrupted build
                    op.execute(f"CREATE INDEX CONCURRENTLY {new} {indexed}")
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {old}")
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    sqlite = op.get_bind().dialect.name == "sqlite"
    for column, condition in CONDITIONS.items():
        old, new = _names(column)
        if sqlite:
            op.execute(f"CREATE INDEX {old} ON bindings ({column}, held_until){condition}")
            op.execute(f"DROP INDEX {new}")
        else:
            op.execute(f"ALTER INDEX {new} RENAME TO {old}")


def _names(column: str) -> tuple[str, str]:
    """Return the names of the index before and after."""
    old = f"ix_bindings_{column}_held_until"
    return old, f"{old}_requested_at"


def _is_valid(index: str) -> bool:
    """Return whether an interrupted migration has built an index: then the old one may be gone already."""
    valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:index)")
    return bool(op.get_bind().execute(valid, {"index": index}).scalar())
