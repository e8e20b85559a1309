"""The access log: reveals of full phones, searches by a phone, exports and administrative acts: who, when and why.

An export is recorded before its first line is sent. Its manifest has its filter, its number of rows and the
SHA-256 of the file, so that a file can be compared with its record.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uuid_utils import uuid7

from bindings import errors
from bindings.domain.access_log import SESSION_ACTS, AccessKind, AccessLogEntry
from bindings.domain.acts import describe
from bindings.domain.binding import EventKind
from bindings.domain.serialization import FORMATS, to_plain
from bindings.domain.text import FreeText
from bindings.errors import FieldError, InvalidRequest
from bindings.store import access_log, events
from bindings.store.access_log import Export
from bindings.validation import fields
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bindings.domain.binding import Event
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.database import Transaction

LIMIT = 50


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


class AccessLog:
    """The access log of one database; it records the runtime's caller. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._database = runtime.database
        self._caller = runtime.caller

    def record_reveal(self, binding_ids: Sequence[str], *, reason: str, subject: str) -> None:
        """Record that full phones are about to be shown; documented at `BindingService.reveal`."""
        detail = {"reason": FreeText(validation.reason(reason)), "what": subject}
        ids = [validation.binding_id(binding_id) for binding_id in binding_ids]

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
            detail |= {"what": f"{detail['what']}, filtered", "filters": filters}
        self._database.write(
            lambda tx: events.append_without_binding(tx, EventKind.REVEALED, self._caller, detail)
        )

    def start_export(self, *, view: str, narrowed: dict[str, Any], format: str, reason: str | None) -> str:  # noqa: A002
        """Record that a list is about to be exported, and return the export's id. Not safe to repeat.

        `narrowed` is the filter; it must not hold a full phone.
        """
        if format not in FORMATS:
            raise InvalidRequest([FieldError("format", f"must be {' or '.join(FORMATS)}")])
        export_id = str(uuid7())
        columns = {
            "view": view,
            "filter": narrowed,
            "format": format,
            "reason": validation.optional_reason(reason),
        }
        self._database.write(lambda tx: access_log.start_export(tx, export_id, self._caller, **columns))
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
        last_event, last_export = _Cursor.decode(cursor)
        read = self._database.read
        listed: list[Event] = []
        exports: list[Export] = []
        event_ends, export_end = [], None
        for names, query in _EVENT_LISTS:
            if filters.kind in (None, *names) and (filters.binding_id is None or AccessKind.REVEAL in names):
                newest, end = read(query, filters, before=last_event, limit=size + 1)
                listed += newest
                event_ends += [] if end is None else [end]
        if filters.kind in (None, *_EXPORTS):
            exports, export_end = read(access_log.list_exports, filters, before=last_export, limit=size + 1)
        # Of every list that was not read to its end, what is older than the last row looked at is left for later.
        event_end = max(event_ends, default=None)
        searched_to = max((end[0] for end in (event_end, export_end) if end is not None), default=None)
        listed = [event for event in listed if event_end is None or _event_position(event) >= event_end]
        rows: list[Event | Export] = [*sorted(listed, key=_event_position, reverse=True), *exports]
        rows = [row for row in rows if searched_to is None or _timestamp(row) >= searched_to]
        rows.sort(key=_timestamp, reverse=True)
        page, next_cursor = rows[:size], None
        if len(rows) > size:
            searched_to = None
            next_cursor = _Cursor.encode(page, last_event, last_export)
        elif searched_to is not None:
            shown_event, shown_export = _Cursor.last_shown(page, last_event, last_export)
            if event_end is not None and event_end[0] == searched_to:
                shown_event = event_end
            if export_end is not None and export_end[0] == searched_to:
                shown_export = export_end
            next_cursor = _Cursor.encode([], shown_event, shown_export)
        return AccessLogPage(data=tuple(map(_to_entry, page)), next_cursor=next_cursor, searched_to=searched_to)


_EXPORTS = (AccessKind.EXPORT_IN_FULL, AccessKind.EXPORT_MASKED)
_EVENT_LISTS = (
    ((AccessKind.REVEAL, AccessKind.ACT, AccessKind.SESSION), access_log.list_events),
    ((AccessKind.PHONE_SEARCH,), access_log.list_phone_searches),
)


def _event_position(event: Event) -> tuple[datetime, int]:
    return event.at, events.parse_cursor(event.cursor)[1]


def _timestamp(row: Event | Export) -> datetime:
    return row.began_at if isinstance(row, Export) else row.at


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


class _Cursor:
    """Two positions in one cursor: the last event and the last export of a page."""

    @staticmethod
    def encode(
        page: Sequence[Event | Export],
        last_event: tuple[datetime, int] | None,
        last_export: tuple[datetime, str] | None,
    ) -> str:
        """Return the cursor of the page that follows `page`."""
        positions = _Cursor.last_shown(page, last_event, last_export)
        plain = [None if position is None else [position[0].isoformat(), position[1]] for position in positions]
        return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")

    @staticmethod
    def last_shown(
        page: Sequence[Event | Export],
        last_event: tuple[datetime, int] | None,
        last_export: tuple[datetime, str] | None,
    ) -> tuple[tuple[datetime, int] | None, tuple[datetime, str] | None]:
        """Return the positions of the last event and the last export of a page, or the earlier ones."""
        for row in page:
            if isinstance(row, Export):
                last_export = (row.began_at, row.id)
            else:
                last_event = _event_position(row)
        return last_event, last_export

    @staticmethod
    def decode(cursor: str | None) -> tuple[tuple[datetime, int] | None, tuple[datetime, str] | None]:
        """Return the two positions; `InvalidRequest` if the cursor is not of an earlier page."""
        if cursor is None:
            return None, None
        try:
            last_event, last_export = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            return (
                None
                if last_event is None
                else (fields.instant(last_event[0]), fields.event_position(str(last_event[1]))),
                None
                if last_export is None
                else (fields.instant(last_export[0]), validation.identifier(last_export[1], "export")),
            )
        except (ValueError, TypeError, LookupError, RecursionError, errors.NotFound):
            raise InvalidRequest([FieldError("cursor", "must be a next_cursor of an earlier page")]) from None
