"""The access log: reveals of full phones, searches by a phone, exports and administrative acts: who, when and why.

An export is recorded before its first line is sent. Its manifest has its filter, its number of rows and the
SHA-256 of the file, so that a file can be compared with its record.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable  # noqa: TC003 -- a dataclass below names it
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from uuid_utils import uuid7

from bindings import errors
from bindings.domain.access_log import SESSION_ACTS, AccessKind, AccessLogEntry
from bindings.domain.acts import describe
from bindings.domain.binding import EventKind
from bindings.domain.record_lines import FORMATS
from bindings.domain.serialization import to_plain
from bindings.domain.text import FreeFields, FreeText
from bindings.domain.value_counts import sum_up
from bindings.errors import InvalidRequest
from bindings.store import access_log, events
from bindings.store.access_log import Export
from bindings.validation import fields
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

    from bindings.domain.access_log import AccessFilters
    from bindings.domain.binding import Event
    from bindings.domain.value_counts import ValueCount
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.database import Transaction

LIMIT = 50
MAX_READ = access_log.STRETCH  # entries of each list, for a page with filters and for counts


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessLogPage:
    """A page of the access log, newest first, and the cursor of the next one (None at the end).

    With a filter other than the period, one call looks at a limited number of entries. If it stopped there before
    the page was full, `searched_to` is the time of the oldest entry that it looked at: older ones are in the next
    pages.
    """

    data: tuple[AccessLogEntry, ...]
    next_cursor: str | None
    searched_to: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessCounts:
    """How many entries each kind and each actor has, by filter; each filter's are of those that match the others.

    Unless `is_complete`, more entries may match: a list was not read to its end.
    """

    by_filter: dict[str, dict[str, int]]
    is_complete: bool


class AccessLog:
    """The access log of one database; it records the runtime's caller. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._database = runtime.database
        self._caller = runtime.caller

    def record_reveal(self, binding_ids: Iterable[str], *, reason: str, subject: str) -> None:
        """Record that full phones are about to be shown; documented at `BindingService.reveal`."""
        checked_reason, checked_subject = validation.reveal(reason=reason, subject=subject)
        detail = {"reason": FreeText(checked_reason), "what": checked_subject}
        ids = validation.binding_ids(binding_ids)

        def work(tx: Transaction) -> None:
            for binding_id in ids:
                if not events.append(tx, binding_id, EventKind.REVEALED, self._caller, detail):
                    raise errors.NotFound(binding_id=binding_id)
            if not ids:
                events.append_without_binding(tx, EventKind.REVEALED, self._caller, detail)

        self._database.write(work)

    def record_reveal_of_period(
        self,
        *,
        since: datetime | None,
        until: datetime | None,
        reason: str,
        filters: dict[str, str] | None = None,
    ) -> None:
        """Record that the bindings requested from `since` to before `until` are about to be exported in full.

        With `filters` only those that have these values, by the name of the filter; no value may be a phone.

        One event for all of them; `Investigation.reveals_of` knows which bindings it covers. Not safe to repeat.
        """
        start, end = to_plain(since), to_plain(until)
        detail = {
            "reason": FreeText(validation.reason(reason)),
            "what": f"export of bindings from {start or '-'} to {end or '-'}",
            "from": start,
            "to": end,
        }
        if filters:
            detail |= {"what": f"{detail['what']}, filtered", "filters": FreeFields(filters)}
        self._database.write(
            lambda tx: events.append_without_binding(tx, EventKind.REVEALED, self._caller, detail)
        )

    def start_export(self, *, view: str, filters: Mapping[str, Any], format: str, reason: str | None) -> str:  # noqa: A002
        """Record that a list is about to be exported, and return the export's id. Not safe to repeat.

        `filters` are those of the list; they must not hold a full phone.
        """
        if format not in FORMATS:
            raise InvalidRequest.of_field("format", f"must be {' or '.join(FORMATS)}")
        export_id = str(uuid7())
        checked_reason = validation.optional_reason(reason)
        self._database.write(
            lambda tx: access_log.start_export(
                tx, export_id, self._caller, view=view, filters=filters, row_format=format, reason=checked_reason
            )
        )
        return export_id

    def finish_export(self, export_id: str, *, row_count: int, sha256: str) -> None:
        """Record that an export was sent to its end. Safe to repeat."""
        self._database.write(
            lambda tx: access_log.finish(tx, export_id, self._caller, row_count=row_count, sha256=sha256)
        )

    def get_export(self, export_id: str) -> Export:
        """Return an export's manifest; `NotFound` if there is none."""
        export = self._database.read(access_log.find, validation.identifier(export_id, "export"))
        if export is None:
            raise errors.NotFound("there is no such export")
        return export

    def entries(
        self,
        *,
        kind: AccessKind | str | None = None,
        actor: str | None = None,
        key_id: str | None = None,
        binding_id: str | None = None,
        reason_prefix: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        cursor: str | None = None,
        limit: int = LIMIT,
    ) -> AccessLogPage:
        """Return a page of the entries that match all of the filters, newest first. Safe to repeat.

        `since` is included, `until` is not. With `binding_id` these are the reveals of the binding, and the
        exports of its history and of the histories of its numbers.
        """
        filters, size = validation.access_filters(
            kind=kind,
            actor=actor,
            key_id=key_id,
            binding_id=binding_id,
            reason_prefix=reason_prefix,
            since=since,
            until=until,
            limit=limit,
        )
        return self._database.read(_read_page, filters, after=_decode_cursor(cursor), size=size)

    def count_values(self, **filters: AccessKind | datetime | str | None) -> AccessCounts:
        """Count the newest entries that match all of the filters of `entries`, by kind and by actor.

        Of each list at most `MAX_READ` entries are looked at.
        """
        checked, _ = validation.access_filters(**filters, limit=LIMIT)
        counts, is_complete = self._database.read(_count_values, replace(checked, kind=None, actor=None))
        chosen = {"kind": checked.kind, "actor": checked.actor}
        by_filter = {name: sum_up(name, counts, chosen) for name in chosen}
        return AccessCounts(by_filter=by_filter, is_complete=is_complete)


# A place in the log, whose order is that of these: time, index in `_LISTS`, and place within that list.
_Place = tuple[datetime, int, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """The order of a list: `position` returns a row's time and place, `parse` a place from a cursor.

    `first` and `last` are outside of all places.
    """

    position: Callable[[Any], tuple[datetime, Any]]
    parse: Callable[[str], Any]
    first: Any
    last: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class _List:
    """One of the lists that the log consists of. `has_bindings`: some of its rows are of one binding."""

    kinds: tuple[AccessKind, ...]
    read: Callable[..., tuple[list[Any], tuple[datetime, Any] | None]]
    count: Callable[..., tuple[list[ValueCount], bool]]
    order: _Order
    has_bindings: bool

    def may_have(self, filters: AccessFilters) -> bool:
        """Return whether the list may have entries that match."""
        return filters.kind in (None, *self.kinds) and (filters.binding_id is None or self.has_bindings)


_EVENT_ORDER = _Order(
    position=lambda event: (event.at, events.parse_cursor(event.cursor)[1]),
    parse=fields.event_position,
    first=0,
    last=10**18,
)
_EXPORT_ORDER = _Order(
    position=lambda export: (export.began_at, export.id),
    parse=fields.uuid_text,
    first=str(uuid.UUID(int=0)),
    last=str(uuid.UUID(int=2**128 - 1)),
)
_LISTS = (
    _List(
        kinds=(AccessKind.EXPORT_IN_FULL, AccessKind.EXPORT_MASKED),
        read=access_log.list_exports,
        count=access_log.count_exports,
        order=_EXPORT_ORDER,
        has_bindings=True,
    ),
    _List(
        kinds=(AccessKind.PHONE_SEARCH,),
        read=access_log.list_phone_searches,
        count=access_log.count_phone_searches,
        order=_EVENT_ORDER,
        has_bindings=False,
    ),
    _List(
        kinds=(AccessKind.REVEAL, AccessKind.ACT, AccessKind.SESSION),
        read=access_log.list_events,
        count=access_log.count_events,
        order=_EVENT_ORDER,
        has_bindings=True,
    ),
)


def _read_page(
    connection: Connection, filters: AccessFilters, *, after: _Place | None, size: int
) -> AccessLogPage:
    """Return the page after a place: of the lists together, as far as each of them was read."""
    rows: list[tuple[_Place, Event | Export]] = []
    ends: list[_Place] = []
    for index, part in enumerate(_LISTS):
        if not part.may_have(filters):
            continue
        matching, end = part.read(connection, filters, before=_before(after, index), limit=size + 1)
        for row in matching:
            at, place = part.order.position(row)
            rows.append(((at, index, place), row))
        if end is not None:
            ends.append((end[0], index, end[1]))
    searched_to = max(ends, default=None)
    newest_first = sorted(rows, key=itemgetter(0), reverse=True)
    listed = [row for row in newest_first if searched_to is None or row[0] >= searched_to]
    is_full = len(listed) > size
    last = listed[size - 1][0] if is_full else searched_to
    return AccessLogPage(
        data=tuple(_to_entry(row) for _, row in listed[:size]),
        next_cursor=None if last is None else _encode_cursor(last),
        searched_to=None if is_full or searched_to is None else searched_to[0],
    )


def _count_values(connection: Connection, filters: AccessFilters) -> tuple[list[ValueCount], bool]:
    """Return the counts of the lists, and whether all of their entries were counted."""
    results = [part.count(connection, filters) for part in _LISTS if part.may_have(filters)]
    return [count for counts, _ in results for count in counts], all(is_whole for _, is_whole in results)


def _before(after: _Place | None, index: int) -> tuple[datetime, Any] | None:
    """Return the place in one list before which its entries come after a place of the log."""
    if after is None:
        return None
    at, after_index, place = after
    if index != after_index:
        place = _LISTS[index].order.last if index < after_index else _LISTS[index].order.first
    return at, place


def _encode_cursor(place: _Place) -> str:
    at, index, place_in_list = place
    return base64.urlsafe_b64encode(f"{at.isoformat()} {index} {place_in_list}".encode()).decode().rstrip("=")


def _decode_cursor(cursor: str | None) -> _Place | None:
    """Return the place of the last entry of a page; `InvalidRequest` if the cursor is not of an earlier page."""
    if cursor is None:
        return None
    try:
        at, digit, place = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        index = fields.event_position(digit)
        return fields.instant(at), index, _LISTS[index].order.parse(place)
    except (ValueError, TypeError, IndexError):
        raise InvalidRequest.of_field("cursor", "must be a next_cursor of an earlier page") from None


def _to_entry(row: Event | Export) -> AccessLogEntry:
    if isinstance(row, Export):
        return AccessLogEntry(
            at=row.began_at,
            actor=row.actor,
            description=f"export of {row.view}, {row.format}",
            reason=row.reason,
            binding_id=row.filter.get("binding_id"),
            export_id=row.id,
            row_count=row.row_count,
            complete=row.finished_at is not None,
            request_id=row.request_id,
            act=None,
            key_id=row.key_id,
            kind=AccessKind.EXPORT_MASKED if row.reason is None else AccessKind.EXPORT_IN_FULL,
            reference=None,
        )
    return AccessLogEntry(
        at=row.at,
        actor=row.actor,
        description=_describe(row),
        reason=row.detail.get("reason"),
        binding_id=row.binding_id,
        export_id=None,
        row_count=None,
        complete=True,
        request_id=row.request_id,
        act=str(row.detail.get("act")) if row.kind == EventKind.ADMINISTERED else None,
        key_id=row.key_id,
        kind=_kind(row),
        reference=row.reference,
    )


def _kind(event: Event) -> AccessKind:
    match event.kind:
        case EventKind.REVEALED:
            return AccessKind.REVEAL
        case EventKind.ADMINISTERED:
            is_of_session = str(event.detail.get("act")).startswith(SESSION_ACTS)
            return AccessKind.SESSION if is_of_session else AccessKind.ACT
        case _:
            return AccessKind.PHONE_SEARCH


def _describe(event: Event) -> str:
    detail = event.detail
    match event.kind:
        case EventKind.ADMINISTERED:
            return describe(detail)
        case EventKind.PHONE_SEARCHED:
            return f"{detail.get('question')} by a full phone: {'a match' if detail.get('match') else 'no match'}"
        case EventKind.BUDGET_USED_UP:
            budget, limit, until = (detail.get(name) for name in ("budget", "limit", "until"))
            return f"budget {budget} of {limit} an hour used up until {until}"
        case _:
            subject = str(detail.get("what", "binding"))
            return "phones of a binding" if subject == "binding" else subject
