"""The sentences of events: each kind has one, and an event of a later version is shown as it is recorded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bindings.domain.binding import Event, EventKind
from bindings.web.console.event_text import timeline


def event_of(kind: str, **detail: Any) -> Event:
    return Event(
        binding_id=None,
        sequence=1,
        kind=kind,
        at=datetime(2026, 11, 29, tzinfo=UTC),
        actor="test",
        request_id=None,
        detail=detail,
        reference=None,
        key_id=None,
        cursor="1",
    )


@pytest.mark.parametrize("kind", EventKind)
def test_each_kind_has_a_sentence_of_its_own(kind: EventKind) -> None:
    (entry,) = timeline([event_of(kind)])
    assert entry.sentence[0].isupper()
    assert not entry.sentence.startswith("Recorded by another version")


def test_kind_of_a_later_version_is_shown_as_it_is_recorded() -> None:
    (entry,) = timeline([event_of("teleported", reason="asked")])
    assert entry.sentence == "Recorded by another version of bindings as “teleported”"
    assert entry.details == ()


@pytest.mark.parametrize(
    ("kind", "listed"),
    [(EventKind.UNBIND_REQUESTED, True), (EventKind.REVEALED, True), (EventKind.UNBOUND, False)],
)
def test_reason_is_in_the_details_only_if_it_is_the_text_of_the_actor(kind: EventKind, listed: bool) -> None:
    (entry,) = timeline([event_of(kind, reason="asked")])
    assert (("reason", "asked") in entry.details) is listed
