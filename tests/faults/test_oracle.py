"""The oracle can fail: each planted violation is found, and named by the invariant that it breaks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import oracle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.harness import Lab
    from tests.faults.oracle import Evidence

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def sound(lab: Lab) -> Iterator[Evidence]:
    """The evidence of a long run in which nothing went wrong."""
    with lab.arena("sqlite", seed=3) as arena:
        assert arena.run("story") == 0
        arena.aftermath()
        yield oracle.gather(arena.url, arena.simulator, told=arena.told(), settled=True, over=True)


@pytest.fixture
def evidence(sound: Evidence) -> Evidence:
    """A copy to tamper with."""
    return copy.deepcopy(sound)


def made(evidence: Evidence) -> dict[str, Any]:
    """A row that the provider made, told to its caller, which expired."""
    told = {line.get("bind_id") for line in evidence.told}
    return next(dict(r) for r in evidence.rows if r["bind_id"] in told and r["state"] == "expired")


def change(evidence: Evidence, row: dict[str, Any], **values: Any) -> None:
    """Change one row."""
    evidence.rows = [r | values if r["id"] == row["id"] else r for r in map(dict, evidence.rows)]


def drop_row(evidence: Evidence) -> None:
    lost = made(evidence)
    evidence.rows = [row for row in evidence.rows if row["id"] != lost["id"]]
    evidence.events = [event for event in evidence.events if event["binding_id"] != lost["id"]]


def forget_bind_id(evidence: Evidence) -> None:
    change(evidence, made(evidence), bind_id=None, state="failed", reason="absent")


def leave_in_doubt(evidence: Evidence) -> None:
    row = made(evidence)
    change(evidence, row, bind_id=None, state="in_doubt")
    evidence.now = row["requested_at"] + 10


def send_twice(evidence: Evidence) -> None:
    tag = made(evidence)["pool_number"]
    again = next(request for request in evidence.requests if request.call == "bind" and tag in request.body)
    evidence.requests = [*evidence.requests, again]


def send_first(evidence: Evidence) -> None:
    row = made(evidence)
    evidence.requests = [
        replace(r, at=row["requested_at"] - 1) if r.call == "bind" and row["pool_number"] in r.body else r
        for r in evidence.requests
    ]


def free_early(evidence: Evidence) -> None:
    row = made(evidence)
    change(evidence, row, held_until=row["expires_at"] - 1)


def hold_for_ever(evidence: Evidence) -> None:
    row = made(evidence)
    change(evidence, row, held_until=row["held_until"] + 1_000_000)


def stay_active(evidence: Evidence) -> None:
    change(evidence, made(evidence), state="active")


def end_twice(evidence: Evidence) -> None:
    row = made(evidence)
    last = max((e for e in evidence.events if e["binding_id"] == row["id"]), key=lambda e: int(e["sequence"]))
    evidence.events = [*evidence.events, dict(last) | {"sequence": row["version"] + 1}]
    change(evidence, row, version=row["version"] + 1)


def go_back(evidence: Evidence) -> None:
    row = made(evidence)
    more = {"binding_id": row["id"], "sequence": row["version"] + 1, "kind": "activated", "detail": {}, "at": 0.0}
    evidence.events = [*evidence.events, more]
    change(evidence, row, version=row["version"] + 1)


def promise_too_long(evidence: Evidence) -> None:
    row = made(evidence)
    change(evidence, row, expires_at=row["expires_at"] + 1)


def tell_too_long(evidence: Evidence) -> None:
    row = made(evidence)
    evidence.told = [*evidence.told, {"id": row["id"], "expires_at": "2999-01-01T00:00:00+00:00"}]


def unbind_before_the_request(evidence: Evidence) -> None:
    row = next(dict(r) for r in evidence.rows if r["state"] == "unbound")
    change(evidence, row, unbind_requested_at=row["unbind_requested_at"] + 5)


def change_a_fact(evidence: Evidence) -> None:
    change(evidence, made(evidence), middle_number_a="9180000000")


def lose_an_event(evidence: Evidence) -> None:
    row = made(evidence)
    evidence.events = [e for e in evidence.events if (e["binding_id"], e["sequence"]) != (row["id"], 2)]


def answer_a_key_twice(evidence: Evidence) -> None:
    ids = [row["id"] for row in evidence.rows][:2]
    evidence.told = [*evidence.told, *({"id": binding_id, "key": "k"} for binding_id in ids)]


def overlap(evidence: Evidence) -> None:
    entry = next(e for e in evidence.entries if e.mode == "AXB" and not e.foreign and e.unbound_at is None)
    evidence.entries = [*evidence.entries, replace(entry, bind_id=999_999, accepted_at=entry.accepted_at + 1)]


def reserve_twice(evidence: Evidence) -> None:
    row = next(dict(r) for r in evidence.rows if r["mode"] == "AXB" and r["state"] == "expired")
    twin = row | {"id": "twin", "requested_at": row["requested_at"] + 1, "pool_number": "twin"}
    evidence.rows = [*evidence.rows, twin]


def refuse_our_own(evidence: Evidence) -> None:
    row = next(dict(r) for r in evidence.rows if r["mode"] == "AXB" and r["state"] == "expired")
    twin = row | {"id": "twin", "pool_number": "9", "bind_id": None, "state": "failed"}
    evidence.rows = [*evidence.rows, twin]
    post = next(r for r in evidence.requests if r.call == "bind" and row["pool_number"] in r.body)
    refused = replace(post, at=row["expires_at"] - 1, decided="-35", body='{"poolNumber": "9"}')
    evidence.requests = [*evidence.requests, refused]


PLANTED: list[tuple[str, Callable[[Evidence], None]]] = [
    ("I1", overlap),
    ("I1", reserve_twice),
    ("I1", refuse_our_own),
    ("I2", drop_row),
    ("I2", forget_bind_id),
    ("I2", leave_in_doubt),
    ("I3", drop_row),
    ("I3", send_twice),
    ("I3", send_first),
    ("I4", free_early),
    ("R1", hold_for_ever),
    ("R1", stay_active),
    ("I5", end_twice),
    ("I5", go_back),
    ("I6", promise_too_long),
    ("I6", tell_too_long),
    ("I6", unbind_before_the_request),
    ("I7", change_a_fact),
    ("I7", lose_an_event),
    ("I8", answer_a_key_twice),
]


def test_a_sound_run_is_found_sound(sound: Evidence) -> None:
    assert oracle.judge(sound) == []
    assert {row["state"] for row in sound.rows} >= {"expired", "unbound", "failed"}


@pytest.mark.parametrize(("invariant", "plant"), PLANTED, ids=[f"{i}-{plant.__name__}" for i, plant in PLANTED])
def test_a_planted_violation_is_found_and_named(
    evidence: Evidence, invariant: str, plant: Callable[[Evidence], None]
) -> None:
    plant(evidence)
    assert invariant in {violation.invariant for violation in oracle.judge(evidence)}


def test_what_retention_deletes_too_soon_is_a_violation_and_what_it_may_delete_is_not(evidence: Evidence) -> None:
    row = made(evidence)
    before = copy.deepcopy(evidence)
    last = max(float(event["at"]) for event in evidence.events if event["binding_id"] == row["id"])
    evidence.rows = [other for other in evidence.rows if other["id"] != row["id"]]
    evidence.events = [event for event in evidence.events if event["binding_id"] != row["id"]]
    keep_s = evidence.now - max(row["held_until"], row["ended_at"], last)
    rest, found = oracle.retained(evidence, before, keep_s - 1)
    assert found + oracle.judge(rest) == []
    _, found = oracle.retained(evidence, before, keep_s + 1)
    assert found
    evidence.rows = before.rows
    _, found = oracle.retained(evidence, before, keep_s - 1)
    assert found, "its events are gone, and it is there"
