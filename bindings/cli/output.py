"""Output of results: JSON for programs, tables for people. Data goes to stdout, messages go to stderr.

Phones are masked unless `revealed` is set; the command has then recorded the reveal. Nothing here calls the
service.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from bindings.domain.serialization import to_plain
from bindings.domain.text import replace_control_characters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from bindings.domain.binding import Binding
    from bindings.domain.hold import PhoneHold

GAP = "  "
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NO_COLOURS: Mapping[str, str] = {}


def message(text: str) -> None:
    """Print a message on stderr, if that can be written: a full disk must not keep a service from starting."""
    with suppress(OSError):
        click.echo(text, err=True)


def emit(value: Any, *, revealed: bool = False) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(to_plain(value, revealed=revealed)))


def emit_list(data: Iterable[Any], *, next_cursor: str | None = None, revealed: bool = False) -> None:
    """Print a list on stdout as one JSON object, `{"data": [...], "next_cursor": ...}`."""
    emit({"data": list(data), "next_cursor": next_cursor}, revealed=revealed)


def format_instant(at: datetime | None) -> str:
    """Return a time for people, in UTC, to the second; "-" if there is none."""
    return "-" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def escape_unprintable(value: Any) -> str:
    """Return the text with control characters replaced: stored text must not control the terminal."""
    return replace_control_characters(str(value), "?")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, colours: Mapping[str, str] = NO_COLOURS
) -> None:
    """Print rows under a heading: with rich in a terminal, else as plain aligned text.

    In a terminal that is too narrow, rows that have an id are printed with one field per line, so that no id is
    broken. `colours` are those of cells with these texts; a terminal without colours, or with NO_COLOR set, shows
    none.
    """
    if sys.stdout.isatty():
        if _width(columns, rows) > shutil.get_terminal_size().columns and any(map(UUID.search, chain(*rows))):
            _print_fields(columns, rows)
        else:
            _rich_table(columns, rows, colours)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(GAP.join(cells).rstrip())


def _print_fields(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    width = max(map(len, columns))
    for number, row in enumerate(rows):
        if number:
            click.echo()
        for column, cell in zip(columns, row, strict=True):
            click.echo(f"{column.ljust(width)}{GAP}{cell}")


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], colours: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rich_table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        rich_table.add_column(column, overflow="fold")
    for row in rows:
        rich_table.add_row(*(Text(cell, style=colours.get(cell, "")) for cell in row))
    Console(highlight=False).print(rich_table)


def record(value: Any, *, as_json: bool, revealed: bool = False) -> None:
    """Print one record: as a JSON object, or one field per line."""
    show = emit if as_json else details
    show(value, revealed=revealed)


def details(record: Any, *, revealed: bool = False) -> None:
    """Print one record, one field per line; fields that are not set are left out."""
    values = to_plain(record, revealed=revealed)
    width = max(map(len, values))
    for name, value in values.items():
        if value is not None:
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            click.echo(f"{name.ljust(width)}{GAP}{escape_unprintable(text)}")


def next_page(cursor: str | None) -> None:
    """Print on stderr how to list the page after this one, if there is one."""
    if cursor is not None:
        message(f"There are more: add --cursor {cursor}")


def bindings(
    records: Sequence[Binding], *, revealed: bool = False, extra: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Print bindings, one per line; in a terminal that is too narrow, in three lines each, or one field per line.

    `extra` are further columns, by heading; they come first.
    """
    first_columns = extra or {}
    flat = list(_prepend(first_columns, (_flat_row(binding, revealed=revealed) for binding in records)))
    columns = [*first_columns, "REQUESTED", "ID", "STATE", "REASON", "MODE", "POOL", "PHONES", "MIDDLE"]
    columns += ["EXPIRES", "REFERENCE"]
    if not sys.stdout.isatty() or _width(columns, flat) <= shutil.get_terminal_size().columns:
        table(columns, flat)
        return
    stacked = _prepend(first_columns, (_stacked_row(binding, revealed=revealed) for binding in records))
    stacked_columns = [*first_columns, "BINDING", "STATE", "REQUESTED, EXPIRES"]
    stacked_rows = list(stacked)
    if _width(stacked_columns, stacked_rows) <= shutil.get_terminal_size().columns:
        table(stacked_columns, stacked_rows)
    else:
        table(columns, flat)


def replacements(records: Iterable[Binding]) -> None:
    """Print which of these bindings replace another one, and which have a successor."""
    for binding in records:
        if binding.replaces is not None:
            click.echo(f"{binding.id} replaces {binding.replaces}")
        if binding.replaced_by is not None:
            click.echo(f"{binding.id} has the successor {binding.replaced_by}")


def holds(records: Iterable[PhoneHold]) -> None:
    """Print holds, each with its cause and its end; phones are masked always."""
    for hold in records:
        state = "held" if hold.in_force else "was held"
        until = f"until {format_instant(hold.held_until)}"
        click.echo(f"{hold.phone} {state} {until}, first {format_instant(hold.first_held_at)}")
        for name in ("why", "cause", "binding_id", "bind_id", "app_id", "ends_by"):
            value = getattr(hold, name)
            if value is not None:
                click.echo(f"{GAP}{name.ljust(10)}{GAP}{escape_unprintable(value)}")


def _prepend(columns: Mapping[str, Sequence[str]], rows: Iterable[list[str]]) -> Iterator[list[str]]:
    for position, row in enumerate(rows):
        yield [*(column[position] for column in columns.values()), *row]


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    widths = (max(map(len, "\n".join(column).split("\n"))) for column in zip(columns, *rows, strict=True))
    return sum(widths) + len(GAP) * (len(columns) - 1)


def _flat_row(binding: Binding, *, revealed: bool) -> list[str]:
    a, b = _phones(binding, revealed=revealed)
    numbers = dict.fromkeys((binding.middle_number_a, binding.middle_number_b))
    return [
        format_instant(binding.requested_at),
        binding.id,
        binding.state,
        _reason(binding) or "-",
        binding.mode,
        escape_unprintable(binding.pool_number),
        f"{a} {b}",
        escape_unprintable(" ".join(number for number in numbers if number) or "-"),
        format_instant(binding.expires_at),
        escape_unprintable(binding.reference or "-"),
    ]


def _stacked_row(binding: Binding, *, revealed: bool) -> list[str]:
    a, b = _phones(binding, revealed=revealed)
    pairs = ((a, binding.middle_number_a), (b, binding.middle_number_b))
    parties = [f"{GAP}{phone} sees {escape_unprintable(number or '-')}" for phone, number in pairs]
    state = f"{binding.state} {_reason(binding)}".rstrip()
    times = (format_instant(at) for at in (binding.requested_at, binding.expires_at))
    return [
        "\n".join([binding.id, *parties]),
        f"{state}\n{binding.mode}\n{escape_unprintable(binding.pool_number)}",
        "\n".join([*times, escape_unprintable(binding.reference or "-")]),
    ]


def _reason(binding: Binding) -> str:
    """Return the provider's status and the reason of the state, as far as there are any."""
    return escape_unprintable(" ".join(filter(None, (binding.provider_status, binding.reason))))


def _phones(binding: Binding, *, revealed: bool) -> tuple[str, str]:
    a, b = (to_plain(phone, revealed=revealed) for phone in (binding.phone_a, binding.phone_b))
    return a, b


def spinner(text: str, *, as_json: bool) -> AbstractContextManager[Any]:
    """Return a context manager that shows progress in a terminal; elsewhere it shows nothing."""
    if as_json or not sys.stderr.isatty():
        from contextlib import nullcontext

        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
