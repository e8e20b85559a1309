"""Runs one job, for the scheduler and the command line: the clock check, the heartbeat, once per period.

A job never runs while the database's clock cannot be trusted: what a wrong clock ends stays ended.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from bindings import telemetry
from bindings.jobs.maintenance import Maintenance
from bindings.jobs.provider_lists import ProviderLists
from bindings.store import job_runs

if TYPE_CHECKING:
    from bindings.jobs.registry import Counts_co, JobSpec
    from bindings.jobs.run_control import RunControl
    from bindings.lifecycle.runtime import Runtime

HEARTBEAT_INTERVAL_S = 5.0  # a durable write in every run of `expire` would cost more than the run


class JobRunner:
    """Runs jobs over one runtime. Use one for each scheduler.

    It remembers the last heartbeat of each job, and what its scans have learned of the provider's lists.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lists = ProviderLists(runtime.settings.scan_calls_per_s, runtime.clock)
        self._last_heartbeats: dict[str, float] = {}

    def run(self, job: JobSpec[Counts_co], control: RunControl | None = None) -> Counts_co:
        """Run a job now and return its counts. `Busy` if the database's clock cannot be trusted."""
        self._runtime.clocks.require_trusted_database()
        counts = _run(job, self._maintenance(control))
        if job.heartbeat:
            self._record_heartbeat(job.name)
        return counts

    def run_once_per_period(
        self, job: JobSpec[Counts_co], period_s: float, control: RunControl | None = None
    ) -> Counts_co | None:
        """Run a job unless it has no work or another replica has claimed this period.

        Returns its counts, or None if it was not run. A run that was stopped gives its period back: the next
        process that looks runs the job again. A job that reads the provider's list is not run while this process
        knows that the list is refused. `Busy` if the database's clock cannot be trusted.
        """
        self._runtime.clocks.require_trusted_database()
        client = self._runtime.client
        if job.reads_list and client is not None and client.circuits.page.rejects:
            return None
        maintenance = self._maintenance(control)
        if not job.has_work(maintenance):
            return None
        database, replica = self._runtime.database, self._runtime.replica
        slot = database.write(lambda tx: job_runs.claim_slot(tx, job.name, period_s, replica))
        if slot is None:
            return None
        counts = _run(job, maintenance)
        if getattr(counts, "stopped", False):
            database.write(lambda tx: job_runs.release_slot(tx, job.name, slot, replica))
        else:
            database.write(lambda tx: job_runs.finish(tx, job.name, slot, asdict(counts)))
        return counts

    def _maintenance(self, control: RunControl | None) -> Maintenance:
        return Maintenance(self._runtime, control, self._lists)

    def _record_heartbeat(self, name: str) -> None:
        now = self._runtime.clock.monotonic()
        if now - self._last_heartbeats.get(name, float("-inf")) > HEARTBEAT_INTERVAL_S:
            replica = self._runtime.replica
            self._runtime.database.write(lambda tx: job_runs.record_heartbeat(tx, name, replica))
            self._last_heartbeats[name] = now


def _run(job: JobSpec[Counts_co], maintenance: Maintenance) -> Counts_co:
    with telemetry.job_span(job.name):
        return job.run(maintenance)
