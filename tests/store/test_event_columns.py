"""Events by column: the lines of an export are those of the events, whatever the events are."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text
from uuid_utils import uuid7

from bindings.access.event_list import EventList
from bindings.domain.binding import Event, EventKind
from bindings.domain.record_lines import FORMATS, LineEncoder
from bindings.domain.serialization import field_names
from bindings.errors import Busy
from bindings.sealing.encoding import TEXT_DIGEST
from bindings.store import queries, sql, texts
from bindings.store.database import Database
from bindings.store.schema import events, refusals
from tests.service.harness import NOON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.store.database import Transaction

WRITTEN = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8) | st.text(
    alphabet="=+-@;,\t\n\r\b\f\\/ \"'0123456789.:{}[]eE\uff1d\u8ba2\x7f\x1f", max_size=8
)
VALUES = st.recursive(
    WRITTEN | st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.sampled_from([1.5, 0.1, 1e22]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WRITTEN, inner, max_size=3),
    max_leaves=6,
)
DIGESTS = st.sampled_from([{TEXT_DIGEST: "0" * 64}, {TEXT_DIGEST: 1, "a": 2}, {"a": {TEXT_DIGEST: "0"}}])
NAMES = WRITTEN | st.sampled_from(["facts", "reference", "said", "filter", TEXT_DIGEST])
DETAILS = st.dictionaries(NAMES, VALUES | DIGESTS, max_size=4)
INSTANTS = st.datetimes(timezones=st.just(UTC)) | st.just(NOON)
ROWS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([*EventKind, "of a later version"]),
        "at": INSTANTS,
        "actor": WRITTEN,
        "request_id": st.none() | WRITTEN,
        "detail": DETAILS,
        "key_id": st.none() | st.just("01990000-0000-7000-8000-000000000000"),
    }
)
# Texts of an event by name, each stored or deleted.
TEXTS = st.dictionaries(st.sampled_from(["reason", "because", "said"]), st.none() | WRITTEN, max_size=2)


@pytest.fixture
def database(own_database_url: str) -> Iterator[Database]:
    database = Database(own_database_url)
    yield database
    database.close()


def add(database: Database, row: dict[str, Any], stored_texts: dict[str, str | None] | None = None) -> int:
    """Insert an event of no binding, with the texts that are stored of it, and return its position."""
    digests = {name: {TEXT_DIGEST: "0" * 64} for name in stored_texts or {}}
    values = {"binding_id": None, "sequence": 0} | row | {"detail": row["detail"] | digests}
    position: int = database.write(
        lambda tx: tx.connection.execute(insert(events).values(values).returning(events.c.position)).scalar_one()
    )
    rows = [
        {"event_position": position, "name": name, "text": stored, "salt": b"salt"}
        for name, stored in (stored_texts or {}).items()
        if stored is not None
    ]
    if rows:
        database.write(lambda tx: tx.connection.execute(texts.INSERT, rows))
    return position


def delete_all(database: Database) -> None:
    """Delete all events with their texts, which triggers refuse."""
    allow = "SET LOCAL session_replication_role = replica"
    if not database.postgres:
        allow = "DROP TRIGGER IF EXISTS events_refuse_delete"

    def work(tx: Transaction) -> None:
        for statement in (allow, "DELETE FROM texts", "DELETE FROM events"):
            tx.connection.execute(text(statement))

    database.write(work)


def lines_of(database: Database, file_format: str, **period: datetime | None) -> str:
    encoder = LineEncoder(field_names(Event), file_format)
    exported = EventList(database).export(**{"since": None, "until": None} | period)
    return "".join(map(encoder.lines, exported))


def lines_of_objects(database: Database, file_format: str, **period: datetime | None) -> str:
    stream = database.stream(queries.export_events, **{"since": None, "until": None} | period)
    return LineEncoder(field_names(Event), file_format).lines(list(stream))


@given(st.lists(st.tuples(ROWS, TEXTS), min_size=1, max_size=5), st.sampled_from([1, 2, 1_000]))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_lines_of_any_events_are_those_of_their_objects(
    database: Database, rows: list[tuple[dict[str, Any], dict[str, str | None]]], batch: int
) -> None:
    delete_all(database)  # of the example before
    for row, stored_texts in rows:
        add(database, row, stored_texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "EXPORT_BATCH", batch)
        for file_format in FORMATS:
            assert lines_of(database, file_format) == lines_of_objects(database, file_format)


def row(**values: Any) -> dict[str, Any]:
    return {"kind": "held", "at": NOON, "actor": "test", "detail": {}} | values


def test_line_of_an_event_has_its_texts_and_references(database: Database) -> None:
    refusal_id, binding_id = str(uuid7()), str(uuid7())
    add(database, row(kind="unbind_requested", binding_id=binding_id, sequence=1), {"reason": "\u8ba2 called"})
    add(database, row(kind="unbind_requested", binding_id=binding_id, sequence=2), {"reason": None})
    add(database, row(kind="exported"), {"filter": '{"reference": "Ann"}', "reason": "audit"})
    add(database, row(kind="refused", detail={"refusal_id": refusal_id}))
    add(database, row(kind="refused", detail={"reference": "of an earlier version"}))
    refused = {"id": refusal_id, "reference": "order", "at": NOON, "code": "conflict", "mode": "AXB"}
    refused |= {
        "phone_a": "9188067701",
        "phone_b": "9188067799",
        "pool_number": "1",
        "app_id": "a",
        "actor": "test",
    }
    database.write(lambda tx: tx.connection.execute(insert(refusals).values(refused)))
    lines = [json.loads(line) for line in lines_of(database, "ndjson").splitlines()]
    assert [line["detail"].get("reason") for line in lines] == [
        "\u8ba2 called",
        texts.DELETED,
        "audit",
        None,
        None,
    ]
    assert lines[2]["detail"]["filter"] == {"reference": "Ann"}
    assert [line["reference"] for line in lines] == [None, None, None, "order", "of an earlier version"]


def test_exported_period_is_half_open(database: Database) -> None:
    for second in range(4):
        add(database, row(at=NOON + timedelta(seconds=second)))
    period = {"since": NOON + timedelta(seconds=1), "until": NOON + timedelta(seconds=3)}
    assert len(lines_of(database, "ndjson", **period).splitlines()) == 2
    assert lines_of(database, "csv", **period) == lines_of_objects(database, "csv", **period)


def test_batches_of_events_have_at_most_so_many_rows(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "EXPORT_BATCH", 3)
    for _ in range(8):
        add(database, row())
    batches = list(EventList(database).export(since=None, until=None))
    assert sum(map(len, batches)) == 8
    assert max(map(len, batches)) <= 3


def test_export_of_events_that_ends_early_loses_no_connection(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "EXPORT_BATCH", 2)
    for _ in range(9):
        add(database, row())
    for batches_read in (0, 1, 2):
        exported = EventList(database).export(since=None, until=None)
        list(itertools.islice(exported, batches_read))
        exported.close()
    assert len(lines_of(database, "ndjson").splitlines()) == 9


@pytest.mark.parametrize(
    ("column", "value"), [("detail", '{"a": '), ("detail", "[1, 2]"), ("detail", "5"), ("at", "infinity")]
)
def test_event_that_cannot_be_read_is_named(sqlite_url: str, column: str, value: str) -> None:
    database = Database(sqlite_url)
    position = [add(database, row()) for _ in range(3)][1]
    changed = text(f"UPDATE events SET {column} = :value WHERE position = :position")

    def change(tx: Any) -> None:
        for name in tx.connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            tx.connection.execute(text(f"DROP TRIGGER {name}"))
        tx.connection.execute(changed, {"value": value, "position": position})

    database.write(change)
    with pytest.raises(Busy, match=f"event 0-{position} has a value that cannot be read"):
        lines_of(database, "ndjson")
    database.close()
