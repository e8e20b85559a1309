"""export: bindings or events as CSV or NDJSON, streamed; memory use does not grow with the number of rows.

A file is written completely or not at all, also if a signal ends the export, and only its owner can read it. Every
export is in the access log, with the number of rows and the SHA-256 of what was written.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bindings import end_signals
from bindings.cli import context, options, output
from bindings.domain.record_lines import FORMATS, LineEncoder, json_lines
from bindings.domain.serialization import batches, field_names, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sized
    from datetime import datetime
    from gzip import GzipFile
    from typing import IO

    from bindings.service import BindingService

Batch = TypeVar("Batch", bound="Sized")

_FOLDERS_OF_STREAMS = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))
COMPRESS_LEVEL = 1  # six times as fast as the default level, for a file that is a fifth larger


@click.group(no_args_is_help=False)
def export() -> None:
    """Stream all bindings, or all events, to a file or to stdout.

    CSV is for spreadsheets: it begins with the mark of UTF-8, and an apostrophe keeps ids and phones as text.
    Programs read NDJSON.
    """


_output_option = click.option(
    "--output",
    "-o",
    "path",
    type=options.FilePath(),
    metavar="FILE",
    help="Write to FILE, compressed if it ends with .gz. If the export fails, no file is written.",
)


def _export_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        options.as_json,
        _output_option,
        click.option("--format", "row_format", metavar="csv|ndjson", help="Default: csv; with --json: ndjson."),
        options.time_option("--to", "--until", "until", help_text="Only before this time; later than --from."),
        options.time_option("--from", "--since", "since", help_text="Only at or after this time."),
    ):
        command = option(command)
    return command


@export.command()
@_export_options
@options.reveal_options
def bindings(
    *,
    since: str | datetime | None,
    until: str | datetime | None,
    row_format: str | None,
    path: str | None,
    reveal_reason: str | None,
    as_json: bool,
) -> None:
    """Export bindings in the order of their request time, oldest first.

    TIME is a time with a zone, such as 2026-11-23T14:32:00Z, or how long ago it was: 90min, 24h or 7d.
    """
    from bindings.domain.binding import Binding
    from bindings.domain.search_filters import Order, SearchFilters
    from bindings.validation import requests as validation

    chosen_format = _row_format(row_format, as_json=as_json)
    period = validation.period(since=since, until=until)  # before the reveal is recorded
    revealed = reveal_reason is not None
    with context.open_service(as_json=as_json, connect=True) as service:
        if reveal_reason is not None:
            service.access_log.record_reveal_of_period(since=period[0], until=period[1], reason=reveal_reason)
        encoder = LineEncoder(field_names(Binding), chosen_format)
        total = (
            service.binding_list.count_requested(since=period[0], until=period[1])
            if _shows_progress(path)
            else None
        )
        with _record_export(service, "bindings", period, chosen_format, reveal_reason) as written:
            requested = SearchFilters(requested_from=period[0], requested_to=period[1])
            batches_of_rows = service.binding_list.export(requested, order=Order.OLDEST, file_format=chosen_format)
            lines = partial(encoder.lines, revealed=revealed)
            _write(batches_of_rows, lines, path, written, header=encoder.header, noun="bindings", total=total)


@export.command()
@_export_options
def events(
    *,
    since: str | datetime | None,
    until: str | datetime | None,
    row_format: str | None,
    path: str | None,
    as_json: bool,
) -> None:
    """Export events of a period, in the order of the change feed. Events contain no phones.

    TIME is a time with a zone, such as 2026-11-23T14:32:00Z, or how long ago it was: 90min, 24h or 7d.
    """
    from bindings.domain.binding import Event
    from bindings.validation import requests as validation

    chosen_format = _row_format(row_format, as_json=as_json)
    period = validation.period(since=since, until=until)  # before the file is created
    with context.open_service(as_json=as_json, connect=True) as service:
        encoder = LineEncoder(field_names(Event), chosen_format)
        with _record_export(service, "events", period, chosen_format, None) as written:
            batches_of_rows = service.event_list.export(since=period[0], until=period[1])
            _write(batches_of_rows, encoder.lines, path, written, header=encoder.header, noun="events")


def write_records(
    service: BindingService, records: Iterable[dict[str, Any]], *, view: str, path: str, reason: str
) -> int:
    """Write plain records to a file as NDJSON, record the export, and return how many there were."""
    with _record_export(service, view, (None, None), "ndjson", reason) as written:
        _write(batches(records), json_lines, path, written, noun="rows")
    return written.row_count


@export.command(name="sealed-events")
@options.as_json
@_output_option
def sealed_events(*, path: str | None, as_json: bool) -> None:
    """Export every event as it is sealed, as NDJSON: with digests in place of texts that may name a person.

    Events that are not sealed yet are in the file too. With `bindings export seals` and the public key, `bindings
    audit verify` needs nothing else.
    """
    _export_sealed(path, "sealed-events", lambda service: service.export_sealed_events(), as_json=as_json)


@export.command()
@options.as_json
@_output_option
def seals(*, path: str | None, as_json: bool) -> None:
    """Export every seal, as NDJSON."""
    _export_sealed(path, "seals", lambda service: map(to_plain, service.export_seals()), as_json=as_json)


def _export_sealed(
    path: str | None, view: str, read: Callable[[BindingService], Iterable[dict[str, Any]]], *, as_json: bool
) -> None:
    with (
        context.open_service(as_json=as_json, connect=True) as service,
        _record_export(service, view, (None, None), "ndjson", None) as written,
    ):
        _write(batches(read(service)), json_lines, path, written, noun=view.removeprefix("sealed-"))


def _row_format(option: str | None, *, as_json: bool) -> str:
    from bindings.errors import InvalidRequest

    row_format = option or ("ndjson" if as_json else "csv")
    if row_format in FORMATS and not (as_json and row_format == "csv"):
        return row_format
    raise InvalidRequest.of_field("format", "must be csv or ndjson; with --json it must be ndjson")


class _WrittenFile:
    """The number of rows and the SHA-256 of an export, for its manifest."""

    def __init__(self) -> None:
        self.row_count = 0
        self.digest = hashlib.sha256()


class _HashedFile:
    """A file whose bytes are added to the hash of an export as they are written."""

    def __init__(self, out: IO[bytes], written: _WrittenFile) -> None:
        self._out = out
        self._written = written
        self.flush = out.flush

    def write(self, data: bytes) -> int:
        """Write bytes, and add them to the hash."""
        self._written.digest.update(data)
        return self._out.write(data)


@contextmanager
def _record_export(
    service: BindingService,
    view: str,
    period: tuple[datetime | None, datetime | None],
    row_format: str,
    reason: str | None,
) -> Iterator[_WrittenFile]:
    """Record an export in the access log before it starts, and its size and hash after it has ended."""
    log, (since, until) = service.access_log, period
    filters = {"from": to_plain(since), "to": to_plain(until)}
    export_id = log.start_export(view=view, filters=filters, format=row_format, reason=reason)
    written = _WrittenFile()
    yield written
    log.finish_export(export_id, row_count=written.row_count, sha256=written.digest.hexdigest())


def _write(
    record_batches: Iterable[Batch],
    lines: Callable[[Batch], str],
    path: str | None,
    written: _WrittenFile,
    *,
    noun: str,
    header: str = "",
    total: int | None = None,
) -> None:
    """Write the lines of the records; `total` is how many records there were shortly before.

    A batch is hashed, compressed and written on a thread, while the next one is read and encoded: a thread that
    encodes would wait for the interpreter as long as this one.
    """
    with _destination(path, written) as write, ThreadPoolExecutor(1) as writer:
        batch_before = writer.submit(write, header)
        for batch in record_batches:
            text = lines(batch)
            batch_before.result()
            batch_before = writer.submit(write, text)
            written.row_count += len(batch)
            if _shows_progress(path):
                click.echo(f"\r{_progress(written.row_count, total)} {noun}", err=True, nl=False)
        batch_before.result()
    if written.row_count and _shows_progress(path):
        click.echo("\r", err=True, nl=False)
    output.message(f"{written.row_count} {noun} exported{f' to {path}' if path else ''}")


def _shows_progress(path: str | None) -> bool:
    return path is not None and path != "-" and sys.stderr.isatty()


def _progress(row_count: int, total: int | None) -> str:
    if total is None or row_count > total:
        return f"{row_count:,}"
    return f"{row_count:,} of {total:,} ({row_count / total:.0%})"


@contextmanager
def _destination(path: str | None, written: _WrittenFile) -> Iterator[Callable[[str], object]]:
    """Provide a function that writes text to the file, compressed if its name ends with .gz, or to stdout."""
    if path is None or path == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # the same bytes as in a file, in any locale
        yield partial(_write_to_stdout, written)
        sys.stdout.flush()
        return
    target = _target(path)
    # As Ctrl-C does: the file that is not finished is removed.
    numbers = end_signals.with_default_effect("SIGTERM", "SIGHUP")
    with end_signals.handle(numbers, signal.default_int_handler):
        descriptor, temporary = _temporary_file(target)  # mode 0600
        try:
            with open(descriptor, "wb") as out:  # noqa: PTH123 -- it is a descriptor
                hashed = _HashedFile(out, written)
                with _gzip_file(hashed) if path.endswith(".gz") else nullcontext(hashed) as file:
                    yield lambda text: file.write(text.encode())
                out.flush()
                os.fsync(descriptor)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _write_to_stdout(written: _WrittenFile, text: str) -> None:
    written.digest.update(text.encode())
    sys.stdout.write(text)


def _gzip_file(out: _HashedFile) -> GzipFile:
    import gzip

    return gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESS_LEVEL, fileobj=out, mtime=0)


def _target(path: str) -> Path:
    """Return the file to replace: that of a symbolic link, so that the link stays."""
    from bindings.errors import InvalidRequest

    named = Path(path)
    target = Path(os.path.realpath(named)) if named.is_symlink() else named  # `resolve` fails at a loop of links
    # Standard output may be a regular file, which would be replaced under the program that has it open.
    is_stream = named.absolute().parent in _FOLDERS_OF_STREAMS or target.is_relative_to("/proc")
    if is_stream or (target.exists() and not target.is_file()):
        message = "must be a regular file: it is a folder, a device or a stream (- is standard output)"
        raise InvalidRequest.of_field("output", message)
    return target


def _temporary_file(target: Path) -> tuple[int, str]:
    """Create a file in the target's folder, so that replacing the target is atomic."""
    from bindings.errors import InvalidRequest

    try:
        return tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InvalidRequest.of_field("output", f"must be writable: {error.strerror}") from None
