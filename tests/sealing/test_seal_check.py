"""The event of a seal, the log line, the anchor command, the check `seals` and its metric, on both databases."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.binding import EventKind
from bindings.errors import Busy
from bindings.jobs import seal as seal_job
from bindings.jobs.anchor import anchor
from bindings.jobs.registry import SEAL
from bindings.jobs.runner import JobRunner
from bindings.monitoring.check import Check, Level
from bindings.monitoring.health_metrics import health_metrics
from bindings.monitoring.seal_check import seals_in_time
from bindings.sealing.seals import Seal, SealBody, cursor
from bindings.store import seals
from bindings.webhooks.messages import body_of
from tests.service.harness import NOON, C, D, ServiceHarness, feed_has_caught_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bindings.jobs.seal import SealResult
    from bindings.service import BindingService

HEAD = Seal(number=3, to_tx=0, to_position=9, body="{}", signature="", created_at=NOON)
WAITS = "the oldest event after seal {} has not been sealed for {}"
LOOK = "check that a process with BINDINGS_SEAL_KEY_FILE runs, and that no transaction stays open"
NOT_ANCHORED = "the last head is not anchored: {}"
TRIES_AGAIN = "check BINDINGS_ANCHOR_COMMAND; each run of the job `seal` tries again"
FORGED = "seal {} ends after the newest event: it is forged, and nothing is sealed after it"
VERIFY = "run `bindings audit verify`, and see who can write to the database"
IN_TIME = "seal {} is {} old, and no older event waits"


def test_event_of_a_seal_is_written_once_and_sealed_with_later_ones(
    harness: ServiceHarness, seal: Callable[..., SealResult], caplog: pytest.LogCaptureFixture
) -> None:
    harness.bind()
    with caplog.at_level(logging.INFO, logger="bindings.jobs.seal"):
        first = seal()
    assert f"sealed: head {first.head}, 2 events in 1 seals" in caplog.text
    assert [seal().seals for _ in range(3)] == [0, 0, 0], "it does not seal its own event for itself"
    harness.bind(C, D)
    assert (seal().events, seal().events) == (3, 0)
    feed_has_caught_up(harness.service)
    sealed = [event for event in harness.service.events().data if event.kind == EventKind.SEALED]
    assert [event.detail["events"] for event in sealed] == [2, 3]
    assert sealed[0].detail["head"] == first.head
    assert b'"type":"log.sealed"' in body_of(sealed[0])
    assert f'"head":"{first.head}"'.encode() in body_of(sealed[0])


def test_anchor_command_gets_the_head_once(
    harness: ServiceHarness, seal: Callable[..., SealResult], sealer: BindingService, tmp_path: Path
) -> None:
    script = tmp_path / "keep it.sh"
    script.write_text(f'#!/bin/sh\necho "$@ $(cat)" >> "{tmp_path}/kept"\n')
    script.chmod(0o700)
    service = harness.open(seal_key_file=sealer.settings.seal_key_file, anchor_command=f"'{script}' --bucket x")
    harness.bind()
    for _ in range(2):
        feed_has_caught_up(service)
        result = JobRunner(service.runtime).run_once_per_period(SEAL, 10.0)
        assert result is not None
        assert (result.anchored, result.anchor_error) == (1, None)
        harness.clock.advance(10)
    assert result is not None
    number, _, digest = str(result.head).partition(":")
    assert (tmp_path / "kept").read_text() == f"--bucket x {number} {digest} {result.head}\n"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("/nowhere/command", "the command cannot be run: No such file or directory"),
        ("false", "the command exited with 1"),
        ("sh -c 'cat; exit 3'", "the command exited with 3"),
        ("true", None),
        ("sh -c 'sleep 60 & exit 0'", None),  # what it leaves behind is not waited for
    ],
)
def test_failure_of_the_anchor_command_is_returned(command: str, error: str | None) -> None:
    assert anchor(command, HEAD) == error


def test_check_is_red_while_events_wait_and_warns_of_an_anchor(
    harness: ServiceHarness, seal: Callable[..., SealResult], sealer: BindingService
) -> None:
    def check() -> tuple[Level, str, str | None]:
        result: Check = seals_in_time(harness.database)
        return result.level, result.seen, result.todo

    assert check() == (Level.OK, "the history is not sealed", None)
    harness.bind()
    harness.clock.advance(1_000)
    assert health_metrics(harness.service.runtime, harness.database).seal_age_s == 0, "nothing is sealed here"
    seal()
    harness.clock.advance(1_000)
    assert check() == (Level.OK, IN_TIME.format(1, "16 min"), None)
    harness.bind(C, D, expire_s=7_200)
    assert health_metrics(harness.service.runtime, harness.database).seal_age_s == 0
    harness.clock.advance(301)
    assert check() == (Level.RED, WAITS.format(1, "5 min"), LOOK)
    assert health_metrics(harness.service.runtime, harness.database).seal_age_s == 301
    failing = harness.open(seal_key_file=sealer.settings.seal_key_file, anchor_command="false")
    feed_has_caught_up(failing)
    JobRunner(failing.runtime).run_once_per_period(SEAL, 10.0)
    assert check() == (Level.WARN, NOT_ANCHORED.format("the command exited with 1"), TRIES_AGAIN)


def test_forged_seal_stops_the_job_and_turns_the_check_red(
    harness: ServiceHarness, seal: Callable[..., SealResult], sealer: BindingService
) -> None:
    """The role of the application may insert seals, and so could keep later events from being sealed unseen."""
    harness.bind()
    seal()
    database = sealer.runtime.database
    last = database.read(seals.last)
    assert last is not None
    runtime = sealer.runtime
    body = SealBody.parse(last.body)
    number_2 = replace(body, number=2, previous=last.hash)
    far = replace(number_2, last=cursor((10**15, 10**15)), key_id="0" * 16)
    end = {"to_tx": last.to_tx, "to_position": last.to_position}
    rows: tuple[dict[str, Any], ...] = (
        {"body": "{}"} | end,
        {"body": last.body} | end,
        {"body": number_2.text()} | end,
        {"body": far.text(), "to_tx": 10**15, "to_position": 10**15},
    )
    for values in rows:
        forged = replace(last, number=2, **values)
        with pytest.raises(Busy, match="seal 2 is forged; nothing was sealed after it"):
            seal_job._require_genuine(database, runtime.require_seal_key(), forged)
    database.write(lambda tx: seals.insert(tx, replace(last, number=2, **rows[-1])))
    harness.bind(C, D)
    with pytest.raises(Busy, match="seal 2 is forged"):
        seal()
    check = seals_in_time(database)
    assert (check.level, check.seen, check.todo) == (Level.RED, FORGED.format(2), VERIFY)
