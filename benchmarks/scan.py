"""P21: memory of `bindings serve` while it scans a provider's list with many rows.

The list is that of the simulator over HTTP, with a row for each live binding of a database. The simulator's ledger
would need seconds for a page of so many rows, so here a page is read from the database. Memory is the peak of the
process at the end of the scan, compared with its peak when the simulator gets the first page's request.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import psycopg
from psycopg.rows import dict_row

from benchmarks import data, servers, service
from benchmarks.measure import Result, Target
from bindings.domain.binding import Mode
from bindings.provider.simulator import Entry, Simulator
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench_context import BenchContext
    from bindings.store.reports import Report

MAX_GROWTH_MB = 40.0
TIMEOUT_S = 1_200.0
# Pages as fast as the simulator answers, and the first scan a second after the start.
SETTINGS = {"BINDINGS_SCAN_CALLS_PER_S": "1000", "BINDINGS_RECONCILE_INTERVAL_S": "1"}
ENDED = 10
PAGE = """
    SELECT bind_id, app_id, pool_number, mode, phone_a, phone_b, middle_number_a, middle_number_b,
        answered_at AS accepted_at, expires_at
    FROM bindings WHERE id BETWEEN %s AND %s ORDER BY id
"""


class LiveBindings:
    """The entries of the provider's list, in the order of their ids; a slice is read when it is asked for."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._count = count
        self.peak_mb_at_first = 0.0
        self.pid: int | None = None  # of the process whose memory is read before the first slice is returned

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice) -> list[Entry]:
        if self.pid is not None and not self.peak_mb_at_first:
            self.peak_mb_at_first = servers.peak_mb(self.pid)
        first, after, _ = rows.indices(self._count)
        ids = data.binding_id(ENDED + first), data.binding_id(ENDED + after - 1)
        with psycopg.connect(self._url) as connection:
            return [_entry(row) for row in connection.cursor(row_factory=dict_row).execute(PAGE, ids)]


def _entry(row: dict[str, Any]) -> Entry:
    at = {name: row.pop(name).timestamp() for name in ("accepted_at", "expires_at")}
    return Entry(bind_id=int(row.pop("bind_id")), mode=Mode(row.pop("mode")), **row, **at)


def measure(context: BenchContext) -> list[Result]:
    """Return P21 on PostgreSQL."""
    count = context.sizes.listed
    with (
        data.postgres_database(context.server, live=count, ended=ENDED) as bench_db,
        _simulator(LiveBindings(bench_db.url, count)) as (simulator, rows),
        service.product_server(bench_db.url, simulator, scheduler=True, **SETTINGS) as server,
        BindingService.open(database_url=bench_db.url) as library,
    ):
        rows.pid = server.pid
        report = _wait_for_report(library)
        peak_mb = servers.peak_mb(server.pid)
    seconds = (report.finished_at - report.began_at).total_seconds()
    return [
        Result(
            target=Target(
                id="P21", title=f"memory of serve during a scan of {count:,} rows", bound=MAX_GROWTH_MB, unit="MB"
            ),
            value=peak_mb - rows.peak_mb_at_first,
            note=f"peak {peak_mb:.0f} MB against {rows.peak_mb_at_first:.0f}; the scan took {seconds:.0f} s",
            conditions_met=report.read_everything,
        )
    ]


@contextmanager
def _simulator(rows: LiveBindings) -> Iterator[tuple[Simulator, LiveBindings]]:
    with (
        mock.patch("bindings.provider.simulator.rules.Rules._listed", return_value=rows),
        Simulator() as simulator,
    ):
        yield simulator, rows


def _wait_for_report(library: BindingService) -> Report:
    give_up_at = time.monotonic() + TIMEOUT_S
    while time.monotonic() < give_up_at:
        for report in library.reports(limit=1, cases=False).data:
            return report
        time.sleep(0.1)
    raise AssertionError("the reconciliation has not ended")
