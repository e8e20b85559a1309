"""The rows of webhooks (the receivers of events) and their secrets.

What is sent to them is in `deliveries`. A secret leaves this module only in `Target`, for the sender that signs;
no repr shows it, nor a URL, because its path is a secret at some receivers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import delete, func, null, select, update

from bindings.domain.acts import Act
from bindings.domain.binding import EventKind
from bindings.store import events, sql
from bindings.store.schema import deliveries, webhooks
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row, Update

    from bindings.domain.binding import Caller
    from bindings.store.database import SqlDialect, Transaction

ONLY_BY_NAME = (
    EventKind.REVEALED,
    EventKind.PHONE_SEARCHED,
    EventKind.BUDGET_USED_UP,
    EventKind.EXPORTED,
    EventKind.ADMINISTERED,
    EventKind.SEALED,
)
OLD_SECRET_S = 86_400.0  # a rotated secret still signs for a day, in addition to the new one


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """A receiver of events. `kinds` None: every kind but those in `ONLY_BY_NAME`. `disabled_at` None: enabled.

    A kind that only a later version knows is another text than those of `EventKind`. `old_secret_until` is until
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
    insertion = (
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
    inserted = tx.connection.execute(insertion.returning(webhooks.c.id)).all()
    row = tx.connection.execute(select(*COLUMNS, webhooks.c.secret).where(webhooks.c.id == webhook_id)).one()
    webhook = to_webhook(row)
    if inserted:
        events.append_act(tx, Act.WEBHOOK_ADDED, caller, _facts(webhook))
    return webhook if row.secret == secret else None


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


def enable(tx: Transaction, webhook_id: str, caller: Caller) -> Webhook | None:
    """Enable a webhook, which continues at its cursor; return it, or None if it is unknown. Safe to repeat."""
    change = update(webhooks).where(webhooks.c.disabled_at.is_not(None))
    change = change.values(disabled_at=None, disabled_why=None)
    return _change(tx, change, Act.WEBHOOK_ENABLED, caller, {"id": webhook_id})


def disable(tx: Transaction, webhook_id: str, caller: Caller, cause: str) -> Webhook | None:
    """Disable a webhook from now on; return it, or None if it is unknown. The first call counts."""
    values = {"disabled_at": tx.instant(), "disabled_why": cause}
    change = update(webhooks).where(webhooks.c.disabled_at.is_(None)).values(values)
    return _change(tx, change, Act.WEBHOOK_DISABLED, caller, {"id": webhook_id} | values)


def rotate(
    tx: Transaction, webhook_id: str, caller: Caller, secret: str, *conditions: ColumnElement[bool]
) -> tuple[Webhook, bool] | None:
    """Sign with `secret` from now on, and for a day also with the old secret. Safe to repeat.

    Returns the webhook and whether it has this secret now, which is False if a condition does not hold; None if it
    is unknown.
    """
    is_new = webhooks.c.secret != secret  # a repeated call must not replace the old secret with the new one
    facts = {"old_secret_until": tx.instant() + timedelta(seconds=OLD_SECRET_S)}
    values = facts | {"old_secret": webhooks.c.secret, "secret": secret}
    change = update(webhooks).where(is_new, *conditions).values(values)
    _change(tx, change, Act.WEBHOOK_ROTATED, caller, {"id": webhook_id} | facts)
    row = tx.connection.execute(
        select(*COLUMNS, webhooks.c.secret).where(webhooks.c.id == webhook_id)
    ).one_or_none()
    return None if row is None else (to_webhook(row), row.secret == secret)


def last_rotated(old_secret_until: datetime | None) -> ColumnElement[bool]:
    """Return the condition that there was no rotation after the one that this instant of a webhook is from."""
    return webhooks.c.old_secret_until.is_not_distinct_from(old_secret_until)


def remove(tx: Transaction, webhook_id: str, caller: Caller) -> bool:
    """Delete a webhook and all its deliveries; return False if it is unknown."""
    # Locked first: a fan-out meanwhile would write deliveries of a deleted webhook.
    locked = select(*COLUMNS).where(webhooks.c.id == webhook_id).with_for_update()
    row = tx.connection.execute(locked).one_or_none()
    if row is None:
        return False
    deleted = tx.connection.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id)).rowcount
    tx.connection.execute(delete(webhooks).where(webhooks.c.id == webhook_id))
    events.append_act(tx, Act.WEBHOOK_REMOVED, caller, _facts(to_webhook(row)) | {"deliveries": deleted})
    return True


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

    Reveals, searches by a phone, exports and administrative acts are sent only to a webhook that names them:
    others may belong to those who are investigated.
    """
    return kind not in ONLY_BY_NAME if kinds is None else kind in kinds


def _change(tx: Transaction, change: Update, act: Act, caller: Caller, facts: dict[str, Any]) -> Webhook | None:
    """Change the webhook with the id in `facts`, with the act's event if it has an effect; return the webhook."""
    webhook_id = facts["id"]
    if tx.connection.execute(change.where(webhooks.c.id == webhook_id).returning(webhooks.c.id)).all():
        events.append_act(tx, act, caller, facts)
    return find(tx.connection, webhook_id)


def _facts(webhook: Webhook) -> dict[str, Any]:
    """Return what never changes, for an event; of the URL its origin and its hash, because it may be secret."""
    parts = urlsplit(webhook.url)
    return {
        "id": webhook.id,
        "url": f"{parts.scheme}://{parts.netloc}",
        "url_sha256": hashlib.sha256(webhook.url.encode()).hexdigest(),
        "kinds": webhook.kinds,
        "created_at": webhook.created_at,
        "created_by": webhook.created_by,
    }


def to_webhook(row: Row[*tuple[Any, ...]]) -> Webhook:
    """Return a webhook from a row that has the columns `COLUMNS`."""
    return sql.record(Webhook, row, kinds=None if row.kinds is None else tuple(row.kinds))
