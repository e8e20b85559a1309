"""Read the provider's whole list of one application: a scan.

The list shifts while it is read, its order is not documented, and a page may be missing or wrong. A scan records
which provider ids it saw, which rows are unknown here or differ from what is recorded, and whether it is complete.
What that proves is in `scan_evidence`. Memory grows with the ids seen and with what differs, not with whole rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from bindings.jobs.scan_evidence import binding_of
from bindings.provider.outcome import ProviderPage, Refusal, Refused
from bindings.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bindings.clock import HostClock
    from bindings.domain.binding import Binding
    from bindings.http_transport import NotSent, Unknown
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import OddRow, ProviderBinding
    from bindings.store.database import Database

ATTEMPTS = 3  # to read one page
ZONE_SAMPLE = 1_000  # rows that decide whether the zone setting fits
SAME_END_S = 1.0  # the provider cuts its times to whole seconds


class RateLimiter:
    """Spaces page queries evenly, so that they stay within a number of calls per second."""

    def __init__(self, calls_per_s: float, *, clock: HostClock) -> None:
        self._interval_s = 1 / calls_per_s
        self._next = 0.0
        self._clock = clock

    def wait(self) -> None:
        """Sleep until the next call is allowed."""
        now = self._clock.monotonic()
        self._next = max(self._next, now) + self._interval_s
        self._clock.sleep(max(0.0, self._next - self._interval_s - now))


@dataclass(kw_only=True, slots=True)
class Scan:
    """What one scan saw of an application's list, or of the account's (`app_id` None).

    `started_at` and `ended_at` are database instants. `bind_ids` are those of all rows; `unknown_rows` those whose
    bind_id was unknown here when they were read; `differing` the known ones that differ from what is recorded;
    `ended_here` the live ones whose binding has ended here, and holds its phones for a shorter time; `listed` the
    phone keys of `watched` that a live row has. `odd_rows` (a set, in order) do not match the provider's
    documents; `unknown_odd_rows` are those of them whose bind_id is unknown here. `error` says why the scan ended
    early, or is None.
    """

    app_id: str | None
    started_at: datetime
    ended_at: datetime
    watched: frozenset[str] = frozenset()
    bind_ids: set[str] = field(default_factory=set)
    unknown_rows: list[ProviderBinding] = field(default_factory=list)
    differing: list[tuple[ProviderBinding, Binding]] = field(default_factory=list)
    ended_here: list[tuple[ProviderBinding, Binding]] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    odd_rows: dict[OddRow, None] = field(default_factory=dict)
    unknown_odd_rows: list[OddRow] = field(default_factory=list)
    deviations_s: list[float] = field(default_factory=list)
    total: int = 0
    error: str | None = None

    @property
    def complete(self) -> bool:
        """True if every page was read, and at least as many different rows were seen as the provider's total."""
        return self.error is None and len(self.bind_ids) + self._rows_without_id >= self.total

    @property
    def _rows_without_id(self) -> int:
        return sum(row.bind_id is None for row in self.odd_rows)

    @property
    def proves_absence(self) -> bool:
        """True if a binding that is not among the ids was not listed: an odd row may be any binding."""
        return self.complete and not self.odd_rows

    @property
    def deviation_s(self) -> float:
        """Median of the provider's ends minus the recorded ones, in seconds; 0 if no row is known."""
        return median(self.deviations_s) if self.deviations_s else 0.0

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
        if binding.expires_at is None or self.app_id not in (None, binding.app_id):
            return  # that of another application is compared with its own list
        deviation = (row.ends_at - binding.expires_at).total_seconds()
        if len(self.deviations_s) < ZONE_SAMPLE:
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


def same_numbers(row: ProviderBinding, binding: Binding) -> bool:
    """Return True if each party has the recorded middle number; the provider may list the parties swapped."""
    numbers = (row.middle_number_a, row.middle_number_b)
    if row.phone_a != binding.phone_a:
        numbers = numbers[::-1]
    return numbers == (binding.middle_number_a, binding.middle_number_b)


def read(
    database: Database,
    provider: ProviderClient,
    app_id: str | None,
    *,
    rate_limiter: RateLimiter,
    size: int,
    backwards: bool = False,
    watched: frozenset[str] = frozenset(),
) -> Scan:
    """Read every page of `size` rows, from the first to the last or backwards, and return the scan.

    Each page is tried three times; a page that cannot be read ends the scan with its `error`.
    """
    started_at = database.clock()
    scan = Scan(app_id=app_id, started_at=started_at, ended_at=started_at, watched=watched)
    for page in _pages(provider, app_id, rate_limiter, size, backwards=backwards):
        if not isinstance(page, ProviderPage):
            scan.error = page.reason
            break
        scan.total = max(scan.total, page.total or 0)
        _compare(database, scan, page)
    scan.ended_at = database.clock()
    return scan


def _pages(
    provider: ProviderClient, app_id: str | None, rate_limiter: RateLimiter, size: int, *, backwards: bool
) -> Iterator[ProviderPage | Refused | NotSent | Unknown]:
    """Yield the first page, for its total, and then all pages in the requested order."""
    first = _page(provider, app_id, rate_limiter, 1, size)
    yield first
    if not isinstance(first, ProviderPage):
        return
    if backwards:
        for current in range(_last_page(first, size), 0, -1):
            yield _page(provider, app_id, rate_limiter, current, size)
        return
    current, last = 1, _last_page(first, size)
    while current < last:
        current += 1
        page = _page(provider, app_id, rate_limiter, current, size)
        yield page
        if isinstance(page, ProviderPage):
            last = max(last, _last_page(page, size))  # the list grew while it was read


def _last_page(page: ProviderPage, size: int) -> int:
    return -(-(page.total or 0) // size)


def _page(
    provider: ProviderClient, app_id: str | None, rate_limiter: RateLimiter, current: int, size: int
) -> ProviderPage | Refused | NotSent | Unknown:
    for _ in range(ATTEMPTS):
        rate_limiter.wait()
        page = provider.page(app_id=app_id, current=current, size=size)
        if isinstance(page, ProviderPage) or _refuses_account(page):
            break
    return page


def _refuses_account(page: ProviderPage | Refused | NotSent | Unknown) -> bool:
    return isinstance(page, Refused) and page.refusal is Refusal.ACCOUNT


def _compare(database: Database, scan: Scan, page: ProviderPage) -> None:
    """Compare a page with what is recorded here; read after the page, so that no binding is missed."""
    new_rows = [row for row in page.rows if row.bind_id not in scan.bind_ids]
    new_odd_rows = [row for row in page.odd_rows if row not in scan.odd_rows]
    ids = [row.bind_id for row in new_rows]
    ids += [row.bind_id for row in new_odd_rows if row.bind_id is not None]
    bindings_by_bind_id = database.read(queries.by_bind_ids, ids) if ids else {}
    for row in new_rows:
        scan.add_row(row, binding_of(row, bindings_by_bind_id.get(row.bind_id, ()), scan.app_id))
    for odd_row in new_odd_rows:
        scan.add_odd_row(odd_row, is_known=odd_row.bind_id in bindings_by_bind_id)
