"""expire, warn, pools, recover, reconcile, retention: one pass each, and what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bindings.cli import context as session
from bindings.cli import options, output

if TYPE_CHECKING:
    from bindings.jobs.reconcile import ReconcileResult
    from bindings.store.pools import Pool

NOT_READ = 5  # as for any call that the provider did not answer
NOT_CONCLUDED = 1
RETAINED = ("bindings", "events", "holds", "reports", "deliveries", "partitions")
REPORTED = ("scans", "adopted", "absent", "ghosts", "orphans", "drifted", "holds_ended", "observed", "unresolved")


@click.command()
@options.as_json
def expire(*, as_json: bool) -> None:
    """Mark what is over as expired; `bindings scheduler` does so all the time."""
    with session.open_service(as_json=as_json) as service:
        done = service.sweep()
    if as_json:
        output.emit(done)
        return
    click.echo(f"expired: {done.expired}")
    if not done.finished:
        output.message("There is more that is over: run it again.")


@click.command()
@options.as_json
def warn(*, as_json: bool) -> None:
    """Announce the ends that are near; `bindings scheduler` does so all the time."""
    with session.open_service(as_json=as_json) as service:
        done = service.announce()
    if as_json:
        output.emit(done)
        return
    click.echo(f"announced: {done.warned}")
    if not done.finished:
        output.message("There is more to announce: run it again.")


@click.command()
@options.as_json
def pools(*, as_json: bool) -> None:
    """Count what lives in each pool and list them; `bindings scheduler` counts every minute.

    CAPACITY is what the provider lists, or what was live when it last had no number left; a pool that is low
    was announced by a pool_low event.
    """
    with session.open_service(as_json=as_json) as service:
        service.count_pools()
        found = service.pools()
    if as_json:
        output.emit({"data": found, "next_cursor": None})
        return
    rows = [
        (
            output.escape_unprintable(pool.pool_number),
            output.escape_unprintable(pool.app_id),
            str(pool.live),
            *_room(pool),
        )
        for pool in found
    ]
    output.table(["POOL", "APP", "LIVE", "CAPACITY", ""], rows)


def _room(pool: Pool) -> tuple[str, str]:
    return "not known" if pool.capacity is None else str(pool.capacity), "low" if pool.low_at else ""


@click.command()
@options.as_json
def recover(*, as_json: bool) -> None:
    """Finish what a crash or a lost reply left open, as far as that needs no scan."""
    with session.open_service(as_json=as_json) as service:
        done = service.recover()
    if as_json:
        output.emit(done)
        return
    click.echo(f"in doubt: {done.in_doubt}  lapsed: {done.lapsed}  unbound: {done.unbound}")
    if done.still_unclear:
        output.message(f"{done.still_unclear} unbind(s) have no clear answer yet; run it again later.")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what it would do.")
@options.as_json
@click.pass_context
def reconcile(context: click.Context, *, dry_run: bool, as_json: bool) -> None:
    """Compare with the provider's own list and mend what differs.

    Exits with 5 where no list could be read to its end, and with 1 where the provider's times do not fit the
    zone setting: nothing is concluded then.
    """
    with (
        session.open_service(as_json=as_json) as service,
        output.spinner("reading the provider's list ...", as_json=as_json),
    ):
        done = service.reconcile(dry_run=dry_run)
    if as_json:
        output.emit(done)
    else:
        _show(done)
    if done.zone_misfit_s:
        context.exit(NOT_CONCLUDED)
    if done.scans and done.incomplete == done.scans:
        context.exit(NOT_READ)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@options.as_json
def retention(*, dry_run: bool, as_json: bool) -> None:
    """Delete what has been over for longer than BINDINGS_RETENTION_DAYS; begin the month's partition of events.

    Without that setting nothing is deleted. `bindings scheduler` does it all the time.
    """
    with session.open_service(as_json=as_json) as service:
        done = service.apply_retention(dry_run=dry_run)
    if as_json:
        output.emit(done)
        return
    what = "  ".join(f"{name}: {getattr(done, name)}" for name in RETAINED)
    click.echo(("would delete " if dry_run else "deleted ") + what)
    if done.kept_from is None:
        output.message("BINDINGS_RETENTION_DAYS is not set: everything is kept.")
    if done.partitions_waiting:
        output.message(f"{done.partitions_waiting} partition(s) wait for a binding that stays, or for a webhook.")
    if done.owner_needed:
        output.message("Partitions of events need the owner of the tables: run it as that role.")
    if not done.finished:
        output.message("There is more to do: run it again.")


@click.command()
@click.option("--cursor", help="Go on where an earlier list ended.")
@click.option("--limit", type=options.WholeNumber(), default=20, show_default=True, help="1 to 200.")
@options.as_json
def reports(*, cursor: str | None, limit: Any, as_json: bool) -> None:
    """List what reconciliations found, newest first; --json tells every case."""
    options.validation().filters(cursor=cursor, limit=limit)
    with session.open_service(as_json=as_json) as service:
        page = service.reports(cursor=cursor, limit=limit)
    if as_json:
        output.emit(page)
        return
    if not page.data:
        output.message("No reconciliation has run yet: `bindings reconcile` runs one.")
        return
    output.table(
        ["BEGAN", "BY", *(name.upper().replace("_", " ") for name in REPORTED)],
        [
            [
                output.format_instant(report.began_at),
                report.actor,
                *(str(report.counts.get(name, 0)) for name in REPORTED),
            ]
            for report in page.data
        ],
    )
    if page.next_cursor is not None:
        output.message(f"There are more: add --cursor {page.next_cursor}")


def _show(done: ReconcileResult) -> None:
    output.table(
        ["SCANS", "ADOPTED", "ABSENT", "GHOSTS", "ORPHANS", "DRIFTED", "HOLDS ENDED", "UNRESOLVED"],
        [
            [
                str(number)
                for number in (
                    done.scans,
                    done.adopted,
                    done.absent,
                    done.ghosts,
                    done.orphans,
                    done.drifted,
                    done.holds_ended,
                    done.unresolved,
                )
            ]
        ],
    )
    for line in _remarks(done):
        output.message(output.escape_unprintable(line))


def _remarks(done: ReconcileResult) -> list[str]:
    remarks = []
    if done.dry_run:
        remarks.append("Dry run: nothing was changed; the report is stored.")
    if not done.apps:
        remarks.append("No application to ask about: set BINDINGS_PROVIDER_APP_ID, or bind something first.")
    if done.zone_misfit_s:
        remarks.append(
            f"The provider's times lie {done.zone_misfit_s:+.0f} s from ours: check BINDINGS_PROVIDER_ZONE."
        )
    if done.incomplete:
        why = "; ".join(done.faults) or "rows were missing"
        remarks.append(f"{done.incomplete} of {done.scans} scans did not come to their end: {why}.")
    if done.observed:
        remarks.append(f"{done.observed} only observed, as BINDINGS_ON_... says: `bindings reports` tells which.")
    if done.unresolved:
        remarks.append(
            f"{done.unresolved} open: `bindings doubts` lists them; they resolve by time at the latest."
        )
    return remarks
