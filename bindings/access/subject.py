"""The records about one person: what is stored of a phone, for the answer to an access request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bindings.access.access_log import AccessLog
from bindings.domain.access_log import AccessFilters
from bindings.domain.search_filters import RefusalFilters, SearchFilters
from bindings.domain.serialization import fields, to_plain
from bindings.store import access_log, events, holds, refusals, search, subject
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bindings.domain.binding import Binding, RefusedBind
    from bindings.domain.phone import Phone
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.holds import Hold

PAGE = 200


class SubjectAccess:
    """Reads the records about one person. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._database = runtime.database
        self._log = AccessLog(runtime)

    def records(self, *, phone: str | Phone, reason: str) -> Iterator[dict[str, Any]]:
        """Yield every row about a phone as plain values, with the name of its table under `table`.

        The phone is in full, the other party's masked. Bindings come first, each with its events, then refused
        binds, holds, searches of the console, and exports that may have had one of the bindings. Each binding is
        recorded as revealed, with the `reason`, before it is yielded: not safe to repeat. Memory does not grow
        with the number of rows. Raises `InvalidRequest` or `Busy`.
        """
        checked, checked_reason, _ = validation.erasure(phone=phone, reason=reason, ticket=None)
        return self._records(checked, checked_reason)

    def _records(self, phone: Phone, reason: str) -> Iterator[dict[str, Any]]:
        yield from self._bindings(phone, reason)
        yield from self._refusals(phone)
        for hold in self._database.read(holds.of_phone, phone):
            yield {"table": "holds"} | _plain(hold, phone)
        for phone_search in self._database.read(subject.searches_of, phone):
            yield {"table": "searches"} | to_plain(phone_search)
        yield from self._exports(phone)

    def _bindings(self, phone: Phone, reason: str) -> Iterator[dict[str, Any]]:
        before: tuple[datetime, str] | None = None
        while True:
            filters = SearchFilters(phone=phone)
            page = self._database.read(search.search, filters, self._database.now, before=before, limit=PAGE)
            if not page:
                if before is None:
                    self._log.record_reveal([], reason=reason, subject=subject.VIEW)
                return
            self._log.record_reveal([binding.id for binding in page], reason=reason, subject=subject.VIEW)
            for binding in page:
                yield {"table": "bindings"} | _plain(binding, phone)
                for event in self._database.read(events.history, binding.id):
                    yield {"table": "events"} | to_plain(event)
            before = page[-1].requested_at, page[-1].id

    def _refusals(self, phone: Phone) -> Iterator[dict[str, Any]]:
        before: tuple[datetime, str] | None = None
        while page := self._database.read(refusals.search, RefusalFilters(phone=phone), before=before, limit=PAGE):
            for refusal in page:
                yield {"table": "refusals"} | _plain(refusal, phone)
            before = page[-1].at, page[-1].id

    def _exports(self, phone: Phone) -> Iterator[dict[str, Any]]:
        before: tuple[datetime, str] | None = None
        no_filters = AccessFilters()
        while page := self._database.read(access_log.list_exports, no_filters, before=before, limit=PAGE)[0]:
            for export in page:
                if self._database.read(subject.may_be_in_export, phone, export):
                    yield {"table": "exports"} | to_plain(export)
            before = page[-1].began_at, page[-1].id


def _plain(record: Binding | RefusedBind | Hold, phone: Phone) -> dict[str, Any]:
    """Return a row in plain values, with this phone in full and any other masked."""
    own = {name: phone.digits for name, value in fields(record).items() if value == phone}
    plain: dict[str, Any] = to_plain(record)
    return plain | own
