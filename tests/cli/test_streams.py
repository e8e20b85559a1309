"""Commands whose standard streams are closed, or cannot be written."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

ID = "01900000-0000-7000-8000-000000000000"
COMMANDS = ["list", "list --json", "export bindings", "export bindings --json", "stats", "config", "doubts --json"]


def run(shell: Shell, command: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a command with a redirection of the shell."""
    return subprocess.run(
        ["/bin/sh", "-c", f'"$0" -m bindings {command} {redirection}', sys.executable],
        env=dict(shell.whole_environment()),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("command", [*COMMANDS, "--help"])
def test_output_to_a_full_disk_is_an_error_that_says_so(shell: Shell, command: str) -> None:
    shell.bind()
    result = run(shell, command, ">/dev/full")
    assert result.returncode == 1
    message: Any = json.loads(result.stderr)["detail"] if "--json" in command else result.stderr
    assert "the output could not be written: No space left on device; what the command did is recorded" in message
    assert "unexpected" not in result.stderr


@pytest.mark.parametrize(
    ("redirection", "commands"),
    [("<&- >&- 2>&-", COMMANDS), *((closed, COMMANDS[1:3]) for closed in ("<&-", ">&-", "2>&-"))],
)
def test_command_with_closed_streams_does_its_work(shell: Shell, redirection: str, commands: list[str]) -> None:
    options = "--phone-a 9188067701 --phone-b 9188067799 --mode AXB --pool-number 918806 --expire-s 3600"
    for command in (f"bind {options} --reference r", *commands):
        result = run(shell, command, redirection)
        assert (command, result.returncode, result.stderr) == (command, 0, result.stderr)
        assert "error" not in result.stderr
    assert [row["state"] for row in shell.run("list", "--reference", "r", "--json").json["data"]] == ["active"]


def test_command_whose_messages_cannot_be_written_does_its_work(shell: Shell) -> None:
    for command in ("list --state expired", "doctor"):
        assert (command, run(shell, command, "2>/dev/full").returncode) == (command, 0)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_exit_code_of_an_error_that_cannot_be_shown_is_its_own(shell: Shell, redirection: str) -> None:
    assert run(shell, f"get {ID}", redirection).returncode == 4
    assert run(shell, "bind", redirection).returncode == 2
