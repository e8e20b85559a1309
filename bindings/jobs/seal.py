"""Seal the history: sign each stretch of the final feed, so that a later change of it shows.

Runs only where there is a key. Two runs at the same time are decided by the number of the seal: the one that
inserts it first has sealed the stretch, and the other reads again. A process that stops at any point leaves a
chain that verifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bindings.clock import SYSTEM_CLOCK
from bindings.failpoints import hit
from bindings.jobs.run_control import UNSTOPPED, RunControl
from bindings.sealing.encoding import event_bytes
from bindings.sealing.merkle import MerkleTree
from bindings.sealing.seals import Seal, head_of, next_body
from bindings.store import seals

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.clock import HostClock
    from bindings.sealing.keys import SigningKey
    from bindings.store.database import Database, Transaction

BATCH = 5_000  # events of one seal
BUDGET_S = 5.0  # a long history is sealed in several runs


@dataclass(frozen=True, kw_only=True, slots=True)
class SealResult:
    """What one run sealed; `head` is the last seal, `N:HASH`, or None if there is none.

    `finished` is False if its time was spent before the end of the feed.
    """

    events: int = 0
    seals: int = 0
    head: str | None = None
    finished: bool = True


def seal_events(
    database: Database,
    key: SigningKey,
    *,
    control: RunControl = UNSTOPPED,
    batch: int = BATCH,
    budget_s: float = BUDGET_S,
    clock: HostClock = SYSTEM_CLOCK,
) -> SealResult:
    """Seal every final event that is not sealed yet, for at most about `budget_s` seconds; return the counts.

    Safe to repeat, to stop at any point, and to run in several processes at the same time.
    """
    deadline = clock.monotonic() + budget_s
    events_sealed = seals_written = 0
    previous = database.read(seals.last)
    while True:
        rows = database.read(seals.unsealed, previous, limit=batch)
        if not rows:
            return SealResult(events=events_sealed, seals=seals_written, head=head_of(previous))
        seal = _new_seal(previous, rows, key, database.clock())
        hit("seal.before_insert")
        inserted = database.write(lambda tx, seal=seal: _insert(tx, seal))  # type: ignore[misc]
        hit("seal.after_insert")
        if inserted:
            events_sealed, seals_written, previous = events_sealed + len(rows), seals_written + 1, seal
        else:
            previous = database.read(seals.last)
        control.record_progress()
        if control.is_stopping() or clock.monotonic() > deadline:
            return SealResult(events=events_sealed, seals=seals_written, head=head_of(previous), finished=False)


def _insert(tx: Transaction, seal: Seal) -> bool:
    inserted = seals.insert(tx, seal)
    hit("seal.in_transaction")
    return inserted


def _new_seal(previous: Seal | None, rows: list[dict[str, Any]], key: SigningKey, at: datetime) -> Seal:
    tree = MerkleTree()
    for row in rows:
        tree.add(event_bytes(row))
    first, last = ((row["tx"], row["position"]) for row in (rows[0], rows[-1]))
    body = next_body(
        previous, positions=(first, last), count=tree.count, root=tree.root(), at=at, key_id=key.key_id
    )
    text = body.text()
    return Seal(
        number=body.number,
        to_tx=last[0],
        to_position=last[1],
        body=text,
        signature=key.sign(text),
        created_at=at,
    )
