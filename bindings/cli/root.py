"""The `bindings` command: which commands there are, and what becomes of an error.

Commands are loaded when they are asked for. An error of any kind ends here as an exit code and one or two
lines (or one problem object) on stderr; a traceback never does, because it may carry a phone number.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONGEST_HELP = 200  # wrapped, never cut
PIPE_CLOSED = 141  # as a program that the closed pipe killed: what was read is not all there is

SECTIONS: dict[str, dict[str, str]] = {
    "Bind and unbind": {"bind": "bind:bind", "unbind": "bind:unbind"},
    "Ask": {
        "get": "queries:get",
        "list": "queries:list_",
        "lookup": "queries:lookup",
        "history": "queries:history",
        "trace": "queries:trace",
        "check": "queries:check",
        "export": "export:export",
        "stats": "stats:stats",
    },
    "One pass each": {
        "expire": "jobs:expire",
        "warn": "jobs:warn",
        "pools": "jobs:pools",
        "recover": "jobs:recover",
        "reconcile": "jobs:reconcile",
        "reports": "jobs:reports",
        "retention": "jobs:retention",
        "doubts": "queries:doubts",
        "mark-absent": "bind:mark_absent",
    },
    "Run and look after": {
        "serve": "serve:serve",
        "scheduler": "run:scheduler",
        "keys": "keys:keys",
        "doctor": "doctor:doctor",
        "config": "doctor:config",
        "db": "db:db",
        "webhooks": "webhooks:webhooks",
        "simulator": "run:simulator",
        "demo": "run:demo",
    },
}

EPILOG = """\b
Exit codes:
  0 done              3 a phone is in use, or the key belongs to another request
  1 not now, or red   4 no such binding, or webhook
  2 not valid         5 the provider refused or was not reached
                      6 outcome unknown: do not bind again
                      7 no middle number in the pool

Settings come from BINDINGS_... variables; `bindings config` shows them. Try `bindings demo`."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used; `sections` holds "module:attribute" by name."""

    def __init__(self, *, sections: Mapping[str, Mapping[str, str]], **given: Any) -> None:
        super().__init__(**given)
        self._sections = sections
        self._where = {name: where for section in sections.values() for name, where in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Every command, in the order in which help shows them."""
        return list(self._where)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's module and return the command, or None for a name that is none."""
        where = self._where.get(cmd_name)
        if where is None:
            return None
        module, _, attribute = where.partition(":")
        command: click.Command = getattr(import_module(f"bindings.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands section by section."""
        for title, names in self._sections.items():
            with formatter.section(title):
                commands = ((name, self.get_command(ctx, name)) for name in names)
                formatter.write_dl(
                    [(name, command.get_short_help_str(LONGEST_HELP)) for name, command in commands if command]
                )


class Root(LazyGroup):
    """The outermost group: the one place where errors become exit codes."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **_: Any
    ) -> None:
        """Run the command that `args` name and exit with its code; without any, show the help."""
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        try:
            code = super().main(given, prog_name or "bindings", standalone_mode=False)
        except (click.Abort, KeyboardInterrupt):
            code = _report(_interrupted(), given)
        except Exception as error:  # noqa: BLE001 -- the last line of defence: a traceback may carry a phone
            code = _report(error, given)
        sys.exit(code or 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that went away ends it without a word."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
            ctx.exit(PIPE_CLOSED)
        return result


def _report(error: Exception, given: Sequence[str]) -> int:
    from bindings.cli import error_report

    return error_report.report(error, as_json="--json" in given)


def _interrupted() -> Exception:
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
@click.version_option(package_name="bindings", message="%(prog)s %(version)s")
def root() -> None:
    """The lifecycle of privacy-number bindings: bind, look up, trace, and end what is over."""


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a reference may be text that the terminal is not
    root.main()
