"""The tables: names, types, constraints, indexes, and a comment on each column. No queries.

The types of the columns are in `column_types`. The migrations in `migrations/` are written by hand; a test
compares them with this metadata (comments too, on PostgreSQL).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from bindings.domain.binding import TERMINAL_KINDS, Mode, State
from bindings.store.column_types import BindingId, Detail, Instant, PhoneKeyNumber, PhoneNumber, Position

if TYPE_CHECKING:
    from enum import StrEnum

SEALED_PHONES = "0018"  # the first revision whose code reads encrypted phones
HEAD = "0024"  # the migration that this code needs; a test checks that it is the newest one

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


def _one_of(column: str, values: type[StrEnum]) -> str:
    literals = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({literals})"


def _only(condition: str) -> dict[str, Any]:
    """Return the options of a partial index over the rows that meet `condition`, for both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


# PostgreSQL looks up the beginning of a text only in an index that compares byte by byte.
_BYTE_ORDER = {"reference": "varchar_pattern_ops"}

metadata = MetaData(naming_convention=NAMING)

KEY = "coalesce(idempotency_key, duplicate_key)"

account = Table(
    "account",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="always 1"),
    Column("scope", String(64), nullable=False, comment="stable account name that every lock and hold carries"),
    Column(
        "scan_owed_since",
        Instant,
        comment="after a restore: no bind until a full scan that began later is complete; NULL: none is owed",
    ),
    Column("host", String(64), comment="SQLite: the host whose processes use the file"),
    Column("host_seen_at", Instant, comment="SQLite: when a process of that host last used the file"),
    Column("kept_from", Instant, comment="retention deletes what ended before; NULL: everything is kept"),
    Column(
        "gone_tx", BigInteger, comment="retention deletes the events of the feed up to this one: tx of the event"
    ),
    Column("gone_position", BigInteger, comment="position of that event"),
    Column(
        "tx_offset",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="added to every transaction number of the feed, after a move to another cluster",
    ),
    Column(
        "maintenance_until",
        Instant,
        comment="until then the triggers allow the changes of a maintenance command; NULL: they allow none",
    ),
    Column(
        "phone_index_key",
        SmallInteger,
        comment="number of the index key of stored phones; NULL: phones are stored as digits",
    ),
    Column(
        "phone_data_key",
        SmallInteger,
        comment="number of the data key that encrypts phones; NULL: phones are stored as digits",
    ),
    Column("phone_key_checks", Detail, comment="check value of each key that rows need, by kind:number"),
    Column(
        "phones_sealed_at",
        Instant,
        comment="when the last phone in digits was encrypted; NULL: some rows may have digits",
    ),
    CheckConstraint("id = 1", name="single"),
    comment="The provider account of this database; one row",
)

RELEASE_OWED = "state = 'expired' AND provider_expires_at > ended_at"

bindings = Table(
    "bindings",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7, made before the call of the provider"),
    Column("mode", String(4), nullable=False, comment="AXB or AXXB"),
    Column("phone_a", PhoneNumber, nullable=False, comment="real phone of party A: digits, or its blind index"),
    Column("phone_b", PhoneNumber, nullable=False, comment="real phone of party B: digits, or its blind index"),
    Column("phone_a_sealed", LargeBinary, comment="encrypted digits; NULL: phone_a has the digits"),
    Column("phone_b_sealed", LargeBinary, comment="encrypted digits; NULL: phone_b has the digits"),
    Column("phone_key", PhoneKeyNumber, comment="data key of the encrypted digits"),
    Column("pool_number", String(20), nullable=False, comment="pool that the middle number comes from"),
    Column("app_id", String(64), nullable=False, comment="the provider's application"),
    Column("scope", String(64), nullable=False, comment="account within which phones conflict"),
    Column("reference", String(255), comment="the caller's order id"),
    Column(
        "idempotency_key",
        String(255),
        comment="the caller's key, unless another actor of the app_id used it first",
    ),
    Column("duplicate_key", String(255), comment="the caller's key, if another actor of the app_id used it first"),
    Column("freed_key", String(255), comment="the caller's key, if it may be used again: no binding was created"),
    Column("fingerprint", String(64), comment="hash of the normalised request that used the key"),
    Column("replaces", BindingId, comment="the binding that this one replaces"),
    Column("replaced_by", BindingId, comment="the newest binding that replaces this one"),
    Column("waits_for", BindingId, comment="the binding whose end must be confirmed before this one is sent"),
    Column("expire_s", Integer, nullable=False, comment="requested duration in seconds"),
    Column("max_expire_s", Integer, comment="duration in seconds that was sent to the provider; NULL: expire_s"),
    Column("bind_id", String(64), comment="the provider's id"),
    Column("middle_number_a", String(32), comment="middle number of A: the number that A sees and calls"),
    Column("middle_number_b", String(32), comment="middle number of B: the number that B sees and calls"),
    Column(
        "state",
        String(8),
        nullable=False,
        comment="pending, active, in_doubt, failed, expired, unbound, lapsed",
    ),
    Column("provider_status", String(16), comment="the provider's status, if it decided the state"),
    Column("reason", String(255), comment="why the binding is in this state"),
    Column("actor", String(128), nullable=False, comment="who requested the binding"),
    Column("request_id", String(128), comment="request that created the binding"),
    Column("requested_at", Instant, nullable=False, comment="database time of the request"),
    Column("send_by", Instant, nullable=False, comment="the call of the provider is not sent after this"),
    Column("settle_by", Instant, nullable=False, comment="a binding that is still pending after this is in doubt"),
    Column("sent_at", Instant, comment="time before the first byte of the call was sent"),
    Column("answered_at", Instant, comment="time after the response was received"),
    Column("expires_at", Instant, comment="end of the binding as promised to the caller"),
    Column(
        "provider_expires_at",
        Instant,
        comment="earliest time at which the provider may end the binding; NULL: expires_at",
    ),
    Column(
        "held_until",
        Instant,
        nullable=False,
        comment="latest time until which the provider may hold the phones",
    ),
    Column("warn_s", Integer, comment="seconds before the end at which the event expires_soon is due"),
    Column("warn_at", Instant, comment="when the event expires_soon is due; NULL: no event is due"),
    Column(
        "unbind_requested_at",
        Instant,
        comment="when an unbind was requested; no lookup returns the binding from then on",
    ),
    Column("ended_at", Instant, comment="when the binding ended; expires_at if it expired"),
    Column("version", Integer, nullable=False, comment="number of events of the binding"),
    Column(
        "change_tx",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="transaction of the last change, never lower than that of an earlier change; orders the feed",
    ),
    Column(
        "facts_salt",
        String(64),
        comment="salt of the hash in the event, encrypted if phones are; NULL: there is no hash, or it was erased",
    ),
    CheckConstraint(_one_of("state", State), name="state"),
    CheckConstraint(_one_of("mode", Mode), name="mode"),
    CheckConstraint("expire_s BETWEEN 1 AND 259200", name="expire_s"),
    CheckConstraint("phone_a <> phone_b", name="two_phones"),
    CheckConstraint(
        "state NOT IN ('active', 'expired', 'unbound') OR (bind_id IS NOT NULL AND middle_number_a IS NOT NULL"
        " AND middle_number_b IS NOT NULL AND expires_at IS NOT NULL)",
        name="made",
    ),
    CheckConstraint(
        "(ended_at IS NULL) = (state IN ('pending', 'in_doubt', 'active'))",
        name="ended",
    ),
    CheckConstraint("expires_at IS NULL OR expires_at <= held_until OR ended_at IS NOT NULL", name="held"),
    # The holders of a phone or a middle number are derived from these four, for reserve, lookup and trace. A trace
    # and a search read the time of the request from them, so that they do not read the rows of other bindings.
    Index("ix_bindings_phone_a_held_until_requested_at", "phone_a", "held_until", "requested_at"),
    Index("ix_bindings_phone_b_held_until_requested_at", "phone_b", "held_until", "requested_at"),
    Index(
        "ix_bindings_middle_number_a_held_until_requested_at",
        "middle_number_a",
        "held_until",
        "requested_at",
        **_only("middle_number_a IS NOT NULL"),
    ),
    # If both parties have the same number, A's index finds it: see `bindings.middle_number_b_is`.
    Index(
        "ix_bindings_middle_number_b_held_until_requested_at",
        "middle_number_b",
        "held_until",
        "requested_at",
        **_only("middle_number_b <> middle_number_a"),
    ),
    # For the jobs: only live rows are in these.
    Index("ix_bindings_due", "expires_at", **_only("state = 'active'")),
    Index("ix_bindings_unsettled", "settle_by", **_only("state = 'pending'")),
    Index("ix_bindings_in_doubt", "held_until", **_only("state = 'in_doubt'")),
    Index(
        "ix_bindings_unbinding",
        "unbind_requested_at",
        **_only("state = 'active' AND unbind_requested_at IS NOT NULL"),
    ),
    # An expired binding that the provider may still hold: it is to be unbound there.
    Index("ix_bindings_release_owed", "provider_expires_at", **_only(RELEASE_OWED)),
    # A successor that is not sent in time is ended.
    Index("ix_bindings_waiting", "settle_by", **_only("waits_for IS NOT NULL AND ended_at IS NULL")),
    Index("ix_bindings_warn_at", "warn_at", **_only("state = 'active' AND warn_at IS NOT NULL")),
    # The provider may give an id again after its binding has ended.
    Index("uq_bindings_app_id_bind_id", "app_id", "bind_id", unique=True, **_only("state = 'active'")),
    Index("ix_bindings_app_id_bind_id", "app_id", "bind_id", **_only("bind_id IS NOT NULL")),
    # An idempotency key belongs to its actor. The key comes first, for a search that knows no more.
    Index(
        "uq_bindings_idempotency_key_app_id_actor",
        text(KEY),
        "app_id",
        "actor",
        unique=True,
        **_only(f"{KEY} IS NOT NULL"),
    ),
    Index("ix_bindings_freed_key", "freed_key", **_only("freed_key IS NOT NULL")),
    # For replicas of an older version, which look a key up by it; a later version drops it and `duplicate_key`.
    Index(
        "uq_bindings_app_id_idempotency_key",
        "app_id",
        "idempotency_key",
        unique=True,
        **_only("idempotency_key IS NOT NULL"),
    ),
    Index(
        "ix_bindings_reference",
        "reference",
        "requested_at",
        postgresql_ops=_BYTE_ORDER,
        **_only("reference IS NOT NULL"),
    ),
    Index("ix_bindings_requested_at_id", "requested_at", "id"),
    comment="All bindings, from the request on",
)

holds = Table(
    "holds",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("scope", String(64), nullable=False, comment="account within which phones conflict"),
    Column("phone", PhoneNumber, nullable=False, comment="phone that is held: digits, or its blind index"),
    Column("phone_sealed", LargeBinary, comment="encrypted digits; NULL: phone has the digits"),
    Column("phone_key", PhoneKeyNumber, comment="data key of the encrypted digits"),
    Column("why", String(16), nullable=False, comment="orphan, refused or late_success"),
    Column("app_id", String(64), nullable=False, comment="the provider's application"),
    Column("bind_id", String(64), comment="the provider's id, if known"),
    Column("origin_id", BindingId, comment="binding that the hold comes from, if any"),
    Column("held_until", Instant, nullable=False, comment="the phone counts as held until then"),
    Column(
        "strikes", Integer, nullable=False, comment="number of refusals of this phone by the provider in a row"
    ),
    Column("created_at", Instant, nullable=False, comment="database time of the first hold"),
    Column(
        "facts_salt",
        String(64),
        comment="salt of the hash in the event, encrypted if phones are; NULL: there is no hash, or it was erased",
    ),
    CheckConstraint("why IN ('orphan', 'refused', 'late_success')", name="why"),
    Index("ix_holds_phone_held_until", "phone", "held_until"),
    Index("ix_holds_held_until", "held_until"),
    # Each yes of the provider looks for an earlier use of its bind_id.
    Index("ix_holds_app_id_bind_id", "app_id", "bind_id", **_only("bind_id IS NOT NULL")),
    Index("uq_holds_known", "scope", "phone", "app_id", "bind_id", unique=True, **_only("bind_id IS NOT NULL")),
    Index("uq_holds_unknown", "scope", "phone", unique=True, **_only("bind_id IS NULL")),
    comment="Phones that the provider holds for something other than a binding in force here",
)

OF_ACCESS_LOG = "kind = 'revealed' OR kind = 'administered'"
PHONE_SEARCHES = "kind IN ('phone_searched', 'budget_used_up')"
TERMINAL = "kind IN ({})".format(", ".join(f"'{kind}'" for kind in TERMINAL_KINDS))

events = Table(
    "events",
    metadata,
    Column(
        "position",
        Position,
        Identity(always=True),
        primary_key=True,
        comment="order in which the events were written",
    ),
    Column(
        "tx",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="transaction of the event; the feed reads events below the oldest running transaction",
    ),
    # No foreign key: events are deleted by their own age, and may outlive their binding (jobs/retention).
    Column("binding_id", BindingId, comment="binding of the event; NULL: the event belongs to no binding"),
    Column(
        "sequence",
        Integer,
        nullable=False,
        comment="number of the event within its binding, from 1; 0: the event belongs to no binding",
    ),
    Column("kind", String(32), nullable=False, comment="kind of the event"),
    Column("at", Instant, nullable=False, comment="database time"),
    Column("actor", String(128), nullable=False, comment="who caused the event"),
    Column("request_id", String(128), comment="request that caused the event"),
    Column("detail", Detail, nullable=False, comment="facts of this kind of event, without phones"),
    Column(
        "key_id",
        BindingId,
        comment="API key of the actor; NULL: none was used, or an earlier version wrote the event",
    ),
    # On PostgreSQL the table is partitioned by position (store/partitions), and a unique index of the whole table
    # would need that column: each partition has its own two. Across partitions the triggers on bindings hold: no
    # version decreases and no terminal state changes (I5, I7).
    UniqueConstraint("binding_id", "sequence").ddl_if(dialect="sqlite"),
    Index("ix_events_tx_position", "tx", "position"),
    # The events of a request: `activated` has the request of its `requested`, and would only double the index.
    Index("ix_events_request_id", "request_id", **_only("request_id IS NOT NULL AND kind <> 'activated'")),
    # For the access log. Equality with one of the kinds implies the condition, on SQLite too: IN would not do.
    Index("ix_events_access", "at", "position", **_only(OF_ACCESS_LOG)),
    Index("ix_events_phone_searched", "at", "position", **_only(PHONE_SEARCHES)),
    Index("uq_events_terminal", "binding_id", unique=True, **_only(TERMINAL)).ddl_if(dialect="sqlite"),
    comment="The append-only history; triggers refuse UPDATE, DELETE and TRUNCATE",
    sqlite_autoincrement=True,
    postgresql_partition_by="RANGE (position)",
)

texts = Table(
    "texts",
    metadata,
    # No foreign key: the partition of the event may be dropped first (jobs/retention).
    Column(
        "event_position", BigInteger, primary_key=True, autoincrement=False, comment="events.position of the event"
    ),
    Column("name", String(32), primary_key=True, comment="name of the text in the detail of the event"),
    Column("binding_id", BindingId, comment="binding of the event; NULL: the event belongs to no binding"),
    Column("text", Text, nullable=False, comment="text of a person or of the provider"),
    Column("salt", LargeBinary, nullable=False, comment="makes the digest of the text in the event unpredictable"),
    Index("ix_texts_binding_id", "binding_id", **_only("binding_id IS NOT NULL")),
    comment="Texts of events that may name a person; rows may be deleted",
)

refusals = Table(
    "refusals",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("at", Instant, nullable=False, comment="database time"),
    Column("event_position", BigInteger, comment="events.position of the event; NULL: there is no event"),
    Column("code", String(32), nullable=False, comment="code of the error that the caller received"),
    Column("provider_status", String(16), comment="earlier status of the provider, if it is the cause"),
    Column("mode", String(4), nullable=False, comment="AXB or AXXB"),
    Column("phone_a", PhoneNumber, nullable=False, comment="real phone of party A: digits, or its blind index"),
    Column("phone_b", PhoneNumber, nullable=False, comment="real phone of party B: digits, or its blind index"),
    Column("phone_a_sealed", LargeBinary, comment="encrypted digits; NULL: phone_a has the digits"),
    Column("phone_b_sealed", LargeBinary, comment="encrypted digits; NULL: phone_b has the digits"),
    Column("phone_key", PhoneKeyNumber, comment="data key of the encrypted digits"),
    Column("pool_number", String(20), nullable=False, comment="pool of the request"),
    Column("app_id", String(64), nullable=False, comment="the provider's application"),
    Column("reference", String(255), comment="the caller's order id"),
    Column("actor", String(128), nullable=False, comment="who requested the binding"),
    Column("request_id", String(128), comment="request of the bind"),
    Column("holder_id", BindingId, comment="binding that held a phone, if any"),
    Column("held_by", String(16), comment="binding, or the reason of a hold; NULL: no phone was held"),
    Column("held_until", Instant, comment="until when the phone was held, as far as known at that time"),
    Index(
        "ix_refusals_reference", "reference", "at", postgresql_ops=_BYTE_ORDER, **_only("reference IS NOT NULL")
    ),
    Index("ix_refusals_phone_a", "phone_a", "at"),
    Index("ix_refusals_phone_b", "phone_b", "at"),
    Index("ix_refusals_request_id", "request_id", **_only("request_id IS NOT NULL")),
    Index("ix_refusals_at_id", "at", "id"),
    comment="Binds that were refused before the call of the provider; rows may be deleted",
)

seals = Table(
    "seals",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False, comment="number of the seal, from 1"),
    Column("to_tx", BigInteger, nullable=False, comment="last event of the range: tx of the event"),
    Column("to_position", BigInteger, nullable=False, comment="position of that event"),
    Column(
        "body",
        Text,
        nullable=False,
        comment="canonical JSON: the range, its Merkle root, the hash of the seal before",
    ),
    Column("signature", String(128), nullable=False, comment="Ed25519 signature of the body, in base64"),
    Column("created_at", Instant, nullable=False, comment="database time"),
    comment="Signed statements about ranges of the history; triggers refuse UPDATE, DELETE and TRUNCATE",
)

reports = Table(
    "reports",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("began_at", Instant, nullable=False, comment="database time before the first page was read"),
    Column("finished_at", Instant, nullable=False, comment="database time after the last conclusion"),
    Column("actor", String(128), nullable=False, comment="who started the reconciliation"),
    Column("counts", Detail, nullable=False, comment="number of each case"),
    Column("cases", Detail, nullable=False, comment="each case with its ids, without phones"),
    Index("ix_reports_began_at_id", "began_at", "id"),
    comment="Reports of reconciliation; triggers refuse UPDATE, DELETE and TRUNCATE",
)

passes = Table(
    "passes",
    metadata,
    Column(
        "task", String(32), primary_key=True, comment="name of the task: expire, recover, reconcile or another"
    ),
    Column("slot", BigInteger, primary_key=True, autoincrement=False, comment="period of the run"),
    Column("started_at", Instant, nullable=False, comment="database time"),
    Column("finished_at", Instant, comment="database time of the end; NULL: it is running, or was interrupted"),
    Column("replica", String(128), nullable=False, comment="host and process that ran the task"),
    Column("counts", Detail, comment="counts of the results of the run"),
    comment="Runs of the periodic tasks; a task runs once per slot",
)

keys = Table(
    "keys",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column(
        "name", String(64), nullable=False, comment="name of the user; two keys may have one name, for rotation"
    ),
    Column(
        "role",
        String(16),
        nullable=False,
        comment="role of the key; a role that the code does not know allows nothing",
    ),
    Column("hash", String(64), nullable=False, comment="SHA-256 of the key; the key itself is not stored"),
    Column("prefix", String(16), nullable=False, comment="first characters of the key, to distinguish keys"),
    Column("rate_limit", Integer, comment="requests per second and replica; NULL: the limit of the settings"),
    Column("created_at", Instant, nullable=False, comment="database time"),
    Column("created_by", String(128), nullable=False, comment="who created the key"),
    Column("expires_at", Instant, comment="end of validity; NULL: valid until it is revoked"),
    Column("last_used_at", Instant, comment="last use, within a minute"),
    Column("revoked_at", Instant, comment="when the key was revoked; NULL: it was not"),
    Column("revoked_by", String(128), comment="who revoked the key"),
    UniqueConstraint("hash"),
    comment="API keys of the HTTP service and their roles",
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("url", String(2048), nullable=False, comment="URL of the receiver"),
    Column("kinds", Detail, comment="kinds of event that are sent; NULL: all"),
    Column(
        "secret", String(128), nullable=False, comment="key of the signature of each delivery (Standard Webhooks)"
    ),
    Column("old_secret", String(128), comment="key of a second signature after a rotation"),
    Column("old_secret_until", Instant, comment="until when deliveries have the second signature"),
    Column(
        "tx",
        BigInteger,
        nullable=False,
        comment="last event of the feed whose delivery was created: tx of the event",
    ),
    Column("position", BigInteger, nullable=False, comment="position of that event"),
    Column("created_at", Instant, nullable=False, comment="database time"),
    Column("created_by", String(128), nullable=False, comment="who created the webhook"),
    Column("disabled_at", Instant, comment="when the webhook was disabled; NULL: it is enabled"),
    Column("disabled_why", String(255), comment="who disabled it, or that the receiver answered 410"),
    comment="Receivers of events",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column(
        "id",
        BindingId,
        primary_key=True,
        comment="UUIDv7; the webhook-id of the receiver, the same for each attempt",
    ),
    Column("webhook_id", BindingId, ForeignKey("webhooks.id"), nullable=False, comment="webhook of the delivery"),
    Column("event_position", BigInteger, nullable=False, comment="events.position of the event"),
    Column("state", String(16), nullable=False, comment="pending, delivered or dead"),
    Column("attempts", Integer, nullable=False, comment="number of attempts"),
    Column("created_at", Instant, nullable=False, comment="database time"),
    Column(
        "next_at",
        Instant,
        nullable=False,
        comment="time of the next attempt, also after an attempt that was interrupted",
    ),
    Column("finished_at", Instant, comment="when it was delivered, or the last attempt was made"),
    Column("status", Integer, comment="last HTTP status of the receiver"),
    Column("error", String(255), comment="error of the last attempt"),
    CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
    UniqueConstraint("webhook_id", "event_position"),
    Index("ix_deliveries_due", "webhook_id", "next_at", **_only("state = 'pending'")),
    Index("ix_deliveries_finished", "state", "finished_at", **_only("state <> 'pending'")),
    comment="Deliveries: one row for each event and webhook",
)

pools = Table(
    "pools",
    metadata,
    Column("app_id", String(64), primary_key=True, comment="the provider's application"),
    Column("pool_number", String(20), primary_key=True, comment="pool of middle numbers"),
    Column("live", Integer, comment="live bindings at the last count"),
    Column("counted_at", Instant, comment="when they were last counted"),
    Column("capacity", Integer, comment="live bindings when the provider last had no middle number left (-41)"),
    Column("refused_at", Instant, comment="when the provider last had no middle number left"),
    Column(
        "low_at", Instant, comment="when the last event pool_low was written; NULL: enough middle numbers are left"
    ),
    comment="How full each pool is, as far as known",
)

sessions = Table(
    "sessions",
    metadata,
    Column(
        "hash",
        String(64),
        primary_key=True,
        comment="SHA-256 of the session's token; the token itself is not stored",
    ),
    Column(
        "key_id",
        BindingId,
        ForeignKey("keys.id"),
        nullable=False,
        comment="API key that signed in; revoking it ends the session",
    ),
    Column("began_at", Instant, nullable=False, comment="database time"),
    Column(
        "seen_at",
        Instant,
        nullable=False,
        comment="last use, within a minute; a session that is not used for long ends",
    ),
    Column("expires_at", Instant, nullable=False, comment="latest end of the session"),
    Index("ix_sessions_expires_at", "expires_at"),
    comment="Sessions of the console",
)

searches = Table(
    "searches",
    metadata,
    Column("id", String(32), primary_key=True, comment="random id in the URL of the page"),
    Column(
        "owner", String(64), nullable=False, comment="SHA-256 of the token of the browser that may read the search"
    ),
    Column("words", String(255), comment="text that was searched for, if not a number"),
    Column("number", PhoneNumber, comment="number that was searched for: digits, or its blind index"),
    Column("number_sealed", LargeBinary, comment="encrypted digits; NULL: number has the digits"),
    Column("party", PhoneNumber, comment="the other phone of the call: digits, or its blind index"),
    Column("party_sealed", LargeBinary, comment="encrypted digits; NULL: party has the digits"),
    Column("phone_key", PhoneKeyNumber, comment="data key of the encrypted digits"),
    Column("at", Instant, comment="time that was searched for"),
    Column("expires_at", Instant, nullable=False, comment="when the search is deleted"),
    Index("ix_searches_owner", "owner"),
    Index("ix_searches_expires_at", "expires_at"),
    comment="Searches of the console, so that no URL has a phone; kept for an hour",
)

exports = Table(
    "exports",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("began_at", Instant, nullable=False, comment="database time"),
    Column("finished_at", Instant, comment="database time of the end; NULL: it is running, or was interrupted"),
    Column("actor", String(128), nullable=False, comment="who exported"),
    Column("request_id", String(128), comment="request of the export"),
    Column("view", String(64), nullable=False, comment="list that was exported"),
    Column("filter", Detail, nullable=False, comment="filters of the list, with phones masked"),
    Column("format", String(16), nullable=False, comment="csv or ndjson"),
    Column("reason", String(255), comment="reason for phones in full; NULL: phones are masked"),
    Column("row_count", BigInteger, comment="number of exported rows"),
    Column("sha256", String(64), comment="SHA-256 of the file"),
    Column(
        "key_id",
        BindingId,
        comment="API key of the actor; NULL: none was used, or an earlier version wrote the row",
    ),
    Index("ix_exports_began_at_id", "began_at", "id"),
    comment="Exports of the console",
)

budgets = Table(
    "budgets",
    metadata,
    Column("actor", String(128), primary_key=True, comment="who used the budget"),
    Column("key_id", String(36), primary_key=True, comment="API key that was used; empty: none"),
    Column("budget", String(32), primary_key=True, comment="phone_searches or held_answers"),
    Column("began_at", Instant, nullable=False, comment="beginning of the hour that is counted"),
    Column("used", Integer, nullable=False, comment="number of uses in that hour"),
    Column("used_up_at", Instant, comment="when the event budget_used_up was written; NULL: not in this hour"),
    comment="How much of its hourly budgets each API key has used",
)

tallies = Table(
    "tallies",
    metadata,
    Column("period_s", Integer, primary_key=True, autoincrement=False, comment="60, 3600 or 86400"),
    Column("began_at", Instant, primary_key=True, comment="when the minute, hour or day began"),
    Column("kind", String(32), primary_key=True, comment="kind of the events"),
    Column("code", String(32), primary_key=True, comment="status or reason where the kind has one, or ''"),
    Column("number", Integer, nullable=False, comment="number of events"),
    Column("examples", Detail, nullable=False, comment="ids of the newest few, without phones"),
    comment="Number of events of each kind by minute, hour and day",
)

bind_counts = Table(
    "bind_counts",
    metadata,
    Column("period_s", Integer, primary_key=True, autoincrement=False, comment="60, 3600 or 86400"),
    Column("began_at", Instant, primary_key=True, comment="when the minute, hour or day began"),
    Column("app_id", String(64), primary_key=True, comment="the provider's application"),
    Column("pool_number", String(20), primary_key=True, comment="pool of the request"),
    Column("kind", String(32), primary_key=True, comment="requested, failed, in_doubt or refused"),
    Column("code", String(32), primary_key=True, comment="status or reason where the kind has one, or ''"),
    Column("number", Integer, nullable=False, comment="number of such binds"),
    comment="How many binds were requested, failed, in doubt and refused, by application and pool",
)
tally_marks = Table(
    "tally_marks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="always 1"),
    Column("tx", BigInteger, nullable=False, comment="last event of the feed that is counted: tx of the event"),
    Column("position", BigInteger, nullable=False, comment="position of that event"),
    Column("counted_to", Instant, comment="all events before this time are counted"),
    CheckConstraint("id = 1", name="single"),
    comment="The last event that the tallies have counted",
)

pool_levels = Table(
    "pool_levels",
    metadata,
    Column("app_id", String(64), primary_key=True, comment="the provider's application"),
    Column("pool_number", String(20), primary_key=True, comment="the pool"),
    Column("at", Instant, primary_key=True, comment="beginning of the five minutes of the count"),
    Column("live", Integer, nullable=False, comment="number of live bindings"),
    Index("ix_pool_levels_at", "at"),
    comment="Live bindings of each pool over time",
)

schema_info = Table(
    "schema_info",
    metadata,
    Column("revision", String(32), primary_key=True, comment="a revision of the schema"),
    Column("readable_from", String(32), nullable=False, comment="oldest revision whose code can work on it"),
    comment="Schema revisions and the oldest code that can work on each; each migration adds its row",
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7 of the process"),
    Column("name", String(128), nullable=False, comment="host and process"),
    Column("version", String(32), nullable=False, comment="version of the code of the process"),
    Column("phone_key_ids", Detail, nullable=False, comment="ids of the phone keys of the process"),
    Column("schema_revision", String(32), comment="schema revision that the code was made for; NULL: before 0011"),
    Column("started_at", Instant, nullable=False, comment="database time of the first use of the database"),
    Column("seen_at", Instant, nullable=False, comment="last use of the database, within a minute"),
    Index("ix_replicas_seen_at", "seen_at"),
    comment="Processes that use this database; kept for a day",
)
