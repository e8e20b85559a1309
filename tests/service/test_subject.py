"""Access requests: the records about one person, complete, recorded, and without other people's phones."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import EventKind
from bindings.store.account import register_scope
from tests.service.harness import APP, POOL, A, B, C, D, E, F, ServiceHarness

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from bindings.domain.binding import Binding

REASON = "request 18"


def records(harness: ServiceHarness, phone: str = A) -> list[dict[str, Any]]:
    return list(harness.service.subject_access.records(phone=phone, reason=REASON))


def of_table(rows: list[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["table"] == table]


def make_rows(harness: ServiceHarness) -> tuple[Binding, Binding]:
    """Make rows of every kind about A, and others."""
    first = harness.bind(A, B, reference="order-1", expire_s=60)
    harness.service.unbind(first.id, reason="trip ended")
    harness.clock.advance(100)
    second = harness.bind(C, A, reference="order-2")
    harness.bind(E, F, reference="order-3")
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, D, reference="order-4")
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=D, app_id=APP)
    harness.service.reconcile()
    log = harness.service.access_log
    for filters in (
        {"from": None, "to": None},
        {"binding_id": second.id},
        {"binding_id": first.id[:-4] + "0000"},
    ):
        log.start_export(view="bindings", filters=filters, format="csv", reason=None)
    before = (first.requested_at - timedelta(seconds=1)).isoformat()
    log.start_export(view="bindings", filters={"from": None, "to": before}, format="csv", reason=None)
    log.start_export(view="events", filters={}, format="csv", reason=None)
    return first, second


def test_records_have_every_row_of_the_person_and_no_other_phone(harness: ServiceHarness) -> None:
    first, second = make_rows(harness)
    rows = records(harness)
    listed = of_table(rows, "bindings")
    assert [(row["id"], row["phone_a"], row["phone_b"]) for row in listed] == [
        (second.id, str(second.phone_a), A),
        (first.id, A, str(first.phone_b)),
    ]
    assert [row["reference"] for row in listed] == ["order-2", "order-1"]
    events = of_table(rows, "events")
    assert {row["binding_id"] for row in events} == {first.id, second.id}
    assert "trip ended" in [row["detail"].get("reason") for row in events]
    assert [row["reference"] for row in of_table(rows, "refusals")] == ["order-4"]
    assert [row["phone"] for row in of_table(rows, "holds")] == [A]
    assert len(of_table(rows, "exports")) == 2
    written = json.dumps(rows)
    assert not any(phone in written for phone in (B, C, D, E, F))
    assert "order-3" not in written


def test_each_binding_is_recorded_as_revealed_before_it_is_shown(harness: ServiceHarness) -> None:
    first, second = make_rows(harness)
    shown = harness.service.subject_access.records(phone=A, reason=REASON)
    assert next(shown)["id"] == second.id
    for binding in (first, second):
        last = harness.service.history(binding.id)[-1]
        assert (last.kind, last.detail["reason"]) == (EventKind.REVEALED, REASON)


def test_question_about_a_person_without_rows_is_recorded_too(harness: ServiceHarness) -> None:
    harness.bind(C, D)
    assert records(harness) == []
    (entry,) = harness.service.access_log.entries().data
    assert (entry.binding_id, entry.reason) == (None, REASON)


def test_more_bindings_than_a_page_are_all_listed(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bindings.access.subject.PAGE", 2)
    made = []
    for number in range(5):
        made.append(
            harness.service.bind(
                phone_a=A, phone_b=f"91990677{number:02}", pool_number=POOL, expire_s=60, mode="AXB"
            )
        )
        harness.service.unbind(made[-1].id)
        harness.clock.advance(60)
    assert [row["id"] for row in of_table(records(harness), "bindings")] == [row.id for row in made[::-1]]


def test_records_of_an_erased_person_are_empty(harness: ServiceHarness, tmp_path: Path) -> None:
    first = harness.bind(A, B, expire_s=60)
    harness.clock.advance(1_000)
    harness.service.expire_due()
    service = harness.open(erasure_journal=str(tmp_path / "erasures"))
    register_scope(harness.database, service.settings.scope)
    service.erasure.erase(phone=A, reason="request 17")
    assert records(harness) == []
    (other,) = of_table(records(harness, B), "bindings")
    assert (other["id"], other["phone_a"], other["phone_b"]) == (first.id, "erased", B)
