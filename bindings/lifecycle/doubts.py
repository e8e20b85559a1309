"""In-doubt bindings for operators: what will happen next and when, and marking one absent.

`next_steps` is pure. `mark_absent` is the only way to free the phones of an in-doubt binding without proof (I4):
an operator states that the provider did not make it, seen for example in the provider's own console. It is as
final as a proof, so it is refused while the request may still be accepted, and recorded with its reason. A success
that arrives later is kept as a hold and unbound (`late_success`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import Reason, State
from bindings.errors import InvalidRequest, NotFound
from bindings.lifecycle import resolution_times
from bindings.store import events, settle
from bindings.store.bindings import find

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding, Event
    from bindings.lifecycle.runtime import Runtime
    from bindings.settings import Settings
    from bindings.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkAbsentResult:
    """The binding before and after it was marked absent, and the event; with `dry_run` nothing was changed."""

    before: Binding
    after: Binding
    event: Event
    dry_run: bool


class _DryRunRollback(Exception):
    """Carries the result of a dry run past the rollback; not an error."""

    def __init__(self, result: MarkAbsentResult) -> None:
        self.result = result


def mark_absent(runtime: Runtime, binding_id: str, *, because: str, dry_run: bool) -> MarkAbsentResult:
    """Mark an in-doubt binding as failed on an operator's statement, free its phones, and return the change.

    A dry run makes the same change and rolls it back. `InvalidRequest` if the binding is not in doubt, or if the
    provider may still accept its request; `Busy` while the clock is in doubt. Safe to repeat: the second time it
    changes nothing.
    """
    tolerance_s = runtime.settings.timestamp_tolerance_s

    def work(tx: Transaction) -> MarkAbsentResult:
        before = find(tx.connection, binding_id)
        if before is None:
            raise NotFound(binding_id=binding_id)
        if before.reason != Reason.VOUCHED:
            now = tx.instant()
            runtime.clocks.verify(now)
            _check(before, now, tolerance_s)
        after = settle.settle_marked_absent(tx, before, runtime.caller, because=because) or before
        last = events.history(tx.connection, binding_id)[-1]
        result = MarkAbsentResult(before=before, after=after, event=last, dry_run=dry_run)
        if dry_run:
            raise _DryRunRollback(result)
        return result

    try:
        return runtime.database.write(work)
    except _DryRunRollback as rollback:
        return rollback.result


def _check(doubt: Binding, now: datetime, tolerance_s: float) -> None:
    if doubt.state is not State.IN_DOUBT:
        raise InvalidRequest.of_field("id", f"must be of a binding in doubt; this one is {doubt.state}")
    until = acceptance_deadline(doubt, tolerance_s)
    if now <= until:
        message = (
            f"is too young: the provider may still accept its request until {_utc_time(until)}; try after that"
        )
        raise InvalidRequest.of_field("id", message)


def acceptance_deadline(doubt: Binding, tolerance_s: float) -> datetime:
    """Return the last instant at which the provider may accept the request of an in-doubt binding."""
    return doubt.send_by + timedelta(seconds=tolerance_s)


# What will happen next.


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledStep:
    """Something that a job will do to an open binding, and when; `at` None: at the next run of the job."""

    text: str
    at: datetime | None


def next_steps(
    binding: Binding, now: datetime, config: Settings, next_scan: datetime | None
) -> tuple[ScheduledStep, ...]:
    """Return what will happen to an open binding, in order of time. `next_scan` None: no scheduler scans."""
    match binding.state:
        case State.PENDING:
            return (ScheduledStep(text="recover marks it in doubt; a scan then looks for it", at=None),)
        case State.ACTIVE:
            ends = ScheduledStep(text="it ends at the provider by time, unbound or not", at=binding.provider_end)
            return (ScheduledStep(text="recover repeats the unbind at the provider", at=None), ends)
        case State.IN_DOUBT:
            is_looked_for = next_scan is not None and resolution_times.is_looked_for(config, binding)
            look = ScheduledStep(text="a look at a few pages of the list may adopt it", at=binding.settle_by)
            steps = _steps_in_doubt(binding, now, config, next_scan)
            return (look, *steps) if is_looked_for and now < binding.settle_by else steps
        case _:
            return ()


def _steps_in_doubt(
    doubt: Binding, now: datetime, config: Settings, next_scan: datetime | None
) -> tuple[ScheduledStep, ...]:
    provable_from = acceptance_deadline(doubt, config.timestamp_tolerance_s)
    provable_until = doubt.requested_at + timedelta(seconds=doubt.provider_expire_s)
    lapses = ScheduledStep(
        text="its longest possible lifetime ends: it lapses and its phones are free", at=doubt.held_until
    )
    if next_scan is None:
        return (lapses,)
    scan = max(now, next_scan)
    if config.on_doubt != "adopt":
        observed = "a scan reports what the provider's list says of it (BINDINGS_ON_DOUBT=observe)"
        return (ScheduledStep(text=observed, at=scan), lapses)
    adopted = "a scan adopts it if the provider's list has it"
    if scan > provable_until:
        return (ScheduledStep(text=f"{adopted}; it is too late to prove it absent", at=scan), lapses)
    if scan > provable_from:
        return (ScheduledStep(text=f"{adopted}, or proves it absent", at=scan), lapses)
    proof = ScheduledStep(text="from then on a scan may also prove it absent", at=provable_from)
    return (ScheduledStep(text=adopted, at=scan), proof, lapses)


def _utc_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")
