"""export: every binding or event as CSV or NDJSON, streamed; memory stays flat whatever the size.

A file appears whole or not at all, readable by its owner only.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bindings.cli import context, options, output
from bindings.domain.serialization import FORMATS, batches, field_names, format_lines, header_line, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

TELL_EVERY = 1_000


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
@options.reveal_options
def bindings(*, since: str | None, until: str | None, why: str | None, as_json: bool, **to: Any) -> None:
    """Export bindings by the time of their request, oldest first."""
    from bindings.domain.binding import Binding

    kind = _kind(to["kind"], as_json=as_json)
    _check_period(since, until)
    with context.open_service(as_json=as_json) as service:
        if why is not None:
            service.reveal([], reason=why, what=f"export of bindings from {since or '-'} to {until or '-'}")
        rows = service.export_bindings(since=since, until=until)
        shown = (to_plain(row, revealed=why is not None) for row in rows)
        _write(shown, field_names(Binding), kind, to["output"], "bindings")


@export.command()
@_exported
def events(*, since: str | None, until: str | None, as_json: bool, **to: Any) -> None:
    """Export events by their time, in the order of the change feed. They hold no phones."""
    from bindings.domain.binding import Event

    kind = _kind(to["kind"], as_json=as_json)
    _check_period(since, until)
    with context.open_service(as_json=as_json) as service:
        rows = map(to_plain, service.export_events(since=since, until=until))
        _write(rows, field_names(Event), kind, to["output"], "events")


def _kind(given: str | None, *, as_json: bool) -> str:
    kind = given or ("ndjson" if as_json else "csv")
    if kind in FORMATS and not (as_json and kind == "csv"):
        return kind
    from bindings.errors import FieldError, InvalidRequest

    raise InvalidRequest([FieldError("format", "must be csv or ndjson; --json goes with ndjson")])


def _check_period(since: str | None, until: str | None) -> None:
    """Refuse a wrong time before anything is recorded or written."""
    from bindings.validation import requests as validation

    validation.period(since=since, until=until)


def _write(rows: Iterable[dict[str, Any]], names: list[str], kind: str, path: str | None, what: str) -> None:
    with _destination(path) as out:
        out.write(header_line(names, kind))
        count = 0
        for batch in batches(rows, TELL_EVERY):
            out.write(format_lines(batch, names, kind))
            count += len(batch)
            if path and sys.stderr.isatty():
                click.echo(f"\r{count:,} {what} so far", err=True, nl=False)
    if path and count >= TELL_EVERY and sys.stderr.isatty():
        click.echo("\r", err=True, nl=False)
    output.message(f"{count} {what} exported{f' to {path}' if path else ''}")


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
    from bindings.errors import FieldError, InvalidRequest

    if target.exists() and not target.is_file():
        raise InvalidRequest([FieldError("output", "must be a file: it is a folder or a device")])
    try:
        return tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InvalidRequest([FieldError("output", f"cannot be written: {error.strerror}")]) from None
