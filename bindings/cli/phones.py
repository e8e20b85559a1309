"""phones: encrypt the stored phones, rotate their keys, show how they are stored, and make a blind index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.cli.options import RawValue
    from bindings.jobs.phone_sealing import SealingResult

STILL_IN_DIGITS = (
    "Digits may still be in backups and WAL from before, and in dead rows until VACUUM FULL (SQLite: VACUUM)."
)


@click.group(no_args_is_help=False)
def phones() -> None:
    """Encrypt the stored phones, rotate their keys, and show how phones are stored."""


@phones.command("new-keys")
@click.argument("file", type=options.FilePath(), metavar="FILE")
@options.as_json
def new_keys(*, file: str, as_json: bool) -> None:
    """Write new keys for phones to a new file that only its owner may read. Needs no database.

    Keep a copy apart from the backups of the database: without the keys no phone can be read or found.
    """
    context.configure_logging(as_json=as_json)
    from pathlib import Path

    from bindings.store import phone_key_source

    phone_key_source.write_new(Path(file))
    if as_json:
        output.emit({"file": file, "keys": ["index:1", "data:1"]})
        return
    click.echo(file)
    output.message(
        "Keep a copy apart from the backups of the database, and set BINDINGS_PHONE_KEYS_FILE for every process."
    )


@phones.command()
@click.option("--dry-run", is_flag=True, help="Only count the rows that would be converted.")
@options.as_json
def seal(*, dry_run: bool, as_json: bool) -> None:
    """Encrypt every stored phone with the keys, or go on with what is left. Safe to repeat and to interrupt.

    The service keeps running. It is refused while a process that uses the database lacks the keys. Run it as the
    owner of the tables.
    """
    _convert("seal", dry_run=dry_run, as_json=as_json)


@phones.command()
@click.option("--dry-run", is_flag=True, help="Only count the rows that would be converted.")
@options.as_json
def rotate(*, dry_run: bool, as_json: bool) -> None:
    """Move every stored phone to a newer index key or data key. If interrupted, `bindings phones seal` goes on.

    First add the newer key beside the older one for every process, one kind at a time.
    """
    _convert("rotate", dry_run=dry_run, as_json=as_json)


@phones.command()
@options.as_json
def status(*, as_json: bool) -> None:
    """Show how phones are stored, by table and key, and the next step. Reads every row."""
    from bindings.jobs import phone_sealing

    with context.open_service(as_json=as_json) as service, output.spinner("counting ...", as_json=as_json):
        report = phone_sealing.report(service.runtime)
    if as_json:
        output.emit(report)
        return
    if report.index_key is None:
        click.echo("phones are written in digits")
    else:
        click.echo(f"phones are written with index key {report.index_key} and data key {report.data_key}")
    names = list(next(iter(report.rows.values())))
    output.table(
        ["TABLE", *(name.upper() for name in names)],
        [[table, *(str(count[name]) for name in names)] for table, count in report.rows.items()],
    )
    if report.replicas_without_keys:
        output.message(f"processes that lack the keys: {', '.join(report.replicas_without_keys)}")
    if report.next_step is not None:
        output.message(f"next: {report.next_step}")


@phones.command()
@click.argument("phone", type=options.PhoneNumber(), metavar="DIGITS|-")
@click.option("--reason", metavar="TEXT", help="Why the blind index is needed. It is recorded.")
@options.as_json
def index(*, phone: RawValue, reason: str | None, as_json: bool) -> None:
    """Print the blind index of a phone under each index key, for SQL that looks for it; - reads it from stdin.

    It is recorded with your user name and the reason, as when full phones are shown.
    """
    from bindings.jobs import phone_sealing

    with context.open_service(as_json=as_json) as service, options.report_missing(reason=reason):
        indexes = phone_sealing.blind_indexes(service.runtime, phone, reason=reason)
    if as_json:
        output.emit(indexes)
        return
    for blind_index in indexes.values():
        click.echo(blind_index)


def _convert(name: str, *, dry_run: bool, as_json: bool) -> None:
    from bindings.jobs import phone_sealing

    convert: Callable[..., SealingResult] = {"seal": phone_sealing.seal, "rotate": phone_sealing.rotate}[name]
    with (
        context.open_service(as_json=as_json, connect=True) as service,
        output.spinner("converting ...", as_json=as_json) as spinner,
    ):

        def show(count: int, total: int) -> None:
            if spinner is not None:
                spinner.update(f"converting: {count} of {max(count, total)} rows")

        result = convert(service.runtime, dry_run=dry_run, on_progress=show)
    if as_json:
        output.emit(result)
        return
    for table, count in (result.remaining if dry_run else result.converted).items():
        click.echo(f"{table}: {count} {'to convert' if dry_run else 'converted'}")
    if dry_run:
        return
    if result.complete:
        click.echo(f"every phone is encrypted with index key {result.index_key} and data key {result.data_key}")
        output.message(STILL_IN_DIGITS)
    else:
        click.echo("rows are left to convert: run `bindings phones seal` again")
    if result.removable:
        output.message(f"no row needs these keys any more: {', '.join(result.removable)}")
