"""Events in partitions on PostgreSQL; retention's mark; bindings that only move forward; vacuum settings.

The old table becomes the first partition unchanged: a CHECK is validated first, under a lock that blocks no reader
or writer, so that attaching needs no scan under an exclusive lock. The exclusive part is one short transaction: it
waits for its locks for at most half a second, then releases them and tries again, so that no statement queues
behind them for longer. Services may run at the same time, and so may autovacuum, which is cancelled first.

The foreign key from events to bindings is dropped: events are deleted by their own age, and may outlive their
binding. SQLite cannot drop a foreign key without rebuilding the table.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import explained_lock_timeout, lock_until_commit

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

FIRST = "events_start"
SPAN = 10**12  # positions of one partition; the sequence moves to the next one long before its end
FOREIGN_KEY = "CONSTRAINT fk_events_binding_id FOREIGN KEY(binding_id) REFERENCES bindings (id)"
UNIQUE = "CONSTRAINT uq_events_binding_id_sequence UNIQUE"
COMMENT = "The append-only history; triggers refuse UPDATE, DELETE and TRUNCATE"
COLUMNS = "position, tx, binding_id, sequence, kind, at, actor, request_id, detail"
# The indexes of the whole table, without the unique ones, which each partition has of its own.
INDEXES = (
    "SELECT relname, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
    " WHERE indrelid = CAST('events' AS regclass) AND NOT indisunique"
)
INDEX_PAIRS = (
    "SELECT own.relname, parent.relname FROM pg_inherits JOIN pg_class own ON own.oid = inhrelid"
    " JOIN pg_class parent ON parent.oid = inhparent JOIN pg_index ON indexrelid = own.oid"
    " WHERE indrelid = CAST(:first AS regclass)"
)
PARTITIONS = (
    "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
    " WHERE inhparent = CAST('events' AS regclass) ORDER BY pg_class.oid"
)
BACKWARD = "NEW.version < OLD.version OR (OLD.ended_at IS NOT NULL AND NEW.state <> OLD.state)"
GONE_BINDING = "OLD.ended_at IS NOT NULL AND OLD.held_until <"  # ... the mark
GONE_REPORT = "OLD.finished_at <"

# See docs/explanation/performance.md: as the data grows. No fillfactor: every change of a state touches an index.
STORAGE = {
    # The default is a fifth of the table: two million dead rows in ten million.
    "bindings": "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000,"
    " autovacuum_analyze_scale_factor = 0.02",
    "deliveries": "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000",
    "holds": "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000",
    # A few rows that change every few seconds.
    "passes": "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500",
}
# Rows never change: frozen by the first vacuum, so that no later one rewrites an old month.
FROZEN = "autovacuum_freeze_min_age = 0"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _add_marks(sa.String(27))
        _rebuild_on_sqlite(f"{FOREIGN_KEY}, ", "")
        _guard_on_sqlite()
        return
    lock_until_commit("events")
    op.execute(
        f"ALTER TABLE events DROP CONSTRAINT IF EXISTS ck_events_first,"
        f" ADD CONSTRAINT ck_events_first CHECK (position < {SPAN}) NOT VALID"
    )
    with op.get_context().autocommit_block():  # the changes so far are committed, and their lock is released
        _outwait_vacuum("ALTER TABLE events VALIDATE CONSTRAINT ck_events_first")
    for table, options in STORAGE.items():
        _outwait_vacuum(f"ALTER TABLE {table} SET ({options})")
    lock_until_commit("bindings", "events", "reports", "account")
    _add_marks(sa.DateTime(timezone=True))
    _partition()
    _guard_on_postgresql()


def downgrade() -> None:
    """Restore the single table. If there are several partitions, their rows are copied, under a lock."""
    if op.get_bind().dialect.name == "sqlite":
        for trigger in ("bindings_only_forward", "bindings_refuse_delete", "reports_refuse_delete"):
            op.execute(f"DROP TRIGGER {trigger}")
        op.execute("DROP TRIGGER events_refuse_delete")
        _rebuild_on_sqlite(UNIQUE, f"{FOREIGN_KEY}, {UNIQUE}")
        for table in ("events", "reports"):
            _refuse_delete(table, "")
    else:
        for table, options in STORAGE.items():
            names = ", ".join(option.split(" = ")[0] for option in options.split(", "))
            _outwait_vacuum(f"ALTER TABLE {table} RESET ({names})")
        lock_until_commit("bindings", "events", "reports", "account")
        _unguard_on_postgresql()
        _unite()
    for column in ("gone_position", "gone_tx", "kept_from"):
        op.drop_column("account", column)


def _add_marks(instant: sa.types.TypeEngine[Any]) -> None:
    for name, of_type, comment in (
        ("kept_from", instant, "what was over before is gone, or goes; none: everything is kept"),
        ("gone_tx", sa.BigInteger(), "the feed's events up to here are gone, or go: tx"),
        ("gone_position", sa.BigInteger(), "... and position"),
    ):
        op.add_column("account", sa.Column(name, of_type, comment=comment))


# PostgreSQL.


def _outwait_vacuum(statement: str) -> None:
    """Run a statement whose lock blocks vacuum and DDL, and no reader or writer.

    It waits for the lock timeout of env.py. Before that, after deadlock_timeout (1 s), the server cancels an
    autovacuum that blocks the statement.
    """
    with explained_lock_timeout():
        op.execute(statement)


def _partition() -> None:
    connection = op.get_bind()
    last = connection.execute(sa.text("SELECT last_value, is_called FROM events_position_seq")).one()
    indexes = connection.execute(sa.text(INDEXES)).all()
    for statement in (
        "ALTER TABLE events DROP CONSTRAINT fk_events_binding_id",
        "ALTER TABLE events ALTER position DROP IDENTITY",
        "DROP TRIGGER events_refuse_change ON events",  # partitions inherit the parent's
        f"ALTER TABLE events RENAME TO {FIRST}",
        f"ALTER TABLE {FIRST} RENAME CONSTRAINT pk_events TO pk_{FIRST}",
        f"ALTER TABLE {FIRST} RENAME CONSTRAINT uq_events_binding_id_sequence TO uq_{FIRST}_binding_id_sequence",
        f"ALTER INDEX uq_events_terminal RENAME TO uq_{FIRST}_terminal",
        *(f"ALTER INDEX {name} RENAME TO {name.replace('events', FIRST)}" for name, _ in indexes),
        f"ALTER TABLE {FIRST} SET ({FROZEN})",
        (
            f"CREATE TABLE events (LIKE {FIRST} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)"
            " PARTITION BY RANGE (position)"
        ),
        "ALTER TABLE events DROP CONSTRAINT ck_events_first",
        "ALTER TABLE events ADD CONSTRAINT pk_events PRIMARY KEY (position)",
        *(definition for _, definition in indexes),  # before the old table is attached: its indexes are then used
        "ALTER TABLE events ALTER position ADD GENERATED ALWAYS AS IDENTITY",
        f"ALTER TABLE events ATTACH PARTITION {FIRST} FOR VALUES FROM (MINVALUE) TO ({SPAN})",
        f"COMMENT ON TABLE events IS '{COMMENT}'",
        *_append_only("events", "refuse_change"),
    ):
        op.execute(statement)
    _go_on_from(last)
    _hand_on_privileges(FIRST, "events")


def _unite() -> None:
    connection = op.get_bind()
    first, *others = connection.execute(sa.text(PARTITIONS)).scalars().all()
    last = connection.execute(sa.text("SELECT last_value, is_called FROM events_position_seq")).one()
    indexes = connection.execute(sa.text(INDEX_PAIRS), {"first": first}).all()
    for statement in (
        *(f"ALTER TABLE events DETACH PARTITION {partition}" for partition in (first, *others)),
        f"ALTER TABLE {first} DROP CONSTRAINT IF EXISTS ck_events_first",
        *(f"INSERT INTO {first} ({COLUMNS}) SELECT {COLUMNS} FROM {other}" for other in others),
        *(f"DROP TABLE {other}" for other in others),
        "DROP TABLE events",
        f"ALTER TABLE {first} RENAME TO events",
        *(f"ALTER INDEX {own} RENAME TO {name}" for own, name in indexes),
        f"ALTER TABLE events RENAME CONSTRAINT uq_{first}_binding_id_sequence TO uq_events_binding_id_sequence",
        f"ALTER INDEX uq_{first}_terminal RENAME TO uq_events_terminal",
        f"ALTER TABLE events RESET ({FROZEN.split(' = ', maxsplit=1)[0]})",
        "ALTER TABLE events ALTER position ADD GENERATED ALWAYS AS IDENTITY",
        # Not validated: retention may have left events of deleted bindings.
        f"ALTER TABLE events ADD {FOREIGN_KEY} NOT VALID",
        f"COMMENT ON TABLE events IS '{COMMENT}'",
        "DROP TRIGGER IF EXISTS events_refuse_truncate ON events",
        *_append_only("events", "refuse_change"),
    ):
        op.execute(statement)
    _go_on_from(last)


def _go_on_from(last: Any) -> None:
    """Continue the new sequence at the last value of the old one."""
    called = "true" if last.is_called else "false"
    op.execute(f"SELECT setval('events_position_seq', {last.last_value}, {called})")


def _append_only(table: str, by: str) -> tuple[str, str]:
    return (
        (
            f"CREATE TRIGGER {table}_refuse_change BEFORE UPDATE OR DELETE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION {by}()"
        ),
        (
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        ),
    )


def _hand_on_privileges(old: str, new: str) -> None:
    granted = sa.text(
        "SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, privilege_type"
        " FROM pg_class, aclexplode(relacl) WHERE oid = CAST(:old AS regclass) AND grantee <> relowner"
    )
    for grantee, privilege in op.get_bind().execute(granted, {"old": old}).all():
        op.execute(f"GRANT {privilege} ON {new} TO {grantee}")


def _guard_on_postgresql() -> None:
    """Create the triggers: bindings only move forward, and only rows below retention's mark can be deleted."""
    for statement in (
        (
            "CREATE FUNCTION refuse_backward() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'bindings only move forward' USING ERRCODE = 'insufficient_privilege';"
            " END $$"
        ),
        # Costs only the condition, and only for updates.
        (
            f"CREATE TRIGGER bindings_only_forward BEFORE UPDATE ON bindings FOR EACH ROW WHEN ({BACKWARD})"
            " EXECUTE FUNCTION refuse_backward()"
        ),
        (
            "CREATE TRIGGER bindings_refuse_truncate BEFORE TRUNCATE ON bindings"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_backward()"
        ),
        _unless_gone("bindings", GONE_BINDING, "only move forward"),
        (
            "CREATE TRIGGER bindings_refuse_delete BEFORE DELETE ON bindings"
            " FOR EACH ROW EXECUTE FUNCTION refuse_kept_bindings()"
        ),
        _unless_gone("reports", GONE_REPORT, "are append-only"),
        "DROP TRIGGER reports_refuse_change ON reports",
        _append_only("reports", "refuse_kept_reports")[0],
    ):
        op.execute(statement)


def _unless_gone(table: str, gone: str, refused: str) -> str:
    return (
        f"CREATE FUNCTION refuse_kept_{table}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF TG_OP = 'DELETE' AND {gone} (SELECT kept_from FROM account) THEN RETURN OLD; END IF;"
        f" RAISE EXCEPTION '{table} {refused}' USING ERRCODE = 'insufficient_privilege'; END $$"
    )


def _unguard_on_postgresql() -> None:
    for statement in (
        *(
            f"DROP TRIGGER bindings_{name} ON bindings"
            for name in ("only_forward", "refuse_truncate", "refuse_delete")
        ),
        "DROP TRIGGER reports_refuse_change ON reports",
        _append_only("reports", "refuse_change")[0],
        *(f"DROP FUNCTION refuse_{name}()" for name in ("backward", "kept_bindings", "kept_reports")),
    ):
        op.execute(statement)


# SQLite.


def _rebuild_on_sqlite(without: str, instead: str) -> None:
    """Rebuild the table with a part of its definition replaced; its indexes and triggers are created again."""
    found = op.get_bind().execute(sa.text("SELECT type, sql FROM sqlite_master WHERE tbl_name = 'events'")).all()
    [table] = [sql for kind, sql in found if kind == "table"]
    if table.count(without) != 1:
        raise ValueError("the table events is not as the migrations before made it")
    for statement in (
        "ALTER TABLE events RENAME TO old_events",
        table.replace(without, instead),
        f"INSERT INTO events ({COLUMNS}) SELECT {COLUMNS} FROM old_events ORDER BY position",
        "DROP TABLE old_events",
        *(sql for kind, sql in found if kind != "table" and sql is not None),
    ):
        op.get_bind().exec_driver_sql(statement)  # unchanged: a colon in it is not a parameter


def _guard_on_sqlite() -> None:
    for table in ("events", "reports"):
        op.execute(f"DROP TRIGGER {table}_refuse_delete")
    _refuse_delete("events", " WHEN OLD.position > (SELECT coalesce(max(gone_position), 0) FROM account)")
    kept_from = "(SELECT coalesce(max(kept_from), '') FROM account)"
    _refuse_delete("reports", f" WHEN NOT ({GONE_REPORT} {kept_from})")
    _refuse_delete("bindings", f" WHEN NOT ({GONE_BINDING} {kept_from})", "only move forward")
    op.execute(
        f"CREATE TRIGGER bindings_only_forward BEFORE UPDATE ON bindings WHEN {BACKWARD}"
        " BEGIN SELECT RAISE(ABORT, 'bindings only move forward'); END"
    )


def _refuse_delete(table: str, when: str, refused: str = "are append-only") -> None:
    op.execute(
        f"CREATE TRIGGER {table}_refuse_delete BEFORE DELETE ON {table}{when}"
        f" BEGIN SELECT RAISE(ABORT, '{table} {refused}'); END"
    )
