"""Doubts as a person meets them: what will happen next and when, and a person's word that ends one.

`outlook` is pure. `mark_absent` is the one way to free a doubt's phones without proof (I4): it rests on somebody
who has seen elsewhere, in the provider's own console for instance, that nothing came into being. It is as
final as a proof, so it is refused while the request may still be accepted, and recorded with the words it was
given for. A yes that comes after it is kept as a hold and unbound (`late_success`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import Reason, State
from bindings.errors import FieldError, InvalidRequest, NotFound
from bindings.store import events, settle
from bindings.store.bindings import find

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding, Caller, Event
    from bindings.settings import Settings
    from bindings.store.database import Database, Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkAbsentResult:
    """A doubt before and after somebody vouched for its absence, and the event; undone again where `dry_run`."""

    before: Binding
    after: Binding
    event: Event
    dry_run: bool


class _DryRunRollback(Exception):
    """Not a fault: it carries a result past the rollback."""

    def __init__(self, marked: MarkAbsentResult) -> None:
        self.marked = marked


def mark_absent(
    database: Database, caller: Caller, binding_id: str, *, because: str, tolerance_s: float, dry_run: bool
) -> MarkAbsentResult:
    """End a doubt as failed and free its phones, because somebody vouches that nothing came into being.

    A dry run makes the very same change and rolls it back. `InvalidRequest` where the binding is no doubt, or
    where the provider may still accept its request. Safe to repeat: the second time it changes nothing.
    """

    def work(tx: Transaction) -> MarkAbsentResult:
        before = find(tx.connection, binding_id)
        if before is None:
            raise NotFound(binding_id=binding_id)
        if before.reason != Reason.VOUCHED:
            _check(before, tx.instant(), tolerance_s)
        after = settle.settle_marked_absent(tx, before, caller, because=because) or before
        last = events.history(tx.connection, binding_id)[-1]
        marked = MarkAbsentResult(before=before, after=after, event=last, dry_run=dry_run)
        if dry_run:
            raise _DryRunRollback(marked)
        return marked

    try:
        return database.write(work)
    except _DryRunRollback as undone:
        return undone.marked


def _check(doubt: Binding, now: datetime, tolerance_s: float) -> None:
    if doubt.state is not State.IN_DOUBT:
        raise InvalidRequest([FieldError("id", f"must be of a binding in doubt; this one is {doubt.state}")])
    until = acceptance_deadline(doubt, tolerance_s)
    if now <= until:
        message = f"is too young: the provider may still accept its request until {_clock_time(until)}"
        raise InvalidRequest([FieldError("id", f"{message}; nobody can know before that nothing came into being")])


def acceptance_deadline(doubt: Binding, tolerance_s: float) -> datetime:
    """The last instant at which the provider may still accept the request of a doubt."""
    return doubt.send_by + timedelta(seconds=tolerance_s)


# What will happen next.


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledStep:
    """Something that will happen by itself to what is open; `at` None: with the next pass, whenever that is."""

    what: str
    at: datetime | None


def next_steps(
    binding: Binding, now: datetime, config: Settings, next_scan: datetime | None
) -> tuple[ScheduledStep, ...]:
    """What will happen to an open binding, in order of time. `next_scan` None: nothing scans by itself here."""
    match binding.state:
        case State.PENDING:
            return (ScheduledStep(what="recover opens it as a doubt, and a scan then looks for it", at=None),)
        case State.ACTIVE:
            ends = ScheduledStep(what="it ends by time, unbound or not", at=binding.expires_at)
            return (ScheduledStep(what="recover asks the provider again to unbind it", at=None), ends)
        case State.IN_DOUBT:
            return _steps_in_doubt(binding, now, config.timestamp_tolerance_s, next_scan)
        case _:
            return ()


def _steps_in_doubt(
    doubt: Binding, now: datetime, tolerance_s: float, next_scan: datetime | None
) -> tuple[ScheduledStep, ...]:
    provable_from = acceptance_deadline(doubt, tolerance_s)
    provable_until = doubt.requested_at + timedelta(seconds=doubt.expire_s)
    lapses = ScheduledStep(
        what="its longest possible life is over: it lapses, its phones are free", at=doubt.held_until
    )
    if next_scan is None:
        return (lapses,)
    scan = max(now, next_scan)
    adopted = "a scan adopts it if the provider's list has it"
    if scan > provable_until:
        return (ScheduledStep(what=f"{adopted}; too late to prove that it is absent", at=scan), lapses)
    if scan > provable_from:
        return (ScheduledStep(what=f"{adopted}, or proves that it is absent", at=scan), lapses)
    proof = ScheduledStep(what="from then on a scan may also prove that it is absent", at=provable_from)
    return (ScheduledStep(what=adopted, at=scan), proof, lapses)


def _clock_time(instant: datetime) -> str:
    return instant.strftime("%H:%M:%SZ")
