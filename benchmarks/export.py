"""P11: the stream of all bindings, and the finished files of `bindings export`, each in a process of its own.

Events have details as long as those of a history, in a database of their own.

Run as a program (URL, rows), this module reads the stream and prints its rate, CPU time and peak of memory.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.data import TYPICAL_DETAILS, postgres_database
from benchmarks.measure import Result, Target
from bindings.domain.record_lines import FORMATS
from bindings.service import BindingService

if TYPE_CHECKING:
    from benchmarks.bench_context import BenchContext

ROWS_PER_S = 100_000
FLAT_MB = 10.0
ROUNDS = 2


def measure(context: BenchContext) -> list[Result]:
    """Return P11 on PostgreSQL: the rate, and the extra memory that ten times the rows take."""
    url, rows = context.postgres().url, context.sizes.exported
    tenth = _run_export(url, rows // 10)
    exports = [_run_export(url, rows) for _ in range(ROUNDS)]
    best = max(exports, key=lambda export: export["rate"])
    rates = ", ".join(f"{export['rate']:,.0f}" for export in exports)
    return [
        Result(
            target=Target(
                id="P11", title=f"export of {rows:,} bindings", bound=ROWS_PER_S, at_most=False, unit="rows/s"
            ),
            value=best["rate"],
            note=f"the best of {rates}; CPU {best['cpu_s'] / rows * 1e6:.1f} us a row",
        ),
        Result(
            target=Target(id="P11", title="its memory above that of a tenth", bound=FLAT_MB, unit="MB"),
            value=max(0.0, best["peak_mb"] - tenth["peak_mb"]),
            note=f"peak {best['peak_mb']:.0f} MB against {tenth['peak_mb']:.0f}",
        ),
        *(_measure_file(url, "bindings", file_format) for file_format in FORMATS),
        *_measure_events(context),
    ]


def _measure_events(context: BenchContext) -> list[Result]:
    rows = context.sizes.exported
    with postgres_database(
        context.server, live=rows // 20, ended=rows * 3 // 10, details=TYPICAL_DETAILS
    ) as bench_db:
        return [_measure_file(bench_db.url, "events", file_format) for file_format in FORMATS]


def _measure_file(url: str, what: str, file_format: str) -> Result:
    """Return the rate of the command that writes a masked file, from its start to its end."""
    environment = {**os.environ, "BINDINGS_DATABASE_URL": url}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{what}.{file_format}"
        command = [sys.executable, "-m", "bindings", "export", what, "--format", file_format]
        cpu_before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started_at = time.perf_counter()
        subprocess.run([*command, "-o", str(path)], check=True, capture_output=True, env=environment)
        elapsed_s = time.perf_counter() - started_at
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
        with path.open(encoding="utf-8") as file:
            rows = sum(1 for _ in file) - (file_format == "csv")
    cpu_s = cpu.ru_utime + cpu.ru_stime - cpu_before.ru_utime - cpu_before.ru_stime
    return Result(
        target=Target(
            id="P11", title=f"{file_format} file of the {what}", bound=ROWS_PER_S, at_most=False, unit="rows/s"
        ),
        value=rows / elapsed_s,
        note=f"{rows:,} rows in {elapsed_s:.1f} s; CPU {cpu_s / rows * 1e6:.1f} us a row",
    )


def _run_export(url: str, rows: int) -> dict[str, Any]:
    completed = subprocess.run(
        [sys.executable, "-m", "benchmarks.export", url, str(rows)], check=True, capture_output=True, text=True
    )
    figures: dict[str, Any] = json.loads(completed.stdout)
    return figures


def main(url: str, rows: int) -> None:
    """Export `rows` bindings, discard them, and print the figures."""
    with BindingService.open(database_url=url) as service:
        started_at, cpu = time.perf_counter(), time.process_time()
        count = sum(1 for _ in itertools.islice(service.export_bindings(), rows))
        elapsed_s = time.perf_counter() - started_at
    if count != rows:
        raise AssertionError(f"{count} of {rows} rows")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rate": rows / elapsed_s, "cpu_s": time.process_time() - cpu, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
