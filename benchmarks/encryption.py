"""Encrypted phones: lookup, bind and export against the same calls on a database of the same rows in digits."""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import bind, data
from benchmarks.bench_context import NotMeasuredError
from benchmarks.measure import Result, Sample, Target, interleave, microseconds, timed
from bindings.jobs import phone_sealing
from bindings.provider.client import ProviderClient
from bindings.store import phone_key_source, phone_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase, Sizes
    from bindings.service import BindingService

LIVE, ENDED = 2_000, 20_000
BINDS = 200
PHONES = 500


def measure(context: BenchContext) -> list[Result]:
    """Return P18 on SQLite and, if there is a server, on PostgreSQL."""
    results = []
    for kind in ("SQLite", "PostgreSQL"):
        try:
            results += _compare(context, kind)
        except NotMeasuredError as reason:
            results.append(Result(target=Target(id="P18", title=f"encrypted phones on {kind}"), note=str(reason)))
    return results


def _compare(context: BenchContext, kind: str) -> list[Result]:
    with ExitStack() as stack:
        encrypted, plain = (stack.enter_context(_database(context, kind)) for _ in range(2))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        keys = folder / "phone-keys.json"
        phone_key_source.write_new(keys)
        with bind.open_service(encrypted.url, phone_keys_file=str(keys)) as sealing:
            started_at = time.perf_counter()
            sealed = sum(phone_sealing.seal(sealing.runtime).converted.values())
            seconds = time.perf_counter() - started_at
        for bench_db in (encrypted, plain):  # as the how-to says: the digits are still in dead rows
            bench_db.execute("VACUUM FULL ANALYZE" if kind == "PostgreSQL" else "VACUUM")
        product = stack.enter_context(bind.open_service(encrypted.url, phone_keys_file=str(keys)))
        with mock.patch.object(phone_keys, "CACHED_BLIND_INDEXES", 0):
            forgetful = stack.enter_context(bind.open_service(encrypted.url, phone_keys_file=str(keys)))
        baseline = stack.enter_context(bind.open_service(plain.url))
        stack.enter_context(mock.patch.object(ProviderClient, "bind", bind.instant_bind))
        rate = Target(id="P18", title=f"phones sealed on {kind}", unit="rows/s")
        return [
            *_ratios(kind, context.sizes, product, forgetful, baseline),
            Result(target=rate, value=sealed / seconds, note=f"{sealed:,} rows, one process"),
        ]


def _ratios(
    kind: str,
    sizes: Sizes,
    product: BindingService,
    forgetful: BindingService,
    baseline: BindingService,
) -> Iterator[Result]:
    """Yield the ratio of each call; `forgetful` is the product without blind indexes in memory."""
    phones = {id(service): cycle(_phones(service)) for service in (product, forgetful, baseline)}

    def look_up(service: BindingService) -> Callable[[int], Sample]:
        chosen = phones[id(service)]
        return lambda _: timed(lambda phone: service.lookup(phone=phone), list(islice(chosen, sizes.lookups)))

    def look_up_and_read(service: BindingService) -> Callable[[int], Sample]:
        def read(phone: str) -> None:
            for binding in service.lookup(phone=phone):
                _ = binding.phone_a.digits, binding.phone_b.digits

        chosen = phones[id(service)]
        return lambda _: timed(read, list(islice(chosen, sizes.lookups)))

    def bind_new(service: BindingService) -> Callable[[int], Sample]:
        return lambda _: timed(lambda _: _bind_once(service), range(BINDS))

    def export(service: BindingService) -> Callable[[int], Sample]:
        def run(_: int) -> Sample:
            cpu, started_at = time.process_time(), time.perf_counter()
            rows = sum(1 for _ in service.export_bindings())
            seconds = time.perf_counter() - started_at
            return Sample(figure=seconds / rows, cpu_s=(time.process_time() - cpu) / rows)

        return run

    calls = (
        ("lookup of a phone that was used before", product, look_up, 1.15),
        ("lookup of a phone that was not", forgetful, look_up, 1.15),
        ("lookup, and both phones read,", product, look_up_and_read, None),
        ("bind", product, bind_new, 1.05),
        ("export, time of a row", product, export, 2.0),
    )
    for title, encrypted, call, bound in calls:
        target = Target(id="P18", title=f"{title} with encrypted phones, {kind}", bound=bound)
        call(encrypted)(0)  # warms both up
        call(baseline)(0)
        rounds = interleave(sizes.rounds, call(encrypted), call(baseline))
        yield Result(target=target, rounds=rounds, note=microseconds(rounds))


def _bind_once(service: BindingService) -> None:
    """Bind two phones at random: the indexes of consecutive digits would grow at one end only."""
    service.bind(
        phone_a=f"918{random.randrange(10**10):010}",
        phone_b=f"919{random.randrange(10**10):010}",
        pool_number="918806",
        expire_s=3_600,
        mode="AXB",
        reference="order 4711",
    )


def _phones(service: BindingService) -> list[str]:
    page = service.search(active=True, limit=200)
    phones = [row.phone_a.digits for row in page.data]
    while page.next_cursor is not None and len(phones) < PHONES:
        page = service.search(active=True, limit=200, cursor=page.next_cursor)
        phones += [row.phone_a.digits for row in page.data]
    return phones


def _database(context: BenchContext, kind: str) -> AbstractContextManager[BenchDatabase]:
    if kind == "PostgreSQL":
        return data.postgres_database(context.server, live=LIVE, ended=ENDED)
    return data.sqlite_database(context.folder(), live=LIVE, ended=ENDED)
