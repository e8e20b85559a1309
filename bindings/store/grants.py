"""What the role of the application may do on PostgreSQL: the source of the SQL that grants it, and of its check.

The role inserts what happens and changes what the code must change: no party, caller, request or event, and no key
or receiver of a webhook. Migrations, retention, keys and webhooks belong to the owner of the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from bindings.errors import InvalidRequest

MAX_ROLE_BYTES = 63  # PostgreSQL cuts a longer name off
SEQUENCE = "events_position_seq"
FUNCTION = "reserve_intent_1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rights:
    """What the role may do with a table besides reading it. An empty `insert` is no column, None is every one."""

    insert: tuple[str, ...] | None = ()
    update: tuple[str, ...] = ()
    delete: bool = False


_ALL_COLUMNS = None
RIGHTS: dict[str, Rights] = {
    "account": Rights(insert=("id", "scope"), update=("scan_owed_since", "tx_offset")),
    "alembic_version": Rights(),
    "bindings": Rights(
        insert=_ALL_COLUMNS,
        update=(
            *("idempotency_key", "duplicate_key", "freed_key", "replaced_by", "waits_for"),
            *("bind_id", "middle_number_a", "middle_number_b", "state", "provider_status", "reason"),
            *("requested_at", "send_by", "settle_by", "sent_at", "answered_at"),
            *("expires_at", "provider_expires_at", "held_until", "warn_at", "unbind_requested_at", "ended_at"),
            *("version", "change_tx"),
        ),
    ),
    "bind_counts": Rights(insert=_ALL_COLUMNS, update=("number",), delete=True),
    "budgets": Rights(insert=_ALL_COLUMNS, update=("began_at", "used", "used_up_at")),
    "deliveries": Rights(
        insert=_ALL_COLUMNS,
        update=("state", "attempts", "next_at", "finished_at", "status", "error"),
        delete=True,
    ),
    "events": Rights(insert=_ALL_COLUMNS),
    "exports": Rights(insert=_ALL_COLUMNS, update=("finished_at", "row_count", "sha256")),
    "holds": Rights(insert=_ALL_COLUMNS, update=("held_until", "strikes", "origin_id")),
    "keys": Rights(update=("last_used_at",)),
    "passes": Rights(insert=_ALL_COLUMNS, update=("finished_at", "replica", "counts"), delete=True),
    "pool_levels": Rights(insert=_ALL_COLUMNS, delete=True),
    "pools": Rights(
        insert=_ALL_COLUMNS, update=("live", "counted_at", "capacity", "refused_at", "low_at"), delete=True
    ),
    "refusals": Rights(insert=_ALL_COLUMNS),
    "replicas": Rights(
        insert=_ALL_COLUMNS,
        update=("name", "version", "phone_key_ids", "schema_revision", "seen_at"),
        delete=True,
    ),
    "reports": Rights(insert=_ALL_COLUMNS),
    "schema_info": Rights(),
    "seals": Rights(insert=_ALL_COLUMNS),
    "searches": Rights(insert=_ALL_COLUMNS, delete=True),
    "sessions": Rights(insert=_ALL_COLUMNS, update=("seen_at",), delete=True),
    "tallies": Rights(insert=_ALL_COLUMNS, update=("number", "examples"), delete=True),
    "tally_marks": Rights(insert=_ALL_COLUMNS, update=("tx", "position", "counted_to")),
    "texts": Rights(insert=_ALL_COLUMNS),
    "webhooks": Rights(update=("tx", "position", "disabled_at", "disabled_why")),
}

_REVOKE_ON_PARTITIONS = """\
DO $$
DECLARE part regclass;
BEGIN
  FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'events'::regclass LOOP
    EXECUTE format('REVOKE ALL ON TABLE %s FROM %I', part, {role});
  END LOOP;
END $$;"""


def sql_for(role: str) -> str:
    """Return the SQL that gives a role exactly these rights on the tables. Safe to run again.

    One transaction: processes that run meanwhile lose no right that they need. The owner of the tables runs it.
    Raises `InvalidRequest` if no role can have the name.
    """
    if not role.isprintable() or not 1 <= len(role.encode()) <= MAX_ROLE_BYTES or "$" in role:
        raise InvalidRequest.of_field("role", f"must be the name of a role: 1 to {MAX_ROLE_BYTES} bytes")
    grantee = '"{}"'.format(role.replace('"', '""'))
    literal = "'{}'".format(role.replace("'", "''"))
    every_table = ", ".join(RIGHTS)
    return "\n".join(
        (
            "BEGIN;",
            f"REVOKE ALL ON TABLE {every_table} FROM {grantee};",
            f"REVOKE ALL ON SEQUENCE {SEQUENCE} FROM {grantee};",
            _REVOKE_ON_PARTITIONS.format(role=literal),
            f"GRANT SELECT ON TABLE {every_table} TO {grantee};",
            f"GRANT SELECT ON SEQUENCE {SEQUENCE} TO {grantee};",
            f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO {grantee};",
            *(
                f"GRANT {', '.join(privileges)} ON TABLE {table} TO {grantee};"
                for table, rights in RIGHTS.items()
                if (privileges := _privileges(rights))
            ),
            "COMMIT;\n",
        )
    )


def _privileges(rights: Rights) -> list[str]:
    privileges = []
    if rights.insert is _ALL_COLUMNS:
        privileges.append("INSERT")
    elif rights.insert:
        privileges.append(f"INSERT ({', '.join(rights.insert)})")
    if rights.update:
        privileges.append(f"UPDATE ({', '.join(rights.update)})")
    if rights.delete:
        privileges.append("DELETE")
    return privileges
