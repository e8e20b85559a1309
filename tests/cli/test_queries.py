"""get, list, lookup, history, trace, check, doubts, stats: JSON fields, filters, tables and empty results."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import pwd
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
import pytest

from bindings.cli.options import PhoneNumber
from bindings.cli.root import root
from bindings.domain.binding import Binding
from bindings.domain.phone import mask
from bindings.provider.simulator import Fault, FaultKind
from tests.cli.conftest import A, B, C, D
from tests.service.harness import E

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.provider.simulator import Simulator
    from tests.cli.conftest import Shell

FIELDS = [field.name for field in dataclasses.fields(Binding)]
MIDDLE = "9188061024"


def seconds_from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_get_prints_the_fields_of_a_binding(shell: Shell) -> None:
    bound = shell.bind().json
    result = shell.run("get", bound["id"], "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json == bound
    assert list(result.json) == FIELDS


def test_list_filters_and_pages(shell: Shell) -> None:
    first = shell.bind(A, B, "--reference", "order-1", "--idempotency-key", "order-1/1").json
    second = shell.bind(C, D, "--reference", "order-2", mode="AXXB").json
    page = shell.run("list", "--limit", "1", "--json").json
    assert [row["id"] for row in page["data"]] == [second["id"]]
    second_page = shell.run("list", "--limit", "1", "--cursor", page["next_cursor"], "--json").json
    assert ([row["id"] for row in second_page["data"]], second_page["next_cursor"]) == ([first["id"]], None)
    for option, value, ids in (
        ("--reference", "order-1", [first["id"]]),
        ("--idempotency-key", "order-1/1", [first["id"]]),
        ("--mode", "AXXB", [second["id"]]),
        ("--phone", C, [second["id"]]),
        ("--middle-number", "1", []),
        ("--bind-id", second["bind_id"], [second["id"]]),
        ("--state", "failed", []),
        ("--provider-status", "-41", []),
        ("--state-reason", "no_number", []),
        ("--since", "10min", [second["id"], first["id"]]),
        ("--since", "1h", [second["id"], first["id"]]),
        ("--until", "1d", []),
        ("--pool-number", "other", []),
        ("--app-id", "other", []),
        ("--actor", "other", []),
        ("--actor", first["actor"], [second["id"], first["id"]]),
        ("--requested-from", seconds_from_now(60), []),
        ("--requested-to", seconds_from_now(60), [second["id"], first["id"]]),
    ):
        rows = shell.run("list", option, value, "--json").json["data"]
        assert [row["id"] for row in rows] == ids, option
    shell.run("unbind", second["id"])
    assert [row["id"] for row in shell.run("list", "--active", "--json").json["data"]] == [first["id"]]


def test_list_with_wrong_filters_names_all_of_them(shell: Shell) -> None:
    result = shell.run(
        "list", "--state", "x", "--mode", "y", "--limit", "many", "--requested-from", "2026-01-01", "--json"
    )
    assert result.code == 2
    assert sorted(result.fields) == ["limit", "mode", "requested_from", "state"]


def test_list_outside_a_terminal_prints_one_line_per_binding(shell: Shell) -> None:
    bound = shell.bind(A, B, "--reference", "order-1").json
    heading, row = shell.run("list").out.splitlines()
    assert heading.split()[:5] == ["REQUESTED", "ID", "STATE", "REASON", "MODE"]
    for part in (bound["id"], "active", "AXB  ", "918806", "91******01 91******99", MIDDLE, "Z  order-1"):
        assert part in row
    assert "\x1b" not in row


def run_in_terminal(shell: Shell, *arguments: str, width: int) -> list[str]:
    """Run a command in a terminal of so many columns; return its lines."""
    terminal, end = pty.openpty()
    environment = {**shell.whole_environment(), "COLUMNS": str(width), "TERM": "dumb"}
    subprocess.run([sys.executable, "-m", "bindings", *arguments], env=environment, stdout=end, check=True)
    os.close(end)
    with open(terminal, "rb", buffering=0) as reader:  # noqa: PTH123 -- it is a descriptor
        return reader.read(10_000).decode().split("\r\n")


def test_list_in_a_narrow_terminal_stays_within_80_columns(shell: Shell) -> None:
    bound = shell.bind(A, B, "--reference", "order-1").json
    lines = run_in_terminal(shell, "list", width=80)
    assert max(map(len, lines)) <= 80
    assert bound["id"] in lines[1]
    assert "91******01 sees 9188061024" in lines[2]
    assert "918806" in lines[3].split()


def test_no_id_is_broken_in_a_narrow_terminal(shell: Shell) -> None:
    bound = shell.bind(A, B, "--reference", "order-1").json
    assert ["ID", bound["id"]] in [line.split() for line in run_in_terminal(shell, "list", width=60)]
    key = shell.run("keys", "create", "--name", "rides", "--role", "app", "--json").json
    lines = [line.split() for line in run_in_terminal(shell, "keys", "list", width=80)]
    assert (lines[0], ["NAME", "rides"] in lines) == (["ID", key["id"]], True)


def test_empty_result_is_reported_on_stderr_only(shell: Shell) -> None:
    for command in (
        ["list"],
        ["stats"],  # first: a question about a phone is an event
        ["lookup", "--phone", A],
        ["doubts"],
        ["trace", MIDDLE, "--at", seconds_from_now(0)],
        ["check", "--phone-a", A, "--phone-b", B, "--mode", "AXB"],
    ):
        result = shell.run(*command)
        assert (result.code, result.out) == (0, ""), command
        assert result.err.strip(), command


def test_lookup_finds_by_phone_by_middle_number_and_by_reference(shell: Shell) -> None:
    bound = shell.bind(A, B, "--reference", "order-1").json
    for arguments in (
        ["--reference", "order-1"],
        ["--phone", A],
        ["--phone", f"+{B}"],
        ["--middle-number", MIDDLE],
        ["--middle-number", MIDDLE, "--party", A],
    ):
        result = shell.run("lookup", *arguments, "--json")
        holds: dict[str, list[object]] = {} if "--reference" in arguments else {"holds": []}
        assert result.json == {"data": [bound], "next_cursor": None} | holds
    assert shell.run("lookup", "--middle-number", MIDDLE, "--party", C, "--json").json["data"] == []


def test_list_lookup_and_trace_show_the_holds_of_a_phone(shell: Shell, simulator: Simulator) -> None:
    bind_id = simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id="4luaKsL2", expire_s=3_600).bind_id
    commands = (
        ["list", "--phone", C],
        ["lookup", "--phone", C],
        ["lookup", "--middle-number", MIDDLE, "--party", C],
        ["trace", MIDDLE, "--at", seconds_from_now(60), "--party", C],
    )
    for command in commands:
        message = shell.run(*command).err
        assert re.search("No hold of .* outside of an active binding is recorded", message), command
    assert shell.run("reconcile", "--json").json["orphans"] == 1
    for command in commands:
        (hold,) = shell.run(*command, "--json").json["holds"]
        assert (hold["phone"], hold["why"], hold["bind_id"]) == (mask(C), "orphan", str(bind_id)), command
        result = shell.run(*command, "--reveal", "--reason", "complaint 118")
        assert result.code == 0
        assert "not recorded here" in result.out
        assert "ends_by" in result.out
        assert f"bind_id     {bind_id}" in result.out
        assert C not in result.out
        assert "No hold" not in result.err


def test_lookup_without_exactly_one_number_is_refused(shell: Shell) -> None:
    assert shell.run("lookup", "--json").fields == ["phone"]
    assert shell.run("lookup", "--phone", A, "--party", B, "--json").fields == ["party"]


@pytest.mark.parametrize("number", [f"00{A}", f"+0{A}"])
def test_phone_that_begins_with_0_is_refused_with_its_option(shell: Shell, number: str) -> None:
    for field, command in (
        ("phone", ["lookup", "--phone", number]),
        ("party", ["lookup", "--middle-number", MIDDLE, "--party", number]),
        ("party", ["trace", MIDDLE, "--at", seconds_from_now(0), "--party", number]),
        ("phone_b", ["check", "--phone-a", B, "--phone-b", number, "--mode", "AXB"]),
        ("phone", ["list", "--phone", number]),
    ):
        result = shell.run(*command, "--json")
        assert (result.code, result.fields) == (2, [field]), command
        assert number.removeprefix("+") not in result.out + result.err


def test_history_prints_every_event_without_a_phone(shell: Shell) -> None:
    bound = shell.bind().json
    events = shell.run("history", bound["id"], "--json").json
    assert [event["kind"] for event in events["data"]] == ["requested", "activated"]
    assert events["next_cursor"] is None
    assert {event["actor"] for event in events["data"]} == {bound["actor"]}
    assert "activated" in shell.run("history", bound["id"]).out


def test_trace_prints_the_holder_and_its_certainty(shell: Shell) -> None:
    bound = shell.bind().json
    trace = shell.run("trace", MIDDLE, "--at", seconds_from_now(1), "--json").json
    assert trace == {"holders": [bound | {"certainty": "certain"}], "near_misses": [], "other_holders": []} | {
        "traceparents": {},
        "holds": [],
    }


def test_trace_with_the_wrong_party_says_that_the_number_had_other_holders(shell: Shell) -> None:
    bound = shell.bind().json
    arguments = ["trace", MIDDLE, "--at", seconds_from_now(1), "--party", f"91{A}"]
    trace = shell.run(*arguments, "--json").json
    assert trace == {"holders": [], "near_misses": [], "other_holders": [bound | {"certainty": "certain"}]} | {
        "holds": [],
        "traceparents": {},
    }
    assert "1 with other parties had it" in shell.run(*arguments).err
    shell.run("trace", MIDDLE, *arguments[2:], "--reveal", "--reason", "complaint 118")
    assert shell.run("history", bound["id"], "--json").json["data"][-1]["kind"] == "revealed"


def test_trace_prints_near_misses(shell: Shell) -> None:
    bound = shell.bind().json
    arguments = ["trace", MIDDLE, "--at", seconds_from_now(-30), "--party", A]
    trace = shell.run(*arguments, "--json").json
    (miss,) = trace["near_misses"]
    assert trace["holders"] == []
    assert list(miss) == [*FIELDS, "relation", "at", "offset_s"]
    assert (miss["id"], miss["relation"]) == (bound["id"], "began")
    assert 20 < miss["offset_s"] <= 31
    assert miss["at"].endswith("Z")
    assert shell.run(*arguments, "--window-s", "5", "--json").json == {
        "holders": [],
        "near_misses": [],
        "other_holders": [],
        "holds": [],
        "traceparents": {},
    }
    assert "began" in shell.run(*arguments).out


def test_trace_of_a_time_that_has_not_come_is_refused(shell: Shell) -> None:
    result = shell.run("trace", MIDDLE, "--at", seconds_from_now(120), "--json")
    assert (result.code, result.fields) == (2, ["at"])


@pytest.mark.parametrize("at", [[], ["--at", "2026-11-23T14:32:00"], ["--at", "yesterday"]])
def test_trace_without_a_time_with_zone_is_refused(shell: Shell, at: list[str]) -> None:
    result = shell.run("trace", MIDDLE, *at, "--window-s", "x", "--json")
    assert (result.code, result.fields) == (2, ["at", "window_s"])


def test_check_prints_the_holder_and_exits_with_0(shell: Shell, simulator: Simulator) -> None:
    arguments = ["check", "--phone-a", A, "--phone-b", C, "--mode", "AXB"]
    assert shell.run(*arguments, "--json").json == {"data": [], "next_cursor": None}
    bound = shell.bind(A, B, "--reference", "order-1").json
    result = shell.run(*arguments, "--json")
    (holder,) = result.json["data"]
    assert (result.code, holder["id"], holder["reference"], holder["state"]) == (
        0,
        bound["id"],
        "order-1",
        "active",
    )
    assert holder["held_until"] == bound["held_until"]
    assert bound["id"] in shell.run(*arguments).out
    assert simulator.counts.received == {"bind": 1}


def test_check_without_options_names_the_missing_fields(shell: Shell) -> None:
    assert shell.run("check", "--json").fields == ["phone_a", "phone_b", "mode"]


def test_doubts_lists_in_doubt_bindings(shell: Shell, simulator: Simulator) -> None:
    simulator.script("lost_reply", times=1)
    doubtful = shell.bind().json
    result = shell.run("doubts", "--json")
    assert [row["id"] for row in result.json["data"]] == [doubtful["id"]]
    plain = shell.run("doubts")
    assert "in_doubt" in plain.out
    assert "bindings reconcile" in plain.err


def test_stats_counts_bindings_and_explains_statuses(shell: Shell, simulator: Simulator) -> None:
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
    table = shell.run("stats").out
    assert "-41 no middle number available in the pool" in table
    assert "conflicts, before the provider was called" in table


def test_refusals_are_listed_by_reference_phone_and_actor_with_masked_phones(shell: Shell) -> None:
    first = shell.bind(A, B, "--reference", "order-1").json
    assert shell.bind(A, C, "--reference", "order-2").code == 3
    (refusal,) = shell.run("refusals", "--json").json["data"]
    assert (refusal["code"], refusal["reference"], refusal["holder"]["id"]) == (
        "phone-in-use",
        "order-2",
        first["id"],
    )
    for option, value, count in (
        ("--reference", "order-2", 1),
        ("--reference", "order-1", 0),
        ("--reference-prefix", "order", 1),
        ("--phone", C, 1),
        ("--phone", D, 0),
        ("--actor", first["actor"], 1),
        ("--request-id", "unknown", 0),
    ):
        assert len(shell.run("refusals", option, value, "--json").json["data"]) == count, option
    table = shell.run("refusals", "--phone", C)
    assert "phone-in-use" in table.out
    assert first["id"] in table.out
    nothing = shell.run("refusals", "--phone", D, "--reference", "order-2")
    assert nothing.err.startswith("No bind that was refused before the call matches --reference and --phone.")
    assert shell.run("refusals", "--phone", "0123").code == 2


REVEALING = ("get", "list", "lookup", "trace", "doubts", "export")


def command_line(command: str, binding_id: str) -> list[str]:
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
def test_reveal_is_recorded_with_the_operating_system_user(
    shell: Shell, simulator: Simulator, command: str, as_json: list[str]
) -> None:
    if command == "doubts":
        simulator.script("lost_reply", times=1)
    binding_id = shell.bind().json["id"]
    arguments = command_line(command, binding_id)
    assert shell.run(*arguments, *as_json).code == 0  # `Shell` searches it for phones
    result = shell.run(*arguments, *as_json, "--reveal", "--reason", "fraud case 7")
    assert result.code == 0
    assert A in result.out
    assert B in result.out
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
def test_reveal_and_reason_are_refused_without_each_other(shell: Shell, command: str) -> None:
    binding_id = shell.bind().json["id"]
    arguments = command_line(command, binding_id)
    for wrong, named in (
        (["--reveal"], "reason"),
        (["--reason", "x"], "reveal"),
        (["--reveal", "--reason", ""], "reason"),
    ):
        result = shell.run(*arguments, *wrong, "--json")
        assert (result.code, result.out, result.fields) == (2, "", [named])
    assert "revealed" not in shell.run("stats", "--json").json["by_event"]


def test_reveal_of_an_empty_result_records_nothing(shell: Shell) -> None:
    assert shell.run("list", "--reveal", "--reason", "x", "--json").json["data"] == []
    assert shell.run("stats", "--json").json["by_event"] == {}


def test_stats_suggests_a_policy_for_unexpected_conflicts(shell: Shell, simulator: Simulator) -> None:
    shell.bind(A, B, mode="AXXB")
    simulator.change(policy="strict")
    assert shell.bind(A, C).code == 3
    plain = shell.run("stats")
    assert "AXB met AXXB active" in plain.out
    assert "BINDINGS_CONFLICT_POLICY=strict" in plain.err


def test_every_option_for_a_phone_reads_standard_input(shell: Shell) -> None:
    bound = shell.bind().json
    middle = bound["middle_number_a"]
    for command in (
        ["lookup", "--phone", "-"],
        ["lookup", "--middle-number", middle, "--party", "-"],
        ["list", "--phone", "-"],
    ):
        assert [row["id"] for row in shell.run(*command, "--json", stdin=A).json["data"]] == [bound["id"]], command
    trace = shell.run("trace", middle, "--at", bound["answered_at"], "--party", "-", "--json", stdin=B).json
    assert [holder["id"] for holder in trace["holders"]] == [bound["id"]]
    check = shell.run("check", "--phone-a", "-", "--phone-b", "-", "--mode", "AXB", "--json", stdin=f"{A}\n{C}")
    assert [holder["id"] for holder in check.json["data"]] == [bound["id"]]


def test_every_option_that_names_a_phone_takes_standard_input() -> None:
    options = [
        (command.name, option)
        for command in commands(root)
        for option in command.params
        if option.name in {"phone", "phone_a", "phone_b", "party"}
    ]
    assert len(options) >= 8
    assert [name for name, option in options if not isinstance(option.type, PhoneNumber)] == []


def commands(group: click.Group) -> Iterator[click.Command]:
    """Yield every command of a group, and of the groups in it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command) if isinstance(command, click.Group) else [command]


FORGED = ["", "x", "-1", "0", "201", "9" * 19, "1e400", "nan", "A" * 5_000, "MDAwMS0wMS0wMVQwMDowMDowMFogeA"]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (command, option)
        for command in ("list", "reports", "webhooks deliveries")
        for option in ("--cursor", "--limit")
    ],
)
def test_forged_cursor_or_limit_is_refused_by_name(shell: Shell, command: str, option: str) -> None:
    shell.bind()
    webhook = [shell.run("webhooks", "add", "--url", "http://127.0.0.1:9/", "--json").json["id"]]
    arguments = command.split() + (webhook if command.startswith("webhooks") else [])
    for value in FORGED:
        result = shell.run(*arguments, f"{option}={value}", "--json")
        if result.code:
            assert (result.code, result.fields) == (2, [option.removeprefix("--")]), value


SEARCHING = {
    "list": ["list", "--phone", "{phone}"],
    "lookup": ["lookup", "--phone", "{phone}"],
    "lookup of a party": ["lookup", "--middle-number", "{middle_number}", "--party", "{phone}"],
    "trace": ["trace", "{middle_number}", "--at", "{at}", "--party", "{phone}"],
    "check": ["check", "--phone-a", "{phone}", "--phone-b", E, "--mode", "AXB"],
    "refusals": ["refusals", "--phone", "{phone}"],
    "unbind": ["unbind", "--phone", "{phone}", "--reason", "complaint", "--dry-run"],
}


@pytest.mark.parametrize("command", SEARCHING)
def test_search_by_a_phone_is_recorded_without_the_phone(shell: Shell, command: str) -> None:
    made = shell.bind().json
    shell.bind(A, D)  # refused, because A is held
    for phone in (A, C):
        values = {"phone": phone, "middle_number": made["middle_number_a"], "at": made["answered_at"]}
        assert shell.run(*(word.format(**values) for word in SEARCHING[command]), "--json").code == 0
    exported = map(json.loads, shell.run("export", "events", "--json").out.splitlines())
    searches = [event for event in exported if event["kind"] == "phone_searched"]
    question = command.partition(" ")[0]
    assert [event["detail"] for event in searches] == [
        {"question": question, "match": has_match} for has_match in (True, False)
    ]
    assert {event["actor"] for event in searches} == {f"cli:{pwd.getpwuid(os.getuid()).pw_name}"}


def test_doubts_show_their_age_and_what_happens_next(shell: Shell, simulator: Simulator) -> None:
    simulator.script(Fault(kind=FaultKind.LOST_REPLY, times=1))
    unclear = shell.bind(A, B)
    assert unclear.code == 6
    heading, doubt = shell.run("doubts").out.splitlines()
    assert heading.split()[:3] == ["AGE", "NEXT", "STEP"]
    assert re.match(r"\d+ s  ", doubt)
    assert "its longest possible lifetime ends: it lapses and its phones are free" in doubt, "no scheduler runs"
    shell.run("reconcile")
    (adopted,) = shell.run("list", "--state", "active", "--json").json["data"]
    assert shell.run("doubts").err.strip() == "Nothing is in doubt."
    listed = shell.run("reports", "--json").json["data"]
    assert shell.run("reports", "list", "--json").json["data"] == listed
    table = shell.run("reports", "--limit", "1").out.splitlines()
    assert table[1].startswith(listed[0]["id"])
    report = shell.run("reports", "show", listed[0]["id"])
    assert report.code == 0
    assert re.search(rf"adopted +adopt(ed)? +{adopted['id']} +{adopted['bind_id']}", report.out), report.out
    assert re.search(r"^adopted +1$", report.out, re.MULTILINE)
    assert shell.run("reports", "show", listed[0]["id"], "--json").json == listed[0]
    assert shell.run("reports", "show", "no-such-id").code == 4


def test_stats_of_a_period_count_what_was_requested_in_it(shell: Shell) -> None:
    shell.bind(A, B)
    whole = shell.run("stats", "--json").json
    assert shell.run("stats", "--since", "1h", "--json").json == whole
    assert whole["by_state"] == {"active": 1}
    later = shell.run("stats", "--since", seconds_from_now(60), "--json").json
    assert (later["by_state"], later["by_pool"], later["by_event"]) == ({}, {}, {})
    empty = shell.run("stats", "--since", seconds_from_now(60))
    assert (empty.out, empty.err.strip()) == ("", "Nothing is recorded since then.")
    wrong = shell.run("stats", "--since", "2026-01-01", "--json")
    assert (wrong.code, wrong.fields) == (2, ["since"])


def test_access_log_is_narrowed_by_options(shell: Shell) -> None:
    made = shell.bind(A, B, "--reference", "order-42").json
    shell.run("get", made["id"], "--reveal", "--reason", "complaint 118", "--json")
    shell.run("lookup", "--phone", A, "--json")
    options = ("--kind", "reveal", "--binding-id", made["id"], "--reason-prefix", "compl", "--since", "1h")
    [entry] = shell.run("access-log", *options, "--json").json["data"]
    assert (entry["reason"], entry["reference"]) == ("complaint 118", "order-42")
    table = shell.run("access-log")
    assert table.code == 0
    assert all(
        text in table.out for text in ("complaint 118", "phones of a binding order-42", "lookup by a full phone")
    )
    assert A not in table.out
    assert shell.run("access-log", "--kind", "all", "--json").fields == ["kind"]
