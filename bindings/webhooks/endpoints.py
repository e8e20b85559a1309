"""Webhook endpoints: add, list, disable and remove them; list their deliveries and send them again.

`sender` delivers. Opens no connection except to the database. A secret is returned once, by the call that created
it.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from uuid_utils import uuid7

from bindings import errors
from bindings.domain.addresses import is_public, literal_address
from bindings.domain.binding import Page
from bindings.store import deliveries, webhook_health, webhooks
from bindings.store.deliveries import Delivery, DeliveryState
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from bindings.domain.binding import EventKind
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.database import Transaction
    from bindings.store.webhook_health import WebhookHealth
    from bindings.store.webhooks import Webhook


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookWithSecret:
    """A webhook and its new secret (`whsec_...`), which is available only here."""

    webhook: Webhook
    secret: str = field(repr=False)


class Webhooks:
    """The webhook endpoints of one database, for the runtime's caller. Thread-safe.

    Every call raises `NotFound` for an unknown id, and `InvalidRequest` before any I/O.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._database = runtime.database
        self._caller = runtime.caller
        self._networks = runtime.settings.webhook_networks

    def add(self, *, url: str, kinds: Iterable[str | EventKind] | None = None) -> WebhookWithSecret:
        """Add an endpoint that gets later events at `url` (http or https): those of `kinds`.

        Without `kinds` all are sent but `revealed`, `phone_searched`, `budget_used_up`, `exported` and
        `administered`. Nothing is delivered to an address that is neither public nor in `webhook_networks`, so a
        URL with such an address is an `InvalidRequest` too. Not safe to repeat: each call adds another webhook. An
        event committed earlier may be sent if it was not yet final in the feed.
        """
        added = self.add_once(str(uuid7()), url=url, kinds=kinds)
        if added is None:
            raise AssertionError("unreachable: the id is new")
        return added

    def add_once(
        self, webhook_id: str, *, url: str, kinds: Iterable[str | EventKind] | None = None
    ) -> WebhookWithSecret | None:
        """Add an endpoint with this id (a new UUID) as `add` does, or return None if one has the id already.

        Safe to repeat: a form that is sent twice adds one webhook, and its secret is returned once.
        """
        checked_id = _webhook_id(webhook_id)
        checked_url, checked_kinds = validation.webhook(url=url, kinds=kinds)
        self._require_public(checked_url)
        secret = _new_secret()
        added = self._database.write(
            lambda tx: webhooks.add(
                tx, checked_id, self._caller, url=checked_url, kinds=checked_kinds, secret=secret
            )
        )
        return None if added is None else WebhookWithSecret(webhook=added, secret=secret)

    def health(self) -> list[WebhookHealth]:
        """Return all webhooks, oldest first, with the state of their deliveries: one query."""
        return self._database.read(webhook_health.list_all)

    def list(self) -> list[Webhook]:
        """Return all webhooks, oldest first, without their secrets."""
        return self._database.read(webhooks.list_all)

    def get(self, webhook_id: str) -> Webhook:
        """Return one webhook."""
        return _or_not_found(self._database.read(webhooks.find, _webhook_id(webhook_id)))

    def disable(self, webhook_id: str) -> Webhook:
        """Stop sending; events wait for `enable` and are not lost. Safe to repeat."""
        reason = f"by {self._caller.actor}"
        return self._change(
            webhook_id, lambda tx, checked_id: webhooks.disable(tx, checked_id, self._caller, reason)
        )

    def enable(self, webhook_id: str) -> Webhook:
        """Send again, starting with the events that waited. Safe to repeat."""
        return self._change(webhook_id, lambda tx, checked_id: webhooks.enable(tx, checked_id, self._caller))

    def rotate(self, webhook_id: str) -> WebhookWithSecret:
        """Create another secret; for a day the old one signs every delivery as well. Not safe to repeat."""
        rotated = self._rotate(webhook_id)
        if rotated is None:
            raise AssertionError("unreachable: without a condition the secret is always replaced")
        return rotated

    def rotate_once(self, webhook_id: str, *, old_secret_until: datetime | None) -> WebhookWithSecret | None:
        """Create another secret as `rotate` does, or return None if there was a rotation meanwhile.

        `old_secret_until` is that of the webhook as the caller has read it. Safe to repeat.
        """
        return self._rotate(webhook_id, webhooks.last_rotated(old_secret_until))

    def _rotate(self, webhook_id: str, *conditions: Any) -> WebhookWithSecret | None:
        checked_id, secret = _webhook_id(webhook_id), _new_secret()
        result = self._database.write(
            lambda tx: webhooks.rotate(tx, checked_id, self._caller, secret, *conditions)
        )
        if result is None:
            raise _no_webhook()
        webhook, has_new_secret = result
        return WebhookWithSecret(webhook=webhook, secret=secret) if has_new_secret else None

    def remove(self, webhook_id: str) -> None:
        """Delete a webhook and its deliveries, including those that wait."""
        checked_id = _webhook_id(webhook_id)
        if not self._database.write(lambda tx: webhooks.remove(tx, checked_id, self._caller) or tx.attempt > 1):
            raise _no_webhook()

    def deliveries(
        self, webhook_id: str, *, state: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[Delivery]:
        """Return a page of a webhook's deliveries, newest event first; `state`: pending, delivered or dead."""
        checked_state, before, size = validation.deliveries(state=state, cursor=cursor, limit=limit)
        checked_id = self.get(webhook_id).id
        rows = self._database.read(
            deliveries.page,
            checked_id,
            state=None if checked_state is None else DeliveryState(checked_state),
            before=before,
            limit=size + 1,
        )
        return Page.of(rows, size, lambda delivery: delivery.event.cursor.partition("-")[2])

    def redeliver(self, delivery_id: str) -> Delivery:
        """Send a dead or delivered one again, with all its attempts; a pending one stays as it is."""
        checked_id = validation.identifier(delivery_id, "delivery")
        delivery = self._database.write(lambda tx: deliveries.redeliver(tx, checked_id, self._caller))
        if delivery is None:
            raise errors.NotFound("there is no such delivery")
        return delivery

    def redeliver_dead(self, webhook_id: str) -> int:
        """Send every dead delivery of a webhook again, and return how many. Safe to repeat."""
        checked_id = self.get(webhook_id).id
        return self._database.write(lambda tx: deliveries.redeliver_dead(tx, checked_id, self._caller))

    def _require_public(self, url: str) -> None:
        """Refuse a URL that names an address which no delivery is sent to; the addresses of a name come later."""
        address = literal_address(urlsplit(url).hostname or "")
        if address is not None and not is_public(address, self._networks):
            message = "must not be an address that is neither public nor in BINDINGS_WEBHOOK_NETWORKS"
            raise errors.InvalidRequest.of_field("url", message)

    def _change(self, webhook_id: str, change: Callable[[Transaction, str], Webhook | None]) -> Webhook:
        checked_id = _webhook_id(webhook_id)
        return _or_not_found(self._database.write(lambda tx: change(tx, checked_id)))


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _webhook_id(value: str) -> str:
    return validation.identifier(value, "webhook")


def _or_not_found(webhook: Webhook | None) -> Webhook:
    if webhook is None:
        raise _no_webhook()
    return webhook


def _no_webhook() -> errors.NotFound:
    return errors.NotFound("there is no such webhook")
