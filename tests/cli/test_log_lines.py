"""Log lines of commands: level and format are settings; a program that embeds the library gets none."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bindings import logs
from tests.cli.conftest import A, B

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.provider.simulator import Simulator
    from tests.cli.conftest import Shell

HOST_PROGRAM = """
import sqlite3
import sys
import time
from sqlalchemy.exc import OperationalError
from bindings import BindingService, Scheduler, errors
from bindings.store import reserve

original, failures = reserve.reserve, []

def fail_once(*args, **options):
    if not failures:
        failures.append(1)
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
    return original(*args, **options)

def bind(service, phone_a, phone_b):
    return service.bind(phone_a=phone_a, phone_b=phone_b, pool_number="918806", expire_s=1, mode="AXB")

reserve.reserve = fail_once
with BindingService.from_env() as service:
    try:
        bind(service, "9188067701", "9188067799")
    except errors.OutcomeUnknown:
        pass
    else:
        raise SystemExit("the reply was not lost")
    binding = bind(service, "9188067702", "9188067703")
    service.recover()
    service.reconcile()
    assert failures
    with Scheduler(service):
        while service.get(binding.id).state != "expired":
            time.sleep(0.02)
assert "opentelemetry" not in sys.modules, "only a program that uses it imports it"
"""

LOGGERS = """
import logging
import sys
from importlib import import_module
from bindings import logs

VALUE = "a\\nb\\r\\x1b[2J\\x85\\u2028forged"
Forged = type(VALUE, (Exception,), {})
import_module(sys.argv[1]).configure(logs.LogConfig(level="info", format=sys.argv[2]))
log = logging.getLogger("another.library")
log.warning("message of %s", VALUE)
logging.getLogger("another." + VALUE).warning("%d", "not a number")
try:
    raise Forged(VALUE)
except Forged:
    log.exception("failed")
if sys.argv[1] == "bindings.logs":
    log.warning({"value": VALUE})
else:
    import structlog

    structlog.get_logger().warning(VALUE, field=VALUE, exc_info=Forged(VALUE))
"""


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root, package = logging.getLogger(), logging.getLogger("bindings")
    levels = root.level, package.level
    yield
    logs.remove_handlers()
    root.setLevel(levels[0])
    package.setLevel(levels[1])


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.usefixtures("_logging_as_before")
def test_level_and_format_of_a_command_are_settings(shell: Shell) -> None:
    shell.set(log_level="INFO", log_format="json")
    lines = _json_lines(shell.run("bind", *_options(), "--json").err)
    [call] = [line for line in lines if line["logger"] == "bindings.provider.client"]
    assert call["event"].startswith("bind: made")
    assert (call["level"], call["timestamp"][-1]) == ("info", "Z")
    shell.set(log_format=None)
    assert " INFO bindings.provider.client: page: " in shell.run("reconcile").err.splitlines()[0]
    shell.set(log_level="error")
    assert shell.run("reconcile").err == ""


@pytest.mark.usefixtures("_logging_as_before")
def test_json_output_of_a_command_comes_without_log_lines_unless_a_level_is_set(shell: Shell) -> None:
    shell.set(log_format="json")
    assert shell.run("bind", *_options(), "--json").err == ""


def _options() -> tuple[str, ...]:
    return ("--phone-a", A, "--phone-b", B, "--mode", "AXB", "--pool-number", "918806", "--expire-s", "60")


@pytest.mark.parametrize("setting", ["log_level", "log_format"])
def test_wrong_level_or_format_is_reported_by_its_variable(shell: Shell, setting: str) -> None:
    shell.set(**{setting: "loud"})
    result = shell.run("list", "--json")
    assert (result.code, result.fields) == (2, [f"BINDINGS_{setting.upper()}"])


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize("line_format", logs.FORMATS)
def test_line_has_neither_a_phone_nor_the_text_of_an_exception(
    line_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.configure(logs.LogConfig(level="info", format=line_format))
    log = logging.getLogger("another.library")
    try:
        raise ValueError(f"refused {A}")  # noqa: TRY301 -- the place of the exception is logged
    except ValueError:
        log.exception("the call of %s failed", A)
    log.debug("not of this product")
    logging.getLogger("urllib3").info("POST /secret")
    [line] = stderr.getvalue().splitlines()
    assert A not in line
    assert "test_log_lines.py:" in line
    if line_format == "json":
        entry = json.loads(line)
        assert (entry["level"], entry["logger"], entry["error"]) == ("error", "another.library", "ValueError")
    else:
        assert " ERROR another.library: the call of 91******01 failed error=ValueError place=" in line


@pytest.mark.parametrize("line_format", logs.FORMATS)
@pytest.mark.parametrize("module", ["bindings.logs", "bindings.web.log_config"])
def test_entry_with_control_characters_is_one_line(module: str, line_format: str) -> None:
    program = subprocess.run(
        [sys.executable, "-c", LOGGERS, module, line_format],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=True,
    )
    lines = program.stderr.splitlines()
    assert len(lines) == program.stderr.count("\n") == 4, "also without those that only Python takes for an end"
    assert all("forged" in line for line in lines)
    if line_format == "json":
        assert "a\nb\r\x1b[2J\x85\u2028forged" in json.loads(lines[0])["event"]
    else:
        assert r"a\nb\r\u001b[2J\u0085\u2028forged" in lines[0]


@pytest.mark.usefixtures("_logging_as_before")
def test_closed_stderr_fails_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.configure(logs.COMMAND)
    logging.getLogger("bindings").warning("not written")


@pytest.mark.processes
def test_program_that_embeds_the_library_gets_no_output_of_it(shell: Shell, simulator: Simulator) -> None:
    shell.set(sweep_interval_s="0.1")
    simulator.script("lost_reply", times=1, on="bind")
    program = subprocess.run(
        [sys.executable, "-c", HOST_PROGRAM],
        env=dict(shell.whole_environment()),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (program.returncode, program.stdout, program.stderr) == (0, "", "")
