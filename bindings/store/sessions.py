"""The sessions and searches of the console: short-lived rows that are deleted when they expire.

A session is found by the hash of its token, and only while its key is valid. A search is kept for its owner's
browser only: so no URL contains the phones that are searched for, and here they stay for at most an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from sqlalchemy import String, bindparam, delete, or_, select, update

from bindings.domain.acts import Act
from bindings.domain.binding import Caller
from bindings.store import account, events, phones, sql
from bindings.store import keys as key_rows
from bindings.store.compiled import MOST_CLOCKS, CompiledStatement
from bindings.store.schema import keys, searches, sessions

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

    from bindings.domain.phone import Phone
    from bindings.store.database import Transaction
    from bindings.store.keys import Key

SESSION_LIFETIME = timedelta(hours=12)
IDLE_TIMEOUT = timedelta(hours=1)  # a session that is not used for longer is over
SEEN_INTERVAL = timedelta(minutes=1)  # how often the use of a session is recorded
MAX_READ = 1_000  # sessions that a list looks at
SEARCH_LIFETIME = timedelta(hours=1)
_PHONES = ("number", "party")


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """A search: words or a number, and for a number optionally the other party and an instant."""

    words: str | None = None
    number: Phone | None = None
    party: Phone | None = None
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A session in force. `id` is the SHA-256 of its token, with which no request authenticates."""

    id: str
    key: Key
    began_at: datetime
    seen_at: datetime
    expires_at: datetime


def begin(tx: Transaction, digest: str, key_id: str, request_id: str | None) -> None:
    """Record a new session, with its event by the key. Safe to repeat with the same digest."""
    now = tx.instant()
    times = {"began_at": now, "seen_at": now, "expires_at": now + SESSION_LIFETIME}
    inserted = tx.connection.execute(
        tx.dialect.insert(sessions)
        .values(hash=digest, key_id=key_id, **times)
        .on_conflict_do_nothing(index_elements=["hash"])
        .returning(sessions.c.hash)
    )
    if inserted.scalar() is not None:
        caller = _caller_of(tx, key_id, request_id)
        events.append_act(tx, Act.SESSION_BEGAN, caller, {"key_id": key_id, "began_at": now})


def _caller_of(tx: Transaction, key_id: str, request_id: str | None) -> Caller:
    """Return the caller that a key is."""
    name = tx.connection.execute(select(keys.c.name).where(keys.c.id == key_id)).scalar_one()
    return Caller(actor=f"key:{name}", request_id=request_id, key_id=key_id)


def find_valid(connection: Connection, digest: str, now: ColumnElement[datetime]) -> tuple[Key, bool] | None:
    """Return a session's key and whether to record its use now; None if the session or the key is not valid."""
    rows = _valid(now).fetch_all(connection, {"hash": digest})
    if not rows or rows[0].read_at - rows[0].seen_at > IDLE_TIMEOUT:
        return None
    return key_rows.to_key(rows[0]), rows[0].read_at - rows[0].seen_at > SEEN_INTERVAL


@lru_cache(maxsize=MOST_CLOCKS)
def _valid(now: ColumnElement[datetime]) -> CompiledStatement:
    """Build the statement for a session, which every page of the console runs."""
    not_expired = or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
    is_session = sessions.c.hash == bindparam("hash", type_=String)
    return CompiledStatement(
        select(*key_rows.COLUMNS, sessions.c.seen_at, now.label("read_at"))
        .join_from(sessions, keys)
        .where(is_session, sessions.c.expires_at > now, keys.c.revoked_at.is_(None), not_expired)
    )


def list_valid(connection: Connection, now: ColumnElement[datetime], *, limit: int) -> list[Session]:
    """Return up to `limit` sessions that are valid, the last used first, of the newest `MAX_READ` ones."""
    not_expired = or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
    newest = (
        select(sessions, now.label("read_at"))
        .where(sessions.c.expires_at > now)
        .order_by(sessions.c.expires_at.desc())
        .limit(MAX_READ)
        .subquery()
    )
    times = (newest.c.began_at, newest.c.seen_at, newest.c.expires_at.label("session_expires_at"))
    statement = (
        select(*key_rows.COLUMNS, newest.c.hash, *times, newest.c.read_at)
        .join(newest, newest.c.key_id == keys.c.id)
        .where(keys.c.revoked_at.is_(None), not_expired)
        .order_by(newest.c.seen_at.desc(), newest.c.hash)
    )
    in_use = [row for row in connection.execute(statement) if row.read_at - row.seen_at <= IDLE_TIMEOUT]
    return [
        Session(
            id=row.hash,
            key=key_rows.to_key(row),
            began_at=row.began_at,
            seen_at=row.seen_at,
            expires_at=row.session_expires_at,
        )
        for row in in_use[:limit]
    ]


def valid_digests(connection: Connection, now: ColumnElement[datetime]) -> frozenset[str]:
    """Return the digests of all sessions that have not expired; the key of one may have been revoked."""
    return frozenset(connection.execute(select(sessions.c.hash).where(sessions.c.expires_at > now)).scalars())


def record_use(tx: Transaction, digest: str) -> None:
    """Record that a session is in use, at most once a minute."""
    now = tx.instant()
    stale = sessions.c.seen_at < now - SEEN_INTERVAL
    tx.connection.execute(update(sessions).where(sessions.c.hash == digest, stale).values(seen_at=now))


def sign_out(tx: Transaction, digest: str, request_id: str | None) -> None:
    """Delete a session and its searches, with its event by the key. Safe to repeat."""
    key_id = tx.connection.execute(select(sessions.c.key_id).where(sessions.c.hash == digest)).scalar()
    if key_id is None:
        tx.connection.execute(delete(searches).where(searches.c.owner == digest))
    else:
        end(tx, digest, _caller_of(tx, key_id, request_id))


def end(tx: Transaction, digest: str, caller: Caller) -> None:
    """Delete a session and its searches, with its event by a caller. Safe to repeat."""
    tx.connection.execute(delete(searches).where(searches.c.owner == digest))
    ended = delete(sessions).where(sessions.c.hash == digest).returning(sessions.c.key_id, sessions.c.began_at)
    row = tx.connection.execute(ended).one_or_none()
    if row is not None:
        events.append_act(tx, Act.SESSION_ENDED, caller, row._asdict())


def delete_expired(tx: Transaction) -> None:
    """Delete expired sessions and searches. Safe to repeat."""
    now = tx.instant()
    for table in (searches, sessions):
        tx.connection.execute(delete(table).where(table.c.expires_at <= now))


def save_search(tx: Transaction, search_id: str, owner: str, search: Search) -> None:
    """Save a search for an hour. Safe to repeat with the same id."""
    dialect, numbers = tx.connection.dialect, account.key_numbers(tx.connection)
    stored = phones.stored(
        dialect, numbers, "searches", search_id, {name: getattr(search, name) for name in _PHONES}
    )
    values = stored | {
        "id": search_id,
        "owner": owner,
        "words": search.words,
        "at": search.at,
        "expires_at": tx.instant() + SEARCH_LIFETIME,
    }
    tx.connection.execute(tx.dialect.insert(searches).values(values).on_conflict_do_nothing(index_elements=["id"]))


def get_search(connection: Connection, search_id: str, owner: str, now: ColumnElement[datetime]) -> Search | None:
    """Return the search with this id, or None if it has another owner or has expired."""
    rows = _search(now).fetch_all(connection, {"id": search_id, "owner": owner})
    return sql.record(Search, rows[0], **phones.opened(rows[0], "searches", _PHONES)) if rows else None


@lru_cache(maxsize=MOST_CLOCKS)
def _search(now: ColumnElement[datetime]) -> CompiledStatement:
    """Build the statement for a search by its id and owner."""
    by_id = searches.c.id == bindparam("id", type_=searches.c.id.type)
    return CompiledStatement(
        select(searches).where(
            by_id, searches.c.owner == bindparam("owner", type_=String), searches.c.expires_at > now
        )
    )
