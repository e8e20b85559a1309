"""What was asked for is not changed: triggers on bindings and exports, and one named way around them.

A binding keeps its parties, its caller and what was requested. Its deadlines change only when a successor that
waited is cleared to be sent, its idempotency key only when the bind has failed and gives it back, and what the
provider assigned is set once. An export keeps what was recorded when it began, and is finished once.

The way around is `account.maintenance_until`: until that instant the triggers let a change pass. The role of the
application cannot set it. Code of 0008 to 0014 makes none of the changes that are refused now.

On PostgreSQL the column is committed before the triggers are created; an interrupted migration is repeated from
its beginning.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

READABLE_FROM = "0008"
LOSSES: dict[str, str] = {}
COLUMN = "maintenance_until"
COMMENT = "until then the triggers let what was asked for be changed; none: they do not"

AS_ASKED = (
    *("id", "mode", "phone_a", "phone_b", "pool_number", "app_id", "scope", "reference", "fingerprint"),
    *("replaces", "expire_s", "max_expire_s", "warn_s", "actor", "request_id"),
)
DEADLINES = "requested_at", "send_by", "settle_by"
ASSIGNED = "bind_id", "middle_number_a", "middle_number_b"
EXPORTED = "id", "began_at", "actor", "request_id", "view", "filter", "format", "reason"

CLEARED = "OLD.waits_for IS NOT NULL AND NEW.waits_for IS NULL AND NEW.state = 'pending'"
KEY_FREED = (
    "OLD.ended_at IS NULL AND NEW.state = 'failed' AND NEW.idempotency_key IS NULL AND NEW.duplicate_key IS NULL"
    " AND NEW.freed_key = coalesce(OLD.idempotency_key, OLD.duplicate_key)"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.add_column("account", sa.Column(COLUMN, sa.String(27), comment=COMMENT))
        statements = _triggers_of_sqlite()
    else:
        # A transaction of its own: a bind reads `account` before it writes to `bindings`, which is locked later.
        with op.get_context().autocommit_block():
            op.execute(f"ALTER TABLE account ADD COLUMN IF NOT EXISTS {COLUMN} timestamptz")
            op.execute(f"COMMENT ON COLUMN account.{COLUMN} IS '{COMMENT}'")
        statements = _triggers_of_postgresql()
    for statement in statements:
        op.execute(statement)
    op.execute(f"INSERT INTO schema_info (revision, readable_from) VALUES ('{revision}', '{READABLE_FROM}')")


def downgrade() -> None:
    op.execute(f"DELETE FROM schema_info WHERE revision = '{revision}'")
    for table, triggers in (
        ("bindings", ("as_asked",)),
        ("exports", ("as_recorded", "refuse_delete", "refuse_truncate")),
    ):
        for name in triggers:
            if op.get_bind().dialect.name == "postgresql":
                op.execute(f"DROP TRIGGER {table}_{name} ON {table}")
            elif name != "refuse_truncate":
                op.execute(f"DROP TRIGGER {table}_{name}")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_rewriting()")
    op.drop_column("account", COLUMN)


def _rewritten(differ: str) -> dict[str, str]:
    """Return, by table, the condition of a change that is refused; `differ` compares two values and takes NULL."""

    def changed(*columns: str) -> str:
        return " OR ".join(f"NEW.{column} {differ} OLD.{column}" for column in columns)

    keys = changed("idempotency_key", "duplicate_key", "freed_key")
    assigned = " OR ".join(
        f"(NEW.{column} {differ} OLD.{column} AND (OLD.{column} IS NOT NULL OR OLD.ended_at IS NOT NULL))"
        for column in ASSIGNED
    )
    return {
        "bindings": (
            f"{changed(*AS_ASKED)} OR {assigned}"
            f" OR (({changed(*DEADLINES)}) AND NOT ({CLEARED}))"
            f" OR (({keys}) AND NOT coalesce({KEY_FREED}, false))"
            f" OR (NEW.waits_for IS NOT NULL AND NEW.waits_for {differ} OLD.waits_for)"
        ),
        "exports": f"OLD.finished_at IS NOT NULL OR {changed(*EXPORTED)}",
    }


def _triggers_of_sqlite() -> list[str]:
    now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    barred = f"coalesce((SELECT max({COLUMN}) FROM account), '') <= {now}"
    refuse = "BEGIN SELECT RAISE(ABORT, '{} keep what was recorded'); END"
    rewritten = _rewritten("IS NOT")
    return [
        (
            f"CREATE TRIGGER bindings_as_asked BEFORE UPDATE ON bindings WHEN ({rewritten['bindings']})"
            f" AND {barred} {refuse.format('bindings')}"
        ),
        (
            f"CREATE TRIGGER exports_as_recorded BEFORE UPDATE ON exports WHEN ({rewritten['exports']})"
            f" AND {barred} {refuse.format('exports')}"
        ),
        f"CREATE TRIGGER exports_refuse_delete BEFORE DELETE ON exports WHEN {barred} {refuse.format('exports')}",
    ]


def _triggers_of_postgresql() -> list[str]:
    rewritten = _rewritten("IS DISTINCT FROM")
    return [
        # The fixed search path keeps temporary tables of the caller out: one may have the name `account`.
        (
            "CREATE FUNCTION refuse_rewriting() RETURNS trigger LANGUAGE plpgsql"
            " SET search_path = pg_catalog, pg_temp AS $$ DECLARE until timestamptz; BEGIN"
            f" EXECUTE format('SELECT {COLUMN} FROM %I.account', TG_TABLE_SCHEMA) INTO until;"
            " IF until > clock_timestamp() THEN"
            " IF TG_OP = 'UPDATE' THEN RETURN NEW; END IF; RETURN OLD; END IF;"
            " RAISE EXCEPTION '% keep what was recorded', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';"
            " END $$"
        ),
        (
            "CREATE TRIGGER exports_as_recorded BEFORE UPDATE ON exports FOR EACH ROW"
            f" WHEN ({rewritten['exports']}) EXECUTE FUNCTION refuse_rewriting()"
        ),
        (
            "CREATE TRIGGER exports_refuse_delete BEFORE DELETE ON exports FOR EACH ROW"
            " EXECUTE FUNCTION refuse_rewriting()"
        ),
        (
            "CREATE TRIGGER exports_refuse_truncate BEFORE TRUNCATE ON exports FOR EACH STATEMENT"
            " EXECUTE FUNCTION refuse_rewriting()"
        ),
        (  # the last one: it blocks writers until the end of the transaction
            "CREATE TRIGGER bindings_as_asked BEFORE UPDATE ON bindings FOR EACH ROW"
            f" WHEN ({rewritten['bindings']}) EXECUTE FUNCTION refuse_rewriting()"
        ),
    ]
