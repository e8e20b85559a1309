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
HEAD = "0023"  # the migration that this code needs; a test checks that it is the newest one

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
    Column("scan_owed_since", Instant, comment="after a restore: no bind until a full scan has begun after this"),
    Column("host", String(64), comment="SQLite: the host at work"),
    Column("host_seen_at", Instant, comment="SQLite: when that host was last at work"),
    Column("kept_from", Instant, comment="what was over before is gone, or goes; none: everything is kept"),
    Column("gone_tx", BigInteger, comment="the feed's events up to here are gone, or go: tx"),
    Column("gone_position", BigInteger, comment="... and position"),
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
        comment="until then the triggers let what was asked for be changed; none: they do not",
    ),
    Column("phone_index_key", SmallInteger, comment="index key that phones are written with; none: as digits"),
    Column("phone_data_key", SmallInteger, comment="data key that phones are sealed with; none: they are not"),
    Column("phone_key_checks", Detail, comment="by kind:number a check value of each key that rows need"),
    Column("phones_sealed_at", Instant, comment="since then no row has a phone in digits"),
    CheckConstraint("id = 1", name="single"),
    comment="Which provider account this database belongs to",
)

RELEASE_OWED = "state = 'expired' AND provider_expires_at > ended_at"

bindings = Table(
    "bindings",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7, made before the call"),
    Column("mode", String(4), nullable=False, comment="AXB or AXXB"),
    Column("phone_a", PhoneNumber, nullable=False, comment="real phone of party A: digits, or its blind index"),
    Column("phone_b", PhoneNumber, nullable=False, comment="real phone of party B: digits, or its blind index"),
    Column("phone_a_sealed", LargeBinary, comment="encrypted digits; none: they are in phone_a"),
    Column("phone_b_sealed", LargeBinary, comment="encrypted digits; none: they are in phone_b"),
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
    Column("replaces", BindingId, comment="the binding that was ended for this one"),
    Column("replaced_by", BindingId, comment="the newest binding that this one was ended for"),
    Column("waits_for", BindingId, comment="not sent until the end of this binding is confirmed"),
    Column("expire_s", Integer, nullable=False, comment="seconds asked for"),
    Column("max_expire_s", Integer, comment="seconds that the provider was asked for; none: expire_s"),
    Column("bind_id", String(64), comment="the provider's id"),
    Column("middle_number_a", String(32), comment="what A sees and calls"),
    Column("middle_number_b", String(32), comment="what B sees and calls"),
    Column(
        "state",
        String(8),
        nullable=False,
        comment="pending, active, in_doubt, failed, expired, unbound, lapsed",
    ),
    Column("provider_status", String(16), comment="the provider's status where it decided the state"),
    Column("reason", String(255), comment="why the state is what it is"),
    Column("actor", String(128), nullable=False, comment="who asked for the binding"),
    Column("request_id", String(128), comment="the request that asked for it"),
    Column("requested_at", Instant, nullable=False, comment="database time of the intent"),
    Column("send_by", Instant, nullable=False, comment="no request leaves after this"),
    Column("settle_by", Instant, nullable=False, comment="a pending binding past this is in doubt"),
    Column("sent_at", Instant, comment="not later than the first byte of the request"),
    Column("answered_at", Instant, comment="not earlier than the answer"),
    Column("expires_at", Instant, comment="end that the caller was promised"),
    Column(
        "provider_expires_at",
        Instant,
        comment="earliest instant at which the provider may end it; none: expires_at",
    ),
    Column(
        "held_until",
        Instant,
        nullable=False,
        comment="latest instant at which the provider may hold the phones",
    ),
    Column("warn_s", Integer, comment="seconds before its end at which its expires_soon event is due"),
    Column("warn_at", Instant, comment="when that event is due; none where none is, or it was written"),
    Column("unbind_requested_at", Instant, comment="from here on it is offered to nobody"),
    Column("ended_at", Instant, comment="when it ended; for expired the nominal end"),
    Column("version", Integer, nullable=False, comment="counts the events of this binding"),
    Column(
        "change_tx",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="transaction of the last change, never less than an earlier one's; orders the feed",
    ),
    Column(
        "facts_salt",
        String(64),
        comment="salt of the hash in its event, encrypted if phones are; none: there is no hash, or it was erased",
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
    comment="Every binding ever asked for",
)

holds = Table(
    "holds",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("scope", String(64), nullable=False, comment="account within which phones conflict"),
    Column("phone", PhoneNumber, nullable=False, comment="the phone that is held: digits, or its blind index"),
    Column("phone_sealed", LargeBinary, comment="encrypted digits; none: they are in phone"),
    Column("phone_key", PhoneKeyNumber, comment="data key of the encrypted digits"),
    Column("why", String(16), nullable=False, comment="orphan, refused or late_success"),
    Column("app_id", String(64), nullable=False, comment="the provider's application"),
    Column("bind_id", String(64), comment="the provider's id where it is known"),
    Column("origin_id", BindingId, comment="the binding of ours that it came from, where it did"),
    Column("held_until", Instant, nullable=False, comment="the phone counts as held until then"),
    Column("strikes", Integer, nullable=False, comment="how often the provider refused this phone in a row"),
    Column("created_at", Instant, nullable=False, comment="database time of the first sight"),
    Column(
        "facts_salt",
        String(64),
        comment="salt of the hash in its event, encrypted if phones are; none: there is no hash, or it was erased",
    ),
    CheckConstraint("why IN ('orphan', 'refused', 'late_success')", name="why"),
    Index("ix_holds_phone_held_until", "phone", "held_until"),
    Index("ix_holds_held_until", "held_until"),
    # Each yes of the provider looks for an earlier use of its bind_id.
    Index("ix_holds_app_id_bind_id", "app_id", "bind_id", **_only("bind_id IS NOT NULL")),
    Index("uq_holds_known", "scope", "phone", "app_id", "bind_id", unique=True, **_only("bind_id IS NOT NULL")),
    Index("uq_holds_unknown", "scope", "phone", unique=True, **_only("bind_id IS NULL")),
    comment="Phones that something other than a binding of ours holds at the provider",
)

OF_ACCESS_LOG = "kind = 'revealed' OR kind = 'administered'"
PHONE_SEARCHES = "kind IN ('phone_searched', 'budget_used_up')"
TERMINAL = "kind IN ({})".format(", ".join(f"'{kind}'" for kind in TERMINAL_KINDS))

events = Table(
    "events",
    metadata,
    Column("position", Position, Identity(always=True), primary_key=True, comment="order of writing"),
    Column(
        "tx",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="writer's transaction; the feed reads below the oldest running one",
    ),
    # No foreign key: events are deleted by their own age, and may outlive their binding (jobs/retention).
    Column("binding_id", BindingId, comment="none for what belongs to no binding"),
    Column("sequence", Integer, nullable=False, comment="counts the events of a binding from 1; 0 without one"),
    Column("kind", String(32), nullable=False, comment="what happened"),
    Column("at", Instant, nullable=False, comment="database time"),
    Column("actor", String(128), nullable=False, comment="who did it"),
    Column("request_id", String(128), comment="the request that did it"),
    Column("detail", Detail, nullable=False, comment="facts of this kind of event; no phones"),
    Column("key_id", BindingId, comment="the API key that acted; none: none, or an earlier release wrote it"),
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
    Column("event_position", BigInteger, primary_key=True, autoincrement=False, comment="events.position"),
    Column("name", String(32), primary_key=True, comment="name of the text in the detail of the event"),
    Column("binding_id", BindingId, comment="binding of the event; none for what belongs to no binding"),
    Column("text", Text, nullable=False, comment="what a person or the provider wrote"),
    Column("salt", LargeBinary, nullable=False, comment="makes its digest in the event unpredictable"),
    Index("ix_texts_binding_id", "binding_id", **_only("binding_id IS NOT NULL")),
    comment="Texts of events that may name a person; rows may be deleted",
)

refusals = Table(
    "refusals",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("at", Instant, nullable=False, comment="database time"),
    Column("event_position", BigInteger, comment="events.position of its event; none: it has no event"),
    Column("code", String(32), nullable=False, comment="code of the error that the caller got"),
    Column("provider_status", String(16), comment="the provider's earlier status, if that is the cause"),
    Column("mode", String(4), nullable=False, comment="AXB or AXXB"),
    Column("phone_a", PhoneNumber, nullable=False, comment="real phone of party A: digits, or its blind index"),
    Column("phone_b", PhoneNumber, nullable=False, comment="real phone of party B: digits, or its blind index"),
    Column("phone_a_sealed", LargeBinary, comment="encrypted digits; none: they are in phone_a"),
    Column("phone_b_sealed", LargeBinary, comment="encrypted digits; none: they are in phone_b"),
    Column("phone_key", PhoneKeyNumber, comment="data key of the encrypted digits"),
    Column("pool_number", String(20), nullable=False, comment="pool that was asked for"),
    Column("app_id", String(64), nullable=False, comment="the provider's application"),
    Column("reference", String(255), comment="the caller's order id"),
    Column("actor", String(128), nullable=False, comment="who asked for the binding"),
    Column("request_id", String(128), comment="the request that asked for it"),
    Column("holder_id", BindingId, comment="the binding of ours that held a phone, if one did"),
    Column("held_by", String(16), comment="binding, or the reason of a hold; none: no phone was held"),
    Column("held_until", Instant, comment="until when the phone was held, as far as known then"),
    Index(
        "ix_refusals_reference", "reference", "at", postgresql_ops=_BYTE_ORDER, **_only("reference IS NOT NULL")
    ),
    Index("ix_refusals_phone_a", "phone_a", "at"),
    Index("ix_refusals_phone_b", "phone_b", "at"),
    Index("ix_refusals_request_id", "request_id", **_only("request_id IS NOT NULL")),
    Index("ix_refusals_at_id", "at", "id"),
    comment="Binds that were refused before the provider was called; rows may be deleted",
)

seals = Table(
    "seals",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False, comment="counts from 1"),
    Column("to_tx", BigInteger, nullable=False, comment="the last event that it seals: tx"),
    Column("to_position", BigInteger, nullable=False, comment="... and position"),
    Column("body", Text, nullable=False, comment="canonical JSON: the stretch, its Merkle root, the hash before"),
    Column("signature", String(128), nullable=False, comment="Ed25519 signature of the body, in base64"),
    Column("created_at", Instant, nullable=False, comment="database time"),
    comment="Signed statements about stretches of the history; triggers refuse UPDATE, DELETE and TRUNCATE",
)

reports = Table(
    "reports",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("began_at", Instant, nullable=False, comment="database time before the first page was read"),
    Column("finished_at", Instant, nullable=False, comment="database time after the last conclusion"),
    Column("actor", String(128), nullable=False, comment="who asked for it"),
    Column("counts", Detail, nullable=False, comment="how many of each case"),
    Column("cases", Detail, nullable=False, comment="every case with its ids; no phones"),
    Index("ix_reports_began_at_id", "began_at", "id"),
    comment="What each reconciliation found; triggers refuse UPDATE, DELETE and TRUNCATE",
)

passes = Table(
    "passes",
    metadata,
    Column("task", String(32), primary_key=True, comment="expire, recover or reconcile"),
    Column("slot", BigInteger, primary_key=True, autoincrement=False, comment="period that it ran for"),
    Column("started_at", Instant, nullable=False, comment="database time"),
    Column("finished_at", Instant, comment="none while it runs, or if it died"),
    Column("replica", String(128), nullable=False, comment="host and process that ran it"),
    Column("counts", Detail, comment="what the pass did"),
    comment="Who ran which pass when: work that must run once per period takes a row here",
)

keys = Table(
    "keys",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("name", String(64), nullable=False, comment="who uses it; two keys may share one, for rotation"),
    Column(
        "role", String(16), nullable=False, comment="a role; one that the code does not know is allowed nothing"
    ),
    Column("hash", String(64), nullable=False, comment="SHA-256 of the key, which itself is stored nowhere"),
    Column("prefix", String(16), nullable=False, comment="how the key begins, to tell keys apart"),
    Column("rate_limit", Integer, comment="requests per second and replica; none: the setting's"),
    Column("created_at", Instant, nullable=False, comment="database time"),
    Column("created_by", String(128), nullable=False, comment="who made it"),
    Column("expires_at", Instant, comment="good until then; none: until revoked"),
    Column("last_used_at", Instant, comment="good to a minute"),
    Column("revoked_at", Instant, comment="good until then"),
    Column("revoked_by", String(128), comment="who revoked it"),
    UniqueConstraint("hash"),
    comment="Who may use the HTTP service, and as what",
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("url", String(2048), nullable=False, comment="where events are sent"),
    Column("kinds", Detail, comment="the kinds of event that are sent; none: all"),
    Column("secret", String(128), nullable=False, comment="signs every delivery (Standard Webhooks)"),
    Column("old_secret", String(128), comment="signs beside it after a rotation"),
    Column("old_secret_until", Instant, comment="... until then"),
    Column("tx", BigInteger, nullable=False, comment="the feed's events up to here have their deliveries: tx"),
    Column("position", BigInteger, nullable=False, comment="... and position"),
    Column("created_at", Instant, nullable=False, comment="database time"),
    Column("created_by", String(128), nullable=False, comment="who added it"),
    Column("disabled_at", Instant, comment="nothing is sent from then on"),
    Column("disabled_why", String(255), comment="by whom, or because the receiver answered 410"),
    comment="Who is told of events",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7; the receiver's webhook-id, the same on each try"),
    Column("webhook_id", BindingId, ForeignKey("webhooks.id"), nullable=False, comment="to whom"),
    Column("event_position", BigInteger, nullable=False, comment="of what: events.position"),
    Column("state", String(16), nullable=False, comment="pending, delivered or dead"),
    Column("attempts", Integer, nullable=False, comment="how often it was sent"),
    Column("created_at", Instant, nullable=False, comment="database time"),
    Column("next_at", Instant, nullable=False, comment="not sent (again) before; a sender that dies frees it so"),
    Column("finished_at", Instant, comment="when it was delivered or given up"),
    Column("status", Integer, comment="the receiver's last HTTP status"),
    Column("error", String(255), comment="why the last try failed"),
    CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
    UniqueConstraint("webhook_id", "event_position"),
    Index("ix_deliveries_due", "webhook_id", "next_at", **_only("state = 'pending'")),
    Index("ix_deliveries_finished", "state", "finished_at", **_only("state <> 'pending'")),
    comment="One row for each event and each webhook that it goes to",
)

pools = Table(
    "pools",
    metadata,
    Column("app_id", String(64), primary_key=True, comment="the provider's application"),
    Column("pool_number", String(20), primary_key=True, comment="pool that middle numbers come from"),
    Column("live", Integer, comment="live bindings when they were last counted"),
    Column("counted_at", Instant, comment="when that was"),
    Column("capacity", Integer, comment="live bindings when the provider last had no number left (-41)"),
    Column("refused_at", Instant, comment="when that was"),
    Column("low_at", Instant, comment="when the last pool_low event was written; none while there is enough"),
    comment="How full each pool is, as far as we can know",
)

sessions = Table(
    "sessions",
    metadata,
    Column(
        "hash",
        String(64),
        primary_key=True,
        comment="SHA-256 of the session's token, which itself is stored nowhere",
    ),
    Column(
        "key_id",
        BindingId,
        ForeignKey("keys.id"),
        nullable=False,
        comment="the key that signed in; revoking it ends the session",
    ),
    Column("began_at", Instant, nullable=False, comment="database time"),
    Column("seen_at", Instant, nullable=False, comment="good to a minute; unused for long, it is over"),
    Column("expires_at", Instant, nullable=False, comment="over then at the latest"),
    Index("ix_sessions_expires_at", "expires_at"),
    comment="Who is signed in to the console",
)

searches = Table(
    "searches",
    metadata,
    Column("id", String(32), primary_key=True, comment="random; stands in the page's address"),
    Column("owner", String(64), nullable=False, comment="SHA-256 of the token of the browser that may see it"),
    Column("words", String(255), comment="what was looked for, where it is no number"),
    Column("number", PhoneNumber, comment="number that was looked for: digits, or its blind index"),
    Column("number_sealed", LargeBinary, comment="encrypted digits; none: they are in number"),
    Column("party", PhoneNumber, comment="the other phone of the call: digits, or its blind index"),
    Column("party_sealed", LargeBinary, comment="encrypted digits; none: they are in party"),
    Column("phone_key", PhoneKeyNumber, comment="data key of the encrypted digits"),
    Column("at", Instant, comment="the instant that was asked about"),
    Column("expires_at", Instant, nullable=False, comment="forgotten then"),
    Index("ix_searches_owner", "owner"),
    Index("ix_searches_expires_at", "expires_at"),
    comment="What is looked for in the console, so that no address carries it; kept for an hour",
)

exports = Table(
    "exports",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7"),
    Column("began_at", Instant, nullable=False, comment="database time"),
    Column("finished_at", Instant, comment="none while it runs, or if it was broken off"),
    Column("actor", String(128), nullable=False, comment="who took it"),
    Column("request_id", String(128), comment="the request that took it"),
    Column("view", String(64), nullable=False, comment="which list it was"),
    Column("filter", Detail, nullable=False, comment="what the list was narrowed to; phones masked"),
    Column("format", String(16), nullable=False, comment="csv or ndjson"),
    Column("reason", String(255), comment="why phones stand in it in full; none: they are masked"),
    Column("row_count", BigInteger, comment="rows in it"),
    Column("sha256", String(64), comment="sum of the file"),
    Column("key_id", BindingId, comment="the API key that took it; none: none, or an earlier release wrote it"),
    Index("ix_exports_began_at_id", "began_at", "id"),
    comment="Every export that was taken from the console",
)

budgets = Table(
    "budgets",
    metadata,
    Column("actor", String(128), primary_key=True, comment="who asked"),
    Column("key_id", String(36), primary_key=True, comment="by which API key; empty without one"),
    Column("budget", String(32), primary_key=True, comment="phone_searches or held_answers"),
    Column("began_at", Instant, nullable=False, comment="beginning of the hour that is counted"),
    Column("used", Integer, nullable=False, comment="how many since then"),
    Column("used_up_at", Instant, comment="when the event was written that says so; none: not in this hour"),
    comment="How much of its budgets each API key has used",
)

tallies = Table(
    "tallies",
    metadata,
    Column("period_s", Integer, primary_key=True, autoincrement=False, comment="60, 3600 or 86400"),
    Column("began_at", Instant, primary_key=True, comment="when the minute, hour or day began"),
    Column("kind", String(32), primary_key=True, comment="the kind of event"),
    Column("code", String(32), primary_key=True, comment="status or reason where the kind has one, or ''"),
    Column("number", Integer, nullable=False, comment="how many"),
    Column("examples", Detail, nullable=False, comment="the newest few, by their ids; no phones"),
    comment="How many events of each kind there were, by minute, hour and day",
)

bind_counts = Table(
    "bind_counts",
    metadata,
    Column("period_s", Integer, primary_key=True, autoincrement=False, comment="60, 3600 or 86400"),
    Column("began_at", Instant, primary_key=True, comment="when the minute, hour or day began"),
    Column("app_id", String(64), primary_key=True, comment="the provider's application"),
    Column("pool_number", String(20), primary_key=True, comment="the pool that was asked for"),
    Column("kind", String(32), primary_key=True, comment="requested, failed, in_doubt or refused"),
    Column("code", String(32), primary_key=True, comment="status or reason where the kind has one, or ''"),
    Column("number", Integer, nullable=False, comment="how many"),
    comment="How many binds were requested, failed, in doubt and refused, by application and pool",
)
tally_marks = Table(
    "tally_marks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="always 1"),
    Column("tx", BigInteger, nullable=False, comment="the feed's events up to here are counted: tx"),
    Column("position", BigInteger, nullable=False, comment="... and position"),
    Column("counted_to", Instant, comment="what happened until then is counted"),
    CheckConstraint("id = 1", name="single"),
    comment="Up to which event the tallies have counted",
)

pool_levels = Table(
    "pool_levels",
    metadata,
    Column("app_id", String(64), primary_key=True, comment="the provider's application"),
    Column("pool_number", String(20), primary_key=True, comment="the pool"),
    Column("at", Instant, primary_key=True, comment="the five minutes in which it was counted"),
    Column("live", Integer, nullable=False, comment="live bindings then"),
    Index("ix_pool_levels_at", "at"),
    comment="How full each pool was, for its trend",
)

schema_info = Table(
    "schema_info",
    metadata,
    Column("revision", String(32), primary_key=True, comment="a revision of the schema"),
    Column("readable_from", String(32), nullable=False, comment="the oldest code that can work on it"),
    comment="Which code can work on which revision of the schema; each migration adds its row",
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", BindingId, primary_key=True, comment="UUIDv7 of the process"),
    Column("name", String(128), nullable=False, comment="host and process"),
    Column("version", String(32), nullable=False, comment="version of the code"),
    Column("phone_key_ids", Detail, nullable=False, comment="ids of the keys for phones that the process has"),
    Column("schema_revision", String(32), comment="revision that its code was made for; none: before 0011"),
    Column("started_at", Instant, nullable=False, comment="database time of its first use of the database"),
    Column("seen_at", Instant, nullable=False, comment="when it last used the database; good to a minute"),
    Index("ix_replicas_seen_at", "seen_at"),
    comment="Processes that use this database; kept for a day",
)
