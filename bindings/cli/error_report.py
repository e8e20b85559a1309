"""What an error is told as: one or two lines for people, one problem object for programs, and an exit code.

The lines say what happened, how things stand now, and what to do. No value that was typed is repeated where
it may be a phone number.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bindings import errors
from bindings.cli import output
from bindings.domain import serialization
from bindings.domain.phone import mask
from bindings.errors import BindingsError, FieldError, InvalidRequest

if TYPE_CHECKING:
    from bindings.domain.binding import Holder

LONG_NUMBER = re.compile(r"[0-9]{5,}")


class Interrupted(BindingsError):
    """Interrupted: whatever had begun is recorded, see `bindings doubts`."""

    code = "interrupted"
    exit_code = 130
    may_have_acted = True


class Unexpected(BindingsError):
    """Something unforeseen went wrong; what had begun is recorded, see `bindings doubts`."""

    code = "unexpected"
    may_have_acted = True


def report(error: Exception, *, as_json: bool) -> int:
    """Tell of the error on stderr and return the exit code."""
    told = _to_bindings_error(error)
    if as_json:
        click.echo(_problem(told), err=True)
    else:
        for line in lines(told):
            output.message(output.escape_unprintable(line))
    return told.exit_code


def lines(error: BindingsError) -> list[str]:
    """What happened and how things stand, then what to do."""
    return [f"error: {_what_happened(error)}.", *filter(None, [_what_to_do(error)])]


def _problem(error: BindingsError) -> str:
    import json

    return json.dumps(serialization.to_plain(error.problem()))


def _to_bindings_error(error: Exception) -> BindingsError:
    if isinstance(error, BindingsError):
        return error
    if isinstance(error, click.UsageError):
        return InvalidRequest([_usage(error)])
    return Unexpected(_unexpected(error))


def _usage(error: click.UsageError) -> FieldError:
    match error:
        case click.MissingParameter(param=click.Parameter(name=str(name))):
            return FieldError(name, "is needed")
        case click.NoSuchOption(option_name=name):
            return FieldError(_masked(name), "is no option of this command")
        case click.BadParameter(param=click.Parameter(name=str(name))) | click.BadOptionUsage(option_name=name):
            return FieldError(_masked(name), _masked(f"is not usable: {error.format_message()}".rstrip(".")))
        case _:
            return FieldError("command line", _masked(f"is not usable: {error.format_message()}".rstrip(".")))


def _masked(text: str) -> str:
    return LONG_NUMBER.sub(lambda found: mask(found[0]), text)


def _unexpected(error: Exception) -> str:
    """The kind of error and its place, never its text: that may carry a phone number or a password."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "bindings" in Path(frame.filename).parts] or frames
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return f"unexpected {type(error).__name__}{why}{place}; what had begun is recorded, see `bindings doubts`"


def _what_happened(error: BindingsError) -> str:
    match error:
        case errors.PhoneInUseAtProvider(binding_id=str(failed)):
            return (
                "the provider says that a phone is in use, and nothing that is active here explains it;"
                f" binding {failed} failed"
            )
        case errors.PhoneInUseAtProvider(holder=holder):
            return (
                f"a phone is held at the provider by something that is not ours ({holder.why})"
                f" until {output.format_instant(holder.held_until)}; nothing was sent or written"
            )
        case errors.PhoneInUse(holder=holder):
            return (
                f"a phone is held by binding {holder.id} ({_described(holder)}) until"
                f" {output.format_instant(holder.held_until)}; the provider was not called and nothing was written"
            )
        case errors.ProviderRefused(status=str(status)):
            return f"{error} (status {_explained(status, error.reason)})"
        case errors.OutcomeUnknown(binding=binding):
            return (
                f"{error}; binding {binding.id} is {binding.state}, its phones are held until"
                f" {output.format_instant(binding.held_until)}"
            )
        case _:
            return str(error).rstrip(".")


def _described(holder: Holder) -> str:
    reference = f"reference {holder.reference}" if holder.reference else "no reference"
    return f"{reference}, {holder.mode}, {holder.state}"


def _explained(status: str, said: str | None) -> str:
    from bindings.provider.statuses import meaning

    known = meaning(status)
    return f"{status}, {known}" if said in (None, "", known) else f"{status}, {known}; it said: {said}"


def _what_to_do(error: BindingsError) -> str:
    """Return what to do, and the command that shows the record of this call if there is one."""
    has_record = error.binding_id is not None and not isinstance(error, errors.NotFound)
    recorded = f"`bindings get {error.binding_id}` shows what is recorded." if has_record else ""
    return f"{error.next_step()} {recorded}".strip()
