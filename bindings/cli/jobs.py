"""Commands that run one job and print its result, and `reports`, which lists the results of reconciliations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bindings.cli import context, options, output
from bindings.jobs.registry import EXPIRE, POOLS, RECONCILE, RECOVER, RETENTION, SEAL, WARN

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.cli.options import RawValue
    from bindings.jobs.reconcile import ReconcileResult
    from bindings.jobs.registry import Counts_co, JobSpec
    from bindings.store.pools import Pool

LIST_NOT_READ = 5  # exit code, as for other calls without a response of the provider
ZONE_MISMATCH = 1
DELETED_COUNTS = ("bindings", "refusals", "events", "holds", "reports", "deliveries", "partitions")
CASE_COLUMNS = ("case", "action", "binding_id", "bind_id")
REPORT_COUNTS = (
    "scans",
    "adopted",
    "absent",
    "ghosts",
    "orphans",
    "revenants",
    "drifted",
    "holds_ended",
    "observed",
    "unresolved",
)


CONTINUOUSLY = "`bindings scheduler` runs this job continuously."


def job_command(job: JobSpec[Any], *details: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator for the command of a job: its name and the first line of its help are the registry's."""
    return click.command(name=job.command, help="\n\n".join([f"{job.summary} {CONTINUOUSLY}", *details]))


def _run(job: JobSpec[Counts_co], *, as_json: bool) -> Counts_co:
    from bindings.jobs.runner import JobRunner

    with context.open_service(as_json=as_json) as service:
        return JobRunner(service.runtime).run(job)


@job_command(EXPIRE)
@options.as_json
def expire(*, as_json: bool) -> None:
    """Run `expire` and print its counts."""
    result = _run(EXPIRE, as_json=as_json)
    if as_json:
        output.emit(result)
        return
    click.echo(f"expired: {result.expired}")
    if not result.finished:
        output.message("There are more bindings to expire: run the command again.")


@job_command(WARN)
@options.as_json
def warn(*, as_json: bool) -> None:
    """Run `warn` and print its counts."""
    result = _run(WARN, as_json=as_json)
    if as_json:
        output.emit(result)
        return
    click.echo(f"announced: {result.warned}")
    if not result.finished:
        output.message("There are more bindings to announce: run the command again.")


@job_command(SEAL, "Needs BINDINGS_SEAL_KEY_FILE: `bindings audit new-key` writes such a file.")
@options.as_json
def seal(*, as_json: bool) -> None:
    """Run `seal` and print its counts."""
    result = _run(SEAL, as_json=as_json)
    if as_json:
        output.emit(result)
        return
    click.echo(f"sealed: {result.events}  seals: {result.seals}  head: {result.head or '-'}")
    if not result.finished:
        output.message("There are more events to seal: run the command again.")


@job_command(
    POOLS,
    "CAPACITY is the number in use when the provider last had no number left (-41), until more are in use. For a"
    " pool that is low, a pool_low event was written.",
)
@options.as_json
def pools(*, as_json: bool) -> None:
    """Run `pools` and list the pools."""
    with context.open_service(as_json=as_json) as service:
        service.count_pools()
        pools_in_use = service.pools()
    if as_json:
        output.emit_list(pools_in_use)
        return
    if not pools_in_use:
        output.message("No pool is in use. To bind: bindings bind --help")
        return
    rows = [
        (
            output.escape_unprintable(pool.pool_number),
            output.escape_unprintable(pool.app_id),
            str(pool.live),
            *_capacity_cells(pool),
        )
        for pool in pools_in_use
    ]
    output.table(["POOL", "APP", "LIVE", "CAPACITY", ""], rows)


def _capacity_cells(pool: Pool) -> tuple[str, str]:
    return "unknown" if pool.capacity is None else str(pool.capacity), "low" if pool.low_at else ""


@job_command(RECOVER)
@options.as_json
def recover(*, as_json: bool) -> None:
    """Run `recover` and print its counts."""
    with context.open_service(as_json=as_json) as service:
        result = service.recover()
    if as_json:
        output.emit(result)
        return
    counts = f"in doubt: {result.in_doubt}  lapsed: {result.lapsed}  unbound: {result.unbound}"
    click.echo(f"{counts}  released: {result.released}  never sent: {result.never_sent}")
    if result.still_unclear:
        output.message(
            f"{result.still_unclear} unbind(s) have no clear response yet; run the command again later."
        )
    if result.never_sent:
        output.message(
            f"{result.never_sent} replace(s) had stopped before the new binding was sent; they may be repeated."
        )


@job_command(
    RECONCILE,
    "SIGTERM or Ctrl-C ends it after the current page; its report is stored, and the next run does the rest.",
    "Exits with 5 if no list could be read completely, or if it was stopped. Exits with 1 if the provider's times"
    " do not match BINDINGS_PROVIDER_ZONE; in this case nothing is concluded from the list.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@options.as_json
@click.pass_context
def reconcile(command: click.Context, *, dry_run: bool, as_json: bool) -> None:
    """Run `reconcile` and print its counts."""
    with (
        context.open_service(as_json=as_json) as service,
        output.spinner("reading the provider's list ...", as_json=as_json),
        context.stop_on_signal() as stop,
    ):
        result = service.reconcile(dry_run=dry_run, stop=stop)
    if as_json:
        output.emit(result)
    else:
        _show_result(result)
    if result.zone_misfit_s:
        command.exit(ZONE_MISMATCH)
    if result.stopped or (result.scans and result.incomplete == result.scans):
        command.exit(LIST_NOT_READ)


@job_command(RETENTION, "Without this setting nothing is deleted.")
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted.")
@options.as_json
def retention(*, dry_run: bool, as_json: bool) -> None:
    """Run `retention` and print its counts."""
    with context.open_service(as_json=as_json) as service:
        result = service.apply_retention(dry_run=dry_run)
    if as_json:
        output.emit(result)
        return
    counts = "  ".join(f"{name}: {getattr(result, name)}" for name in DELETED_COUNTS)
    click.echo(("would delete " if dry_run else "deleted ") + counts)
    if result.kept_from is None:
        output.message("BINDINGS_RETENTION_DAYS is not set: everything is kept.")
    if result.partitions_waiting:
        output.message(
            f"{result.partitions_waiting} partition(s) are kept: a binding that stays, or a webhook, needs them."
        )
    if result.owner_needed:
        output.message("Nothing was deleted: only the owner of the tables may; run the command as that role.")
    if not result.finished:
        output.message("There is more to delete: run the command again.")


class ReportsGroup(click.Group):
    """The group of `reports`; without a command it lists them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `list` unless the first argument is a command or asks for help."""
        is_named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if is_named else ["list", *args])


@click.group(cls=ReportsGroup, no_args_is_help=False)
def reports() -> None:
    """List the reports of reconciliations, or show one."""


@reports.command()
@click.argument("report_id", metavar="ID")
@options.as_json
def show(report_id: str, *, as_json: bool) -> None:
    """Show one report of a reconciliation, case by case."""
    with context.open_service(as_json=as_json) as service:
        report = service.report(report_id)
    if as_json:
        output.emit(report)
        return
    times = {"started": report.began_at, "finished": report.finished_at}
    facts = {"id": report.id} | {name: output.format_instant(at) for name, at in times.items()}
    output.details(facts | {"by": report.actor} | report.counts)
    if not report.cases:
        output.message("No differences found.")
        return
    click.echo()
    rows = [[*(_case_cell(case, name) for name in CASE_COLUMNS), _case_details(case)] for case in report.cases]
    output.table([*(name.upper().replace("_", " ") for name in CASE_COLUMNS), "DETAILS"], rows)


def _case_cell(case: dict[str, Any], name: str) -> str:
    value = case.get(name) or (case.get("origin_id") if name == "binding_id" else None)
    return output.escape_unprintable(value or "-")


def _case_details(case: dict[str, Any]) -> str:
    column_names = (*CASE_COLUMNS, "origin_id")
    pairs = (f"{name}={value}" for name, value in case.items() if name not in column_names and value is not None)
    return output.escape_unprintable(" ".join(pairs) or "-")


@reports.command("list")
@options.cursor
@options.limit(20)
@options.as_json
def list_(*, cursor: str | None, limit: RawValue, as_json: bool) -> None:
    """List the reports of reconciliations, newest first. --json includes every case."""
    with context.open_service(as_json=as_json) as service:
        page = service.reports(cursor=cursor, limit=limit)
    if as_json:
        output.emit(page)
        return
    if not page.data:
        output.message("No reconciliation has run yet: `bindings reconcile` runs one.")
        return
    output.table(
        ["ID", "STARTED", "BY", *(name.upper().replace("_", " ") for name in REPORT_COUNTS)],
        [
            [
                report.id,
                output.format_instant(report.began_at),
                report.actor,
                *(str(report.counts.get(name, 0)) for name in REPORT_COUNTS),
            ]
            for report in page.data
        ],
    )
    output.next_page(page.next_cursor)


def _show_result(result: ReconcileResult) -> None:
    counts = [name for name in REPORT_COUNTS if name != "observed"]  # a remark says it
    output.table(
        [name.upper().replace("_", " ") for name in counts],
        [[str(getattr(result, name)) for name in counts]],
    )
    for remark in _remarks(result):
        output.message(output.escape_unprintable(remark))


def _remarks(result: ReconcileResult) -> list[str]:
    remarks = []
    if result.dry_run:
        remarks.append("Dry run: nothing was changed; the report is stored.")
    if not result.apps:
        remarks.append("No application to reconcile: set BINDINGS_PROVIDER_APP_ID, or bind first.")
    if result.stopped:
        remarks.append("Stopped by a signal: what was not done is left to the next run.")
    if result.zone_misfit_s:
        remarks.append(
            f"The provider's times are {result.zone_misfit_s:+.0f} s from ours: check BINDINGS_PROVIDER_ZONE."
        )
    remarks += _scan_remarks(result)
    if result.revenants:
        remarks.append(
            f"{result.revenants} ended here but live at the provider: `bindings unbind ID` ends it there."
        )
    if result.observed:
        remarks.append(f"{result.observed} only observed, as BINDINGS_ON_... says: `bindings reports` lists them.")
    if result.unresolved:
        remarks.append(
            f"{result.unresolved} unresolved: `bindings doubts` lists them; time resolves them at the latest."
        )
    return remarks


def _scan_remarks(result: ReconcileResult) -> list[str]:
    remarks = [f"Note: {note}." for note in result.notes]
    causes = "; ".join(result.faults)
    if result.incomplete:
        remarks.append(f"{result.incomplete} of {result.scans} scans are incomplete: {causes}.")
    elif result.unproved:
        remarks.append(f"{result.unproved} of {result.scans} scans prove no absence: {causes}.")
    elif result.failures:
        remarks.append(f"{result.failures} rows or bindings could not be handled: {causes}.")
    return remarks
