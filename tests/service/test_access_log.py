"""The filters of the access log, on both databases: each alone, together, page by page, and past a stretch."""

from __future__ import annotations

import base64
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.access_log import AccessKind
from bindings.errors import InvalidRequest
from bindings.store import access_log as rows
from tests.service.harness import NOON, C, D

if TYPE_CHECKING:
    from bindings.domain.access_log import AccessLogEntry
    from tests.service.harness import ServiceHarness

EVE, ANN = (f"0199{name}-7c5a-7d52-9b6e-2f1c8a4d7e90" for name in ("aaaa", "bbbb"))


@pytest.fixture
def ids(harness: ServiceHarness) -> tuple[str, str]:
    """Write entries of each kind, one a minute, and return the ids of two bindings."""
    service, clock = harness.service, harness.clock
    eve = service.as_caller(actor="key:eve", key_id=EVE)
    ann = service.as_caller(actor="key:ann", key_id=ANN)
    first, second = harness.bind(reference="order-1"), harness.bind(C, D)

    def export(view: str, reason: str | None, filters: dict[str, Any]) -> None:
        eve.access_log.start_export(view=view, filters=filters, format="csv", reason=reason)

    for step in (
        lambda: eve.reveal([first.id], reason="complaint 118"),
        lambda: ann.reveal([second.id], reason="court order 7"),
        lambda: export("bindings", "complaint 119", {}),
        lambda: export("history of a binding", None, {"binding_id": first.id}),
        lambda: ann.phone_searches.record_for_key("lookup", has_match=False, is_counted=True),
        lambda: ann.api_keys.create(name="rides", role="auditor"),
        lambda: ann.sessions.create(service.api_keys.list()[0].id),
        lambda: ann.sessions.end_by_id(service.sessions.list()[0].id),
        lambda: eve.reveal([first.id], reason="Complaint 120"),
    ):
        clock.advance(60)
        step()
    return first.id, second.id


def listed(harness: ServiceHarness, **filters: Any) -> list[AccessLogEntry]:
    """Return all entries that match, read one by one and in pages: both are the same."""
    by_size = []
    for limit in (1, 200):
        entries: list[AccessLogEntry] = []
        cursor = None
        while True:
            page = harness.service.access_log.entries(**filters, cursor=cursor, limit=limit)
            entries += page.data
            cursor = page.next_cursor
            if cursor is None:
                break
        by_size.append(entries)
    assert by_size[0] == by_size[1]
    return by_size[0]


def words(entries: list[AccessLogEntry]) -> list[str]:
    return [entry.reason or entry.description.partition(":")[0].partition(",")[0] for entry in entries]


def test_each_kind_is_listed_alone_and_all_are_together(harness: ServiceHarness, ids: tuple[str, str]) -> None:
    del ids
    by_kind = {kind: listed(harness, kind=kind.value) for kind in AccessKind}
    assert {kind: words(entries) for kind, entries in by_kind.items()} == {
        AccessKind.REVEAL: ["Complaint 120", "court order 7", "complaint 118"],
        AccessKind.EXPORT_IN_FULL: ["complaint 119"],
        AccessKind.EXPORT_MASKED: ["export of history of a binding"],
        AccessKind.PHONE_SEARCH: ["lookup by a full phone"],
        AccessKind.ACT: ["API key created"],
        AccessKind.SESSION: ["session of the console ended", "signed in to the console"],
    }
    everything = listed(harness)
    assert all(entry.kind is kind for kind, entries in by_kind.items() for entry in entries)
    assert sorted(everything, key=lambda entry: entry.at, reverse=True) == everything
    assert len(everything) == sum(map(len, by_kind.values()))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (
            {"actor": "key:eve"},
            ["Complaint 120", "export of history of a binding", "complaint 119", "complaint 118"],
        ),
        ({"key_id": ANN, "kind": "reveal"}, ["court order 7"]),
        ({"actor": "key:eve", "key_id": ANN}, []),
        ({"reason_prefix": "complaint"}, ["complaint 119", "complaint 118"]),
        ({"reason_prefix": "complaint 11%"}, []),
        (
            {"since": NOON + timedelta(minutes=2), "until": NOON + timedelta(minutes=4)},
            ["complaint 119", "court order 7"],
        ),
        ({"since": NOON + timedelta(hours=1)}, []),
    ],
)
def test_filters_hold_together(
    harness: ServiceHarness, ids: tuple[str, str], filters: dict[str, Any], expected: list[str]
) -> None:
    del ids
    assert words(listed(harness, **filters)) == expected


def test_binding_has_its_reveals_with_the_reference_and_the_exports_of_its_history(
    harness: ServiceHarness, ids: tuple[str, str]
) -> None:
    first, second = ids
    entries = listed(harness, binding_id=first)
    assert words(entries) == ["Complaint 120", "export of history of a binding", "complaint 118"]
    assert [entry.reference for entry in entries] == ["order-1", None, "order-1"]
    assert words(listed(harness, binding_id=first, reason_prefix="complaint")) == ["complaint 118"]
    assert words(listed(harness, binding_id=second)) == ["court order 7"]
    assert listed(harness, binding_id=EVE) == []


@pytest.mark.parametrize("stretch", [1, 2, 3])
def test_pages_past_a_stretch_have_every_match_once_and_say_how_far_they_looked(
    harness: ServiceHarness, ids: tuple[str, str], monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    expected = {str(filters): listed(harness, **filters) for filters in NARROW}
    monkeypatch.setattr(rows, "STRETCH", stretch)
    for filters in NARROW:
        assert listed(harness, **filters) == expected[str(filters)], filters
    page = harness.service.access_log.entries(reason_prefix="no such reason")
    assert (page.data, page.next_cursor is None) == ((), False)
    newest = harness.service.access_log.entries(limit=1).data[0].at
    assert page.searched_to is not None
    assert page.searched_to <= newest
    assert words(listed(harness, binding_id=ids[1])) == ["court order 7"]


NARROW: list[dict[str, Any]] = [
    {"actor": "key:eve"},
    {"actor": "key:ann"},
    {"key_id": EVE},
    {"reason_prefix": "c"},
    {"kind": "session"},
    {"kind": "export_masked"},
    {"kind": "act", "actor": "key:ann"},
]


def test_counts_of_one_filter_are_of_the_entries_that_match_the_others(
    harness: ServiceHarness, ids: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = harness.service.access_log.count_values
    period: dict[str, Any] = {"since": NOON + timedelta(minutes=5)}
    for filters in ({}, {"reason_prefix": "c"}, {"binding_id": ids[0]}, period):
        for chosen in ({}, {"kind": "reveal"}, {"actor": "key:eve"}, {"kind": "act", "actor": "key:ann"}):
            counts = count(**filters, **chosen)
            assert counts.is_complete
            for name, other in (("kind", "actor"), ("actor", "kind")):
                matching = listed(harness, **filters, **{key: chosen[key] for key in chosen if key == other})
                expected = Counter(str(getattr(entry, name)) for entry in matching)
                assert counts.by_filter[name] == expected, (filters, chosen, name)
    monkeypatch.setattr(rows, "STRETCH", 2)
    counts = count()
    assert (counts.is_complete, counts.by_filter["kind"]["reveal"]) == (False, 1)


def test_entries_of_one_instant_are_each_on_one_page(harness: ServiceHarness) -> None:
    """The order among them is that of the lists, and a page may end between any two."""
    eve, binding = harness.service.as_caller(actor="key:eve", key_id=EVE), harness.bind()
    for _ in range(2):
        eve.reveal([binding.id], reason="complaint")
        eve.access_log.start_export(view="bindings", filters={}, format="csv", reason=None)
        eve.phone_searches.record_for_key("lookup", has_match=False, is_counted=True)
    entries = listed(harness)
    assert len({entry.at for entry in entries}) == 1
    assert Counter(entry.kind for entry in entries) == dict.fromkeys(
        ("reveal", "export_masked", "phone_search"), 2
    )


def test_wrong_filters_are_named_before_anything_is_read(harness: ServiceHarness) -> None:
    wrong: dict[str, Any] = {
        "kind": "all",
        "key_id": "x",
        "binding_id": "1",
        "actor": "",
        "reason_prefix": "a\nb",
        "since": "soon",
    }
    forged = ("x", "MA", base64.urlsafe_b64encode(b"2026-11-23T12:00:00+00:00 -1 1").decode())
    for cursor in forged:
        with pytest.raises(InvalidRequest, match="next_cursor"):
            harness.service.access_log.entries(cursor=cursor)
    with pytest.raises(InvalidRequest) as refused:
        harness.service.access_log.entries(**wrong)
    assert {error.field for error in refused.value.field_errors} == set(wrong)
    with pytest.raises(InvalidRequest, match="since"):
        harness.service.access_log.entries(since=NOON, until=NOON)
