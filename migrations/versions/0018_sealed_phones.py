"""Sealed phones: room for a blind index in place of the digits, and for the encrypted digits beside it.

Nothing is encrypted here: `bindings phones seal` does that, and until then code of 0008 to 0017 works on the
schema. No row is rewritten: on PostgreSQL a longer varchar changes the catalog only. The trigger that refuses to
change what was asked for names the columns whose type changes, so it is made again; it guards the new ones too.

On PostgreSQL each table is locked for itself, for half a second at a time, and committed; an interrupted migration
is repeated from its beginning.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from bindings.store.migration_locks import locked

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES: dict[str, str] = {}
OBSTACLES = {
    "phones are encrypted, and code of 0017 cannot read them": (
        "SELECT 1 FROM account WHERE phone_index_key IS NOT NULL"
    )
}
BOTH = {
    "phone_a": "real phone of party A: digits, or its blind index",
    "phone_b": "real phone of party B: digits, or its blind index",
}
BOTH_BEFORE = {"phone_a": "real phone of party A, digits", "phone_b": "real phone of party B, digits"}
SEALED = {
    "phone_a_sealed": "encrypted digits; none: they are in phone_a",
    "phone_b_sealed": "encrypted digits; none: they are in phone_b",
}
KEY = {"phone_key": "data key of the encrypted digits"}
SEARCHED = {
    "number": "number that was looked for: digits, or its blind index",
    "party": "the other phone of the call: digits, or its blind index",
}
SEARCHED_BEFORE = {
    "number": "the phone or middle number that was looked for, digits",
    "party": "the other phone of the call, digits",
}
WIDENED = {
    "holds": {"phone": "the phone that is held: digits, or its blind index"},
    "refusals": BOTH,
    "searches": SEARCHED,
    "bindings": BOTH,
}
BEFORE = {
    "holds": {"phone": "the phone that is held, digits"},
    "refusals": BOTH_BEFORE,
    "searches": SEARCHED_BEFORE,
    "bindings": BOTH_BEFORE,
}
BYTES = {
    "holds": {"phone_sealed": "encrypted digits; none: they are in phone"},
    "refusals": SEALED,
    "searches": {
        "number_sealed": "encrypted digits; none: they are in number",
        "party_sealed": "encrypted digits; none: they are in party",
    },
    "bindings": SEALED,
}
OF_ACCOUNT = {
    "phone_index_key": ("smallint", "index key that phones are written with; none: as digits"),
    "phone_data_key": ("smallint", "data key that phones are sealed with; none: they are not"),
    "phone_key_checks": ("jsonb", "by kind:number a check value of each key that rows need"),
    "phones_sealed_at": ("timestamptz", "since then no row has a phone in digits"),
}
OF_SQLITE: dict[str, Any] = {"smallint": sa.SmallInteger(), "jsonb": sa.JSON(), "timestamptz": sa.String(27)}

AS_ASKED = (
    *("id", "mode", "phone_a", "phone_b", "pool_number", "app_id", "scope", "reference", "fingerprint"),
    *("replaces", "expire_s", "max_expire_s", "warn_s", "actor", "request_id"),
)
DEADLINES = "requested_at", "send_by", "settle_by"
ASSIGNED = "bind_id", "middle_number_a", "middle_number_b"
CLEARED = "OLD.waits_for IS NOT NULL AND NEW.waits_for IS NULL AND NEW.state = 'pending'"
KEY_FREED = (
    "OLD.ended_at IS NULL AND NEW.state = 'failed' AND NEW.idempotency_key IS NULL AND NEW.duplicate_key IS NULL"
    " AND NEW.freed_key = coalesce(OLD.idempotency_key, OLD.duplicate_key)"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _upgrade_sqlite()
    else:
        with locked("account"):
            for name, (kind, comment) in OF_ACCOUNT.items():
                op.execute(f"ALTER TABLE account ADD COLUMN IF NOT EXISTS {name} {kind}")
                op.execute(f"COMMENT ON COLUMN account.{name} IS '{comment}'")
        for table in WIDENED:
            with locked(table):
                if table == "bindings":
                    op.execute("DROP TRIGGER bindings_as_asked ON bindings")
                _widen(table)
                if table == "bindings":
                    op.execute(_trigger_of_postgresql((*AS_ASKED, *SEALED, *KEY)))
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    """Undo the change; refused once phones are encrypted, because older code cannot read them."""
    for reason, query in OBSTACLES.items():
        if op.get_bind().execute(sa.text(query)).scalar() is not None:
            raise RuntimeError(f"{reason}; nothing was changed")
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute("DROP TRIGGER bindings_as_asked" + (" ON bindings" if postgresql else ""))
    for table, columns in BEFORE.items():
        for name, comment in columns.items():
            if postgresql:
                op.execute(f"ALTER TABLE {table} ALTER COLUMN {name} TYPE varchar(20)")
                op.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")
        for name in (*BYTES[table], *KEY):
            op.drop_column(table, name)
    for name in OF_ACCOUNT:
        op.drop_column("account", name)
    op.execute((_trigger_of_postgresql if postgresql else _trigger_of_sqlite)(AS_ASKED))


def _upgrade_sqlite() -> None:
    """Add the columns; SQLite limits no length, so the others stay as they are."""
    for name, (kind, comment) in OF_ACCOUNT.items():
        op.add_column("account", sa.Column(name, OF_SQLITE[kind], comment=comment))
    for table, columns in BYTES.items():
        for name, comment in columns.items():
            op.add_column(table, sa.Column(name, sa.LargeBinary(), comment=comment))
        op.add_column(table, sa.Column("phone_key", sa.SmallInteger(), comment=KEY["phone_key"]))
    op.execute("DROP TRIGGER bindings_as_asked")
    op.execute(_trigger_of_sqlite((*AS_ASKED, *SEALED, *KEY)))


def _widen(table: str) -> None:
    changes = [f"ALTER COLUMN {name} TYPE varchar(64)" for name in WIDENED[table]]
    changes += [f"ADD COLUMN IF NOT EXISTS {name} bytea" for name in BYTES[table]]
    op.execute(f"ALTER TABLE {table} {', '.join(changes)}, ADD COLUMN IF NOT EXISTS phone_key smallint")
    for name, comment in (WIDENED[table] | BYTES[table] | KEY).items():
        op.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")


def _rewritten(differ: str, as_asked: tuple[str, ...]) -> str:
    """Return the condition of a change that is refused; `differ` compares two values and takes NULL."""

    def changed(*columns: str) -> str:
        return " OR ".join(f"NEW.{column} {differ} OLD.{column}" for column in columns)

    keys = changed("idempotency_key", "duplicate_key", "freed_key")
    assigned = " OR ".join(
        f"(NEW.{column} {differ} OLD.{column} AND (OLD.{column} IS NOT NULL OR OLD.ended_at IS NOT NULL))"
        for column in ASSIGNED
    )
    return (
        f"{changed(*as_asked)} OR {assigned}"
        f" OR (({changed(*DEADLINES)}) AND NOT ({CLEARED}))"
        f" OR (({keys}) AND NOT coalesce({KEY_FREED}, false))"
        f" OR (NEW.waits_for IS NOT NULL AND NEW.waits_for {differ} OLD.waits_for)"
    )


def _trigger_of_sqlite(as_asked: tuple[str, ...]) -> str:
    now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    barred = f"coalesce((SELECT max(maintenance_until) FROM account), '') <= {now}"
    return (
        f"CREATE TRIGGER bindings_as_asked BEFORE UPDATE ON bindings WHEN ({_rewritten('IS NOT', as_asked)})"
        f" AND {barred} BEGIN SELECT RAISE(ABORT, 'bindings keep what was recorded'); END"
    )


def _trigger_of_postgresql(as_asked: tuple[str, ...]) -> str:
    return (
        "CREATE TRIGGER bindings_as_asked BEFORE UPDATE ON bindings FOR EACH ROW"
        f" WHEN ({_rewritten('IS DISTINCT FROM', as_asked)}) EXECUTE FUNCTION refuse_rewriting()"
    )
