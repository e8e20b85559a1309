"""Compiled statements return the rows and raise the errors of SQLAlchemy, on both databases."""

from __future__ import annotations

import inspect
import select as io_select
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import psycopg
import pytest
import sqlalchemy
from psycopg.pq import ExecStatus, TransactionStatus
from sqlalchemy import (
    BigInteger,
    Column,
    MetaData,
    Table,
    Text,
    bindparam,
    cast,
    event,
    exc,
    insert,
    literal_column,
    select,
    text,
)
from uuid_utils.compat import uuid7

from bindings.domain.binding import Binding, Mode, State
from bindings.domain.phone import Phone
from bindings.errors import Busy, PhoneInUse
from bindings.service import BindingService
from bindings.store import prepared
from bindings.store.bindings import FIELDS, to_binding
from bindings.store.column_types import Instant
from bindings.store.compiled import CompiledStatement
from bindings.store.database import Database
from bindings.store.deadline_connection import DeadlineConnection
from bindings.store.failures import ConstraintViolated
from bindings.store.queries import Lookups, lookup
from bindings.store.schema import bindings
from bindings.validation.fields import position_after
from tests.faults.proxy import CommitProxy
from tests.service.harness import account_settings
from tests.service.phone_keys import phone_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from bindings.provider.simulator import Simulator
    from bindings.store.database import Transaction
    from tests.service.harness import ServiceHarness

PHONE_A, PHONE_B = "9188067701", "9188067799"
SECOND_PAGE = position_after(datetime(2100, 1, 1, tzinfo=UTC), str(uuid7()))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def lookups_of(service: BindingService, number: str) -> list[object]:
    return [
        service.lookup(phone=PHONE_A),
        service.lookup(middle_number=number),
        service.lookup(middle_number=number, party=PHONE_B),
    ]


def test_statement_is_compiled_once_for_all_databases_with_the_same_phone_keys(database_url: str) -> None:
    """A process may open and close a service for each of its tasks."""
    statement, compiled = CompiledStatement(select(bindings.c.phone_a, bindings.c.phone_key)), set()
    for _ in range(3):
        database = Database(database_url, phone_keys=phone_keys())
        database.read(statement.fetch_all, {})
        compiled.add(len(statement._compiled))
        database.close()
    assert compiled == {1}
    others = Database(database_url, phone_keys=phone_keys(data=(1, 2)))
    others.read(statement.fetch_all, {})
    others.close()
    assert len(statement._compiled) == 2


def test_compiled_lookups_return_what_sqlalchemy_returns(harness: ServiceHarness) -> None:
    """With a test's clock; the next test uses the database's own."""
    binding = harness.service.get(harness.bind(PHONE_A, PHONE_B, reference="order 1").id)
    number = str(binding.middle_number_a)
    compiled = lookups_of(harness.service, number)
    with mock.patch.object(CompiledStatement, "fetch_all", _by_sqlalchemy):
        by_sqlalchemy = lookups_of(harness.service, number)
    assert compiled == by_sqlalchemy == [[binding]] * 3
    harness.clock.advance(100_000)
    assert lookups_of(harness.service, number) == [[]] * 3


def _by_sqlalchemy(statement: CompiledStatement, connection: Connection, values: Any) -> Any:
    return connection.execute(statement._statement, values).all()


def about_a_number(service: BindingService, number: Phone, party: Phone, actor: str | None) -> list[Any]:
    """Return what the pages about a number read."""
    investigation, now = service.investigation, service.runtime.database.clock()
    times = (now, now - timedelta(days=1))
    page = investigation.number_history(number, actor=actor)
    return [
        page,
        investigation.number_history(number, actor=actor, cursor=SECOND_PAGE),
        investigation.count_number(number, actor=actor),
        investigation.holds_of(number, actor=actor),
        investigation.refusals_of(number, actor=actor),
        investigation.reveals_of(page.data),
        *(investigation.number_at(number, at=at, actor=actor) for at in times),
        *(investigation.number_at(number, at=at, party=party, actor=actor) for at in times),
        [service.get(binding.id) for binding in page.data],
    ]


@pytest.mark.parametrize("actor", [None, "test", "another"])
def test_pages_about_a_number_run_compiled_statements_with_the_results_of_sqlalchemy(
    harness: ServiceHarness, actor: str | None
) -> None:
    service, reader = harness.service, harness.service.runtime.database._reader
    binding = harness.bind(PHONE_A, PHONE_B, reference="order 1")
    with pytest.raises(PhoneInUse):
        harness.bind(PHONE_A, "9188067798")
    service.reveal([binding.id], reason="complaint", what="test")
    numbers = [Phone(str(binding.middle_number_a)), Phone(PHONE_A), Phone("9188067797")]
    built: list[str] = []
    event.listen(reader, "before_cursor_execute", lambda *sent: built.append(sent[2]))
    for days_later in (0, 9):
        harness.clock.advance(days_later * 86_400)
        built.clear()
        compiled = [about_a_number(service, number, Phone(PHONE_B), actor) for number in numbers]
        assert built == []
        with mock.patch.object(CompiledStatement, "fetch_all", _by_sqlalchemy):
            by_sqlalchemy = [about_a_number(service, number, Phone(PHONE_B), actor) for number in numbers]
        assert compiled == by_sqlalchemy
        assert [bool(results[0].data) for results in compiled] == [actor != "another"] * 2 + [False]


def test_lookup_after_a_lost_connection_is_retried(service: BindingService, database_kind: str) -> None:
    binding = service.bind(phone_a=PHONE_A, phone_b=PHONE_B, pool_number="91", expire_s=60, mode="AXB")
    assert service.lookup(phone=PHONE_A) == [binding]
    if database_kind == "postgresql":
        url = service.settings.database_url.get_secret_value()
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    assert service.lookup(phone=PHONE_A) == [binding]
    assert service.runtime.database.connections_in_use() == 0


def test_invalid_statement_raises_the_error_of_sqlalchemy(database: Database) -> None:
    invalid = CompiledStatement(select(literal_column("no_such_column")).select_from(bindings))
    for _ in range(2):
        with pytest.raises(Busy, match="column is missing") as busy:
            database.read(invalid.fetch_all, {})
        assert isinstance(busy.value.__cause__, exc.OperationalError | exc.ProgrammingError)
        assert "no_such_column" in str(busy.value.__cause__)
    assert database.connections_in_use() == 0


@pytest.mark.postgres
@pytest.mark.parametrize("pools", [False, True], ids=["direct", "behind a pooler"])
def test_statement_is_prepared_once_and_behind_a_pooler_never(postgres_url: str, *, pools: bool) -> None:
    with CommitProxy(f"{postgres_url}?sslmode=disable", pools=pools) as proxy:
        database = Database(proxy.url)
        lookups = Lookups(database.now, postgres=database.postgres)
        for _ in range(3):
            assert database.read(lookup, lookups.by_phone, phone=Phone(PHONE_A)) == []
        prepared = text("SELECT count(*) FROM pg_prepared_statements")
        assert database.read(lambda connection: connection.execute(prepared).scalar()) == (0 if pools else 1)
        database.close()


@pytest.mark.postgres
def test_statement_is_prepared_once_for_values_of_all_types(postgres_url: str) -> None:
    """The driver has three types for an integer, by its size, and none for None."""
    statement = CompiledStatement(select(cast(bindparam("number", type_=BigInteger), Text).label("digits")))
    database = Database(postgres_url)
    for number in (1, 2**20, 2**40, None, 1):
        digits = None if number is None else str(number)
        assert database.read(statement.fetch_all, {"number": number}) == [(digits,)]
    assert database.read(_prepared_names) == ["bindings_0"]
    database.close()


@pytest.mark.postgres
@pytest.mark.parametrize(
    "instant",
    [
        None,
        datetime(1971, 1, 1, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 11, 30, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datetime(9990, 12, 31, tzinfo=UTC),
    ],
)
def test_instant_is_sent_in_binary_form_with_the_result_of_sqlalchemy(
    postgres_url: str, instant: datetime | None
) -> None:
    statement = CompiledStatement(select(bindparam("instant", type_=Instant).label("instant")))
    database = Database(postgres_url)
    rows = database.read(statement.fetch_all, {"instant": instant})
    assert rows == [(instant,)] == database.read(lambda it: _by_sqlalchemy(statement, it, {"instant": instant}))
    [compiled] = statement._compiled.values()
    assert compiled.prepared is not None
    assert compiled.prepared._instants == [0]
    database.close()


@pytest.mark.postgres
def test_prepared_statement_is_run_as_such_also_when_its_connection_has_the_most(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the limit the driver's cursor runs what is not prepared yet."""
    first, second = (CompiledStatement(select(literal_column(name).label("number"))) for name in "12")
    runs: list[bytes] = []
    run = prepared.PreparedStatement._run

    def recorded(statement: prepared.PreparedStatement, *args: Any) -> Any:
        runs.append(statement._sql)
        return run(statement, *args)

    monkeypatch.setattr(prepared, "MOST_OF_CONNECTION", 1)
    monkeypatch.setattr(prepared.PreparedStatement, "_run", recorded)
    database = Database(postgres_url)
    for _ in range(2):
        assert database.read(first.fetch_all, {}) == [(1,)]
        assert database.read(second.fetch_all, {}) == [(2,)]
    assert runs == [b"SELECT 1 AS number"] * 2
    assert database.read(_prepared_names) == ["bindings_0"]
    database.close()


def _prepared_names(connection: Connection) -> list[str]:
    names = text("SELECT name FROM pg_prepared_statements WHERE name LIKE 'bindings_%' ORDER BY name")
    return list(connection.execute(names).scalars())


@pytest.mark.postgres
def test_connection_is_usable_after_an_interrupt_between_prepare_and_run(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may raise anywhere, such as a soft time limit of Celery."""
    result = prepared._result

    def interrupt_after(connection: Any, expected: ExecStatus) -> Any:
        result(connection, expected)
        raise KeyboardInterrupt

    statement = CompiledStatement(select(literal_column("1").label("one")))
    database = Database(postgres_url)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_result", interrupt_after)
        with pytest.raises(KeyboardInterrupt):
            database.read(statement.fetch_all, {})
    assert database.read(statement.fetch_all, {}) == [(1,)]
    database.close()


@pytest.mark.postgres
def test_connection_is_used_again_after_a_rollback_of_a_prepared_statement(postgres_url: str) -> None:
    """As after a refused bind. The driver's cursor has prepared the first statement of the transaction."""
    statement = CompiledStatement(select(literal_column("pg_backend_pid()", BigInteger).label("process")))
    database = Database(postgres_url)

    def run(tx: Transaction) -> Any:
        return statement.fetch_all(tx.connection, {})

    def roll_back(tx: Transaction) -> None:
        assert run(tx) == run(tx) == processes[0]
        raise LookupError

    processes = [database.write(run, autocommit_first=run)]
    with pytest.raises(LookupError):
        database.write(roll_back)
    processes += [database.write(run, autocommit_first=run) for _ in range(2)]
    assert processes == processes[:1] * 3
    database.close()


def test_write_succeeds_after_an_interrupt_at_the_end_of_a_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy lets nothing run on a connection whose block of a transaction has not ended."""
    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy.RootTransaction, "__exit__", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            database.write(lambda _: None)
    assert database.write(lambda tx: tx.connection.execute(text("SELECT 1")).scalar()) == 1


@pytest.mark.postgres
def test_write_is_a_transaction_after_an_interrupt_at_the_end_of_autocommit(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each statement of the next write on the connection would commit by itself."""
    set_autocommit = DeadlineConnection.set_autocommit

    def interrupt_at_the_end(connection: DeadlineConnection, value: bool) -> None:
        if not value:
            raise KeyboardInterrupt
        set_autocommit(connection, value)

    database = Database(postgres_url)
    database.write(lambda _: None)  # the connection is open now
    with monkeypatch.context() as patch:
        patch.setattr(DeadlineConnection, "set_autocommit", interrupt_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            database.write(lambda _: None, autocommit_first=lambda _: None)
    raw: Any = database.write(lambda tx: tx.connection.connection.dbapi_connection)
    assert not raw.autocommit
    database.close()


@pytest.mark.postgres
def test_prepared_statement_sends_and_receives_more_than_the_socket_takes_at_once(postgres_url: str) -> None:
    database = Database(postgres_url)
    sent = "x" * 8_000_000
    numbers = literal_column("generate_series(1, 3)", BigInteger)
    statement = CompiledStatement(select(bindparam("sent", type_=Text).label("text"), numbers.label("number")))
    rows = database.read(statement.fetch_all, {"sent": sent})
    assert rows == [(sent, 1), (sent, 2), (sent, 3)]
    database.close()


@pytest.mark.postgres
def test_result_that_comes_while_the_statement_is_sent_is_not_waited_for_again(postgres_url: str) -> None:
    """To receive a notice libpq sends the rest first: then it may receive the result with the notice."""
    database = Database(postgres_url)
    lent = database._writes.connect(0.0)
    with lent:
        lent.set_deadline(time.monotonic() + 5.0)
        real = lent.raw
        pgconn: Any = _SentWithTheInput(real.pgconn)
        connection: Any = SimpleNamespace(pgconn=pgconn, wait=real.wait, receive=real.receive)
        real.pgconn.send_query_params(b"SELECT 1", None)
        assert real.run(prepared._result, connection, ExecStatus.TUPLES_OK).get_value(0, 0) == b"1"
        assert pgconn.is_received
    database.close()


class _SentWithTheInput:
    """A connection of libpq that sends the rest of a statement, and receives its result, in `consume_input`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.is_received = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def flush(self) -> int:
        """Return 1 until the result is there."""
        assert self._connection.flush() == 0
        if not self.is_received:
            io_select.select([self._connection.socket], [], [])
        return int(not self.is_received)

    def consume_input(self) -> None:
        """Receive the whole result."""
        self._connection.consume_input()
        self.is_received = True


@pytest.mark.postgres
@pytest.mark.parametrize(
    "error", ["pg_terminate_backend(pg_backend_pid())::text", "1 / (2 - generate_series(1, 3))"]
)
def test_error_of_a_prepared_statement_is_that_of_the_driver(postgres_url: str, error: str) -> None:
    database = Database(postgres_url, timeout_s=0.2)
    statement = select(literal_column(error, Text).label("text"))

    def causes(run: Callable[[Connection], object]) -> type[Any]:
        with pytest.raises(Busy) as caught:
            database.read(run)
        assert isinstance(caught.value.__cause__, exc.DBAPIError)
        return type(caught.value.__cause__.orig)

    prepared_run = causes(lambda connection: CompiledStatement(statement).fetch_all(connection, {}))
    assert prepared_run is causes(lambda connection: connection.execute(statement).all())
    assert database.read(CompiledStatement(select(literal_column("1").label("number"))).fetch_all, {}) == [
        (1,)
    ]  # the next one runs
    database.close()


@pytest.mark.postgres
def test_error_of_the_commit_after_the_rows_of_a_prepared_statement_is_that_of_the_driver(
    postgres_url: str,
) -> None:
    """In AUTOCOMMIT the server sends the rows first: a role may have serializable transactions by default."""
    numbers = Table("numbers", MetaData(), Column("number", BigInteger))
    insertion = insert(numbers).values(number=bindparam("number", type_=BigInteger))
    inserted = insertion.returning(numbers.c.number).cte("inserted")
    statement = CompiledStatement(select(inserted.c.number))
    database = Database(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE numbers (number bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        try:
            assert database.read(statement.fetch_all, {"number": 1}) == [(1,)]
            with pytest.raises(ConstraintViolated, match="numbers_number_key"):
                database.read(statement.fetch_all, {"number": 1})
            assert database.read(statement.fetch_all, {"number": 2}) == [(2,)]
        finally:
            database.close()
            connection.execute("DROP TABLE numbers")


@pytest.mark.postgres
def test_statement_outside_of_a_transaction_begins_one_as_others_do(postgres_url: str) -> None:
    statement = CompiledStatement(select(literal_column("1").label("one")))
    database = Database(postgres_url)
    lent = database._writes.connect(0.0)
    with lent as connection:
        for _ in range(2):
            assert statement.fetch_all(connection, {}) == [(1,)]
            assert lent.raw.info.transaction_status == TransactionStatus.INTRANS
    database.close()


@pytest.mark.postgres
def test_lookup_after_a_column_changed_its_type_is_retried(postgres_url: str) -> None:
    """The prepared plans are out of date; on a connection that only reads, nothing else replaces them."""
    database = Database(postgres_url)
    lookups = Lookups(database.now, postgres=database.postgres)

    def look_up() -> list[Binding]:
        return database.read(lookup, lookups.by_phone, phone=Phone(PHONE_A))

    assert look_up() == []
    with psycopg.connect(postgres_url, autocommit=True) as migration:
        migration.execute("ALTER TABLE bindings ALTER provider_status TYPE text")
        try:
            assert look_up() == []
        finally:
            migration.execute("ALTER TABLE bindings ALTER provider_status TYPE varchar(16)")
    assert look_up() == []
    database.close()


@pytest.mark.postgres
def test_success_is_recorded_while_lookups_use_all_their_connections(
    postgres_url: str, simulator: Simulator
) -> None:
    """And lookups run while a write uses its only connection: they are the pools of two engines."""
    with BindingService.open(
        database_url=postgres_url,
        **account_settings(simulator.url),
        pool_size=1,
    ) as service:
        database = service.runtime.database
        with database._reads.connect(0.0):
            binding = service.bind(phone_a=PHONE_A, phone_b=PHONE_B, pool_number="91", expire_s=60, mode="AXB")
        with database._writes.connect(0.0):
            assert service.lookup(phone=PHONE_A) == [binding]


def test_compiled_statement_makes_less_than_half_of_the_calls_of_sqlalchemy(database: Database) -> None:
    """If a release of SQLAlchemy fails this, `bindings.store.compiled` may no longer be worth its code."""
    statement = Lookups(database.now, postgres=database.postgres).by_phone
    values = {"phone": Phone(PHONE_A)}
    with database._reader.connect() as connection:
        compiled = _calls(lambda: statement.fetch_all(connection, values))
        by_sqlalchemy = _calls(lambda: _by_sqlalchemy(statement, connection, values))
    assert compiled < by_sqlalchemy / 2


def _calls(run: Callable[[], object]) -> int:
    """Return how many functions a call of `run` enters, once the caches are filled."""
    count = 0

    def profile(_frame: object, kind: str, _argument: object) -> None:
        nonlocal count
        count += kind in ("call", "c_call")

    run()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def test_private_error_handler_of_sqlalchemy_has_the_expected_parameters() -> None:
    """`CompiledStatement` calls it: if a release renames or changes it, adapt `fetch_all` before the upgrade."""
    handler = getattr(sqlalchemy.Connection, "_handle_dbapi_exception", None)
    assert handler is not None, "SQLAlchemy has no Connection._handle_dbapi_exception any more"
    parameters = list(inspect.signature(handler).parameters)
    assert parameters[:6] == ["self", "e", "statement", "parameters", "cursor", "context"]


@pytest.mark.parametrize("state", State)
def test_to_binding_equals_the_constructor(state: State) -> None:
    values: dict[str, Any] = {name: f"value of {name}" for name in FIELDS}
    values |= {"mode": Mode.AXXB, "state": state}
    row = [value.value if isinstance(value, Mode | State) else value for value in values.values()]
    binding = to_binding([*row, None, None, None])  # not encrypted
    assert binding == Binding(**values)
    assert (binding.mode, binding.state) == (Mode.AXXB, state)
    assert isinstance(binding.mode, Mode)
    assert isinstance(binding.state, State)


@pytest.mark.parametrize("form_count", [1, 2, 3])
@pytest.mark.parametrize("name", ["by_phone", "by_middle_number", "by_party", "by_reference"])
def test_psycopg_keeps_the_parsed_form_of_each_lookup(form_count: int, name: str) -> None:
    longest = psycopg._queries.MAX_CACHED_STATEMENT_LENGTH
    now = sqlalchemy.func.clock_timestamp() + sqlalchemy.literal(timedelta(seconds=1))
    statement = getattr(Lookups(now, postgres=True, form_count=form_count), name)._statement
    dialect = sqlalchemy.create_engine("postgresql+psycopg://").dialect
    assert len(str(statement.compile(dialect=dialect))) < longest
