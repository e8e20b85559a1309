"""get, list, lookup, history, trace, check, doubts, stats: shapes, filters, tables and empty answers."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import pwd
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import Binding
from tests.cli.conftest import A, B, C, D

if TYPE_CHECKING:
    from bindings.provider.simulator import Simulator
    from tests.cli.conftest import Shell

FIELDS = [field.name for field in dataclasses.fields(Binding)]
MIDDLE = "9188061024"


def seconds_from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_get_answers_with_the_fields_of_a_binding(shell: Shell) -> None:
    bound = shell.bind().json
    answer = shell.run("get", bound["id"], "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json == bound
    assert list(answer.json) == FIELDS


def test_list_filters_and_pages(shell: Shell) -> None:
    first = shell.bind(A, B, "--reference", "order-1").json
    second = shell.bind(C, D, "--reference", "order-2", mode="AXXB").json
    page = shell.run("list", "--limit", "1", "--json").json
    assert [row["id"] for row in page["data"]] == [second["id"]]
    rest = shell.run("list", "--limit", "1", "--cursor", page["next_cursor"], "--json").json
    assert ([row["id"] for row in rest["data"]], rest["next_cursor"]) == ([first["id"]], None)
    for option, value, ids in (
        ("--reference", "order-1", [first["id"]]),
        ("--mode", "AXXB", [second["id"]]),
        ("--phone", C, [second["id"]]),
        ("--middle-number", "1", []),
        ("--bind-id", second["bind_id"], [second["id"]]),
        ("--state", "failed", []),
        ("--pool-number", "other", []),
        ("--app-id", "other", []),
        ("--requested-from", seconds_from_now(60), []),
        ("--requested-to", seconds_from_now(60), [second["id"], first["id"]]),
    ):
        found = shell.run("list", option, value, "--json").json["data"]
        assert [row["id"] for row in found] == ids, option


def test_wrong_filters_are_all_named(shell: Shell) -> None:
    answer = shell.run(
        "list", "--state", "x", "--mode", "y", "--limit", "many", "--requested-from", "2026-01-01", "--json"
    )
    assert answer.code == 2
    assert sorted(answer.fields) == ["limit", "mode", "requested_from", "state"]


def test_a_table_has_one_line_a_binding_when_it_goes_to_a_program(shell: Shell) -> None:
    bound = shell.bind(A, B, "--reference", "order-1").json
    heading, row = shell.run("list").out.splitlines()
    assert heading.split()[:3] == ["ID", "STATE", "MODE"]
    for part in (bound["id"], "active", "AXB", "91******01 91******99", MIDDLE, "Z  order-1"):
        assert part in row
    assert "\x1b" not in row


def test_in_a_narrow_terminal_a_table_stays_within_80_columns(shell: Shell) -> None:
    bound = shell.bind(A, B, "--reference", "order-1").json
    terminal, end = pty.openpty()
    environment = {**shell.whole_environment(), "COLUMNS": "80", "TERM": "dumb"}
    subprocess.run([sys.executable, "-m", "bindings", "list"], env=environment, stdout=end, check=True)
    os.close(end)
    with open(terminal, "rb", buffering=0) as reader:  # noqa: PTH123 -- it is a descriptor
        lines = reader.read(10_000).decode().split("\r\n")
    assert max(map(len, lines)) <= 80
    assert bound["id"] in lines[1]
    assert "91******01 sees 9188061024" in lines[2]


def test_an_empty_answer_says_so_on_stderr_only(shell: Shell) -> None:
    for command in (
        ["list"],
        ["lookup", "--phone", A],
        ["doubts"],
        ["stats"],
        ["trace", MIDDLE, "--at", seconds_from_now(0)],
        ["check", "--phone-a", A, "--phone-b", B, "--mode", "AXB"],
    ):
        answer = shell.run(*command)
        assert (answer.code, answer.out) == (0, ""), command
        assert answer.err.strip(), command


def test_lookup_finds_by_phone_and_by_middle_number(shell: Shell) -> None:
    bound = shell.bind().json
    for asked in (
        ["--phone", A],
        ["--phone", f"+{B}"],
        ["--middle-number", MIDDLE],
        ["--middle-number", MIDDLE, "--party", A],
    ):
        answer = shell.run("lookup", *asked, "--json")
        assert answer.json == {"data": [bound], "next_cursor": None}
    assert shell.run("lookup", "--middle-number", MIDDLE, "--party", C, "--json").json["data"] == []


def test_lookup_needs_one_of_its_options(shell: Shell) -> None:
    assert shell.run("lookup", "--json").fields == ["phone"]
    assert shell.run("lookup", "--phone", A, "--party", B, "--json").fields == ["party"]


def test_history_tells_every_event_without_a_phone(shell: Shell) -> None:
    bound = shell.bind().json
    events = shell.run("history", bound["id"], "--json").json
    assert [event["kind"] for event in events["data"]] == ["requested", "activated"]
    assert events["next_cursor"] is None
    assert {event["actor"] for event in events["data"]} == {bound["actor"]}
    assert "activated" in shell.run("history", bound["id"]).out


def test_trace_says_who_had_a_middle_number_and_how_sure_that_is(shell: Shell) -> None:
    bound = shell.bind().json
    found = shell.run("trace", MIDDLE, "--at", seconds_from_now(1), "--json").json
    assert found == {"holders": [bound | {"certainty": "certain"}], "near_misses": []}


def test_trace_names_near_misses(shell: Shell) -> None:
    bound = shell.bind().json
    asked = ["trace", MIDDLE, "--at", seconds_from_now(-30), "--party", A]
    found = shell.run(*asked, "--json").json
    (miss,) = found["near_misses"]
    assert found["holders"] == []
    assert list(miss) == [*FIELDS, "relation", "at", "offset_s"]
    assert (miss["id"], miss["relation"]) == (bound["id"], "began")
    assert 20 < miss["offset_s"] <= 31
    assert miss["at"].endswith("Z")
    assert shell.run(*asked, "--window-s", "5", "--json").json == {"holders": [], "near_misses": []}
    assert "began" in shell.run(*asked).out


@pytest.mark.parametrize("at", [[], ["--at", "2026-11-23T14:32:00"], ["--at", "yesterday"]])
def test_trace_needs_an_instant_with_its_zone(shell: Shell, at: list[str]) -> None:
    answer = shell.run("trace", MIDDLE, *at, "--window-s", "x", "--json")
    assert (answer.code, answer.fields) == (2, ["at", "window_s"])


def test_check_names_the_holder_and_exits_with_0_either_way(shell: Shell, simulator: Simulator) -> None:
    asked = ["check", "--phone-a", A, "--phone-b", C, "--mode", "AXB"]
    assert shell.run(*asked, "--json").json == {"data": [], "next_cursor": None}
    bound = shell.bind(A, B, "--reference", "order-1").json
    answer = shell.run(*asked, "--json")
    (holder,) = answer.json["data"]
    assert (answer.code, holder["id"], holder["reference"], holder["state"]) == (
        0,
        bound["id"],
        "order-1",
        "active",
    )
    assert holder["held_until"] == bound["held_until"]
    assert bound["id"] in shell.run(*asked).out
    assert simulator.counts.received == {"bind": 1}


def test_check_names_what_is_missing(shell: Shell) -> None:
    assert shell.run("check", "--json").fields == ["phone_a", "phone_b", "mode"]


def test_doubts_lists_what_waits_for_an_answer(shell: Shell, simulator: Simulator) -> None:
    simulator.script("lost_reply", times=1)
    doubtful = shell.bind().json
    answer = shell.run("doubts", "--json")
    assert [row["id"] for row in answer.json["data"]] == [doubtful["id"]]
    told = shell.run("doubts")
    assert "in_doubt" in told.out
    assert "bindings reconcile" in told.err


def test_stats_counts_and_explains_the_statuses(shell: Shell, simulator: Simulator) -> None:
    shell.bind(A, B)
    shell.bind(A, C)
    simulator.script("refuse:-41", times=1)
    shell.bind(C, D)
    counts = shell.run("stats", "--json").json
    assert counts["by_state"] == {"active": 1, "failed": 1}
    assert counts["by_pool"] == {"918806": 2}
    assert counts["by_provider_status"] == {"-41": 1}
    assert counts["provider_status_meanings"] == {"-41": "no middle number available in the pool"}
    assert counts["by_event"]["refused"] == 1
    told = shell.run("stats").out
    assert "-41 no middle number available in the pool" in told
    assert "conflicts stopped before the call" in told


REVEALING = ("get", "list", "lookup", "trace", "doubts", "export")


def asked_of(command: str, binding_id: str) -> list[str]:
    return {
        "get": ["get", binding_id],
        "list": ["list"],
        "lookup": ["lookup", "--phone", A],
        "trace": ["trace", MIDDLE, "--at", seconds_from_now(1)],
        "doubts": ["doubts"],
        "export": ["export", "bindings"],
    }[command]


@pytest.mark.parametrize("command", REVEALING)
@pytest.mark.parametrize("as_json", [["--json"], []], ids=["json", "plain"])
def test_revealing_is_recorded_with_the_operating_system_user(
    shell: Shell, simulator: Simulator, command: str, as_json: list[str]
) -> None:
    if command == "doubts":
        simulator.script("lost_reply", times=1)
    binding_id = shell.bind().json["id"]
    asked = asked_of(command, binding_id)
    assert shell.run(*asked, *as_json).code == 0  # searched for phones, as every answer
    answer = shell.run(*asked, *as_json, "--reveal", "--reason", "fraud case 7")
    assert answer.code == 0
    assert A in answer.out
    assert B in answer.out
    revealed = [
        event
        for event in map(json.loads, shell.run("export", "events", "--json").out.splitlines())
        if event["kind"] == "revealed"
    ]
    (event,) = revealed
    assert event["actor"] == f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    assert event["detail"]["reason"] == "fraud case 7"
    assert event["binding_id"] == (None if command == "export" else binding_id)


@pytest.mark.parametrize("command", REVEALING)
def test_reveal_and_reason_are_needed_together(shell: Shell, command: str) -> None:
    binding_id = shell.bind().json["id"]
    asked = asked_of(command, binding_id)
    for wrong, named in (
        (["--reveal"], "reason"),
        (["--reason", "x"], "reveal"),
        (["--reveal", "--reason", ""], "reason"),
    ):
        answer = shell.run(*asked, *wrong, "--json")
        assert (answer.code, answer.out, answer.fields) == (2, "", [named])
    assert "revealed" not in shell.run("stats", "--json").json["by_event"]


def test_revealing_nothing_records_nothing(shell: Shell) -> None:
    assert shell.run("list", "--reveal", "--reason", "x", "--json").json["data"] == []
    assert shell.run("stats", "--json").json["by_event"] == {}


def test_stats_say_what_the_refusals_that_surprised_suggest(shell: Shell, simulator: Simulator) -> None:
    shell.bind(A, B, mode="AXXB")
    simulator.change(policy="strict")
    assert shell.bind(A, C).code == 3
    told = shell.run("stats")
    assert "AXB met AXXB active" in told.out
    assert "BINDINGS_CONFLICT_POLICY=strict" in told.err
