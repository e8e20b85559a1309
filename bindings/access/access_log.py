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
from bindings.domain.acts import describe
from bindings.domain.binding import EventKind, Page
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
class AccessLogEntry:
    """One reveal, search by a phone, export or administrative act.

    `reason` is why phones were shown in full (None: they were masked). `act` is an `Act`, or another text if a
    later release wrote it; None for the others. `key_id` is the id of the API key that acted, if one
    did.
    """

    at: datetime
    actor: str
    description: str
    reason: str | None
    binding_id: str | None
    export_id: str | None
    row_count: int | None
    complete: bool
    request_id: str | None
    act: str | None
    key_id: str | None


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

    def entries(self, *, cursor: str | None = None, limit: int = LIMIT) -> Page[AccessLogEntry]:
        """Return a page of the access log, newest first."""
        size, _ = validation.page(cursor=None, limit=limit)  # its cursor has two positions
        last_event, last_export = _Cursor.decode(cursor)
        listed_events = self._database.read(access_log.list_events, before=last_event, limit=size + 1)
        searches = self._database.read(access_log.list_phone_searches, before=last_event, limit=size + 1)
        exports = self._database.read(access_log.list_exports, before=last_export, limit=size + 1)
        all_events = sorted([*listed_events, *searches], key=_event_position, reverse=True)
        rows: list[Event | Export] = [*all_events, *exports]
        rows.sort(key=_timestamp, reverse=True)
        page = rows[:size]
        next_cursor = _Cursor.encode(page, last_event, last_export) if len(rows) > size else None
        return Page(data=tuple(map(_to_entry, page)), next_cursor=next_cursor)


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
    )


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
        for row in page:
            if isinstance(row, Export):
                last_export = (row.began_at, row.id)
            else:
                last_event = _event_position(row)
        positions = (last_event, last_export)
        plain = [None if position is None else [position[0].isoformat(), position[1]] for position in positions]
        return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")

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
