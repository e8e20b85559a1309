"""Run the measurements, print the table, write the JSON; everything made here is removed here."""

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
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from benchmarks import bind, data, lookup, pages, service, start, sweep
from benchmarks.measure import table
from tests.store.databases import find_postgres

if TYPE_CHECKING:
    from benchmarks.data import Sizes
    from benchmarks.measure import Result
    from tests.store.databases import Server

RESULTS = Path(__file__).with_name("results")
SIZES = {"quick": data.QUICK, "default": data.DEFAULT, "full": data.FULL}
ALL = ("P1", "P2", "P4", "P5", "P7", "P8", "P12", "P14")


def main() -> None:
    """Parse the arguments, measure, show."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the databases are dropped
    sizes, wanted = SIZES[arguments.size], arguments.only.split(",")
    server = find_postgres() if {"P1", "P4", "P5", "P7", "P8", "P14"} & set(wanted) else None
    try:
        environment = _environment(sizes, server)
        print(environment, flush=True)
        began = time.monotonic()
        results = _measure(sizes, wanted, server)
    finally:
        if server is not None:
            server.stop()
    print(table(results))
    path = _write(arguments.results, environment, results)
    print(f"{time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f} at the end; {path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed against the raw drivers.")
    for name, sizes in SIZES.items():
        text = f"{sizes.live:,} live and {sizes.ended:,} ended bindings on PostgreSQL"
        parser.add_argument(f"--{name}", dest="size", action="store_const", const=name, help=text)
    parser.add_argument("--only", default=",".join(ALL), help="targets, with commas (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    parser.set_defaults(size="default")
    return parser.parse_args()


def _measure(sizes: Sizes, wanted: list[str], server: Server | None) -> list[Result]:
    results: list[Result] = []
    if "P12" in wanted:
        results += start.measure(sizes)
    if server is not None:
        with data.on_postgres(server, live=sizes.live, ended=sizes.ended) as filled:
            results += lookup.postgres(filled, sizes) if "P1" in wanted else []
            results += pages.measure(filled, sizes) if "P14" in wanted else []
            results += [sweep.postgres(filled, sizes)] if "P5" in wanted else []
            results += bind.measure(filled, sizes) if "P4" in wanted else []
            results += service.measure(filled, sizes) if {"P7", "P8"} & set(wanted) else []
    elif {"P1", "P4", "P7", "P8"} & set(wanted):
        print("there is no PostgreSQL here: P1, P4, P7, P8 and half of P5 are not measured")
    if {"P2", "P5"} & set(wanted):
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            data.on_sqlite(Path(folder), live=sizes.sqlite_live, ended=sizes.sqlite_ended) as filled,
        ):
            results += lookup.sqlite(filled, sizes) if "P2" in wanted else []
            results += [sweep.sqlite(filled, sizes)] if "P5" in wanted else []
    return sorted(results, key=lambda result: ALL.index(result.target.id))


def _environment(sizes: Sizes, server: Server | None) -> str:
    found = "none"
    if server is not None:
        with psycopg.connect(server.url) as connection:
            found = connection.info.parameter_status("server_version") or "?"
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
    return path


if __name__ == "__main__":
    main()
