"""Queries of an investigation: which bindings had a number, the history of a number, and reveals of its phones.

The caller need not know whether a number is a phone or a middle number. `actor` narrows every result to the
bindings that this actor requested, and other holds to what a conflict check shows. Changes nothing; every query is
safe to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from bindings.domain import selection, trace
from bindings.domain.binding import EventKind, Page, Trace
from bindings.domain.hold import visible_holds
from bindings.domain.search_filters import RefusalFilters, SearchFilters
from bindings.domain.takeover import find_takeover
from bindings.store import events, number_history, phone_holds, queries, refusals, search
from bindings.store.bindings import find
from bindings.store.texts import DELETED
from bindings.validation import fields
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bindings.domain.binding import Binding, Event, RefusedBind
    from bindings.domain.hold import PhoneHold
    from bindings.domain.phone import Phone
    from bindings.domain.takeover import Takeover
    from bindings.store.database import Database
    from bindings.store.phone_holds import HoldInForce

WINDOW_S = 600.0
MAX_NAME_MATCHES = 50
MAX_COUNTED = 1_000
MAX_REVEALS = 50
MAX_REFUSALS = 50
MAX_REPLACEMENTS = 50
MAX_SUCCESSORS = 5  # of one binding: all but the last have failed


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberAt:
    """Holders of a number at a time, near misses, and the nearest bindings before and after.

    `previous_binding` is the last binding that ended before that time, `next_binding` the first that began after
    it, however far away; None if there is none, or if it is in `trace`. The holds are in `trace`.
    """

    trace: Trace
    previous_binding: Binding | None
    next_binding: Binding | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberCounts:
    """How many bindings have a number, and how many of them hold it now. Unless `is_complete`, there are more."""

    total: int
    holding: int
    is_complete: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Replacement:
    """A binding of an order that was replaced, and what its takeover has changed.

    `takeover` is None of the first one, and of one that has not begun at the provider. `hidden` counts the earlier
    successors of this binding that failed and are left out.
    """

    binding: Binding
    takeover: Takeover | None
    hidden: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NameMatches:
    """What matches a name: bindings by reference, idempotency key, bind_id or request id, and refused binds.

    Refused binds match by reference or request id. `refusal_events` are refusals of a request that an earlier
    version recorded, as events only. With `by_beginning` nothing has exactly this name, and the references of
    these begin with it.
    """

    bindings: tuple[Binding, ...] = ()
    refusals: tuple[RefusedBind, ...] = ()
    refusal_events: tuple[Event, ...] = ()
    by_beginning: bool = False

    def __bool__(self) -> bool:
        """Return whether anything matches."""
        return bool(self.bindings or self.refusals or self.refusal_events)


class Investigation:
    """Queries of an investigation, over one database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def past_instant(self, at: datetime, *, field: str) -> datetime:
        """Return a time that has passed, on the deciding clock. Raise `InvalidRequest` for a later one."""
        return validation.past_instant(field, at, self._database.clock())

    def number_at(
        self, number: Phone, *, at: datetime, party: Phone | None = None, actor: str | None = None
    ) -> NumberAt:
        """Return the holders of a phone or middle number at `at` (aware); `party` is the other phone, if known."""
        at = self.past_instant(at, field="at")
        holds = self._holds_at(number, at, party, actor)
        result = replace(self._trace(number, at, party, WINDOW_S, actor), holds=holds)
        if result.holders:
            return NumberAt(trace=result, previous_binding=None, next_binding=None)
        if party is not None:
            result = replace(result, other_holders=self._trace(number, at, None, 0.0, actor).holders)
        nearest = self._database.read(number_history.nearest, number, party=party, at=at, actor=actor)
        near_ids = {miss.binding.id for miss in result.near_misses}
        distant = [binding for binding in nearest if binding.id not in near_ids]
        earlier = [binding for binding in distant if binding.held_until <= at]
        later = [binding for binding in distant if binding.held_until > at]
        return NumberAt(
            trace=result,
            previous_binding=max(earlier, key=trace.earliest_end, default=None),
            next_binding=min(later, key=trace.earliest_start, default=None),
        )

    def _trace(
        self, number: Phone, at: datetime, party: Phone | None, window_s: float, actor: str | None
    ) -> Trace:
        margin = timedelta(seconds=window_s)
        bindings = self._database.read(
            number_history.bindings_between, number, party=party, since=at - margin, until=at + margin
        )
        visible = [binding for binding in bindings if actor in (None, binding.actor)]
        return trace.classify(visible, at=at, window_s=window_s)

    def _holds_at(
        self, number: Phone, at: datetime, party: Phone | None, actor: str | None
    ) -> tuple[PhoneHold, ...]:
        margin = timedelta(seconds=WINDOW_S)
        phones = (number,) if party is None else (number, party)
        holds = self._database.read(
            phone_holds.of_number,
            self._database.now,
            phones=phones,
            middle_number=number.digits,
            since=at - margin,
            until=at + margin,
        )
        return visible_holds(holds, actor, phones)

    def holds_of(self, number: Phone, *, actor: str | None = None) -> tuple[PhoneHold, ...]:
        """Return the recorded holds of a phone, and those in force of bindings with this middle number."""
        holds = self._database.read(
            phone_holds.of_number, self._database.now, phones=(number,), middle_number=number.digits
        )
        return visible_holds(holds, actor, (number,))

    def holds_in_force(self, *, cursor: str | None = None, limit: int = 50) -> Page[HoldInForce]:
        """Return a page of the holds in force, of every phone, the next to end first."""
        size, position = validation.page(cursor=cursor, limit=limit)
        rows = self._database.read(phone_holds.in_force, self._database.now, after=position, limit=size + 1)
        return Page.of(rows, size, lambda row: fields.position_after(row.hold.held_until, row.id))

    def number_history(
        self, number: Phone, *, actor: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[Binding]:
        """Return a page of the bindings that ever had the number, by `held_until`, latest first."""
        size, position = validation.page(cursor=cursor, limit=limit)
        rows = self._database.read(number_history.history, number, actor=actor, before=position, limit=size + 1)
        return Page.of(rows, size, lambda binding: fields.position_after(binding.held_until, binding.id))

    def count_number(self, number: Phone, *, actor: str | None = None) -> NumberCounts:
        """Count the bindings that ever had the number, and those that hold it now, at most `MAX_COUNTED`."""
        total, holding = self._database.read(
            number_history.count, number, actor=actor, now=self._database.now, limit=MAX_COUNTED + 1
        )
        return NumberCounts(
            total=min(total, MAX_COUNTED), holding=min(holding, MAX_COUNTED), is_complete=total <= MAX_COUNTED
        )

    def find_by_name(self, text: str, *, actor: str | None = None) -> NameMatches:
        """Return what has this text as its reference, idempotency key, bind_id or request id, newest first.

        If there is nothing: what has a reference that begins with it. At most `MAX_NAME_MATCHES` of each.
        """
        read, limit = self._database.read, MAX_NAME_MATCHES
        exact = NameMatches(
            bindings=tuple(read(number_history.find_by_name, text, actor=actor, limit=limit)),
            refusals=tuple(read(refusals.find_by_name, text, actor=actor, limit=limit)),
        )
        if not exact.refusals:
            events = read(number_history.refusals_of_request, text, limit=limit)
            exact = replace(exact, refusal_events=tuple(event for event in events if actor in (None, event.actor)))
        if exact:
            return exact
        similar = SearchFilters(reference_prefix=text, actor=actor)
        similar_refusals = RefusalFilters(reference_prefix=text, actor=actor)
        return NameMatches(
            bindings=tuple(read(search.search, similar, self._database.now, before=None, limit=limit)),
            refusals=tuple(read(refusals.search, similar_refusals, before=None, limit=limit)),
            by_beginning=True,
        )

    def unbinds_of_request(self, request_id: str, *, actor: str | None = None) -> tuple[Binding, ...]:
        """Return the bindings whose unbind this request has requested, as they are now, the oldest first."""
        return tuple(
            self._database.read(
                number_history.unbinds_of_request, request_id, actor=actor, limit=selection.MAX_BINDINGS
            )
        )

    def replacements(self, binding: Binding, *, actor: str | None = None) -> tuple[Replacement, ...]:
        """Return the bindings of an order that was replaced, the oldest first, with this one; empty if it was not.

        Successors that failed are among them. Only the nearest are read of a chain with more than
        `MAX_REPLACEMENTS`, and only the last successors of a binding with many.
        """
        if binding.replaces is None and binding.replaced_by is None:
            return ()
        current: Binding | None = self._first_of_chain(binding, actor)
        chain: list[Replacement] = []
        while current is not None and len(chain) < MAX_REPLACEMENTS:
            history = self._database.read(events.history, current.id)
            successors = (event.detail.get("replaced_by") for event in history if event.kind == EventKind.REPLACED)
            ids = [name for name in successors if isinstance(name, str)]
            listed_ids = [name for name in ids if name in (*ids[-MAX_SUCCESSORS:], binding.id)]
            takeover, hidden = find_takeover(history), len(ids) - len(listed_ids)
            chain.append(Replacement(binding=current, takeover=takeover, hidden=hidden))
            by_id = {successor.id: successor for successor in self._database.read(queries.by_ids, listed_ids)}
            visible = [by_id[name] for name in listed_ids if name in by_id and actor in (None, by_id[name].actor)]
            failed = [successor for successor in visible if successor.id != current.replaced_by]
            chain += [Replacement(binding=successor, takeover=None, hidden=0) for successor in failed]
            current = next((successor for successor in visible if successor.id == current.replaced_by), None)
        return tuple(chain)

    def _first_of_chain(self, binding: Binding, actor: str | None) -> Binding:
        """Return the oldest predecessor that is recorded and may be shown, at most half of the chain away."""
        first = binding
        for _ in range(MAX_REPLACEMENTS // 2):
            earlier = first.replaces and self._database.read(find, first.replaces)
            if not earlier or actor not in (None, earlier.actor):
                break
            first = earlier
        return first

    def refusals_of(self, phone: Phone, *, actor: str | None = None) -> tuple[RefusedBind, ...]:
        """Return the newest refused binds of a phone, at most `MAX_REFUSALS`."""
        filters = RefusalFilters(phone=phone, actor=actor)
        return tuple(self._database.read(refusals.search, filters, before=None, limit=MAX_REFUSALS))

    def references_of_refusals(self, refusal_ids: Sequence[str]) -> dict[str, str | None]:
        """Return the references of those of these refused binds that are recorded, by id."""
        return self._database.read(refusals.references, refusal_ids)

    def reveals_of(self, bindings: Sequence[Binding]) -> list[Event]:
        """Return the newest reveals of full phones of these bindings, and exports in full of their periods."""
        if not bindings:
            return []
        ids, since = [binding.id for binding in bindings], min(binding.requested_at for binding in bindings)
        revealing = self._database.read(number_history.reveals_of, ids, since=since, limit=MAX_REVEALS)
        reveals = [
            event
            for event in revealing
            if event.binding_id is not None or any(_contains(event, binding) for binding in bindings)
        ]
        return sorted(reveals, key=lambda reveal: reveal.at, reverse=True)[:MAX_REVEALS]


def _contains(export: Event, binding: Binding) -> bool:
    """Return whether an export of a period may contain a binding; older versions did not record it."""
    requested_at, start, end = binding.requested_at, export.detail.get("from"), export.detail.get("to")
    return (
        requested_at <= export.at
        and (start is None or datetime.fromisoformat(start) <= requested_at)
        and (end is None or requested_at < datetime.fromisoformat(end))
        and _has_values(binding, export.detail.get("filters", {}))
    )


def _has_values(binding: Binding, filters: dict[str, str]) -> bool:
    """Return whether the binding may have the fixed values that an export was narrowed to; erased ones, too."""
    if DELETED in filters:
        return True
    values = {name: value for name, value in filters.items() if name != "reference_prefix"}
    begins = (binding.reference or "").startswith(filters.get("reference_prefix", ""))
    return begins and all(getattr(binding, name) == value for name, value in values.items())
