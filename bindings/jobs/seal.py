"""Seal the history: sign each stretch of the final feed, so that a later change of it shows.

Runs only where there is a key. Two runs at the same time are decided by the number of the seal: the one that
inserts it first has sealed the stretch, and the other reads again. A process that stops at any point leaves a
chain that verifies.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bindings.clock import SYSTEM_CLOCK
from bindings.domain.binding import EventKind
from bindings.errors import Busy
from bindings.failpoints import hit
from bindings.jobs.anchor import anchor
from bindings.jobs.run_control import UNSTOPPED, RunControl
from bindings.sealing.encoding import event_bytes
from bindings.sealing.merkle import MerkleTree
from bindings.sealing.seals import Seal, SealBody, cursor, head_of, is_restore, next_body
from bindings.store import job_runs, seals
from bindings.store.events import append_without_binding

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.clock import HostClock
    from bindings.domain.binding import Caller
    from bindings.sealing.keys import SigningKey
    from bindings.store.database import Database, Transaction

_log = logging.getLogger(__name__)

BATCH = 5_000  # events of one seal
BUDGET_S = 5.0  # a long history is sealed in several runs


@dataclass(frozen=True, kw_only=True, slots=True)
class SealResult:
    """What one run sealed; `head` is the last seal, `N:HASH`, or None if there is none.

    `anchored` is the number of the last seal whose head the anchor command has accepted, `anchor_error` why it has
    not accepted the last one. `finished` is False if the time was spent before the end of the feed.
    """

    events: int = 0
    seals: int = 0
    head: str | None = None
    anchored: int | None = None
    anchor_error: str | None = None
    finished: bool = True


def seal_events(
    database: Database,
    key: SigningKey,
    caller: Caller,
    *,
    anchor_command: str | None = None,
    control: RunControl = UNSTOPPED,
    batch: int = BATCH,
    budget_s: float = BUDGET_S,
    clock: HostClock = SYSTEM_CLOCK,
) -> SealResult:
    """Seal every final event that is not sealed yet, for at most about `budget_s` seconds; return the counts.

    Then pass the head to the anchor command, if it is new; its failure does not stop the seals, and the next run
    tries again. Safe to repeat, to stop at any point, and to run in several processes at the same time.
    """
    deadline = clock.monotonic() + budget_s
    result, head = _seal(
        database,
        key,
        caller,
        batch=batch,
        is_over=lambda: control.is_stopping() or clock.monotonic() > deadline,
        control=control,
    )
    if result.seals:
        _log.info("sealed: head %s, %d events in %d seals", result.head, result.events, result.seals)
    if head is None or anchor_command is None or not result.finished:
        return result
    anchored = database.read(job_runs.last_counts, "seal").get("anchored")
    if anchored is not None and anchored >= head.number:
        return replace(result, anchored=anchored)
    error = anchor(anchor_command, head)
    if error is not None:
        _log.warning("seal %d is not anchored: %s", head.number, error)
        return replace(result, anchored=anchored, anchor_error=error)
    return replace(result, anchored=head.number)


def _seal(
    database: Database,
    key: SigningKey,
    caller: Caller,
    *,
    batch: int,
    is_over: Callable[[], bool],
    control: RunControl,
) -> tuple[SealResult, Seal | None]:
    """Seal until the end of the feed, or until the time is over; return the counts and the last seal."""
    events_sealed = seals_written = 0
    previous = database.read(seals.last)
    if previous is not None:
        _require_genuine(database, key, previous)
    while True:
        rows = database.read(seals.unsealed, previous, limit=batch)
        # Events that only say that others were sealed wait for others: or each seal would need another one.
        is_at_end = len(rows) < batch
        if is_at_end and all(row["kind"] == EventKind.SEALED for row in rows):
            return SealResult(events=events_sealed, seals=seals_written, head=head_of(previous)), previous
        seal = _new_seal(previous, rows, key, database.clock())
        hit("seal.before_insert")
        announced = len(rows) if is_at_end else None
        inserted = database.write(partial(_insert, seal=seal, caller=caller, announced=announced))
        hit("seal.after_insert")
        if inserted:
            events_sealed, seals_written, previous = events_sealed + len(rows), seals_written + 1, seal
        else:
            previous = database.read(seals.last)
        control.record_progress()
        if is_over():
            result = SealResult(events=events_sealed, seals=seals_written, head=head_of(previous), finished=False)
            return result, previous


def _require_genuine(database: Database, key: SigningKey, seal: Seal) -> None:
    """Raise `Busy` if no run of this job can have written the last seal: a chain must not go on from it.

    The signature is compared if it is that of this key; another one may be of an earlier key.
    """
    try:
        body = SealBody.parse(seal.body)
    except ValueError:
        body = None
    is_genuine = (
        body is not None
        and (body.number, body.last) == (seal.number, cursor(seal.end))
        and (body.key_id != key.key_id or key.has_signed(seal.body, seal.signature))
        and database.read(seals.is_reached, seal)
    )
    if not is_genuine:
        raise Busy(
            f"seal {seal.number} is forged; nothing was sealed after it",
            todo="run `bindings audit verify`, and see who can write to the database",
        )


def _insert(tx: Transaction, seal: Seal, caller: Caller, announced: int | None) -> bool:
    """Insert a seal, with an event if it is the last for now; False if another process was first."""
    inserted = seals.insert(tx, seal)
    if inserted and announced is not None:
        detail = {"head": seal.head, "events": announced}
        append_without_binding(tx, EventKind.SEALED, caller, detail)
    hit("seal.in_transaction")
    return inserted


def _new_seal(previous: Seal | None, rows: list[dict[str, Any]], key: SigningKey, at: datetime) -> Seal:
    tree = MerkleTree()
    for row in rows:
        tree.add(event_bytes(row))
    first, last = ((row["tx"], row["position"]) for row in (rows[0], rows[-1]))
    body = next_body(
        previous,
        positions=(first, last),
        count=tree.count,
        root=tree.root(),
        restores=sum(map(is_restore, rows)),
        at=at,
        key_id=key.key_id,
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
