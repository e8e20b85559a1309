"""${message}.

Rules of this folder:
- Never import bindings: a migration describes the schema of its time, and the package changes later.
- Name every constraint and index. SQLite changes a table only in batch mode, which needs the names.
- A rebuilt events table loses its triggers: create them again; tests/migrations checks that they exist.
- No lock of more than a second on a large table: build indexes CONCURRENTLY on PostgreSQL, fill in batches.
- Old code must run on the new schema for one release: add first, remove one release later.

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


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
