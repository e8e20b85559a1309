"""What guards the history in the database: the triggers, as the migrations make them, and the rights of a role."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, Text, case, literal, literal_column, select, text

from bindings.store import sql
from bindings.store.grants import FUNCTION, RIGHTS, SEQUENCE
from bindings.store.one_row import first_column, one_row
from bindings.store.schema import account

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

_FIRST_INSTANT, _LAST_INSTANT = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)

# The beginning of the SHA-256 of each definition, without its spacing. A test compares them with the migrations.
TRIGGERS_OF_SQLITE = {
    "bindings_as_asked": "6d2011fdbe6c5dca",
    "bindings_keep_salt": "e6ee37d13cc072b0",
    "bindings_only_forward": "783ab0f06ed8ee01",
    "bindings_refuse_delete": "340db64da1c399e6",
    "events_refuse_delete": "a5afa28bb3f4c8c8",
    "events_refuse_update": "4bd011ac5b6b26c1",
    "exports_as_recorded": "eb36b2cbcd1bd35e",
    "exports_refuse_delete": "09b029244305f0f6",
    "reports_refuse_delete": "02952eeea00300ae",
    "reports_refuse_update": "1cf3a53386880fc7",
    "seals_refuse_delete": "6353e73969a1bf3e",
    "seals_refuse_update": "f216792080f8d7d9",
}
TRIGGERS_OF_POSTGRESQL = {  # with their functions
    "bindings.bindings_as_asked": "9facdc68294b6f51",
    "bindings.bindings_keep_salt": "9945fc561184f3af",
    "bindings.bindings_only_forward": "3e1cf4b2e7c10dab",
    "bindings.bindings_refuse_delete": "0131551cecc137e7",
    "bindings.bindings_refuse_truncate": "2444051424d8e66e",
    "events.events_refuse_change": "7747728f9b91f798",
    "events.events_refuse_truncate": "ef6beb8670bce863",
    "exports.exports_as_recorded": "54a330165c5550b9",
    "exports.exports_refuse_delete": "46b3d7c3fd3ccd76",
    "exports.exports_refuse_truncate": "7c9c8d459605ea3b",
    "reports.reports_refuse_change": "98045b94e1469bb0",
    "reports.reports_refuse_truncate": "97966a138f001ea7",
    "seals.seals_refuse_change": "867a7c00c6a61d59",
    "seals.seals_refuse_truncate": "3ccd6d40ce5bff6c",
}
FUNCTIONS_OF_POSTGRESQL = {FUNCTION: "73ff038e6b845ab9"}
DIGEST_LENGTH = 16
EVENTS = "events"

_SQLITE = text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
# Both of the next two set how the server writes a definition: a role or a database may have another default.
_POSTGRESQL = text(
    "SELECT relname, CASE WHEN relispartition THEN 'events' ELSE relname END AS of_table, tgname,"
    " tgenabled IN ('O', 'A') AS enabled, pg_get_triggerdef(pg_trigger.oid) AS definition, prosrc,"
    " array_to_string(proconfig, ',') AS settings,"
    " (SELECT nspname FROM pg_namespace WHERE pg_namespace.oid = relnamespace) AS schema"
    " FROM (SELECT set_config('quote_all_identifiers', 'off', true)) AS unquoted CROSS JOIN pg_trigger"
    " JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_proc ON pg_proc.oid = tgfoid"
    " WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = CAST('bindings' AS regclass))"
    " AND (NOT relispartition OR EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = pg_class.oid"
    " AND inhparent = CAST('events' AS regclass)))"
)
# Functions in the schema of the tables, and in those of the search_path: a call may mean another one of this name.
_TRIGGER_CONTEXT = text(
    "SELECT 'function' AS kind, proname AS name,"
    " string_agg(concat_ws(' ', pg_get_function_arguments(pg_proc.oid), proretset,"
    " format_type(prorettype, NULL), lanname, provolatile, prosecdef, array_to_string(proconfig, ','), prosrc),"
    " ' ' ORDER BY pg_proc.oid) AS definition"
    " FROM (SELECT set_config('quote_all_identifiers', 'off', true)) AS unquoted CROSS JOIN pg_proc"
    " JOIN pg_language ON pg_language.oid = prolang"
    " WHERE (pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = CAST('bindings' AS regclass))"
    " OR pg_function_is_visible(pg_proc.oid))"
    " AND proname = ANY (CAST(:names AS text[])) GROUP BY proname"
    " UNION ALL SELECT 'partition', relname, NULL FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
    " WHERE inhparent = CAST('events' AS regclass)"
    " UNION ALL SELECT 'setting', 'session_replication_role', current_setting('session_replication_role')"
    " ORDER BY name"
)
REPLICA = "replica"
_ROLE: Select[*tuple[Any, ...]] = select(
    literal_column("current_user", Text).label("name"),
    literal_column(
        "(SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class"
        " WHERE oid IN (CAST('bindings' AS regclass), CAST('events' AS regclass)))",
        Boolean,
    ).label("owner"),
    literal_column(
        "ARRAY(SELECT CAST(relname AS text) FROM pg_class WHERE relkind IN ('r', 'p') AND row_security_active(oid)"
        " AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = CAST('bindings' AS regclass))"
        " ORDER BY relname)"
    ).label("row_security_tables"),
)
_COLUMN_RIGHTS = text(
    "SELECT relname, attname, has_column_privilege(pg_class.oid, attnum, 'INSERT') AS can_insert,"
    " has_column_privilege(pg_class.oid, attnum, 'UPDATE') AS can_update"
    " FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped"
    " WHERE pg_class.oid IN (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)"
)
_TABLE_RIGHTS = text(
    "SELECT relname, privilege FROM pg_class,"
    " unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege"
    " WHERE (pg_class.oid IN (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)"
    " AND privilege NOT IN ('INSERT', 'UPDATE')"  # see `_COLUMN_RIGHTS`: a right to the table shows in each column
    " OR pg_class.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = CAST('events' AS regclass)))"
    " AND has_table_privilege(pg_class.oid, privilege)"
)
_FURTHER_RIGHTS = text(
    "SELECT has_sequence_privilege(:sequence, 'UPDATE') AS may_update,"
    " coalesce(has_function_privilege(to_regproc(:function), 'EXECUTE'), false) AS may_execute"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """The role of this connection (PostgreSQL), and whether it may act as the owner of the tables."""

    name: str
    owner: bool
    row_security_tables: tuple[str, ...]  # the tables of which row-level security may hide rows


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleRights:
    """The rights of the role of this connection (PostgreSQL), compared with those of the application's role."""

    excess: tuple[str, ...]
    missing: tuple[str, ...]


def trigger_faults(connection: Connection) -> list[str]:
    """Return each trigger or function that is missing, disabled or not as the migrations made it, in words."""
    if sql.is_postgres(connection):
        return _faults_of_postgresql(connection)
    definitions = {row.name: digest(row.sql) for row in connection.execute(_SQLITE)}
    return [
        f"{name} is {'changed' if name in definitions else 'missing'}"
        for name, expected in TRIGGERS_OF_SQLITE.items()
        if definitions.get(name) != expected
    ]


def digest(definition: str) -> str:
    """Return the digest of a definition, without its spacing, parentheses and casts: servers add their own."""
    plain = re.sub(r'::"?[a-z ]+"?(\[\])?|[()\s]', "", definition)
    return hashlib.sha256(plain.encode()).hexdigest()[:DIGEST_LENGTH]


def digests_of_postgresql(connection: Connection) -> dict[tuple[str, str], tuple[str, bool]]:
    """Return the digest of each trigger, with its function, and whether it is enabled, by table and name."""
    triggers = {}
    for row in connection.execute(_POSTGRESQL):
        definition = row.definition.replace(f"{row.schema}.", "").replace(
            f" ON {row.relname} ", f" ON {row.of_table} "
        )
        triggers[row.relname, row.tgname] = digest(f"{definition} {row.prosrc} {row.settings}"), row.enabled
    return triggers


@dataclass(frozen=True, kw_only=True, slots=True)
class TriggerContext:
    """What the protection depends on beside the triggers (PostgreSQL).

    `functions` are the digests of those that a bind calls, by name; `partitions` are those of the events.
    """

    functions: dict[str, str]
    partitions: list[str]
    replication_role: str


def trigger_context(connection: Connection) -> TriggerContext:
    """Return what the protection depends on beside the triggers, in one statement (PostgreSQL)."""
    rows = connection.execute(_TRIGGER_CONTEXT, {"names": list(FUNCTIONS_OF_POSTGRESQL)}).all()
    of_kind = {kind: [row for row in rows if row.kind == kind] for kind in ("function", "partition", "setting")}
    return TriggerContext(
        functions={
            row.name: hashlib.sha256(row.definition.encode()).hexdigest()[:DIGEST_LENGTH]
            for row in of_kind["function"]
        },
        partitions=[row.name for row in of_kind["partition"]],
        replication_role=of_kind["setting"][0].definition,
    )


def _faults_of_postgresql(connection: Connection) -> list[str]:
    triggers = digests_of_postgresql(connection)
    context = trigger_context(connection)
    faults = []
    for name, expected in TRIGGERS_OF_POSTGRESQL.items():
        table, _, trigger = name.partition(".")
        for relation in (table, *(context.partitions if table == EVENTS else ())):
            present, enabled = triggers.get((relation, trigger), (None, True))
            if present is None:
                faults.append(f"{trigger} on {relation} is missing")
            elif present != expected:
                faults.append(f"{trigger} on {relation} is changed")
            elif not enabled:
                faults.append(f"{trigger} on {relation} is disabled")
    if context.replication_role == REPLICA:
        faults.append("none fires on the connections of this process: their session_replication_role is replica")
    return faults + [
        f"the function {name} is {'changed' if name in context.functions else 'missing'}"
        for name, expected in FUNCTIONS_OF_POSTGRESQL.items()
        if context.functions.get(name) != expected
    ]


@one_row(first_column)
def maintenance_until() -> Select[Any]:
    """Return until when the triggers let what was asked for be changed, or None if no end is set.

    An infinite instant, which Python does not have, is the last one; a negative one is none.
    """
    column = account.c.maintenance_until
    until = case((column > _LAST_INSTANT, literal(_LAST_INSTANT, column.type)), else_=column)
    return select(until).where(column > _FIRST_INSTANT)


def is_maintained(connection: Connection) -> bool:
    """Return whether the triggers let what was asked for be changed, now or at any later time."""
    until = maintenance_until(connection)
    return until is not None and until > datetime.now(UTC)


@one_row(lambda name, owner, tables: Role(name=name, owner=owner, row_security_tables=tuple(tables)))
def role() -> Select[*tuple[Any, ...]]:
    """Return the role of this connection (PostgreSQL)."""
    return _ROLE


def role_rights(connection: Connection) -> RoleRights:
    """Compare the rights of this connection's role with those of the application's (PostgreSQL)."""
    tables = {"tables": list(RIGHTS)}
    columns = connection.execute(_COLUMN_RIGHTS, tables).all()
    present = {f"{row.privilege} on {row.relname}" for row in connection.execute(_TABLE_RIGHTS, tables)}
    present |= {f"INSERT of {row.relname}.{row.attname}" for row in columns if row.can_insert}
    present |= {f"UPDATE of {row.relname}.{row.attname}" for row in columns if row.can_update}
    further_rights = connection.execute(_FURTHER_RIGHTS, {"sequence": SEQUENCE, "function": FUNCTION}).one()
    present |= {f"UPDATE of {SEQUENCE}"} if further_rights.may_update else set()
    granted = {f"EXECUTE on {FUNCTION}"}
    present |= granted if further_rights.may_execute else set()
    for table, rights in RIGHTS.items():
        own = [row.attname for row in columns if row.relname == table]
        granted |= {f"SELECT on {table}"} | ({f"DELETE on {table}"} if rights.delete else set())
        granted |= {f"INSERT of {table}.{name}" for name in (own if rights.insert is None else rights.insert)}
        granted |= {f"UPDATE of {table}.{name}" for name in rights.update}
    return RoleRights(
        excess=tuple(sorted(present - granted)),
        missing=tuple(sorted(granted - present)),
    )
