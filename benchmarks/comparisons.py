"""P13: the product beside what a team would otherwise pick, in rate, under races, and after kill -9."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import servers
from benchmarks.alternatives import RIVALS, at_once, phone
from benchmarks.bench_context import NotMeasuredError
from benchmarks.measure import Result, Target
from bindings.store import migrations

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.alternatives import Rival
    from benchmarks.bench_context import Place

CALLERS = 16
RACES = 20
KILLS = 3
PROVIDER_S = 0.005
RUN_BEFORE_KILL_S = 0.4

TOLD = {
    "bindings": "bindings on PostgreSQL",
    "psycopg": "psycopg by hand",
    "orm": "check, call, insert with the ORM",
    "redis": "Redis, SET NX PX and a hash",
    "redis-always": "Redis, the same with appendfsync always",
    "bindings-sqlite": "bindings on SQLite",
    "sqlite3": "sqlite3 by hand",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stand:
    """A rival's place: how it is made, where it keeps its data, and its server, if it has one."""

    rival: str
    address: str
    server: servers.Killable | None


def measure(place: Place) -> list[Result]:
    """P13: a line for each, all of them in one run on fresh and empty stores."""
    results = []
    for name in place.sizes.peers:
        target = Target(id="P13", what=TOLD[name], unit="binds/s")
        with ExitStack() as stack:
            try:
                stand = _stand(name, place, stack)
            except NotMeasuredError as missing:
                results.append(Result(target=target, note=f"not measured: {missing}"))
                continue
            results.append(_measured(target, stand, place))
    return results


def _stand(name: str, place: Place, stack: ExitStack) -> _Stand:
    rival = name.partition("-always")[0]
    folder = place.folder()
    if name in {"bindings-sqlite", "sqlite3"}:
        file = folder / "data.db"
        if name == "sqlite3":
            return _Stand(rival=rival, address=str(file), server=None)
        migrations.upgrade(f"sqlite:///{file}")
        return _Stand(rival=rival, address=f"sqlite:///{file}", server=None)
    if rival == "redis":
        server = servers.redis_server(folder, append_only="always" if name.endswith("always") else "no")
    else:
        server = servers.postgres(folder)
    stack.callback(server.kill)
    server.start()
    if name == "bindings":
        migrations.upgrade(server.url)
    return _Stand(rival=rival, address=server.url, server=server)


def _measured(target: Target, stand: _Stand, place: Place) -> Result:
    rival = RIVALS[stand.rival](stand.address)
    rate = _rate(rival, place.sizes.peer_s)
    found_us = _lookup_us(rival, place.sizes.lookups)
    double = sum(_race(rival) for _ in range(RACES))
    unknown, made = _kill_client(stand, place, rival)
    note = (
        f"lookup {found_us:,.0f} us; {double} double binds in {RACES} races of {CALLERS};"
        f" client killed: {unknown} of {made} bindings unknown"
    )
    if stand.server is not None:
        lost, told = _kill_server(stand, stand.server, place, rival)
        note += f"; server killed: {lost:,} of {told:,} acknowledged binds lost"
    return Result(target=target, value=rate, note=note)


def _rate(rival: Rival, seconds: float) -> float:
    counts = [0] * CALLERS
    until = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < until:
            rival.bind(phone(), phone(), at_once)
            counts[index] += 1

    _together(work)
    return sum(counts) / seconds


def _together(work: object) -> None:
    workers = [threading.Thread(target=work, args=(index,)) for index in range(CALLERS)]  # type: ignore[arg-type]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _lookup_us(rival: Rival, lookups: int) -> float:
    mine = [phone() for _ in range(lookups)]
    for phone_a in mine:
        rival.bind(phone_a, phone(), at_once)
    began = time.perf_counter()
    found = sum(rival.lookup(phone_a) for phone_a in mine)
    took = time.perf_counter() - began
    if found != lookups:
        raise AssertionError(f"{found} of {lookups} found")
    return took / lookups * 1e6


def _race(rival: Rival) -> int:
    """How many bindings too many one phone gets when everybody wants it at the same moment."""
    wanted, start = phone(), threading.Barrier(CALLERS)
    bound = [False] * CALLERS

    def slowly(phone_a: str, phone_b: str) -> tuple[str, str]:
        time.sleep(PROVIDER_S)
        return at_once(phone_a, phone_b)

    def work(index: int) -> None:
        other = phone()
        start.wait()
        bound[index] = rival.bind(wanted, other, slowly)

    _together(work)
    return max(0, sum(bound) - 1)


def _kill_client(stand: _Stand, place: Place, rival: Rival) -> tuple[int, int]:
    """Of the bindings that the provider made, how many nobody here knows of once their process was killed."""
    made: set[str] = set()
    for _ in range(KILLS):
        folder = place.folder()
        process = _binding(stand, folder)
        process.kill()
        process.wait()
        made |= _noted(folder / "made")
    return len(made - rival.known()), len(made)


def _kill_server(stand: _Stand, server: servers.Killable, place: Place, rival: Rival) -> tuple[int, int]:
    """Of the binds that were acknowledged, how many are gone once the server was killed and is back."""
    folder = place.folder()
    process = _binding(stand, folder)
    server.kill()
    process.kill()
    process.wait()
    server.start()
    told = _noted(folder / "told")
    del rival  # its connections are gone
    return len(told - RIVALS[stand.rival](stand.address).known()), len(told)


def _binding(stand: _Stand, folder: Path) -> subprocess.Popen[bytes]:
    """A process of the rival's that is binding, and has been for a while."""
    command = [sys.executable, "-m", "benchmarks.alternatives", stand.rival, stand.address, str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not _noted(folder / "told"):
        if time.monotonic() > until or process.poll() is not None:
            raise AssertionError(f"{stand.rival} does not bind")
        time.sleep(0.02)
    time.sleep(RUN_BEFORE_KILL_S)
    return process


def _noted(file: Path) -> set[str]:
    """The phones of a file; the last line may be cut off by the kill."""
    if not file.exists():
        return set()
    whole, _, _ = file.read_text().rpartition("\n")
    return set(whole.split())
