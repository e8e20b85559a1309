"""Options that several commands share, and option types that leave wrong values to the service.

Text that is not a number stays text, so that the service finds all field errors of a call and names the fields.
Imports nothing heavy: `--help` uses this module.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Command = Callable[..., None]

SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
MAX_LINE = 1_000  # characters; a phone has 20 digits
RawValue: TypeAlias = Any  # an option as it was typed, or None: the service checks its type and its value


class WholeNumber(click.ParamType[Any]):
    """An int if the text is one; any other text is left for the service to refuse."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Return an int for up to 18 ASCII digits (no value may have more), else the text."""
        return int(value) if re.fullmatch(r"[+-]?[0-9]{1,18}", str(value), re.ASCII) else value


class Number(click.ParamType[Any]):
    """A float if the text is one; any other text is left for the service to refuse."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Return a float, or the text if it is not a number."""
        try:
            return float(value)
        except ValueError:
            return value


class PhoneNumber(click.ParamType[Any]):
    """A phone. `-` is the next line of standard input: other users of the host see the options of a command."""

    name = "phone"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Return the text of the option, or that of the next line."""
        if value != "-":
            return value
        return _next_line(field="phone" if param is None or param.name is None else param.name)


class PhoneOnInput(PhoneNumber):
    """A phone that only standard input may have: the command is kept in the history of a shell."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the next line."""
        from bindings.errors import InvalidRequest

        if value != "-":
            message = "must be -, for a line of standard input: other users see the options of a command"
            raise InvalidRequest.of_field("phone", message)
        return super().convert(value, param, ctx)


class FilePath(click.ParamType[Any]):
    """The path of a file, in the form in which this locale names it."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Return the text that was read (`decode`) as the path that was typed."""
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            return os.fsdecode(value.encode())
        return value


class PointInTime(click.ParamType[Any]):
    """A time, or how long ago it was: 24h, 7d, 90min, 30s. The service reads any other text."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Return the time that long ago by the clock of this host, or the text if it is no such length."""
        match = re.fullmatch(r"([0-9]{1,6})(s|min|h|d)", str(value), re.ASCII)
        if match is None:
            return value
        from datetime import UTC, datetime, timedelta

        return datetime.now(UTC) - timedelta(seconds=int(match[1]) * SECONDS[match[2]])


def decode(argument: str) -> str:
    """Return an argument of the command line as text.

    Bytes that are no text in the encoding of the locale are read as UTF-8: in the locale C it is ASCII if the
    UTF-8 mode of Python is off. What is not UTF-8 either is left as it is.
    """
    try:
        argument.encode()
    except UnicodeEncodeError:  # it has surrogates, in the place of such bytes
        with suppress(UnicodeDecodeError):
            return os.fsencode(argument).decode()
    return argument


def time_option(*names: str, help_text: str) -> Callable[[Command], Command]:
    """Return an option for a time, which may be written as how long ago it was."""
    return click.option(*names, type=PointInTime(), metavar="TIME", help=help_text)


def _next_line(*, field: str) -> str:
    from bindings.errors import InvalidRequest

    if sys.stdin.isatty():
        click.echo(f"{field}: ", nl=False, err=True)
    try:
        line = sys.stdin.readline(MAX_LINE)
    except UnicodeDecodeError:
        raise InvalidRequest.of_field(field, "is -, and standard input is not text in UTF-8") from None
    if not line:
        raise InvalidRequest.of_field(field, "is -, and standard input has no line for it")
    return line.strip().removeprefix("\ufeff")


def phone_option(*names: str, help_text: str) -> Callable[[Command], Command]:
    """Return an option for a phone, which may be `-`. Each `-` takes a line, in the order of the command line."""
    return click.option(*names, type=PhoneNumber(), metavar="DIGITS|-", help=help_text)


phone_on_input = click.option(
    "--phone", type=PhoneOnInput(), metavar="-", help="The real phone: - for a line of standard input."
)


def port(value: object) -> int:
    """Return a port to listen on; 0 is any free port."""
    if not isinstance(value, int) or not 0 <= value <= 65_535:  # noqa: PLR2004 -- the range of ports
        raise ValueError("must be a whole number from 0 to 65535")
    return value


as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object. Errors are problem objects on stderr."
)

binding_id = click.argument("binding_id", metavar="ID")

cursor = click.option("--cursor", help="Continue after the page that returned this cursor.")


def limit(default: int = 50) -> Callable[[Command], Command]:
    """Return an option for the number of rows of a page."""
    return click.option("--limit", type=WholeNumber(), default=default, show_default=True, help="1 to 200.")


def reveal_options(command: Command) -> Command:
    """Add `--reveal --reason TEXT`; the command gets `reveal_reason` (None: phones stay masked)."""

    @click.option("--reveal", is_flag=True, help="Show full phone numbers. Recorded with your user name.")
    @click.option("--reason", metavar="TEXT", help="Reason for showing full phone numbers. Requires --reveal.")
    @functools.wraps(command)
    def with_reveal_reason(*args: Any, reveal: bool, reason: str | None, **options: Any) -> None:
        command(*args, reveal_reason=_reveal_reason(reveal=reveal, reason=reason), **options)

    return with_reveal_reason


def _reveal_reason(*, reveal: bool, reason: str | None) -> str | None:
    from bindings.errors import InvalidRequest
    from bindings.validation import requests as validation

    if not reveal and reason is None:
        return None
    if not reveal:
        raise InvalidRequest.of_field("reveal", "is needed with --reason: pass both or neither")
    if reason is None:
        raise InvalidRequest.of_field("reason", "is needed with --reveal: it is recorded")
    return validation.reason(reason)


@contextmanager
def report_missing(**values: RawValue) -> Iterator[None]:
    """Report a field whose value is None as "is needed", instead of what its value must be."""
    with _map_field_errors(
        lambda field, message: (field, "is needed" if values.get(field, ...) is None else message)
    ):
        yield


@contextmanager
def rename_fields(**option_names: str) -> Iterator[None]:
    """Report field errors under the name of the option, if it differs from the argument of the call."""
    with _map_field_errors(lambda field, message: (option_names.get(field, field), message)):
        yield


@contextmanager
def _map_field_errors(convert: Callable[[str, str], tuple[str, str]]) -> Iterator[None]:
    from bindings.errors import FieldError, InvalidRequest

    try:
        yield
    except InvalidRequest as invalid:
        raise InvalidRequest(
            [FieldError(*convert(error.field, error.message)) for error in invalid.field_errors]
        ) from None
