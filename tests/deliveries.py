"""The steps of a webhook sender, one at a time, for tests that look between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uuid_utils import uuid7

from bindings.store import deliveries, webhooks
from bindings.webhooks.sender import FAN_OUT, LEASE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bindings.service import BindingService
    from bindings.store.deliveries import Batch, Result
    from bindings.store.webhooks import Target


def with_work(service: BindingService) -> Sequence[str]:
    """Return the webhooks that lag behind the feed or have something due."""
    database = service.runtime.database
    return database.read(deliveries.webhooks_with_work, database.now)


def fan_out(service: BindingService, webhook_id: str) -> tuple[int, bool]:
    """Create deliveries of the next events; return how many, and True if there may be more events."""
    return service.runtime.database.write(
        lambda tx: deliveries.fan_out(tx, webhook_id, lambda: str(uuid7()), limit=FAN_OUT)
    )


def lease(service: BindingService, webhook_id: str, *, limit: int, lease_s: float = LEASE_S) -> Batch | None:
    """Lease what is due; None if nothing is."""
    return service.runtime.database.write(
        lambda tx: deliveries.lease(tx, webhook_id, limit=limit, lease_s=lease_s)
    )


def record(service: BindingService, results: Sequence[Result]) -> None:
    """Record results of attempts."""
    service.runtime.database.write(lambda tx: deliveries.record(tx, results, service.runtime.caller))


def target(service: BindingService, webhook_id: str) -> Target:
    """Return where a webhook's deliveries go, and its secrets."""
    database = service.runtime.database
    stored = database.read(webhooks.target, webhook_id, database.clock())
    assert stored is not None
    return stored
