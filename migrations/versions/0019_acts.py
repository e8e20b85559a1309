"""Administrative acts: the API key that acted, and an index of the access log that has these acts too.

Two keys may have one name, and hence one actor: `key_id` of an event and of an export says which one acted. It is
empty in the rows of earlier releases. The index of reveals becomes one of reveals and administrative acts; by its
condition it also serves code that asks for reveals only.

On PostgreSQL the indexes are built without a lock and hence outside a transaction, each partition's on its own;
the lock that adds the column waits for at most half a second at a time. An interrupted migration is repeated from
its beginning. Code of 0008 to 0018 goes on working on this schema.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import (
    LOCK_WAIT,
    execute_when_unlocked,
    lock_until_commit,
    outside_transaction,
)

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES: dict[str, str] = {}
COLUMN = "key_id"
COMMENTS = {
    "events": "the API key that acted; none: none, or an earlier release wrote it",
    "exports": "the API key that took it; none: none, or an earlier release wrote it",
}
INDEX, COVERED = "ix_events_access", "kind = 'revealed' OR kind = 'administered'"
OLD_INDEX, OLD_COVERED = "ix_events_revealed", "kind = 'revealed'"
EXPORTED = "id", "began_at", "actor", "request_id", "view", "filter", "format", "reason"
PARTITIONS = (
    "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
    " WHERE inhparent = CAST('events' AS regclass) AND NOT inhdetachpending ORDER BY pg_class.oid"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table, comment in COMMENTS.items():
            if not _has_column(table):
                op.add_column(table, sa.Column(COLUMN, sa.String(36), comment=comment))
        op.execute(f"CREATE INDEX {INDEX} ON events (at, position) WHERE {COVERED}")
        op.execute(f"DROP INDEX {OLD_INDEX}")
    else:
        _upgrade_events_of_postgresql()
        _add_column_of_postgresql("exports")
    _replace_trigger((*EXPORTED, COLUMN))
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    """Undo the change; a column that names keys stays: it belongs to the history, and older code ignores it."""
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    postgres = op.get_bind().dialect.name == "postgresql"
    _replace_trigger(EXPORTED)
    if postgres:
        lock_until_commit("events")
    op.execute(f"DROP INDEX {INDEX}")
    op.execute(f"CREATE INDEX {OLD_INDEX} ON events (at, position) WHERE {OLD_COVERED}")
    for table in COMMENTS:
        used = op.get_bind().execute(sa.text(f"SELECT 1 FROM {table} WHERE {COLUMN} IS NOT NULL LIMIT 1"))
        if used.scalar() is None:
            op.drop_column(table, COLUMN)


def _has_column(table: str) -> bool:
    return COLUMN in {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}


def _replace_trigger(columns: tuple[str, ...]) -> None:
    """Let the trigger refuse changes of these columns of an export."""
    postgres = op.get_bind().dialect.name == "postgresql"
    differ = "IS DISTINCT FROM" if postgres else "IS NOT"
    changed = " OR ".join(f"NEW.{column} {differ} OLD.{column}" for column in columns)
    rewritten = f"OLD.finished_at IS NOT NULL OR {changed}"
    if postgres:
        op.execute("DROP TRIGGER exports_as_recorded ON exports")
        op.execute(
            "CREATE TRIGGER exports_as_recorded BEFORE UPDATE ON exports FOR EACH ROW"
            f" WHEN ({rewritten}) EXECUTE FUNCTION refuse_rewriting()"
        )
        return
    barred = "coalesce((SELECT max(maintenance_until) FROM account), '') <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    op.execute("DROP TRIGGER exports_as_recorded")
    op.execute(
        f"CREATE TRIGGER exports_as_recorded BEFORE UPDATE ON exports WHEN ({rewritten}) AND {barred}"
        " BEGIN SELECT RAISE(ABORT, 'exports keep what was recorded'); END"
    )


# Events on PostgreSQL.


def _add_column_of_postgresql(table: str) -> None:
    op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {COLUMN} uuid")
    op.execute(f"COMMENT ON COLUMN {table}.{COLUMN} IS '{COMMENTS[table]}'")


def _upgrade_events_of_postgresql() -> None:
    """Add the column, then build the index of each partition without a lock, and at last drop the old index."""
    lock_until_commit("events")
    _add_column_of_postgresql("events")
    partitions = _partitions()
    for name in (INDEX, *map(_own_index, partitions)):  # of an interrupted migration
        op.execute(f"DROP INDEX IF EXISTS {name}")
    op.execute(f"CREATE INDEX {INDEX} ON ONLY events (at, position) WHERE {COVERED}")
    with outside_transaction():  # the lock ends here
        for name in partitions:
            op.execute(f"CREATE INDEX CONCURRENTLY {_own_index(name)} ON {name} (at, position) WHERE {COVERED}")
    # Each on its own: no lock is kept while the next one is waited for.
    with outside_transaction(lock_timeout=LOCK_WAIT):
        for own in map(_own_index, _partitions()):
            exists = op.get_bind().execute(sa.text(f"SELECT to_regclass('{own}')")).scalar()
            if exists is not None:  # a partition that was created meanwhile has an attached one, by another name
                execute_when_unlocked(f"ALTER INDEX {INDEX} ATTACH PARTITION {own}")
    lock_until_commit("events")
    op.execute(f"DROP INDEX IF EXISTS {OLD_INDEX}")


def _own_index(partition: str) -> str:
    return INDEX.replace("events", partition)


def _partitions() -> list[str]:
    return list(op.get_bind().execute(sa.text(PARTITIONS)).scalars())
