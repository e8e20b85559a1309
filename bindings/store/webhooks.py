"""The rows of webhooks (the receivers of events) and their secrets.

What is sent to them is in `deliveries`. A secret leaves this module only in `Target`, for the sender that signs;
no repr shows it, nor a URL, because its path is a secret at some receivers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, null, select, update

from bindings.domain.binding import EventKind
from bindings.store import events, sql
from bindings.store.schema import deliveries, webhooks
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row

    from bindings.domain.binding import Caller
    from bindings.store.database import SqlDialect, Transaction

OLD_SECRET_S = 86_400.0  # a rotated secret still signs for a day, in addition to the new one


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """A receiver of events. `kinds` None: every kind but `revealed`. `disabled_at` None: enabled.

    A kind that only a later release knows is another text than those of `EventKind`. `old_secret_until` is until
    when the secret before the last rotation signs as well; None if there was no rotation.
    """

    id: str
    url: str = field(repr=False)
    kinds: tuple[str, ...] | None
    created_at: datetime
    created_by: str
    disabled_at: datetime | None
    disabled_why: str | None
    old_secret_until: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The URL and kinds of a webhook, and the secrets that sign its deliveries: two within a day of a rotation."""

    webhook_id: str
    url: str = field(repr=False)
    kinds: tuple[str, ...] | None
    secrets: tuple[str, ...] = field(repr=False)


COLUMNS = sql.columns(webhooks, Webhook)


def add(
    tx: Transaction, webhook_id: str, caller: Caller, *, url: str, kinds: Sequence[EventKind] | None, secret: str
) -> Webhook | None:
    """Insert a webhook and return it, or None if another one has this id; it receives events that are not final.

    Safe to repeat with the same id and secret.
    """
    cursor_tx, position = _feed_end(tx.dialect)
    tx.connection.execute(
        tx.dialect.insert(webhooks)
        .values(
            id=webhook_id,
            url=url,
            kinds=null() if kinds is None else list(kinds),
            secret=secret,
            tx=cursor_tx,
            position=position,
            created_at=tx.instant(),
            created_by=caller.actor,
        )
        .on_conflict_do_nothing()
    )
    row = tx.connection.execute(select(*COLUMNS, webhooks.c.secret).where(webhooks.c.id == webhook_id)).one()
    return to_webhook(row) if row.secret == secret else None


def _feed_end(dialect: SqlDialect) -> tuple[Any, Any]:
    """Return the cursor after all final events; one that commits after a running transaction is sent."""
    if dialect.postgres:
        return events.oldest_running(), 0
    return 0, select(func.coalesce(func.max(events_table.c.position), 0)).scalar_subquery()


def list_all(connection: Connection) -> list[Webhook]:
    """Return all webhooks, oldest first, with the disabled ones."""
    return [to_webhook(row) for row in connection.execute(select(*COLUMNS).order_by(webhooks.c.id))]


def find(connection: Connection, webhook_id: str) -> Webhook | None:
    """Return the webhook with this id, or None."""
    row = connection.execute(select(*COLUMNS).where(webhooks.c.id == webhook_id)).one_or_none()
    return None if row is None else to_webhook(row)


def enable(tx: Transaction, webhook_id: str) -> Webhook | None:
    """Enable a webhook, which continues at its cursor; return it, or None if it is unknown. Safe to repeat."""
    return _update(tx, webhook_id, disabled_at=None, disabled_why=None)


def disable(tx: Transaction, webhook_id: str, cause: str) -> Webhook | None:
    """Disable a webhook from now on; return it, or None if it is unknown. The first call counts."""
    if tx.connection.execute(_enabled(webhook_id)).scalar() is None:
        return find(tx.connection, webhook_id)
    return _update(tx, webhook_id, disabled_at=tx.instant(), disabled_why=cause)


def rotate(
    tx: Transaction, webhook_id: str, secret: str, *conditions: ColumnElement[bool]
) -> tuple[Webhook, bool] | None:
    """Sign with `secret` from now on, and for a day also with the old secret. Safe to repeat.

    Returns the webhook and whether it has this secret now, which is False if a condition does not hold; None if it
    is unknown.
    """
    is_new = webhooks.c.secret != secret  # a repeated call must not replace the old secret with the new one
    tx.connection.execute(
        update(webhooks)
        .where(webhooks.c.id == webhook_id, is_new, *conditions)
        .values(
            old_secret=webhooks.c.secret,
            old_secret_until=tx.instant() + timedelta(seconds=OLD_SECRET_S),
            secret=secret,
        )
    )
    row = tx.connection.execute(
        select(*COLUMNS, webhooks.c.secret).where(webhooks.c.id == webhook_id)
    ).one_or_none()
    return None if row is None else (to_webhook(row), row.secret == secret)


def last_rotated(old_secret_until: datetime | None) -> ColumnElement[bool]:
    """Return the condition that there was no rotation after the one that this instant of a webhook is from."""
    return webhooks.c.old_secret_until.is_not_distinct_from(old_secret_until)


def remove(tx: Transaction, webhook_id: str) -> bool:
    """Delete a webhook and all its deliveries; return False if it is unknown."""
    # Locked first: a fan-out meanwhile would write deliveries of a deleted webhook.
    tx.connection.execute(select(webhooks.c.id).where(webhooks.c.id == webhook_id).with_for_update())
    tx.connection.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
    return bool(tx.connection.execute(delete(webhooks).where(webhooks.c.id == webhook_id)).rowcount)


def target(connection: Connection, webhook_id: str, now: datetime) -> Target | None:
    """Return the URL and secrets of a webhook, disabled or not, or None if it is unknown."""
    columns = (
        webhooks.c.url,
        webhooks.c.kinds,
        webhooks.c.secret,
        webhooks.c.old_secret,
        webhooks.c.old_secret_until,
    )
    row = connection.execute(select(*columns).where(webhooks.c.id == webhook_id)).one_or_none()
    if row is None:
        return None
    old_is_valid = row.old_secret is not None and row.old_secret_until > now
    secrets = (row.secret, row.old_secret) if old_is_valid else (row.secret,)
    kinds = None if row.kinds is None else tuple(row.kinds)
    return Target(webhook_id=webhook_id, url=row.url, kinds=kinds, secrets=secrets)


def is_sent(kind: str, kinds: Sequence[str] | None) -> bool:
    """Return whether a webhook with these `kinds` gets events of a kind.

    Reveals are sent only to a webhook that names them: others may belong to those who are investigated.
    """
    return kind != EventKind.REVEALED if kinds is None else kind in kinds


def _enabled(webhook_id: str) -> Any:
    return select(webhooks.c.id).where(webhooks.c.id == webhook_id, webhooks.c.disabled_at.is_(None))


def _update(tx: Transaction, webhook_id: str, **values: Any) -> Webhook | None:
    tx.connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(**values))
    return find(tx.connection, webhook_id)


def to_webhook(row: Row[*tuple[Any, ...]]) -> Webhook:
    """Return a webhook from a row that has the columns `COLUMNS`."""
    return sql.record(Webhook, row, kinds=None if row.kinds is None else tuple(row.kinds))
