"""Queries: one binding, a phone's, a middle number's, at an instant, all of them. Changes nothing.

Results go by the database's clock, never by whether a job has run. Each query is one statement in AUTOCOMMIT,
except the exports, which stream from one snapshot. Arguments are checked here; the SQL is in `store`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bindings import errors
from bindings.domain import trace
from bindings.domain.binding import Page
from bindings.domain.serialization import batches
from bindings.errors import InvalidRequest
from bindings.store import events, phone_holds, pools, queries, refusals, reports, reserve, seals, search
from bindings.store.bindings import find
from bindings.validation import fields
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from bindings.domain.binding import Binding, Event, Holder, RefusedBind, Trace
    from bindings.domain.hold import PhoneHold
    from bindings.domain.phone import Phone
    from bindings.domain.search_filters import RefusalFilters, SearchFilters
    from bindings.lifecycle.runtime import Runtime
    from bindings.sealing.seals import Seal
    from bindings.store.pools import Pool
    from bindings.store.reports import Report

ANY_APP = "any"  # a conflict check does not depend on the application


class Queries:
    """The queries of a `BindingService`, which documents them. Thread-safe; every call is safe to repeat."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._database = runtime.database

    def get(self, binding_id: str) -> Binding:
        """Return one binding as recorded; `NotFound` if there is none."""
        checked_id = validation.binding_id(binding_id)
        binding = self._database.read(find, checked_id)
        if binding is None:
            raise errors.NotFound(binding_id=checked_id)
        return binding

    def get_many(self, binding_ids: Iterable[str]) -> dict[str, Binding]:
        """Return those of these bindings that exist, by id."""
        bindings: dict[str, Binding] = {}
        for ids in batches(validation.binding_ids(binding_ids), fields.MAX_LIMIT):
            bindings |= {binding.id: binding for binding in self._database.read(queries.by_ids, ids)}
        return bindings

    def traceparents(self, binding_ids: Iterable[str]) -> dict[str, str]:
        """Return by id the `traceparent` in which each binding was requested, if it was recorded."""
        traceparents: dict[str, str] = {}
        for ids in batches(validation.binding_ids(binding_ids), fields.MAX_LIMIT):
            traceparents |= self._database.read(events.traceparents, ids)
        return traceparents

    def history(self, binding_id: str) -> list[Event]:
        """Return every event of a binding, in order; `NotFound` if there is no such binding."""
        return self._database.read(events.history, self.get(binding_id).id)

    def lookup(
        self,
        *,
        phone: str | Phone | None = None,
        middle_number: str | None = None,
        party: str | Phone | None = None,
        reference: str | None = None,
    ) -> list[Binding]:
        """Return the active bindings of a phone, of a middle number or of a reference, newest first."""
        by = validation.lookup(phone=phone, middle_number=middle_number, party=party, reference=reference)
        statements, read = self._runtime.lookups, self._database.read
        if by.phone is not None:
            return read(queries.lookup, statements.by_phone, phone=by.phone)
        if by.reference is not None:
            return read(queries.lookup, statements.by_reference, reference=by.reference)
        if by.party is not None:
            return read(queries.lookup, statements.by_party, middle_number=by.middle_number, phone=by.party)
        return read(queries.lookup, statements.by_middle_number, middle_number=by.middle_number)

    def holds(self, *, phone: str | Phone | None = None, middle_number: str | None = None) -> list[PhoneHold]:
        """Return the recorded holds of a phone, or those in force of bindings with a middle number."""
        if (phone is None) == (middle_number is None):
            raise InvalidRequest.of_field("phone", "or middle_number is needed, and only one of them")
        by = validation.lookup(phone=phone, middle_number=middle_number)
        phones = () if by.phone is None else (by.phone,)
        return self._database.read(
            phone_holds.of_number, self._database.now, phones=phones, middle_number=by.middle_number
        )

    def check(
        self, *, phone_a: str | Phone, phone_b: str | Phone, mode: str, app_id: str | None = None
    ) -> list[Holder]:
        """Return what would refuse such a bind now, the longest hold first."""
        request = validation.check_request(
            phone_a=phone_a,
            phone_b=phone_b,
            mode=mode,
            app_id=self._runtime.app_id_or_default(app_id) or ANY_APP,
        )
        now = self._database.clock()
        return self._database.read(reserve.holders, request, self._runtime.limits, now)

    def trace(
        self,
        *,
        middle_number: str,
        at: datetime | str,
        party: str | Phone | None = None,
        window_s: float = 300,
    ) -> Trace:
        """Return which bindings had the middle number at an instant, and the near misses."""
        number, instant, by_party, window = validation.trace(
            middle_number=middle_number, at=at, party=party, window_s=window_s
        )
        instant = self._past_instant(instant)
        result = replace(
            self._trace(number, instant, by_party, window), holds=self._holds(number, instant, by_party, window)
        )
        if result.holders or by_party is None:
            return result
        return replace(result, other_holders=self._trace(number, instant, None, 0.0).holders)

    def _past_instant(self, at: datetime) -> datetime:
        """Return a time that has passed on the database's clock, which is read only for a recent time."""
        trusted = self._runtime.clocks.trusted_range(0.0)
        if trusted is not None and at <= trusted[0]:
            return at
        return validation.past_instant("at", at, self._database.clock())

    def _holds(self, number: str, at: datetime, party: Phone | None, window_s: float) -> tuple[PhoneHold, ...]:
        margin = timedelta(seconds=window_s)
        phones = () if party is None else (party,)
        return tuple(
            self._database.read(
                phone_holds.of_number,
                self._database.now,
                phones=phones,
                middle_number=number,
                since=at - margin,
                until=at + margin,
            )
        )

    def _trace(self, number: str, at: datetime, party: Phone | None, window_s: float) -> Trace:
        margin = timedelta(seconds=window_s)
        candidates = self._database.read(
            queries.bindings_with_middle_number,
            middle_number=number,
            party=party,
            since=at - margin,
            until=at + margin,
        )
        return trace.classify(candidates, at=at, window_s=window_s)

    def search(self, filters: SearchFilters, *, size: int, position: tuple[datetime, str] | None) -> Page[Binding]:
        """Return a page of the bindings that match every filter, newest first, from the row after `position`."""
        rows = self._database.read(search.search, filters, self._database.now, before=position, limit=size + 1)
        return _requested_page(rows, size)

    def search_refusals(
        self, filters: RefusalFilters, *, size: int, position: tuple[datetime, str] | None
    ) -> Page[RefusedBind]:
        """Return a page of the refused binds that match every filter, newest first, from after `position`."""
        rows = self._database.read(refusals.search, filters, before=position, limit=size + 1)
        return Page.of(rows, size, lambda refusal: fields.position_after(refusal.at, refusal.id))

    def events(self, *, after: str | None = None, limit: int = 100) -> Page[Event]:
        """Return the change feed after a cursor."""
        position, size = validation.feed(after=after, limit=limit)
        if after == fields.LATEST:
            return Page(data=(), next_cursor=self.feed_end())
        self._check_cursor(after, position)
        page = self._database.read(events.feed, after=position, limit=size)
        cursor = page[-1].cursor if page else (after or events.BEGINNING)
        return Page(data=tuple(page), next_cursor=cursor)

    def events_for_actor(self, actor: str, *, after: str | None = None, limit: int = 100) -> Page[Event]:
        """Return the change feed of the bindings that `actor` asked for."""
        position, size = validation.feed(after=after, limit=limit)
        if after == fields.LATEST:
            return Page(data=(), next_cursor=self.feed_end())
        self._check_cursor(after, position)
        page, cursor = self._database.read(events.feed_of, actor, after=position, limit=size)
        return Page(data=tuple(page), next_cursor=cursor or after or events.BEGINNING)

    def _check_cursor(self, after: str | None, position: tuple[int, int]) -> None:
        if after is None:
            return
        if self._database.read(events.is_ahead_of_database, position):
            message = (
                "is ahead of this database. If it was restored to an earlier moment, continue from a cursor before"
                " it; if it was loaded into another PostgreSQL cluster, run `bindings db moved`"
            )
            raise InvalidRequest.of_field("after", message)
        deleted_until = self._database.read(events.retention_position)
        if deleted_until is not None and position < deleted_until:
            first_kept = f"{deleted_until[0]}-{deleted_until[1]}"
            message = f"events after it were deleted (retention); continue from {first_kept}, or leave it out"
            raise InvalidRequest.of_field("after", message)

    def feed_end(self) -> str:
        """Return the cursor after the newest event of the change feed."""
        return self._database.read(events.feed_end)

    def doubts(self, *, limit: int = 200) -> list[Binding]:
        """Return what waits for a clear answer, oldest first."""
        size, _ = validation.page(cursor=None, limit=limit)
        return self._database.read(queries.doubts, self._database.now, limit=size)

    def open_doubts(self, *, cursor: str | None = None, limit: int = 50) -> Page[Binding]:
        """Return `doubts`, a page at a time."""
        size, position = validation.page(cursor=cursor, limit=limit)
        rows = self._database.read(queries.doubts, self._database.now, limit=size + 1, after=position)
        return _requested_page(rows, size)

    def report(self, report_id: str) -> Report:
        """Return one reconciliation report; `NotFound` if there is none."""
        report = self._database.read(reports.find, validation.identifier(report_id, "report"))
        if report is None:
            raise errors.NotFound("there is no such report")
        return report

    def reports(self, *, cursor: str | None = None, limit: int = 50, cases: bool = True) -> Page[Report]:
        """Return a page of reconciliation reports, newest first."""
        size, position = validation.page(cursor=cursor, limit=limit)
        rows = self._database.read(reports.newest, before=position, limit=size + 1, cases=cases)
        return Page.of(rows, size, lambda report: fields.position_after(report.began_at, report.id))

    def pools(self) -> list[Pool]:
        """Return the pools in use, and how full each was when it was last counted."""
        return self._database.read(pools.list_all)

    def stats(self, *, since: datetime | str | None = None) -> dict[str, dict[str, int]]:
        """Return counts of bindings and events. Reads every row."""
        return self._database.read(queries.counts, since=validation.since(since))

    def export_bindings(
        self, *, since: datetime | str | None = None, until: datetime | str | None = None
    ) -> Iterator[Binding]:
        """Stream every binding requested in [since, until), oldest first."""
        first, last = validation.period(since=since, until=until)
        yield from self._database.stream(queries.export_bindings, since=first, until=last)

    def export_events(
        self, *, since: datetime | str | None = None, until: datetime | str | None = None
    ) -> Iterator[Event]:
        """Stream every event that happened in [since, until), in the feed's order."""
        first, last = validation.period(since=since, until=until)
        yield from self._database.stream(queries.export_events, since=first, until=last)

    def export_sealed_events(self) -> Iterator[dict[str, Any]]:
        """Stream every event as it is sealed, in the feed's order."""
        yield from self._database.stream(seals.export_events)

    def last_seal(self) -> Seal | None:
        """Return the last seal of the history, or None if it is not sealed."""
        return self._database.read(seals.last)

    def export_seals(self) -> Iterator[Seal]:
        """Stream every seal, in order."""
        yield from self._database.stream(seals.list_all)


def _requested_page(rows: Sequence[Binding], size: int) -> Page[Binding]:
    return Page.of(rows, size, lambda binding: fields.position_after(binding.requested_at, binding.id))
