"""Read the provider's whole list of one application: a scan; or a few of its pages: a partial scan.

The list shifts while it is read, its order is not documented, and a page, its size or the total may be wrong. So a
scan goes by the rows that pages bring: it ends at an empty page, or at the third page in a row without a new row.
It records which provider ids it saw, which rows are unknown here or differ from what is recorded, and whether it
reached the end. What that proves is in `scan_evidence`. Memory grows by a digest of each id (`id_set`) and with
what differs, not with whole rows.

A partial scan reads the pages near the newest of our bindings. Where those are in the list is learned from what is
read: by each scan for the next one, and by a partial scan from its first pages.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from statistics import median_high, median_low
from typing import TYPE_CHECKING

from bindings.failpoints import hit
from bindings.http_transport import Unknown
from bindings.jobs.id_set import IdSet
from bindings.jobs.scan_evidence import LONGEST_ZONE_MISFIT_S, binding_of, same_numbers, same_pair
from bindings.provider.outcome import ProviderPage, Refusal, Refused
from bindings.store import queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from bindings.clock import HostClock
    from bindings.domain.binding import Binding
    from bindings.http_transport import NotSent
    from bindings.jobs.run_control import RunControl
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import OddRow, ProviderBinding
    from bindings.store.database import Database

FAILED_WAITS_S = (1.0, 4.0)  # before the second and the third attempt to read a page
LIMITED_WAITS_S = (10.0, 50.0)  # after a rate limit that names no time: most count by the minute
LONGEST_WAIT_S = 120.0  # also if the rate limit names a longer time
REPEATS = 3  # pages in a row without a new row, after which a list has no more of them
STOP_CHECK_S = 0.5  # a wait looks that often whether the run is to stop
ZONE_SAMPLE = 1_000  # rows that decide whether the zone setting fits
SAME_END_S = 1.0  # the provider cuts its times to whole seconds


class RateLimiter:
    """Spaces page queries evenly, so that they stay within a number of calls per second. Thread-safe."""

    def __init__(self, calls_per_s: float, *, clock: HostClock) -> None:
        self._interval_s = 1 / calls_per_s
        self._next = 0.0
        self._clock = clock
        self._lock = threading.Lock()

    def wait(self, control: RunControl) -> None:
        """Sleep until the next call is allowed, or the run is to stop. A wait counts as progress of the run."""
        with self._lock:
            due = max(self._next, self._clock.monotonic())
            self._next = due + self._interval_s
        _wait_until(due, self._clock, control)


def _wait_until(due: float, clock: HostClock, control: RunControl) -> None:
    """Sleep until the monotonic clock reads `due`, or the run is to stop."""
    while not control.is_stopping() and (left_s := due - clock.monotonic()) > 0:
        clock.sleep(min(left_s, STOP_CHECK_S))
        control.record_progress()


@dataclass(frozen=True, kw_only=True, slots=True)
class NewestPlace:
    """Where the newest of our bindings was in a list: on `page`, which began at row `first_row` of `rows`."""

    requested_at: datetime
    page: int
    first_row: int
    rows: int

    def page_now(self, rows: int, page_rows: int) -> int:
        """Return the page that has this place in a list of `rows` with `page_rows` on a page, as far as known.

        The list has changed since: the place is counted from the end of the list that is nearer.
        """
        from_end = self.rows - self.first_row
        first_row = self.first_row if self.first_row < from_end else max(0, rows - from_end)
        return first_row // page_rows + 1


@dataclass(kw_only=True, slots=True)
class Scan:
    """What one scan saw of an application's list, or of the account's (`app_id` None).

    `started_at` and `ended_at` are database instants. `bind_ids` are those of all rows; `unknown_rows` those whose
    bind_id was unknown here when they were read; `differing` the known ones that differ from what is recorded;
    `ended_here` the live ones whose binding has ended here, and holds its phones for a shorter time; `other_pairs`
    those that have the bind_id of a living binding here and not its phones; `listed` the phone keys of `watched`
    that a live row has. `odd_rows` (a set, in order) do not match the provider's documents; `unknown_odd_rows` are
    those of them whose bind_id is unknown here. `total` is the largest one that a page had, None if a page had
    none. `page_rows` is how many rows the first page had, `pages` how many pages had a new row, `pages_read` how
    many were read. `newest` is where the newest of our bindings was seen, or None. `partial`: only a few pages
    were to be read. `error` says why the scan ended sooner than intended, or is None.
    """

    app_id: str | None
    started_at: datetime
    ended_at: datetime
    watched: frozenset[str] = frozenset()
    partial: bool = False
    bind_ids: IdSet = field(default_factory=IdSet)
    unknown_rows: list[ProviderBinding] = field(default_factory=list)
    differing: list[tuple[ProviderBinding, Binding]] = field(default_factory=list)
    ended_here: list[tuple[ProviderBinding, Binding]] = field(default_factory=list)
    other_pairs: list[tuple[ProviderBinding, Binding]] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    odd_rows: dict[OddRow, None] = field(default_factory=dict)
    unknown_odd_rows: list[OddRow] = field(default_factory=list)
    deviations_s: list[float] = field(default_factory=list)
    total: int | None = 0
    page_rows: int = 0
    pages: int = 0
    pages_read: int = 0
    newest: NewestPlace | None = None
    duration_s: float = 0.0
    error: str | None = None

    @property
    def rows(self) -> int:
        """Return how many different rows were seen."""
        return len(self.bind_ids) + sum(row.bind_id is None for row in self.odd_rows)

    @property
    def complete(self) -> bool:
        """Return True if the list was read to its end."""
        return self.error is None and not self.partial

    @property
    def unexplained_rows(self) -> list[ProviderBinding]:
        """Return the rows that are of no living binding here; the row of a doubt would be among them."""
        return [*self.unknown_rows, *(row for row, _ in self.ended_here + self.other_pairs)]

    @property
    def total_seen(self) -> bool:
        """Return True if at least as many different rows were seen as the provider's total."""
        return self.total is not None and self.rows >= self.total

    @property
    def proves_absence(self) -> bool:
        """Return True if a binding that is not among the ids was not listed: an odd row may be any binding."""
        return self.complete and self.total_seen and not self.odd_rows

    def page_limit(self, size: int) -> int | None:
        """Return the largest page of the provider's server if it is smaller than the `size` that was asked for."""
        return self.page_rows if self.pages > 1 and self.page_rows < size else None

    @property
    def deviation_s(self) -> float:
        """Return the median of the provider's ends minus the recorded ones, in seconds; 0 if no row is known.

        Of the two in the middle the smaller one: half of the rows prove nothing about the zone.
        """
        if not self.deviations_s:
            return 0.0
        return min(median_low(self.deviations_s), median_high(self.deviations_s), key=abs)

    def add_row(self, row: ProviderBinding, binding: Binding | None) -> None:
        """Record one row, and the binding here that has its bind_id (None: unknown)."""
        self.bind_ids.add(row.bind_id)
        if row.ends_at > self.started_at:  # a row past its end holds nothing, and explains nothing
            self.listed |= {row.phone_a.key, row.phone_b.key} & self.watched
        if binding is None:
            self.unknown_rows.append(row)
            return
        if binding.state.terminal:
            if row.ends_at > max(self.started_at, binding.held_until):
                self.ended_here.append((row, binding))
            return
        if not same_pair(row, binding):
            self.other_pairs.append((row, binding))
            return
        if binding.provider_end is None or self.app_id not in (None, binding.app_id):
            return  # that of another application is compared with its own list
        deviation = (row.ends_at - binding.provider_end).total_seconds()
        if len(self.deviations_s) < ZONE_SAMPLE and abs(deviation) <= LONGEST_ZONE_MISFIT_S:
            self.deviations_s.append(deviation)
        if abs(deviation) > SAME_END_S or not same_numbers(row, binding):
            self.differing.append((row, binding))

    def add_odd_row(self, row: OddRow, *, is_known: bool) -> None:
        """Record one row that does not match the documents; it is a listed row too."""
        self.odd_rows[row] = None
        if row.bind_id is not None:
            self.bind_ids.add(row.bind_id)
        if not is_known:
            self.unknown_odd_rows.append(row)


@dataclass(frozen=True, kw_only=True, slots=True)
class ListSource:
    """Where a scan reads: our database, the provider's list, and the limits of the reading.

    A page that cannot be read is tried `attempts` times in all.
    """

    database: Database
    provider: ProviderClient
    rate_limiter: RateLimiter
    clock: HostClock
    control: RunControl
    time_limit_s: float = math.inf
    attempts: int = 3


def read(
    source: ListSource,
    app_id: str | None,
    *,
    size: int,
    backwards_over: int | None = None,
    watched: frozenset[str] = frozenset(),
) -> Scan:
    """Read every page of `size` rows and return the scan.

    With `backwards_over`, the number of rows that another scan saw, it reads from the last page to the first. A
    page that cannot be read, the time limit or a stop ends the scan with its `error`.
    """

    def read_all(reading: _Reading) -> None:
        if backwards_over is None:
            reading.read_forwards(1)
        else:
            reading.read_backwards(backwards_over)
        reading.check_end()

    now = source.database.clock()
    return _run(source, Scan(app_id=app_id, started_at=now, ended_at=now, watched=watched), size, read_all)


def read_part(
    source: ListSource,
    app_id: str | None,
    *,
    size: int,
    max_pages: int,
    near: NewestPlace | None,
    newer_counts: Sequence[int],
    is_enough: Callable[[Scan], bool],
) -> Scan:
    """Read up to `max_pages` pages of `size` rows and return the partial scan.

    It reads the first page, the page of the place `near`, and the last page; then the pages on which a list by
    time has the rows that are older than so many of our bindings as `newer_counts` say; then those next to them.
    It ends as soon as `is_enough` returns True.
    """

    def read_few(reading: _Reading) -> None:
        for current in reading.pages_near_newest(near, newer_counts):
            reading.read_page(current)
            if reading.scan.pages_read == max_pages or is_enough(reading.scan):
                return

    now = source.database.clock()
    return _run(source, Scan(app_id=app_id, started_at=now, ended_at=now, partial=True), size, read_few)


def _run(source: ListSource, scan: Scan, size: int, read_pages: Callable[[_Reading], None]) -> Scan:
    start = source.clock.monotonic()
    try:
        read_pages(_Reading(source, scan, size))
    except _Unreadable as unreadable:
        scan.error = str(unreadable)
    scan.duration_s = source.clock.monotonic() - start
    scan.ended_at = source.database.clock()
    return scan


class _Unreadable(Exception):
    """The scan cannot go on; the text says why."""


class _Reading:
    """One scan in progress."""

    def __init__(self, source: ListSource, scan: Scan, size: int) -> None:
        self._source = source
        self.scan = scan
        self._size = size
        self._row_counts: dict[int, int] = {}  # of each page that was read
        self._new_rows = 0  # of the page that was read last
        self._doubtful_end: str | None = None
        self._deadline = source.clock.monotonic() + source.time_limit_s

    def read_forwards(self, current: int) -> int:
        """Read from this page to the end of the list, and return the last page that had a new row."""
        last, repeats = current - 1, 0
        while self.read_page(current):
            if self._new_rows:
                last, repeats = current, 0
            else:
                repeats += 1
            if repeats == REPEATS:
                self._doubtful_end = f"{REPEATS} pages in a row had no new row"
                break
            current += 1
        return last

    def read_backwards(self, expected_rows: int) -> None:
        """Read the first page for its size, find the last page that has rows, and read from there to the first.

        `expected_rows` is a count of rows that were seen: a total may be wrong.
        """
        if not self.read_page(1):
            return
        last = max(1, -(-expected_rows // max(1, self.scan.page_rows)))
        while last > 1 and not self.read_page(last):
            last //= 2  # the list has become shorter
        end = self.read_forwards(last + 1)
        for current in range(last - 1 if end == last else end, 0, -1):
            self.read_page(current)

    def pages_near_newest(self, near: NewestPlace | None, newer_counts: Sequence[int]) -> Iterator[int]:
        """Yield pages to read: the first, that of the place `near`, the last, then those that are expected.

        Each is decided by the pages that were read before it: rows are expected as many rows inwards from the
        newest of our bindings as `newer_counts` say, or from both ends if none was seen. It ends when every page
        is read; a total may be wrong, so only an empty page is the end.
        """
        yield 1
        page_rows = max(1, self.scan.page_rows)
        total = self.scan.total or (0 if near is None else near.rows)
        last = max(1, -(-total // page_rows))
        learned = last if near is None else min(near.page_now(total, page_rows), last)
        for current in (learned, last):
            if current not in self._row_counts:
                yield current
        if last > 1 and not self._row_counts.get(last) and last - 1 not in self._row_counts:
            yield last - 1
        distances = {count // page_rows for count in newer_counts} or {0}
        while True:
            empty = [current for current, count in self._row_counts.items() if not count]
            newest = [] if self.scan.newest is None else [self.scan.newest.page]
            bases = newest or ([1] if empty else [1, last])
            starts = [
                base + distance if base - 1 <= last - base else base - distance
                for distance in distances
                for base in bases
            ]
            limit = min(empty, default=None)
            unread = [current for current in self._near(starts) if limit is None or current < limit]
            if not unread:
                unread = [current for current in self._near([1]) if limit is None or current < limit]
            if not unread:
                return
            yield min(unread, key=lambda current: min(abs(current - start) for start in starts))

    def _near(self, starts: Iterable[int]) -> Iterator[int]:
        """Yield the nearest page before and after each of `starts` that was not read."""
        for start in starts:
            for step in (1, -1):
                current = max(1, start)
                while current in self._row_counts:
                    current += step
                if current > 0:
                    yield current

    def check_end(self) -> None:
        """Take an end that was not an empty page for the end of the list only if every row was seen."""
        scan = self.scan
        if self._doubtful_end is not None and not scan.total_seen:
            raise _Unreadable(f"{self._doubtful_end}, after {scan.rows} of {scan.total} rows")

    def read_page(self, current: int) -> int:
        """Read a page, compare it with what is recorded here, and return how many rows it has."""
        page = self._fetch(current)
        self.scan.pages_read += 1
        if not isinstance(page, ProviderPage):
            if current > 1 and isinstance(page, Refused) and page.refusal is Refusal.REQUEST:
                self._doubtful_end = page.reason  # perhaps because the list has no such page
                self._row_counts[current] = 0
                return 0
            raise _Unreadable(page.reason)
        scan = self.scan
        known_before = scan.rows
        scan.total = None if page.total is None or scan.total is None else max(scan.total, page.total)
        newest = _compare(self._source.database, scan, page)
        self._source.control.record_progress()
        hit("reconcile.after_page")
        self._new_rows = scan.rows - known_before
        scan.pages += self._new_rows > 0
        row_count = len(page.rows) + len(page.odd_rows)
        if current == 1:
            scan.page_rows = row_count
        self._row_counts[current] = row_count
        if newest is not None and (scan.newest is None or newest > scan.newest.requested_at):
            first_row = (current - 1) * max(self._row_counts.values())
            rows = max(first_row + row_count, page.total or 0)
            scan.newest = NewestPlace(requested_at=newest, page=current, first_row=first_row, rows=rows)
        return row_count

    def _fetch(self, current: int) -> ProviderPage | Refused | NotSent | Unknown:
        source = self._source
        for attempt in range(1, source.attempts + 1):
            source.rate_limiter.wait(source.control)
            if source.control.is_stopping():
                raise _Unreadable("it was stopped")
            if source.clock.monotonic() > self._deadline:
                raise _Unreadable(f"the list has more rows than can be read in {source.time_limit_s:.0f} s")
            page = source.provider.page(app_id=self.scan.app_id, current=current, size=self._size)
            if isinstance(page, ProviderPage) or _refuses_account(page) or attempt == source.attempts:
                break
            if not isinstance(page, Refused):
                _wait_until(source.clock.monotonic() + _wait_s(page, attempt), source.clock, source.control)
        return page


def _wait_s(failure: NotSent | Unknown, attempt: int) -> float:
    """Return the seconds before the next attempt to read a page, after one that failed so."""
    if isinstance(failure, Unknown) and failure.retry_after_s is not None:
        return min(failure.retry_after_s, LONGEST_WAIT_S)
    is_rate_limited = isinstance(failure, Unknown) and failure.is_rate_limited
    return (LIMITED_WAITS_S if is_rate_limited else FAILED_WAITS_S)[attempt - 1]


def _refuses_account(page: ProviderPage | Refused | NotSent | Unknown) -> bool:
    return isinstance(page, Refused) and page.refusal is Refusal.ACCOUNT


def _compare(database: Database, scan: Scan, page: ProviderPage) -> datetime | None:
    """Compare a page with what is recorded here; read after the page, so that no binding is missed.

    Returns when the newest of our bindings among its new rows was requested; None if there is none.
    """
    new_rows = [row for row in page.rows if row.bind_id not in scan.bind_ids]
    new_odd_rows = [row for row in page.odd_rows if row not in scan.odd_rows]
    ids = [row.bind_id for row in new_rows]
    ids += [row.bind_id for row in new_odd_rows if row.bind_id is not None]
    bindings_by_bind_id = database.read(queries.by_bind_ids, ids) if ids else {}
    newest = None
    for row in new_rows:
        binding = binding_of(row, bindings_by_bind_id.get(row.bind_id, ()), scan.app_id)
        scan.add_row(row, binding)
        if binding is not None and (newest is None or binding.requested_at > newest):
            newest = binding.requested_at
    for odd_row in new_odd_rows:
        scan.add_odd_row(odd_row, is_known=odd_row.bind_id in bindings_by_bind_id)
    return newest
