"""What is there, and that asking costs nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from bindings.cli.root import root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Shell

BINDINGS = ["bind", "unbind", "get", "list", "lookup", "history", "trace", "check", "export", "stats"]
UPKEEP = [
    "expire",
    "warn",
    "pools",
    "recover",
    "reconcile",
    "reports",
    "retention",
    "doubts",
    "mark-absent",
    "doctor",
    "config",
    "db",
    "keys",
    "serve",
    "webhooks",
    "simulator",
    "scheduler",
    "demo",
]
COMMANDS = [*BINDINGS, *UPKEEP]
HEAVY = "sqlalchemy requests apscheduler pydantic rich phonenumbers alembic psycopg litestar uvicorn structlog"

ASK_EVERYTHING = """
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


def test_every_command_of_the_table_is_there() -> None:
    assert sorted(root.list_commands(click.Context(root))) == sorted(COMMANDS)


def test_help_of_the_root_and_of_every_command_imports_nothing_heavy() -> None:
    lines = ["", "db", "export", "keys", "webhooks", *(" ".join(path) for path, _ in every_command(root))]
    done = subprocess.run(
        [sys.executable, "-c", ASK_EVERYTHING, HEAVY],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def test_every_command_takes_json() -> None:
    without = [
        path for path, command in every_command(root) if not any(p.name == "as_json" for p in command.params)
    ]
    assert without == []


@pytest.mark.parametrize(
    "command", ["get x", "list", "lookup", "trace 1", "doubts", "export bindings"], ids=lambda command: command
)
def test_what_shows_phones_can_reveal_them(command: str) -> None:
    found = dict(every_command(root))[tuple(word for word in command.split() if word not in ("x", "1"))]
    assert {"reveal", "reason"} <= {parameter.name for parameter in found.params}


def test_the_program_without_arguments_shows_its_help(shell: Shell) -> None:
    answer = shell.program()
    assert answer.code == 0
    assert "Usage: bindings" in answer.out
    assert "Exit codes:" in answer.out
    assert all(f"  {name} " in answer.out for name in COMMANDS)


def test_an_unknown_command_and_an_unknown_option_exit_with_2(shell: Shell) -> None:
    assert shell.run("frobnicate").code == 2
    answer = shell.run("list", "--colour", "blue", "--json")
    assert answer.code == 2
    assert answer.fields == ["--colour"]


def test_a_missing_argument_is_named(shell: Shell) -> None:
    for command, named in (("get", "binding_id"), ("history", "binding_id"), ("trace", "middle_number")):
        answer = shell.run(command, "--json")
        assert (answer.code, answer.fields) == (2, [named])


def test_a_phone_in_the_wrong_place_is_not_repeated(shell: Shell) -> None:
    answer = shell.run("lookup", "9188067701")
    assert answer.code == 2
    assert "91******01" in answer.err


def test_the_version_is_told(shell: Shell) -> None:
    assert shell.run("--version").out.startswith("bindings ")
