"""Hot statements reach their rows by the right index, with statistics and without, and never by a scan.

Each call is made for real and its SQL caught on the way to the driver; the database then explains that very
statement with those very parameters.
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import psycopg
import pytest
from psycopg.sql import Literal
from sqlalchemy import event, insert, select, text
from uuid_utils.compat import uuid7

from bindings.domain.binding import Caller, EventKind
from bindings.domain.phone import Phone
from bindings.lifecycle.runtime import new_runtime
from bindings.monitoring.statistics import TimeRange, event_statistics
from bindings.service import BindingService
from bindings.settings import load
from bindings.store import events, expiry, job_runs, partitions, queries, reserve
from bindings.store.compiled import CompiledStatement
from bindings.store.database import Database
from bindings.store.schema import events as events_table
from bindings.store.schema import exports, reports, tallies
from bindings.validation.fields import position_after
from tests.service.harness import Clock
from tests.store.test_reserve import TERMS, request, reserved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from bindings.store.database import Transaction
    from tests.store.databases import Server

ROWS = 30_000
LIVE = 6_000
CALLER = Caller(actor="test")
WHOLE = ", from end to end"
MONTHS = 24


def _rows(now: datetime) -> Iterator[dict[str, Any]]:
    for number in range(ROWS):
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


def _fill(url: str, now: datetime) -> None:
    """Load the rows past SQLAlchemy, in the way that each database loads fastest."""
    rows = list(_rows(now))
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


def _seen(hot: CompiledStatement, connection: Connection, values: Any) -> Any:
    """Runs a hot statement where a listener sees it."""
    return connection.execute(hot._statement, values).all()


@contextmanager
def _caught(service: BindingService) -> Iterator[list[tuple[str, Any]]]:
    """The SQL that leaves for the driver, on either engine."""
    caught: list[tuple[str, Any]] = []

    def catch(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        caught.append((statement, parameters))

    engines = service.runtime.database._engine, service.runtime.database._reader
    for engine in engines:
        event.listen(engine, "before_cursor_execute", catch)
    with mock.patch.object(CompiledStatement, "fetch_all", _seen):
        yield caught
    for engine in engines:
        event.remove(engine, "before_cursor_execute", catch)


def explained(service: BindingService, call: Callable[[], object], table: str = "bindings") -> set[str]:
    """The ways in which the call's statements reach the table: index names, or "scan"."""
    with _caught(service) as caught:
        call()
    about = [(sql, values) for sql, values in caught if table in sql and "set_config" not in sql]
    assert about
    ways: set[str] = set()
    database = service.runtime.database
    for sql, values in about:
        with database._engine.connect() as connection:
            if database.postgres:
                rows = connection.exec_driver_sql("EXPLAIN (FORMAT JSON) " + sql, values).scalar_one()
                plan = rows if isinstance(rows, list) else json.loads(rows)
                ways |= set(_postgres_ways(plan[0]["Plan"], table))
            else:
                found = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + sql, values).all()
                ways |= {way for row in found if (way := _sqlite_way(row[3], table)) is not None}
    return ways


def _postgres_ways(plan: dict[str, Any], table: str) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan" and plan.get("Relation Name") == table:
        yield "scan"
    if "Index Name" in plan:
        name = plan["Index Name"].replace("events_start", "events")  # the partition's share of the whole's
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


HELD = {"ix_holds_phone_held_until"}
PHONE = {"ix_bindings_phone_a_held_until", "ix_bindings_phone_b_held_until"}
NUMBER = {"ix_bindings_middle_number_a_held_until", "ix_bindings_middle_number_b_held_until"}
DOUBTS = ("ix_bindings_unsettled", "ix_bindings_in_doubt", "ix_bindings_unbinding")
KEYS = {"pk_bindings", "sqlite_autoindex_bindings_1"}
NAMES = {
    "ix_bindings_reference",
    "uq_bindings_app_id_bind_id",
    "uq_bindings_app_id_bind_id" + WHOLE,  # the lowest application: one row of it
    "ix_events_request_id",
}
FURTHER = position_after(datetime(2026, 1, 1, tzinfo=UTC), str(uuid7()))
TAKEN = request("9100000001", "915500000001")

CALLS: dict[str, tuple[set[str], Callable[[BindingService], object]]] = {
    "lookup by phone": (PHONE, lambda service: service.lookup(phone="9100000042")),
    "lookup of a phone that has nothing": (PHONE, lambda service: service.lookup(phone="915")),
    "lookup by middle number": (NUMBER, lambda service: service.lookup(middle_number="9188000042")),
    # Without statistics the planner cannot know that a party has fewer bindings than a number has.
    "lookup by party": (
        PHONE | NUMBER,
        lambda service: service.lookup(middle_number="9188000042", party="9100000042"),
    ),
    "reserve's holder query": (
        PHONE | HELD,
        lambda service: service.runtime.database.read(reserve.holders, TAKEN, TERMS, datetime.now(UTC)),
    ),
    "check": (
        PHONE | HELD,
        lambda service: service.check(phone_a="9100000001", phone_b="915500000007", mode="AXB"),
    ),
    "search by middle number": (NUMBER, lambda service: service.search(middle_number="9188000042", limit=50)),
    "trace of now": (NUMBER, lambda service: service.trace(middle_number="9188000042", at=datetime.now(UTC))),
    "trace of the past": (
        NUMBER,
        lambda service: service.trace(middle_number="9188000042", at=datetime.now(UTC) - timedelta(hours=6)),
    ),
    "trace of a party": (
        PHONE | NUMBER,
        lambda service: service.trace(middle_number="9188000042", at=datetime.now(UTC), party="9100000042"),
    ),
    "sweep": ({"ix_bindings_due", "ix_bindings_due" + WHOLE} | KEYS, lambda service: service.expire_due()),
    "warnings": (
        {"ix_bindings_warn_at", "ix_bindings_warn_at" + WHOLE} | KEYS,
        lambda service: service.warn_due(),
    ),
    "doubts that opened": (
        {"ix_bindings_unsettled", "ix_bindings_unsettled" + WHOLE} | KEYS,
        lambda service: service.runtime.database.write(
            lambda tx: expiry.mark_unsettled_in_doubt(tx, CALLER, limit=500)
        ),
    ),
    "doubts that lapsed": (
        {"ix_bindings_in_doubt", "ix_bindings_in_doubt" + WHOLE} | KEYS,
        lambda service: service.runtime.database.write(lambda tx: expiry.lapse(tx, CALLER, limit=500)),
    ),
    "open unbinds": (
        {"ix_bindings_unbinding", "ix_bindings_unbinding" + WHOLE},  # it holds nothing but them
        lambda service: service.runtime.database.read(queries.unbinding, limit=100),
    ),
    "who was behind a phone or a middle number": (
        PHONE | NUMBER,
        lambda service: service.investigation.number_at(Phone("9188000042"), at=datetime.now(UTC)),
    ),
    "who was last, where there is none": (
        PHONE | NUMBER,
        lambda service: service.investigation.number_at(
            Phone("9188000042"), at=datetime.now(UTC) + timedelta(days=9)
        ),
    ),
    "the history of a number": (
        PHONE | NUMBER,
        lambda service: service.investigation.number_history(Phone("9188000042")),
    ),
    "the history of a number, further back": (
        PHONE | NUMBER,
        lambda service: service.investigation.number_history(Phone("9188000042"), cursor=FURTHER),
    ),
    "what has a name": (NAMES | KEYS, lambda service: service.investigation.find_by_name("29999")),
    "a page of doubts": (
        {name + way for name in DOUBTS for way in ("", WHOLE)},  # these hold nothing but what is open
        lambda service: service.open_doubts(limit=50),
    ),
    "the newest calls": (
        {"ix_bindings_requested_at_id" + WHOLE},
        lambda service: service.runtime.database.read(queries.newest_calls, limit=200),
    ),
    "some by their ids": (KEYS, lambda service: service.get_many([str(uuid7()), str(uuid7())])),
    "the first page of all": ({"ix_bindings_requested_at_id" + WHOLE}, lambda service: service.search(limit=50)),
}


@pytest.fixture
def filled_url(own_database_url: str) -> str:
    """Thirty thousand bindings, a fifth of them live, and no statistics."""
    _fill(own_database_url, datetime.now(UTC))
    return own_database_url


def _wrong(service: BindingService) -> dict[str, list[str]]:
    """The calls that reach their rows in no way, or in one that they should not."""
    ways = {name: explained(service, lambda call=call: call(service)) for name, (_, call) in CALLS.items()}  # type: ignore[misc]
    wrong = {name: sorted(found) for name, found in ways.items() if not found or not found <= CALLS[name][0]}
    # Where few are live, PostgreSQL may update by way of them all; what is due it must find by a bound.
    return wrong if "ix_bindings_due" in ways["sweep"] else wrong | {"sweep": sorted(ways["sweep"])}


def test_hot_statements_start_from_their_own_index_and_from_nothing_else(filled_url: str) -> None:
    """Also on the server's own clock: compared row by row, a volatile function would keep every index out."""
    config = load({}, database_url=filled_url, provider_app_id="a")
    wrong: dict[tuple[str, str, str], list[str]] = {}
    for statistics in ("without", "with"):
        if statistics == "with":
            database = Database(filled_url)
            database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
            database.close()
        for clock in ("own", "given"):
            fixed = Clock(datetime.now(UTC)) if clock == "given" else None
            service = BindingService(new_runtime(config, Database(filled_url, read_clock=fixed), caller=CALLER))
            try:
                wrong |= {(statistics, clock, name): ways for name, ways in _wrong(service).items()}
            finally:
                service.close()
    assert wrong == {}


@pytest.mark.postgres
@pytest.mark.parametrize("statistics", ["without", "with"])
def test_a_plan_that_was_made_once_for_every_value_is_no_worse(
    postgres_server: Server, postgres_template: str, statistics: str
) -> None:
    """A prepared statement may be planned before its values are known."""
    url = postgres_server.create(template=postgres_template)
    _fill(url, datetime.now(UTC))
    service = BindingService(
        new_runtime(load({}, database_url=url, provider_app_id="a"), Database(url), caller=CALLER)
    )
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as session:
        if statistics == "with":
            session.execute("ANALYZE")
        session.execute("SET plan_cache_mode = force_generic_plan")
        ways = {
            name: {way for one in _hot(service, call) for way in _planned_once(session, *one)}
            for name, (_, call) in CALLS.items()
        }
    asked = {name: found for name, found in ways.items() if found}
    assert {name: sorted(found) for name, found in asked.items() if not found <= CALLS[name][0]} == {}
    assert {"lookup by phone", "lookup by middle number", "lookup by party", "reserve's holder query"} <= set(
        asked
    )
    service.close()
    postgres_server.drop(url)


def _hot(service: BindingService, call: Callable[[BindingService], object]) -> list[tuple[str, Any]]:
    """The hot statements of a call, and the values that the driver was given."""
    caught: list[tuple[str, Any]] = []
    run = CompiledStatement.fetch_all

    def catch(hot: CompiledStatement, connection: Connection, values: Any) -> list[Any]:
        found = run(hot, connection, values)
        compiled = hot._compiled[connection.dialect.name]
        caught.append((compiled.sql, compiled.parameters(values)))
        return found

    with mock.patch.object(CompiledStatement, "fetch_all", catch):
        call(service)
    return caught


def _planned_once(session: psycopg.Connection[Any], sql: str, values: Any) -> set[str]:
    """The ways to the bindings that the server's plan for any values takes."""
    session.execute(sql, values)
    order = dict.fromkeys(re.findall(r"%\((\w+)\)s", sql))  # each name is one parameter, however often it stands
    given = ", ".join(Literal(values[name]).as_string(session) for name in order)
    names = "SELECT name FROM pg_prepared_statements ORDER BY prepare_time DESC LIMIT 1"
    (name,) = session.execute(names, prepare=False).fetchone() or ("",)
    explain = f"EXPLAIN (FORMAT JSON) EXECUTE {name}({given})".encode()
    ((plan,),) = session.execute(explain, prepare=False).fetchall()
    return set(_postgres_ways(plan[0]["Plan"], "bindings"))


@pytest.mark.postgres
def test_the_feed_reads_two_months_and_a_history_each_by_its_index(
    postgres_server: Server, postgres_template: str
) -> None:
    """Over 24 months of events; a delivery finds its event in one."""
    url = postgres_server.create(template=postgres_template)
    service = BindingService(new_runtime(load({}, database_url=url), Database(url), caller=CALLER))
    database = service.runtime.database
    binding = reserved(database, TAKEN)
    for number in range(1, MONTHS):
        database.write(lambda tx: partitions.create(tx, number, datetime(2030, 1, 1, tzinfo=UTC)))  # noqa: B023
        assert database.write(lambda tx: partitions.switch_to(tx, number))  # noqa: B023
        database.write(lambda tx: events.append(tx, binding.id, EventKind.REVEALED, CALLER, {}))
    place = (MONTHS - 1) * events.PARTITION_SPAN + 1

    def scans(call: Callable[[], object]) -> list[str]:
        with _caught(service) as caught:
            call()
        *_, (sql, values) = [one for one in caught if "events" in one[0]]
        with database._engine.connect() as connection:
            for way in ("seqscan", "bitmapscan", "sort"):  # cheaper only because they hold a row each
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
    """The scans of partitions that were run."""
    if plan.get("Relation Name", "").startswith("events") and plan["Actual Loops"]:
        yield plan.get("Index Name", "scan")
    for inner in plan.get("Plans", ()):
        yield from _run_scans(inner)


def test_what_is_counted_is_read_by_the_index_of_its_time(own_database_url: str) -> None:
    """A page reads one span of the tallies, and a pass the events after its cursor, however many there are."""
    config = load({}, database_url=own_database_url, provider_app_id="a")
    service = BindingService(new_runtime(config, Database(own_database_url), caller=CALLER))
    hour = datetime(2026, 3, 1, tzinfo=UTC)
    rows: list[dict[str, Any]] = [
        {
            "period_s": period_s,
            "began_at": hour - timedelta(seconds=period_s * number),
            "kind": "failed",
            "code": f"-{code}",
            "number": 1,
            "examples": [],
        }
        for period_s in (60, 3_600)
        for number in range(1_500)
        for code in range(3)
    ]
    try:
        service.runtime.database.write(lambda tx: tx.connection.execute(insert(tallies), rows))
        told = {"sequence": 0, "kind": "held", "at": hour, "actor": "test", "detail": {}}
        service.runtime.database.write(lambda tx: tx.connection.execute(insert(events_table), [told] * 20_000))
        service.runtime.database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        service.update_statistics()
        ways = explained(
            service,
            lambda: event_statistics(service.runtime.database, TimeRange.HOUR, tuple(EventKind)),
            "tallies",
        )
        assert ways <= {"pk_tallies", "sqlite_autoindex_tallies_1"}, ways
        ways = explained(service, service.tally, "events")
        assert all("tx_position" in way for way in ways), ways  # on SQLite it is the primary key
    finally:
        service.close()


def test_the_access_log_and_the_reports_are_read_from_their_newest(own_database_url: str) -> None:
    """A page of each walks an index as far as the page goes, the first one and any further."""
    service = BindingService(
        new_runtime(load({}, database_url=own_database_url), Database(own_database_url), caller=CALLER)
    )
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    at = [noon - timedelta(minutes=number) for number in range(3_000)]
    looked = {"sequence": 1, "kind": "revealed", "actor": "test", "detail": {"reason": "complaint"}}
    taken = {"actor": "test", "view": "events", "filter": {}, "format": "csv"}
    found = {"finished_at": noon, "actor": "test", "counts": {}, "cases": []}
    fills: list[tuple[Any, list[dict[str, Any]]]] = [
        (events_table, [looked | {"at": each, "binding_id": str(uuid7())} for each in at]),
        (
            events_table,
            [looked | {"kind": "held", "sequence": 0, "at": each, "binding_id": None} for each in at * 5],
        ),
        (exports, [taken | {"id": str(uuid7()), "began_at": each} for each in at]),
        (reports, [found | {"id": str(uuid7()), "began_at": each} for each in at]),
    ]
    try:
        for table, rows in fills:
            service.runtime.database.write(lambda tx: tx.connection.execute(insert(table), rows))  # noqa: B023
        service.runtime.database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
        for table_name, index, ask in (
            ("events", "ix_events_revealed", service.access_log.entries),
            ("exports", "ix_exports_began_at_id", service.access_log.entries),
            ("reports", "ix_reports_began_at_id", service.reports),
        ):
            cursor = ask(limit=50).next_cursor
            ways = explained(service, lambda: ask(limit=50), table_name)  # noqa: B023
            ways |= explained(service, lambda: ask(cursor=cursor, limit=50), table_name)  # noqa: B023
            assert ways <= {index, index + WHOLE}, (table_name, ways)
        ways = explained(service, lambda: service.investigation.reveals_of([str(uuid7()), str(uuid7())]), "events")
        ours = (
            "binding_id",
            "revealed",
            "sqlite_autoindex_events_1",
        )  # the last is that of a binding and a sequence
        assert all(any(name in way for name in ours) for way in ways), ways
    finally:
        service.close()


@pytest.mark.postgres
def test_what_passes_write_over_and_over_touches_no_index(postgres_server: Server, postgres_template: str) -> None:
    """Such updates are heap-only: they leave nothing in an index for a vacuum to clear away."""
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
