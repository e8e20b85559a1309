"""Rows with events of an older version, or whose first events are deleted: what is not known is not compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.acts import Act
from bindings.sealing.encoding import event_bytes
from bindings.sealing.findings import Findings
from bindings.sealing.rows import RowComparison

if TYPE_CHECKING:
    from collections.abc import Sequence

EARLY, LATE, LATER = (f"2026-03-0{day}T12:00:00.000000Z" for day in (1, 2, 3))
PROOF: dict[str, Any] = {"id": "h", "facts": "ab", "held_until": LATE, "origin_id": None, "strikes": 1}
HOLD = PROOF | {"created_at": EARLY}


def messages(
    events: Sequence[tuple[str, dict[str, Any]]], subject: str, row: dict[str, Any], gone: int = 0
) -> list[str]:
    """Compare a row with events (kind and detail), of which retention has deleted the first `gone`."""
    findings = Findings()
    with RowComparison(findings, with_rows=True) as comparison:
        comparison.deleted_until = (0, gone) if gone else None
        for position, (kind, detail) in enumerate(events[gone:], 1 + gone):
            event: dict[str, Any] = {
                "tx": 0,
                "position": position,
                "binding_id": None,
                "sequence": 0,
                "kind": kind,
                "at": EARLY,
            }
            event |= {"actor": "test", "detail": detail}
            comparison.add_event(event_bytes(event), event, 1)
        comparison.add_row(subject, row)
        comparison.finish()
    return [finding.message for finding in findings.reported]


def held(**changed: Any) -> tuple[str, dict[str, Any]]:
    proof = PROOF | changed
    return "held", {"holds": [{name: value for name, value in proof.items() if value is not ...}]}


OLDER_HELD = held(origin_id=..., strikes=...)
ENDED = "hold_ended", {"holds": [{"id": "h", "held_until": EARLY}]}
OLDER_ENDED = "hold_ended", {"why": "orphan"}


@pytest.mark.parametrize(
    ("events", "changed", "names"),
    [
        ([held()], {}, []),
        ([held()], {"held_until": LATER, "strikes": 2, "origin_id": "o"}, ["held_until", "origin_id", "strikes"]),
        ([OLDER_HELD], {"held_until": LATER, "strikes": 2}, []),
        ([held(), OLDER_HELD], {"held_until": LATER}, []),
        ([OLDER_HELD, held()], {"held_until": LATER}, ["held_until"]),
        ([held(), ENDED], {"held_until": EARLY}, []),
        ([held(), ENDED], {}, ["held_until"]),
        ([OLDER_HELD, ENDED], {}, ["held_until"]),
        ([held(), OLDER_ENDED], {"held_until": EARLY}, []),
        ([held(), OLDER_ENDED, held()], {"held_until": EARLY}, ["held_until"]),
    ],
)
def test_hold_is_compared_as_far_as_its_newest_events_say_what_it_is(
    events: list[tuple[str, dict[str, Any]]], changed: dict[str, Any], names: list[str]
) -> None:
    expected = [f"has another {name} than its events" for name in names]
    assert messages(events, "hold", HOLD | changed) == expected


def moved(kept_from: str, **facts: Any) -> tuple[str, dict[str, Any]]:
    return "administered", {"act": Act.RETENTION_APPLIED.value, "kept_from": kept_from, "keep_days": 1} | facts


@pytest.mark.parametrize(
    ("events", "kept_from", "is_found"),
    [
        ([], None, False),
        ([], EARLY, True),
        ([moved(EARLY)], LATE, False),
        ([moved(EARLY, earlier=None)], EARLY, False),
        ([moved(EARLY, earlier=None)], LATE, True),
        ([moved(EARLY, earlier=None), moved(EARLY, gone_tx=0, gone_position=0, events=0)], LATE, True),
        ([moved(EARLY, earlier=None), moved(LATE)], LATER, False),
    ],
)
def test_limit_of_retention_is_compared_once_each_move_is_an_event(
    events: list[tuple[str, dict[str, Any]]], kept_from: str | None, *, is_found: bool
) -> None:
    found = messages(events, "account", {"id": 1, "kept_from": kept_from})
    assert found == (["has another kept_from than its events"] if is_found else [])


def test_row_whose_first_events_are_deleted_is_compared_with_the_rest() -> None:
    added = "administered", {"act": Act.WEBHOOK_ADDED.value, "id": "w", "created_at": EARLY}
    rotated = "administered", {"act": Act.WEBHOOK_ROTATED.value, "id": "w", "old_secret_until": LATE}
    disabled = "administered", {"act": Act.WEBHOOK_DISABLED.value, "id": "w", "disabled_at": LATER}
    row = {"id": "w", "created_at": EARLY, "old_secret_until": LATE, "disabled_at": LATER}
    events = [added, rotated, disabled]
    for gone in (0, 1, 2):
        assert messages(events, "webhook", row, gone=gone) == []
        other = messages(events, "webhook", row | {"disabled_at": EARLY}, gone=gone)
        assert other == ["has another disabled_at than its events"]
    moved_database = "administered", {"act": Act.DATABASE_MOVED.value, "tx_offset": 7}
    account = {"id": 1, "tx_offset": 7, "kept_from": EARLY}
    assert messages([moved_database, moved(EARLY, earlier=None)], "account", account, gone=1) == []
