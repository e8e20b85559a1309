"""Share of heap-only updates: they change no index and need no vacuum if the page has room.

Each round runs the writes of the product: binds, expiries, warnings, jobs that claim their slot, deliveries to
a webhook. The server counts the updates of each table and those that were heap-only.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import bind
from benchmarks.measure import Result, Target
from bindings.jobs.registry import EXPIRE, POOLS, RECOVER, TALLY, WARN
from bindings.jobs.runner import JobRunner
from bindings.provider.client import ProviderClient
from bindings.store.deliveries import Result as DeliveryResult
from tests import deliveries

if TYPE_CHECKING:
    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase
    from bindings.service import BindingService

BINDS = 20
EXPIRIES = 40
BATCH = 16  # deliveries leased at a time, as in webhooks/sender.py
PERIOD_S = 0.001  # of jobs that run once per period: short, so that each round claims a new slot
# A session adds its counts when it ends, or up to a minute after its transaction.
OTHER_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
LONGEST_END_S = 60.0  # of a session whose connection was closed
COUNTED = """
    SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
    WHERE n_tup_upd > 0 AND relname <> 'alembic_version' ORDER BY relname
"""
RESET = "SELECT pg_stat_reset()"


def measure(context: BenchContext) -> list[Result]:
    """Return the share of heap-only updates of each updated table."""
    bench_db = context.postgres(context.sizes.growth[0])
    bench_db.execute(RESET)
    with mock.patch.object(ProviderClient, "bind", bind.instant_bind), bind.open_service(bench_db.url) as service:
        webhook = service.webhooks.add(url="https://receiver.example/").webhook.id
        for _ in range(context.sizes.rounds):
            for _ in range(BINDS):
                bind.bind_once(service)
            bench_db.add_due(EXPIRIES)
            _run_jobs(service)
            _deliver(service, webhook)
        service.webhooks.remove(webhook)
    _wait_until_counted(bench_db)
    return [
        Result(
            target=Target(id="updates", title=f"updates of {table} that were heap-only", unit="%"),
            value=100.0 * heap_only / updates,
            note=f"{heap_only:,} of {updates:,}",
        )
        for table, updates, heap_only in bench_db.execute(COUNTED).fetchall()
    ]


def _wait_until_counted(bench_db: BenchDatabase) -> None:
    """Wait for the end of every other session."""
    deadline = time.monotonic() + LONGEST_END_S
    while bench_db.execute(OTHER_SESSIONS).fetchone() != (0,):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the sessions that were counted have not ended in {LONGEST_END_S:.0f} s")
        time.sleep(0.01)


def _run_jobs(service: BindingService) -> None:
    runner = JobRunner(service.runtime)
    runner.run(EXPIRE)
    runner.run(WARN)
    runner.run_once_per_period(TALLY, PERIOD_S)
    runner.run_once_per_period(POOLS, PERIOD_S)
    runner.run_once_per_period(RECOVER, PERIOD_S)


def _deliver(service: BindingService, webhook_id: str) -> None:
    """Record every new delivery as sent, as if the receiver accepted all immediately."""
    more = True
    while more:
        _, more = deliveries.fan_out(service, webhook_id)
        while (batch := deliveries.lease(service, webhook_id, limit=BATCH)) is not None:
            deliveries.record(
                service,
                [
                    DeliveryResult(delivery=delivery, status=200, error=None, retry_s=None)
                    for delivery in batch.deliveries
                ],
            )
