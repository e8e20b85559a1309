"""Command line of the bench: run the measures, print the table, write the JSON and the plots.

Databases and folders of the run are removed at the end, except databases kept with `--keep`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from benchmarks import (
    bind,
    burst,
    by_hand,
    churn,
    comparisons,
    cpu_cost,
    data,
    disk_space,
    encryption,
    export,
    extend,
    growth,
    history,
    lag,
    lookup,
    overdue,
    pages,
    restart,
    retention,
    scale,
    scan,
    servers,
    service,
    start,
    sweep,
    updates,
    vacuum,
)
from benchmarks.bench_context import BenchContext, NotMeasuredError
from benchmarks.measure import Result, Target, table
from tests.faults.cluster import find_binaries
from tests.store.databases import VARIABLE, Server, find_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.data import Sizes

RESULTS = Path(__file__).with_name("results")
FAILED = "failed"
SIZES = {"quick": data.QUICK, "default": data.DEFAULT, "full": data.FULL}


@dataclass(frozen=True, slots=True)
class Measure:
    """A function that measures, and the ids of the targets of its results."""

    run: Callable[[BenchContext], list[Result]]
    targets: tuple[str, ...]

    def results(self, context: BenchContext) -> list[Result]:
        """Return the results; raise `AssertionError` for one of a target that is not named here."""
        results = self.run(context)
        if undeclared := {result.target.id for result in results} - set(self.targets):
            raise AssertionError(f"targets that MEASURES does not name: {', '.join(sorted(undeclared))}")
        return results


# By the name of the module. Register a new measure here.
MEASURES = {
    "lookup": Measure(lookup.postgres, ("P1",)),
    "lookup-sqlite": Measure(lookup.sqlite, ("P2",)),
    "growth": Measure(growth.measure, ("P3", "P3b", "P9")),
    "bind": Measure(bind.measure, ("P4",)),
    "by_hand": Measure(by_hand.measure, ("P4b", "P4c")),
    "sweep": Measure(sweep.measure, ("P5", "P17")),
    "burst": Measure(burst.measure, ("P5",)),
    "lag": Measure(lag.measure, ("P6",)),
    "service": Measure(service.measure, ("P7", "P8")),
    "overdue": Measure(overdue.measure, ("P22",)),
    "restart": Measure(restart.measure, ("P10",)),
    "scan": Measure(scan.measure, ("P21",)),
    "export": Measure(export.measure, ("P11",)),
    "start": Measure(start.measure, ("P12",)),
    "comparisons": Measure(comparisons.measure, ("P13",)),
    "pages": Measure(pages.measure, ("P14",)),
    "extend": Measure(extend.measure, ("P16",)),
    "encryption": Measure(encryption.measure, ("P18",)),
    "history": Measure(history.measure, ("P19",)),
    "cpu_cost": Measure(cpu_cost.measure, ("cost",)),
    "disk_space": Measure(disk_space.measure, ("space",)),
    "scale": Measure(scale.measure, ("scale",)),
    "retention": Measure(retention.measure, ("locks",)),
    "vacuum": Measure(vacuum.measure, ("vacuum",)),
    "churn": Measure(churn.measure, ("churn",)),
    "updates": Measure(updates.measure, ("updates",)),
}


def select(names: str) -> list[str]:
    """Return the measures that the names select: of measures, or of targets, which may have several.

    Raises `ArgumentTypeError` for a name that is neither.
    """
    selected: dict[str, None] = {}
    for name in names.split(","):
        measures = [name] if name in MEASURES else [key for key in MEASURES if name in MEASURES[key].targets]
        if not measures:
            raise argparse.ArgumentTypeError(f"{name!r} is no measure and no target: {', '.join(MEASURES)}")
        selected |= dict.fromkeys(measures)
    return list(selected)


def main() -> None:
    """Run the measures that the arguments name, and show the results; exit with 1 if a measure failed."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # lets the context managers drop the databases
    sizes = SIZES[arguments.size]
    started_at = time.monotonic()
    with (
        _server(arguments) as server,
        BenchContext(sizes=sizes, optional_server=server, keep=arguments.keep) as context,
    ):
        environment = _environment(sizes, server)
        print(environment, flush=True)
        results = [result for name in arguments.only for result in _run_measure(name, context)]
    print(table(results))
    path = _write(arguments.results, environment, results)
    print(f"{time.monotonic() - started_at:.0f} s, load {os.getloadavg()[0]:.1f} at the end; {path}")
    if any((result.note or "").startswith(FAILED) for result in results):
        sys.exit(1)


@contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[Server | None]:
    """Start a PostgreSQL server for the bench, with as much memory as an administrator would configure.

    Yield the server that the tests use instead if databases are to be kept, if the environment names a server, or
    if there are no PostgreSQL binaries; None if there is no such server either.
    """
    with ExitStack() as stack:
        if not arguments.keep and not os.environ.get(VARIABLE) and find_binaries() is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-server-")))
            own_server = servers.postgres(folder, *_memory())
            stack.callback(own_server.kill)
            own_server.start()
            yield Server(url=own_server.url, origin="the bench's own")
            return
        server = find_postgres()
        if server is not None:
            stack.callback(server.stop)
        yield server


def _memory() -> tuple[str, ...]:
    """Return settings that use a quarter of the machine's memory for buffers and avoid frequent checkpoints."""
    quarter_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2**20
    return f"shared_buffers={quarter_mb}MB", "max_wal_size=8GB", "max_connections=200"


def _run_measure(name: str, context: BenchContext) -> list[Result]:
    started_at = time.monotonic()
    try:
        results = MEASURES[name].results(context)
    except NotMeasuredError as error:
        results = [Result(target=Target(id=name, title="-"), note=f"not measured: {error}")]
    except Exception as error:  # noqa: BLE001 -- the results of the other measures are still shown
        traceback.print_exc()
        results = [Result(target=Target(id=name, title="-"), note=f"{FAILED}: {type(error).__name__}")]
    print(f"{name}: {time.monotonic() - started_at:.0f} s", file=sys.stderr, flush=True)
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the speed of the product against the bare database drivers.",
    )
    for name, sizes in SIZES.items():
        text = f"{sizes.live:,} live and {sizes.ended:,} ended bindings on PostgreSQL"
        parser.add_argument(f"--{name}", dest="size", action="store_const", const=name, help=text)
    parser.add_argument(
        "--only",
        type=select,
        default=",".join(MEASURES),
        help="measures or targets, separated by commas (default: %(default)s)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write the JSON and the plots to")
    parser.add_argument("--keep", action="store_true", help="keep the PostgreSQL databases, for the next run")
    parser.set_defaults(size="default")
    return parser.parse_args()


def _environment(sizes: Sizes, server: Server | None) -> str:
    postgres = "none"
    if server is not None:
        with psycopg.connect(server.url) as connection:
            server_version = connection.info.parameter_status("server_version") or "?"
            (buffers,) = connection.execute("SHOW shared_buffers").fetchone() or ("?",)
            postgres = f"{server_version} with {buffers} of buffers"
    parts = (
        f"bindings bench, {sizes.name}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"Python {platform.python_version()}",
        f"SQLAlchemy {version('sqlalchemy')}",
        f"psycopg {version('psycopg')}",
        f"PostgreSQL {postgres}",
        f"SQLite {sqlite3.sqlite_version}",
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        platform.platform(),
    )
    return "; ".join(parts)


def _write(folder: Path, environment: str, results: list[Result]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    content = {"environment": environment, "results": [result.as_json() for result in results]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for plot in (result.plot for result in results if result.plot is not None):
        (folder / f"{plot.name}.svg").write_text(plot.svg(), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
