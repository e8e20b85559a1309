"""Gives each job what it needs from the runtime.

What a job does is in its own module; when it runs is decided in `scheduler`. Every job is safe to repeat and to
run in several processes at the same time. No SQL, no HTTP and no timer here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.domain.acts import RestoreCause
from bindings.jobs import (
    expire,
    expiry_warnings,
    look,
    pool_usage,
    reconcile,
    recover,
    retention,
    seal,
    statistics,
)
from bindings.jobs.batches import DueBatches
from bindings.jobs.provider_lists import ProviderLists
from bindings.jobs.run_control import RunControl
from bindings.store import account, sessions

if TYPE_CHECKING:
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.database import Transaction


class Maintenance:
    """The jobs over one runtime, until `control` stops them. `lists` is what earlier runs remembered.

    `BindingService` documents those that a host application may call.
    """

    def __init__(
        self, runtime: Runtime, control: RunControl | None = None, lists: ProviderLists | None = None
    ) -> None:
        self._runtime = runtime
        self._control = control or RunControl()
        self._lists = lists or ProviderLists(runtime.settings.scan_calls_per_s, runtime.clock)

    def expire_due(self) -> expire.ExpireResult:
        """Mark bindings past their end as expired, and return the counts. `Busy` while the clock is in doubt."""
        return expire.expire_due(self._due_batches())

    def warn_due(self) -> expiry_warnings.ExpiryWarningsResult:
        """Write the `expires_soon` events that are due, and return the counts. `Busy` as for `expire_due`."""
        return expiry_warnings.warn_due(self._due_batches())

    def _due_batches(self) -> DueBatches:
        runtime = self._runtime
        return DueBatches(
            database=runtime.database,
            caller=runtime.caller,
            control=self._control,
            verify_clock=runtime.clocks.verify,
            clock=runtime.clock,
        )

    def recover(self) -> recover.RecoverResult:
        """Resolve what a crash or a lost reply left open, release expired bindings, and return the counts."""
        return recover.recover(self._runtime, self._control)

    def reconcile(self, *, dry_run: bool = False, reason: str | None = None) -> reconcile.ReconcileResult:
        """Recover, then compare with the provider's list and correct what differs; return the counts.

        Recovers again if bindings were adopted: a request to unbind them may be waiting. `Busy` while the clock is
        in doubt.
        """
        self._runtime.require_client()
        self._runtime.clocks.require_trusted_database()
        if not dry_run:
            self.recover()
        result = reconcile.reconcile(
            self._runtime, self._lists, control=self._control, dry_run=dry_run, reason=reason
        )
        if result.adopted and not (dry_run or result.stopped):
            self.recover()
        return result

    def is_look_due(self) -> bool:
        """Return whether the provider's list may show a young doubt that no whole scan has looked for."""
        return bool(look.due_lists(self._runtime, self._lists))

    def look(self) -> look.LookResult:
        """Adopt young doubts that a few pages of the provider's list show; return the counts."""
        return look.look(self._runtime, self._lists, self._control)

    def count_pools(self) -> pool_usage.PoolUsageResult:
        """Count the live bindings of each pool and warn about low ones; return the counts."""
        runtime = self._runtime
        return pool_usage.count_pools(runtime.database, runtime.caller, share=runtime.settings.pool_low_share)

    def update_statistics(self) -> statistics.StatisticsResult:
        """Count the events that are not counted yet, and return how many."""
        return statistics.update_statistics(
            self._runtime.database, control=self._control, clock=self._runtime.clock
        )

    @property
    def has_seal_key(self) -> bool:
        """Return whether this process has the key that seals the history."""
        return self._runtime.seal_key is not None

    def seal_events(self) -> seal.SealResult:
        """Seal the events that are not sealed yet, and return the counts. `InvalidRequest` without a key."""
        runtime = self._runtime
        return seal.seal_events(
            runtime.database,
            runtime.require_seal_key(),
            runtime.caller,
            anchor_command=runtime.settings.anchor_command,
            control=self._control,
            clock=runtime.clock,
        )

    def apply_retention(self, *, dry_run: bool = False) -> retention.RetentionResult:
        """Delete what is older than the settings keep, and expired sessions; return the counts.

        `Busy` if the database's clock cannot be trusted.
        """
        runtime = self._runtime
        if not dry_run:
            runtime.clocks.require_trusted_database()
            runtime.database.write(sessions.delete_expired)
        keep_days = runtime.settings.retention_days
        return retention.apply_retention(
            runtime.database,
            runtime.caller,
            keep_days,
            control=self._control,
            dry_run=dry_run,
            clock=runtime.clock,
        )

    def mark_restored(self, *, waive: bool = False, head: str | None = None) -> None:
        """Record that the database was restored: binds wait for a full scan, or with `waive` no longer do."""
        caller = self._runtime.caller

        def work(tx: Transaction) -> None:
            if waive:
                account.waive_scan(tx, caller)
            else:
                account.require_full_scan(tx, caller, RestoreCause.STATED, head=head)

        self._runtime.database.write(work)
