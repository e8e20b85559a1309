"""access-log: who saw or searched for full phones, exported lists, and did administrative acts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output
from bindings.domain.access_log import HELP

if TYPE_CHECKING:
    from bindings.cli.options import RawValue
    from bindings.domain.access_log import AccessLogEntry


@click.command("access-log")
@click.option("--kind", help=HELP["kind"])
@click.option("--actor", help=HELP["actor"])
@click.option("--key-id", metavar="ID", help=HELP["key_id"])
@click.option("--binding-id", metavar="ID", help=HELP["binding_id"])
@click.option("--reason-prefix", metavar="TEXT", help=HELP["reason_prefix"])
@options.time_option("--since", help_text=HELP["since"])
@options.time_option("--until", help_text=HELP["until"])
@options.cursor
@options.limit()
@options.as_json
def access_log(*, as_json: bool, **filters: RawValue) -> None:
    """List reveals, searches by a phone, exports and administrative acts, newest first.

    With a filter other than the period, one call looks at a limited number of entries, and says back to which
    time.
    """
    with context.open_service(as_json=as_json) as service:
        page = service.access_log.entries(**filters)
    if as_json:
        output.emit(page)
        return
    if page.data:
        columns = ["AT", "KIND", "ACTOR", "KEY", "WHAT", "REASON", "ROWS"]
        output.table(columns, [_row(entry) for entry in page.data])
    elif page.searched_to is None:
        output.message("No entry of the access log matches.")
    if page.searched_to is not None:
        at = output.format_instant(page.searched_to)
        output.message(f"Entries back to {at} were looked at. Older ones: add --cursor {page.next_cursor}")
    else:
        output.next_page(page.next_cursor)


def _row(entry: AccessLogEntry) -> list[str]:
    subject = entry.reference or entry.binding_id
    described = entry.description if subject is None else f"{entry.description} {subject}"
    if not entry.complete:
        described += " (incomplete)"
    return [
        output.format_instant(entry.at),
        entry.kind,
        output.escape_unprintable(entry.actor),
        entry.key_id or "-",
        output.escape_unprintable(described),
        output.escape_unprintable(entry.reason or "-"),
        "-" if entry.row_count is None else str(entry.row_count),
    ]
