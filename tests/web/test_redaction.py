"""What a role may not see of events is left out of their columns as it is of their objects."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bindings import scheduler
from bindings.domain.binding import Event, EventKind
from bindings.domain.record_lines import FORMATS, EventColumns, JsonColumn, LineEncoder
from bindings.domain.roles import Role
from bindings.domain.serialization import field_names
from bindings.web.auth import HIDDEN_FROM_APPS, Principal

NAMES = field_names(Event)
ACTOR = "key:rides"
KINDS = st.sampled_from([*EventKind, "of a later version"])
FIELDS = st.sampled_from([*HIDDEN_FROM_APPS, "sha256", "because", "reason", "ticket", "said", "kind", "actor"])
VALUES = (
    st.text(max_size=4) | st.integers() | st.floats(allow_nan=False) | st.dictionaries(FIELDS, st.text(max_size=2))
)
OPTIONAL_TEXTS = st.none() | st.text(max_size=4)
EVENTS = st.builds(
    Event,
    cursor=st.just("0-1"),
    binding_id=OPTIONAL_TEXTS,
    sequence=st.integers(0, 9),
    kind=KINDS,
    at=st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    actor=st.sampled_from([ACTOR, scheduler.ACTOR, "key:eve", "person:ann", "other", ""]),
    request_id=OPTIONAL_TEXTS,
    detail=st.dictionaries(FIELDS | st.text(max_size=4), VALUES),
    reference=OPTIONAL_TEXTS,
    key_id=OPTIONAL_TEXTS,
)
PRINCIPALS = st.builds(Principal, actor=st.just(ACTOR), role=st.sampled_from([*Role, "of a later version"]))


def columns_of(events: list[Event]) -> EventColumns:
    by_name: dict[str, Any] = {name: [getattr(event, name) for event in events] for name in NAMES}
    by_name["detail"] = JsonColumn([json.dumps(event.detail) for event in events])
    return EventColumns(by_name, len(events))


@given(st.lists(EVENTS, min_size=1, max_size=6), PRINCIPALS)
@settings(max_examples=300)
def test_columns_of_events_are_redacted_as_the_events(events: list[Event], principal: Principal) -> None:
    columns = principal.redact_columns(columns_of(events))
    assert len(columns) == len(events)
    for file_format in FORMATS:
        encoder = LineEncoder(NAMES, file_format)
        assert encoder.lines(columns) == encoder.lines(list(map(principal.redact_event, events)))


def test_every_kind_and_role_has_the_same_in_both_forms() -> None:
    detail = dict.fromkeys((*HIDDEN_FROM_APPS, "sha256", "because", "reason", "ticket"), "hidden") | {"said": "a"}
    actors = (ACTOR, scheduler.ACTOR, "key:eve")
    events = [
        Event(
            cursor="0-1",
            binding_id=None,
            sequence=0,
            kind=kind,
            at=datetime(2026, 1, 1, tzinfo=UTC),
            actor=actor,
            request_id="hidden",
            detail=detail,
            reference=None,
            key_id="hidden",
        )
        for kind in EventKind
        for actor in actors
    ]
    encoder = LineEncoder(NAMES, "ndjson")
    hidden = {}
    for role in Role:
        principal = Principal(actor=ACTOR, role=role)
        lines = encoder.lines(principal.redact_columns(columns_of(events)))
        assert lines == encoder.lines(list(map(principal.redact_event, events))), role
        hidden[role] = len(EventKind) * len(actors) * (len(detail) + 1) - lines.count('"hidden"')
    assert hidden[Role.ADMIN] == hidden[Role.INVESTIGATOR] == 0
    assert hidden[Role.AUDITOR] == len(actors)
    assert hidden[Role.APP] == hidden[Role.ROUTER] > hidden[Role.AUDITOR]
