"""P4b and P4c: a bind against the statements of `bind.sql` in psycopg by hand, prepared, in one process."""

from __future__ import annotations

import random
import re
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks import bind
from benchmarks.measure import Result, Sample, Target, interleave, per_second

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from benchmarks.bench_context import BenchContext

RATE = Target(id="P4b", title="bind, 16 threads, psycopg by hand", bound=1.0, at_most=False)
CLIENT_CPU = Target(id="P4c", title="CPU of the client per bind, psycopg by hand", bound=1.2)
_SET = re.compile(r"\\set (\w+) random\((\d+), (\d+)\)")
_VARIABLE = re.compile(r"(?<!:):([a-z_]+)")


def measure(context: BenchContext) -> list[Result]:
    """Return the rate of binds and the client's CPU time of one, each compared with psycopg by hand."""
    url, sizes = context.postgres().url, context.sizes
    with (
        bind.start_fleet([url], threads=bind.CALLERS) as product,
        bind.start_fleet([url], threads=bind.CALLERS, serve=serve) as by_hand,
    ):
        for fleet in (product, by_hand):
            fleet.bind(bind.WARM_UP_S)
        rounds = interleave(
            sizes.bind_rounds,
            lambda _: product.bind(sizes.bind_s),
            lambda _: by_hand.bind(sizes.bind_s),
        )
    note = per_second(rounds, "binds")
    cpu = tuple((_cpu_of(ours), _cpu_of(other)) for ours, other in rounds)
    return [Result(target=RATE, rounds=rounds, note=note), Result(target=CLIENT_CPU, rounds=cpu, note=note)]


def _cpu_of(sample: Sample) -> Sample:
    return Sample(figure=sample.cpu_s, cpu_s=sample.cpu_s)


def serve(pipe: Connection, url: str, threads: int) -> None:
    """Run a process of the fleet: bind for each duration received, until the pipe is closed."""
    with ExitStack() as connections:
        bind.serve_rounds(pipe, _Binder(url, connections), threads)


class _Binder:
    """Binds by the statements of the script, each thread on a connection of its own."""

    def __init__(self, url: str, connections: ExitStack) -> None:
        lines = [
            line for line in bind.SCRIPT.read_text(encoding="utf-8").splitlines() if not line.startswith("--")
        ]
        self._ranges = [(name, int(low), int(high)) for name, low, high in _SET.findall("\n".join(lines))]
        statements = [_statement(line) for line in lines if not line.startswith("\\set")]
        _, self._lock, self._read, self._insert, _, self._settle = statements
        self._url = url
        self._connections = connections
        self._local = threading.local()

    def __call__(self) -> None:
        connection = self._connection()
        values: dict[str, Any] = {name: random.randint(low, high) for name, low, high in self._ranges}
        with connection.transaction():
            *_, values["at"] = _row(connection, self._lock, values)
            connection.execute(self._read, values).fetchall()
            (values["id"],) = _row(connection, self._insert, values)
        _row(connection, self._settle, values)

    def _connection(self) -> psycopg.Connection[Any]:
        if not hasattr(self._local, "connection"):
            connection = psycopg.connect(self._url, autocommit=True, prepare_threshold=0)
            self._local.connection = connection
            self._connections.callback(connection.close)
        own: psycopg.Connection[Any] = self._local.connection
        return own


def _statement(line: str) -> str:
    """Return a statement of the script as psycopg has it."""
    plain = line.replace("\\gset", "").strip().removesuffix(";").replace("%", "%%")
    return _VARIABLE.sub(r"%(\1)s", plain)


def _row(connection: psycopg.Connection[Any], statement: str, values: dict[str, Any]) -> tuple[Any, ...]:
    row = connection.execute(statement, values).fetchone()
    if row is None:
        raise AssertionError("a phone or an id was drawn twice")
    return tuple(row)
