"""An idempotency key belongs to the actor that used it: unique over (app_id, actor, key).

The unique index over (app_id, idempotency_key) stays for one version, because code of 0009 looks a key up by it.
So if another actor of the application has used a key first, the key is stored in `duplicate_key`. A caller's key
is `coalesce(idempotency_key, duplicate_key)`, and the new index is over that, so it holds for the rows of both
versions. A key that is repeated at a process of 0009 yields the same binding or, if another actor used it first,
an idempotency mismatch; never a second binding. A later version drops the old index and moves the keys back.

On PostgreSQL the index is built without a lock and hence outside a transaction; an interrupted migration is
repeated from its beginning.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import LOCK_WAIT, LOCKED_OR_TIMED_OUT, outside_transaction, repeat_while_locked

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
CONTRACTS = {"uq_bindings_idempotency_key_app_id_actor is added": "0008"}  # their own index refuses more
LOSSES = {
    "idempotency keys that a second actor of an application has used, for retries": (
        "SELECT 1 FROM bindings WHERE duplicate_key IS NOT NULL"
    ),
}
COLUMN = "duplicate_key"
INDEX = "uq_bindings_idempotency_key_app_id_actor"
KEY = f"coalesce(idempotency_key, {COLUMN})"
COMMENTS = {
    "idempotency_key": "the caller's key, unless another actor of the app_id used it first",
    COLUMN: "the caller's key, if another actor of the app_id used it first",
}
OLD_COMMENT = "the caller's key; unique per app_id, for ever"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    if COLUMN in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("bindings")}:
        # After a downgrade, code of 0009 may have used a key again, once the other actor's binding was deleted.
        op.execute(
            f"UPDATE bindings SET {COLUMN} = NULL WHERE {COLUMN} IS NOT NULL AND EXISTS (SELECT 1 FROM bindings"
            f" AS other WHERE other.app_id = bindings.app_id AND other.idempotency_key = bindings.{COLUMN}"
            " AND other.actor = bindings.actor)"
        )
    elif sqlite:
        op.add_column("bindings", sa.Column(COLUMN, sa.String(255)))
    if not sqlite:
        _change_table(
            f"ALTER TABLE bindings ADD COLUMN IF NOT EXISTS {COLUMN} varchar(255)",
            *(f"COMMENT ON COLUMN bindings.{name} IS $${comment}$$" for name, comment in COMMENTS.items()),
        )
    _build_index()
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    """Undo the change; the column stays if it has keys, so that upgrading again loses none."""
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    keys = op.get_bind().execute(sa.text(f"SELECT 1 FROM bindings WHERE {COLUMN} IS NOT NULL LIMIT 1")).scalar()
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index(INDEX, "bindings")
        if keys is None:
            op.drop_column("bindings", COLUMN)
        return
    with outside_transaction():
        op.drop_index(INDEX, "bindings", if_exists=True, postgresql_concurrently=True)
    _change_table(
        f"COMMENT ON COLUMN bindings.idempotency_key IS $${OLD_COMMENT}$$",
        *([f"ALTER TABLE bindings DROP COLUMN IF EXISTS {COLUMN}"] if keys is None else []),
    )


def _build_index() -> None:
    columns: list[str | sa.TextClause] = [sa.text(KEY), "app_id", "actor"]
    where = sa.text(f"{KEY} IS NOT NULL")
    if op.get_bind().dialect.name == "sqlite":
        op.create_index(INDEX, "bindings", columns, unique=True, sqlite_where=where)
        return
    with outside_transaction():
        op.drop_index(INDEX, "bindings", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            INDEX, "bindings", columns, unique=True, postgresql_where=where, postgresql_concurrently=True
        )


def _change_table(*statements: str) -> None:
    """Run statements that lock the table for a moment; wait for the lock in steps that writers do not notice.

    Vacuum is kept out first, by a lock that blocks no reader or writer: half a second would never outlast it.
    """
    connection = op.get_bind()
    connection.execute(sa.text("LOCK TABLE bindings IN SHARE UPDATE EXCLUSIVE MODE"))

    def attempt() -> None:
        with connection.begin_nested():  # a rollback to the savepoint releases the lock
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'"))
            for statement in statements:
                connection.execute(sa.text(statement))

    repeat_while_locked(attempt, states=LOCKED_OR_TIMED_OUT)
