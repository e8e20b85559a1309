"""The provider account that a database belongs to: one row, the same for every replica.

It holds the scope within which phones conflict, whether a full scan is required (after a restore from a backup),
and on SQLite the host that uses the file, because an SQLite file serves one host only.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from bindings.domain.acts import Act
from bindings.errors import InvalidRequest
from bindings.store import events, protection
from bindings.store.one_row import first_column, one_row
from bindings.store.phone_keys import PLAIN, VARIABLES, KeyNumbers
from bindings.store.schema import account

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection, Select

    from bindings.domain.acts import RestoreCause
    from bindings.domain.binding import Caller
    from bindings.store.database import Database, Transaction
    from bindings.store.phone_keys import PhoneKeys
    from bindings.store.read_once import Reads

HOST_SILENT_AFTER = timedelta(seconds=60)  # without a sign of it for so long, another host may take the file
SCAN_OWED_SINCE = select(account.c.scan_owed_since).scalar_subquery()
PHONE_INDEX_KEY = select(account.c.phone_index_key).scalar_subquery()
PHONE_DATA_KEY = select(account.c.phone_data_key).scalar_subquery()
WRITES_DIGITS = PHONE_INDEX_KEY.is_(None)  # the condition that phones are written as digits
PHONES_SEALED_AT = select(account.c.phones_sealed_at).scalar_subquery()
# What a transaction reads that records an intent, after it has its locks.
BEFORE_INTENT = (SCAN_OWED_SINCE, PHONE_INDEX_KEY, PHONE_DATA_KEY)
_REQUIRED_SINCE = select(account.c.scan_owed_since)


def register_scope(database: Database, scope: str) -> None:
    """Record the scope at the first call; later refuse a different scope, and a second host on SQLite.

    With a different scope the conflict check would see no live binding (I1); nor would it without the keys that
    phones are stored with, so a process that lacks one of them, or has another one under its number, is refused
    too. Raises `InvalidRequest` with the name of the setting. Safe to repeat.
    """

    def register(tx: Transaction) -> Any:
        tx.connection.execute(
            tx.dialect.insert(account).values(id=1, scope=scope).on_conflict_do_nothing(index_elements=["id"])
        )
        row = tx.connection.execute(select(account)).one()
        if not tx.dialect.postgres and not _is_other_host(row, tx.instant()):
            record_host(tx)
        return row, tx.instant()

    row, now = database.write(register)
    if row.scope != scope:
        raise InvalidRequest.of_field("BINDINGS_SCOPE", f"must be {row.scope!r}, as recorded in this database")
    _require_phone_keys(database.phone_keys, row.phone_key_checks)
    if not database.postgres and _is_other_host(row, now):
        message = "is an SQLite file that another host is using; SQLite serves one host, PostgreSQL many"
        raise InvalidRequest.of_field("BINDINGS_DATABASE_URL", message)


def key_numbers(connection: Connection) -> KeyNumbers:
    """Return the keys that phones are written with; read them in the transaction that writes."""
    row = connection.execute(select(account.c.phone_index_key, account.c.phone_data_key)).one_or_none()
    return PLAIN if row is None else KeyNumbers(row.phone_index_key, row.phone_data_key)


def record_host(tx: Transaction) -> None:
    """Record that this host uses the file now (SQLite)."""
    tx.connection.execute(update(account).values(host=_this_host(), host_seen_at=tx.instant()))


def require_full_scan(tx: Transaction, caller: Caller, cause: RestoreCause, *, head: str | None = None) -> None:
    """Refuse binds until a full scan that starts after now is complete: the database was restored from a backup.

    Bindings made after the backup still hold phones at the provider, and are unknown here. `head` is the last head
    of the sealed history that was kept elsewhere (None: unknown): it may be lost.
    """
    since = tx.instant()
    tx.connection.execute(update(account).values(scan_owed_since=since))
    facts = {"scan_owed_since": since, "cause": cause} | ({} if head is None else {"head": head})
    events.append_act(tx, Act.DATABASE_RESTORED, caller, facts)


def waive_scan(tx: Transaction, caller: Caller) -> None:
    """Allow binds without that scan. Safe to repeat."""
    since = tx.connection.execute(_REQUIRED_SINCE.with_for_update()).scalar()
    if since is not None:
        tx.connection.execute(update(account).values(scan_owed_since=None))
        events.append_act(tx, Act.DATABASE_SCAN_WAIVED, caller, {"scan_owed_since": since})


@contextmanager
def rewrites_allowed(tx: Transaction) -> Iterator[None]:
    """Let this transaction change what was asked for, as sealing and erasing do; no other transaction sees it.

    Only for the owner of the tables: on PostgreSQL the role of the application may not set the column. Use it
    inside one transaction, which fails as a whole if the block raises.
    """
    before = protection.maintenance_until(tx.connection)
    tx.connection.execute(update(account).values(maintenance_until=datetime.max.replace(tzinfo=UTC)))
    yield
    tx.connection.execute(update(account).values(maintenance_until=before))


@one_row(first_column)
def required_since() -> Select[Any]:
    """Return since when a full scan is required, or None if none is."""
    return _REQUIRED_SINCE


def full_scan_required_since(database: Reads) -> datetime | None:
    """Return since when a full scan is required, or None if none is."""
    instant: datetime | None = database.read(required_since)
    return instant


def complete_full_scan(tx: Transaction, caller: Caller, *, scan_started_at: datetime) -> bool:
    """Record that a full scan is complete; return True if it was required since before `scan_started_at`."""
    since = tx.connection.execute(_REQUIRED_SINCE.with_for_update()).scalar()
    if since is None or since >= scan_started_at:
        return False
    tx.connection.execute(update(account).values(scan_owed_since=None))
    facts = {"scan_owed_since": since, "scan_started_at": scan_started_at}
    events.append_act(tx, Act.DATABASE_SCANNED, caller, facts)
    return True


@one_row(first_column)
def recorded_scope() -> Select[Any]:
    """Return the scope that is recorded, or None if none is yet."""
    return select(account.c.scope)


@one_row(first_column)
def phone_key_checks() -> Select[Any]:
    """Return the keys that phones in the database need, with their checks; None if they need none."""
    return select(account.c.phone_key_checks)


def require_phone_keys(database: Reads) -> None:
    """Raise `InvalidRequest` if this process lacks a key that phones in the database need, or has another one."""
    _require_phone_keys(database.phone_keys, database.read(phone_key_checks))


def _require_phone_keys(keys: PhoneKeys | None, needed: Mapping[str, str] | None) -> None:
    own_checks, checks = {} if keys is None else keys.checks, needed or {}
    missing = sorted(name for name in checks if name not in own_checks)
    if missing:
        message = (
            f"must have the keys {', '.join(missing)}: phones in this database are encrypted with them; take them"
            " from the backup of the keys"
        )
        raise InvalidRequest.of_field(VARIABLES, message)
    different = sorted(name for name, check in checks.items() if own_checks[name] != check)
    if different:
        message = (
            f"has other keys as {', '.join(different)} than those that phones in this database need; take these"
            " from the backup of the keys"
        )
        raise InvalidRequest.of_field(VARIABLES, message)


def _is_other_host(row: Any, now: datetime) -> bool:
    if row.host is None or row.host == _this_host():
        return False
    return bool(now - row.host_seen_at < HOST_SILENT_AFTER)


def _this_host() -> str:
    """Return the kernel's boot id: shared by all processes and containers of this host, and by no other host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux: use the host's name
        import socket

        return socket.gethostname()
