"""erase: erase a person's phone, and repeat erasures after a restore."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from bindings.access.erasure import ErasureResult, ReplayResult
    from bindings.cli.options import RawValue

COPIES = (
    "Copies remain: deleted rows until VACUUM FULL (SQLite: VACUUM), WAL, backups, standbys, exports and logs, and"
    " what webhook receivers and the provider have."
)


@click.command()
@options.phone_on_input
@click.option("--reason", metavar="TEXT", help="Reason; recorded for good: do not name the person. Required.")
@click.option("--ticket", metavar="ID", help="Id of the request for erasure; recorded with each binding.")
@click.option("--dry-run", is_flag=True, help="Only count what would be erased.")
@click.option("--replay", is_flag=True, help="After a restore: repeat the erasures of the journal instead.")
@options.as_json
@click.pass_context
def erase(
    command: click.Context,
    *,
    phone: RawValue,
    reason: str | None,
    ticket: str | None,
    dry_run: bool,
    replay: bool,
    as_json: bool,
) -> None:
    """Erase a person's phone from ended bindings, with references, keys and reasons that may name the person.

    bindings erase --phone - --reason "request 17" < phone.txt

    The other party of each binding stays, and so does the binding. The command exits with 3 while a binding or a
    hold of the phone is open, and names it: `bindings unbind ID` ends it. Before the first change it writes to the
    file BINDINGS_ERASURE_JOURNAL, without the phone. Run it as the owner of the tables. Safe to repeat.

    With --replay, run it after a restore and before any replica starts: it erases again what the restore has
    brought back. It exits with 1 if an erasure must wait because a binding is open in the restored database.
    """
    with context.open_service(as_json=as_json) as service:
        if replay:
            _require_no_options(phone=phone, reason=reason, ticket=ticket, dry_run=dry_run or None)
            result = service.erasure.replay()
            _show_replay(result, as_json=as_json)
            command.exit(1 if result.open else 0)
        with options.report_missing(phone=phone, reason=reason):
            erased = service.erasure.erase(
                phone=phone, reason=reason or "", ticket=ticket, dry_run=dry_run, on_progress=_report_progress
            )
    _show(erased, as_json=as_json)


def _require_no_options(**values: RawValue) -> None:
    from bindings.errors import FieldError, InvalidRequest

    fields = [name for name, value in values.items() if value is not None]
    if fields:
        message = "cannot be used with --replay, which repeats every erasure of the journal"
        raise InvalidRequest([FieldError(name, message) for name in fields])


def _report_progress(bindings: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{bindings:,} bindings so far", err=True, nl=False)


def _show(result: ErasureResult, *, as_json: bool) -> None:
    if as_json:
        output.emit(result)
        return
    if sys.stderr.isatty() and not result.dry_run:
        click.echo("\r", err=True, nl=False)
    verb = "Would be erased" if result.dry_run else "Erased"
    click.echo(
        f"{verb}: the phone in {result.bindings} binding(s), {result.texts} text(s) of events, {result.refusals}"
        f" refused bind(s), {result.holds} ended hold(s), {result.searches} search(es)."
    )
    if result.old_events:
        click.echo(
            f"{result.old_events} event(s) of an earlier version keep a reference or a reason: no event changes."
        )
    if not result.dry_run:
        output.message(f"Request id of its events: {result.id}")
        output.message(COPIES)


def _show_replay(result: ReplayResult, *, as_json: bool) -> None:
    if as_json:
        output.emit(result)
        return
    click.echo(
        f"{result.entries} erasure(s) in the journal: {result.complete} carried out before, {result.erased}"
        f" repeated ({result.bindings} binding(s)), {result.open} waiting."
    )
    if result.open:
        output.message(
            "A binding that was ended when it was erased is open in this database. Run `bindings expire` and"
            " `bindings reconcile`, and then `bindings erase --replay` again."
        )
