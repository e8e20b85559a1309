"""Bindings, holds, events and the runs of jobs (`passes`).

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TERMINAL = "kind IN ('failed', 'expired', 'unbound', 'lapsed')"
KINDS = (
    "kind IN ('requested', 'activated', 'failed', 'in_doubt', 'adopted', 'expired', 'unbind_requested',"
    " 'unbound', 'unbind_confirmed', 'lapsed', 'refused', 'late_success', 'held', 'hold_ended', 'drifted',"
    " 'revealed', 'expires_soon', 'pool_low')"
)


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    # SQLite keeps instants as ISO 8601 text with microseconds and Z, and ids as canonical text.
    instant = sa.String(27) if sqlite else sa.DateTime(timezone=True)
    key = sa.String(36) if sqlite else sa.Uuid(as_uuid=False)
    detail = sa.JSON() if sqlite else postgresql.JSONB()

    op.create_table(
        "account",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False, comment="always 1"),
        sa.Column(
            "scope",
            sa.String(64),
            nullable=False,
            comment="stable account name that every lock and hold carries",
        ),
        sa.Column(
            "scan_owed_since", instant, comment="after a restore: no bind until a full scan has begun after this"
        ),
        sa.Column("host", sa.String(64), comment="SQLite: the host at work"),
        sa.Column("host_seen_at", instant, comment="SQLite: when that host was last at work"),
        sa.PrimaryKeyConstraint("id", name="pk_account"),
        sa.CheckConstraint("id = 1", name=op.f("ck_account_single")),
        comment="Which provider account this database belongs to",
    )
    op.create_table(
        "bindings",
        sa.Column("id", key, nullable=False, comment="UUIDv7, made before the call"),
        sa.Column("mode", sa.String(4), nullable=False, comment="AXB or AXXB"),
        sa.Column("phone_a", sa.String(20), nullable=False, comment="real phone of party A, digits"),
        sa.Column("phone_b", sa.String(20), nullable=False, comment="real phone of party B, digits"),
        sa.Column("pool_number", sa.String(20), nullable=False, comment="pool that the middle number comes from"),
        sa.Column("app_id", sa.String(64), nullable=False, comment="the provider's application"),
        sa.Column("scope", sa.String(64), nullable=False, comment="account within which phones conflict"),
        sa.Column("reference", sa.String(255), comment="the caller's order id"),
        sa.Column("idempotency_key", sa.String(255), comment="the caller's key; unique per app_id, for ever"),
        sa.Column("fingerprint", sa.String(64), comment="hash of the normalised request that used the key"),
        sa.Column("expire_s", sa.Integer, nullable=False, comment="seconds asked for"),
        sa.Column("bind_id", sa.String(64), comment="the provider's id"),
        sa.Column("middle_number_a", sa.String(32), comment="what A sees and calls"),
        sa.Column("middle_number_b", sa.String(32), comment="what B sees and calls"),
        sa.Column(
            "state",
            sa.String(8),
            nullable=False,
            comment="pending, active, in_doubt, failed, expired, unbound, lapsed",
        ),
        sa.Column("provider_status", sa.String(16), comment="the provider's status where it decided the state"),
        sa.Column("reason", sa.String(255), comment="why the state is what it is"),
        sa.Column("actor", sa.String(128), nullable=False, comment="who asked for the binding"),
        sa.Column("request_id", sa.String(128), comment="the request that asked for it"),
        sa.Column("requested_at", instant, nullable=False, comment="database time of the intent"),
        sa.Column("send_by", instant, nullable=False, comment="no request leaves after this"),
        sa.Column("settle_by", instant, nullable=False, comment="a pending binding past this is in doubt"),
        sa.Column("sent_at", instant, comment="not later than the first byte of the request"),
        sa.Column("answered_at", instant, comment="not earlier than the answer"),
        sa.Column("expires_at", instant, comment="earliest instant at which the provider may end it"),
        sa.Column(
            "held_until",
            instant,
            nullable=False,
            comment="latest instant at which the provider may hold the phones",
        ),
        sa.Column("unbind_requested_at", instant, comment="from here on it is offered to nobody"),
        sa.Column("ended_at", instant, comment="when it ended; for expired the nominal end"),
        sa.Column("version", sa.Integer, nullable=False, comment="counts the events of this binding"),
        sa.Column(
            "change_tx",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("0"),
            comment="transaction of the last change, never less than an earlier one's; orders the feed",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_bindings"),
        sa.CheckConstraint(
            "state IN ('pending', 'active', 'in_doubt', 'failed', 'expired', 'unbound', 'lapsed')",
            name=op.f("ck_bindings_state"),
        ),
        sa.CheckConstraint("mode IN ('AXB', 'AXXB')", name=op.f("ck_bindings_mode")),
        sa.CheckConstraint("expire_s BETWEEN 1 AND 259200", name=op.f("ck_bindings_expire_s")),
        sa.CheckConstraint("phone_a <> phone_b", name=op.f("ck_bindings_two_phones")),
        sa.CheckConstraint(
            "state NOT IN ('active', 'expired', 'unbound') OR (bind_id IS NOT NULL AND middle_number_a IS NOT NULL"
            " AND middle_number_b IS NOT NULL AND expires_at IS NOT NULL)",
            name=op.f("ck_bindings_made"),
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (state IN ('pending', 'in_doubt', 'active'))",
            name=op.f("ck_bindings_ended"),
        ),
        sa.CheckConstraint(
            "expires_at IS NULL OR expires_at <= held_until OR ended_at IS NOT NULL",
            name=op.f("ck_bindings_held"),
        ),
        comment="Every binding ever asked for",
    )
    for column in ("phone_a", "phone_b", "middle_number_a", "middle_number_b"):
        op.create_index(f"ix_bindings_{column}_held_until", "bindings", [column, "held_until"])
    op.create_index("ix_bindings_requested_at_id", "bindings", ["requested_at", "id"])
    _partial_index("ix_bindings_due", "bindings", ["expires_at"], "state = 'active'")
    _partial_index("ix_bindings_unsettled", "bindings", ["settle_by"], "state = 'pending'")
    _partial_index("ix_bindings_in_doubt", "bindings", ["held_until"], "state = 'in_doubt'")
    _partial_index(
        "ix_bindings_unbinding",
        "bindings",
        ["unbind_requested_at"],
        "state = 'active' AND unbind_requested_at IS NOT NULL",
    )
    _partial_index("ix_bindings_reference", "bindings", ["reference", "requested_at"], "reference IS NOT NULL")
    _partial_index(
        "uq_bindings_app_id_bind_id", "bindings", ["app_id", "bind_id"], "bind_id IS NOT NULL", unique=True
    )
    _partial_index(
        "uq_bindings_app_id_idempotency_key",
        "bindings",
        ["app_id", "idempotency_key"],
        "idempotency_key IS NOT NULL",
        unique=True,
    )

    op.create_table(
        "holds",
        sa.Column("id", key, nullable=False, comment="UUIDv7"),
        sa.Column("scope", sa.String(64), nullable=False, comment="account within which phones conflict"),
        sa.Column("phone", sa.String(20), nullable=False, comment="the phone that is held, digits"),
        sa.Column("why", sa.String(16), nullable=False, comment="orphan, refused or late_success"),
        sa.Column("app_id", sa.String(64), nullable=False, comment="the provider's application"),
        sa.Column("bind_id", sa.String(64), comment="the provider's id where it is known"),
        sa.Column("origin_id", key, comment="the binding of ours that it came from, where it did"),
        sa.Column("held_until", instant, nullable=False, comment="the phone counts as held until then"),
        sa.Column(
            "strikes",
            sa.Integer,
            nullable=False,
            comment="how often the provider refused this phone in a row",
        ),
        sa.Column("created_at", instant, nullable=False, comment="database time of the first sight"),
        sa.PrimaryKeyConstraint("id", name="pk_holds"),
        sa.CheckConstraint("why IN ('orphan', 'refused', 'late_success')", name=op.f("ck_holds_why")),
        comment="Phones that something other than a binding of ours holds at the provider",
    )
    op.create_index("ix_holds_phone_held_until", "holds", ["phone", "held_until"])
    op.create_index("ix_holds_held_until", "holds", ["held_until"])
    _partial_index(
        "uq_holds_known", "holds", ["scope", "phone", "app_id", "bind_id"], "bind_id IS NOT NULL", unique=True
    )
    _partial_index("uq_holds_unknown", "holds", ["scope", "phone"], "bind_id IS NULL", unique=True)

    position = sa.Integer() if sqlite else sa.BigInteger()
    op.create_table(
        "events",
        sa.Column("position", position, sa.Identity(always=True), nullable=False, comment="order of writing"),
        sa.Column(
            "tx",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("0"),
            comment="writer's transaction; the feed reads below the oldest running one",
        ),
        sa.Column("binding_id", key, comment="none for what belongs to no binding"),
        sa.Column(
            "sequence",
            sa.Integer,
            nullable=False,
            comment="counts the events of a binding from 1; 0 without one",
        ),
        sa.Column("kind", sa.String(16), nullable=False, comment="what happened"),
        sa.Column("at", instant, nullable=False, comment="database time"),
        sa.Column("actor", sa.String(128), nullable=False, comment="who did it"),
        sa.Column("request_id", sa.String(128), comment="the request that did it"),
        sa.Column("detail", detail, nullable=False, comment="facts of this kind of event; no phones"),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.ForeignKeyConstraint(["binding_id"], ["bindings.id"], name="fk_events_binding_id"),
        sa.UniqueConstraint("binding_id", "sequence", name="uq_events_binding_id_sequence"),
        sa.CheckConstraint(KINDS, name=op.f("ck_events_kind")),
        sqlite_autoincrement=True,
        comment="The append-only history; triggers refuse UPDATE, DELETE and TRUNCATE",
    )
    op.create_index("ix_events_tx_position", "events", ["tx", "position"])
    _partial_index("uq_events_terminal", "events", ["binding_id"], TERMINAL, unique=True)

    op.create_table(
        "reports",
        sa.Column("id", key, nullable=False, comment="UUIDv7"),
        sa.Column("began_at", instant, nullable=False, comment="database time before the first page was read"),
        sa.Column("finished_at", instant, nullable=False, comment="database time after the last conclusion"),
        sa.Column("actor", sa.String(128), nullable=False, comment="who asked for it"),
        sa.Column("counts", detail, nullable=False, comment="how many of each case"),
        sa.Column("cases", detail, nullable=False, comment="every case with its ids; no phones"),
        sa.PrimaryKeyConstraint("id", name="pk_reports"),
        comment="What each reconciliation found; triggers refuse UPDATE, DELETE and TRUNCATE",
    )
    op.create_index("ix_reports_began_at_id", "reports", ["began_at", "id"])
    (_protect_on_sqlite if sqlite else _protect_on_postgresql)()

    op.create_table(
        "passes",
        sa.Column("task", sa.String(32), nullable=False, comment="expire, recover or reconcile"),
        sa.Column("slot", sa.BigInteger, autoincrement=False, nullable=False, comment="period that it ran for"),
        sa.Column("started_at", instant, nullable=False, comment="database time"),
        sa.Column("finished_at", instant, comment="none while it runs, or if it died"),
        sa.Column("replica", sa.String(128), nullable=False, comment="host and process that ran it"),
        sa.Column("counts", detail, comment="what the pass did"),
        sa.PrimaryKeyConstraint("task", "slot", name="pk_passes"),
        comment="Who ran which pass when: work that must run once per period takes a row here",
    )
    op.create_index("ix_passes_task_finished_at", "passes", ["task", "finished_at"])


def downgrade() -> None:
    for table in ("passes", "reports", "events", "holds", "bindings", "account"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    clause = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=clause, postgresql_where=clause)


APPEND_ONLY = ("events", "reports")


def _protect_on_sqlite() -> None:
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END"
            )


def _protect_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION '% are append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';"
        " END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_refuse_change BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
