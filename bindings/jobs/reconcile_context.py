"""What the steps of one reconciliation share: the runtime, the configured actions, and the findings so far.

The steps themselves are in `reconcile_rows` and `reconcile_absences`, their order in `reconcile`.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from bindings.domain.hold import HoldReason
from bindings.domain.serialization import batches, instant
from bindings.errors import BindingsError
from bindings.jobs.scan_evidence import ClockTolerance
from bindings.store import holds, queries
from bindings.validation.fields import MAX_EXPIRE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.domain.binding import Binding
    from bindings.jobs.run_control import RunControl
    from bindings.lifecycle.runtime import Runtime
    from bindings.provider.client import ProviderClient

_log = logging.getLogger(__name__)

ONCE_PER_BINDING = frozenset({"adopted", "orphans", "revenants", "drifted"})
MAX_REPEATED_CASES = 100  # of one kind, in a report, if each run finds them again
HOLD_BATCH = 100  # holds that one transaction writes


@dataclass(frozen=True, kw_only=True, slots=True)
class Actions:
    """What is done about each case, by the settings; `observe` only reports it."""

    doubt: str = "adopt"  # adopt, observe
    ghost: str = "end"  # end, observe
    orphan: str = "hold"  # hold, release (unbind it at the provider), observe
    drift: str = "narrow"  # narrow, observe


class Suspicion(StrEnum):
    """What a list shows that counts only if later runs see it too: a part of the list may be away for a moment."""

    NONE_LISTED = "none_listed"
    MANY_MISSING = "many_missing"

    def of(self, app_id: str | None) -> str:
        """Return the code with its application, as the report keeps it; None is the list of the account."""
        return self if app_id is None else f"{self}:{app_id}"


@dataclass(kw_only=True, slots=True)
class Findings:
    """The counts of `ReconcileResult`, the cases of the report, and what is said about the scans, so far.

    `under_another_id` are the ids of active bindings that the list has with a bind_id that is unknown here.
    Of a dry run, `would_hold` are the keys of the phones that it would hold, `would_end` the ids of the holds that
    it would end, and `would_settle` the ids of the doubts that it would settle.
    """

    counts: Counter[str] = field(default_factory=Counter)
    cases: list[dict[str, Any]] = field(default_factory=list)
    scan_faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    suspicions: set[str] = field(default_factory=set)
    scan_s: float = 0.0
    zone_misfit_s: float = 0.0
    under_another_id: set[str] = field(default_factory=set)
    would_hold: set[str] = field(default_factory=set)
    would_end: set[str] = field(default_factory=set)
    would_settle: set[str] = field(default_factory=set)
    _case_counts: Counter[str] = field(default_factory=Counter)
    _recorded: set[tuple[object, ...]] = field(default_factory=set)

    def record(self, case: str, app_id: str | None, *, action: str = "", **facts: object) -> None:
        """Count a case and add it to the report; `facts` are ids and instants, never a phone.

        `app_id` is None if the list was that of the account. A case that the settings say to observe is counted as
        `observed`: nothing was done about it. A case that a second reading of the list shows again is counted
        once. Of cases that each run finds again the report has the first `MAX_REPEATED_CASES`: a list may write
        every row in another form.
        """
        key = (case, app_id, facts.get("binding_id"), facts.get("bind_id"))
        if case in ONCE_PER_BINDING and key in self._recorded:
            return
        self._recorded.add(key)
        self.counts["observed" if action == "observe" else case] += 1
        self._case_counts[case] += 1
        is_repeated = action == "observe" or case in ("odd_rows", "drifted")
        if is_repeated and self._case_counts[case] > MAX_REPEATED_CASES:
            return
        details = {
            name: instant(value) if isinstance(value, datetime) else str(value)
            for name, value in facts.items()
            if value is not None
        }
        app = {} if app_id is None else {"app_id": app_id}
        self.cases.append({"case": case, "action": action} | app | details)

    @contextmanager
    def isolate(
        self, step: str, app_id: str | None, *, bind_id: str | None = None, binding_id: str | None = None
    ) -> Iterator[None]:
        """Keep an error in one row, binding or application from the others: log it, count it and name its place.

        An error of the service itself, such as `Busy`, concerns every row and is raised.
        """
        try:
            yield
        except BindingsError:
            raise
        except Exception as error:  # noqa: BLE001 -- any error; its text may carry a value of the row
            kind = type(error).__name__
            if binding_id is not None:
                subject = f"binding {binding_id}"
            elif bind_id is not None:
                subject = f"row {bind_id}"
            else:
                subject = "the account's list" if app_id is None else f"application {app_id}"
            _log.error("reconcile: %s of %s failed with %s", step, subject, kind)
            self.record("failures", app_id, step=step, error=kind, bind_id=bind_id, binding_id=binding_id)
            self.scan_faults.append(f"{step} of {subject} failed with {kind}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconcileContext:
    """One reconciliation: its parts and its rules."""

    runtime: Runtime
    client: ProviderClient
    actions: Actions
    full_scan_required: bool
    control: RunControl
    dry_run: bool

    def observe_only(self, action: str) -> bool:
        """Return True if nothing may be changed for a case with this action."""
        return self.dry_run or action == "observe"

    def unsettled(self, app_id: str | None) -> list[Binding]:
        """Return the pending and in-doubt bindings of an application, or of all."""
        return self.runtime.database.read(queries.unsettled, app_id)

    def still_unsettled(self, app_id: str | None, findings: Findings) -> list[Binding]:
        """Return the unsettled bindings without those that a dry run would have settled by now."""
        return [binding for binding in self.unsettled(app_id) if binding.id not in findings.would_settle]

    def live_holds(self, app_id: str | None) -> list[holds.Hold]:
        """Return the holds of an application, or of all, that are in force."""
        now = self.runtime.database.clock()
        return self.runtime.database.read(holds.live, self.runtime.settings.scope, now, app_id=app_id)

    def bind_ids_to_release(self, app_id: str | None) -> set[str]:
        """Return the provider ids of late successes, which `recover` unbinds."""
        live = self.live_holds(app_id)
        return {str(hold.bind_id) for hold in live if hold.why is HoldReason.LATE_SUCCESS}

    def end_holds(self, ended: list[holds.Hold], reason: str, app_id: str | None, findings: Findings) -> None:
        """End these holds in batches (not in a dry run), and record each."""
        write = self.runtime.database.write
        ended = [hold for hold in ended if hold.id not in findings.would_end]
        end = partial(holds.end_holds, caller=self.runtime.caller, reason=reason)
        for batch in self.control.work_through(batches(ended, HOLD_BATCH)):
            with findings.isolate("end of holds", app_id, bind_id=batch[0].bind_id):
                if self.dry_run:
                    findings.would_end.update(hold.id for hold in batch)
                else:
                    write(partial(end, holds=batch))
                for hold in batch:
                    findings.record(
                        "holds_ended", app_id, bind_id=hold.bind_id, origin_id=hold.origin_id, reason=reason
                    )

    def guard(self, expire_s: int) -> timedelta:
        """Return how long phones stay held past the end of a binding of this duration."""
        return timedelta(seconds=self.runtime.settings.guard_for(expire_s))

    def guard_after(self, ends_at: datetime, now: datetime) -> timedelta:
        """Return how long phones stay held past the end of a listed binding, whose duration is not known."""
        remaining_s = max(0.0, (ends_at - now).total_seconds())
        return self.guard(int(min(remaining_s, MAX_EXPIRE_S)))

    @property
    def tolerance(self) -> ClockTolerance:
        """Return how far an instant of the list may be wrong, by the provider's clock as known now."""
        tolerance_s = self.runtime.settings.timestamp_tolerance_s
        return ClockTolerance.of(skew_s=self.client.clock.allowance_s, tolerance_s=tolerance_s)
