"""What somebody who looks into a complaint asks: who was behind a number, what was a number used for, who looked.

Whoever asks need not know whether a number is somebody's phone or a middle number. `actor` narrows every answer
to what that caller asked for. Changes nothing; every question is safe to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain import trace
from bindings.domain.binding import Page, Trace
from bindings.store import number_history as numbers
from bindings.validation import fields
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding, Event
    from bindings.domain.phone import Phone
    from bindings.store.database import Database

WINDOW_S = 600.0
MOST_NAMED = 50
MOST_LOOKS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberAt:
    """Who was behind a number at an instant: what was there, what missed it closely, what came before and after.

    `ended` is the binding that was over last before the instant, `began` the one that came first after it,
    however far away; None where there is none, or it is among the others.
    """

    trace: Trace
    ended: Binding | None
    began: Binding | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NameMatches:
    """What a word names: bindings by reference, bind_id or request, and refusals that made no binding."""

    bindings: tuple[Binding, ...]
    refusals: tuple[Event, ...]


class Investigation:
    """The questions of an inquiry into one database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def number_at(
        self, number: Phone, *, at: datetime, party: Phone | None = None, actor: str | None = None
    ) -> NumberAt:
        """Who was behind a phone or a middle number at the instant `at` (aware); `party` is a phone beside it."""
        margin = timedelta(seconds=WINDOW_S)
        found = self._database.read(
            numbers.bindings_between, number, party=party, since=at - margin, until=at + margin
        )
        judged = trace.classify([one for one in found if actor in (None, one.actor)], at=at, window_s=WINDOW_S)
        if judged.holders:
            return NumberAt(trace=judged, ended=None, began=None)
        others = self._database.read(numbers.nearest, number, party=party, at=at, actor=actor)
        close = {miss.binding.id for miss in judged.near_misses}
        far = [one for one in others if one.id not in close]
        over = [one for one in far if one.held_until <= at]
        later = [one for one in far if one.held_until > at]
        return NumberAt(
            trace=judged,
            ended=max(over, key=trace.earliest_end, default=None),
            began=min(later, key=trace.earliest_start, default=None),
        )

    def number_history(
        self, number: Phone, *, actor: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[Binding]:
        """A page of the bindings that ever had the number, those that hold it longest first."""
        _, size, position = validation.filters(cursor=cursor, limit=limit)
        rows = self._database.read(numbers.history, number, actor=actor, before=position, limit=size + 1)
        data = tuple(rows[:size])
        more = len(rows) > size
        after = fields.position_after(data[-1].held_until, data[-1].id) if more else None
        return Page(data=data, next_cursor=after)

    def find_by_name(self, words: str, *, actor: str | None = None) -> NameMatches:
        """What has these words as its reference, its bind_id or its request id, newest first."""
        bound = self._database.read(numbers.find_by_name, words, actor=actor, limit=MOST_NAMED)
        refusals = self._database.read(numbers.refusals_of_request, words, limit=MOST_NAMED)
        mine = tuple(one for one in refusals if actor in (None, one.actor))
        return NameMatches(bindings=tuple(bound), refusals=mine)

    def reveals_of(self, binding_ids: list[str]) -> list[Event]:
        """Who was shown full phones of these bindings, newest first."""
        if not binding_ids:
            return []
        return self._database.read(numbers.reveals_of, binding_ids, limit=MOST_LOOKS)
