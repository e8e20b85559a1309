"""The ledger tells the truth, to threads and to other processes, and its checker does find a broken rule."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.binding import Mode
from bindings.domain.conflict import Policy
from bindings.provider import wire
from bindings.provider.simulator import Behaviour, Entry, Ledger, Simulator, find_overlaps
from bindings.provider.simulator.behaviour import BehaviourChanges
from tests.provider.simulator_calls import (
    APP_ID,
    A,
    B,
    C,
    Clock,
    D,
    bind,
    bind_body,
    connect,
    control,
    listed,
    page,
    prefixed,
    send,
    signed,
    unbind,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def simulator(clock: Clock) -> Iterator[Simulator]:
    with Simulator(clock=clock) as running:
        yield running


def entry(bind_id: int, a: str, b: str, *, mode: Mode = Mode.AXB, begin: float, end: float) -> Entry:
    return Entry(
        bind_id=bind_id,
        app_id=APP_ID,
        pool_number="918806",
        mode=mode,
        phone_a=a,
        phone_b=b,
        middle_number_a="9188061024",
        middle_number_b="9188061024",
        accepted_at=begin,
        expires_at=end,
    )


def pairs(entries: list[Entry], policy: Policy = Policy.LITERAL) -> set[tuple[int, int]]:
    return {(overlap.earlier.bind_id, overlap.later.bind_id) for overlap in find_overlaps(entries, policy)}


# Many callers at once.


@pytest.fixture
def slow_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass between the check and the acceptance: a race that can be lost is then lost."""
    pick = Ledger.pick

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(0.005)
        return pick(*args, **options)

    monkeypatch.setattr(Ledger, "pick", slow)


@pytest.mark.usefixtures("slow_pick")
def test_sixteen_concurrent_binds_of_a_phone_have_one_success(simulator: Simulator) -> None:
    start = threading.Barrier(16)

    def race(n: int) -> str:
        start.wait()
        return str(bind(simulator, A, f"918800{n:04d}").status)

    for _ in range(5):
        with ThreadPoolExecutor(16) as racers:
            assert Counter(racers.map(race, range(16))) == {"0": 1, "-35": 15}
        unbind(simulator, simulator.ledger.entries()[-1].bind_id)
    assert len(simulator.ledger) == 5
    assert simulator.ledger.overlaps("literal") == ()


def test_sixty_four_open_connections_are_served_concurrently(simulator: Simulator) -> None:
    start = threading.Barrier(64)

    def caller(n: int) -> list[int]:
        connection = connect(simulator)
        start.wait()
        codes = []
        for round_ in range(3):
            body = bind_body(f"9188{n:04d}{round_}", f"9199{n:04d}{round_}")
            connection.request("POST", prefixed(wire.BIND_PATH), body, signed(simulator.now()))
            reply = connection.getresponse()
            reply.read()
            codes.append(reply.status)
        connection.close()
        return codes

    with ThreadPoolExecutor(64) as callers:
        assert list(callers.map(caller, range(64))) == [[200] * 3] * 64
    assert len(simulator.ledger) == 192
    assert len({bound.bind_id for bound in simulator.ledger}) == 192


# The checker.


def test_overlap_of_a_foreign_binding_is_found(simulator: Simulator) -> None:
    bind(simulator, A, B)
    assert simulator.ledger.overlaps() == ()
    foreign = simulator.add_foreign_binding(phone_a=C, phone_b=A, app_id=APP_ID, mode="AXXB")
    (overlap,) = simulator.ledger.overlaps()
    assert (overlap.earlier.bind_id, overlap.later.bind_id) == (1002, foreign.bind_id)


@pytest.mark.parametrize(
    ("first", "second", "literal", "strict"),
    [
        (Mode.AXB, Mode.AXB, True, True),
        (Mode.AXB, Mode.AXXB, True, True),
        (Mode.AXXB, Mode.AXB, False, True),
        (Mode.AXXB, Mode.AXXB, False, True),
    ],
)
def test_modes_that_may_overlap_depend_on_the_policy(
    first: Mode, second: Mode, literal: bool, strict: bool
) -> None:
    entries = [entry(1, A, B, mode=first, begin=0, end=10), entry(2, C, A, mode=second, begin=5, end=9)]
    assert bool(pairs(entries)) is literal
    assert bool(pairs(entries, Policy.STRICT)) is strict


def test_end_and_start_at_the_same_instant_do_not_overlap() -> None:
    assert pairs([entry(1, A, B, begin=0, end=10), entry(2, A, C, begin=10, end=20)]) == set()


def test_each_overlapping_pair_is_found_once_in_any_order() -> None:
    first = entry(1, A, B, begin=0, end=100)
    second = entry(2, B, A, begin=10, end=20)
    third = entry(3, C, B, begin=15, end=30)
    apart = entry(4, C, D, begin=31, end=40)
    assert pairs([apart, third, second, first]) == {(1, 2), (1, 3), (2, 3)}


def test_binding_that_was_unbound_before_does_not_overlap(clock: Clock, simulator: Simulator) -> None:
    bound = bind(simulator, A, B).data[wire.BIND_ID]
    clock.now += 1
    unbind(simulator, bound)
    simulator.add_foreign_binding(phone_a=A, phone_b=C, app_id=APP_ID)
    assert simulator.ledger.overlaps("strict") == ()


# The control plane.


def test_control_plane_shows_the_ledger_the_requests_and_the_counts(clock: Clock, simulator: Simulator) -> None:
    bind(simulator, A, B)
    (row,) = control(simulator, "GET", "ledger").json["data"]
    assert row == {
        "bind_id": 1002,
        "app_id": APP_ID,
        "pool_number": "918806",
        "mode": "AXB",
        "phone_a": A,
        "phone_b": B,
        "middle_number_a": "9188061024",
        "middle_number_b": "9188061024",
        "accepted_at": clock.now,
        "expires_at": clock.now + 60,
        "unbound_at": None,
        "foreign": False,
        "vanished": False,
        "restored": False,
    }
    (request,) = control(simulator, "GET", "requests").json["data"]
    assert (request["path"], request["call"], request["answered"]) == ("/v3/number/pns/bind", "bind", "0")
    assert control(simulator, "GET", "counts").json == {
        "received": {"bind": 1},
        "decided": {"bind": {"0": 1}},
        "answered": {"bind": {"0": 1}},
        "faults": {},
    }


def test_control_plane_adds_lists_and_clears_faults(simulator: Simulator) -> None:
    fault = {"kind": "refuse:-41", "times": 5, "on": "bind"}
    assert control(simulator, "POST", "faults", fault).json["status"] == "-41"
    assert bind(simulator, A, B).status == "-41"
    assert [row["kind"] for row in control(simulator, "GET", "faults").json["data"]] == ["refuse"]
    assert control(simulator, "DELETE", "faults").code == 200
    assert bind(simulator, A, B).status == "0"


def test_changes_name_each_field_of_the_behaviour() -> None:
    assert list(BehaviourChanges.__annotations__) == [field.name for field in fields(Behaviour)]


def test_control_plane_changes_the_behaviour(clock: Clock, simulator: Simulator) -> None:
    changes = {"account_status": "-30", "clock_offset_s": 3_600, "policy": "strict"}
    behaviour = control(simulator, "POST", "settings", changes).json
    assert behaviour == control(simulator, "GET", "settings").json
    assert behaviour["policy"] == "strict"
    assert bind(simulator, A, B).status == "-30"
    assert simulator.now() == clock.now + 3_600
    assert send(simulator, wire.BIND_PATH, bind_body(A, B), headers=signed(clock.now)).status == "-16"


def test_list_hides_a_row_and_shows_another_value(simulator: Simulator) -> None:
    first, second = bind(simulator, A, B).data["bindId"], bind(simulator, C, D).data["bindId"]
    assert control(simulator, "POST", f"bindings/{first}", {"hidden": True}).code == 200
    assert listed(page(simulator)) == [second]
    control(simulator, "POST", f"bindings/{first}", {"phone_b": None, "ends_at": "9999-12-31 23:59:59"})
    (row, _) = page(simulator).data["records"]
    assert (row["bindId"], row["phoneA"], row["phoneB"]) == (str(first), A, None)
    assert row["expireTime"] == "9999-12-31 23:59:59"
    control(simulator, "POST", f"bindings/{first}", {})
    assert page(simulator).data["records"][0]["phoneB"] == B


def test_list_has_a_largest_page_an_offset_of_its_total_and_a_form_of_its_ends(simulator: Simulator) -> None:
    for number in range(5):
        bind(simulator, f"9177000{number}", f"9178000{number}")
    changes = {"max_page_rows": 2, "total_offset": 7, "end_form": "unix"}
    assert control(simulator, "POST", "settings", changes).code == 200
    pages = [page(simulator, current=current, size=100).data for current in (1, 2, 3, 4)]
    assert [len(data["records"]) for data in pages] == [2, 2, 1, 0]
    assert {data["total"] for data in pages} == {12}
    assert all(isinstance(row["expireTime"], int) for data in pages for row in data["records"])


def test_foreign_binding_is_listed_and_its_phones_are_refused(simulator: Simulator) -> None:
    request = {"phone_a": A, "phone_b": B, "app_id": APP_ID, "pool_number": "918806", "expire_s": 30}
    foreign = control(simulator, "POST", "foreign", request).json
    assert foreign["foreign"] is True
    assert listed(page(simulator)) == [foreign["bind_id"]]
    assert bind(simulator, A, C).status == "-35"
    assert control(simulator, "POST", "foreign", request).code == 200
    (overlap,) = control(simulator, "GET", "overlaps?policy=strict").json["data"]
    assert overlap["earlier"]["bind_id"] == foreign["bind_id"]


def test_removed_binding_is_not_listed_frees_its_phones_and_stays_in_the_ledger(
    simulator: Simulator,
) -> None:
    bind(simulator, A, B)
    assert control(simulator, "DELETE", "bindings/1002").json["vanished"] is True
    assert listed(page(simulator)) == []
    assert bind(simulator, A, C).status == "0"
    assert [bound.vanished for bound in simulator.ledger] == [True, False]
    assert control(simulator, "DELETE", "bindings/1002").code == 404
    with pytest.raises(KeyError):
        simulator.remove_binding("1002")


def test_deprecated_names_still_work_with_a_warning(simulator: Simulator) -> None:
    with pytest.warns(DeprecationWarning, match="add_foreign_binding"):
        foreign = simulator.plant(phone_a=A, phone_b=B, app_id=APP_ID)
    assert foreign.foreign
    with pytest.warns(DeprecationWarning, match="remove_binding"):
        assert simulator.vanish(foreign.bind_id).vanished


def test_control_calls_are_not_recorded_and_get_no_faults(simulator: Simulator) -> None:
    simulator.script("lost_reply", rate=1)
    assert control(simulator, "GET", "counts").json["received"] == {}
    assert simulator.requests == ()


@pytest.mark.parametrize(
    ("method", "name", "fields", "code"),
    [
        ("GET", "nothing", None, 404),
        ("POST", "ledger", {}, 404),
        ("POST", "faults", {"kind": "flood", "times": 1}, 400),
        ("POST", "faults", {"kind": "delay"}, 400),
        ("POST", "faults", [1], 400),
        ("POST", "faults", {"kind": 5, "times": 1}, 400),
        ("POST", "settings", {"colour": "red"}, 400),
        ("POST", "settings", {"pool_size": 0}, 400),
        ("POST", "settings", {"pool_size": 10**12}, 400),
        ("POST", "settings", {"release_lag_s": "5"}, 400),
        ("POST", "settings", {"clock_offset_s": 1e15}, 400),
        ("POST", "settings", {"clock_offset_s": -1e12}, 400),
        ("POST", "settings", {"list_lag_s": 10**400}, 400),
        ("POST", "settings", {"list_expired": 1}, 400),
        ("POST", "settings", {"account_status": "-35"}, 400),
        ("POST", "settings", {"policy": "lax"}, 400),
        ("POST", "settings", {"max_page_rows": 0}, 400),
        ("POST", "settings", {"total_offset": 1.5}, 400),
        ("POST", "settings", {"end_form": "roman"}, 400),
        ("POST", "bindings/1002", {"colour": "red"}, 400),
        ("POST", "bindings/none", {"hidden": True}, 400),
        ("POST", "bindings/1002", [1], 400),
        ("POST", "foreign", {"phone_a": A}, 400),
        (
            "POST",
            "foreign",
            {"phone_a": A, "phone_b": B, "app_id": "x", "pool_number": "1", "expire_s": "1"},
            400,
        ),
        (
            "POST",
            "foreign",
            {"phone_a": A, "phone_b": B, "app_id": "x", "pool_number": "1", "expire_s": 10**12},
            400,
        ),
        ("DELETE", "bindings/none", None, 400),
        ("GET", "overlaps?policy=lax", None, 400),
    ],
)
def test_invalid_control_call_is_refused_with_a_reason(
    simulator: Simulator, method: str, name: str, fields: Any, code: int
) -> None:
    answer = control(simulator, method, name, fields)
    assert answer.code == code
    assert answer.json["error"]
    assert page(simulator).status == "0"


def test_foreign_binding_in_a_full_pool_is_refused(simulator: Simulator) -> None:
    simulator.change(pool_size=1)
    with pytest.raises(ValueError, match="no middle number"):
        simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP_ID, mode="AXXB")


def test_nothing_is_logged_and_nothing_is_printed(
    simulator: Simulator, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    simulator.script("reset_after", times=1)
    with pytest.raises(ConnectionResetError):
        bind(simulator, A, B)
    bind(simulator, A, B)
    send(simulator, "/" + A, method="GET")
    simulator.stop()
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
