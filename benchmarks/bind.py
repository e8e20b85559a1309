"""P4: the bookkeeping of a bind against pgbench, which runs the same two transactions with 16 clients.

The provider is a stub in the same process that answers immediately, so the measure covers both transactions, the
checks before them and the objects around them. The product runs as 16 threads of one process, and as 4 threads in
each of 4 processes. The processes are started once and bind for one round per request.
"""

from __future__ import annotations

import itertools
import random
import re
import resource
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.measure import Result, Sample, Target, interleave, per_second
from bindings.provider.client import ProviderClient
from bindings.provider.outcome import BindSucceeded
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase, Sizes
    from bindings.domain.binding import BindRequest

CALLERS = 16
BOUNDS = {1: 0.9, 4: 0.75}  # by processes
SCRIPT = Path(__file__).with_name("bind.sql")
WARM_UP_S = 0.5
RESPONSE_TIMEOUT_S = 60.0

_ids = itertools.count(time.time_ns())
_phones = itertools.count(random.randrange(10**10))  # each process starts at a different number


def measure(context: BenchContext) -> list[Result]:
    """Return P4 for one and four processes, against pgbench with prepared statements (as here) and without."""
    return [
        _compare(context.postgres(), context.sizes, processes=processes, protocol=protocol)
        for protocol in ("prepared", "extended")
        for processes in (1, 4)
    ]


def _compare(bench_db: BenchDatabase, sizes: Sizes, *, processes: int, protocol: str) -> Result:
    setup = (
        "1 process x 16 threads" if processes == 1 else f"{processes} processes x {CALLERS // processes} threads"
    )
    bound = BOUNDS[processes]
    target = Target(id="P4", title=f"bind, {setup}, pgbench {protocol}", bound=bound, at_most=False)
    program = _pgbench()
    if program is None:
        return Result(target=target, note="not measured: there is no pgbench on this machine")
    with start_fleet([bench_db.url] * processes, threads=CALLERS // processes) as fleet:
        fleet.bind(WARM_UP_S)
        try:
            rounds = interleave(
                sizes.bind_rounds,
                lambda _: fleet.bind(sizes.bind_s),
                lambda _: _run_pgbench(program, bench_db.url, sizes.bind_s, protocol),
            )
        except _PgbenchFailedError as error:
            return Result(target=target, note=f"not measured: {error}")
    return Result(target=target, rounds=rounds, note=per_second(rounds, "binds"))


class _PgbenchFailedError(Exception):
    """pgbench failed; a server in use may have no free connection for it."""


def _pgbench() -> str | None:
    installed = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pgbench")))
    return shutil.which("pgbench") or (installed[-1] if installed else None)


def _run_pgbench(program: str, url: str, seconds: float, protocol: str) -> Sample:
    """Return the rate of pgbench, where one transaction is one bind.

    `protocol`: "prepared" prepares the statements once; "extended" parses and plans them each time.
    """
    whole_s = max(1, round(seconds))
    command = [program, "--no-vacuum", f"--protocol={protocol}", f"--client={CALLERS}", "--jobs=2"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    completed = subprocess.run(
        [*command, f"--time={whole_s}", f"--file={SCRIPT}", url],
        check=False,
        capture_output=True,
        text=True,
        timeout=whole_s + RESPONSE_TIMEOUT_S,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rate = re.search(r"^tps = ([0-9.]+)", completed.stdout, re.MULTILINE)
    count = re.search(r"actually processed: (\d+)", completed.stdout)
    failed = re.search(r"failed transactions: (\d+)", completed.stdout)
    has_failures = completed.returncode != 0 or (failed is not None and failed[1] != "0")
    if rate is None or count is None or has_failures:
        raise _PgbenchFailedError(completed.stderr.strip().partition("\n")[0] or completed.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(figure=float(rate[1]), cpu_s=cpu / int(count[1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """Processes that bind for the number of seconds they receive, and send (binds, seconds, CPU seconds) back."""

    pipes: tuple[Connection, ...]

    def bind(self, seconds: float) -> Sample:
        """Return the rate of binds of all processes together, and the CPU seconds of a process per bind."""
        for pipe in self.pipes:
            pipe.send(seconds)
        results = [_receive(pipe, seconds) for pipe in self.pipes]
        binds = sum(result[0] for result in results)
        rate = sum(result[0] / result[1] for result in results)
        return Sample(figure=rate, cpu_s=sum(result[2] for result in results) / binds)


def _receive(pipe: Connection, seconds: float) -> tuple[int, float, float]:
    if not pipe.poll(seconds + RESPONSE_TIMEOUT_S):
        raise TimeoutError("a process of the bench does not respond")
    binds, elapsed, cpu = pipe.recv()
    return int(binds), float(elapsed), float(cpu)


@contextmanager
def start_fleet(
    urls: Sequence[str], *, threads: int, serve: Callable[[Connection, str, int], None] | None = None
) -> Iterator[Fleet]:
    """Yield a process for each database, which binds in `threads` threads; end the processes afterwards.

    `serve` is what each process runs; None: the product.
    """
    context = get_context("forkserver")  # which imports everything once
    pipes: list[Connection] = []
    started: list[ForkServerProcess] = []
    try:
        for url in urls:
            parent_pipe, child_pipe = context.Pipe()
            process = context.Process(target=serve or serve_product, args=(child_pipe, url, threads), daemon=True)
            process.start()
            child_pipe.close()
            pipes.append(parent_pipe)
            started.append(process)
        yield Fleet(pipes=tuple(pipes))
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.join(10)
            if process.is_alive():
                process.kill()


def serve_product(pipe: Connection, url: str, threads: int) -> None:
    """Run a process of the fleet: bind for each duration received, until the pipe is closed."""
    with mock.patch.object(ProviderClient, "bind", instant_bind), open_service(url) as service:
        serve_rounds(pipe, partial(bind_once, service), threads)


def serve_rounds(pipe: Connection, operation: Callable[[], object], threads: int) -> None:
    """Run `operation` for each duration received, until the pipe is closed; send (runs, seconds, CPU seconds)."""
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        pipe.send(run_for(operation, seconds, threads))


def open_service(url: str, **settings: Any) -> BindingService:
    """Open a service on a database of the bench; no server listens at its provider address."""
    return BindingService.open(
        database_url=url,
        provider_url="http://127.0.0.1:9",
        provider_api_key="bench",
        provider_api_secret="bench",
        provider_app_id="bench",
        **settings,
    )


def instant_bind(_client: ProviderClient, _request: BindRequest, *, send_before: float) -> BindSucceeded:
    """Replace `ProviderClient.bind`: return a successful bind immediately."""
    now = time.monotonic()
    if now > send_before:
        raise AssertionError("too late to send: the bench is stuck")
    number = str(1_000_000_000 + random.getrandbits(29))
    bind_id = f"{next(_ids)}-{random.getrandbits(32)}"
    return BindSucceeded(bind_id=bind_id, middle_number_a=number, middle_number_b=number, sent=now, answered=now)


def bind_for(service: BindingService, seconds: float, threads: int) -> tuple[int, float, float]:
    """Bind for `seconds` in `threads` threads; return (binds, seconds, CPU seconds). Raise a thread's error."""
    return run_for(partial(bind_once, service), seconds, threads)


def run_for(operation: Callable[[], object], seconds: float, threads: int) -> tuple[int, float, float]:
    """Run `operation` again and again, as `bind_for` does."""
    started_at, cpu = time.perf_counter(), time.process_time()

    def work(_: int) -> int:
        count = 0
        while time.perf_counter() < started_at + seconds:
            operation()
            count += 1
        return count

    with ThreadPoolExecutor(threads) as workers:
        runs = sum(workers.map(work, range(threads)))
    return runs, time.perf_counter() - started_at, time.process_time() - cpu


def bind_once(service: BindingService) -> None:
    """Bind two phones that are not used anywhere else."""
    number = next(_phones) % 10**10
    service.bind(
        phone_a=f"918{number:010}",
        phone_b=f"919{number:010}",
        pool_number="918806",
        expire_s=3_600,
        mode="AXB",
        reference="order 4711",
    )
