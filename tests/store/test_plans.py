"""Plans: hot statements reach their rows by the right index, with statistics and without, and never by a scan.

Each call is run and its SQL is recorded on the way to the driver; the database then explains the same statement
with the same parameters.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import psycopg
import pytest
from psycopg.sql import Literal
from sqlalchemy import event, insert, select, text
from uuid_utils.compat import uuid7

from bindings.domain.binding import Caller, EventKind, Mode, State
from bindings.domain.phone import Phone
from bindings.domain.search_filters import Order, SearchFilters
from bindings.jobs.batches import STATEMENT_TIMEOUT_S
from bindings.lifecycle.runtime import new_runtime
from bindings.monitoring.bind_outcomes import BindFilter
from bindings.monitoring.chart_range import TimeRange
from bindings.monitoring.statistics import event_statistics
from bindings.service import BindingService
from bindings.settings import load
from bindings.store import (
    binding_list,
    erasure,
    events,
    expiry,
    job_runs,
    open_bindings,
    partitions,
    queries,
    reserve,
    response_times,
)
from bindings.store import statistics as event_counts
from bindings.store.compiled import CompiledStatement
from bindings.store.database import Database
from bindings.store.schema import bind_counts, exports, reports, tallies
from bindings.store.schema import deliveries as deliveries_table
from bindings.store.schema import events as events_table
from bindings.store.schema import holds as holds_table
from bindings.validation.fields import position_after
from bindings.web.api.samples import BINDING
from bindings.web.console import overview
from tests.service.harness import Clock
from tests.service.phone_keys import phone_keys
from tests.store.test_reserve import TERMS, request, reserved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from bindings.store.database import Transaction
    from tests.store.databases import Server

ROWS = 30_000
LIVE = 6_000
CALLER = Caller(actor="test")
WHOLE = ", full index scan"
MONTHS = 24


def _rows(now: datetime, numbers: range) -> Iterator[dict[str, Any]]:
    """Yield a binding for each number; the higher it is, the earlier the binding was requested."""
    for number in numbers:
        live = number < LIVE
        requested = now - timedelta(seconds=60 if live else 7_200 + number)
        end = requested + timedelta(seconds=3_600)
        yield {
            "id": str(uuid7()),
            "mode": "AXB",
            "phone_a": f"91{number:08}",
            "phone_b": f"9155{number:08}",
            "pool_number": "918806",
            "app_id": "4luaKsL2",
            "scope": "default",
            "reference": f"order-{number % 100}",
            "expire_s": 3_600,
            "bind_id": str(number),
            "middle_number_a": f"9188{number % 500:06}",
            "middle_number_b": f"9188{number % 500:06}",
            "state": "active" if live else "expired",
            "actor": "test",
            "requested_at": requested,
            "send_by": requested,
            "settle_by": requested,
            "sent_at": requested,
            "answered_at": requested,
            "expires_at": end,
            "held_until": end + timedelta(seconds=36),
            "ended_at": None if live else end,
            "version": 2,
        }


def _fill(url: str, rows: list[dict[str, Any]]) -> None:
    """Load the rows without SQLAlchemy, in the fastest way of each database."""
    names = ", ".join(rows[0])
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            marks = ", ".join("?" for _ in rows[0])
            values = ([_text(value) for value in row.values()] for row in rows)
            connection.executemany(f"INSERT INTO bindings ({names}) VALUES ({marks})", values)
            connection.commit()
        return
    with psycopg.connect(url) as session:
        session.execute("ALTER TABLE bindings SET (autovacuum_enabled = false)")
        with session.cursor().copy(f"COPY bindings ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(tuple(row.values()))


def _text(value: object) -> object:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if isinstance(value, datetime) else value


def _by_sqlalchemy(statement: CompiledStatement, connection: Connection, values: Any) -> Any:
    """Run a compiled statement by SQLAlchemy, whose listeners receive it."""
    return connection.execute(statement._statement, values).all()


@contextmanager
def _recorded(service: BindingService) -> Iterator[list[tuple[str, Any]]]:
    """Record the SQL that either engine sends to the driver."""
    recorded: list[tuple[str, Any]] = []

    def catch(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        recorded.append((statement, parameters))

    engines = service.runtime.database._engine, service.runtime.database._reader
    for engine in engines:
        event.listen(engine, "before_cursor_execute", catch)
    with mock.patch.object(CompiledStatement, "fetch_all", _by_sqlalchemy):
        yield recorded
    for engine in engines:
        event.remove(engine, "before_cursor_execute", catch)


def explained(service: BindingService, call: Callable[[], object], table: str = "bindings") -> set[str]:
    """Return how the statements of a call reach the table: index names, or "scan"."""
    with _recorded(service) as recorded:
        call()
    about = [(sql, values) for sql, values in recorded if table in sql and "set_config" not in sql]
    assert about
    ways: set[str] = set()
    database = service.runtime.database
    with database._engine.connect() as connection:
        for sql, values in about:
            if database.postgres:
                rows = connection.exec_driver_sql("EXPLAIN (FORMAT JSON) " + sql, values).scalar_one()
                plan = rows if isinstance(rows, list) else json.loads(rows)
                ways |= set(_postgres_ways(plan[0]["Plan"], table))
            else:
                steps = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + sql, values).all()
                ways |= {way for row in steps if (way := _sqlite_way(row[3], table)) is not None}
    return ways


def _postgres_ways(plan: dict[str, Any], table: str) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan" and plan.get("Relation Name") == table:
        yield "scan"
    if "Index Name" in plan:
        name = plan["Index Name"].replace(
            "events_start", "events"
        )  # the index of a partition has the partition's name
        yield name + ("" if "Index Cond" in plan else WHOLE)
    for inner in plan.get("Plans", ()):
        yield from _postgres_ways(inner, table)


def _sqlite_way(detail: str, table: str) -> str | None:
    words = detail.split()
    if words[0] == "SCAN" and words[1] == table:
        return words[words.index("INDEX") + 1] + WHOLE if "INDEX" in words else "scan"
    if words[0] == "SEARCH" and words[1] == table and "INDEX" in words:
        return words[words.index("INDEX") + 1]
    return None


DELIVERY_INDEXES = {
    "ix_deliveries_due",
    "ix_deliveries_finished",
    "uq_deliveries_webhook_id_event_position",
    "sqlite_autoindex_deliveries_2",
}
HELD = {"ix_holds_phone_held_until"}
HELD_AT_A_TIME = {"ix_holds_held_until"}
PHONE, NUMBER = (
    {f"ix_bindings_{column}_{party}_held_until_requested_at" for party in "ab"}
    for column in ("phone", "middle_number")
)
REFERENCE = {"ix_bindings_reference"}
WAITING = {"ix_bindings_waiting"}
DOUBTS = ("ix_bindings_unsettled", "ix_bindings_in_doubt", "ix_bindings_unbinding")
KEYS = {"pk_bindings", "sqlite_autoindex_bindings_1"}
NAMES = {
    "uq_bindings_idempotency_key_app_id_actor",
    "ix_bindings_reference",
    "ix_bindings_app_id_bind_id",
    "ix_bindings_app_id_bind_id" + WHOLE,  # the lowest application: one row of it
    "ix_events_request_id",
    "ix_refusals_reference",
    "ix_refusals_request_id",
    "pk_refusals",
    "sqlite_autoindex_refusals_1",
}
OVERVIEW_INDEXES = {
    "ix_bindings_due",
    "ix_bindings_release_owed",
    "ix_bindings_requested_at_id" + WHOLE,
    *KEYS,
} | {name + way for name in DOUBTS for way in ("", WHOLE)}
SECOND_PAGE = position_after(datetime(2026, 1, 1, tzinfo=UTC), str(uuid7()))
HELD_PAIR = request("9100000001", "915500000001")
KEYED = request("9100000001", "915500000001", idempotency_key="order-1")


def _unbind_all(service: BindingService, name: str, value: str) -> object:
    selection: dict[str, Any] = {name: value}
    return service.unbind_all(**selection, reason="r", dry_run=True)


CALLS: dict[str, tuple[set[str], Callable[[BindingService], object]]] = {
    "lookup by phone": (PHONE, lambda service: service.lookup(phone="9100000042")),
    "lookup of a phone without bindings": (PHONE, lambda service: service.lookup(phone="915")),
    "lookup by middle number": (NUMBER, lambda service: service.lookup(middle_number="9188000042")),
    # Without statistics the planner cannot know that a party has fewer bindings than a number.
    "lookup by party": (
        PHONE | NUMBER,
        lambda service: service.lookup(middle_number="9188000042", party="9100000042"),
    ),
    "lookup by reference": (REFERENCE, lambda service: service.lookup(reference="order-42")),
    "lookup of a reference without bindings": (REFERENCE, lambda service: service.lookup(reference="order-x")),
    "open bindings of a phone": (PHONE | WAITING, lambda service: _unbind_all(service, "phone", "9100000042")),
    "open bindings of a middle number": (
        NUMBER,
        lambda service: _unbind_all(service, "middle_number", "9188000042"),
    ),
    "open bindings of a reference": (
        REFERENCE | WAITING,
        lambda service: _unbind_all(service, "reference", "order-42"),
    ),
    "requests to unbind": (
        KEYS,
        lambda service: service.runtime.database.write(
            lambda tx: open_bindings.request_unbinds(tx, [str(uuid7()) for _ in range(100)], CALLER, "r")
        ),
    ),
    "reserve's holder query": (
        PHONE | HELD,
        lambda service: service.runtime.database.read(reserve.holders, HELD_PAIR, TERMS, datetime.now(UTC)),
    ),
    "replay of an idempotency key": (
        {"uq_bindings_idempotency_key_app_id_actor"},
        lambda service: service.runtime.database.read(reserve.replay, KEYED, CALLER.actor),
    ),
    "check": (
        PHONE | HELD,
        lambda service: service.check(phone_a="9100000001", phone_b="915500000007", mode="AXB"),
    ),
    "search by phone": (PHONE, lambda service: service.search(phone="9100000042", limit=50)),
    "search by phone, second page": (
        PHONE,
        lambda service: service.search(phone="9100000042", limit=50, cursor=SECOND_PAGE),
    ),
    "search by middle number": (NUMBER, lambda service: service.search(middle_number="9188000042", limit=50)),
    "trace of now": (
        NUMBER | HELD_AT_A_TIME | KEYS,
        lambda service: service.trace(middle_number="9188000042", at=datetime.now(UTC)),
    ),
    "search by the beginning of a reference": (
        REFERENCE,
        lambda service: service.search(reference_prefix="order-4242"),
    ),
    "trace of the past": (
        NUMBER | HELD_AT_A_TIME | KEYS,
        lambda service: service.trace(middle_number="9188000042", at=datetime.now(UTC) - timedelta(hours=6)),
    ),
    "trace of a time before any binding": (
        NUMBER | HELD_AT_A_TIME | KEYS,
        lambda service: service.trace(middle_number="9188000042", at=datetime.now(UTC) - timedelta(days=90)),
    ),
    "trace of a party": (
        PHONE | NUMBER | HELD | HELD_AT_A_TIME | KEYS,
        lambda service: service.trace(middle_number="9188000042", at=datetime.now(UTC), party="9100000042"),
    ),
    "expire": ({"ix_bindings_due", "ix_bindings_due" + WHOLE} | KEYS, lambda service: service.expire_due()),
    "warnings": (
        {"ix_bindings_warn_at", "ix_bindings_warn_at" + WHOLE} | KEYS,
        lambda service: service.warn_due(),
    ),
    "doubts to look for": (
        {"ix_bindings_in_doubt", "ix_bindings_in_doubt" + WHOLE},
        lambda service: service.runtime.database.read(queries.youngest_doubts, datetime.now(UTC), mode=Mode.AXB),
    ),
    "pending past settle_by": (
        {"ix_bindings_unsettled", "ix_bindings_unsettled" + WHOLE} | KEYS,
        lambda service: service.runtime.database.write(
            lambda tx: expiry.mark_unsettled_in_doubt(tx, CALLER, limit=500)
        ),
    ),
    "in doubt past held_until": (
        {"ix_bindings_in_doubt", "ix_bindings_in_doubt" + WHOLE} | KEYS,
        lambda service: service.runtime.database.write(lambda tx: expiry.lapse(tx, CALLER, limit=500)),
    ),
    "count of releases owed": (
        {"ix_bindings_release_owed"},
        lambda service: service.runtime.database.read(
            queries.count_releases_owed, service.runtime.database.now, limit=10_000
        ),
    ),
    "releases owed": (
        {"ix_bindings_release_owed"},
        lambda service: service.runtime.database.read(
            queries.releases_owed, service.runtime.database.clock(), limit=100
        ),
    ),
    "successors that have waited too long": (
        {"ix_bindings_waiting", "ix_bindings_waiting" + WHOLE},
        lambda service: service.runtime.database.read(
            queries.overdue_successors, service.runtime.database.clock(), limit=100
        ),
    ),
    "open unbinds": (
        {"ix_bindings_unbinding", "ix_bindings_unbinding" + WHOLE},  # the index has only them
        lambda service: service.runtime.database.read(queries.unbinding, limit=100),
    ),
    "holders of a number at a time": (
        PHONE | NUMBER | HELD | HELD_AT_A_TIME | KEYS,
        lambda service: service.investigation.number_at(Phone("9188000042"), at=datetime.now(UTC)),
    ),
    "holders of a number at a time without any": (
        PHONE | NUMBER | HELD | HELD_AT_A_TIME | KEYS,
        lambda service: service.investigation.number_at(
            Phone("9188000042"), at=datetime.now(UTC) - timedelta(days=90)
        ),
    ),
    "what still holds a phone that is to be erased": (
        PHONE | HELD,
        lambda service: service.runtime.database.read(
            erasure.open_holders, Phone("9188000042"), datetime.now(UTC), until=None
        ),
    ),
    "history of a number": (
        PHONE | NUMBER,
        lambda service: service.investigation.number_history(Phone("9188000042")),
    ),
    "history of a number, second page": (
        PHONE | NUMBER,
        lambda service: service.investigation.number_history(Phone("9188000042"), cursor=SECOND_PAGE),
    ),
    "find by name": (NAMES | KEYS, lambda service: service.investigation.find_by_name("29999")),
    "unbinds of a request": (
        {"ix_events_request_id"} | KEYS,
        lambda service: service.investigation.unbinds_of_request(str(uuid7())),
    ),
    "page of open outcomes": (
        {name + way for name in DOUBTS for way in ("", WHOLE)},  # these indexes have only open ones
        lambda service: service.open_doubts(limit=50),
    ),
    "outcomes of the newest binds": (
        {"ix_bindings_requested_at_id" + WHOLE},
        lambda service: service.runtime.database.read(queries.newest_outcomes, limit=200),
    ),
    "sample of response times": (
        {"ix_bindings_requested_at_id"},
        lambda service: service.runtime.database.read(
            response_times.sample,
            since=datetime.now(UTC) - timedelta(days=1),
            before=[datetime.now(UTC) - timedelta(hours=hours) for hours in range(3, 23)],
            limit=200,
            app_id=None,
            pool_number="918806",
        ),
    ),
    "bindings of a page of the provider's list": (
        {"ix_bindings_app_id_bind_id"},
        lambda service: service.runtime.database.read(queries.by_bind_ids, [str(n) for n in range(100)]),
    ),
    "search by idempotency key": (
        {"uq_bindings_idempotency_key_app_id_actor", "ix_bindings_freed_key"},
        lambda service: service.search(idempotency_key="order-42/1"),
    ),
    "search of active bindings": (
        {"ix_bindings_requested_at_id", "ix_bindings_due"},
        lambda service: service.search(active=True, limit=50),
    ),
    "bindings by id": (KEYS, lambda service: service.get_many([str(uuid7()), str(uuid7())])),
    "first page of all": ({"ix_bindings_requested_at_id" + WHOLE}, lambda service: service.search(limit=50)),
}


@pytest.fixture(scope="module")
def filled_file(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an SQLite file with thirty thousand bindings, to copy."""
    file = tmp_path_factory.mktemp("filled") / "filled.db"
    shutil.copy(sqlite_template, file)
    _fill(f"sqlite:///{file}", list(_rows(datetime.now(UTC), range(ROWS))))
    return file


@pytest.fixture(scope="module")
def postgres_filled(postgres_server: Server, postgres_template: str) -> Iterator[str]:
    """Provide the URL of a PostgreSQL database with thirty thousand bindings, to copy."""
    url = postgres_server.create(template=postgres_template)
    try:
        _fill(url, list(_rows(datetime.now(UTC), range(ROWS))))
        yield url
    finally:
        postgres_server.drop(url)


@pytest.fixture
def postgres_filled_url(postgres_server: Server, postgres_filled: str) -> Iterator[str]:
    """Provide a PostgreSQL database with thirty thousand bindings, a fifth of them live, without statistics."""
    url = postgres_server.create(template=postgres_filled)
    try:
        yield url
    finally:
        postgres_server.drop(url)


@pytest.fixture
def filled_url(request: pytest.FixtureRequest, sqlite_folder: Path, database_kind: str) -> str:
    """Return the URL of such a database of either kind."""
    if database_kind == "postgresql":
        return str(request.getfixturevalue("postgres_filled_url"))
    file = sqlite_folder / "filled.db"
    shutil.copy(request.getfixturevalue("filled_file"), file)
    return f"sqlite:///{file}"


def _wrong(service: BindingService) -> dict[str, list[str]]:
    """Return the calls that reach their rows in an unexpected way, or whose way was not detected."""
    ways = {name: explained(service, lambda call=call: call(service)) for name, (_, call) in CALLS.items()}  # type: ignore[misc]
    wrong = {name: sorted(used) for name, used in ways.items() if not used or not used <= CALLS[name][0]}
    # If few are live, PostgreSQL may update by an index of all of them; the due ones it must find by a bound.
    return wrong if "ix_bindings_due" in ways["expire"] else wrong | {"expire": sorted(ways["expire"])}


STATISTICS: dict[str, str | None] = {
    "without": None,
    "with": "ANALYZE",
    # What a planner expects of a table with so many rows, which it multiplies with the size of the file.
    "as of 10 M": "UPDATE pg_class SET reltuples = 10000000 WHERE relname = 'bindings'",
}


def test_hot_statements_use_their_own_indexes_only(filled_url: str) -> None:
    """Also with the server's clock: a volatile function that is compared row by row would prevent every index."""
    config = load({}, database_url=filled_url, provider_app_id="a")
    wrong: dict[tuple[str, str, str], list[str]] = {}
    for statistics, statement in STATISTICS.items():
        if statement is not None and (statistics != "as of 10 M" or filled_url.startswith("postgresql")):
            database = Database(filled_url)
            database.write(lambda tx: tx.connection.execute(text(statement)))  # noqa: B023
            database.close()
        for clock in ("server", "test"):
            fixed = Clock(datetime.now(UTC)) if clock == "test" else None
            service = BindingService(new_runtime(config, Database(filled_url, read_clock=fixed), caller=CALLER))
            try:
                wrong |= {(statistics, clock, name): ways for name, ways in _wrong(service).items()}
            finally:
                service.close()
    assert wrong == {}


@pytest.mark.parametrize("filter_name", ["phone", "middle_number"])
def test_number_that_statistics_overrate_is_not_searched_for_in_the_whole_history(
    filled_url: str, filter_name: str
) -> None:
    """A tenth of the bindings has it, and none of the newest: the planner knows the first and not the second."""
    column, indexes = ("phone_b", PHONE) if filter_name == "phone" else ("middle_number_a", NUMBER)
    oldest = _rows(datetime.now(UTC), range(ROWS, ROWS + ROWS // 10))
    _fill(filled_url, [row | {column: "915512345678"} for row in oldest])
    database = Database(filled_url)
    service = BindingService(
        new_runtime(load({}, database_url=filled_url, provider_app_id="a"), database, caller=CALLER)
    )
    try:
        database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        search_filter: dict[str, Any] = {filter_name: "915512345678"}
        ways = explained(service, lambda: service.search(**search_filter, limit=20))
        assert ways
        assert ways <= indexes
    finally:
        service.close()


FORMS: dict[str, Callable[[BindingService], object]] = {
    "conflict check in the form of every row": lambda service: service.runtime.database.read(
        reserve.holders, HELD_PAIR, TERMS, datetime.now(UTC), 1
    ),
}


@pytest.mark.parametrize("statistics", ["without", "with"])
def test_phone_that_may_have_two_forms_is_found_by_the_same_indexes(filled_url: str, statistics: str) -> None:
    """While phones are being encrypted, half of the rows is found by digits and half by a blind index."""
    database = Database(filled_url, phone_keys=phone_keys())
    service = BindingService(
        new_runtime(load({}, database_url=filled_url, provider_app_id="a"), database, caller=CALLER)
    )
    try:
        if statistics == "with":
            database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        calls = {name: call for name, (indexes, call) in CALLS.items() if indexes & (PHONE | HELD)} | FORMS
        ways = {name: explained(service, lambda call=call: call(service)) for name, call in calls.items()}  # type: ignore[misc]
        usual = {name: CALLS[name][0] if name in CALLS else PHONE | HELD for name in calls}
        assert {name: sorted(used) for name, used in ways.items() if not used or not used <= usual[name]} == {}
    finally:
        service.close()


def _list(
    order: Order = Order.NEWEST, *, later: bool = False, **filters: Any
) -> Callable[[BindingService], object]:
    """Return a call for a page of the list of bindings, the first one or a later one."""
    position = (datetime.now(UTC) + timedelta(minutes=30 if order is Order.ENDS_SOONEST else -150), str(uuid7()))

    def page(service: BindingService) -> object:
        return service.binding_list.page(
            SearchFilters(**filters), order=order, size=50, position=position if later else None
        )

    return page


def _counts(**filters: Any) -> Callable[[BindingService], object]:
    return lambda service: service.binding_list.count_values(SearchFilters(**filters))


REQUESTED = {"ix_bindings_requested_at_id", "ix_bindings_requested_at_id" + WHOLE}
DUE = {"ix_bindings_due", "ix_bindings_due" + WHOLE}
A_DAY: dict[str, Any] = {
    "requested_from": datetime.now(UTC) - timedelta(hours=6),
    "requested_to": datetime.now(UTC) - timedelta(hours=3),
}
LISTS: dict[str, tuple[set[str], Callable[[BindingService], object]]] = {
    "newest": (REQUESTED, _list()),
    "oldest": (REQUESTED, _list(Order.OLDEST)),
    "newest, later page": ({"ix_bindings_requested_at_id"}, _list(later=True)),
    "oldest, later page": ({"ix_bindings_requested_at_id"}, _list(Order.OLDEST, later=True)),
    "state without an index": (REQUESTED, _list(state=State.LAPSED)),
    "in doubt": ({"ix_bindings_in_doubt" + WHOLE}, _list(state=State.IN_DOUBT)),
    "pending": ({"ix_bindings_unsettled" + WHOLE}, _list(state=State.PENDING)),
    "recorded as active": (DUE | REQUESTED, _list(state=State.ACTIVE)),
    "active": (DUE | REQUESTED, _list(active=True)),
    "not active": (REQUESTED, _list(active=False)),
    "pool": (REQUESTED, _list(pool_number="other")),
    "application": (REQUESTED, _list(app_id="other")),
    "actor": (REQUESTED, _list(actor="other")),
    "status": (REQUESTED, _list(provider_status="-41")),
    "reason": (REQUESTED, _list(state_reason="no_number")),
    "all of these": (
        REQUESTED,
        _list(state=State.FAILED, mode=Mode.AXB, pool_number="918806", provider_status="-41", actor="test"),
    ),
    "beginning of few references": (REFERENCE, _list(reference_prefix="order-4242")),
    "beginning of most references": (REFERENCE | REQUESTED, _list(reference_prefix="order-")),
    "reference": (REFERENCE, _list(reference="order-42")),
    "period": ({"ix_bindings_requested_at_id"}, _list(**A_DAY)),
    "period and pool": ({"ix_bindings_requested_at_id"}, _list(**A_DAY, pool_number="other")),
    "ends soonest": (DUE, _list(Order.ENDS_SOONEST, active=True)),
    "ends soonest, later page": (DUE, _list(Order.ENDS_SOONEST, later=True, active=True)),
    "ends soonest of a pool": (DUE, _list(Order.ENDS_SOONEST, active=True, pool_number="other")),
    "counts": (REQUESTED, _counts()),
    "counts of a period": ({"ix_bindings_requested_at_id"}, _counts(**A_DAY)),
    "counts of few references": (REFERENCE, _counts(reference_prefix="order-4242")),
    "counts of what is active": (DUE | REQUESTED, _counts(active=True)),
}


def test_list_of_bindings_is_read_by_indexes_only(filled_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads a sixtieth of the table at most, as 10 000 of 600 000 bindings.

    With statistics: without, PostgreSQL may read a small table from end to end.
    """
    monkeypatch.setattr(binding_list, "ROWS_READ", ROWS // 60)
    config = load({}, database_url=filled_url, provider_app_id="a")
    service = BindingService(new_runtime(config, Database(filled_url), caller=CALLER))
    try:
        service.runtime.database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        ways = {name: explained(service, lambda call=call: call(service)) for name, (_, call) in LISTS.items()}  # type: ignore[misc]
        wrong = {name: sorted(used) for name, used in ways.items() if not used or not used <= LISTS[name][0]}
        assert wrong == {}
    finally:
        service.close()


@pytest.mark.postgres
@pytest.mark.parametrize("statistics", ["without", "with"])
def test_generic_plans_use_the_same_indexes(postgres_filled_url: str, statistics: str) -> None:
    """A prepared statement may be planned without its values."""
    config = load({}, database_url=postgres_filled_url, provider_app_id="a")
    service = BindingService(new_runtime(config, Database(postgres_filled_url), caller=CALLER))
    with psycopg.connect(postgres_filled_url, autocommit=True, prepare_threshold=0) as session:
        if statistics == "with":
            session.execute("ANALYZE")
        session.execute("SET plan_cache_mode = force_generic_plan")
        ways = {
            name: {way for sent in _compiled(service, call) for way in _ways_of_generic_plan(session, *sent)}
            for name, (_, call) in CALLS.items()
        }
    detected = {name: used for name, used in ways.items() if used}
    assert {name: sorted(used) for name, used in detected.items() if not used <= CALLS[name][0]} == {}
    hot = {"lookup by phone", "lookup by middle number", "lookup by party", "lookup by reference"}
    assert hot | {"reserve's holder query"} <= set(detected)
    service.close()


def _compiled(service: BindingService, call: Callable[[BindingService], object]) -> list[tuple[str, Any]]:
    """Return the compiled statements of a call, and their values as the driver received them."""
    recorded: list[tuple[str, Any]] = []
    run = CompiledStatement.fetch_all

    def record(statement: CompiledStatement, connection: Connection, values: Any) -> list[Any]:
        rows = run(statement, connection, values)
        compiled = statement._compiled[connection.dialect.name, None]
        recorded.append((compiled.sql, compiled.parameters(values)))
        return rows

    with mock.patch.object(CompiledStatement, "fetch_all", record):
        call(service)
    return recorded


def _ways_of_generic_plan(session: psycopg.Connection[Any], sql: str, values: Any) -> set[str]:
    """Return how the server's generic plan reaches the bindings."""
    session.execute("DEALLOCATE ALL", prepare=False)  # some calls run the same statement
    session.execute(sql, values)
    order = dict.fromkeys(re.findall(r"%\((\w+)\)s", sql))  # each name is one parameter, also if it is used twice
    arguments = ", ".join(Literal(values[name]).as_string(session) for name in order)
    in_brackets = f"({arguments})" if arguments else ""
    ((name,),) = session.execute("SELECT name FROM pg_prepared_statements", prepare=False).fetchall()
    explain = f"EXPLAIN (FORMAT JSON) EXECUTE {name}{in_brackets}".encode()
    ((plan,),) = session.execute(explain, prepare=False).fetchall()
    return set(_postgres_ways(plan[0]["Plan"], "bindings"))


@pytest.mark.postgres
def test_feed_scans_two_partitions_and_history_each_partition_by_index(
    postgres_server: Server, postgres_template: str
) -> None:
    """With 24 months of events; a delivery finds its event in one partition."""
    url = postgres_server.create(template=postgres_template)
    service = BindingService(new_runtime(load({}, database_url=url), Database(url), caller=CALLER))
    database = service.runtime.database
    binding = reserved(database, HELD_PAIR)
    for number in range(1, MONTHS):
        database.write(lambda tx: partitions.create(tx, number, datetime(2030, 1, 1, tzinfo=UTC)))  # noqa: B023
        assert database.write(lambda tx: partitions.switch_to(tx, number))  # noqa: B023
        database.write(lambda tx: events.append(tx, binding.id, EventKind.REVEALED, CALLER, {}))
    place = (MONTHS - 1) * events.PARTITION_SPAN + 1

    def scans(call: Callable[[], object]) -> list[str]:
        with _recorded(service) as recorded:
            call()
        *_, (sql, values) = [sent for sent in recorded if "events" in sent[0]]
        with database._engine.connect() as connection:
            for way in ("seqscan", "bitmapscan", "sort"):  # cheaper only because each partition has one row
                connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
            plan = connection.exec_driver_sql("EXPLAIN (ANALYZE, FORMAT JSON) " + sql, values).scalar_one()
        return list(_run_scans((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]))

    feed = scans(lambda: service.events(after=f"1-{place}"))
    assert len(feed) == 2
    assert all("tx_position" in name for name in feed)
    history = scans(lambda: service.history(binding.id))
    assert len(history) == MONTHS
    assert all("binding_id_sequence" in name for name in history)
    assert [event.sequence for event in service.history(binding.id)] == list(range(1, MONTHS + 1))
    event_of = select(events_table.c.kind).where(events_table.c.position == place)
    assert len(scans(lambda: database.read(lambda connection: connection.execute(event_of).all()))) == 1
    service.close()
    postgres_server.drop(url)


def _run_scans(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the scans of partitions that were executed."""
    if plan.get("Relation Name", "").startswith("events") and plan["Actual Loops"]:
        yield plan.get("Index Name", "scan")
    for inner in plan.get("Plans", ()):
        yield from _run_scans(inner)


def test_holds_of_a_number_are_read_by_index(filled_url: str) -> None:
    """Those of a phone by its index; those of a middle number from the holds in force, by a probe for each."""
    now = datetime.now(UTC)
    config = load({}, database_url=filled_url, provider_app_id="a")
    service = BindingService(new_runtime(config, Database(filled_url), caller=CALLER))
    database = service.runtime.database
    origins = [binding.id for binding in service.search(limit=200).data]
    rows = [
        {
            "id": str(uuid7()),
            "scope": "default",
            "phone": Phone(f"91{number:08}"),
            "why": "orphan",
            "app_id": "4luaKsL2",
            "bind_id": str(number),
            "origin_id": origins[number % len(origins)],
            "held_until": now + timedelta(seconds=number - 9_000),
            "strikes": 0,
            "created_at": now - timedelta(days=1),
        }
        for number in range(10_000)
    ]
    database.write(lambda tx: tx.connection.execute(insert(holds_table), rows))
    for statistics in ("without", "with"):
        if statistics == "with":
            database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        for index, numbers in ((HELD, {"phone": "9100000042"}), (HELD_AT_A_TIME, {"middle_number": "9188000042"})):
            ways = {
                way
                for table in ("holds", "bindings")
                for way in explained(service, lambda: service.holds(**numbers), table)  # noqa: B023
            }
            assert index <= ways <= index | KEYS, statistics
        cursor = service.investigation.holds_in_force(limit=50).next_cursor
        next_page = partial(service.investigation.holds_in_force, cursor=cursor)
        ways = explained(service, next_page, "FROM holds")
        assert ways <= HELD_AT_A_TIME | KEYS, statistics
    service.close()


def test_health_of_webhooks_reads_a_bounded_part_of_the_deliveries(own_database_url: str) -> None:
    now = datetime.now(UTC)
    config = load({}, database_url=own_database_url, provider_app_id="a")
    service = BindingService(new_runtime(config, Database(own_database_url), caller=CALLER))
    database = service.runtime.database
    webhooks = [service.webhooks.add(url="https://receiver.example").webhook.id for _ in range(2)]
    states = ["delivered", "dead", "pending", "delivered"]
    rows = [
        {
            "id": str(uuid7()),
            "webhook_id": webhooks[0],
            "event_position": number,
            "state": states[number % 4],
            "attempts": 1,
            "created_at": now - timedelta(seconds=40_000 - number),
            "next_at": now,
            "finished_at": None if number % 4 == 2 else now,
        }
        for number in range(40_000)
    ]
    database.write(lambda tx: tx.connection.execute(insert(deliveries_table), rows))
    for statistics in ("without", "with"):
        if statistics == "with":
            database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        ways = explained(service, service.webhooks.health, "deliveries")
        assert ways <= DELIVERY_INDEXES, statistics
    health, other = service.webhooks.health()
    assert (health.pending, health.dead, health.recent, health.recent_delivered) == (1_000, 10_000, 100, 50)
    assert (other.pending, other.dead, other.recent, other.last_error) == (0, 0, 0, None)
    service.close()


EVENT_READS: dict[str, Callable[[BindingService], object]] = {
    "feed": lambda service: service.events(limit=100),
    "feed of an actor": lambda service: service.events_for_actor("test", limit=100),
    "history": lambda service: service.history(service.search(limit=1).data[0].id),
    "export": lambda service: list(service.export_events()),
    "export by column": lambda service: list(service.event_list.export(since=None, until=None)),
    "deliveries": lambda service: service.webhooks.deliveries(service.webhooks.list()[0].id),
}


OVERVIEW_STATEMENTS = {"postgresql": 17, "sqlite": 22}


@pytest.mark.parametrize("statistics", ["without", "with"])
def test_overview_is_few_statements_that_read_by_index(filled_url: str, statistics: str) -> None:
    config = load({}, database_url=filled_url, provider_app_id="a")
    service = BindingService(new_runtime(config, Database(filled_url), caller=CALLER))
    database = service.runtime.database
    try:
        event_row = {"sequence": 0, "kind": "held", "at": datetime.now(UTC), "actor": "test", "detail": {}}
        database.write(lambda tx: tx.connection.execute(insert(events_table), [event_row] * 20_000))
        service.webhooks.add(url="https://example.com/hook")
        service.update_statistics()
        if statistics == "with":
            database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        overview.read(service)  # the first one records the scope
        with _recorded(service) as statements:
            overview.read(service)
        assert len(statements) <= OVERVIEW_STATEMENTS[database._engine.dialect.name]
        for table in ("bindings", "events"):
            ways = explained(service, partial(overview.read, service), table)
            assert "scan" not in ways, table
            assert {way for way in ways if "bindings" in way} <= OVERVIEW_INDEXES, table
    finally:
        service.close()


@pytest.mark.parametrize("statistics", ["without", "with"])
def test_reference_of_each_event_is_read_by_the_primary_key(filled_url: str, statistics: str) -> None:
    config = load({}, database_url=filled_url, provider_app_id="a")
    service = BindingService(new_runtime(config, Database(filled_url), caller=CALLER))
    database = service.runtime.database
    try:
        ids = [binding.id for binding in service.export_bindings()][:2_000]
        event_row = {"sequence": 1, "kind": "requested", "at": datetime.now(UTC), "actor": "test", "detail": {}}
        rows = [event_row | {"binding_id": binding_id} for binding_id in ids]
        database.write(lambda tx: tx.connection.execute(insert(events_table), rows))
        service.webhooks.add(url="https://example.com/hook")
        if statistics == "with":
            database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        for name, call in EVENT_READS.items():
            ways = {
                way for way in explained(service, partial(call, service)) if "bindings" in way or way == "scan"
            }
            ways -= {"ix_bindings_requested_at_id" + WHOLE}  # the search for a binding with a history
            assert ways, name
            assert ways <= KEYS, (name, ways)
    finally:
        service.close()


def test_event_counts_and_uncounted_events_are_read_by_index(own_database_url: str) -> None:
    """A page reads one time range of the counts, and the job the events after its cursor only."""
    config = load({}, database_url=own_database_url, provider_app_id="a")
    service = BindingService(new_runtime(config, Database(own_database_url), caller=CALLER))
    database = service.runtime.database
    hour = datetime(2026, 3, 1, tzinfo=UTC)
    rows: list[dict[str, Any]] = [
        {
            "period_s": period_s,
            "began_at": hour - timedelta(seconds=period_s * number),
            "kind": "failed",
            "code": f"-{code}",
            "number": 1,
        }
        for period_s in (60, 3_600, 86_400)
        for number in range(1_500)
        for code in range(3)
    ]
    last_hour, of_app = TimeRange.HOUR.chart_range(hour), BindFilter(app_id="a")
    reads: dict[str, tuple[str, Callable[[], object]]] = {
        "chart": ("tallies", lambda: event_statistics(database, last_hour, tuple(EventKind))),
        "chart of an application": (
            "bind_counts",
            lambda: event_statistics(database, last_hour, tuple(EventKind), bind_filter=of_app),
        ),
        "shares": ("bind_counts", lambda: database.read(event_counts.count_binds, last_hour.period)),
        "first count": ("bind_counts", lambda: database.read(event_counts.binds_counted_since)),
        "examples": (
            "tallies",
            lambda: database.read(
                event_counts.newest_examples, last_hour.period, kind=EventKind.FAILED, code="-1", limit=20
            ),
        ),
    }
    indexes = {
        "tallies": {"pk_tallies", "sqlite_autoindex_tallies_1"},
        "bind_counts": {"pk_bind_counts", "sqlite_autoindex_bind_counts_1"},
    }
    try:
        with_examples = [row | {"examples": []} for row in rows]
        with_pools = [row | {"app_id": "a", "pool_number": "918806"} for row in rows]
        database.write(lambda tx: tx.connection.execute(insert(tallies), with_examples))
        database.write(lambda tx: tx.connection.execute(insert(bind_counts), with_pools))
        event_row = {"sequence": 0, "kind": "held", "at": hour, "actor": "test", "detail": {}}
        database.write(lambda tx: tx.connection.execute(insert(events_table), [event_row] * 20_000))
        database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        service.update_statistics()
        for name, (table, read) in reads.items():
            ways = explained(service, read, table)
            assert ways, name
            assert ways <= indexes[table], (name, ways)
        ways = explained(service, service.update_statistics, "events")
        in_events = {way for way in ways if "events" in way}
        assert all("tx_position" in way for way in in_events), ways  # on SQLite it is the primary key
        of_bind = {"ix_refusals_at_id", *KEYS}
        assert ways - in_events <= of_bind, ways
    finally:
        service.close()


def test_access_log_and_reports_are_read_by_index_newest_first(own_database_url: str) -> None:
    """Each page reads an index as far as the page goes, the first page and later ones."""
    service = BindingService(
        new_runtime(load({}, database_url=own_database_url), Database(own_database_url), caller=CALLER)
    )
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    at = [noon - timedelta(minutes=number) for number in range(3_000)]
    search_row = {"sequence": 0, "kind": "phone_searched", "actor": "test", "binding_id": None}
    searched = {"detail": {"question": "lookup", "match": False}}
    reveal_row = {"sequence": 1, "kind": "revealed", "actor": "test", "detail": {"reason": "complaint"}}
    export_row = {"actor": "test", "view": "events", "filter": {}, "format": "csv"}
    report_row = {"finished_at": noon, "actor": "test", "counts": {}, "cases": []}
    fills: list[tuple[Any, list[dict[str, Any]]]] = [
        (events_table, [reveal_row | {"at": instant, "binding_id": str(uuid7())} for instant in at]),
        (events_table, [search_row | searched | {"at": instant} for instant in at]),
        (
            events_table,
            [
                reveal_row | {"kind": "held", "sequence": 0, "at": instant, "binding_id": None}
                for instant in at * 5
            ],
        ),
        (
            events_table,
            [
                reveal_row | {"kind": "administered", "sequence": 0, "at": instant, "binding_id": None}
                for instant in at
            ],
        ),
        (exports, [export_row | {"id": str(uuid7()), "began_at": instant} for instant in at]),
        (reports, [report_row | {"id": str(uuid7()), "began_at": instant} for instant in at]),
    ]
    try:
        for table, rows in fills:
            service.runtime.database.write(lambda tx: tx.connection.execute(insert(table), rows))  # noqa: B023
        service.runtime.database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        narrowed = partial(service.access_log.entries, actor="none", reason_prefix="none")
        ways = explained(service, partial(service.access_log.count_values, reason_prefix="none"), "events")
        assert {way.removesuffix(WHOLE) for way in ways} == {"ix_events_access", "ix_events_phone_searched"}, ways
        for table_name, indexes, list_page in (
            ("events", ("ix_events_access", "ix_events_phone_searched"), service.access_log.entries),
            ("exports", ("ix_exports_began_at_id",), service.access_log.entries),
            ("events", ("ix_events_access", "ix_events_phone_searched"), narrowed),
            ("exports", ("ix_exports_began_at_id",), narrowed),
            ("reports", ("ix_reports_began_at_id",), service.reports),
        ):
            cursor = list_page(limit=50).next_cursor
            ways = explained(service, lambda: list_page(limit=50), table_name)  # noqa: B023
            ways |= explained(service, lambda: list_page(cursor=cursor, limit=50), table_name)  # noqa: B023
            assert {way.removesuffix(WHOLE) for way in ways} == set(indexes), (table_name, ways)
        bindings = [replace(BINDING, id=str(uuid7()), requested_at=at[-1]) for _ in range(2)]
        ways = explained(service, lambda: service.investigation.reveals_of(bindings), "events")
        # The last is the index of a binding and a sequence.
        expected = ("binding_id", "access", "sqlite_autoindex_events_1")
        assert all(any(name in way for name in expected) for way in ways), ways
    finally:
        service.close()


@pytest.mark.postgres
def test_heartbeats_of_jobs_are_heap_only_updates(postgres_server: Server, postgres_template: str) -> None:
    """Such updates leave nothing in an index for a vacuum to remove."""
    counted = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'passes'"

    def touch_often(tx: Transaction) -> tuple[Any, ...]:
        for _ in range(5):
            job_runs.record_heartbeat(tx, "expire", "replica")
        return tuple(tx.connection.execute(text(counted)).one())

    url = postgres_server.create(template=postgres_template)
    database = Database(url)
    assert database.write(touch_often) == (4, 4)
    database.close()
    postgres_server.drop(url)


@pytest.mark.postgres
@pytest.mark.parametrize("statistics", ["without", "with"])
@pytest.mark.parametrize("run_batch", [expiry.expire, expiry.warn])
def test_batch_of_a_job_reads_its_own_rows_and_not_all_that_is_due(
    postgres_filled_url: str, run_batch: Callable[..., object], statistics: str
) -> None:
    """After an outage everything is due. A batch that reads all of it takes longer, the more there is."""
    overdue = "expires_at = expires_at - interval '2 hours'" if run_batch is expiry.expire else "warn_at = now()"
    size = 100
    fetched = text("SELECT pg_stat_get_xact_tuples_fetched(CAST('bindings' AS regclass))")

    def rows_read(tx: Transaction) -> int:
        before = tx.connection.execute(fetched).scalar_one()
        tx.limit_batch(STATEMENT_TIMEOUT_S)
        run_batch(tx, CALLER, limit=size)
        return int(tx.connection.execute(fetched).scalar_one() - before)

    database = Database(postgres_filled_url)
    try:
        database.write(
            lambda tx: tx.connection.execute(text(f"UPDATE bindings SET {overdue} WHERE state = 'active'"))
        )
        if statistics == "with":
            database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        assert database.write(rows_read) < 5 * size  # of which some rows are read twice
    finally:
        database.close()
