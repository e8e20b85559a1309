"""Who is told of events: receivers are added, listed, disabled and removed; what was sent to them, and what again.

`web.deliver` does the sending, with the calls under "For the sender". Nothing here opens a connection but to the
database. A secret is shown once, by the call that made it, and never again.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from uuid_utils import uuid7

from bindings import errors
from bindings.domain.binding import Page
from bindings.store import deliveries, webhooks
from bindings.store.deliveries import Batch, Delivery, DeliveryState, Result
from bindings.store.webhooks import Target, Webhook
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bindings.domain.binding import Caller, EventKind
    from bindings.store.database import Database, Transaction

__all__ = ["Batch", "Delivery", "DeliveryState", "Result", "Target", "Webhook", "WebhookWithSecret", "Webhooks"]

LEASE_S = 60.0  # longer than a sender works on what it took
FAN_OUT = 500  # events in one transaction
FORGOTTEN = 1_000  # deliveries in one transaction
DELIVERED_KEPT_S = 7 * 86_400.0
DEAD_KEPT_S = 30 * 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookWithSecret:
    """A webhook and the secret that was just made for it (`whsec_...`): keep it, it is not shown again."""

    webhook: Webhook
    secret: str = field(repr=False)


class Webhooks:
    """The receivers of a `BindingService`, on behalf of its caller. Thread-safe.

    Every call raises `NotFound` for an id that there is not, and `InvalidRequest` before any I/O.
    """

    def __init__(self, database: Database, caller: Caller) -> None:
        self._database = database
        self._caller = caller

    def add(self, *, url: str, kinds: Iterable[str | EventKind] | None = None) -> WebhookWithSecret:
        """Send events from now on to `url` (http or https): those of `kinds`, or every one.

        Not safe to repeat: each call adds another webhook. What is committed already may be sent where it was
        not yet final in the feed.
        """
        address, wanted = validation.webhook(url=url, kinds=kinds)
        webhook_id, secret = str(uuid7()), _new_secret()
        added = self._database.write(
            lambda tx: webhooks.add(tx, webhook_id, self._caller, url=address, kinds=wanted, secret=secret)
        )
        return WebhookWithSecret(webhook=added, secret=secret)

    def list(self) -> list[Webhook]:
        """All webhooks, oldest first, without their secrets."""
        return self._database.read(webhooks.every)

    def get(self, webhook_id: str) -> Webhook:
        """One webhook."""
        found_id = _webhook_id(webhook_id)
        return _or_not_found(self._database.read(webhooks.find, found_id))

    def disable(self, webhook_id: str) -> Webhook:
        """Send nothing from now on; nothing is lost, it waits for `enable`. Safe to repeat."""
        why = f"by {self._caller.actor}"
        return self._change(webhook_id, lambda tx, found_id: webhooks.disable(tx, found_id, why))

    def enable(self, webhook_id: str) -> Webhook:
        """Send again, and first what has waited. Safe to repeat."""
        return self._change(webhook_id, webhooks.enable)

    def rotate(self, webhook_id: str) -> WebhookWithSecret:
        """Make another secret. For a day every delivery carries the old one's signature beside the new one's."""
        secret = _new_secret()
        found = self._change(webhook_id, lambda tx, found_id: webhooks.rotate(tx, found_id, secret))
        return WebhookWithSecret(webhook=found, secret=secret)

    def remove(self, webhook_id: str) -> None:
        """Forget a webhook and its deliveries, also those that wait."""
        found_id = _webhook_id(webhook_id)
        if not self._database.write(lambda tx: webhooks.remove(tx, found_id) or tx.attempt > 1):
            raise _no_webhook()

    def deliveries(
        self, webhook_id: str, *, state: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[Delivery]:
        """A page of a webhook's deliveries, the newest event first; `state` pending, delivered or dead."""
        wanted, before, size = validation.deliveries(state=state, cursor=cursor, limit=limit)
        found_id = self.get(webhook_id).id
        rows = self._database.read(
            deliveries.page,
            found_id,
            state=None if wanted is None else DeliveryState(wanted),
            before=before,
            limit=size + 1,
        )
        data = tuple(rows[:size])
        after = data[-1].event.cursor.partition("-")[2] if len(rows) > size else None
        return Page(data=data, next_cursor=after)

    def redeliver(self, delivery_id: str) -> Delivery:
        """Send a dead or a delivered one again, with all its tries. One that is pending stays as it is."""
        found_id = validation.identifier(delivery_id, "delivery")
        found = self._database.write(lambda tx: deliveries.redeliver(tx, found_id))
        if found is None:
            raise errors.NotFound("there is no such delivery")
        return found

    def redeliver_dead(self, webhook_id: str) -> int:
        """Send every dead delivery of a webhook again; how many. Safe to repeat."""
        found_id = self.get(webhook_id).id
        return self._database.write(lambda tx: deliveries.redeliver_dead(tx, found_id))

    # For the sender (`web.deliver`).

    def with_work(self) -> Sequence[str]:
        """The webhooks that lag behind the feed or have something due. One read; empty when all is quiet."""
        return self._database.read(deliveries.webhooks_with_work, self._database.now)

    def fan_out(self, webhook_id: str) -> tuple[int, bool]:
        """Make deliveries of the next events; how many, and whether there may be more events."""
        return self._database.write(lambda tx: deliveries.fan_out(tx, webhook_id, _new_id, limit=FAN_OUT))

    def take(self, webhook_id: str, *, limit: int, lease_s: float = LEASE_S) -> Batch | None:
        """Lease what is due to this sender for `lease_s` seconds; None where nothing is."""
        return self._database.write(lambda tx: deliveries.lease(tx, webhook_id, limit=limit, lease_s=lease_s))

    def give_back(self, unsent: Sequence[Delivery]) -> None:
        """End the lease of what was not tried."""
        if unsent:
            self._database.write(lambda tx: deliveries.release(tx, unsent))

    def record(self, results: Sequence[Result]) -> None:
        """Write down what came of tries. Safe to repeat."""
        self._database.write(lambda tx: deliveries.record(tx, results))

    def target(self, webhook_id: str) -> Target:
        """Where a webhook's deliveries go and what signs them; disabled or not."""
        found_id = _webhook_id(webhook_id)
        now = self._database.clock()
        found = self._database.read(webhooks.target, found_id, now)
        if found is None:
            raise _no_webhook()
        return found

    def prune(self) -> int:
        """Forget what was delivered more than 7 days ago or given up more than 30 days ago; how many."""

        def work(tx: Transaction) -> int:
            return deliveries.prune(tx, delivered_s=DELIVERED_KEPT_S, dead_s=DEAD_KEPT_S, limit=FORGOTTEN)

        forgotten = last = self._database.write(work)
        while last == FORGOTTEN:
            last = self._database.write(work)
            forgotten += last
        return forgotten

    def _change(self, webhook_id: str, change: Callable[[Transaction, str], Webhook | None]) -> Webhook:
        found_id = _webhook_id(webhook_id)
        return _or_not_found(self._database.write(lambda tx: change(tx, found_id)))


def _new_id() -> str:
    return str(uuid7())


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _webhook_id(value: str) -> str:
    return validation.identifier(value, "webhook")


def _or_not_found(found: Webhook | None) -> Webhook:
    if found is None:
        raise _no_webhook()
    return found


def _no_webhook() -> errors.NotFound:
    return errors.NotFound("there is no such webhook")
