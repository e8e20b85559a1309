"""Keys of the HTTP service: rows, found by the hash of what was presented. The key itself is stored nowhere."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select, update

from bindings.domain.roles import Role
from bindings.store.schema import keys

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

    from bindings.domain.binding import Caller
    from bindings.store.database import Transaction

USED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key as an admin sees it. Instants are aware UTC; `rate_limit` is in requests per second and replica."""

    id: str
    name: str
    role: Role
    prefix: str
    rate_limit: int | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None


COLUMNS = tuple(keys.c[field.name] for field in fields(Key))


def add(tx: Transaction, key_id: str, digest: str, caller: Caller, **given: Any) -> Key:
    """Record a new key by its digest. Safe to repeat with the same id."""
    values = {"id": key_id, "hash": digest, "created_at": tx.instant(), "created_by": caller.actor}
    tx.connection.execute(
        tx.dialect.insert(keys).values(given | values).on_conflict_do_nothing(index_elements=["id"])
    )
    return to_key(tx.connection.execute(select(*COLUMNS).where(keys.c.id == key_id)).one())


def list_all(connection: Connection) -> list[Key]:
    """Every key that there ever was, newest first."""
    rows = connection.execute(select(*COLUMNS).order_by(keys.c.created_at.desc(), keys.c.id.desc()))
    return [to_key(row) for row in rows]


def exist(connection: Connection) -> bool:
    """Whether there ever was a key."""
    return connection.execute(select(keys.c.id).limit(1)).first() is not None


def find_valid(connection: Connection, digest: str, now: ColumnElement[datetime]) -> tuple[Key, str] | None:
    """The key with this digest, if it is good now, and the digest as stored."""
    good = or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
    row = connection.execute(
        select(*COLUMNS, keys.c.hash).where(keys.c.hash == digest, keys.c.revoked_at.is_(None), good)
    ).one_or_none()
    return None if row is None else (to_key(row[:-1]), row[-1])


def record_use(tx: Transaction, key_id: str) -> None:
    """Record that the key was used, once a minute at most."""
    now = tx.instant()
    stale = or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < now - USED_EVERY)
    tx.connection.execute(update(keys).where(keys.c.id == key_id, stale).values(last_used_at=now))


def revoke(tx: Transaction, key_id: str, caller: Caller) -> Key | None:
    """Make a key useless from now on; None where there is none. Safe to repeat: the first time stays."""
    values = {"revoked_at": tx.instant(), "revoked_by": caller.actor}
    tx.connection.execute(update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(values))
    row = tx.connection.execute(select(*COLUMNS).where(keys.c.id == key_id)).one_or_none()
    return None if row is None else to_key(row)


def to_key(row: Any) -> Key:
    """A key from its row (the columns of `COLUMNS`)."""
    values = dict(zip((field.name for field in fields(Key)), row, strict=True))
    return Key(**values | {"role": Role(values["role"])})
