"""The `bindings` command: the list of commands, their loading, and the handling of errors.

A command's module is imported when the command runs or when help shows it. Every error ends here as an exit code
and one or two lines on stderr (or one problem object); a traceback is never printed, because it may contain a
phone number.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bindings import __version__, docstrings
from bindings.cli import options
from bindings.jobs.registry import JOBS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_HELP_LENGTH = 200  # longer than any summary: they are wrapped, never cut
PIPE_CLOSED = 141  # 128 + SIGPIPE: the reader did not get the whole output

SECTIONS: dict[str, dict[str, str]] = {
    "Bind and unbind": {
        "bind": "bind:bind",
        "unbind": "bind:unbind",
        "extend": "bind:extend",
        "replace": "bind:replace",
    },
    "Query": {
        "get": "queries:get",
        "list": "queries:list_",
        "refusals": "queries:refusals",
        "lookup": "queries:lookup",
        "history": "queries:history",
        "trace": "queries:trace",
        "check": "queries:check",
        "export": "export:export",
        "stats": "stats:stats",
        "doubts": "queries:doubts",
        "access-log": "access_log:access_log",
    },
    "Jobs": {job.command: f"jobs:{job.command}" for job in JOBS if job.command} | {"reports": "jobs:reports"},
    "Operate": {
        "serve": "serve:serve",
        "scheduler": "run:scheduler",
        "keys": "keys:keys",
        "erase": "erase:erase",
        "subject": "subject:subject",
        "doctor": "doctor:doctor",
        "config": "doctor:config",
        "mark-absent": "bind:mark_absent",
        "db": "db:db",
        "phones": "phones:phones",
        "audit": "audit:audit",
        "webhooks": "webhooks:webhooks",
        "simulator": "run:simulator",
        "demo": "run:demo",
    },
}

EPILOG = """\b
Exit codes:
  0 success
  1 temporarily unavailable, or a check failed
  2 the request, an option or a setting is not valid
  3 a phone is in use, the idempotency key belongs to another request, a binding is not active,
    or there are bindings that the dry run did not list
  4 not found
  5 the provider refused or was not reached
  6 outcome unknown: do not bind again
  7 no middle number in the pool

Settings come from BINDINGS_... variables; `bindings config` shows them. To see how it works: `bindings demo`."""


def _add_help(command: click.Command) -> None:
    """Give a command and its subcommands their help, which `python -OO` has removed."""
    if docstrings.ARE_REMOVED:
        if command.help is None and command.callback is not None:
            command.help = docstrings.of(command.callback)
        for subcommand in getattr(command, "commands", {}).values():
            _add_help(subcommand)


class LazyGroup(click.Group):
    """A group whose commands are imported on use; `sections`: "module:attribute" by section and command name."""

    def __init__(self, *, sections: Mapping[str, Mapping[str, str]], **group_arguments: Any) -> None:
        super().__init__(**group_arguments)
        self._sections = sections
        self._targets = {name: target for section in sections.values() for name, target in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all commands, in the order in which help shows them."""
        return list(self._targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module of a command and return the command, or None if the name is unknown."""
        target = self._targets.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(f"bindings.cli.{module}"), attribute)
        _add_help(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section."""
        for title, names in self._sections.items():
            with formatter.section(title):
                commands = ((name, self.get_command(ctx, name)) for name in names)
                formatter.write_dl(
                    [(name, command.get_short_help_str(MAX_HELP_LENGTH)) for name, command in commands if command]
                )


class Root(LazyGroup):
    """The outermost group: it turns errors into exit codes."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **_: Any
    ) -> None:
        """Run the command that `args` name and exit with its code; without arguments, show the help."""
        arguments = [options.decode(argument) for argument in (sys.argv[1:] if args is None else args)] or [
            "--help"
        ]
        try:
            code = super().main(arguments, prog_name or "bindings", standalone_mode=False)
        except (click.Abort, KeyboardInterrupt):
            code = _report(_interruption(), arguments)
        except Exception as error:  # noqa: BLE001 -- a traceback may contain a phone
            code = _report(error, arguments)
        sys.exit(code or 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; if the reader of stdout closed the pipe, exit without an error message."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout at exit
            ctx.exit(PIPE_CLOSED)
        return result


def _replace_closed_streams() -> None:
    """Put an empty file in the place of each standard stream that the caller has closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 -- to the end


def _report(error: Exception, arguments: Sequence[str]) -> int:
    from bindings.cli import error_report

    try:
        return error_report.report(error, as_json="--json" in arguments)
    except OSError:  # stderr cannot be written: the exit code still says what happened
        return error_report.exit_code(error)


def _interruption() -> Exception:
    from bindings.cli.error_report import Interrupted

    return Interrupted()


@click.command(
    "bindings",
    cls=Root,
    sections=SECTIONS,
    epilog=EPILOG,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def root() -> None:
    """Manage privacy-number bindings: bind phones to middle numbers, look up, trace and expire bindings."""


def main() -> None:
    """Run the command line and exit."""
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A reference may have characters that the terminal cannot show.
            stream.reconfigure(errors="backslashreplace")
    _add_help(root)
    root.main()
