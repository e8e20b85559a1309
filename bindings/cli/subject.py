"""subject: every row about one person, in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bindings.cli import context, export, options, output

if TYPE_CHECKING:
    from bindings.cli.options import RawValue


@click.command()
@options.phone_on_input
@click.option("--reason", metavar="TEXT", help="Reason; recorded with each binding. Required.")
@click.option(
    "--output",
    "-o",
    "path",
    type=options.FilePath(),
    metavar="FILE",
    help="File to write, readable by you only. Required.",
)
@options.as_json
def subject(*, phone: RawValue, reason: str | None, path: str | None, as_json: bool) -> None:
    """Write every row about a person's phone to a file, as NDJSON, for the answer to an access request.

    bindings subject --phone - --reason "request 18" -o person.ndjson < phone.txt

    The file has the bindings with their events, refused binds, holds, searches of the console, and exports that
    may have had one of the bindings. The phone is in full, the other party's is masked. Each binding is recorded
    as revealed. If it fails, no file is written.
    """
    from bindings.store.subject import VIEW
    from bindings.validation import requests as validation

    with context.open_service(as_json=as_json) as service:
        with options.report_missing(phone=phone, reason=reason, output=path):
            checked_path, checked_reason = validation.subject(phone=phone, reason=reason, output=path)
        records = service.subject_access.records(phone=phone, reason=checked_reason)
        row_count = export.write_records(service, records, view=VIEW, path=checked_path, reason=checked_reason)
    if as_json:
        output.emit({"rows": row_count, "file": checked_path})
