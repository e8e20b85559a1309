"""P4: the bookkeeping of a bind against pgbench, which runs the same two transactions with 16 clients.

The provider answers at once and in this process: what is measured is both transactions, the checks before them
and the objects around them. The product runs as 16 threads of one process, and as 4 threads in each of 4. Its
processes are started once and bind in rounds, on request.
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
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.measure import Result, Sample, Target, interleave, per_second
from bindings.provider.client import ProviderClient
from bindings.provider.outcome import BindSucceeded
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from benchmarks.bench_context import Place
    from benchmarks.data import Filled, Sizes
    from bindings.domain.binding import BindRequest

CALLERS = 16
SCRIPT = Path(__file__).with_name("bind.sql")
WARM_S = 0.5
ANSWER_S = 60.0

_ids = itertools.count(time.time_ns())
_phones = itertools.count(random.randrange(10**10))  # each process begins elsewhere


def measure(place: Place) -> list[Result]:
    """P4, in one process and in four; against pgbench with its statements prepared, as here, and without."""
    return [
        _compare(place.postgres(), place.sizes, processes=processes, protocol=protocol)
        for protocol in ("prepared", "extended")
        for processes in (1, 4)
    ]


def _compare(filled: Filled, sizes: Sizes, *, processes: int, protocol: str) -> Result:
    told = (
        "1 process x 16 threads" if processes == 1 else f"{processes} processes x {CALLERS // processes} threads"
    )
    target = Target(id="P4", what=f"bind, {told}, pgbench {protocol}", bound=0.5, at_most=False)
    program = _pgbench()
    if program is None:
        return Result(target=target, note="not measured: there is no pgbench on this machine")
    with _fleet(filled.url, processes=processes, threads=CALLERS // processes) as fleet:
        fleet.bind(WARM_S)
        try:
            rounds = interleave(
                sizes.bind_rounds,
                lambda _: fleet.bind(sizes.bind_s),
                lambda _: _run_pgbench(program, filled.url, sizes.bind_s, protocol),
            )
        except _PgbenchFailedError as failed:
            return Result(target=target, note=f"not measured: {failed}")
    return Result(target=target, rounds=rounds, note=per_second(rounds, "binds"))


class _PgbenchFailedError(Exception):
    """pgbench ended badly; a server that others use may have no connection left for it."""


def _pgbench() -> str | None:
    installed = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pgbench")))
    return shutil.which("pgbench") or (installed[-1] if installed else None)


def _run_pgbench(program: str, url: str, seconds: float, protocol: str) -> Sample:
    """One transaction of pgbench is one bind. `protocol`: its statements are prepared, or parsed each time."""
    whole_s = max(1, round(seconds))
    command = [program, "--no-vacuum", f"--protocol={protocol}", f"--client={CALLERS}", "--jobs=2"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, f"--time={whole_s}", f"--file={SCRIPT}", url],
        check=False,
        capture_output=True,
        text=True,
        timeout=whole_s + ANSWER_S,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rate = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    count = re.search(r"actually processed: (\d+)", done.stdout)
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    lost = done.returncode != 0 or (failed is not None and failed[1] != "0")
    if rate is None or count is None or lost:
        raise _PgbenchFailedError(done.stderr.strip().partition("\n")[0] or done.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(figure=float(rate[1]), cpu_s=cpu / int(count[1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fleet:
    """Processes that bind when they are told for how long; each answers (binds, seconds, CPU seconds)."""

    pipes: tuple[Connection, ...]

    def bind(self, seconds: float) -> Sample:
        for pipe in self.pipes:
            pipe.send(seconds)
        answers = [_answer(pipe, seconds) for pipe in self.pipes]
        binds = sum(answer[0] for answer in answers)
        rate = sum(answer[0] / answer[1] for answer in answers)
        return Sample(figure=rate, cpu_s=sum(answer[2] for answer in answers) / binds)


def _answer(pipe: Connection, seconds: float) -> tuple[int, float, float]:
    if not pipe.poll(seconds + ANSWER_S):
        raise TimeoutError("a process of the bench does not answer")
    binds, elapsed, cpu = pipe.recv()
    return int(binds), float(elapsed), float(cpu)


@contextmanager
def _fleet(url: str, *, processes: int, threads: int) -> Iterator[_Fleet]:
    context = get_context("spawn")
    pipes: list[Connection] = []
    started: list[SpawnProcess] = []
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, url, threads), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            started.append(process)
        yield _Fleet(pipes=tuple(pipes))
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.join(10)
            if process.is_alive():
                process.kill()


def serve(pipe: Connection, url: str, threads: int) -> None:
    """The body of a process of the fleet: binds for as long as it is told, until the pipe is closed."""
    with mock.patch.object(ProviderClient, "bind", made_at_once), opened(url) as service:
        while True:
            try:
                seconds = pipe.recv()
            except EOFError:
                return
            pipe.send(bind_for(service, seconds, threads))


def opened(url: str, **settings: Any) -> BindingService:
    """A service on the bench's database; nothing listens at its provider's address."""
    return BindingService.open(
        database_url=url,
        provider_url="http://127.0.0.1:9",
        provider_api_key="bench",
        provider_api_secret="bench",
        provider_app_id="bench",
        **settings,
    )


def made_at_once(_client: ProviderClient, _request: BindRequest, *, send_before: float) -> BindSucceeded:
    """Stands in for `ProviderClient.bind`: a provider that needs no time."""
    now = time.monotonic()
    if now > send_before:
        raise AssertionError("too late to send: the bench is stuck")
    number = str(1_000_000_000 + random.getrandbits(29))
    bind_id = f"{next(_ids)}-{random.getrandbits(32)}"
    return BindSucceeded(bind_id=bind_id, middle_number_a=number, middle_number_b=number, sent=now, answered=now)


def bind_for(service: BindingService, seconds: float, threads: int) -> tuple[int, float, float]:
    """Bind for so long: how many, in how many seconds, with how much CPU; raises what a thread met."""
    began, cpu = time.perf_counter(), time.process_time()

    def work(_: int) -> int:
        count = 0
        while time.perf_counter() < began + seconds:
            bind_once(service)
            count += 1
        return count

    with ThreadPoolExecutor(threads) as workers:
        binds = sum(workers.map(work, range(threads)))
    return binds, time.perf_counter() - began, time.process_time() - cpu


def bind_once(service: BindingService) -> None:
    """One bind of two phones that nobody else has."""
    number = next(_phones) % 10**10
    service.bind(
        phone_a=f"918{number:010}",
        phone_b=f"919{number:010}",
        pool_number="918806",
        expire_s=3_600,
        mode="AXB",
        reference="order 4711",
    )
