"""Verification of the chain: signatures, numbers, hashes of the bodies, and the events of each seal.

Events and seals are read once, side by side, in the order of the feed; memory does not grow with either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.sealing.encoding import instant_text
from bindings.sealing.findings import Finding, Findings
from bindings.sealing.merkle import MerkleTree
from bindings.sealing.seals import BEGINNING, Seal, SealBody, cursor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bindings.sealing.keys import PublicKeys


@dataclass(kw_only=True, slots=True)
class _ShortSeals:
    """Seals in a row that lack events: their numbers, and the positions of their first and last event."""

    first: int
    last: int
    begin: tuple[int, int]
    end: tuple[int, int]
    missing: int

    def finding(self) -> Finding:
        return Finding(
            subject="seal",
            message=f"has {self.missing} event(s) fewer than were sealed",
            first_seal=self.first,
            last_seal=self.last,
            first=cursor(self.begin),
            last=cursor(self.end),
        )


class Chain:
    """A chain of seals that is compared with the events of the feed, in the order of the feed.

    Call `begin`, `add` for each event, and then `finish`. `head` is the last seal that was read, `unsealed` the
    number of events after it. `heads` are heads that were kept elsewhere: the hash by the number of the seal.
    """

    def __init__(
        self, seals: Iterable[Seal], keys: PublicKeys, findings: Findings, heads: Mapping[int, str]
    ) -> None:
        self.head: Seal | None = None
        self.events = 0
        self.unsealed = 0
        self._seals = iter(seals)
        self._keys = keys
        self._findings = findings
        self._heads = heads
        self._sealed_to = BEGINNING
        self._last_event = BEGINNING
        self._current: Seal | None = None
        self._short_seals: list[_ShortSeals] = []
        self.deleted_seals = 0
        self._epoch = 1  # of the seal before the current one
        self._body: SealBody | None = None
        self._other_heads: dict[int, Finding] = {}
        self._lost_heads: set[str] = set()

    def begin(self) -> None:
        """Read the first seal."""
        self._next()

    def add(self, position: tuple[int, int], entry: bytes, *, is_restore: bool = False) -> int | None:
        """Compare the next event of the feed; return the number of the seal that has it, or None."""
        if position <= self._last_event:
            self._report("event", "is not in the order of the feed", self.number, position, position)
        else:
            self._last_event = position
        self.events += 1
        while self._current is not None and position > self._end:
            self._close()
            self._next()
        if self._current is None:
            self.unsealed += 1
            return None
        if position < self._first:
            self._report("event", "is in no seal, but before the end of one", self.number, position, position)
        else:
            self._tree.add(entry)
            self._restores += is_restore
        return self._current.number

    def accept_lost_head(self, head: str) -> None:
        """Accept a head that is not in the chain: an event says that a restore has lost it."""
        self._lost_heads.add(head)

    @property
    def end(self) -> tuple[int, int]:
        """Return the position of the last event that was compared."""
        return self._last_event

    @property
    def number(self) -> int | None:
        """Return the number of the seal that is being compared, or None after the last one."""
        return None if self._current is None else self._current.number

    def finish(self, deleted_until: tuple[int, int] | None) -> None:
        """Compare the seals that have no further events, and the heads that were kept elsewhere.

        Events may be missing up to `deleted_until`: retention has recorded their deletion.
        """
        while self._current is not None:
            self._close()
            self._next()
        for short in self._short_seals:
            if deleted_until is not None and short.end <= deleted_until:
                self.deleted_seals += short.last - short.first + 1
            else:
                self._findings.add(short.finding())
        if self.head is None:
            self._findings.add(Finding(subject="chain", message="has no seal"))
        for number, expected in self._heads.items():
            if self.head is None or number > self.head.number:
                message = f"has no seal {number}: it was cut off"
                self._other_heads[number] = Finding(subject="chain", message=message, first_seal=number)
            if number in self._other_heads and f"{number}:{expected}" not in self._lost_heads:
                self._findings.add(self._other_heads[number])

    def _next(self) -> None:
        self._current = next(self._seals, None)
        self._tree = MerkleTree()
        self._epoch = self._epoch if self._body is None else self._body.epoch
        self._body, self._restores = None, 0
        self._count: int | None = None
        self._root: str | None = None
        self._first = self._sealed_to
        if self._current is None:
            return
        seal, previous = self._current, self.head
        self.head, self._end = seal, seal.end
        if seal.number in self._heads and seal.hash != self._heads[seal.number]:
            message = "has another hash than the head that was kept"
            self._other_heads[seal.number] = Finding(
                subject="seal", message=message, first_seal=seal.number, last_seal=seal.number
            )
        self._compare_with_previous(seal, previous)
        try:
            body = SealBody.parse(seal.body)
            self._first, end = _position(body.first), _position(body.last)
        except ValueError:
            self._report_seal(seal, "has a body that cannot be read")
            self._sealed_to = seal.end
            return
        self._body, self._count, self._root = body, body.count, body.root
        if (body.number, end, body.at) != (seal.number, seal.end, instant_text(seal.created_at)):
            self._report_seal(seal, "has columns that differ from its body")
        if body.key_id not in self._keys:
            self._report_seal(seal, f"is signed by key {body.key_id}, which is not one of the public keys")
        elif not self._keys.verify(body.key_id, seal.body, seal.signature):
            self._report_seal(seal, "has a signature that is not that of its body")
        if body.previous != (None if previous is None else previous.hash):
            self._report_seal(seal, "does not have the hash of the seal before it")
        if not self._sealed_to < self._first <= seal.end:
            self._report_seal(seal, "does not begin after the seal before it")
        self._sealed_to = max(self._sealed_to, seal.end)

    def _compare_with_previous(self, seal: Seal, previous: Seal | None) -> None:
        expected = 1 if previous is None else previous.number + 1
        if seal.number < expected:
            self._report_seal(seal, f"comes after seal {expected - 1}, not in the order of their numbers")
        elif seal.number > expected:
            last = seal.number - 1
            message = f"{expected} is missing" if last == expected else f"{expected} to {last} are missing"
            self._findings.add(Finding(subject="seal", message=message, first_seal=expected, last_seal=last))

    def _close(self) -> None:
        """Compare the events of the current seal with what it states."""
        seal, tree = self._current, self._tree
        if seal is None or self._count is None:
            return
        if tree.count < self._count:
            self._note_short(seal, self._count - tree.count)
            return
        if self._body is not None and self._body.epoch != self._epoch + self._restores:
            self._report_seal(seal, "has another epoch than the restores before it")
        if tree.count > self._count:
            message = f"has {tree.count - self._count} event(s) more than were sealed"
        elif tree.root() != self._root:
            message = "has an event that was changed since"
        else:
            return
        self._report("seal", message, seal.number, self._first, seal.end)

    def _note_short(self, seal: Seal, missing: int) -> None:
        last = self._short_seals[-1] if self._short_seals else None
        if last is not None and last.last == seal.number - 1:
            last.last, last.end, last.missing = seal.number, seal.end, last.missing + missing
        else:
            self._short_seals.append(
                _ShortSeals(first=seal.number, last=seal.number, begin=self._first, end=seal.end, missing=missing)
            )

    def _report_seal(self, seal: Seal, message: str) -> None:
        self._findings.add(
            Finding(
                subject="seal",
                message=message,
                first_seal=seal.number,
                last_seal=seal.number,
                last=cursor(seal.end),
            )
        )

    def _report(
        self, subject: str, message: str, seal: int | None, first: tuple[int, int], last: tuple[int, int]
    ) -> None:
        self._findings.add(
            Finding(
                subject=subject,
                message=message,
                first_seal=seal,
                last_seal=seal,
                first=cursor(first),
                last=cursor(last),
            )
        )


def _position(text: str) -> tuple[int, int]:
    tx, _, position = text.partition("-")
    return int(tx), int(position)
