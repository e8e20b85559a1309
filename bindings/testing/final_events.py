"""Waits until the change feed has every event that is committed: on PostgreSQL other transactions delay it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bindings.store import events

if TYPE_CHECKING:
    from bindings.service import BindingService

POLL_S = 0.005
LONGEST_WAIT_S = 300.0


def wait_until_final(service: BindingService) -> None:
    """Wait for the transactions that run on the server, in any of its databases; TimeoutError if one is stuck."""
    database = service.runtime.database
    if not database.postgres:
        return
    next_tx, _ = database.read(events.running_tx)
    give_up_at = time.monotonic() + LONGEST_WAIT_S
    while database.read(events.running_tx)[1] < next_tx:
        if time.monotonic() > give_up_at:
            raise TimeoutError("a transaction on the PostgreSQL server stays open: it holds up the change feed")
        time.sleep(POLL_S)
