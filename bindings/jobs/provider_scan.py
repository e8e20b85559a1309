"""Read the provider's whole list of one application, and say how far the reading can be believed.

The list shifts while it is read, its order is not documented, and a page may be missing or wrong. A scan says
which provider ids it saw, which rows were unknown here or differ from what is recorded, and whether it is
complete. What follows from that is the business of `verdict` and `reconcile`. Memory grows with the ids seen and
with what differs, not with whole rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from bindings.provider.outcome import ProviderPage
from bindings.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.http_transport import NotSent, Unknown
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import ProviderBinding, Refused
    from bindings.store.database import Database

TRIES = 3  # of one page, in a row
SAMPLE = 1_000  # rows that the zone is judged by
SAME_END_S = 1.0  # the provider cuts its times to whole seconds


class RateLimiter:
    """Spaces page queries out to a budget of calls per second."""

    def __init__(self, calls_per_s: float) -> None:
        self._gap = 1 / calls_per_s
        self._next = 0.0

    def wait(self) -> None:
        """Wait for the next turn."""
        now = time.monotonic()
        self._next = max(self._next, now) + self._gap
        time.sleep(max(0.0, self._next - self._gap - now))


@dataclass(kw_only=True, slots=True)
class Scan:
    """What one reading of the list showed.

    `began` and `ended` are database instants. `strangers` are the rows whose bind_id was unknown here when
    they were read, `differing` the known ones that do not say what is recorded, `listed` the phone keys among
    those that were to be watched. `fault` says why the reading broke off.
    """

    app_id: str
    began: datetime
    ended: datetime
    watched: frozenset[str] = frozenset()
    seen: set[str] = field(default_factory=set)
    unknown_rows: list[ProviderBinding] = field(default_factory=list)
    differing: list[tuple[ProviderBinding, Binding]] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    deviations_s: list[float] = field(default_factory=list)
    total: int = 0
    error: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every page was read, and as many different ids were seen as the provider says there are."""
        return self.error is None and len(self.seen) >= self.total

    @property
    def deviation_s(self) -> float:
        """How far the provider's ends lie from those recorded here, in the middle; 0 without a common row."""
        return median(self.deviations_s) if self.deviations_s else 0.0

    def add_row(self, row: ProviderBinding, binding: Binding | None) -> None:
        """Note one row and the binding of ours that has its bind_id."""
        self.seen.add(row.bind_id)
        if row.ends_at > self.began:  # a row past its end holds nothing, and explains nothing
            self.listed |= {row.phone_a.key, row.phone_b.key} & self.watched
        if binding is None:
            self.unknown_rows.append(row)
            return
        if binding.expires_at is None:
            return
        deviation = (row.ends_at - binding.expires_at).total_seconds()
        if len(self.deviations_s) < SAMPLE:
            self.deviations_s.append(deviation)
        if abs(deviation) > SAME_END_S or not same_numbers(row, binding):
            self.differing.append((row, binding))


def same_numbers(row: ProviderBinding, binding: Binding) -> bool:
    """Whether each party has the middle number that is recorded; the provider may list the parties swapped."""
    numbers = (row.middle_number_a, row.middle_number_b)
    if row.phone_a != binding.phone_a:
        numbers = numbers[::-1]
    return numbers == (binding.middle_number_a, binding.middle_number_b)


def read(
    database: Database,
    provider: ProviderClient,
    app_id: str,
    *,
    pace: RateLimiter,
    size: int,
    backwards: bool = False,
    watched: frozenset[str] = frozenset(),
) -> Scan:
    """Read every page, `size` rows at a time, from the first to the last or the other way."""
    began = database.clock()
    scan = Scan(app_id=app_id, began=began, ended=began, watched=watched)
    for page in _pages(provider, app_id, pace, size, backwards=backwards):
        if not isinstance(page, ProviderPage):
            scan.error = page.reason
            break
        scan.total = max(scan.total, page.total)
        _compare(database, scan, page)
    scan.ended = database.clock()
    return scan


def _pages(
    provider: ProviderClient, app_id: str, pace: RateLimiter, size: int, *, backwards: bool
) -> Iterator[ProviderPage | Refused | NotSent | Unknown]:
    """The first page, to learn how many there are, and then all of them in the asked order."""
    first = _page(provider, app_id, pace, 1, size)
    yield first
    if not isinstance(first, ProviderPage):
        return
    if backwards:
        for current in range(_last(first, size), 0, -1):
            yield _page(provider, app_id, pace, current, size)
        return
    current, last = 1, _last(first, size)
    while current < last:
        current += 1
        page = _page(provider, app_id, pace, current, size)
        yield page
        if isinstance(page, ProviderPage):
            last = max(last, _last(page, size))  # the list grew while it was read


def _last(page: ProviderPage, size: int) -> int:
    return -(-page.total // size)


def _page(
    provider: ProviderClient, app_id: str, pace: RateLimiter, current: int, size: int
) -> ProviderPage | Refused | NotSent | Unknown:
    for _ in range(TRIES):
        pace.wait()
        page = provider.page(app_id=app_id, current=current, size=size)
        if isinstance(page, ProviderPage):
            break
    return page


def _compare(database: Database, scan: Scan, page: ProviderPage) -> None:
    """Compare a page with what is recorded here; read after the page, so that no row of ours is missed."""
    new = [row for row in page.rows if row.bind_id not in scan.seen]
    if not new:
        return
    ids = [row.bind_id for row in new]
    ours = database.read(queries.by_bind_ids, scan.app_id, ids)
    for row in new:
        scan.add_row(row, ours.get(row.bind_id))
