"""The list of bindings: what its pages and counts have, against a search of all rows, and how much they read."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert
from uuid_utils.compat import uuid7

from bindings.access.binding_list import BindingList
from bindings.domain.binding import Binding, Mode, State
from bindings.domain.phone import ERASED_MARK, Phone
from bindings.domain.record_lines import FORMATS, LineEncoder
from bindings.domain.search_filters import Order, SearchFilters
from bindings.domain.serialization import field_names
from bindings.store import binding_list, queries, sql
from bindings.store.binding_list import COUNTED
from bindings.store.database import Database
from bindings.store.schema import bindings
from bindings.validation import fields
from tests.service.harness import NOON, Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.access.binding_list import BindingListPage

ROWS = 300
STATES = (*State, State.ACTIVE, State.EXPIRED)
MADE = (State.ACTIVE, State.EXPIRED, State.UNBOUND)
OPEN = (State.PENDING, State.IN_DOUBT, State.ACTIVE)


def row(number: int, rng: random.Random) -> dict[str, Any]:
    """Return a binding; a third of them have the time of the request of another one."""
    state = rng.choice(STATES)
    requested = NOON - timedelta(minutes=number - number % 3)
    end = requested + timedelta(hours=rng.choice((1, 2, 100)))
    made = state in MADE
    return {
        "id": str(uuid7()),
        "mode": rng.choice(tuple(Mode)),
        "phone_a": Phone(f"91{number:08}"),
        "phone_b": Phone(f"9155{number:08}"),
        "pool_number": rng.choice(("918806", "918807")),
        "app_id": rng.choice(("app-1", "app-2")),
        "scope": "default",
        "reference": rng.choice((None, f"ride-{number}", f"meal_{number}", f"ride%{number}")),
        "expire_s": 3_600,
        "bind_id": str(number) if made else None,
        "middle_number_a": "9188061024" if made else None,
        "middle_number_b": "9188061024" if made else None,
        "state": state,
        "provider_status": rng.choice(("-41", "-35")) if state is State.FAILED else None,
        "reason": "no_number" if state is State.FAILED else None,
        "actor": rng.choice(("key:rides", "key:meals")),
        "requested_at": requested,
        "send_by": requested,
        "settle_by": requested,
        "expires_at": end if made else None,
        "held_until": end + timedelta(hours=1),
        "unbind_requested_at": requested if state is State.ACTIVE and rng.random() < 0.2 else None,
        "ended_at": None if state in OPEN else end,
        "version": 2,
    }


@pytest.fixture
def database(own_database_url: str) -> Iterator[Database]:
    database = Database(own_database_url, read_clock=Clock())
    rng = random.Random(1)
    rows = [row(number, rng) for number in range(ROWS)]
    database.write(lambda tx: tx.connection.execute(insert(bindings), rows))
    yield database
    database.close()


def every_binding(database: Database) -> list[Binding]:
    return list(database.stream(queries.export_bindings, since=None, until=None))


def pages(database: Database, filters: SearchFilters, order: Order, *, size: int = 50) -> list[BindingListPage]:
    """Return the pages of a list from the first to the last."""
    position, read = None, []
    while True:
        page = BindingList(database).page(filters, order=order, size=size, position=position)
        read.append(page)
        if page.next_cursor is None:
            return read
        position = fields.page_position(page.next_cursor)


# Each filter, and what it means of a binding.
FILTERS: dict[str, tuple[SearchFilters, Callable[[Binding], bool]]] = {
    "none": (SearchFilters(), lambda _: True),
    "state": (SearchFilters(state=State.LAPSED), lambda each: each.state is State.LAPSED),
    "state that has an index": (
        SearchFilters(state=State.IN_DOUBT, mode=Mode.AXB),
        lambda each: (each.state, each.mode) == (State.IN_DOUBT, Mode.AXB),
    ),
    "pending": (SearchFilters(state=State.PENDING), lambda each: each.state is State.PENDING),
    "recorded as active": (SearchFilters(state=State.ACTIVE), lambda each: each.state is State.ACTIVE),
    "active": (SearchFilters(active=True), lambda each: each.is_active(NOON)),
    "not active": (SearchFilters(active=False), lambda each: not each.is_active(NOON)),
    "active of a pool": (
        SearchFilters(active=True, pool_number="918807"),
        lambda each: each.is_active(NOON) and each.pool_number == "918807",
    ),
    "status": (SearchFilters(provider_status="-41"), lambda each: each.provider_status == "-41"),
    "reason": (SearchFilters(state_reason="no_number"), lambda each: each.reason == "no_number"),
    "reference": (SearchFilters(reference="ride-100"), lambda each: each.reference == "ride-100"),
    "beginning of a reference": (
        SearchFilters(reference_prefix="meal_", app_id="app-1"),
        lambda each: (each.reference or "").startswith("meal_") and each.app_id == "app-1",
    ),
    "beginning with a sign of LIKE": (
        SearchFilters(reference_prefix="ride%"),
        lambda each: (each.reference or "").startswith("ride%"),
    ),
    "actor": (SearchFilters(actor="key:meals"), lambda each: each.actor == "key:meals"),
    "period": (
        SearchFilters(requested_from=NOON - timedelta(hours=3), requested_to=NOON - timedelta(hours=1)),
        lambda each: NOON - timedelta(hours=3) <= each.requested_at < NOON - timedelta(hours=1),
    ),
}


def in_order(matching: list[Binding], order: Order) -> list[str]:
    key: Callable[[Binding], tuple[Any, str]] = lambda each: (  # noqa: E731 -- it is used once
        each.expires_at if order is Order.ENDS_SOONEST else each.requested_at,
        each.id,
    )
    return [each.id for each in sorted(matching, key=key, reverse=order is Order.NEWEST)]


@pytest.mark.parametrize("rows_read", [17, 50, 10_000])
def test_pages_have_every_matching_binding_once_in_order(
    database: Database, monkeypatch: pytest.MonkeyPatch, rows_read: int
) -> None:
    """However few bindings a page may read, and whether a filter is read by its index or not."""
    monkeypatch.setattr(binding_list, "ROWS_READ", rows_read)
    everything = every_binding(database)
    assert len(everything) == ROWS
    for name, (filters, matches) in FILTERS.items():
        matching = [each for each in everything if matches(each)]
        assert matching
        for order in (Order.NEWEST, Order.OLDEST) + ((Order.ENDS_SOONEST,) if filters.active else ()):
            expected = in_order(matching, order)
            listed = [each.id for page in pages(database, filters, order, size=20) for each in page.data]
            assert listed == expected, (name, order)
            batches = BindingList(database).export(filters, order=order, file_format="csv")
            exported = [binding_id for batch in batches for binding_id in batch.by_name["id"]]
            assert exported == expected, (name, order)


FIRST_INSTANT, LAST_INSTANT = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
ODD_TEXTS = (
    'a "b", c',
    "a\nb",
    "a\r",
    "a;=1",
    "=1",
    " +1",
    "2026-11",
    "1",
    "",
    "\u8ba2\u5355-42",
    "\u0130\U0001f4de",
)
ODD_ROWS: list[dict[str, Any]] = [
    *({"reference": text} for text in ODD_TEXTS),
    {"requested_at": FIRST_INSTANT, "sent_at": FIRST_INSTANT.replace(microsecond=100_000)},
    {"ended_at": LAST_INSTANT, "expires_at": LAST_INSTANT.replace(microsecond=0)},
    {"sent_at": NOON.replace(microsecond=120)},
    {"phone_a": f"{ERASED_MARK}22", "phone_b": "12345"},
    {"middle_number_a": None, "middle_number_b": "10000000001", "bind_id": "-1", "provider_status": "-52"},
    *({"sent_at": NOON.replace(microsecond=fraction)} for fraction in (1, 123_450, 900_000, 999_999)),
]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("revealed", [False, True])
@pytest.mark.parametrize("batch", [1, 7, 1_000])
def test_exported_columns_have_the_lines_of_the_bindings(
    database: Database, monkeypatch: pytest.MonkeyPatch, file_format: str, *, revealed: bool, batch: int
) -> None:
    monkeypatch.setattr(sql, "EXPORT_BATCH", batch)
    rng = random.Random(2)
    inserted = [insert(bindings).values(row(ROWS + number, rng) | odd) for number, odd in enumerate(ODD_ROWS)]
    database.write(lambda tx: [tx.connection.execute(statement) for statement in inserted])
    encoder = LineEncoder(field_names(Binding), file_format)
    exported = BindingList(database).export(SearchFilters(), order=Order.OLDEST, file_format=file_format)
    batches = list(exported)
    assert {len(each) for each in batches[:-1]} <= {1, batch}
    lines = [encoder.lines(each, revealed=revealed) for each in batches]
    assert "".join(lines) == encoder.lines(every_binding(database), revealed=revealed)


INSTANTS = st.datetimes(timezones=st.just(UTC)) | st.integers(0, 2**33).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12) | st.text(
    alphabet="=+-@;,\t\n\r \"'0123456789.:/eE\uff1d\u8ba2\x7f", max_size=8
)
UNUSED = itertools.count(2 * ROWS)  # numbers of rows and pools: no example may delete the rows of another
WRITTEN = st.fixed_dictionaries(
    {"requested_at": INSTANTS, "held_until": st.just(LAST_INSTANT)},
    optional={
        "sent_at": st.none() | INSTANTS,
        "answered_at": st.none() | INSTANTS,
        "unbind_requested_at": st.none() | INSTANTS,
        "reference": st.none() | TEXTS,
        "reason": st.none() | TEXTS,
        "request_id": TEXTS,
        "actor": TEXTS,
        "provider_status": st.sampled_from([None, "-41", "=1", "200"]),
        "phone_a": st.text("0123456789", min_size=1, max_size=9),
    },
)


@given(st.lists(WRITTEN, min_size=1, max_size=5))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_lines_of_any_values_are_those_of_the_bindings(database: Database, values: list[dict[str, Any]]) -> None:
    rng, pool = random.Random(3), str(next(UNUSED))
    rows = [
        row(next(UNUSED), rng) | {"pool_number": pool, "idempotency_key": str(uuid7())} | written
        for written in values
    ]
    database.write(lambda tx: [tx.connection.execute(insert(bindings).values(each)) for each in rows])
    written_bindings = [each for each in every_binding(database) if each.pool_number == pool]
    assert len(written_bindings) == len(rows)
    for file_format, revealed in itertools.product(FORMATS, (False, True)):
        encoder = LineEncoder(field_names(Binding), file_format)
        filters = SearchFilters(pool_number=pool)
        batches = BindingList(database).export(filters, order=Order.OLDEST, file_format=file_format)
        lines = "".join(encoder.lines(batch, revealed=revealed) for batch in batches)
        assert lines == encoder.lines(written_bindings, revealed=revealed)


def test_page_stops_after_so_many_bindings_and_says_where(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding_list, "ROWS_READ", 100)
    newest_first = every_binding(database)[::-1]
    first, second, *_, last = pages(database, SearchFilters(state=State.LAPSED), Order.NEWEST)
    assert (first.stopped_at, second.stopped_at) == (newest_first[99].requested_at, newest_first[199].requested_at)
    assert {each.state for each in first.data} == {State.LAPSED}
    assert (last.stopped_at, last.next_cursor) == (None, None)
    full = BindingList(database).page(SearchFilters(), order=Order.NEWEST, size=20, position=None)
    assert (len(full.data), full.stopped_at, full.next_cursor is None) == (20, None, False)


def test_filter_with_an_index_finds_a_few_old_bindings_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if they lie far behind what a page reads."""
    monkeypatch.setattr(binding_list, "ROWS_READ", 100)
    oldest = [each for each in every_binding(database) if each.reference and each.reference.startswith("meal_2")]
    page = BindingList(database).page(
        SearchFilters(reference_prefix="meal_2"), order=Order.NEWEST, size=50, position=None
    )
    assert {each.id for each in page.data} == {each.id for each in oldest}
    assert (page.next_cursor, page.stopped_at) == (None, None)


def test_counts_of_a_filter_are_of_what_matches_the_others(database: Database) -> None:
    everything = every_binding(database)
    filters = SearchFilters(
        state=State.FAILED, mode=Mode.AXB, requested_from=NOON - timedelta(hours=4), actor="key:rides"
    )
    counts = BindingList(database).count_values(filters)
    assert set(counts.by_filter) == set(COUNTED)
    assert counts.stopped_at is None
    for name in COUNTED:
        wanted = {
            other: value for other in COUNTED if other != name and (value := getattr(filters, other)) is not None
        }
        matching = [
            each
            for each in everything
            if each.requested_at >= NOON - timedelta(hours=4)
            and all(getattr(each, other) == value for other, value in wanted.items())
        ]
        expected = Counter(value for each in matching if (value := getattr(each, name)) is not None)
        assert counts.by_filter[name] == dict(expected), name
        assert list(counts.by_filter[name].values()) == sorted(expected.values(), reverse=True)


def test_counts_read_the_newest_bindings_only_and_one_actor_counts_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding_list, "ROWS_READ", 100)
    newest = every_binding(database)[::-1][:100]
    counts = BindingList(database).count_values(SearchFilters())
    assert counts.by_filter["state"] == dict(Counter(each.state for each in newest))
    assert counts.stopped_at == newest[-1].requested_at
    own = BindingList(database).count_values(SearchFilters(actor="key:meals"), only_actor="key:meals")
    assert own.by_filter["state"] == dict(Counter(each.state for each in newest if each.actor == "key:meals"))
    assert "actor" not in own.by_filter


def test_export_that_ends_early_loses_no_connection(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the server prepares the next batch."""
    monkeypatch.setattr(sql, "EXPORT_BATCH", 7)
    used, dropped = database._writes if database.postgres else database._reads, mock.Mock()
    monkeypatch.setattr(used, "drop", dropped)
    for batches_read in (0, 1, 2, ROWS):
        exported = BindingList(database).export(SearchFilters(), order=Order.OLDEST, file_format="csv")
        list(itertools.islice(exported, batches_read))
        exported.close()
    assert dropped.call_count == 0
    assert len(every_binding(database)) == ROWS
