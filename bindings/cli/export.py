"""export: every binding or event as CSV or NDJSON, streamed; memory stays flat whatever the size.

A file appears whole or not at all, readable by its owner only.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bindings.cli import options, output, session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

FORMULA = tuple("=+-@\t\r")  # what a spreadsheet would run
TELL_EVERY = 1_000
FORMATS = ("csv", "ndjson")


@click.group(no_args_is_help=False)
def export() -> None:
    """Stream every binding, or every event, to a file or to stdout."""


def _exported(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        options.as_json,
        click.option("--output", "-o", metavar="FILE", help="Write FILE, whole or not at all."),
        click.option("--format", "kind", metavar="csv|ndjson", help="Default csv; with --json ndjson."),
        click.option("--to", "until", metavar="TIME", help="Only before this time."),
        click.option("--from", "since", metavar="TIME", help="Only at or after this time."),
    ):
        command = option(command)
    return command


@export.command()
@_exported
@options.revealing
def bindings(*, since: str | None, until: str | None, why: str | None, as_json: bool, **to: Any) -> None:
    """Export bindings by the time of their request, oldest first."""
    from bindings.binding import Binding

    kind = _kind(to["kind"], as_json=as_json)
    _check_period(since, until)
    with session.opened(as_json=as_json) as service:
        if why is not None:
            service.reveal([], reason=why, what=f"export of bindings from {since or '-'} to {until or '-'}")
        rows = service.export_bindings(since=since, until=until)
        shown = (output.plain(row, revealed=why is not None) for row in rows)
        _write(shown, output.names_of(Binding), kind, to["output"], "bindings")


@export.command()
@_exported
def events(*, since: str | None, until: str | None, as_json: bool, **to: Any) -> None:
    """Export events by their time, in the order of the change feed. They hold no phones."""
    from bindings.binding import Event

    kind = _kind(to["kind"], as_json=as_json)
    _check_period(since, until)
    with session.opened(as_json=as_json) as service:
        rows = map(output.plain, service.export_events(since=since, until=until))
        _write(rows, output.names_of(Event), kind, to["output"], "events")


def _kind(given: str | None, *, as_json: bool) -> str:
    kind = given or ("ndjson" if as_json else "csv")
    if kind in FORMATS and not (as_json and kind == "csv"):
        return kind
    from bindings.errors import Fault, InvalidRequest

    raise InvalidRequest([Fault("format", "must be csv or ndjson; --json goes with ndjson")])


def _check_period(since: str | None, until: str | None) -> None:
    """Refuse a wrong time before anything is recorded or written."""
    from bindings import validation

    validation.period(since=since, until=until)


def _write(rows: Iterable[dict[str, Any]], names: list[str], kind: str, path: str | None, what: str) -> None:
    with _destination(path) as out:
        put = _csv(out, names) if kind == "csv" else _ndjson(out)
        count = 0
        for count, row in enumerate(rows, 1):
            put(row)
            if path and count % TELL_EVERY == 0 and sys.stderr.isatty():
                click.echo(f"\r{count:,} {what} so far", err=True, nl=False)
    if path and count >= TELL_EVERY and sys.stderr.isatty():
        click.echo("\r", err=True, nl=False)
    output.say(f"{count} {what} exported{f' to {path}' if path else ''}")


def _csv(out: TextIO, names: list[str]) -> Callable[[dict[str, Any]], object]:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    return lambda row: writer.writerow([_cell(row[name]) for name in names])


def _cell(value: Any) -> str:
    """A cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _ndjson(out: TextIO) -> Callable[[dict[str, Any]], object]:
    return lambda row: out.write(json.dumps(row) + "\n")


@contextmanager
def _destination(path: str | None) -> Iterator[TextIO]:
    if path is None or path == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    target = Path(path)
    descriptor, temporary = _beside(target)  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as out:  # noqa: PTH123 -- it is a descriptor
            yield out
            out.flush()
            os.fsync(descriptor)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _beside(target: Path) -> tuple[int, str]:
    """A new file in the target's folder, so that putting it in place is one step."""
    from bindings.errors import Fault, InvalidRequest

    if target.exists() and not target.is_file():
        raise InvalidRequest([Fault("output", "must be a file: it is a folder or a device")])
    try:
        return tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InvalidRequest([Fault("output", f"cannot be written: {error.strerror}")]) from None
