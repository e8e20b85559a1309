"""Texts that may name a person: they are in no event, and every reader of events shows them."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from sqlalchemy import delete, event, insert, select

from bindings import errors
from bindings.domain.binding import Event, EventKind
from bindings.domain.record_lines import LineEncoder
from bindings.domain.serialization import field_names
from bindings.monitoring.chart_range import TimeRange
from bindings.store import events as event_rows
from bindings.store import replicas as replica_rows
from bindings.store import statistics, texts
from bindings.store.compiled import CompiledStatement
from bindings.store.schema import events, refusals, replicas
from bindings.store.schema import texts as texts_table
from tests.provider import sockets
from tests.service.harness import NOON, POOL, A, B, C, D, ServiceHarness, feed_has_caught_up
from tests.service.test_mark_absent import put_in_doubt

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from bindings.domain.binding import Binding
    from bindings.service import BindingService

REASON = "Ann Smith of Elm Street called"
REFERENCE = "order of Ann Smith"


def unbound(harness: ServiceHarness) -> Binding:
    binding = harness.bind()
    return harness.service.unbind(binding.id, reason=REASON)


def unbound_with_others(harness: ServiceHarness) -> Binding:
    binding = harness.bind(reference="order-1")
    harness.bind(C, D, reference="order-1")
    assert harness.service.unbind_all(reference="order-1", reason=REASON).requested == 2
    return binding


def shortened(harness: ServiceHarness) -> Binding:
    binding = harness.bind()
    return harness.service.unbind(binding.id, reason=REASON, after_s=60)


def revealed(harness: ServiceHarness) -> Binding:
    binding = harness.bind()
    harness.service.reveal([binding.id], reason=REASON)
    return binding


def marked_absent(harness: ServiceHarness) -> Binding:
    binding = put_in_doubt(harness)
    return harness.service.mark_absent(binding.id, reason=REASON).after


def _answered(harness: ServiceHarness, status: str) -> Binding:
    """Bind at a provider that answers this status in words of its own, and return the binding."""
    answer = sockets.says(sockets.answer(status=status, reason=REASON, data=None))
    with sockets.Server(answer) as provider:
        service = harness.open(provider_url=provider.url)
        with pytest.raises(errors.BindingsError) as raised:
            service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB")
    return service.get(str(raised.value.binding_id))


def refused_by_provider(harness: ServiceHarness) -> Binding:
    return _answered(harness, "-22")


def without_number(harness: ServiceHarness) -> Binding:
    return _answered(harness, "-41")


WAYS: dict[str, Callable[[ServiceHarness], Binding]] = {
    "reason: unbind": unbound,
    "reason: unbind of several": unbound_with_others,
    "reason: shorten": shortened,
    "reason: reveal": revealed,
    "because: mark absent": marked_absent,
    "said: refusal": refused_by_provider,
    "said: no number": without_number,
}


def stored_details(service: BindingService) -> dict[int, dict[str, Any]]:
    statement = select(events.c.position, events.c.detail)
    rows = service.runtime.database.read(lambda connection: connection.execute(statement).all())
    return {row.position: row.detail for row in rows}


def stored_texts(service: BindingService) -> list[Any]:
    return service.runtime.database.read(lambda connection: list(connection.execute(select(texts_table))))


def delete_texts(harness: ServiceHarness) -> None:
    harness.rewrite(delete(texts_table))


def exported_rows(service: BindingService) -> list[dict[str, Any]]:
    """Return the rows of the file of an export of all events."""
    encoder = LineEncoder(field_names(Event), "ndjson")
    lines = "".join(map(encoder.lines, service.event_list.export(since=None, until=None)))
    return [json.loads(line) for line in lines.splitlines()]


def readers(service: BindingService, binding: Binding) -> dict[str, list[Any]]:
    """Return what each reader of events shows of those that have a text."""
    feed_has_caught_up(service)
    ways: dict[str, list[Any]] = {
        "history": service.history(binding.id),
        "feed": list(service.events(limit=200).data),
        "feed of an actor": list(service.events_for_actor(binding.actor, limit=200).data),
        "export": list(service.export_events()),
        "exported file": [SimpleNamespace(**row) for row in exported_rows(service)],
    }
    names = ("reason", "because", "said")
    return {
        way: [row.detail[name] for row in rows for name in names if name in row.detail]
        for way, rows in ways.items()
    }


@pytest.mark.parametrize("way", WAYS)
def test_text_is_stored_apart_from_its_event_and_shown_with_it(harness: ServiceHarness, way: str) -> None:
    binding = WAYS[way](harness)
    name = way.partition(":")[0]
    details = stored_details(harness.service)
    assert REASON not in json.dumps(list(details.values()))
    rows = [row for row in stored_texts(harness.service) if REASON in row.text]
    assert [row.binding_id for row in rows if row.binding_id == binding.id] == [binding.id]
    for row in rows:
        assert details[row.event_position][name] == {"text_sha256": texts.digest(row.salt, row.text)}
        assert row.name == name
    for reader, shown in readers(harness.service, binding).items():
        if way != "reason: reveal" or reader != "feed of an actor":
            assert sum(REASON in str(text) for text in shown) >= 1, reader
            assert not any(isinstance(text, dict) for text in shown), reader


@pytest.mark.parametrize("way", WAYS)
def test_text_whose_row_is_deleted_is_shown_as_erased(harness: ServiceHarness, way: str) -> None:
    binding = WAYS[way](harness)
    delete_texts(harness)
    for reader, shown in readers(harness.service, binding).items():
        assert REASON not in str(shown), reader
        if way != "reason: reveal" or reader != "feed of an actor":
            assert "deleted" in shown, reader


def test_reveals_in_the_access_log_have_their_reasons(harness: ServiceHarness) -> None:
    binding = revealed(harness)
    harness.service.reveal([], reason=REASON, what="list")
    entries = harness.service.access_log.entries().data
    assert [(entry.binding_id, entry.reason) for entry in entries] == [(None, REASON), (binding.id, REASON)]
    reveals = harness.service.investigation.reveals_of([binding])
    assert {reveal.detail["reason"] for reveal in reveals} == {REASON}
    delete_texts(harness)
    assert {entry.reason for entry in harness.service.access_log.entries().data} == {"deleted"}


def test_text_of_a_person_that_is_the_word_for_erased_stays_a_text(harness: ServiceHarness) -> None:
    binding = harness.service.unbind(harness.bind().id, reason="erased")
    assert harness.service.history(binding.id)[2].detail["reason"] == "erased"
    assert len(stored_texts(harness.service)) == 1


def test_unbind_without_a_reason_stores_no_text(harness: ServiceHarness) -> None:
    binding = harness.service.unbind(harness.bind().id)
    assert stored_texts(harness.service) == []
    assert harness.service.history(binding.id)[2].detail["reason"] is None


def put_replica(harness: ServiceHarness, *, revision: str | None, age: timedelta) -> None:
    at = harness.clock() - age
    row = {"id": "018f0000-0000-7000-8000-00000000000a", "name": "old:1", "version": "1", "phone_key_ids": []}
    values = row | {"schema_revision": revision, "started_at": at, "seen_at": at}
    harness.database.write(lambda tx: tx.connection.execute(insert(replicas).values(values)))


@pytest.mark.parametrize(("way", "revision"), [*((way, "0016") for way in WAYS), ("reason: unbind", None)])
def test_text_stays_in_its_event_while_a_process_of_an_older_version_is_at_work(
    harness: ServiceHarness, way: str, revision: str | None
) -> None:
    put_replica(harness, revision=revision, age=timedelta(seconds=-1_000))
    binding = WAYS[way](harness)
    assert stored_texts(harness.service) == []
    assert REASON in json.dumps(list(stored_details(harness.service).values()))
    assert any(REASON in str(text) for text in readers(harness.service, binding)["history"])


def test_process_of_an_older_version_that_has_stopped_does_not_count(harness: ServiceHarness) -> None:
    put_replica(harness, revision="0016", age=replica_rows.RECENT + timedelta(seconds=1))
    unbound(harness)
    assert len(stored_texts(harness.service)) == 1


def run_by_sqlalchemy(statement: CompiledStatement, connection: Connection, values: Any) -> Any:
    """Run a compiled statement so that a listener of SQLAlchemy receives it."""
    return connection.execute(statement._statement, values).all()


def test_page_of_events_without_texts_takes_one_query(harness: ServiceHarness) -> None:
    """With texts it takes one more, for any number of events."""
    binding = harness.bind()
    feed_has_caught_up(harness.service)

    def queries() -> int:
        count = 0

        def add(*_: object) -> None:
            nonlocal count
            count += 1

        def read(connection: Connection) -> None:
            event.listen(connection.engine, "before_cursor_execute", add)
            try:
                with mock.patch.object(CompiledStatement, "fetch_all", run_by_sqlalchemy):
                    event_rows.history(connection, binding.id)
            finally:
                event.remove(connection.engine, "before_cursor_execute", add)

        harness.database.read(read)
        return count

    assert queries() == 1
    harness.service.reveal([binding.id], reason=REASON)
    harness.service.unbind(binding.id, reason=REASON)
    assert queries() == 2


def test_reference_is_in_no_event_and_shown_with_those_of_its_binding_and_its_refusal(
    harness: ServiceHarness,
) -> None:
    harness.bind(reference=REFERENCE)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C, reference=REFERENCE)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    assert REFERENCE not in json.dumps(list(stored_details(harness.service).values()))
    feed_has_caught_up(harness.service)
    for rows in (harness.service.events().data, tuple(harness.service.export_events())):
        assert [(row.kind, row.reference) for row in rows] == [
            ("requested", REFERENCE),
            ("activated", REFERENCE),
            ("refused", REFERENCE),
            ("refused", None),
        ]
    harness.database.write(lambda tx: tx.connection.execute(delete(refusals)))
    assert [row.reference for row in harness.service.events().data][2] is None


def test_refusal_that_an_earlier_version_recorded_keeps_its_reference(harness: ServiceHarness) -> None:
    harness.bind()
    row = {"sequence": 0, "kind": "refused", "at": NOON, "actor": "before", "detail": {"reference": REFERENCE}}
    harness.database.write(lambda tx: tx.connection.execute(insert(events).values(tx=0, **row)))
    (refused,) = [row for row in harness.service.export_events() if row.kind == "refused"]
    assert refused.reference == REFERENCE


def test_example_of_a_refusal_on_the_failures_page_has_its_reference_from_its_row(harness: ServiceHarness) -> None:
    harness.bind()
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C, reference=REFERENCE)
    feed_has_caught_up(harness.service)
    harness.service.update_statistics()
    period = TimeRange.DAY.chart_range(harness.clock()).period
    (example,) = harness.database.read(
        statistics.newest_examples, period, kind=EventKind.REFUSED, code="binding", limit=20
    )
    assert REFERENCE not in json.dumps(example)
    references = harness.service.investigation.references_of_refusals([example["refusal_id"]])
    assert references == {example["refusal_id"]: REFERENCE}
    assert B not in json.dumps(example)
