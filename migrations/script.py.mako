"""${message}.

Rules of this folder:
- Import nothing of bindings but store.migration_locks: a migration describes the schema of its time, and the package
  changes later.
- Name every constraint and index. SQLite changes a table only in batch mode, which needs the names.
- A rebuilt events table loses its triggers: create them again; tests/migrations checks that they exist.
- No lock of more than a second on a large table: build indexes CONCURRENTLY on PostgreSQL, fill in batches.
- Old code must run on the new schema for one version: add first, remove one version later. CONTRACTS names what is
  removed, with the first revision whose code does not need it.
- Add the row of schema_info: READABLE_FROM is the oldest revision whose code can work on this schema. Change it only
  if older code cannot.
- LOSSES says what is lost if it is undone, in the words of docs/how-to/upgrade.md, each with a query that has a row if
  there is any of it. OBSTACLES says in the same way why it cannot be undone.
- Undo it beside processes of the code before: no long lock, and nothing that this code reads or writes changes.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

READABLE_FROM = "0008"
LOSSES: dict[str, str] = {}


def upgrade() -> None:
    ${upgrades if upgrades else ""}
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    ${downgrades if downgrades else ""}
