"""P10: `bindings serve` on a database after a long outage: live, overdue and doubtful bindings in great number.

Ready means that /readyz says so. Memory is the process's peak until nothing is overdue any more, against the
peak of the same service on an empty database: what is loaded at the start would show there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import servers
from benchmarks.measure import Result, Target
from bindings.store import migrations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench_context import Place

READY_S = 5.0
GROWTH_MB = 50.0
LONGEST_S = 300.0


def measure(place: Place) -> list[Result]:
    """P10, on PostgreSQL."""
    sizes, filled = place.sizes, place.postgres()
    nothing = place.server.create()
    try:
        migrations.upgrade(nothing)
        with _served(nothing, place.folder()) as (process, url, began):
            _wait_ready(url, began)
            time.sleep(2)
            empty_mb = _peak_mb(process)
    finally:
        place.server.drop(nothing)
    filled.due(sizes.overdue)
    filled.doubt(sizes.doubts)
    with _served(filled.url, place.folder()) as (process, url, began):
        ready_s = _wait_ready(url, began)
        filled.wait_swept(LONGEST_S)
        swept_s = time.monotonic() - began
        full_mb = _peak_mb(process)
    what = f"{sizes.live:,} live, {sizes.overdue:,} overdue, {sizes.doubts:,} in doubt"
    return [
        Result(
            target=Target(id="P10", what=f"ready after a restart: {what}", bound=READY_S, unit="s"),
            value=ready_s,
            note=f"from the start of the process; nothing overdue after {swept_s:.0f} s",
        ),
        Result(
            target=Target(id="P10", what="memory above that on an empty database", bound=GROWTH_MB, unit="MB"),
            value=max(0.0, full_mb - empty_mb),
            note=f"peak {full_mb:.0f} MB against {empty_mb:.0f}",
        ),
    ]


@contextmanager
def _served(url: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """The service in a process of its own, without an account: its address, and when it was started."""
    began = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bindings", "serve", "--port", "0", "--json"],
            env=servers.variables(BINDINGS_DATABASE_URL=url),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        if not line:
            raise AssertionError((folder / "log").read_text())
        yield process, json.loads(line)["url"], began
    finally:
        process.terminate()
        process.wait(90)


def _wait_ready(url: str, began: float) -> float:
    while time.monotonic() < began + LONGEST_S:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=30):
                return time.monotonic() - began
        except urllib.error.HTTPError as refused:
            refused.close()
            time.sleep(0.05)
    raise AssertionError("the service does not become ready")


def _peak_mb(process: subprocess.Popen[str]) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel tells no peak")
