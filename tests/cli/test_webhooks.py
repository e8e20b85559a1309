"""bindings webhooks: from a shell, and sent by the scheduler."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.test_run import running
from tests.service.harness import wait_for
from tests.web.receivers import Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Shell


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def add(shell: Shell, url: str, *more: str) -> Any:
    return shell.run("webhooks", "add", "--url", url, "--json", *more).json


def test_a_webhook_is_added_with_its_secret_and_listed_without(shell: Shell) -> None:
    made = add(shell, "https://example.com/a", "--kind", "expired")
    assert list(made) == [
        "id",
        "url",
        "kinds",
        "created_at",
        "created_by",
        "disabled_at",
        "disabled_why",
        "secret",
    ]
    listed = shell.run("webhooks", "list", "--json")
    assert [each["kinds"] for each in listed.json["data"]] == [["expired"]]
    for answer in (listed, shell.run("webhooks", "list")):
        assert made["id"] in answer.out
        assert made["secret"] not in answer.out + answer.err
    rotated = shell.run("webhooks", "rotate", made["id"])
    assert "whsec_" in rotated.out
    assert made["secret"] not in rotated.out


def test_what_is_wrong_is_named(shell: Shell) -> None:
    answer = shell.run("webhooks", "add", "--url", "ftp://x", "--kind", "born", "--json")
    assert (answer.code, answer.fields) == (2, ["url", "kind"])
    answer = shell.run("webhooks", "add", "--json")
    assert (answer.code, answer.problem["errors"]) == (2, [{"field": "url", "message": "is needed"}])
    for given in ([], ["--webhook", "x"], ["x", "--dead"]):
        assert shell.run("webhooks", "redeliver", *given, "--json").code == 2
    answer = shell.run("webhooks", "enable", "x")
    assert answer.code == 4
    assert "bindings webhooks list" in answer.err


def test_a_test_tells_the_answer_and_exits_with_5_where_it_was_not_taken(shell: Shell, receiver: Receiver) -> None:
    made = add(shell, receiver.url)
    answer = shell.run("webhooks", "test", made["id"])
    assert answer.code == 0
    assert answer.out.startswith("answered 204 in ")
    assert receiver.messages[0].verified(made["secret"])["type"] == "test"
    receiver.answers = lambda _: Reply(status=500)
    told = shell.run("webhooks", "test", made["id"], "--json")
    assert told.code == 5
    assert (told.json["delivered"], told.json["status"]) == (False, 500)


def test_without_what_signs_a_test_says_what_to_install(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    made = add(shell, "https://example.com/")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    answer = shell.run("webhooks", "test", made["id"])
    assert answer.code == 2
    assert "bindings[server]" in answer.err


@pytest.mark.processes
def test_the_scheduler_sends_and_a_receiver_that_is_gone_is_enabled_again(
    shell: Shell, receiver: Receiver
) -> None:
    shell.set(sweep_interval_s="0.2")
    receiver.answers = lambda _: Reply(status=410)
    made = add(shell, receiver.url, "--kind", "activated")
    shell.bind()
    with running(shell, "scheduler", "--json") as program:
        wait_for(lambda: "410" in shell.run("webhooks", "list").out, seconds=60)
        receiver.answers = lambda _: Reply()
        enabled = shell.run("webhooks", "enable", made["id"], "--json").json
        assert enabled["disabled_at"] is None
        wait_for(lambda: len(receiver.messages) == 2, seconds=60)
        wait_for(lambda: "delivered" in shell.run("webhooks", "deliveries", made["id"]).out)
        program.terminate()
        out, err = program.communicate(timeout=30)
    assert (program.returncode, json.loads(out)) == (0, {"stopped": True})
    assert made["secret"] not in err
    [delivery] = shell.run("webhooks", "deliveries", made["id"], "--state", "delivered", "--json").json["data"]
    again = shell.run("webhooks", "redeliver", delivery["id"], "--json").json
    assert again == {"pending": 1}
    assert shell.run("webhooks", "redeliver", "--dead", "--webhook", made["id"]).out == "pending again: 0\n"
    assert shell.run("webhooks", "disable", made["id"]).code == 0
    assert shell.run("webhooks", "remove", made["id"]).out == "removed\n"
    assert shell.run("webhooks", "list", "--json").json["data"] == []
