"""P11: the stream of all bindings, exported in a separate process so that its memory can be measured.

Run as a program (URL, rows), this module exports and prints the rate, the CPU time and the peak of memory.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Result, Target
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
    ]


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
