"""Which updates are heap-only: they touch no index, and need no vacuum, where the page has room.

The product's own writes, round by round: binds, ends, announcements, passes that take their slot, deliveries to
a webhook. The server counts, for each table, its updates and those that were heap-only.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import bind
from benchmarks.measure import Result, Target
from bindings.provider.client import ProviderClient
from bindings.webhooks.endpoints import Result as Tried

if TYPE_CHECKING:
    from benchmarks.bench_context import Place
    from bindings.service import BindingService

BINDS = 20
ENDS = 40
BATCH = 16  # deliveries that are leased at a time, as by web/deliver
PERIOD_S = 0.001  # of the passes that take a slot: a new one for each round
# What a backend has counted is seen a moment after its transaction; the ones that bound are gone.
COUNTED = """
    SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
    WHERE n_tup_upd > 0 AND relname <> 'alembic_version' ORDER BY relname
"""
RESET = "SELECT pg_stat_reset()"


def measure(place: Place) -> list[Result]:
    """The share of heap-only updates of each table that is updated."""
    filled = place.postgres(place.sizes.growth[0])
    filled.run(RESET)
    with mock.patch.object(ProviderClient, "bind", bind.made_at_once), bind.opened(filled.url) as service:
        webhook = service.webhooks.add(url="https://receiver.example/").webhook.id
        for _ in range(place.sizes.rounds):
            for _ in range(BINDS):
                bind.bind_once(service)
            filled.due(ENDS)
            _run_passes(service)
            _deliver(service, webhook)
        service.webhooks.remove(webhook)
    time.sleep(1.0)
    return [
        Result(
            target=Target(id="vacuum", what=f"updates of {table} that were heap-only", unit="%"),
            value=100.0 * heap_only / updates,
            note=f"{heap_only:,} of {updates:,}",
        )
        for table, updates, heap_only in filled.run(COUNTED).fetchall()
    ]


def _run_passes(service: BindingService) -> None:
    service.sweep()
    service.announce()
    service.run_once_per_period("tally", PERIOD_S, service.tally)
    service.run_once_per_period("pools", PERIOD_S, service.count_pools)
    service.run_once_per_period("recover", PERIOD_S, service.recover)


def _deliver(service: BindingService, webhook_id: str) -> None:
    """Send what is new, to a receiver that takes everything at once."""
    more = True
    while more:
        _, more = service.webhooks.fan_out(webhook_id)
        while (batch := service.webhooks.take(webhook_id, limit=BATCH)) is not None:
            service.webhooks.record(
                [Tried(delivery=each, status=200, error=None, again_s=None) for each in batch.deliveries]
            )
