"""bind and unbind: the requests to the provider, the output, and every exit code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import Binding
from bindings.provider.simulator import API_KEY, API_SECRET
from tests.cli.conftest import A, B, C, D

if TYPE_CHECKING:
    from bindings.provider.simulator import Simulator
    from tests.cli.conftest import Shell


def test_bind_as_program_prints_the_binding(shell: Shell) -> None:
    result = shell.program(
        *("bind", "--phone-a", f"+{A}", "--phone-b", B, "--pool-number", "918806", "--expire-s", "60"),
        *("--mode", "AXB", "--reference", "order-42", "--json"),
    )
    assert (result.code, result.err) == (0, "")
    bound = result.json
    assert list(bound) == [field.name for field in dataclasses.fields(Binding)]
    assert (bound["mode"], bound["state"], bound["reference"]) == ("AXB", "active", "order-42")
    assert (bound["phone_a"], bound["phone_b"]) == ("91******01", "91******99")
    assert bound["middle_number_a"] == bound["middle_number_b"] == "9188061024"
    assert all(bound[name].endswith("Z") for name in ("requested_at", "expires_at", "held_until"))


def test_bind_sends_exactly_the_documented_request(shell: Shell, simulator: Simulator) -> None:
    assert shell.bind(f"+{A}", B, mode="AXXB").code == 0
    (request,) = simulator.requests
    assert (request.method, request.path) == ("POST", "/v3/number/pns/bind")
    assert json.loads(request.body) == {
        "phoneA": A,
        "phoneB": B,
        "poolNumber": "918806",
        "expireS": 3600,
        "bizType": 2,
        "appId": "4luaKsL2",
    }
    headers = {name.lower(): value for name, value in request.headers.items()}
    stamp = headers["timestamp"]
    assert headers["content-type"] == "application/json;charset=UTF-8"
    assert headers["api-key"] == API_KEY
    assert abs(int(stamp) - simulator.now()) < 5
    assert headers["sign"].lower() == hashlib.md5(f"{API_KEY}{API_SECRET}{stamp}".encode()).hexdigest()


def test_bind_without_json_prints_one_field_per_line(shell: Shell) -> None:
    result = shell.run(
        *("bind", "--phone-a", A, "--phone-b", B, "--pool-number", "918806", "--expire-s", "60", "--mode", "AXB")
    )
    assert result.code == 0
    assert "middle_number_a      9188061024" in result.out
    assert "active" in result.out


def test_actor_is_the_operating_system_user(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "another-user")
    import os
    import pwd

    assert shell.bind().json["actor"] == f"cli:{pwd.getpwuid(os.getuid()).pw_name}"


def test_bind_twice_with_one_key_sends_one_request(shell: Shell, simulator: Simulator) -> None:
    first, second = (shell.bind(A, B, "--idempotency-key", "k1") for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    assert first.json["id"] == second.json["id"]
    assert (first.err, second.err) == ("", ""), "with --json a program reads it"
    options = ("--phone-a", A, "--phone-b", B, "--mode", "AXB", "--pool-number", "918806", "--expire-s", "3600")
    third = shell.run("bind", *options, "--idempotency-key", "k1")
    assert (third.code, first.json["id"] in third.out) == (0, True)
    assert third.err == "An earlier call with this idempotency key made it: nothing was sent now.\n"
    assert simulator.counts.received == {"bind": 1}


def test_bind_with_wrong_values_names_all_fields_and_writes_nothing(shell: Shell, simulator: Simulator) -> None:
    result = shell.program(
        *("bind", "--phone-a", "12x", "--phone-b", "12", "--expire-s", "abc", "--mode", "AB", "--json")
    )
    assert (result.code, result.out) == (2, "")
    assert sorted(result.fields) == ["expire_s", "mode", "phone_a", "phone_b", "pool_number"]
    assert "abc" not in result.err
    assert shell.run("list", "--json").json == {"data": [], "next_cursor": None}
    assert shell.run("stats", "--json").json["by_event"] == {}
    assert simulator.requests == ()


def test_bind_with_wrong_values_names_all_fields_without_json(shell: Shell) -> None:
    result = shell.bind(A, B)
    assert result.code == 0
    result = shell.run("bind", "--expire-s", "1.5")
    assert result.code == 2
    for field in ("phone_a", "phone_b", "pool_number", "mode"):
        assert f"{field} is needed" in result.err
    assert "expire_s must be a whole number" in result.err


def test_bind_without_app_id_names_the_field(shell: Shell) -> None:
    shell.set(provider_app_id=None)
    result = shell.bind()
    assert (result.code, result.fields) == (2, ["app_id"])


def test_bind_without_credentials_names_the_variables(shell: Shell) -> None:
    shell.set(provider_api_key=None, provider_api_secret=None)
    result = shell.bind()
    assert result.code == 2
    assert result.fields == ["BINDINGS_PROVIDER_API_KEY", "BINDINGS_PROVIDER_API_SECRET"]


def test_bind_of_held_phone_exits_with_3_and_names_the_holder(shell: Shell, simulator: Simulator) -> None:
    held = shell.bind(A, B, "--reference", "order-1").json
    result = shell.bind(A, C)
    assert (result.code, result.out) == (3, "")
    problem = result.problem
    assert (problem["code"], problem["status"]) == ("phone-in-use", 409)
    assert (problem["holder"]["id"], problem["holder"]["reference"]) == (held["id"], "order-1")
    assert 3_500 < problem["retry_after_s"] < 3_700
    assert simulator.counts.received == {"bind": 1}


def test_bind_of_held_phone_prints_two_lines_without_json(shell: Shell) -> None:
    held = shell.bind(A, B, "--reference", "order-1").json
    result = shell.run(
        *("bind", "--phone-a", A, "--phone-b", C, "--pool-number", "918806", "--expire-s", "60", "--mode", "AXB")
    )
    assert (result.code, result.out) == (3, "")
    happened, todo = result.err.splitlines()
    for part in (held["id"], "order-1", "AXB", "active", "Z;", "no binding was created"):
        assert part in happened
    assert "Try again in 36" in todo
    assert f"bindings unbind {held['id']}" in todo


def test_bind_of_phone_in_use_at_provider_exits_with_3(shell: Shell, simulator: Simulator) -> None:
    simulator.add_foreign_binding(phone_a=A, phone_b=D, app_id="4luaKsL2")
    result = shell.bind()
    assert (result.code, result.problem["code"]) == (3, "phone-in-use-at-provider")
    assert shell.bind().problem["code"] == "phone-in-use-at-provider"  # now from the hold, without a call
    assert simulator.counts.received == {"bind": 1}


def test_bind_with_key_of_another_request_exits_with_3(shell: Shell) -> None:
    shell.bind(A, B, "--idempotency-key", "k1")
    result = shell.bind(C, D, "--idempotency-key", "k1")
    assert (result.code, result.problem["code"]) == (3, "idempotency-mismatch")


@pytest.mark.parametrize(
    ("fault", "code", "name"),
    [
        ("refuse:-22", 5, "provider-refused"),
        ("refuse:-1", 5, "provider-account"),
        ("refuse:-16", 5, "provider-account"),
        ("refuse:-41", 7, "no-middle-number"),
        ("lost_reply", 6, "outcome-unknown"),
        ("anomaly_before", 6, "outcome-unknown"),
    ],
)
def test_provider_response_determines_the_exit_code(
    shell: Shell, simulator: Simulator, fault: str, code: int, name: str
) -> None:
    simulator.script(fault, times=1)
    result = shell.bind()
    assert (result.code, result.problem["code"]) == (code, name)
    plain = shell.run("get", result.problem["binding_id"])
    assert plain.code == 0


def test_status_of_a_refusal_stands_in_the_sentence_that_says_it(shell: Shell, simulator: Simulator) -> None:
    simulator.script("refuse:-16", times=1)
    result = shell.run(
        *("bind", "--phone-a", A, "--phone-b", B, "--pool-number", "918806", "--expire-s", "60", "--mode", "AXB")
    )
    assert "the phones are free (status -16, timestamp expired). Keep this host's clock on NTP." in result.err


def test_bind_with_unknown_outcome_prints_the_binding_and_warns_against_binding_again(
    shell: Shell, simulator: Simulator
) -> None:
    simulator.script("lost_reply", times=1)
    result = shell.bind(A, B, "--idempotency-key", "k1")
    assert (result.code, result.json["state"]) == (6, "in_doubt")
    assert result.problem["may_have_acted"] is True
    assert "do not bind again" in result.problem["detail"].lower()
    simulator.script("lost_reply", times=1, on="unbind")
    bound = shell.bind(C, D).json["id"]
    unbind = shell.run("unbind", bound)
    assert (unbind.code, "the outcome may be known in 10 s" in unbind.err) == (6, True)


def test_replay_of_in_doubt_bind_exits_with_6_and_sends_nothing(shell: Shell, simulator: Simulator) -> None:
    simulator.script("lost_reply", times=1)
    first, replay = (shell.bind(A, B, "--idempotency-key", "k1") for _ in range(2))
    assert (first.code, replay.code) == (6, 6)
    assert first.json["id"] == replay.json["id"]
    assert simulator.counts.received == {"bind": 1}


def test_bind_with_unreachable_provider_exits_with_5(shell: Shell) -> None:
    shell.set(provider_url="http://127.0.0.1:9")
    result = shell.bind()
    assert (result.code, result.problem["code"]) == (5, "provider-unreachable")


def test_bind_with_unreachable_database_exits_with_1(shell: Shell) -> None:
    shell.set(database_url="postgresql://postgres@127.0.0.1:9/none")
    result = shell.bind()
    assert (result.code, result.problem["code"]) == (1, "busy")


WRONG_ARGUMENTS = (
    (
        "bind",
        "--phone-a",
        "x",
        "--phone-b",
        "9188067799",
        "--pool-number",
        "918806",
        "--expire-s",
        "60",
        "--mode",
        "AXB",
    ),
    ("unbind", "x"),
    ("get", "x"),
    ("list", "--state", "x"),
    ("lookup", "--phone", "x"),
    ("trace", "x", "--at", "x"),
    ("check", "--phone-a", "x", "--phone-b", "y", "--mode", "AXB"),
    ("reports", "--limit", "0"),
    ("webhooks", "add", "x"),
    ("keys", "create", "--name", "ops", "--role", "x"),
)


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS, ids=[" ".join(words[:2]) for words in WRONG_ARGUMENTS])
def test_wrong_argument_is_reported_also_if_the_database_is_not_available(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    shell.set(database_url="postgresql://postgres@127.0.0.1:9/none")
    result = shell.run(*arguments, "--json")
    assert (result.code, result.problem["code"]) in {(2, "invalid-request"), (4, "not-found")}


def test_unbind_ends_the_binding_and_is_safe_to_repeat(shell: Shell, simulator: Simulator) -> None:
    bound = shell.bind().json
    for _ in range(2):
        result = shell.run("unbind", bound["id"], "--reason", "trip ended", "--json")
        assert (result.code, result.json["state"], result.json["reason"]) == (0, "unbound", "asked")
    assert simulator.counts.received == {"bind": 1, "unbind": 1}


def test_unbind_with_unclear_response_exits_with_6_and_recover_completes_it(
    shell: Shell, simulator: Simulator
) -> None:
    bound = shell.bind().json
    simulator.script("lost_reply", times=1, on="unbind")
    result = shell.run("unbind", bound["id"], "--json")
    assert (result.code, result.json["state"]) == (6, "active")
    assert shell.run("lookup", "--phone", A, "--json").json["data"] == []
    assert shell.run("recover", "--json").json["unbound"] == 1
    assert shell.run("get", bound["id"], "--json").json["state"] == "unbound"


def test_unknown_binding_id_exits_with_4(shell: Shell) -> None:
    for wrong in ("nope", "0190a000-0000-7000-8000-000000000000"):
        for command in ("get", "unbind", "history"):
            result = shell.run(command, wrong, "--json")
            assert (result.code, result.problem["code"]) == (4, "not-found")


BIND_FROM_STDIN = ("bind", "--pool-number", "918806", "--expire-s", "60", "--mode", "AXB", "--json")


def test_phones_of_a_bind_are_read_from_standard_input_in_the_order_of_the_options(shell: Shell) -> None:
    first = shell.run(*BIND_FROM_STDIN, "--phone-a", "-", "--phone-b", "-", stdin=f"{A}\r\n+{B}\n")
    assert (first.json["phone_a"], first.json["phone_b"]) == ("91******01", "91******99")
    second = shell.run(*BIND_FROM_STDIN, "--phone-b", "-", "--phone-a", "-", stdin=f"\ufeff{C}\n{D}")
    assert (second.json["phone_a"], second.json["phone_b"]) == ("91******03", "91******02")
    third = shell.run(*BIND_FROM_STDIN, "--phone-a", "-", "--phone-b", B, stdin=A)
    assert third.code == 3


@pytest.mark.parametrize(
    ("stdin", "fields"),
    [
        ("", ["phone_a"]),
        (f"{A}\n", ["phone_b"]),
        (f"\n{B}\n", ["phone_a"]),
        (f"{A} {B}\n{B}\n", ["phone_a"]),
        ("9" * 5_000 + "\n", ["phone_a", "phone_b"]),
        (b"\xff\n\xff\n", ["phone_a"]),
    ],
)
def test_standard_input_without_a_phone_names_the_option(
    shell: Shell, simulator: Simulator, stdin: str | bytes, fields: list[str]
) -> None:
    result = shell.run(*BIND_FROM_STDIN, "--phone-a", "-", "--phone-b", "-", stdin=stdin)
    assert (result.code, result.fields) == (2, fields)
    assert simulator.requests == ()


@pytest.mark.processes
def test_program_reads_a_phone_from_standard_input(shell: Shell) -> None:
    command = [sys.executable, "-m", "bindings", "lookup", "--phone", "-", "--json"]
    environment = dict(shell.whole_environment())
    program = subprocess.run(
        command, env=environment, input=A, capture_output=True, text=True, timeout=300, check=True
    )
    assert json.loads(program.stdout)["data"] == []


def test_unbind_of_all_bindings_lists_them_in_a_dry_run_and_takes_its_token(
    shell: Shell, simulator: Simulator
) -> None:
    bound = shell.bind(A, B).json
    by_phone = ("unbind", "--phone", "-", "--reason", "complaint 118")
    listed = shell.run(*by_phone, "--dry-run", "--json", stdin=f"{A}\n").json
    assert ([row["id"] for row in listed["bindings"]], listed["requested"]) == ([bound["id"]], 0)
    shown = shell.run(*by_phone, "--dry-run", stdin=f"{A}\n")
    assert f"token: {listed['token']}" in shown.out
    assert bound["id"] in shown.out
    empty = shell.run("unbind", "--phone", C, "--reason", "x", "--dry-run", "--json").json["token"]
    refused = shell.run(*by_phone, "--token", empty, "--json", stdin=f"{A}\n")
    assert (refused.code, refused.problem["code"]) == (3, "selection-changed")
    assert "unbind" not in simulator.counts.received
    done = shell.run(*by_phone, "--token", listed["token"], stdin=f"{A}\n")
    assert (done.code, done.out.splitlines()[-1]) == (0, "requested: 1  confirmed: 1  unclear: 0")
    assert shell.run(*by_phone, stdin=f"{A}\n").err == "No binding of it is active, pending or in doubt.\n"


def test_unbind_of_all_bindings_exits_with_6_if_an_answer_is_unclear(shell: Shell, simulator: Simulator) -> None:
    number = shell.bind().json["middle_number_a"]
    simulator.script("lost_reply", times=1, on="unbind")
    result = shell.run("unbind", "--middle-number", number, "--reason", "x", "--json")
    assert (result.code, result.json["requested"], result.json["unclear"]) == (6, 1, 1)
    assert shell.run("recover", "--json").json["unbound"] == 1


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ((), ["ID"]),
        (("--after-s", "5"), ["after_s", "ID"]),
        (("x", "--reference", "order-42"), ["reference"]),
        (("x", "--dry-run", "--token", "AQ"), ["dry_run", "token"]),
        (("--reference", "order-42", "--after-s", "5"), ["after_s"]),
        (("--reference", "order-42"), ["reason"]),
        (("--dry-run",), ["phone", "reason"]),
        (("--reference", "order-42", "--phone", A, "--reason", "x"), ["phone"]),
    ],
)
def test_options_of_unbind_that_do_not_go_together_are_named(
    shell: Shell, simulator: Simulator, arguments: tuple[str, ...], fields: list[str]
) -> None:
    result = shell.run("unbind", *arguments, "--json")
    assert (result.code, result.fields) == (2, fields)
    assert simulator.requests == ()
