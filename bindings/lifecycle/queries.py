"""What is asked about bindings: one, a phone's, a middle number's, at an instant, all of them. Changes nothing.

The answers go by the database's clock, never by whether a pass has run. Each question is one query in
AUTOCOMMIT, except the exports, which stream from one snapshot.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bindings import errors
from bindings.domain import trace
from bindings.domain.binding import Page
from bindings.errors import FieldError, InvalidRequest
from bindings.store import events, pools, queries, reports, reserve
from bindings.store.bindings import find
from bindings.validation import fields
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from bindings.domain.binding import Binding, Event, Holder, Trace
    from bindings.domain.phone import Phone
    from bindings.settings import Settings
    from bindings.store.database import Database
    from bindings.store.pools import Pool
    from bindings.store.reports import Report


class Queries:
    """The questions of a `BindingService`. Thread-safe; every one is safe to repeat."""

    def __init__(self, config: Settings, database: Database, terms: reserve.BindLimits) -> None:
        self.settings = config
        self._database = database
        self._terms = terms
        self._lookups = queries.Lookups(database.now)

    @property
    def database(self) -> Database:
        """The database, for `bindings.health`."""
        return self._database

    def get(self, binding_id: str) -> Binding:
        """One binding as recorded; `NotFound` where there is none."""
        found_id = validation.binding_id(binding_id)
        found = self._database.read(find, found_id)
        if found is None:
            raise errors.NotFound(binding_id=found_id)
        return found

    def history(self, binding_id: str) -> list[Event]:
        """Every event of a binding, in order."""
        found_id = self.get(binding_id).id
        return self._database.read(events.history, found_id)

    def lookup(
        self,
        *,
        phone: str | Phone | None = None,
        middle_number: str | None = None,
        party: str | Phone | None = None,
    ) -> list[Binding]:
        """The active bindings of a phone, or of a middle number (for one `party` that calls it), newest first.

        The answer goes by the database's clock: it never shows a binding that is over, swept or not.
        """
        who, number, caller = validation.lookup(phone=phone, middle_number=middle_number, party=party)
        known = self._lookups
        if who is not None:
            return self._database.read(queries.lookup, known.by_phone, phone=who)
        if caller is not None:
            return self._database.read(queries.lookup, known.by_party, middle_number=number, phone=caller)
        return self._database.read(queries.lookup, known.by_middle_number, middle_number=number)

    def check(
        self, *, phone_a: str | Phone, phone_b: str | Phone, mode: str, app_id: str | None = None
    ) -> list[Holder]:
        """Who would refuse such a bind now, the longest hold first; empty where nobody would. Reserves nothing."""
        request = validation.check_request(
            phone_a=phone_a, phone_b=phone_b, mode=mode, app_id=self._app_id(app_id) or "any"
        )
        now = self._database.clock()
        return self._database.read(reserve.holders, request, self._terms, now)

    def trace(
        self,
        *,
        middle_number: str,
        at: datetime | str,
        party: str | Phone | None = None,
        window_s: float = 300,
    ) -> Trace:
        """Who had the middle number at the instant `at` (aware), and what missed it by `window_s` seconds."""
        number, instant, who, window = validation.trace(
            middle_number=middle_number, at=at, party=party, window_s=window_s
        )
        margin = timedelta(seconds=window)
        found = self._database.read(
            queries.bindings_with_middle_number,
            middle_number=number,
            party=who,
            since=instant - margin,
            until=instant + margin,
        )
        return trace.classify(found, at=instant, window_s=window)

    def search(self, *, cursor: str | None = None, limit: int = 50, **filters: Any) -> Page[Binding]:
        """A page of bindings, newest first, that match every filter given.

        Filters: state, mode, phone, middle_number, reference, bind_id, pool_number, app_id, actor (who asked for
        it), requested_from, requested_to (half-open). `limit` is 1 to 200; `next_cursor` continues, and is None
        at the end.
        """
        unknown = filters.keys() - validation.FILTERS.keys()
        if unknown:
            raise InvalidRequest([FieldError(name, "is not a filter of search") for name in sorted(unknown)])
        found, size, position = validation.filters(cursor=cursor, limit=limit, **filters)
        rows = self._database.read(queries.search, found, before=position, limit=size + 1)
        data = tuple(rows[:size])
        more = len(rows) > size
        after = fields.position_after(data[-1].requested_at, data[-1].id) if more else None
        return Page(data=data, next_cursor=after)

    def events(self, *, after: str | None = None, limit: int = 100) -> Page[Event]:
        """The change feed: the events after the cursor `after`, in the order in which they became final.

        `next_cursor` is never None: ask again with it for what comes later. An event that commits late is
        never skipped. Without `after` it begins with the oldest event that is kept; `InvalidRequest` where
        retention has deleted events that come after the cursor, or where the database was restored to a moment
        before it.
        """
        position, size = validation.feed(after=after, limit=limit)
        self._check_cursor(after, position)
        found = self._database.read(events.feed, after=position, limit=size)
        last = found[-1].cursor if found else (after or events.BEGINNING)
        return Page(data=tuple(found), next_cursor=last)

    def events_for_actor(self, actor: str, *, after: str | None = None, limit: int = 100) -> Page[Event]:
        """The change feed of the bindings that `actor` asked for; otherwise as `events`.

        Each call reads a bounded stretch of the whole feed: a page may be empty and its cursor still be further
        on. The end is where the cursor stays.
        """
        position, size = validation.feed(after=after, limit=limit)
        self._check_cursor(after, position)
        found, last = self._database.read(events.feed_of, actor, after=position, limit=size)
        return Page(data=tuple(found), next_cursor=last or after or events.BEGINNING)

    def _check_cursor(self, after: str | None, position: tuple[int, int]) -> None:
        if after is None:
            return
        if self._database.read(events.is_ahead_of_database, position):
            message = "this database was restored to an earlier moment; read on from a cursor before it"
            raise InvalidRequest([FieldError("after", message)])
        gone = self._database.read(events.retention_position)
        if gone is not None and position < gone:
            message = f"events after it are gone (retention); read on from {gone[0]}-{gone[1]}, or leave it out"
            raise InvalidRequest([FieldError("after", message)])

    def feed_end(self) -> str:
        """The cursor after the newest event of the change feed: ask from there for what comes later only."""
        return self._database.read(events.feed_end) or events.BEGINNING

    def doubts(self, *, limit: int = 200) -> list[Binding]:
        """What waits for an answer: doubts, intents that nobody settled, unclear unbinds; oldest first."""
        return self._database.read(queries.doubts, self._database.now, limit=limit)

    def open_doubts(self, *, cursor: str | None = None, limit: int = 50) -> Page[Binding]:
        """`doubts`, a page at a time."""
        _, size, position = validation.filters(cursor=cursor, limit=limit)
        rows = self._database.read(queries.doubts, self._database.now, limit=size + 1, after=position)
        data = tuple(rows[:size])
        more = len(rows) > size
        after = fields.position_after(data[-1].requested_at, data[-1].id) if more else None
        return Page(data=data, next_cursor=after)

    def get_many(self, binding_ids: Sequence[str]) -> dict[str, Binding]:
        """Those of these bindings that there are, by id; at most 200 are asked for."""
        ids = [validation.binding_id(binding_id) for binding_id in binding_ids[: fields.MAX_LIMIT]]
        found = self._database.read(queries.by_ids, ids)
        return {binding.id: binding for binding in found}

    def report(self, report_id: str) -> Report:
        """One reconciliation report, with every case; `NotFound` where there is none."""
        found_id = validation.identifier(report_id, "report")
        found = self._database.read(reports.find, found_id)
        if found is None:
            raise errors.NotFound("there is no such report")
        return found

    def reports(self, *, cursor: str | None = None, limit: int = 50, cases: bool = True) -> Page[Report]:
        """A page of reconciliation reports, newest first: what each found, case by case, without phones.

        Without `cases` only their counts are read, however much they found.
        """
        _, size, position = validation.filters(cursor=cursor, limit=limit)
        rows = self._database.read(reports.newest, before=position, limit=size + 1, cases=cases)
        data = tuple(rows[:size])
        more = len(rows) > size
        return Page(data=data, next_cursor=fields.position_after(data[-1].began_at, data[-1].id) if more else None)

    def pools(self) -> list[Pool]:
        """The pools in use, and how full each was when it was last counted (`count_pools`)."""
        return self._database.read(pools.list_all)

    def stats(self) -> dict[str, dict[str, int]]:
        """Counts of bindings by state, pool and provider status, and of events by kind. Reads every row."""
        return self._database.read(queries.counts)

    def export_bindings(
        self, *, since: datetime | str | None = None, until: datetime | str | None = None
    ) -> Iterator[Binding]:
        """Stream every binding requested in [since, until), oldest first; memory stays flat."""
        first, last = validation.period(since=since, until=until)
        with self._database.stream() as connection:
            yield from queries.export_bindings(connection, since=first, until=last)

    def export_events(
        self, *, since: datetime | str | None = None, until: datetime | str | None = None
    ) -> Iterator[Event]:
        """Stream every event that happened in [since, until), in the feed's order; memory stays flat."""
        first, last = validation.period(since=since, until=until)
        with self._database.stream() as connection:
            yield from queries.export_events(connection, since=first, until=last)

    def _app_id(self, given: str | None) -> str | None:
        return given if given is not None else self.settings.provider_app_id
