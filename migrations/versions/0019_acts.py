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

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
LOCK_WAIT = "500ms"
TRIES = 60
PAUSE_S = 1.0
LOCKED = "55P03", "57014", "40P01"


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
        _lock_events()
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
    _lock_events()
    _add_column_of_postgresql("events")
    partitions = _partitions()
    for name in (INDEX, *map(_own_index, partitions)):  # of an interrupted migration
        op.execute(f"DROP INDEX IF EXISTS {name}")
    op.execute(f"CREATE INDEX {INDEX} ON ONLY events (at, position) WHERE {COVERED}")
    with _outside_transaction("0"):  # the lock ends here
        for name in partitions:
            op.execute(f"CREATE INDEX CONCURRENTLY {_own_index(name)} ON {name} (at, position) WHERE {COVERED}")
    with _outside_transaction(LOCK_WAIT):  # each on its own: no lock is kept while the next one is waited for
        for own in map(_own_index, _partitions()):
            exists = op.get_bind().execute(sa.text(f"SELECT to_regclass('{own}')")).scalar()
            if exists is not None:  # a partition that was created meanwhile has an attached one, by another name
                _retry(partial(op.execute, f"ALTER INDEX {INDEX} ATTACH PARTITION {own}"))
    _lock_events()
    op.execute(f"DROP INDEX IF EXISTS {OLD_INDEX}")


def _own_index(partition: str) -> str:
    return INDEX.replace("events", partition)


def _partitions() -> list[str]:
    return list(op.get_bind().execute(sa.text(PARTITIONS)).scalars())


def _lock_events() -> None:
    """Lock the table exclusively until the end of the transaction.

    Vacuum is kept out first, by a lock that blocks no reader or writer: half a second would never outlast it.
    """
    connection = op.get_bind()
    _acquire(lambda: op.execute("LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE"), or_fail=True)

    def lock() -> None:
        with connection.begin_nested():  # a rollback to the savepoint releases the locks
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'"))
            connection.execute(sa.text(f"SET LOCAL statement_timeout = '{LOCK_WAIT}'"))  # for all partitions
            connection.execute(sa.text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))

    _retry(lock)


def _retry(attempt: Callable[[], object]) -> None:
    """Call `attempt`, which waits for a lock for at most half a second, until it succeeds; a minute at most."""
    for remaining in reversed(range(TRIES)):
        if _acquire(attempt, or_fail=not remaining):
            return
        time.sleep(PAUSE_S)


def _acquire(attempt: Callable[[], object], *, or_fail: bool) -> bool:
    """Call `attempt`; return False if the lock was not free. With `or_fail` raises `TimeoutError` instead."""
    try:
        attempt()
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in LOCKED:
            raise
        if or_fail:
            raise TimeoutError(
                "a transaction or a VACUUM keeps a table locked; end it (pg_stat_activity) and migrate again"
            ) from None
        return False
    return True


@contextmanager
def _outside_transaction(lock_timeout: str) -> Iterator[None]:
    """Run statements outside of a transaction, with this lock timeout ("0": none).

    A concurrent build waits for every open transaction, and blocks no reader or writer.
    """
    with op.get_context().autocommit_block():
        allowed = op.get_bind().execute(sa.text("SHOW lock_timeout")).scalar()
        op.execute(f"SET lock_timeout = '{lock_timeout}'")
        yield
        op.execute(f"SET lock_timeout = '{allowed}'")
