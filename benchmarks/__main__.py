"""Run the measurements, print the table, write the JSON and the plots; what was made is removed, unless kept."""

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
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from benchmarks import (
    bind,
    burst,
    churn,
    comparisons,
    cpu_cost,
    data,
    disk_space,
    export,
    growth,
    lag,
    lookup,
    pages,
    restart,
    retention,
    servers,
    service,
    start,
    sweep,
    updates,
    vacuum,
)
from benchmarks.bench_context import NotMeasuredError, Place
from benchmarks.measure import Result, Target, table
from tests.faults.cluster import find_binaries
from tests.store.databases import VARIABLE, Server, find_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.data import Sizes

RESULTS = Path(__file__).with_name("results")
FAILED = "failed"
SIZES = {"quick": data.QUICK, "default": data.DEFAULT, "full": data.FULL}
# What measures each target; P9 comes with P3, P8 with P7; the burst is P5's too. A new measurement is a line here.
MEASURES: dict[str, Callable[[Place], list[Result]]] = {
    "P1": lookup.postgres,
    "P2": lookup.sqlite,
    "P3": growth.measure,
    "P4": bind.measure,
    "P5": sweep.measure,
    "burst": burst.measure,
    "P6": lag.measure,
    "P7": service.measure,
    "P10": restart.measure,
    "P11": export.measure,
    "P12": start.measure,
    "P13": comparisons.measure,
    "P14": pages.measure,
    "cost": cpu_cost.measure,
    "space": disk_space.measure,
    "retention": retention.measure,
    "vacuum": vacuum.measure,
    "churn": churn.measure,
    "updates": updates.measure,
}


def main() -> None:
    """Parse the arguments, measure, show."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the databases are dropped
    sizes, wanted = SIZES[arguments.size], arguments.only.split(",")
    began = time.monotonic()
    with _server(arguments) as server, Place(sizes=sizes, find_server=server, keep=arguments.keep) as place:
        environment = _environment(sizes, server)
        print(environment, flush=True)
        results = [result for name in wanted for result in _measured(name, place)]
    print(table(results))
    path = _write(arguments.results, environment, results)
    print(f"{time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f} at the end; {path}")
    if any((result.note or "").startswith(FAILED) for result in results):
        sys.exit(1)


@contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[Server | None]:
    """A PostgreSQL of the bench's own, with memory for its data as an administrator would give it.

    The one that the tests find where databases are to be kept, where the environment names one, or where there are
    no binaries.
    """
    with ExitStack() as stack:
        if not arguments.keep and not os.environ.get(VARIABLE) and find_binaries() is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-server-")))
            own = servers.postgres(folder, *_memory())
            stack.callback(own.kill)
            own.start()
            yield Server(url=own.url, found="the bench's own")
            return
        found = find_postgres()
        if found is not None:
            stack.callback(found.stop)
        yield found


def _memory() -> tuple[str, ...]:
    """A quarter of the machine's for the buffers, and no checkpoint every few seconds."""
    quarter_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2**20
    return f"shared_buffers={quarter_mb}MB", "max_wal_size=8GB", "max_connections=200"


def _measured(name: str, place: Place) -> list[Result]:
    began = time.monotonic()
    try:
        results = MEASURES[name](place)
    except NotMeasuredError as missing:
        results = [Result(target=Target(id=name, what="-"), note=f"not measured: {missing}")]
    except Exception as error:  # noqa: BLE001 -- what the others measured is shown all the same
        traceback.print_exc()
        results = [Result(target=Target(id=name, what="-"), note=f"{FAILED}: {type(error).__name__}")]
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed against the raw drivers.")
    for name, sizes in SIZES.items():
        text = f"{sizes.live:,} live and {sizes.ended:,} ended bindings on PostgreSQL"
        parser.add_argument(f"--{name}", dest="size", action="store_const", const=name, help=text)
    parser.add_argument("--only", default=",".join(MEASURES), help="targets, with commas (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the plots")
    parser.add_argument("--keep", action="store_true", help="keep the PostgreSQL databases, for the next run")
    parser.set_defaults(size="default")
    return parser.parse_args()


def _environment(sizes: Sizes, server: Server | None) -> str:
    found = "none"
    if server is not None:
        with psycopg.connect(server.url) as connection:
            version_of = connection.info.parameter_status("server_version") or "?"
            (buffers,) = connection.execute("SHOW shared_buffers").fetchone() or ("?",)
            found = f"{version_of} with {buffers} of buffers"
    parts = (
        f"bindings bench, {sizes.name}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"Python {platform.python_version()}",
        f"SQLAlchemy {version('sqlalchemy')}",
        f"psycopg {version('psycopg')}",
        f"PostgreSQL {found}",
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
