"""The account that a database belongs to: one row that every replica must agree with.

It holds the scope within which phones conflict, whether a full scan is owed (after a restore from a backup), and
on SQLite which host is at work, for an SQLite file serves one host only.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from bindings.errors import FieldError, InvalidRequest
from bindings.store.schema import account

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.store.database import Database, Transaction

HOST_SILENT_AFTER = timedelta(seconds=60)
SCAN_OWED_SINCE = select(account.c.scan_owed_since).scalar_subquery()


def register_scope(database: Database, scope: str) -> None:
    """Record the scope the first time; later refuse another one, and a second host on SQLite.

    With another scope every live binding would be invisible to the conflict check (I1). Raises
    `InvalidRequest` under the setting's name. Safe to repeat.
    """

    def work(tx: Transaction) -> Any:
        tx.connection.execute(
            tx.dialect.insert(account).values(id=1, scope=scope).on_conflict_do_nothing(index_elements=["id"])
        )
        row = tx.connection.execute(select(account)).one()
        if not tx.dialect.postgres and not _another_host(row, tx.instant()):
            record_host(tx)
        return row, tx.instant()

    row, now = database.write(work)
    if row.scope != scope:
        raise InvalidRequest(
            [FieldError("BINDINGS_SCOPE", f"must be {row.scope!r}, as recorded in this database")]
        )
    if not database.postgres and _another_host(row, now):
        message = "is an SQLite file that another host is using; SQLite serves one host, PostgreSQL many"
        raise InvalidRequest([FieldError("BINDINGS_DATABASE_URL", message)])


def record_host(tx: Transaction) -> None:
    """Record that this host is at work (SQLite)."""
    tx.connection.execute(update(account).values(host=_this_host(), host_seen_at=tx.instant()))


def require_full_scan(tx: Transaction) -> None:
    """Let no bind through until a full scan has begun after now: the database was restored from a backup.

    What was bound after the backup is held at the provider and unknown here.
    """
    tx.connection.execute(update(account).values(scan_owed_since=tx.instant()))


def waive_scan(tx: Transaction) -> None:
    """Let binds go on without that scan."""
    tx.connection.execute(update(account).values(scan_owed_since=None))


def full_scan_required_since(database: Database) -> datetime | None:
    """Since when binds wait for a full scan; None where they do not."""
    found: datetime | None = database.read(
        lambda connection: connection.execute(select(account.c.scan_owed_since)).scalar()
    )
    return found


def complete_full_scan(tx: Transaction, *, began: datetime) -> bool:
    """A full scan has come to its end; True where one was owed since before it `began`."""
    paid = (
        update(account)
        .where(account.c.scan_owed_since < began)
        .values(scan_owed_since=None)
        .returning(account.c.id)
    )
    return bool(tx.connection.execute(paid).all())


def _another_host(row: Any, now: datetime) -> bool:
    if row.host is None or row.host == _this_host():
        return False
    return bool(now - row.host_seen_at < HOST_SILENT_AFTER)


def _this_host() -> str:
    """What all processes and containers of one running kernel share, and no other host has."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux: the name must do
        import socket

        return socket.gethostname()
