"""The demo tells the truth: it runs anywhere, checks what it claims, and fails loudly where it is wrong."""

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
from bindings.service import BindingService

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def told() -> str:
    """One run of the demo, in a shell whose settings would break any other command."""
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("BINDINGS_DATABASE_URL", "mysql://nowhere")
        shell.setenv("BINDINGS_PROVIDER_ZONE", "nonsense")
        shell.setenv("BINDINGS_NO_SUCH_SETTING", "1")
        out = io.StringIO()
        demo.run(out)
        return out.getvalue()


def test_it_tells_every_step_in_order(told: str) -> None:
    headings = re.findall(r"^\d\. (.*)$", told, re.MULTILINE)
    assert headings == [step.heading for step in demo.STEPS]
    assert told.count("\n   why ") == len(demo.STEPS), "each step says why it matters"


def test_the_provider_got_no_request_for_the_conflict(told: str) -> None:
    counts = re.search(r"binds received before: (\d+), after: (\d+)", told)
    assert counts is not None
    assert counts[1] == counts[2] == "2"


def test_the_lag_of_the_scheduler_is_shown(told: str) -> None:
    lag = re.search(r"the event came (\d+\.\d\d) s after expires_at", told)
    assert lag is not None
    assert 0 <= float(lag[1]) < demo.GIVE_UP_S


def test_it_fits_a_terminal_of_80_columns_and_is_plain_text_elsewhere(told: str) -> None:
    assert max(map(len, told.splitlines())) <= 80
    assert "\x1b" not in told
    assert told.isascii()


def test_it_shows_no_phone_in_full(told: str) -> None:
    phones = (demo.ANNA, demo.BEN, demo.CARL, demo.DORA, demo.EMIL, demo.FAY, demo.GUS, demo.HANA, demo.IRIS)
    assert not [phone for phone in phones if phone.digits in told]
    assert str(demo.ANNA) in told


def test_the_commands_it_sends_the_reader_to_exist() -> None:
    commands = re.findall(r"^  bindings ([a-z]+)(?: ([a-z]+))?(?:  | --)", demo.NEXT, re.MULTILINE)
    assert commands
    context = click.Context(root)
    for name, sub in commands:
        command = root.get_command(context, name)
        assert command is not None, name
        if sub:
            assert isinstance(command, click.Group)
            assert command.get_command(context, sub) is not None, f"{name} {sub}"
    assert ("serve", "") in commands, "backend apps and auditors begin there"
    assert f"console at http://127.0.0.1:{DEFAULT_PORT}, API at /docs" in demo.NEXT


def test_it_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "STEPS", demo.STEPS[:1])
    demo.run(io.StringIO())
    assert not list(tmp_path.iterdir())


def test_a_step_that_does_not_come_out_as_told_ends_it_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reconcile adopts nothing, the demo must not say that it did."""

    class Idle:
        adopted = 0

    monkeypatch.setattr(BindingService, "reconcile", lambda _self, **_: Idle())
    monkeypatch.setattr(demo, "STEPS", (demo.STEPS[2],))
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        demo.run(out)
    assert ended.value.code == "demo: this did not come out as told: reconcile adopted it"
    assert "adopted as bind_id" not in out.getvalue()


def test_the_command_runs_it_and_exits_with_1_where_it_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(_stage: object) -> None:
        raise SystemExit("demo: this did not come out as told: so")

    monkeypatch.setattr(demo, "STEPS", (demo.Step("A step", wrong),))
    monkeypatch.setattr(sys, "argv", ["bindings", "demo"])
    with pytest.raises(SystemExit) as ended:
        root.main(["demo"])
    assert ended.value.code not in (0, None)
    assert "1. A step" in capsys.readouterr().out
