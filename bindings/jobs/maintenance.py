"""One pass of each kind, whoever calls: the timer, a command, or a host application.

What a pass does stands in `passes`; here it gets what it needs, and the clock is looked at before anything ends by
it. Every pass is safe to repeat and to run in any number of processes. No SQL, no HTTP and no timer stand here.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from bindings import errors
from bindings.access.sessions import Sessions
from bindings.domain.conflict import Policy
from bindings.errors import FieldError, InvalidRequest
from bindings.jobs import expire, expiry_warnings, reconcile, recover, retention, statistics
from bindings.jobs import pool_usage as pools
from bindings.lifecycle.admission import BindAdmission
from bindings.lifecycle.queries import Queries
from bindings.provider.client import ProviderClient
from bindings.store import account, job_runs, queries, reserve
from bindings.store.rollback_detection import RollbackDetector
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding, Caller
    from bindings.settings import Settings
    from bindings.store.database import Database

TOUCH_EVERY_S = 5.0  # a durable write per sweep would cost more than the sweep

Counts = TypeVar(
    "Counts",
    expire.Expired,
    recover.RecoverResult,
    reconcile.ReconcileResult,
    retention.RetentionResult,
    pools.PoolUsageResult,
    statistics.StatisticsResult,
)


class Maintenance(Queries):
    """The passes over one database and one provider account, and what they and a bind share.

    `BindingService` is what to open.
    """

    def __init__(self, config: Settings, database: Database, *, caller: Caller) -> None:
        terms = reserve.BindLimits(
            scope=config.scope,
            policy=Policy(config.conflict_policy),
            call_timeout_s=config.provider_timeout_s,
            tolerance_s=config.timestamp_tolerance_s,
            guard_for=config.guard_for,
            warn_s=config.warn_s,
        )
        super().__init__(config, database, terms)
        self._caller = caller
        self._replica = f"{socket.gethostname()}:{os.getpid()}"
        self._swept = _LastHeartbeat()
        self._memory = RollbackDetector()
        self._client = _client(config)
        self._admission = BindAdmission(database, self._client, limit=config.bind_limit)

    def expire_due(self) -> expire.Expired:
        """Mark what is over as expired. Safe to repeat and side by side."""
        return expire.expire_due(self._database, self._caller)

    def sweep(self) -> expire.Expired:
        """`expire_due` for the timer: it also records, now and then, that sweeps are alive.

        `Busy` under a database clock that cannot be believed: what a wrong clock ends stays ended.
        """
        self._require_trusted_clock()
        counts = self.expire_due()
        if time.monotonic() - self._swept.at > TOUCH_EVERY_S:
            self._database.write(lambda tx: job_runs.record_heartbeat(tx, "expire", self._replica))
            self._swept.at = time.monotonic()
        return counts

    def warn_due(self) -> expiry_warnings.ExpiryWarningsResult:
        """Write the `expires_soon` events that are due. Safe to repeat and side by side."""
        return expiry_warnings.warn(self._database, self._caller)

    def announce(self) -> expiry_warnings.ExpiryWarningsResult:
        """`warn_due` for the timer. `Busy` under a database clock that cannot be believed."""
        self._require_trusted_clock()
        return self.warn_due()

    def count_pools(self) -> pools.PoolUsageResult:
        """Count what lives in each pool, and write a `pool_low` event where little is left. Safe to repeat."""
        share = self.settings.pool_low_share
        return pools.count(self._database, self._client, self._caller, share=share)

    def mark_restored(self, *, waive: bool = False) -> None:
        """Say that the database was restored from a backup: binds wait until a full reconciliation is through.

        Run it before any replica starts on the restored database. With `waive` they wait no longer: for an
        account whose list cannot be read; what was bound since the backup may then be met as a -35. Safe to
        repeat.
        """
        self._database.write(account.waive_scan if waive else account.require_full_scan)

    def run_once_per_period(self, task: str, period_s: float, run: Callable[[], Counts]) -> Counts | None:
        """Run a pass unless another replica has taken this period's row already; for the timer only.

        None, and nothing done, where one has. `Busy` where the database's clock cannot be believed.
        """
        self._require_trusted_clock()
        slot = self._database.write(lambda tx: job_runs.claim_slot(tx, task, period_s, self._replica))
        if slot is None:
            return None
        counts = run()
        self._database.write(lambda tx: job_runs.finish(tx, task, slot, asdict(counts)))
        return counts

    def compare_clocks(self) -> None:
        """Read the database's clock and hold it against this host's. Safe to repeat; `Busy` where it is away."""
        self._admission.observe_database_clock(self._database.clock(), time.monotonic())

    def _require_trusted_clock(self) -> None:
        self.compare_clocks()
        fault = self._admission.database_clock_error()
        if fault is not None:
            raise errors.Busy(f"{fault}: nothing was ended; put it right, or restart where it is right by now")

    def recover(self) -> recover.RecoverResult:
        """Finish what a crash or a lost reply left open, as far as that needs no scan. Safe to repeat."""
        return recover.recover(
            self._database, self._client, self.settings.guard_for, self._caller, scope=self.settings.scope
        )

    def reconcile(self, *, dry_run: bool = False, reason: str | None = None) -> reconcile.ReconcileResult:
        """Recover, then compare with the provider's own list and mend what differs. Always scans.

        With `dry_run` it only says what it would do. A `reason` goes into the report. Safe to repeat.
        """
        why = validation.optional_reason(reason)
        client = self._provider()
        if not dry_run:
            self.recover()
        began = self._database.clock()
        owed = account.full_scan_required_since(self._database) is not None
        # What a restored database does not know may belong to any application that was ever in use.
        app_ids = set(self._database.read(queries.all_apps if owed else queries.open_apps))
        if self.settings.provider_app_id is not None:
            app_ids.add(self.settings.provider_app_id)
        reconciler = reconcile.Reconciler(
            database=self._database,
            provider=client,
            caller=self._caller,
            scope=self.settings.scope,
            tolerance_s=self.settings.timestamp_tolerance_s,
            guard_for=self.settings.guard_for,
            calls_per_s=self.settings.scan_calls_per_s,
            actions=reconcile.Actions(
                doubt=self.settings.on_doubt,
                ghost=self.settings.on_ghost,
                # With a scan owed it is not known whether an orphan is one: a binding of ours may have been lost.
                orphan="hold" if owed else self.settings.on_orphan,
                drift=self.settings.on_drift,
            ),
            dry_run=dry_run,
            reason=why,
        )
        counts = reconciler.run(sorted(app_ids), began=began)
        if counts.adopted and not dry_run:
            self.recover()  # an adopted binding may have a wish to be unbound waiting
        return counts

    def apply_retention(self, *, dry_run: bool = False) -> retention.RetentionResult:
        """Delete what has been over for BINDINGS_RETENTION_DAYS; begin the month's partition of events.

        Sessions and searches of the console that are over go in any case. With `dry_run` it only counts. Without
        the setting nothing else is deleted. Safe to repeat and side by side.
        """
        if not dry_run:
            self._require_trusted_clock()
            Sessions(self._database).delete_expired()
        return retention.apply_retention(self._database, self.settings.retention_days, dry_run=dry_run)

    def tally(self) -> statistics.StatisticsResult:
        """Count what happened since the last time, for the console's charts. Safe to repeat and side by side."""
        return statistics.update_statistics(self._database)

    def _guard(self, binding: Binding) -> float:
        return self.settings.guard_for(binding.expire_s)

    def _provider(self) -> ProviderClient:
        if self._client is None:
            needed = ("provider_api_key", "provider_api_secret")
            missing = [name for name in needed if getattr(self.settings, name) is None]
            raise InvalidRequest(
                [FieldError(f"BINDINGS_{name.upper()}", "is needed to call the provider") for name in missing]
            )
        return self._client


@dataclass(slots=True)
class _LastHeartbeat:
    """When this process last recorded a sweep; shared by the services that `acting` makes."""

    at: float = float("-inf")


def _client(config: Settings) -> ProviderClient | None:
    key, secret = config.provider_api_key, config.provider_api_secret
    if key is None or secret is None:
        return None
    return ProviderClient(
        base_url=config.provider_url,
        api_key=key.get_secret_value(),
        api_secret=secret.get_secret_value(),
        timeout_s=config.provider_timeout_s,
        zone=config.provider_zone,
    )
