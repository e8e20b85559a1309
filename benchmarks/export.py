"""P11: the stream of all bindings, in a process of its own so that its memory can be read.

Run as a program (URL, rows) it exports and says how fast, and with what peak of memory.
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
    from benchmarks.bench_context import Place

ROWS_PER_S = 100_000
FLAT_MB = 10.0
ROUNDS = 2


def measure(place: Place) -> list[Result]:
    """P11, on PostgreSQL: the rate, and how much memory ten times the rows take."""
    url, rows = place.postgres().url, place.sizes.exported
    few = _exported(url, rows // 10)
    all_ = [_exported(url, rows) for _ in range(ROUNDS)]
    best = max(all_, key=lambda each: each["rate"])
    told = ", ".join(f"{each['rate']:,.0f}" for each in all_)
    return [
        Result(
            target=Target(
                id="P11", what=f"export of {rows:,} bindings", bound=ROWS_PER_S, at_most=False, unit="rows/s"
            ),
            value=best["rate"],
            note=f"the best of {told}; CPU {best['cpu_s'] / rows * 1e6:.1f} us a row",
        ),
        Result(
            target=Target(id="P11", what="its memory above that of a tenth", bound=FLAT_MB, unit="MB"),
            value=max(0.0, best["peak_mb"] - few["peak_mb"]),
            note=f"peak {best['peak_mb']:.0f} MB against {few['peak_mb']:.0f}",
        ),
    ]


def _exported(url: str, rows: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.export", url, str(rows)], check=True, capture_output=True, text=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def main(url: str, rows: int) -> None:
    """Export `rows` bindings to nowhere."""
    with BindingService.open(database_url=url) as service:
        began, cpu = time.perf_counter(), time.process_time()
        count = sum(1 for _ in itertools.islice(service.export_bindings(), rows))
        took = time.perf_counter() - began
    if count != rows:
        raise AssertionError(f"{count} of {rows} rows")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rate": rows / took, "cpu_s": time.process_time() - cpu, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
