"""The access log: who was shown phones in full, who took a list away, when and why; and the lists themselves.

An export is recorded before its first line leaves. Its manifest tells what it was narrowed to, how many rows it
has and the SHA-256 of the file, so that whoever gets the file can hold it against the record.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from uuid_utils import uuid7

from bindings import errors
from bindings.domain.binding import Page
from bindings.domain.serialization import FORMATS
from bindings.errors import FieldError, InvalidRequest
from bindings.store import access_log, events
from bindings.store.access_log import Export
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bindings.domain.binding import Caller, Event
    from bindings.store.database import Database

LIMIT = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessLogEntry:
    """One line of the access log. `what` was shown or taken, `reason` why phones were in full (None: masked)."""

    at: datetime
    actor: str
    description: str
    reason: str | None
    binding_id: str | None
    export_id: str | None
    row_count: int | None
    complete: bool
    request_id: str | None


class AccessLog:
    """The access log of one database, kept on behalf of one caller. Thread-safe."""

    def __init__(self, database: Database, caller: Caller) -> None:
        self._database = database
        self._caller = caller

    def start_export(self, *, view: str, narrowed: dict[str, Any], format: str, reason: str | None) -> str:  # noqa: A002
        """Record that a list is about to be taken away, and return the export's id. Not safe to repeat.

        `narrowed` is the filter, in which no phone stands in full.
        """
        if format not in FORMATS:
            raise InvalidRequest([FieldError("format", f"must be {' or '.join(FORMATS)}")])
        why, export_id = validation.optional_reason(reason), str(uuid7())
        given = {"view": view, "filter": narrowed, "format": format, "reason": why}
        self._database.write(lambda tx: access_log.start_export(tx, export_id, self._caller, **given))
        return export_id

    def finish_export(self, export_id: str, *, row_count: int, sha256: str) -> None:
        """Record that an export is whole. Safe to repeat."""
        self._database.write(lambda tx: access_log.finish(tx, export_id, row_count=row_count, sha256=sha256))

    def get_export(self, export_id: str) -> Export:
        """An export's manifest; `NotFound` where there is none."""
        found_id = validation.identifier(export_id, "export")
        found = self._database.read(access_log.find, found_id)
        if found is None:
            raise errors.NotFound("there is no such export")
        return found

    def entries(self, *, cursor: str | None = None, limit: int = LIMIT) -> Page[AccessLogEntry]:
        """A page of the access log, newest first."""
        shown, taken = _Cursor.decode(cursor)
        reveals = self._database.read(access_log.list_reveals, before=shown, limit=limit + 1)
        exports = self._database.read(access_log.list_exports, before=taken, limit=limit + 1)
        both: list[Event | Export] = [*reveals, *exports]
        both.sort(key=_timestamp, reverse=True)
        page = both[:limit]
        after = _Cursor.encode(page, shown, taken) if len(both) > limit else None
        return Page(data=tuple(map(_to_entry, page)), next_cursor=after)


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a position needs a zone")
    return at


def _timestamp(one: Event | Export) -> datetime:
    return one.began_at if isinstance(one, Export) else one.at


def _to_entry(one: Event | Export) -> AccessLogEntry:
    if isinstance(one, Export):
        return AccessLogEntry(
            at=one.began_at,
            actor=one.actor,
            description=f"export of {one.view}, {one.format}",
            reason=one.reason,
            binding_id=one.filter.get("binding_id"),
            export_id=one.id,
            row_count=one.row_count,
            complete=one.finished_at is not None,
            request_id=one.request_id,
        )
    what = str(one.detail.get("what", "binding"))
    return AccessLogEntry(
        at=one.at,
        actor=one.actor,
        description="phones of a binding" if what == "binding" else what,
        reason=one.detail.get("reason"),
        binding_id=one.binding_id,
        export_id=None,
        row_count=None,
        complete=True,
        request_id=one.request_id,
    )


class _Cursor:
    """Two positions in one: the last reveal and the last export that a page has shown."""

    @staticmethod
    def encode(
        page: Sequence[Event | Export], shown: tuple[datetime, int] | None, taken: tuple[datetime, str] | None
    ) -> str:
        """The cursor of the page that follows `page`."""
        for one in page:
            if isinstance(one, Export):
                taken = (one.began_at, one.id)
            else:
                shown = (one.at, events.parse_cursor(one.cursor)[1])
        told = [None if each is None else [each[0].isoformat(), each[1]] for each in (shown, taken)]
        return base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")

    @staticmethod
    def decode(cursor: str | None) -> tuple[tuple[datetime, int] | None, tuple[datetime, str] | None]:
        """The two positions; `InvalidRequest` where the cursor is none."""
        if cursor is None:
            return None, None
        try:
            shown, taken = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            return (
                None if shown is None else (_instant(shown[0]), int(shown[1])),
                None if taken is None else (_instant(taken[0]), validation.identifier(taken[1], "export")),
            )
        except (ValueError, TypeError, LookupError, binascii.Error, errors.NotFound):
            raise InvalidRequest([FieldError("cursor", "must be a next_cursor of an earlier page")]) from None
