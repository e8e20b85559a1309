"""The simulator answers as the provider's documents say, in the provider's order of checks."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import pytest

from bindings.provider import wire
from bindings.provider.simulator import Simulator, rules
from tests.provider.simulator_calls import (
    APP_ID,
    A,
    B,
    C,
    Clock,
    D,
    bind,
    bind_body,
    listed,
    page,
    send,
    signed,
    unbind,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# The documented sample, word for word: it must not be written with the names that it checks.
SAMPLE = b"""{"phoneA": "9188067701", "phoneB": "9188067799", "poolNumber": "918806", "expireS": 60,
              "bizType": 1, "appId": "4luaKsL2"}"""
SAMPLE_REPLY = {
    "status": "0",
    "reason": "success",
    "data": {"pnsNumberA": "9188061024", "pnsNumberB": "9188061024", "bindId": 1002},
}
FIELDS = (wire.PHONE_A, wire.PHONE_B, wire.POOL_NUMBER, wire.EXPIRE_S, wire.BIZ_TYPE, wire.APP_ID)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def simulator(clock: Clock) -> Iterator[Simulator]:
    with Simulator(clock=clock) as running:
        yield running


def test_the_documented_sample_is_answered_as_documented(simulator: Simulator) -> None:
    assert send(simulator, "/v3/number/pns/bind", SAMPLE).json == SAMPLE_REPLY


def test_the_documented_signature_is_accepted_in_either_case(clock: Clock, simulator: Simulator) -> None:
    clock.now = 1630468800.0
    headers = {
        "Content-Type": "application/json;charset=UTF-8",
        "Api-Key": "bDqJFiq9",
        "Timestamp": "1630468800",
        "Sign": "05D7A50893E22A5C4BB3216AE3396C7C",
    }
    assert send(simulator, wire.BIND_PATH, SAMPLE, headers=headers).status == "0"


# Parameters.


@pytest.mark.parametrize("missing", FIELDS)
def test_each_of_the_six_fields_is_required(simulator: Simulator, missing: str) -> None:
    fields = json.loads(SAMPLE)
    del fields[missing]
    assert send(simulator, wire.BIND_PATH, json.dumps(fields).encode()).status == "-22"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (wire.PHONE_A, ""),
        (wire.PHONE_A, "9" * 21),
        (wire.PHONE_A, "9188****01"),
        (wire.PHONE_A, B),
        (wire.PHONE_A, int(A)),
        (wire.PHONE_A, f" {A}"),
        (wire.POOL_NUMBER, "918806 "),
        (wire.PHONE_B, int(B)),
        (wire.PHONE_B, "4915112345678"),
        (wire.PHONE_B, "918"),
        (wire.PHONE_B, "9" * 21),
        (wire.POOL_NUMBER, ""),
        (wire.POOL_NUMBER, "9" * 21),
        (wire.EXPIRE_S, 0),
        (wire.EXPIRE_S, 259_201),
        (wire.EXPIRE_S, "60"),
        (wire.EXPIRE_S, 1.5),
        (wire.BIZ_TYPE, 0),
        (wire.BIZ_TYPE, 3),
        (wire.APP_ID, ""),
    ],
)
def test_a_field_out_of_bounds_is_a_parameter_error(simulator: Simulator, field: str, value: Any) -> None:
    fields = json.loads(SAMPLE) | {field: value}
    assert send(simulator, wire.BIND_PATH, json.dumps(fields).encode()).status == "-22"
    assert len(simulator.ledger) == 0


def test_country_codes_are_compared_only_if_both_phones_have_one(simulator: Simulator) -> None:
    assert bind(simulator, "2101234567", B).status == "0"


@pytest.mark.parametrize("expire_s", [1, 259_200])
def test_smallest_and_largest_expire_s_are_accepted(simulator: Simulator, expire_s: int) -> None:
    assert bind(simulator, A, B, expire_s=expire_s).status == "0"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a":1,"a":2}'])
def test_body_that_is_not_a_json_object_is_a_parameter_error(simulator: Simulator, body: bytes) -> None:
    assert send(simulator, wire.BIND_PATH, body).status == "-22"


def test_another_content_type_is_a_parameter_error(simulator: Simulator) -> None:
    headers = signed(simulator.now()) | {"Content-Type": "text/plain"}
    assert send(simulator, wire.BIND_PATH, SAMPLE, headers=headers).status == "-22"


def test_an_application_that_is_not_listed_is_a_parameter_error() -> None:
    with Simulator(app_ids=["another"]) as simulator:
        assert bind(simulator, A, B).status == "-22"
        assert bind(simulator, A, B, app_id="another").status == "0"


# The account.


@pytest.mark.parametrize("wrong", [{"key": "unknown"}, {"secret": "wrong"}])
def test_an_unknown_key_or_a_wrong_signature_fails_authentication(
    simulator: Simulator, wrong: dict[str, str]
) -> None:
    headers = signed(simulator.now(), **wrong)
    assert send(simulator, wire.BIND_PATH, SAMPLE, headers=headers).status == "-1"


@pytest.mark.parametrize("header", ["Api-Key", "Timestamp", "Sign"])
def test_a_call_without_one_of_its_headers_fails_authentication(simulator: Simulator, header: str) -> None:
    headers = signed(simulator.now())
    del headers[header]
    assert send(simulator, wire.BIND_PATH, SAMPLE, headers=headers).status == "-1"


@pytest.mark.parametrize(("off_by", "status"), [(-301, "-16"), (-300, "0"), (300, "0"), (301, "-16")])
def test_timestamp_may_differ_by_the_tolerance(
    clock: Clock, simulator: Simulator, off_by: int, status: str
) -> None:
    clock.now = 1_700_000_000.0
    headers = signed(clock.now + off_by)
    assert send(simulator, wire.BIND_PATH, SAMPLE, headers=headers).status == status


@pytest.mark.parametrize("status", ["-1", "-2", "-29", "-30", "-31"])
def test_account_status_refuses_every_call_until_it_is_reset(simulator: Simulator, status: str) -> None:
    simulator.change(account_status=status)
    assert [bind(simulator, A, B).status, unbind(simulator, 1002).status, page(simulator).status] == [status] * 3
    simulator.change(account_status=None)
    assert bind(simulator, A, B).status == "0"


def test_checks_are_in_the_providers_order(simulator: Simulator) -> None:
    simulator.change(account_status="-30")
    stale = simulator.now() - 1_000
    assert send(simulator, wire.BIND_PATH, b"{}", headers=signed(stale, key="unknown")).status == "-22"
    assert send(simulator, wire.BIND_PATH, SAMPLE, headers=signed(stale, secret="wrong")).status == "-1"
    assert send(simulator, wire.BIND_PATH, SAMPLE, headers=signed(stale)).status == "-16"
    assert send(simulator, wire.BIND_PATH, SAMPLE).status == "-30"


# -35.


@pytest.mark.parametrize("pair", [(A, C), (C, A), (B, C), (C, B), (B, A), (A, B)])
@pytest.mark.parametrize("mode", ["AXB", "AXXB"])
def test_a_live_axb_refuses_both_modes_on_either_phone_in_either_role(
    simulator: Simulator, pair: tuple[str, str], mode: str
) -> None:
    assert bind(simulator, A, B).status == "0"
    assert bind(simulator, *pair, mode=mode).status == "-35"


@pytest.mark.parametrize("mode", ["AXB", "AXXB"])
@pytest.mark.parametrize(("policy", "status"), [("literal", "0"), ("strict", "-35")])
def test_a_live_axxb_refuses_only_under_the_strict_policy(mode: str, policy: str, status: str) -> None:
    with Simulator(policy=policy) as simulator:
        assert bind(simulator, A, B, mode="AXXB").status == "0"
        assert bind(simulator, B, A, mode=mode).status == status
        assert bind(simulator, A, C, mode="AXXB").status == ("-35" if mode == "AXB" else status)


def test_the_scope_of_a_conflict_is_the_account_and_not_the_application(simulator: Simulator) -> None:
    assert bind(simulator, A, B).status == "0"
    assert bind(simulator, A, C, app_id="another", pool="77").status == "-35"


def test_phone_is_free_at_the_instant_of_the_expiry(clock: Clock, simulator: Simulator) -> None:
    bind(simulator, A, B, expire_s=60)
    clock.now += 59.999
    assert bind(simulator, A, C).status == "-35"
    clock.now = simulator.ledger.entries()[0].expires_at
    assert bind(simulator, A, C).status == "0"
    assert simulator.ledger.overlaps() == ()


def test_a_conflict_outlasts_the_expiry_by_the_release_lag(clock: Clock, simulator: Simulator) -> None:
    simulator.change(release_lag_s=5)
    bind(simulator, A, B, expire_s=60)
    clock.now += 64
    assert (bind(simulator, A, C).status, listed(page(simulator))) == ("-35", [])
    clock.now += 1
    assert bind(simulator, A, C).status == "0"


def test_a_conflict_outlasts_an_unbind_by_the_release_lag(clock: Clock, simulator: Simulator) -> None:
    simulator.change(release_lag_s=5)
    unbind(simulator, bind(simulator, A, B).data[wire.BIND_ID])
    assert listed(page(simulator)) == []
    assert bind(simulator, A, C).status == "-35"
    clock.now += 5
    assert bind(simulator, A, C).status == "0"


def test_restored_binding_is_listed_and_holds_its_phones_again(clock: Clock, simulator: Simulator) -> None:
    bind_id = bind(simulator, A, B, expire_s=60).data[wire.BIND_ID]
    unbind(simulator, bind_id)
    restored = simulator.restore_binding(bind_id)
    assert (restored.bind_id, restored.restored, restored.unbound_at) == (bind_id, True, None)
    assert listed(page(simulator)) == [bind_id]
    assert bind(simulator, A, C).status == "-35"
    with pytest.raises(KeyError):
        simulator.restore_binding(bind_id)
    clock.now += 61
    assert bind(simulator, A, C).status == "0"


def test_late_list_shows_changes_after_its_lag(clock: Clock, simulator: Simulator) -> None:
    simulator.change(list_lag_s=10)
    bind_id = bind(simulator, A, B, expire_s=600).data[wire.BIND_ID]
    assert listed(page(simulator)) == []
    clock.now += 10
    assert listed(page(simulator)) == [bind_id]
    unbind(simulator, bind_id)
    assert listed(page(simulator)) == [bind_id]
    clock.now += 10
    assert listed(page(simulator)) == []


def test_list_without_an_application_is_that_of_the_account(clock: Clock, simulator: Simulator) -> None:
    first = bind(simulator, A, B, app_id="first").data[wire.BIND_ID]
    second = bind(simulator, C, D, app_id="second").data[wire.BIND_ID]
    assert listed(page(simulator, app_id="first")) == [first]
    assert listed(page(simulator, app_id=None)) == [first, second]
    simulator.change(list_all_apps=True)
    assert listed(page(simulator, app_id="first")) == [first, second]


def test_release_lag_that_is_set_later_holds_expired_bindings_again(clock: Clock, simulator: Simulator) -> None:
    bind(simulator, A, B, expire_s=60)
    clock.now += 61
    assert page(simulator).status == "0"
    simulator.change(release_lag_s=5)
    assert bind(simulator, A, C).status == "-35"


def test_expired_binding_is_live_again_after_the_clock_is_set_back(clock: Clock, simulator: Simulator) -> None:
    bind(simulator, A, B, expire_s=60)
    clock.now += 100
    assert listed(page(simulator)) == []
    clock.now -= 50
    assert listed(page(simulator)) == [1002]
    assert bind(simulator, A, C).status == "-35"


# Middle numbers.


def test_an_axb_has_one_middle_number_and_an_axxb_two(simulator: Simulator) -> None:
    bind(simulator, A, B)
    bind(simulator, C, D, mode="AXXB")
    axb, axxb = simulator.ledger
    assert axb.middle_number_a == axb.middle_number_b
    assert axxb.middle_number_a != axxb.middle_number_b
    numbers = {axb.middle_number_a, axxb.middle_number_a, axxb.middle_number_b}
    assert all(len(number) == 10 and number.startswith("918806") for number in numbers)


def test_a_party_occurs_at_most_once_on_a_middle_number() -> None:
    with Simulator(pool_size=3) as simulator:
        statuses = [bind(simulator, A, f"91880000{n}", mode="AXXB").status for n in range(10, 14)]
        assert statuses == ["0", "0", "0", "-41"]
        parties = Counter((entry.middle_number_a, entry.phone_a) for entry in simulator.ledger)
        assert set(parties.values()) == {1}


@pytest.mark.parametrize("pool_number", ["IN-mumbai", "abc", "9" * 20])
def test_middle_numbers_of_every_pool_are_numbers(pool_number: str) -> None:
    numbers = rules.middle_numbers(pool_number, 20)
    assert len(set(numbers)) == 20
    assert all(number.isdigit() for number in numbers)
    assert rules.middle_numbers("pool-2", 20) != rules.middle_numbers("pool-3", 20)


def test_one_middle_number_serves_many_pairs() -> None:
    with Simulator(pool_size=1) as simulator:
        assert [bind(simulator, A, B).status, bind(simulator, C, D).status] == ["0", "0"]
        assert bind(simulator, "9188060001", "9188060002", mode="AXXB").status == "-41"


def test_full_pool_has_a_number_again_after_a_binding_ends(clock: Clock) -> None:
    with Simulator(clock=clock, pool_size=1, max_concurrency=1) as simulator:
        bind(simulator, A, B, expire_s=60)
        assert bind(simulator, C, D).status == "-41"
        assert bind(simulator, C, D, pool="77").status == "0"
        clock.now += 60
        assert bind(simulator, A, B).status == "0"


def test_requested_pools_are_listed(simulator: Simulator) -> None:
    simulator.change(pool_size=2, max_concurrency=7)
    bind(simulator, A, B)
    body = json.dumps({wire.CURRENT: 1, wire.SIZE: 20}).encode()
    (pool,) = send(simulator, wire.POOLS_PATH, body).data[wire.RECORDS]
    assert pool == {
        "poolNumber": "918806",
        "maxConcurrency": 7,
        "numberList": ["9188061024", "9188061025"],
    }


# Unbind.


@pytest.mark.parametrize("kind", [int, str])
def test_unbind_accepts_the_id_as_text_or_number_and_frees_the_phones(simulator: Simulator, kind: type) -> None:
    bind_id = bind(simulator, A, B).data[wire.BIND_ID]
    assert unbind(simulator, kind(bind_id)).json == {"status": "0", "reason": "success", "data": None}
    assert bind(simulator, A, C).status == "0"
    assert simulator.ledger.entries()[0].unbound_at == simulator.now()


def test_unbind_of_an_unknown_ended_or_foreign_id_is_not_found(clock: Clock, simulator: Simulator) -> None:
    bind_id = bind(simulator, A, B, expire_s=60).data[wire.BIND_ID]
    for unknown in (1, "none", "٣"):
        assert unbind(simulator, unknown).status == "-24"
    assert unbind(simulator, bind_id, app_id="another").status == "-24"
    clock.now += 60
    assert unbind(simulator, bind_id).status == "-24"
    second_id = bind(simulator, A, B).data[wire.BIND_ID]
    assert [unbind(simulator, second_id).status for _ in range(2)] == ["0", "-24"]


# The list.


def test_row_has_its_end_in_the_providers_zone_in_whole_seconds(clock: Clock) -> None:
    clock.now = 1_697_936_340.9  # 60 s and a bit before 2023-10-22 01:00:00 UTC
    with Simulator(clock=clock) as simulator:
        bind(simulator, A, B, mode="AXXB")
        (record,) = page(simulator).data[wire.RECORDS]
    assert record[wire.EXPIRE_TIME] == "2023-10-22 09:00:00"
    assert (record[wire.PHONE_A], record[wire.PHONE_B]) == (A, B)
    assert record[wire.MIDDLE_NUMBER_A] != record[wire.MIDDLE_NUMBER_B]
    with Simulator(clock=clock, zone=timezone.utc) as simulator:  # noqa: UP017 -- any zone will do
        bind(simulator, A, B)
        assert page(simulator).data[wire.RECORDS][0][wire.EXPIRE_TIME] == "2023-10-22 01:00:00"


def test_list_has_only_the_live_bindings_of_its_application(clock: Clock, simulator: Simulator) -> None:
    bind(simulator, A, B, expire_s=60)
    bind(simulator, C, D, app_id="another")
    assert (listed(page(simulator)), listed(page(simulator, app_id="another"))) == ([1002], [1003])
    clock.now += 60
    assert listed(page(simulator)) == []
    simulator.change(list_expired=True)
    assert listed(page(simulator)) == [1002]


def test_pages_cover_the_list_and_echo_a_fixed_size(simulator: Simulator) -> None:
    for n in range(5):
        bind(simulator, f"918800001{n}", f"918800002{n}")
    pages = [page(simulator, current=current, size=2) for current in (1, 2, 3, 4)]
    assert [len(listed(answer)) for answer in pages] == [2, 2, 1, 0]
    assert {row for answer in pages for row in listed(answer)} == set(range(1002, 1007))
    assert {key: pages[0].data[key] for key in (wire.TOTAL, wire.PAGES, wire.CURRENT, wire.SIZE)} == {
        wire.TOTAL: 5,
        wire.PAGES: 3,
        wire.CURRENT: 1,
        wire.SIZE: 20,
    }


def test_shuffled_pages_have_a_different_order_each_time(simulator: Simulator) -> None:
    for n in range(10, 30):
        bind(simulator, f"91880000{n}", f"91880100{n}")
    simulator.change(shuffle_pages=True)
    orders = {tuple(listed(page(simulator))) for _ in range(5)}
    assert len(orders) == 5
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(1002, 1022))}


@pytest.mark.parametrize(("current", "size"), [(0, 20), (1, 0), (1, 101), (-1, 20)])
def test_a_page_out_of_bounds_is_a_parameter_error(simulator: Simulator, current: int, size: int) -> None:
    assert page(simulator, current=current, size=size).status == "-22"


# HTTP.


def test_every_reply_has_the_simulators_own_date(clock: Clock, simulator: Simulator) -> None:
    simulator.change(clock_offset_s=-90)
    for answer in (bind(simulator, A, B), send(simulator, "/nowhere", method="GET")):
        date = parsedate_to_datetime(answer.headers["Date"])
        assert date.astimezone(UTC).timestamp() == int(clock.now - 90)
    assert simulator.ledger.entries()[0].accepted_at == clock.now - 90


def test_unknown_path_or_method_gets_no_envelope(simulator: Simulator) -> None:
    for method, path in (("GET", wire.BIND_PATH), ("POST", "/v3/elsewhere"), ("DELETE", "/")):
        answer = send(simulator, path, method=method)
        assert answer.code == 404
        assert b"html" in answer.body
    assert simulator.counts.received == {"other": 3}


def test_request_is_recorded_with_its_headers_body_and_status(simulator: Simulator) -> None:
    bind(simulator, A, B)
    (request,) = simulator.requests
    assert (request.method, request.path, request.call) == ("POST", "/v3/number/pns/bind", "bind")
    assert request.headers["api-key"] == "bDqJFiq9"
    assert request.body.encode() == bind_body(A, B, app_id=APP_ID)
    assert (request.decided, request.answered, request.fault) == ("0", "0", None)
    assert A not in repr(request)
    assert A not in repr(simulator.ledger.entries())
