"""The oracle can fail: corrupted evidence is reported with the invariant that it breaks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import oracle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.harness import FaultHarness
    from tests.faults.oracle import Evidence

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def sound(fault_harness: FaultHarness) -> Iterator[Evidence]:
    """Gather the evidence of a sound run."""
    with fault_harness.experiment("sqlite", seed=3) as experiment:
        assert experiment.run("scenario") == 0
        experiment.assert_recovery()
        yield oracle.gather(
            experiment.url, experiment.simulator, records=experiment.records(), settled=True, over=True
        )


@pytest.fixture
def evidence(sound: Evidence) -> Evidence:
    """Copy the evidence, to corrupt it."""
    return copy.deepcopy(sound)


def expired_row(evidence: Evidence) -> dict[str, Any]:
    """Return the row of an expired binding that was returned to its caller."""
    returned = {line.get("bind_id") for line in evidence.records}
    return next(dict(r) for r in evidence.rows if r["bind_id"] in returned and r["state"] == "expired")


def change(evidence: Evidence, row: dict[str, Any], **values: Any) -> None:
    """Change columns of one row."""
    evidence.rows = [r | values if r["id"] == row["id"] else r for r in map(dict, evidence.rows)]


def drop_row(evidence: Evidence) -> None:
    row = expired_row(evidence)
    evidence.rows = [other for other in evidence.rows if other["id"] != row["id"]]
    evidence.events = [event for event in evidence.events if event["binding_id"] != row["id"]]


def forget_bind_id(evidence: Evidence) -> None:
    change(evidence, expired_row(evidence), bind_id=None, state="failed", reason="absent")


def leave_in_doubt(evidence: Evidence) -> None:
    row = expired_row(evidence)
    change(evidence, row, bind_id=None, state="in_doubt")
    evidence.now = row["requested_at"] + 10


def send_twice(evidence: Evidence) -> None:
    tag = expired_row(evidence)["pool_number"]
    request = next(r for r in evidence.requests if r.call == "bind" and tag in r.body)
    evidence.requests = [*evidence.requests, request]


def send_first(evidence: Evidence) -> None:
    row = expired_row(evidence)
    evidence.requests = [
        replace(r, at=row["requested_at"] - 1) if r.call == "bind" and row["pool_number"] in r.body else r
        for r in evidence.requests
    ]


def free_early(evidence: Evidence) -> None:
    row = expired_row(evidence)
    change(evidence, row, held_until=row["expires_at"] - 1)


def hold_too_long(evidence: Evidence) -> None:
    row = expired_row(evidence)
    change(evidence, row, held_until=row["held_until"] + 1_000_000)


def stay_active(evidence: Evidence) -> None:
    change(evidence, expired_row(evidence), state="active")


def end_twice(evidence: Evidence) -> None:
    row = expired_row(evidence)
    last = max((e for e in evidence.events if e["binding_id"] == row["id"]), key=lambda e: int(e["sequence"]))
    evidence.events = [*evidence.events, dict(last) | {"sequence": row["version"] + 1}]
    change(evidence, row, version=row["version"] + 1)


def return_to_an_earlier_state(evidence: Evidence) -> None:
    row = expired_row(evidence)
    event = {"binding_id": row["id"], "sequence": row["version"] + 1, "kind": "activated", "detail": {}, "at": 0.0}
    evidence.events = [*evidence.events, event]
    change(evidence, row, version=row["version"] + 1)


def record_too_late_an_end(evidence: Evidence) -> None:
    row = expired_row(evidence)
    change(evidence, row, expires_at=row["expires_at"] + 1)


def return_too_late_an_end(evidence: Evidence) -> None:
    row = expired_row(evidence)
    evidence.records = [*evidence.records, {"id": row["id"], "expires_at": "2999-01-01T00:00:00+00:00"}]


def unbind_before_the_request(evidence: Evidence) -> None:
    row = next(dict(r) for r in evidence.rows if r["state"] == "unbound")
    change(evidence, row, unbind_requested_at=row["unbind_requested_at"] + 5)


def change_a_recorded_value(evidence: Evidence) -> None:
    change(evidence, expired_row(evidence), middle_number_a="9180000000")


def lose_an_event(evidence: Evidence) -> None:
    row = expired_row(evidence)
    evidence.events = [e for e in evidence.events if (e["binding_id"], e["sequence"]) != (row["id"], 2)]


def return_two_bindings_for_a_key(evidence: Evidence) -> None:
    ids = [row["id"] for row in evidence.rows][:2]
    evidence.records = [*evidence.records, *({"id": binding_id, "key": "k"} for binding_id in ids)]


def overlap(evidence: Evidence) -> None:
    entry = next(e for e in evidence.entries if e.mode == "AXB" and not e.foreign and e.unbound_at is None)
    evidence.entries = [*evidence.entries, replace(entry, bind_id=999_999, accepted_at=entry.accepted_at + 1)]


def reserve_twice(evidence: Evidence) -> None:
    row = next(dict(r) for r in evidence.rows if r["mode"] == "AXB" and r["state"] == "expired")
    twin = row | {"id": "twin", "requested_at": row["requested_at"] + 1, "pool_number": "twin"}
    evidence.rows = [*evidence.rows, twin]


def refuse_for_our_binding(evidence: Evidence) -> None:
    row = next(dict(r) for r in evidence.rows if r["mode"] == "AXB" and r["state"] == "expired")
    twin = row | {"id": "twin", "pool_number": "9", "bind_id": None, "state": "failed"}
    evidence.rows = [*evidence.rows, twin]
    post = next(r for r in evidence.requests if r.call == "bind" and row["pool_number"] in r.body)
    refused = replace(post, at=row["expires_at"] - 1, decided="-35", body='{"poolNumber": "9"}')
    evidence.requests = [*evidence.requests, refused]


def successor(evidence: Evidence) -> dict[str, Any]:
    """Return the row of a binding that took over from another one."""
    return next(dict(row) for row in evidence.rows if row["replaces"] is not None and row["bind_id"] is not None)


def take_over_too_early(evidence: Evidence) -> None:
    row, entries = successor(evidence), {entry.bind_id: entry for entry in evidence.entries}
    before = next(other for other in evidence.rows if other["id"] == row["replaces"])
    ended_at = entries[int(before["bind_id"])].ended_at
    evidence.entries = [
        replace(entry, accepted_at=ended_at - 1) if str(entry.bind_id) == row["bind_id"] else entry
        for entry in evidence.entries
    ]


def send_a_waiting_successor(evidence: Evidence) -> None:
    row = successor(evidence)
    evidence.events = [
        dict(event) | {"kind": "warned"}
        if (event["binding_id"], event["kind"]) == (row["id"], "cleared")
        else event
        for event in evidence.events
    ]


def clear_after_the_wait(evidence: Evidence) -> None:
    row = successor(evidence)
    waited_until = {"held_until": "2020-01-01T00:00:00+00:00"}
    evidence.events = [
        dict(event) | {"detail": event["detail"] | waited_until}
        if (event["binding_id"], event["kind"]) == (row["id"], "requested")
        else event
        for event in evidence.events
    ]


def add_a_second_successor(evidence: Evidence) -> None:
    twin = successor(evidence) | {"id": "twin", "pool_number": "twin", "bind_id": None}
    evidence.rows = [*evidence.rows, twin]


CORRUPTIONS: list[tuple[str, Callable[[Evidence], None]]] = [
    ("I1", overlap),
    ("I1", reserve_twice),
    ("I1", refuse_for_our_binding),
    ("I2", drop_row),
    ("I2", forget_bind_id),
    ("I2", leave_in_doubt),
    ("I3", drop_row),
    ("I3", send_twice),
    ("I3", send_first),
    ("I4", free_early),
    ("R1", hold_too_long),
    ("R1", stay_active),
    ("I5", end_twice),
    ("I5", return_to_an_earlier_state),
    ("I6", record_too_late_an_end),
    ("I6", return_too_late_an_end),
    ("I6", unbind_before_the_request),
    ("I7", change_a_recorded_value),
    ("I7", lose_an_event),
    ("I8", return_two_bindings_for_a_key),
]


def test_sound_run_has_no_violation(sound: Evidence) -> None:
    assert oracle.judge(sound) == []
    assert {row["state"] for row in sound.rows} >= {"expired", "unbound", "failed"}


@pytest.mark.parametrize(
    ("invariant", "corrupt"), CORRUPTIONS, ids=[f"{i}-{corrupt.__name__}" for i, corrupt in CORRUPTIONS]
)
def test_corrupted_evidence_is_reported_with_its_invariant(
    evidence: Evidence, invariant: str, corrupt: Callable[[Evidence], None]
) -> None:
    corrupt(evidence)
    assert invariant in {violation.invariant for violation in oracle.judge(evidence)}


@pytest.mark.parametrize(
    ("problem", "corrupt"),
    [
        ("at the provider beside its predecessor", take_over_too_early),
        ("sent before it was cleared", send_a_waiting_successor),
        ("cleared after its own hold", clear_after_the_wait),
        ("successors: [", add_a_second_successor),
    ],
)
def test_corrupted_takeover_is_reported(
    evidence: Evidence, problem: str, corrupt: Callable[[Evidence], None]
) -> None:
    corrupt(evidence)
    found = [violation for violation in oracle.judge(evidence) if problem in violation.problem]
    assert {violation.invariant for violation in found} == {"I1"}


def test_retention_that_deletes_too_soon_is_a_violation_and_in_time_is_not(evidence: Evidence) -> None:
    row = expired_row(evidence)
    before = copy.deepcopy(evidence)
    last = max(float(event["at"]) for event in evidence.events if event["binding_id"] == row["id"])
    evidence.rows = [other for other in evidence.rows if other["id"] != row["id"]]
    evidence.events = [event for event in evidence.events if event["binding_id"] != row["id"]]
    keep_s = evidence.now - max(row["held_until"], row["ended_at"], last)
    remaining, violations = oracle.retained(evidence, before, keep_s - 1)
    assert violations + oracle.judge(remaining) == []
    _, violations = oracle.retained(evidence, before, keep_s + 1)
    assert violations
    evidence.rows = before.rows
    _, violations = oracle.retained(evidence, before, keep_s - 1)
    assert violations, "its events are deleted, its row is not"
