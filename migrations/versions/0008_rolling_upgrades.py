"""Rolling upgrades: which code can work on this schema, which processes use it, and no list of kinds of events.

`schema_info` says of each revision which code can still work on it; every later migration adds its row. `replicas`
has the processes. A kind of event may be new and up to 32 characters long. A bind_id is unique among the active
bindings, because the provider may give an id again after its binding has ended; holds are found by it too.
`account.tx_offset` is added to every transaction number, after the database was loaded into a cluster that has
counted less far.

On PostgreSQL a wider column would build each partial index that names it again, under a lock. So those indexes are
dropped in the short transaction that widens it, and built afterwards without a lock; until then a search by
request id and the access log read whole partitions. An interrupted migration is repeated from its beginning. Code
of 0007 goes on working on this schema.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from bindings.store.migration_locks import (
    LOCK_WAIT,
    execute_when_unlocked,
    lock_until_commit,
    outside_transaction,
)

if TYPE_CHECKING:
    from collections.abc import Callable

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

READABLE_FROM = "0007"  # the oldest code that can work on this schema
KINDS = (
    "kind IN ('requested', 'activated', 'failed', 'in_doubt', 'adopted', 'expired', 'unbind_requested',"
    " 'unbound', 'unbind_confirmed', 'lapsed', 'refused', 'late_success', 'held', 'hold_ended', 'drifted',"
    " 'revealed', 'expires_soon', 'pool_low')"
)
CHECK = f"CONSTRAINT ck_events_kind CHECK ({KINDS})"
PAIR = "CONSTRAINT uq_events_binding_id_sequence UNIQUE (binding_id, sequence)"
TERMINAL = "kind IN ('failed', 'expired', 'unbound', 'lapsed')"
UNIQUE = "uq_bindings_app_id_bind_id"
BIND_ID_INDEXES = {"bindings": "ix_bindings_app_id_bind_id", "holds": "ix_holds_app_id_bind_id"}
COLUMNS = "position, tx, binding_id, sequence, kind, at, actor, request_id, detail"
PARTIAL_INDEXES = {
    "ix_events_request_id": "(request_id) WHERE request_id IS NOT NULL AND kind <> 'activated'",
    "ix_events_revealed": "(at, position) WHERE kind = 'revealed'",
}
PARTITIONS = (
    "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
    " WHERE inhparent = CAST('events' AS regclass) AND NOT inhdetachpending ORDER BY pg_class.oid"
)


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        _rebuild_on_sqlite(lambda table: table.replace(f", \n\t{CHECK}", "").replace("(16)", "(32)", 1))
        with op.batch_alter_table("tallies") as tallies:
            tallies.alter_column("kind", type_=sa.String(32))
    else:
        _widen_kind()
    _replace_index("bindings", UNIQUE, "state = 'active'", unique=True)
    for table, name in BIND_ID_INDEXES.items():
        _replace_index(table, name, "bind_id IS NOT NULL")
    if not sqlite:
        _attach_indexes()
    instant = sa.String(27) if sqlite else sa.DateTime(timezone=True)
    key = sa.String(36) if sqlite else sa.Uuid(as_uuid=False)
    op.create_table(
        "schema_info",
        sa.Column("revision", sa.String(32), nullable=False, comment="a revision of the schema"),
        sa.Column("readable_from", sa.String(32), nullable=False, comment="the oldest code that can work on it"),
        sa.PrimaryKeyConstraint("revision", name="pk_schema_info"),
        comment="Which code can work on which revision of the schema; each migration adds its row",
    )
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")
    op.create_table(
        "replicas",
        sa.Column("id", key, nullable=False, comment="UUIDv7 of the process"),
        sa.Column("name", sa.String(128), nullable=False, comment="host and process"),
        sa.Column("version", sa.String(32), nullable=False, comment="version of the code"),
        sa.Column(
            "phone_key_ids",
            sa.JSON() if sqlite else postgresql.JSONB(),
            nullable=False,
            comment="ids of the keys for phones that the process has",
        ),
        sa.Column("started_at", instant, nullable=False, comment="database time of its first use of the database"),
        sa.Column("seen_at", instant, nullable=False, comment="when it last used the database; good to a minute"),
        sa.PrimaryKeyConstraint("id", name="pk_replicas"),
        comment="Processes that use this database; kept for a day",
    )
    op.create_index("ix_replicas_seen_at", "replicas", ["seen_at"])
    op.add_column(
        "account",
        sa.Column(
            "tx_offset",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("0"),
            comment="added to every transaction number of the feed, after a move to another cluster",
        ),
    )


def downgrade() -> None:
    """Undo the change, except what rows that were written since do not allow; code of 0007 works with either.

    If a bind_id was given again, its index stays unique among active bindings only. Events of new kinds stay. On
    PostgreSQL the column stays wide: to narrow it would rewrite the table under a lock.
    """
    connection = op.get_bind()
    op.drop_column("account", "tx_offset")
    op.drop_table("replicas")
    op.drop_table("schema_info")
    again = "SELECT 1 FROM bindings WHERE bind_id IS NOT NULL GROUP BY app_id, bind_id HAVING count(*) > 1 LIMIT 1"
    if connection.execute(sa.text(again)).scalar() is None:
        _replace_index("bindings", UNIQUE, "bind_id IS NOT NULL", unique=True)
    if connection.dialect.name == "sqlite":
        for table, name in BIND_ID_INDEXES.items():
            op.drop_index(name, table)
        with op.batch_alter_table("tallies") as tallies:
            tallies.alter_column("kind", type_=sa.String(16))
        if connection.execute(sa.text(f"SELECT 1 FROM events WHERE NOT ({KINDS}) LIMIT 1")).scalar() is None:
            _rebuild_on_sqlite(
                lambda table: table.replace(PAIR, f"{PAIR}, \n\t{CHECK}").replace("(32)", "(16)", 1)
            )
        return
    with outside_transaction():
        for table, name in BIND_ID_INDEXES.items():
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
    lock_until_commit("events")
    op.execute("ALTER TABLE events DROP CONSTRAINT IF EXISTS ck_events_kind")
    op.execute(f"ALTER TABLE events ADD {CHECK} NOT VALID")


# The indexes of bind_ids.


def _replace_index(table: str, name: str, where: str, *, unique: bool = False) -> None:
    columns, clause = ["app_id", "bind_id"], sa.text(where)
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index(name, table, if_exists=True)
        op.create_index(name, table, columns, unique=unique, sqlite_where=clause)
        return
    new = f"{name}_new"
    with outside_transaction():
        op.drop_index(new, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(new, table, columns, unique=unique, postgresql_where=clause, postgresql_concurrently=True)
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.execute(f"ALTER INDEX {new} RENAME TO {name}")


# Events on PostgreSQL.


def _widen_kind() -> None:
    """Drop the list of kinds, widen the column, and build the indexes that name it; no lock is kept for long."""
    lock_until_commit("events")
    partitions = _partitions()
    for statement in (
        *(f"DROP INDEX IF EXISTS {name}" for name in PARTIAL_INDEXES),
        *(f"DROP INDEX IF EXISTS {own}" for _, own, _, _ in _partial_indexes(partitions)),
        *(f"DROP INDEX IF EXISTS uq_{partition}_terminal" for partition in partitions),
        "ALTER TABLE events DROP CONSTRAINT IF EXISTS ck_events_kind",
        "ALTER TABLE events ALTER kind TYPE varchar(32)",
        "ALTER TABLE tallies ALTER kind TYPE varchar(32)",
        *(f"CREATE INDEX {name} ON ONLY events {what}" for name, what in PARTIAL_INDEXES.items()),
    ):
        op.execute(statement)
    with outside_transaction():  # the lock ends here
        for partition in partitions:
            name = f"uq_{partition}_terminal"
            op.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {partition} (binding_id) WHERE {TERMINAL}")
        for _, own, partition, what in _partial_indexes(partitions):
            op.execute(f"CREATE INDEX CONCURRENTLY {own} ON {partition} {what}")


def _attach_indexes() -> None:
    """Attach the index of each partition to that of the table, which is valid from then on."""
    # Each on its own: no lock is kept while the next one is waited for.
    with outside_transaction(lock_timeout=LOCK_WAIT):
        for name, own, _, _ in _partial_indexes(_partitions()):
            exists = op.get_bind().execute(sa.text(f"SELECT to_regclass('{own}')")).scalar()
            if exists is not None:  # a partition that was created meanwhile has an attached one, by another name
                execute_when_unlocked(f"ALTER INDEX {name} ATTACH PARTITION {own}")


def _partial_indexes(partitions: list[str]) -> list[tuple[str, str, str, str]]:
    """Return for each partial index of a partition: the table's index, its name, the partition, its columns."""
    return [
        (name, name.replace("events", partition), partition, what)
        for name, what in PARTIAL_INDEXES.items()
        for partition in partitions
    ]


def _partitions() -> list[str]:
    return list(op.get_bind().execute(sa.text(PARTITIONS)).scalars())


# Events on SQLite.


def _rebuild_on_sqlite(change: Callable[[str], str]) -> None:
    """Rebuild the table with its definition changed; its indexes and triggers are created again.

    Positions go on after the last one that was ever given, also if retention has deleted it.
    """
    connection = op.get_bind()
    objects = connection.execute(sa.text("SELECT type, sql FROM sqlite_master WHERE tbl_name = 'events'")).all()
    last = connection.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'events'")).scalar()
    [table] = [definition for kind, definition in objects if kind == "table"]
    if change(table) == table:  # a downgrade left it so
        return
    for statement in (
        "ALTER TABLE events RENAME TO old_events",
        change(table),
        f"INSERT INTO events ({COLUMNS}) SELECT {COLUMNS} FROM old_events ORDER BY position",
        "DROP TABLE old_events",
        *(definition for kind, definition in objects if kind != "table" and definition is not None),
    ):
        connection.exec_driver_sql(statement)  # unchanged: a colon in it is not a parameter
    if last is not None:
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'events'")
        connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (last,))
