"""P19: sealing the history and verifying it, in events per second; the product has written the history."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import bind
from benchmarks.bench_context import NotMeasuredError
from benchmarks.measure import Result, Target
from bindings.jobs.seal import seal_events
from bindings.monitoring.audit import verify_database
from bindings.provider.client import ProviderClient
from bindings.sealing.keys import PublicKeys, create_key_file
from bindings.store import migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.bench_context import BenchContext
    from bindings.service import BindingService

MOST_BINDS = 5_000  # each writes two events
BUDGET_S = 600.0


def measure(context: BenchContext) -> list[Result]:
    """Return P19 on SQLite and, if there is a server, on PostgreSQL."""
    results: list[Result] = []
    for kind in ("SQLite", "PostgreSQL"):
        try:
            with _database(context, kind) as url, bind.open_service(url) as service:
                _bind(service, min(MOST_BINDS, context.sizes.exported // 10))
                results += _seal_and_verify(service, kind, str(context.folder() / "seal.pem"))
        except NotMeasuredError as reason:
            results.append(Result(target=_target("sealed", kind), note=str(reason)))
    return results


def _target(verb: str, kind: str) -> Target:
    return Target(id="P19", title=f"events {verb} on {kind}", bound=10_000, at_most=False, unit="events/s")


def _bind(service: BindingService, count: int) -> None:
    with mock.patch.object(ProviderClient, "bind", bind.instant_bind):
        for _ in range(count):
            bind.bind_once(service)


def _seal_and_verify(service: BindingService, kind: str, key_file: str) -> Iterator[Result]:
    database, caller = service.runtime.database, service.runtime.caller
    key = create_key_file(key_file, "key_file")
    yield _timed(_target("sealed", kind), lambda: seal_events(database, key, caller, budget_s=BUDGET_S).events)

    def verify() -> int:
        verification = verify_database(database, PublicKeys(key.public_pem, "key_file"), {})
        if not verification.is_sound:
            raise AssertionError(f"the history does not verify: {verification.findings[:3]}")
        return verification.events

    yield _timed(_target("verified, with their rows,", kind), verify)


def _timed(target: Target, run: Callable[[], int]) -> Result:
    cpu, started_at = time.process_time(), time.perf_counter()
    events = run()
    seconds, cpu_s = time.perf_counter() - started_at, time.process_time() - cpu
    note = f"{events:,} events; {events / cpu_s:,.0f} for each CPU second of this process"
    return Result(target=target, value=events / seconds, note=note)


@contextmanager
def _database(context: BenchContext, kind: str) -> Iterator[str]:
    """Yield the URL of a migrated, empty database, which is removed afterwards."""
    url = f"sqlite:///{context.folder() / 'history.db'}" if kind == "SQLite" else context.server.create()
    try:
        migrations.upgrade(url)
        yield url
    finally:
        if kind == "PostgreSQL":
            context.server.drop(url)
