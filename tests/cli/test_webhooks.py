"""bindings webhooks: the commands, and the sending by the scheduler."""

from __future__ import annotations

import json
import re
import sys
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


def test_webhook_secret_is_printed_when_added_and_not_when_listed(shell: Shell) -> None:
    webhook = add(shell, "https://example.com/a", "--kind", "expired")
    assert list(webhook) == [
        "id",
        "url",
        "kinds",
        "created_at",
        "created_by",
        "disabled_at",
        "disabled_why",
        "old_secret_until",
        "secret",
    ]
    listed = shell.run("webhooks", "list", "--json")
    assert [row["kinds"] for row in listed.json["data"]] == [["expired"]]
    for result in (listed, shell.run("webhooks", "list")):
        assert webhook["id"] in result.out
        assert webhook["secret"] not in result.out + result.err
    rotated = shell.run("webhooks", "rotate", webhook["id"])
    assert "whsec_" in rotated.out
    assert webhook["secret"] not in rotated.out


def test_added_webhook_is_printed_without_json_as_aligned_lines(shell: Shell) -> None:
    kinds = ["--kind", "expired", "--kind", "unbound"]
    result = shell.run("webhooks", "add", "--url", "https://example.com/a", *kinds)
    lines = dict(re.split(" {2,}", line, maxsplit=1) for line in result.out.splitlines())
    assert (lines["kinds"], lines["secret"].startswith("whsec_")) == ("expired unbound", True)
    columns = [re.search(r" {2,}", line) for line in result.out.splitlines()]
    assert len({column.end() for column in columns if column}) == 1


def test_wrong_options_are_named(shell: Shell) -> None:
    result = shell.run("webhooks", "add", "--url", "ftp://x", "--kind", "born", "--json")
    assert (result.code, result.fields) == (2, ["url", "kind"])
    result = shell.run("webhooks", "add", "--json")
    assert (result.code, result.problem["errors"]) == (2, [{"field": "url", "message": "is needed"}])
    for arguments in ([], ["--webhook", "x"], ["x", "--dead"]):
        assert shell.run("webhooks", "redeliver", *arguments, "--json").code == 2
    result = shell.run("webhooks", "enable", "x")
    assert result.code == 4
    assert "`webhooks list`" in result.err


def test_test_message_prints_the_response_and_exits_with_5_if_it_is_refused(
    shell: Shell, receiver: Receiver
) -> None:
    webhook = add(shell, receiver.url)
    result = shell.run("webhooks", "test", webhook["id"])
    assert result.code == 0
    assert result.out.startswith("answered 204 in ")
    assert receiver.messages[0].verified(webhook["secret"])["type"] == "test"
    receiver.answers = lambda _: Reply(status=500)
    refused = shell.run("webhooks", "test", webhook["id"], "--json")
    assert refused.code == 5
    assert (refused.json["delivered"], refused.json["status"]) == (False, 500)


def test_test_message_without_the_signing_library_names_the_extra(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = add(shell, "https://example.com/")
    for name in ("standardwebhooks", *(name for name in sys.modules if name.startswith("standardwebhooks."))):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "bindings.webhooks.sender", raising=False)
    monkeypatch.delattr("bindings.webhooks.sender", raising=False)
    result = shell.run("webhooks", "test", webhook["id"])
    assert result.code == 2
    assert "the extra `server` is not installed (standardwebhooks is missing)" in result.err
    assert "pip install 'pns-bindings[server]'" in result.err


@pytest.mark.processes
def test_scheduler_sends_events_and_resumes_after_enable(shell: Shell, receiver: Receiver) -> None:
    shell.set(sweep_interval_s="0.2")
    receiver.answers = lambda _: Reply(status=410)
    webhook = add(shell, receiver.url, "--kind", "activated")
    shell.bind()
    with running(shell, "scheduler", "--json") as program:
        wait_for(lambda: "the receiver answered 410" in shell.run("webhooks", "list").out)
        receiver.answers = lambda _: Reply()
        enabled = shell.run("webhooks", "enable", webhook["id"], "--json").json
        assert enabled["disabled_at"] is None
        wait_for(lambda: len(receiver.messages) == 2)
        wait_for(lambda: "delivered" in shell.run("webhooks", "deliveries", webhook["id"]).out)
        program.terminate()
        out, err = program.communicate(timeout=300)
    assert (program.returncode, json.loads(out)) == (0, {"stopped": True})
    assert webhook["secret"] not in err
    [delivery] = shell.run("webhooks", "deliveries", webhook["id"], "--state", "delivered", "--json").json["data"]
    redelivered = shell.run("webhooks", "redeliver", delivery["id"], "--json").json
    assert redelivered == {"pending": 1}
    assert shell.run("webhooks", "redeliver", "--dead", "--webhook", webhook["id"]).out == "pending again: 0\n"
    assert shell.run("webhooks", "disable", webhook["id"]).code == 0
    assert shell.run("webhooks", "remove", webhook["id"]).out == "removed\n"
    assert shell.run("webhooks", "list", "--json").json["data"] == []
