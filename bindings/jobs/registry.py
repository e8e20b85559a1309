"""The list of jobs, which the scheduler, the runner and the command line read.

To add a job, write its module, a method of `Maintenance`, and an entry here. Three jobs have a shorter name than
their module: `warn` (`expiry_warnings`), `pools` (`pool_usage`) and `tally` (`statistics`). The job `deliver` is
not in the list: it belongs to `webhooks` and needs the extra `server`; the scheduler adds it. Imports nothing
heavy: `--help` reads this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

    from bindings.jobs.maintenance import Maintenance
    from bindings.settings import Settings


Counts_co = TypeVar("Counts_co", bound="DataclassInstance", covariant=True)


class Runs(Enum):
    """Which replicas run a job."""

    EVERY_REPLICA = "every replica, sharing the work"
    ONE_REPLICA = "one replica per interval"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec(Generic[Counts_co]):
    """One job: its name in logs, metrics and the table `passes`, what it does in one sentence, and how it runs.

    `run` returns the job's counts. With `heartbeat` the end of a run is recorded in the database
    every few seconds, which readiness and `doctor` read. With `reads_list` the timer does not run it without an
    account, nor while the provider refuses its list. `has_work` is asked before a period is claimed: without work
    nothing is written. `command` is its command, `bindings COMMAND`; None if it has none.
    """

    name: str
    summary: str
    run: Callable[[Maintenance], Counts_co]
    interval_s: Callable[[Settings], float]
    runs: Runs
    command: str | None
    heartbeat: bool = False
    reads_list: bool = False
    has_work: Callable[[Maintenance], bool] = lambda _: True


EXPIRE = JobSpec(
    name="expire",
    summary="Mark bindings past their end as expired.",
    run=lambda maintenance: maintenance.expire_due(),
    interval_s=lambda settings: settings.sweep_interval_s,
    runs=Runs.EVERY_REPLICA,
    command="expire",
    heartbeat=True,
)
WARN = JobSpec(
    name="warn",
    summary="Write the expires_soon event of each binding that ends soon.",
    run=lambda maintenance: maintenance.warn_due(),
    interval_s=lambda settings: settings.sweep_interval_s,
    runs=Runs.EVERY_REPLICA,
    command="warn",
)
RECOVER = JobSpec(
    name="recover",
    summary=(
        "Settle binds, repeat unbinds that a crash or a lost response left open, and end expired bindings that the"
        " provider holds for longer, without a scan."
    ),
    run=lambda maintenance: maintenance.recover(),
    interval_s=lambda settings: settings.recover_interval_s,
    runs=Runs.ONE_REPLICA,
    command="recover",
)
POOLS = JobSpec(
    name="pools",
    summary="Count the live bindings of each pool, and warn before a pool runs out of numbers.",
    run=lambda maintenance: maintenance.count_pools(),
    interval_s=lambda _: 60.0,
    runs=Runs.ONE_REPLICA,
    command="pools",
)
TALLY = JobSpec(
    name="tally",
    summary="Count events for the console's charts.",
    run=lambda maintenance: maintenance.update_statistics(),
    interval_s=lambda _: 10.0,
    runs=Runs.ONE_REPLICA,
    command=None,
)
RETENTION = JobSpec(
    name="retention",
    summary="Delete what ended more than BINDINGS_RETENTION_DAYS ago; create the month's partition of events.",
    run=lambda maintenance: maintenance.apply_retention(),
    interval_s=lambda _: 60.0,
    runs=Runs.ONE_REPLICA,
    command="retention",
)
SEAL = JobSpec(
    name="seal",
    summary="Sign the events that are not sealed yet, so that a later change of them shows.",
    run=lambda maintenance: maintenance.seal_events(),
    interval_s=lambda _: 10.0,
    runs=Runs.ONE_REPLICA,
    command="seal",
    has_work=lambda maintenance: maintenance.has_seal_key,
)
LOOK = JobSpec(
    name="look",
    summary="Adopt young doubts that a few pages of the provider's list show.",
    run=lambda maintenance: maintenance.look(),
    interval_s=lambda settings: settings.look_interval_s,
    runs=Runs.ONE_REPLICA,
    command=None,
    reads_list=True,
    has_work=lambda maintenance: maintenance.is_look_due(),
)
RECONCILE = JobSpec(
    name="reconcile",
    summary="Compare with the provider's own list, and correct what differs.",
    run=lambda maintenance: maintenance.reconcile(),
    interval_s=lambda settings: settings.reconcile_interval_s,
    runs=Runs.ONE_REPLICA,
    command="reconcile",
    reads_list=True,
)

JOBS = (EXPIRE, WARN, RECOVER, POOLS, TALLY, SEAL, RETENTION, LOOK, RECONCILE)
