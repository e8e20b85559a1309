"""Rendering of exceptions: text for people, a problem object with --json, and the exit code.

The text says what happened, what the state is now, and what to do. A value that may be a phone number is never
repeated.
"""

from __future__ import annotations

import errno
import json
import re
import traceback
from pathlib import Path

import click

from bindings import errors
from bindings.cli import output
from bindings.domain import serialization
from bindings.domain.phone import mask
from bindings.errors import BindingsError, FieldError, InvalidRequest

LONG_NUMBER = re.compile(r"[0-9]{5,}")


class Interrupted(BindingsError):
    """Interrupted: operations in progress are recorded, see `bindings doubts`."""

    code = "interrupted"
    exit_code = 130
    may_have_acted = True


class Unexpected(BindingsError):
    """An unexpected error: operations in progress are recorded, see `bindings doubts`."""

    code = "unexpected"
    may_have_acted = True


class OutputFailed(BindingsError):
    """The output could not be written. What the command did is recorded: `bindings list` and `history` show it."""

    code = "output-failed"
    may_have_acted = True


# A disk or a quota is full, a file is too large, a device fails. What else an `OSError` can be becomes another
# error where it occurs: of the database, of the provider, of a file that an option names.
_OUTPUT_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG))


def report(error: Exception, *, as_json: bool) -> int:
    """Print the error on stderr and return the exit code."""
    reported = _to_bindings_error(error)
    if as_json:
        click.echo(json.dumps(serialization.to_plain(reported.problem())), err=True)
    else:
        for line in lines(reported):
            output.message(output.escape_unprintable(line))
    return reported.exit_code


def exit_code(error: Exception) -> int:
    """Return the exit code of a command that ended with the error."""
    return _to_bindings_error(error).exit_code


def lines(error: BindingsError) -> list[str]:
    """Return the text for people: what happened and what the state is, then what to do."""
    summary = _summary(error)
    is_name = summary[1:2].isupper()  # of a setting or a mode
    text = summary if is_name else summary[:1].lower() + summary[1:]
    return [f"error: {text}.", *filter(None, [_remedy(error)])]


def _to_bindings_error(error: Exception) -> BindingsError:
    if isinstance(error, BindingsError):
        return error
    if isinstance(error, click.UsageError):
        return InvalidRequest([_usage_error(error)])
    if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS:
        return OutputFailed(f"the output could not be written: {error.strerror}; what the command did is recorded")
    return Unexpected(_unexpected_error(error))


def _usage_error(error: click.UsageError) -> FieldError:
    match error:
        case click.MissingParameter(param=click.Parameter(name=str(name))):
            return FieldError(name, "is needed")
        case click.NoSuchOption(option_name=name, possibilities=similar):
            hint = f"; similar: {', '.join(similar)}" if similar else ""
            return FieldError(_mask_numbers(name), f"is not an option of this command{hint}")
        case click.BadParameter(param=click.Parameter(name=str(name))) | click.BadOptionUsage(option_name=name):
            return FieldError(
                _mask_numbers(name), _mask_numbers(f"is not valid: {error.format_message()}".rstrip("."))
            )
        case _:
            return FieldError("command line", _mask_numbers(f"is not valid: {error.format_message()}".rstrip(".")))


def _mask_numbers(text: str) -> str:
    return LONG_NUMBER.sub(lambda match: mask(match[0]), text)


def _unexpected_error(error: Exception) -> str:
    """Return the class of the error and its location, never its text: that may contain a phone or a password."""
    frames = traceback.extract_tb(error.__traceback__)
    own_frames = [frame for frame in frames if "bindings" in Path(frame.filename).parts] or frames
    location = f" at {Path(own_frames[-1].filename).name}:{own_frames[-1].lineno}" if own_frames else ""
    cause = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return (
        f"unexpected {type(error).__name__}{cause}{location};"
        " operations in progress are recorded, see `bindings doubts`"
    )


def _summary(error: BindingsError) -> str:
    match error:
        case errors.ProviderRefused(status=str(status)):
            happened, stop, advice = str(error).partition(". ")
            return f"{happened} (status {_explain_status(status, error.reason)}){stop}{advice}"
        case errors.OutcomeUnknown(binding=binding):
            until = output.format_instant(binding.held_until)
            held = "" if binding.state.terminal else f", its phones are held until {until}"
            happened = str(error).removesuffix(". Do not bind again")  # the remedy says so
            return f"{happened}; binding {binding.id} is {binding.state}{held}"
        case _:
            return str(error).rstrip(".")


def _explain_status(status: str, provider_text: str | None) -> str:
    from bindings.provider.statuses import meaning

    documented = meaning(status)
    if provider_text in (None, "", documented):
        return f"{status}, {documented}"
    return f"{status}, {documented}; the provider's text: {provider_text}"


def _remedy(error: BindingsError) -> str:
    """Return what to do, and the command that shows the record of this call if there is one."""
    has_record = error.binding_id is not None and not isinstance(error, errors.NotFound)
    record = f"`bindings get {error.binding_id}` shows what is recorded." if has_record else ""
    return f"{error.next_step()} {record}".strip()
