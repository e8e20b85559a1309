"""Who is told of events: the rows of webhooks and their secrets.

What is sent to them is in `deliveries`. A secret leaves this module only in `Secrets`, for whoever signs; it is
in no repr, and neither is an address, whose path is a secret at some receivers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Text, cast, delete, func, null, select, update

from bindings.domain.binding import EventKind
from bindings.store.schema import deliveries, webhooks
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Row

    from bindings.domain.binding import Caller
    from bindings.store.database import SqlDialect, Transaction

OLD_SECRET_S = 86_400.0  # a rotated secret still signs for a day, beside the new one


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """A receiver of events. `kinds` None: every kind. Without `disabled_at` it is sent to."""

    id: str
    url: str = field(repr=False)
    kinds: tuple[EventKind, ...] | None
    created_at: datetime
    created_by: str
    disabled_at: datetime | None
    disabled_why: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a webhook's deliveries go, and the secrets that sign them: two within a day of a rotation."""

    webhook_id: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


_SHOWN = tuple(
    webhooks.c[name] for name in ("id", "url", "kinds", "created_at", "created_by", "disabled_at", "disabled_why")
)


def add(
    tx: Transaction, webhook_id: str, caller: Caller, *, url: str, kinds: Sequence[EventKind] | None, secret: str
) -> Webhook:
    """Insert a webhook that is sent what is not final in the feed yet. Safe to repeat with the same id."""
    at_tx, position = _feed_end(tx.dialect)
    tx.connection.execute(
        tx.dialect.insert(webhooks)
        .values(
            id=webhook_id,
            url=url,
            kinds=null() if kinds is None else list(kinds),
            secret=secret,
            tx=at_tx,
            position=position,
            created_at=tx.instant(),
            created_by=caller.actor,
        )
        .on_conflict_do_nothing()
    )
    return _webhook(tx.connection.execute(select(*_SHOWN).where(webhooks.c.id == webhook_id)).one())


def _feed_end(dialect: SqlDialect) -> tuple[Any, Any]:
    """The cursor behind everything that is final; what is committed behind a running transaction is still sent."""
    if dialect.postgres:
        return cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger), 0
    return 0, select(func.coalesce(func.max(events_table.c.position), 0)).scalar_subquery()


def every(connection: Connection) -> list[Webhook]:
    """All webhooks, oldest first; the disabled ones too."""
    return [_webhook(row) for row in connection.execute(select(*_SHOWN).order_by(webhooks.c.id))]


def find(connection: Connection, webhook_id: str) -> Webhook | None:
    """One webhook, or None."""
    row = connection.execute(select(*_SHOWN).where(webhooks.c.id == webhook_id)).one_or_none()
    return None if row is None else _webhook(row)


def enable(tx: Transaction, webhook_id: str) -> Webhook | None:
    """Send to it again, from where it stood; None where there is no such webhook. Safe to repeat."""
    return _changed(tx, webhook_id, disabled_at=None, disabled_why=None)


def disable(tx: Transaction, webhook_id: str, why: str) -> Webhook | None:
    """Send nothing to it from now on. One that is disabled stays as it is."""
    if tx.connection.execute(_enabled(webhook_id)).scalar() is None:
        return find(tx.connection, webhook_id)
    return _changed(tx, webhook_id, disabled_at=tx.instant(), disabled_why=why)


def rotate(tx: Transaction, webhook_id: str, secret: str) -> Webhook | None:
    """Sign with `secret` from now on, and for a day with the old one beside it. Safe to repeat."""
    others = webhooks.c.secret != secret  # a repeat must not put the new one in the old one's place
    tx.connection.execute(
        update(webhooks)
        .where(webhooks.c.id == webhook_id, others)
        .values(
            old_secret=webhooks.c.secret,
            old_secret_until=tx.instant() + timedelta(seconds=OLD_SECRET_S),
            secret=secret,
        )
    )
    return find(tx.connection, webhook_id)


def remove(tx: Transaction, webhook_id: str) -> bool:
    """Delete a webhook and everything that was or would be sent to it; False where there is none."""
    # Locked first: a fan-out in between would write deliveries of a webhook that is gone.
    tx.connection.execute(select(webhooks.c.id).where(webhooks.c.id == webhook_id).with_for_update())
    tx.connection.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
    return bool(tx.connection.execute(delete(webhooks).where(webhooks.c.id == webhook_id)).rowcount)


def target(connection: Connection, webhook_id: str, now: datetime) -> Target | None:
    """Where to send, disabled or not; None where there is no such webhook."""
    columns = (webhooks.c.url, webhooks.c.secret, webhooks.c.old_secret, webhooks.c.old_secret_until)
    row = connection.execute(select(*columns).where(webhooks.c.id == webhook_id)).one_or_none()
    if row is None:
        return None
    old = row.old_secret is not None and row.old_secret_until > now
    return Target(
        webhook_id=webhook_id, url=row.url, secrets=(row.secret, row.old_secret) if old else (row.secret,)
    )


def _enabled(webhook_id: str) -> Any:
    return select(webhooks.c.id).where(webhooks.c.id == webhook_id, webhooks.c.disabled_at.is_(None))


def _changed(tx: Transaction, webhook_id: str, **values: Any) -> Webhook | None:
    tx.connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(**values))
    return find(tx.connection, webhook_id)


def _webhook(row: Row[*tuple[Any, ...]]) -> Webhook:
    values: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 -- the row's public way
    kinds = values.pop("kinds")
    return Webhook(kinds=None if kinds is None else tuple(map(EventKind, kinds)), **values)
