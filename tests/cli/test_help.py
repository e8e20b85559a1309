"""The list of commands, their help, and that help imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

import bindings
from bindings.cli.root import root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Shell

BINDINGS = [
    *("bind", "extend", "replace", "unbind", "get", "list", "lookup", "history", "trace", "check"),
    *("export", "stats", "access-log"),
]
OPERATION = [
    "expire",
    "warn",
    "pools",
    "recover",
    "seal",
    "audit",
    "reconcile",
    "refusals",
    "reports",
    "retention",
    "doubts",
    "mark-absent",
    "doctor",
    "config",
    "db",
    "keys",
    "erase",
    "subject",
    "phones",
    "serve",
    "webhooks",
    "simulator",
    "scheduler",
    "demo",
]
COMMANDS = [*BINDINGS, *OPERATION]
HEAVY = "opentelemetry sqlalchemy requests apscheduler pydantic rich alembic psycopg litestar uvicorn structlog"

PRINT_EVERY_HELP = """
import contextlib, io, sys
from bindings.cli.root import root
for line in sys.stdin.read().splitlines():
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        root.main([*line.split(), "--help"])
    assert "Usage: bindings" in shown.getvalue(), line
print(*sorted(set(sys.modules) & set(sys.argv[1].split())))
"""


def every_command(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


def test_root_lists_exactly_the_documented_commands() -> None:
    assert sorted(root.list_commands(click.Context(root))) == sorted(COMMANDS)


def test_help_of_every_command_imports_nothing_heavy() -> None:
    groups = ["audit", "db", "export", "keys", "phones", "webhooks"]
    lines = ["", *groups, *(" ".join(path) for path, _ in every_command(root))]
    process = subprocess.run(
        [sys.executable, "-c", PRINT_EVERY_HELP, HEAVY],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.split() == []


def test_every_command_has_the_json_option() -> None:
    without = [
        path for path, command in every_command(root) if not any(p.name == "as_json" for p in command.params)
    ]
    assert without == []


@pytest.mark.parametrize(
    "command", ["get x", "list", "lookup", "trace 1", "doubts", "export bindings"], ids=lambda command: command
)
def test_command_that_shows_phones_has_the_reveal_options(command: str) -> None:
    names = [word for word in command.split() if word not in ("x", "1")]
    parameters = dict(every_command(root))[tuple(names)].params
    assert {"reveal", "reason"} <= {parameter.name for parameter in parameters}


def test_program_without_arguments_shows_its_help(shell: Shell) -> None:
    result = shell.program()
    assert result.code == 0
    assert "Usage: bindings" in result.out
    assert "Exit codes:" in result.out
    assert all(f"  {name} " in result.out for name in COMMANDS)


def test_unknown_command_and_unknown_option_exit_with_2(shell: Shell) -> None:
    assert shell.run("frobnicate").code == 2
    result = shell.run("list", "--colour", "blue", "--json")
    assert result.code == 2
    assert result.fields == ["--colour"]
    assert "similar: --reference" in shell.run("list", "--referenze", "ride-1").err


def test_id_that_is_not_known_names_the_command_that_lists_the_ids(shell: Shell) -> None:
    for command in (("keys", "revoke", "1"), ("reports", "show", "1"), ("webhooks", "remove", "1"), ("get", "1")):
        result = shell.run(*command)
        assert result.code == 4
        assert f"{'bindings' if command[0] == 'get' else command[0]} list" in result.err


def test_missing_argument_is_named(shell: Shell) -> None:
    for command, named in (("get", "binding_id"), ("history", "binding_id"), ("trace", "middle_number")):
        result = shell.run(command, "--json")
        assert (result.code, result.fields) == (2, [named])


def test_phone_as_unexpected_argument_is_masked_in_the_error(shell: Shell) -> None:
    result = shell.run("lookup", "9188067701")
    assert result.code == 2
    assert "91******01" in result.err


def test_version_option_prints_the_version(shell: Shell) -> None:
    assert shell.run("--version").out == f"bindings {bindings.__version__}\n"
