"""Options that several commands share, and values read leniently.

What is not a number stays text, so that `validation` finds every fault of a call at once and names its field.
Light: click only.
"""

from __future__ import annotations

import functools
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    Command = Callable[..., None]


class WholeNumber(click.ParamType[Any]):
    """An int where the text is one; any other text is left for `validation` to refuse."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Read ASCII digits; 18 of them are more than any value here may have."""
        return int(value) if re.fullmatch(r"[+-]?[0-9]{1,18}", str(value), re.ASCII) else value


class Number(click.ParamType[Any]):
    """A float where the text is one; any other text is left for `validation` to refuse."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Read a number."""
        try:
            return float(value)
        except ValueError:
            return value


def port(value: Any) -> int:
    """A port that can be listened on; 0 is any free one."""
    if not isinstance(value, int) or not 0 <= value <= 65_535:  # noqa: PLR2004 -- what a port is
        raise ValueError("must be a whole number from 0 to 65535")
    return value


as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; errors are problem objects on stderr."
)

binding_id = click.argument("binding_id", metavar="ID")


def reveal_options(command: Command) -> Command:
    """Add `--reveal --reason TEXT`; the command gets `why`, the reason to show full phones (None: masked)."""

    @click.option("--reveal", is_flag=True, help="Show full phone numbers; recorded under your name.")
    @click.option("--reason", metavar="TEXT", help="Why full phone numbers are needed; goes with --reveal.")
    @functools.wraps(command)
    def revealed(*args: Any, reveal: bool, reason: str | None, **rest: Any) -> None:
        command(*args, why=_why(reveal=reveal, reason=reason), **rest)

    return revealed


def _why(*, reveal: bool, reason: str | None) -> str | None:
    if not reveal and reason is None:
        return None
    from bindings.errors import FieldError, InvalidRequest
    from bindings.validation import requests as validation

    if not reveal:
        raise InvalidRequest([FieldError("reveal", "goes with --reason: give both or neither")])
    if reason is None:
        raise InvalidRequest([FieldError("reason", "is needed with --reveal: say why, it is recorded")])
    return validation.reason(reason)


@contextmanager
def report_missing(given: dict[str, Any]) -> Iterator[None]:
    """Say "is needed" of a field that was not given, instead of what it must look like."""
    with _map_field_errors(
        lambda field, message: (field, "is needed" if given.get(field, ...) is None else message)
    ):
        yield


@contextmanager
def rename_fields(**typed: str) -> Iterator[None]:
    """Name the option that was typed where the call's own argument has another name."""
    with _map_field_errors(lambda field, message: (typed.get(field, field), message)):
        yield


@contextmanager
def _map_field_errors(retell: Callable[[str, str], tuple[str, str]]) -> Iterator[None]:
    from bindings.errors import FieldError, InvalidRequest

    try:
        yield
    except InvalidRequest as invalid:
        raise InvalidRequest(
            [FieldError(*retell(fault.field, fault.message)) for fault in invalid.field_errors]
        ) from None


def validation() -> ModuleType:
    """The checks of every call's values, for a command to make before it opens the database."""
    from bindings.validation import requests

    return requests
