"""P10: `bindings serve` after a long outage, on a database with many live, overdue and in-doubt bindings.

Ready means that /readyz returns 200. Memory is the peak of the process until no binding is overdue, compared with
the peak of the same service on an empty database, so that data loaded at the start would show.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks import servers
from benchmarks.measure import Result, Target
from bindings.store import migrations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.bench_context import BenchContext

MAX_READY_S = 5.0
MAX_GROWTH_MB = 50.0
TIMEOUT_S = 300.0


def measure(context: BenchContext) -> list[Result]:
    """Return P10 on PostgreSQL: the time until ready, and the extra memory."""
    sizes, bench_db = context.sizes, context.postgres()
    empty_url = context.server.create()
    try:
        migrations.upgrade(empty_url)
        with _running_service(empty_url, context.folder()) as (process, url, started_at):
            _wait_ready(url, started_at)
            time.sleep(2)
            empty_mb = servers.peak_mb(process.pid)
    finally:
        context.server.drop(empty_url)
    bench_db.add_due(sizes.overdue)
    bench_db.add_in_doubt(sizes.doubts)
    with _running_service(bench_db.url, context.folder()) as (process, url, started_at):
        ready_s = _wait_ready(url, started_at)
        bench_db.wait_until_none_due(TIMEOUT_S)
        swept_s = time.monotonic() - started_at
        full_mb = servers.peak_mb(process.pid)
    title = f"{sizes.live:,} live, {sizes.overdue:,} overdue, {sizes.doubts:,} in doubt"
    return [
        Result(
            target=Target(id="P10", title=f"ready after a restart: {title}", bound=MAX_READY_S, unit="s"),
            value=ready_s,
            note=f"from the start of the process; nothing overdue after {swept_s:.0f} s",
        ),
        Result(
            target=Target(
                id="P10", title="memory above that on an empty database", bound=MAX_GROWTH_MB, unit="MB"
            ),
            value=max(0.0, full_mb - empty_mb),
            note=f"peak {full_mb:.0f} MB against {empty_mb:.0f}",
        ),
    ]


@contextmanager
def _running_service(url: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """Run the service in a separate process, without a provider account; yield process, address and start time."""
    started_at = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bindings", "serve", "--local-admin", "--port", "0", "--json"],
            env=servers.product_environment(BINDINGS_DATABASE_URL=url),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        if not line:
            raise AssertionError((folder / "log").read_text())
        yield process, json.loads(line)["url"], started_at
    finally:
        process.terminate()
        process.wait(90)


def _wait_ready(url: str, started_at: float) -> float:
    while time.monotonic() < started_at + TIMEOUT_S:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=30):
                return time.monotonic() - started_at
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.05)
    raise AssertionError("the service does not become ready")
