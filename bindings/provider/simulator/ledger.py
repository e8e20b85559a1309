"""The ledger: every binding that the simulated provider has accepted, and the middle numbers in use.

Only bookkeeping: no HTTP, no status codes, and no clock (the caller passes the time). The acceptance tests compare
the product with the ledger, so an entry is never deleted: it ends, by an unbind, by its expiry, or `vanished`. If
it lives again (`restored`), that is a second entry with the same id.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bindings.domain.binding import Mode
from bindings.domain.conflict import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FIRST_BIND_ID = 1002  # as in the provider's sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One accepted binding. Instants are Unix seconds by the simulator's clock; phones are digits.

    `foreign` entries were added by `add_foreign_binding`, without a call of the provider. `vanished` ones were
    ended by `remove_binding`, without an unbind; `unbound_at` is then the instant of that. `restored` ones live
    again after `restore_binding`; `accepted_at` is then the instant of that. The repr contains no phone.
    """

    bind_id: int
    app_id: str
    pool_number: str
    mode: Mode
    phone_a: str = field(repr=False)
    phone_b: str = field(repr=False)
    middle_number_a: str
    middle_number_b: str
    accepted_at: float
    expires_at: float
    unbound_at: float | None = None
    foreign: bool = False
    vanished: bool = False
    restored: bool = False

    @property
    def ended_at(self) -> float:
        """Return the end of the binding: the unbind or the expiry, whichever is earlier."""
        return self.expires_at if self.unbound_at is None else min(self.expires_at, self.unbound_at)

    def live(self, at: float) -> bool:
        """Return whether it was live at the instant `at`: [accepted_at, ended_at)."""
        return self.accepted_at <= at < self.ended_at

    def number_of(self, phone: str) -> str:
        """Return the middle number that the party with this phone sees and calls."""
        return self.middle_number_a if phone == self.phone_a else self.middle_number_b


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Two entries that were live at the same time although the earlier one forbids the later one."""

    earlier: Entry
    later: Entry


class Ledger:
    """Every accepted binding, and an index of those that still hold their phones. Thread-safe.

    An entry *holds* its phones and its places on middle numbers from its acceptance until the release lag has
    passed after its unbind or its expiry; a vanished one until it vanished. `lock` is the only lock of the
    simulator's rules: hold it across a decision and the write that follows from it.
    """

    def __init__(self, first_bind_id: int = FIRST_BIND_ID) -> None:
        self.lock = threading.RLock()
        self._entries: dict[int, Entry] = {}
        self._earlier: list[Entry] = []  # what `_entries` had before a restoration
        self._ids = itertools.count(first_bind_id)
        self._lag_s = 0.0
        self._released_at = float("-inf")  # the latest end that was processed
        self._clear_index()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries())

    def entries(self) -> tuple[Entry, ...]:
        """Return every entry, in the order of acceptance; before them the ended ones that were restored."""
        with self.lock:
            return (*self._earlier, *self._entries.values())

    def get(self, bind_id: int) -> Entry | None:
        """Return the newest entry with that id, also if it has ended; None if there is none."""
        return self._entries.get(bind_id)

    def live(self, at: float) -> tuple[Entry, ...]:
        """Return the entries that were live at the instant `at` (Unix seconds)."""
        return tuple(entry for entry in self.entries() if entry.live(at))

    def overlaps(self, policy: Policy | str = Policy.LITERAL) -> tuple[Overlap, ...]:
        """Return the pairs of entries that violate the provider's own rule; none in a correct run."""
        return find_overlaps(self.entries(), Policy(policy))

    # Used by the rules; the caller holds the lock.

    def advance(self, now: float, *, lag_s: float) -> None:
        """Release the entries that have ended at `now`. An earlier time or a longer lag restores their holds."""
        if now < self._released_at or lag_s > self._lag_s:
            self._released_at = float("-inf")
            self._clear_index()
            for entry in self._entries.values():
                self._hold(entry)
        self._lag_s = lag_s
        while self._due and self._due[0][0] + lag_s <= now:
            ended_at, bind_id = heapq.heappop(self._due)
            self._released_at = max(self._released_at, ended_at + lag_s)
            held = self._held.get(bind_id)
            if held is not None and held.ended_at == ended_at:
                self._release(bind_id)

    def held(self) -> Iterable[Entry]:
        """Return the entries that hold their phones now."""
        return self._held.values()

    def holders(self, phone: str) -> Iterable[Entry]:
        """Return the entries that hold this phone now, in either role."""
        return self._of_phone.get(phone, {}).values()

    def accept(
        self,
        *,
        app_id: str,
        pool_number: str,
        mode: Mode,
        phones: tuple[str, str],
        middle_numbers: tuple[str, str],
        accepted_at: float,
        expires_at: float,
        foreign: bool,
    ) -> Entry:
        """Record a new entry with the next id, and return it."""
        entry = Entry(
            bind_id=next(self._ids),
            app_id=app_id,
            pool_number=pool_number,
            mode=mode,
            phone_a=phones[0],
            phone_b=phones[1],
            middle_number_a=middle_numbers[0],
            middle_number_b=middle_numbers[1],
            accepted_at=accepted_at,
            expires_at=expires_at,
            foreign=foreign,
        )
        self._entries[entry.bind_id] = entry
        self._hold(entry)
        return entry

    def end(self, entry: Entry, *, at: float, vanished: bool = False) -> Entry:
        """End an entry at the instant `at`, and return it; its phones are free after the release lag."""
        self._release(entry.bind_id)
        ended = replace(entry, unbound_at=at, vanished=vanished)
        self._entries[entry.bind_id] = ended
        if self._lag_s > 0:
            self._hold(ended)
        return ended

    def restore(self, entry: Entry, *, at: float) -> Entry:
        """Let an ended entry live again from the instant `at` until its expiry, and return the new entry."""
        self._earlier.append(entry)
        self._release(entry.bind_id)
        restored = replace(entry, accepted_at=at, unbound_at=None, vanished=False, restored=True)
        self._entries[entry.bind_id] = restored
        self._hold(restored)
        return restored

    def pick(
        self, numbers: Sequence[str], *, mode: Mode, phone_a: str, phone_b: str, max_concurrency: int
    ) -> tuple[str, str] | None:
        """Return the middle numbers of a new binding, or None if the pool has none available.

        A number serves many pairs, but a phone occurs at most once on it, or a call could not be routed. The pool
        is used round robin, so that tests get shared numbers.
        """
        start = len(self._entries) % len(numbers)
        candidates = (*numbers[start:], *numbers[:start])
        used = {phone: self._numbers_of(phone) for phone in (phone_a, phone_b)}

        def usable(number: str, phone: str) -> bool:
            return number not in used[phone] and self._load[number] < max_concurrency

        for a in candidates:
            if not usable(a, phone_a):
                continue
            for b in (a,) if mode is Mode.AXB else candidates:
                if usable(b, phone_b) and (b == a) == (mode is Mode.AXB):
                    return a, b
        return None

    def _numbers_of(self, phone: str) -> set[str]:
        return {entry.number_of(phone) for entry in self.holders(phone)}

    def _clear_index(self) -> None:
        self._held: dict[int, Entry] = {}
        self._of_phone: dict[str, dict[int, Entry]] = {}
        self._load: Counter[str] = Counter()
        self._due: list[tuple[float, int]] = []

    def _hold(self, entry: Entry) -> None:
        if entry.vanished:
            return
        self._held[entry.bind_id] = entry
        for phone in (entry.phone_a, entry.phone_b):
            self._of_phone.setdefault(phone, {})[entry.bind_id] = entry
        self._load.update({entry.middle_number_a, entry.middle_number_b})
        heapq.heappush(self._due, (entry.ended_at, entry.bind_id))

    def _release(self, bind_id: int) -> None:
        entry = self._held.pop(bind_id, None)
        if entry is None:  # released already
            return
        for phone in (entry.phone_a, entry.phone_b):
            held = self._of_phone[phone]
            held.pop(bind_id, None)
            if not held:
                del self._of_phone[phone]
        self._load.subtract({entry.middle_number_a, entry.middle_number_b})


def find_overlaps(entries: Iterable[Entry], policy: Policy) -> tuple[Overlap, ...]:
    """Return the pairs of entries that violate the -35 rule, judged for each phone by their instants alone.

    Shares no code with the rules or with the product's conflict policy, so that it finds errors in both.
    """
    by_phone: dict[str, list[Entry]] = {}
    for entry in entries:
        for phone in {entry.phone_a, entry.phone_b}:
            by_phone.setdefault(phone, []).append(entry)
    overlaps: dict[tuple[int, int], Overlap] = {}
    for group in by_phone.values():
        for earlier, later in _concurrent(group):
            if earlier.mode is Mode.AXB or policy is Policy.STRICT:
                overlaps[earlier.bind_id, later.bind_id] = Overlap(earlier=earlier, later=later)
    return tuple(overlaps.values())


def _concurrent(group: list[Entry]) -> Iterator[tuple[Entry, Entry]]:
    live: list[Entry] = []
    for later in sorted(group, key=lambda entry: (entry.accepted_at, entry.bind_id)):
        live = [entry for entry in live if entry.ended_at > later.accepted_at]
        if later.ended_at > later.accepted_at:
            yield from ((earlier, later) for earlier in live)
            live.append(later)
