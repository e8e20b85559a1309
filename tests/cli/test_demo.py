"""The demo: it runs in any environment, checks its claims, and fails if a claim does not hold."""

from __future__ import annotations

import io
import re
import sys
from typing import TYPE_CHECKING

import click
import pytest

from bindings.cli import demo
from bindings.cli.root import root
from bindings.cli.serve import DEFAULT_PORT
from bindings.domain.phone import Phone
from bindings.service import BindingService

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def demo_output() -> str:
    """Return the output of one run of the demo, with settings that no other command accepts."""
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("BINDINGS_DATABASE_URL", "mysql://nowhere")
        shell.setenv("BINDINGS_PROVIDER_ZONE", "nonsense")
        shell.setenv("BINDINGS_NO_SUCH_SETTING", "1")
        out = io.StringIO()
        demo.run(out)
        return out.getvalue()


def test_demo_prints_every_step_in_order(demo_output: str) -> None:
    headings = re.findall(r"^\d\. (.*)$", demo_output, re.MULTILINE)
    assert headings == [step.heading for step in demo.STEPS]
    assert demo_output.count("\n   why ") == len(demo.STEPS), "each step has a reason"


def test_demo_shows_that_the_conflict_sends_no_request(demo_output: str) -> None:
    counts = re.search(r"binds received before: (\d+), after: (\d+)", demo_output)
    assert counts is not None
    assert counts[1] == counts[2] == "2"


def test_demo_shows_the_delay_of_the_scheduler(demo_output: str) -> None:
    lag = re.search(r"the event came (\d+\.\d\d) s after expires_at", demo_output)
    assert lag is not None
    assert 0 <= float(lag[1]) < demo.GIVE_UP_S


def test_demo_fits_80_columns_and_prints_plain_ascii_outside_a_terminal(demo_output: str) -> None:
    assert max(map(len, demo_output.splitlines())) <= 80
    assert "\x1b" not in demo_output
    assert demo_output.isascii()


def test_demo_shows_no_phone_in_full(demo_output: str) -> None:
    phones = [value for value in vars(demo).values() if isinstance(value, Phone)]
    assert len(phones) == 12
    assert not [phone for phone in phones if phone.digits in demo_output]
    assert str(demo.ANNA) in demo_output


def test_commands_of_the_next_steps_exist() -> None:
    commands = re.findall(r"^  bindings ([a-z]+)(?: ([a-z]+))?(?:  | --)", demo.NEXT, re.MULTILINE)
    assert commands
    context = click.Context(root)
    for name, sub in commands:
        command = root.get_command(context, name)
        assert command is not None, name
        if sub:
            assert isinstance(command, click.Group)
            assert command.get_command(context, sub) is not None, f"{name} {sub}"
    assert ("serve", "") in commands, "backend applications and auditors start there"
    assert f"console at http://127.0.0.1:{DEFAULT_PORT}, API at /docs" in demo.NEXT


def test_demo_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "STEPS", demo.STEPS[:1])
    demo.run(io.StringIO())
    assert not list(tmp_path.iterdir())


def test_demo_step_with_failed_check_exits_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If reconcile adopts nothing, the demo must not claim that it did."""

    class NothingAdopted:
        adopted = 0

    monkeypatch.setattr(BindingService, "reconcile", lambda _self, **_: NothingAdopted())
    monkeypatch.setattr(demo, "STEPS", (demo.STEPS[2],))
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        demo.run(out)
    assert ended.value.code == "demo: a check failed: reconcile adopted the binding"
    assert "adopted as bind_id" not in out.getvalue()


def test_demo_command_exits_with_an_error_if_a_check_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_demo: object) -> None:
        raise SystemExit("demo: a check failed: example")

    monkeypatch.setattr(demo, "STEPS", (demo.Step("A step", fail),))
    monkeypatch.setattr(sys, "argv", ["bindings", "demo"])
    with pytest.raises(SystemExit) as ended:
        root.main(["demo"])
    assert ended.value.code not in (0, None)
    assert "1. A step" in capsys.readouterr().out
