"""The rows of API keys, found by the hash of the presented key. The key itself is not stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, or_, select, update

from bindings.domain.acts import Act
from bindings.domain.roles import Role
from bindings.sealing.encoding import sha256
from bindings.store import events, sql
from bindings.store.schema import keys

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

    from bindings.domain.binding import Caller
    from bindings.store.database import Transaction

USED_EVERY = timedelta(minutes=1)  # how often the use of a key is recorded


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """An API key without its secret. Instants are aware UTC; `rate_limit` is per second and replica.

    `role` is a `Role`, or another text if a later version wrote it: such a key is allowed nothing here.
    """

    id: str
    name: str
    role: str
    prefix: str
    rate_limit: int | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None


COLUMNS = sql.columns(keys, Key)
# Columns that never change, for the event of the key's creation.
_FIXED = ("id", "name", "role", "prefix", "rate_limit", "created_at", "created_by", "expires_at")


def add(
    tx: Transaction,
    key_id: str,
    digest: str,
    caller: Caller,
    *,
    name: str,
    role: Role,
    prefix: str,
    rate_limit: int | None = None,
    expires_at: datetime | None = None,
) -> Key | None:
    """Insert a key by its digest and return it, or None if another key has this id or digest.

    Safe to repeat with the same id and digest.
    """
    values = {
        "id": key_id,
        "hash": digest,
        "name": name,
        "role": role,
        "prefix": prefix,
        "rate_limit": rate_limit,
        "created_at": tx.instant(),
        "created_by": caller.actor,
        "expires_at": expires_at,
    }
    insertion = tx.dialect.insert(keys).values(values).on_conflict_do_nothing()
    inserted = tx.connection.execute(insertion.returning(keys.c.id)).all()
    of_both = select(*COLUMNS).where(keys.c.id == key_id, keys.c.hash == digest)
    row = tx.connection.execute(of_both).one_or_none()
    if row is not None and inserted:
        facts = {name: getattr(row, name) for name in _FIXED}
        events.append_act(tx, Act.KEY_CREATED, caller, facts | {"hash_sha256": sha256(digest.encode())})
    return None if row is None else to_key(row)


def find(connection: Connection, key_id: str) -> Key | None:
    """Return the key with this id, or None."""
    row = connection.execute(select(*COLUMNS).where(keys.c.id == key_id)).one_or_none()
    return None if row is None else to_key(row)


def list_all(connection: Connection) -> list[Key]:
    """Return every key ever created, newest first."""
    rows = connection.execute(select(*COLUMNS).order_by(keys.c.created_at.desc(), keys.c.id.desc()))
    return [to_key(row) for row in rows]


def may_write(connection: Connection) -> bool:
    """Return whether the database's user may create keys and webhooks; a role of `grants` may not."""
    if not sql.is_postgres(connection):
        return True
    rights = (func.has_table_privilege(table, "INSERT") for table in ("keys", "webhooks"))
    return bool(connection.execute(select(and_(*rights))).scalar_one())


def exist(connection: Connection) -> bool:
    """Return True if any key was ever created."""
    return connection.execute(select(keys.c.id).limit(1)).first() is not None


def is_recorded(connection: Connection, digest: str) -> bool:
    """Return True if a key has this digest, valid or not."""
    return connection.execute(select(keys.c.id).where(keys.c.hash == digest)).first() is not None


def find_valid(connection: Connection, digest: str, now: ColumnElement[datetime]) -> tuple[Key, str] | None:
    """Return the key with this digest and the stored digest, or None if it is unknown, expired or revoked."""
    not_expired = or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
    row = connection.execute(
        select(*COLUMNS, keys.c.hash).where(keys.c.hash == digest, keys.c.revoked_at.is_(None), not_expired)
    ).one_or_none()
    return None if row is None else (to_key(row), row.hash)


def valid_digests(connection: Connection, now: ColumnElement[datetime]) -> frozenset[str]:
    """Return the digests of all keys that are valid now."""
    not_expired = or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
    return frozenset(
        connection.execute(select(keys.c.hash).where(keys.c.revoked_at.is_(None), not_expired)).scalars()
    )


def record_use(tx: Transaction, key_id: str) -> None:
    """Record that the key is in use, at most once a minute."""
    now = tx.instant()
    stale = or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < now - USED_EVERY)
    tx.connection.execute(update(keys).where(keys.c.id == key_id, stale).values(last_used_at=now))


def revoke(tx: Transaction, key_id: str, caller: Caller) -> Key | None:
    """Revoke a key from now on and return it, or None if there is none. Safe to repeat: the first call counts."""
    values = {"revoked_at": tx.instant(), "revoked_by": caller.actor}
    revocation = update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(values)
    revoked = tx.connection.execute(revocation.returning(keys.c.id, keys.c.name, keys.c.role)).all()
    if revoked:
        events.append_act(tx, Act.KEY_REVOKED, caller, revoked[0]._asdict() | values)
    row = tx.connection.execute(select(*COLUMNS).where(keys.c.id == key_id)).one_or_none()
    return None if row is None else to_key(row)


def to_key(row: Any) -> Key:
    """Return a key from a row that has the columns `COLUMNS`."""
    return sql.record(Key, row, role=sql.member(Role, row.role))
