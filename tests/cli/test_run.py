"""simulator and scheduler, as processes that a signal ends."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bindings.service import BindingService
from tests.cli.conftest import A, C

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Shell

pytestmark = pytest.mark.processes


@contextmanager
def running(shell: Shell, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    program = subprocess.Popen(
        [sys.executable, "-m", "bindings", *arguments],
        env=dict(shell.whole_environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


def first_line(stream: Any) -> str:
    assert isinstance(stream, io.TextIOBase)
    return str(stream.readline())


@pytest.mark.parametrize(
    "ending", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["SIGTERM", "SIGINT", "SIGHUP"]
)
def test_simulator_prints_its_settings_and_ends_on_a_signal(shell: Shell, ending: signal.Signals) -> None:
    shell.set(provider_url=None, provider_api_key=None, provider_api_secret=None, provider_app_id=None)
    with running(shell, "simulator", "--json", "--fault", "lost_reply@bind=1", "--policy", "strict") as program:
        settings = json.loads(first_line(program.stdout))
        assert list(settings) == ["url", "api_key", "api_secret", "app_id", "environment"]
        shell.environment |= settings["environment"]
        assert shell.bind().code == 6
        assert shell.run("reconcile", "--json").json["scans"] > 0
        program.send_signal(ending)
        _, err = program.communicate(timeout=300)
    assert program.returncode == 0
    assert f"export BINDINGS_PROVIDER_URL={settings['url']}" in err
    assert "Traceback" not in err


def test_simulator_uses_the_account_of_the_environment_and_does_not_print_it(shell: Shell) -> None:
    shell.set(provider_url=None, provider_api_key="my-key", provider_api_secret="my-secret")
    with running(shell, "simulator", "--json") as program:
        settings = json.loads(first_line(program.stdout))
        shell.set(provider_url=settings["url"])
        assert shell.bind().code == 0
        shell.set(provider_api_secret="another")
        assert shell.bind(A, C).code == 3  # from the database, without a call
        assert shell.run("doctor", "--json").code == 1
        program.terminate()
        out, err = program.communicate(timeout=300)
    for secret in ("my-key", "my-secret"):
        assert secret not in out + err + str(settings)


def test_simulator_with_wrong_options_names_all_of_them(shell: Shell) -> None:
    result = shell.run("simulator", "--port", "x", "--policy", "lax", "--fault", "gremlins=1", "--json")
    assert (result.code, result.fields) == (2, ["port", "policy", "fault"])
    assert "lost_reply" in result.err


def test_simulator_with_port_in_use_names_the_option(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = shell.run("simulator", "--port", str(server.getsockname()[1]), "--json")
    assert (result.code, result.fields) == (2, ["port"])


@pytest.mark.parametrize("command", [("scheduler",), ("serve", "--port", "0")])
def test_command_that_runs_until_a_signal_fails_at_the_start_if_the_database_does_not_fit(
    shell: Shell, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with BindingService.open(environment=shell.environment):
        pass  # records the scope
    shell.set(scope="other")
    result = shell.program(*command, "--json")
    assert (result.code, result.problem["code"]) == (2, "invalid-request")
    shell.set(scope=None, database_url=f"sqlite:///{tmp_path / 'empty.db'}")
    result = shell.program(*command, "--json")
    assert (result.code, result.problem["code"]) == (1, "schema-out-of-date")


def test_scheduler_expires_bindings_and_ends_on_a_signal(shell: Shell) -> None:
    shell.set(sweep_interval_s="0.1")
    binding_id = shell.bind(A, C, "--expire-s", "1").json["id"]
    with running(shell, "scheduler", "--json") as program:
        while shell.run("get", binding_id, "--json").json["state"] != "expired":
            assert program.poll() is None
        program.terminate()
        out, err = program.communicate(timeout=300)
    assert (program.returncode, json.loads(out)) == (0, {"stopped": True})
    messages = ["scheduler: running; SIGTERM or Ctrl-C ends it", "scheduler: stopped"]
    log_lines = [json.loads(line) for line in err.splitlines() if line not in messages]
    assert {line["level"] for line in log_lines} == {"info"}
    (sweep,) = (check for check in shell.run("doctor", "--json").json["data"] if check["name"] == "sweep")
    assert sweep["level"] == "ok"


@pytest.mark.parametrize("command", [["scheduler"], ["serve", "--port", "0"]], ids=["scheduler", "serve"])
def test_process_that_sends_in_clear_says_so_when_it_starts(shell: Shell, command: list[str]) -> None:
    shell.set(provider_url="http://provider.invalid:9")
    with running(shell, *command) as program:
        line = first_line(program.stderr)
        while "clear" not in line:
            assert line, "the output ended"
            line = first_line(program.stderr)
        assert "phones and the API key are sent in clear" in line
