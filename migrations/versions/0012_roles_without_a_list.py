"""No list of the roles of API keys: the service checks the role of a new key, and refuses a role it does not know.

So a later version adds a role without a migration. Code of 0008 works on this schema: a key whose role it does not
know is allowed nothing there.

On SQLite the table is made again. Sessions refer to its rows, so that check waits for the end of the transaction.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op

if TYPE_CHECKING:
    from collections.abc import Callable

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES: dict[str, str] = {}
ROLES = "role IN ('app', 'auditor', 'investigator', 'admin')"
CHECK = f"CONSTRAINT ck_keys_role CHECK ({ROLES})"
PRIMARY_KEY = "CONSTRAINT pk_keys PRIMARY KEY (id)"
OLD_COMMENT, COMMENT = (
    "app, auditor, investigator or admin",
    "a role; one that the code does not know is allowed nothing",
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_on_sqlite(lambda table: table.replace(f", \n\t{CHECK}", ""))
    else:
        op.execute("ALTER TABLE keys DROP CONSTRAINT IF EXISTS ck_keys_role")
        op.execute(f"COMMENT ON COLUMN keys.role IS '{COMMENT}'")
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    """Undo the change; the list stays away if a key has another role, which code of 0011 can work with."""
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:
        op.execute(f"COMMENT ON COLUMN keys.role IS '{OLD_COMMENT}'")
    if connection.execute(sa.text(f"SELECT 1 FROM keys WHERE NOT ({ROLES}) LIMIT 1")).scalar() is not None:
        return
    if sqlite:
        _rebuild_on_sqlite(lambda table: table.replace(PRIMARY_KEY, f"{PRIMARY_KEY}, \n\t{CHECK}"))
    else:
        op.execute(f"ALTER TABLE keys ADD {CHECK}")


def _rebuild_on_sqlite(change: Callable[[str], str]) -> None:
    """Make the table again with its definition changed; its rows stay."""
    connection = op.get_bind()
    table = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'keys'")).scalar_one()
    for statement in (
        "PRAGMA defer_foreign_keys = ON",
        "CREATE TABLE old_keys AS SELECT * FROM keys",
        "DROP TABLE keys",
        change(table),
        "INSERT INTO keys SELECT * FROM old_keys",
        "DROP TABLE old_keys",
    ):
        connection.exec_driver_sql(statement)
