"""Guard against slower code (`make bench-smoke`): CPU time of a lookup and of a bind, compared with budgets.

A figure is the CPU time of one operation divided by that of a fixed workload in the same rounds, so it holds on
machines of different speed; the least time of several rounds counts, because other work only makes a round slower.
Time on the clock is not measured. A figure over its budget in `budgets.toml` is measured once more, and fails the
run if it is over again. Without PostgreSQL its figures are left out, and the run says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sqlite3
import sys
import tempfile
import time
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import bind, data, service
from benchmarks.servers import cpu_s
from bindings.provider.client import ProviderClient
from bindings.service import BindingService
from tests.store.databases import find_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BUDGETS = Path(__file__).with_name("budgets.toml")
FIGURES = ("lookup-sqlite", "bind-sqlite", "lookup-postgresql", "bind-postgresql", "lookup-http")
LIVE, ENDED = 1_200, 6_000
ROUNDS = 60  # short ones: some run without being interrupted
LOOKUPS, BINDS, HTTP_LOOKUPS = 50, 10, 100  # of each round
HTTP_CALLERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """The measured cost of an operation, in times of the fixed workload, and its budget."""

    name: str
    cost: float
    budget: float

    def __str__(self) -> str:
        text = f"{self.name:<18} {self.cost:6.3f} of the fixed workload, budget {self.budget:.3f}"
        excess = self.cost / self.budget - 1
        return f"{text}: {excess:.0%} OVER" if self.is_over else text

    @property
    def is_over(self) -> bool:
        """Return whether the cost is over the budget."""
        return self.cost > self.budget


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print each figure with its budget, and return 1 if one is over it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke", description=__doc__.partition("\n")[0])
    parser.add_argument("--budgets", type=Path, default=BUDGETS, help="the file with the budgets")
    parser.add_argument("--only", default=",".join(FIGURES), help="figures to measure, separated by commas")
    options = parser.parse_args(arguments)
    budgets = tomllib.loads(options.budgets.read_text(encoding="utf-8"))["budgets"]
    names = [name for name in FIGURES if name in options.only.split(",")]
    with ExitStack() as stack:
        figures = measure(_operations(names, stack), budgets)
    for figure in figures:
        print(figure)
    over = [figure for figure in figures if figure.is_over]
    if over:
        print(
            f"{len(over)} of {len(figures)} figures are over their budgets in {options.budgets}. Make the code as"
            " fast as before; if the cost is worth it, raise the budget and say why in the commit.",
            file=sys.stderr,
        )
    return 1 if over else 0


def measure(operations: Mapping[str, Callable[[], float]], budgets: Mapping[str, float]) -> list[Figure]:
    """Return the figure of each operation, which returns the CPU seconds of one execution in a round."""
    figures = []
    for name, operation in operations.items():
        figure = Figure(name=name, cost=_cost(operation), budget=budgets[name])
        if figure.is_over:
            figure = Figure(name=name, cost=min(figure.cost, _cost(operation)), budget=figure.budget)
        figures.append(figure)
    return figures


def _cost(operation: Callable[[], float]) -> float:
    """Return the CPU time of the operation divided by that of the fixed workload, each the least of all rounds."""
    operation()
    rounds = [(_fixed_workload(), operation()) for _ in range(ROUNDS)]
    fixed, measured = (min(times) for times in zip(*rounds, strict=True))
    return float(measured / fixed)


def _fixed_workload() -> float:
    """Return the CPU seconds of work that never changes: objects, JSON and SQL in memory."""
    cpu = time.process_time()
    rows = [{f"field {name}": f"{name * number}" for name in range(30)} for number in range(50)]
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE texts (number INTEGER PRIMARY KEY, content TEXT)")
        for number, row in enumerate(rows):
            connection.execute("INSERT INTO texts VALUES (?, ?)", (number, json.dumps(row)))
        for number in range(len(rows)):
            (content,) = connection.execute("SELECT content FROM texts WHERE number = ?", (number,)).fetchone()
            sorted(json.loads(content).items(), key=lambda pair: pair[1])
    connection.close()
    return time.process_time() - cpu


def _operations(names: Sequence[str], stack: ExitStack) -> dict[str, Callable[[], float]]:
    """Return the operations of these figures; `stack` closes what they use."""
    stack.enter_context(mock.patch.object(ProviderClient, "bind", bind.instant_bind))
    operations: dict[str, Callable[[], float]] = {}
    if any(name.endswith("sqlite") for name in names):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        bench_db = stack.enter_context(data.sqlite_database(folder, live=LIVE, ended=ENDED))
        operations |= _library_operations("sqlite", bench_db.url, stack)
    if any(not name.endswith("sqlite") for name in names):
        server = find_postgres()
        if server is None:
            print("there is no PostgreSQL: its figures and that of HTTP are not measured")
        else:
            stack.callback(server.stop)
            bench_db = stack.enter_context(data.postgres_database(server, live=LIVE, ended=ENDED))
            operations |= _library_operations("postgresql", bench_db.url, stack)
            if "lookup-http" in names:
                operations["lookup-http"] = _http_lookups(bench_db.url, stack)
    return {name: operations[name] for name in names if name in operations}


def _library_operations(database: str, url: str, stack: ExitStack) -> dict[str, Callable[[], float]]:
    product = stack.enter_context(bind.open_service(url))
    phones = itertools.cycle(_phones())
    return {
        f"lookup-{database}": partial(_timed, LOOKUPS, lambda: product.lookup(phone=next(phones))),
        f"bind-{database}": partial(_timed, BINDS, lambda: bind.bind_once(product)),
    }


def _timed(count: int, operation: Callable[[], object]) -> float:
    cpu = time.process_time()
    for _ in range(count):
        operation()
    return (time.process_time() - cpu) / count


def _http_lookups(url: str, stack: ExitStack) -> Callable[[], float]:
    with BindingService.open(database_url=url) as product:
        key = product.api_keys.create(name="bench", role="router", rate_limit=100_000).key
    server = stack.enter_context(service.product_server(url))
    client, phones = service.Client(server.url, key), _phones()

    def lookups() -> float:
        cpu = cpu_s(server.pid)
        client.lookups(phones, callers=HTTP_CALLERS, count=HTTP_LOOKUPS)
        return (cpu_s(server.pid) - cpu) / HTTP_LOOKUPS

    return lookups


def _phones() -> list[str]:
    return [data.phone(1, number) for number in random.sample(range(LIVE // 6), LIVE // 6)]


if __name__ == "__main__":
    sys.exit(main())
