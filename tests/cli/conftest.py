"""A shell for tests of the command line: it runs a command in this process or as a program, and reads its output.

Every output is searched for full phone numbers, unless the command reveals them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from bindings.cli.root import root
from tests.service.harness import account_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bindings.provider.simulator import Simulator

PHONES = ("9188067701", "9188067799", "9188067702", "9188067703")
A, B, C, D = PHONES


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """The output and the exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def problem(self) -> Any:
        return json.loads(self.err)

    @property
    def fields(self) -> list[str]:
        """Return the fields that a problem names."""
        return [error["field"] for error in self.problem["errors"]]


@dataclass(kw_only=True)
class Shell:
    """A shell with these settings; `set` changes them for the rest of the test."""

    environment: dict[str, str]
    results: list[CommandResult] = field(default_factory=list)

    def set(self, **settings: str | None) -> None:
        for name, value in settings.items():
            variable = f"BINDINGS_{name.upper()}"
            self.environment.pop(variable, None)
            if value is not None:
                self.environment[variable] = value

    def run(self, *arguments: str, stdin: str | bytes = "") -> CommandResult:
        """Run a command in this process, which is fast."""
        result = CliRunner(env=self.environment).invoke(root, arguments, input=stdin)
        return self._checked(arguments, result.exit_code, result.stdout, result.stderr)

    def program(self, *arguments: str) -> CommandResult:
        """Run a command as a new process."""
        process = subprocess.run(
            [sys.executable, "-m", "bindings", *arguments],
            env=self.whole_environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return self._checked(arguments, process.returncode, process.stdout, process.stderr)

    def bind(self, phone_a: str = A, phone_b: str = B, *more: str, mode: str = "AXB") -> CommandResult:
        """Bind two phones for an hour, with --json."""
        options = ("--phone-a", phone_a, "--phone-b", phone_b, "--mode", mode)
        return self.run("bind", *options, "--pool-number", "918806", "--expire-s", "3600", "--json", *more)

    def whole_environment(self) -> Mapping[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("BINDINGS_")}
        return plain | self.environment

    def _checked(self, arguments: tuple[str, ...], code: int, out: str, err: str) -> CommandResult:
        assert "Traceback" not in err
        if "--reveal" not in arguments:
            for phone in PHONES:
                assert phone not in out + err, f"{arguments} shows a phone"
        result = CommandResult(code=code, out=out, err=err)
        self.results.append(result)
        return result


@pytest.fixture
def shell(sqlite_url: str, simulator: Simulator) -> Shell:
    """A shell whose settings name a fresh database at head and a running provider."""
    return Shell(
        environment={
            "BINDINGS_DATABASE_URL": sqlite_url,
            **account_variables(simulator.url),
            "BINDINGS_PROVIDER_TIMEOUT_S": "2",
            "BINDINGS_SCAN_CALLS_PER_S": "1000",
        }
    )
