"""The function that records an intent in one round trip: it admits what the transaction admits, and nothing else.

The checks of the function run on the one of the migration, and again on copies with a seeded bug, each of which
they must detect.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest
from sqlalchemy import insert, select, text, update
from uuid_utils.compat import uuid7

from bindings.domain.binding import Caller, Mode, State
from bindings.domain.conflict import Policy
from bindings.errors import BindingsError, Busy
from bindings.service import BindingService
from bindings.store import account as account_rows
from bindings.store import grants, phones, reserve, reserve_call
from bindings.store.database import Database
from bindings.store.grants import FUNCTION
from bindings.store.phone_keys import PLAIN, KeyNumbers
from bindings.store.reserve_call import ReserveCall
from bindings.store.schema import account, bindings, events, holds
from tests.service.harness import APP, NOON, POOL, A, B, C, Clock, D, account_settings, in_threads, wait_for
from tests.service.phone_keys import phone_keys
from tests.store.test_reserve import CALLER, TERMS, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bindings.domain.binding import BindRequest
    from bindings.provider.simulator import Simulator
    from bindings.store.database import Transaction
    from tests.service.harness import ServiceHarness
    from tests.store.databases import Server

pytestmark = pytest.mark.postgres

MINUTE = timedelta(minutes=1)
AT = NOON + timedelta(microseconds=123_400)
IN_DIGITS = phones.PhoneStorage(numbers=PLAIN, all_sealed=False)
TRUSTED = (AT - MINUTE, AT + MINUTE)
WAITING = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url, read_clock=Clock(AT))
    yield database
    database.close()


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Provide the database of a harness: PostgreSQL only."""
    return postgres_url


class _Undone(Exception):
    """Ends a transaction whose changes are not wanted."""


def undone(database: Database, work: Callable[[Transaction], Any]) -> Any:
    """Return what `work` returns, run in a transaction that is rolled back."""
    results: list[Any] = []

    def run(tx: Transaction) -> None:
        results.append(work(tx))
        raise _Undone

    with suppress(_Undone):
        database.write(run)
    return results[0]


def call(
    tx: Transaction,
    bind_request: BindRequest,
    *,
    terms: reserve.BindLimits = TERMS,
    caller: Caller = CALLER,
    name: str | None = None,
    storage: phones.PhoneStorage = IN_DIGITS,
    **changed: Any,
) -> datetime | None:
    """Call the function, with some arguments changed; return what it returns."""
    values = reserve_call._values(tx, name or str(uuid7()), bind_request, terms, caller, storage=storage)
    clock = {"fixed_clock": AT, "earliest": TRUSTED[0], "latest": TRUSTED[1]}
    values |= clock | {"known_id": None, "known_version": None} | changed
    ((now,),) = reserve_call._CALL.fetch_all(tx.connection, values)
    return cast("datetime | None", now)


def decide(tx: Transaction, bind_request: BindRequest, terms: reserve.BindLimits = TERMS) -> type[Any]:
    """Return the kind of result that the transaction has for the request."""
    return type(reserve.reserve(tx, str(uuid7()), bind_request, terms, CALLER))


def add_binding(tx: Transaction, **values: Any) -> str:
    """Insert a binding as it may have been left by any history, and return its id."""
    columns: dict[str, Any] = {
        "id": str(uuid7()),
        "mode": Mode.AXB,
        "phone_a": A,
        "phone_b": B,
        "pool_number": POOL,
        "app_id": APP,
        "scope": "default",
        "expire_s": 600,
        "state": State.PENDING,
        "actor": "test",
        "requested_at": AT - MINUTE,
        "send_by": AT,
        "settle_by": AT,
        "held_until": AT + MINUTE,
        "version": 3,
    }
    columns |= values
    state = columns["state"]
    if state in (State.ACTIVE, State.EXPIRED, State.UNBOUND):
        columns |= {"bind_id": columns["id"], "middle_number_a": "1", "middle_number_b": "1", "expires_at": AT}
    if state.terminal:
        columns["ended_at"] = AT - MINUTE
    tx.connection.execute(insert(bindings).values(columns))
    return str(columns["id"])


def add_hold(tx: Transaction, phone: str, **values: Any) -> None:
    columns = {"scope": "default", "app_id": APP, "why": "refused", "held_until": AT + MINUTE}
    own = {"id": str(uuid7()), "phone": phone, "strikes": 1, "created_at": AT}
    tx.connection.execute(insert(holds).values(columns | own | values))


# What it writes.


REQUESTS: dict[str, tuple[BindRequest, Caller]] = {
    "plain": (request(), CALLER),
    "with every field": (
        request(
            mode=Mode.AXXB, reference="order-42", idempotency_key="k", warn_s=60, max_expire_s=1_200, expire_s=900
        ),
        Caller(actor="key:rides", request_id="r-1", key_id="018f0000-0000-7000-8000-000000000001"),
    ),
}
STORAGE = {
    "no keys": (False, None, False),
    "keys, in digits": (True, None, False),
    "encrypted from now on": (True, 1, False),
    "encrypted": (True, 1, True),
}


def _raw(tx: Transaction, table: Any, **is_of: Any) -> dict[str, Any]:
    conditions = [table.c[name] == value for name, value in is_of.items()]
    (row,) = tx.connection.execute(select(text("*")).select_from(table).where(*conditions)).mappings()
    return {name: value for name, value in row.items() if name not in {"change_tx", "tx", "position"}}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("kind", STORAGE)
def test_I7_it_writes_the_row_and_the_event_that_the_transaction_writes(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    has_keys, number, sealed = STORAGE[kind]
    bind_request, caller = REQUESTS[name]
    binding_id = str(uuid7())
    database = Database(postgres_url, read_clock=Clock(AT), phone_keys=phone_keys() if has_keys else None)
    values = {"phone_index_key": number, "phone_data_key": number, "phones_sealed_at": AT if sealed else None}
    account_rows.register_scope(database, "default")
    database.write(lambda tx: tx.connection.execute(update(account).values(values | {"tx_offset": 7})))
    for module in (reserve, reserve_call):
        monkeypatch.setattr(module, "new_salt", lambda: "00" * 16)
    monkeypatch.setattr("bindings.telemetry.traceparent", lambda: "00-" + "1" * 32 + "-" + "2" * 16 + "-01")

    def written(record: Callable[[Transaction], object]) -> Any:
        def work(tx: Transaction) -> Any:
            assert record(tx) is not None
            row, logged = _raw(tx, bindings, id=binding_id), _raw(tx, events, binding_id=binding_id)
            change_tx = tx.connection.execute(select(bindings.c.change_tx)).scalar_one()
            current = "SELECT pg_current_xact_id()::text::bigint"
            assert change_tx == tx.connection.execute(text(current)).scalar_one() + 7
            assert (
                tx.connection.execute(select(events.c.tx).order_by(events.c.position.desc())).scalar() == change_tx
            )
            for instant in ("requested_at", "send_by", "settle_by", "held_until"):
                logged["detail"][instant] = datetime.fromisoformat(logged["detail"][instant])
            return row, logged

        return undone(database, work)

    storage = phones.PhoneStorage(numbers=KeyNumbers(number, number), all_sealed=sealed)
    terms = replace(TERMS, warn_s=120, guard_for=lambda expire_s: expire_s / 700)
    by_function = written(
        lambda tx: call(tx, bind_request, caller=caller, name=binding_id, storage=storage, terms=terms)
    )
    assert by_function == written(lambda tx: reserve.reserve(tx, binding_id, bind_request, terms, caller))
    database.close()


def test_it_returns_the_intent_that_the_database_has(postgres_url: str) -> None:
    from bindings.store.bindings import find

    database = Database(postgres_url)
    function = ReserveCall()
    reading = database.clock()
    trusted = (reading - MINUTE, reading + MINUTE)
    binding_id = str(uuid7())
    reserved = database.write(
        lambda _: pytest.fail("it took the transaction"),
        autocommit_first=lambda tx: function.reserve(
            tx, binding_id, request(), TERMS, CALLER, committed=None, trusted_range=lambda _: trusted
        ),
    )
    assert reserved.binding == database.read(find, binding_id)
    database.close()


def test_it_reads_no_whole_table_in_a_database_without_statistics(database: Database) -> None:
    """Regression: a bind in a new database took ever longer, until the first ANALYZE.

    The server keeps the plans that it makes at the first calls, when the tables are empty.
    """
    scans = "SELECT sum(seq_scan) FROM pg_stat_xact_user_tables WHERE relname IN ('account', 'bindings', 'holds')"

    def scanned(tx: Transaction) -> int:
        return int(tx.connection.execute(text(scans)).scalar_one())

    account_rows.register_scope(database, "default")
    for number in range(10):
        pair = request(f"91880680{number:02}", f"91880690{number:02}")
        database.write(lambda tx, pair=pair: call(tx, pair))  # type: ignore[misc]

    def scans_of_call(tx: Transaction) -> int:
        before = scanned(tx)
        assert call(tx, request()) == AT
        return scanned(tx) - before

    assert undone(database, scans_of_call) == 0


# What it does not admit: checks that run on the function of the migration, and on copies of it with a seeded bug.


HOLDERS = [(mode, state) for mode in Mode for state in State]
PHONES_OF_HOLDERS = ((A, B), (B, A), (A, C), (C, A), (C, B), (B, C), (C, D))


def check_holders(database: Database) -> None:
    """Every holder forbids, or allows, what it does in the transaction."""
    for policy in Policy:
        terms = replace(TERMS, policy=policy)
        for mode, state in HOLDERS:
            for a, b in PHONES_OF_HOLDERS:

                def compare(tx: Transaction, row: dict[str, Any], terms: reserve.BindLimits = terms) -> None:
                    add_binding(tx, **row)
                    for asked in Mode:
                        admitted = decide_undone(tx, request(mode=asked), terms) is reserve.Reserved
                        with tx.connection.begin_nested() as savepoint:
                            now = call(tx, request(mode=asked), terms=terms)
                            savepoint.rollback()
                        assert (now is not None) == admitted, (terms.policy, row, asked)

                undone(database, partial(compare, row={"mode": mode, "state": state, "phone_a": a, "phone_b": b}))


def decide_undone(tx: Transaction, bind_request: BindRequest, terms: reserve.BindLimits) -> type[Any]:
    with tx.connection.begin_nested() as savepoint:
        result = decide(tx, bind_request, terms)
        savepoint.rollback()
    return result


def check_ends_and_scopes(database: Database) -> None:
    """A phone is held before `held_until` only, and in its scope."""

    def admitted(add: Callable[[Transaction], object]) -> bool:
        def work(tx: Transaction) -> bool:
            add(tx)
            return call(tx, request()) is not None

        return bool(undone(database, work))

    for add in (partial(add_binding, phone_b=C), partial(add_binding, phone_a=C), partial(add_hold, phone=B)):
        held: Callable[..., object] = add
        assert not admitted(held)
        assert admitted(partial(held, held_until=AT))
        assert admitted(partial(held, scope="other"))
    assert not admitted(partial(add_hold, phone=A))
    assert admitted(partial(add_hold, phone=C))


def check_readings(database: Database) -> None:
    """A reading that is not in the trusted range records nothing."""
    microsecond = timedelta(microseconds=1)
    for earliest, latest, admitted in (
        (AT, AT, True),
        (AT + microsecond, AT + MINUTE, False),
        (AT - MINUTE, AT - microsecond, False),
    ):
        now = undone(database, partial(call, bind_request=request(), earliest=earliest, latest=latest))
        assert (now is not None) == admitted, (earliest, latest)


def check_known_version(database: Database) -> None:
    """A database without the version that is known to be committed records nothing."""

    def work(tx: Transaction, version: int, *, present: bool) -> datetime | None:
        known = add_binding(tx, phone_a=C, phone_b=D) if present else str(uuid7())
        return call(tx, request(), known_id=known, known_version=version)

    for version, present, admitted in ((3, True, True), (2, True, True), (4, True, False), (1, False, False)):
        assert (undone(database, partial(work, version=version, present=present)) is not None) == admitted, version


def check_account(database: Database) -> None:
    """A scan that is required, and keys other than those that the client expects, record nothing."""
    sealed = phones.PhoneStorage(numbers=KeyNumbers(1, 1), all_sealed=True)
    columns = {"phone_index_key": 1, "phone_data_key": 1, "phones_sealed_at": AT}

    def work(tx: Transaction, values: dict[str, Any], storage: phones.PhoneStorage) -> datetime | None:
        values = {"id": 1, "scope": "default"} | values
        tx.connection.execute(insert(account).values(values))
        return call(tx, request(), storage=storage)

    cases: list[tuple[phones.PhoneStorage, dict[str, Any], bool]] = [
        (IN_DIGITS, {}, True),
        (IN_DIGITS, {"scan_owed_since": AT}, False),
        (IN_DIGITS, columns, False),
        (sealed, columns, True),
        *((sealed, columns | {name: value}, False) for name in columns for value in (None,)),
        *((sealed, columns | {name: 2}, False) for name in ("phone_index_key", "phone_data_key")),
        *((IN_DIGITS, {name: value}, False) for name, value in columns.items()),
    ]
    ring = phone_keys(index=(1, 2), data=(1, 2))
    with closing(Database(database._url, read_clock=Clock(AT), phone_keys=ring)) as own:
        for storage, values, admitted in cases:
            assert (undone(own, partial(work, values=values, storage=storage)) is not None) == admitted, values
        assert undone(own, lambda tx: call(tx, request(), storage=sealed)) is None, "without a row: in digits"


def check_nothing_is_unknown(database: Database) -> None:
    """An argument that is NULL where a value is needed records nothing."""
    needed = ("lock_keys", "earliest", "latest", "all_sealed", "stored_phones", "allowed_holders", "scope")
    known = str(uuid7())

    def work(tx: Transaction, name: str) -> datetime | None:
        add_binding(tx, mode=Mode.AXXB, state=State.ACTIVE, phone_b=C)  # allowed, for the policy is `literal`
        add_binding(tx, id=known, phone_a=C, phone_b=D)
        arguments: dict[str, Any] = {"known_id": known, "known_version": 3} | {name: None}
        return call(tx, request(), **arguments)

    assert undone(database, partial(work, name="trace")) is not None
    for name in (*needed, "known_version"):
        try:
            now = undone(database, partial(work, name=name))
        except (Busy, BindingsError):
            now = None
        except Exception as error:  # noqa: BLE001 -- a constraint of a column
            assert type(error).__name__ == "ConstraintViolated"  # noqa: PT017
            now = None
        assert now is None, name


def check_isolation(database: Database) -> None:
    """At another isolation level it raises: the snapshot would be older than the locks."""
    for level in ("REPEATABLE READ", "SERIALIZABLE"):

        def work(tx: Transaction, level: str = level) -> datetime | None:
            tx.connection.execute(text(f"SET TRANSACTION ISOLATION LEVEL {level}"))
            return call(tx, request())

        raised = ""
        try:
            undone(database, work)
        except Busy as busy:
            raised = str(busy)
        assert "25004" in raised, level


def check_rival(database: Database) -> None:
    """What was committed during the wait for the locks is seen, and the clock is read after the wait."""
    holding, go_on = threading.Event(), threading.Event()
    results: list[Any] = []

    def hold(tx: Transaction) -> None:
        assert decide(tx, request(B, C)) is reserve.Reserved
        holding.set()
        assert go_on.wait(300)

    def reserve_second() -> None:
        with closing(Database(database._url, read_clock=Clock(AT))) as rival:
            results.append(undone(rival, lambda tx: call(tx, request(A, B))))

    holder = threading.Thread(target=lambda: database.write(hold), daemon=True)
    second = threading.Thread(target=reserve_second, daemon=True)
    holder.start()
    assert holding.wait(300)
    second.start()
    with psycopg.connect(database._url, autocommit=True) as watcher:
        wait_for(lambda: watcher.execute(WAITING).fetchone() == (1,) or bool(results))
    go_on.set()
    holder.join(300)
    second.join(300)
    with psycopg.connect(database._url) as owner:
        owner.execute("SET session_replication_role = replica; DELETE FROM events; DELETE FROM bindings")
    assert results == [None]


def check_clock_after_locks(database: Database) -> None:
    """The clock is read after the locks."""
    with psycopg.connect(database._url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (reserve._lock_key("default", A),))
        readings: list[Any] = []

        def reserve_second() -> None:
            far: dict[str, Any] = {
                "fixed_clock": None,
                "earliest": AT - 9_999 * MINUTE,
                "latest": AT + 9_999_999 * MINUTE,
            }
            readings.append(undone(database, lambda tx: call(tx, request(A, B), **far)))

        second = threading.Thread(target=reserve_second, daemon=True)
        second.start()
        wait_for(lambda: holder.execute(WAITING).fetchone() == (1,) or bool(readings))
        (released,) = holder.execute("SELECT clock_timestamp()").fetchone() or (None,)
        holder.rollback()
        second.join(300)
    assert readings[0] >= released


def check_keys(database: Database) -> None:
    """An id or an idempotency key that is in use records nothing, for any caller."""

    def work(tx: Transaction, row: dict[str, Any], **arguments: Any) -> Any:
        add_binding(tx, **({"phone_a": C, "phone_b": D} | row))
        now = call(tx, request(idempotency_key="k"), **arguments)
        count = tx.connection.execute(select(events.c.binding_id)).all()
        return now, len(count)

    binding_id = str(uuid7())
    assert undone(database, partial(work, row={}, name=binding_id)) == (AT, 1)
    assert undone(database, partial(work, row={"id": binding_id}, name=binding_id)) == (None, 0)
    for used in ({"idempotency_key": "k"}, {"idempotency_key": "k", "actor": "other"}, {"duplicate_key": "k"}):
        assert undone(database, partial(work, row=used)) == (None, 0), used


def check_late_insertion(database: Database) -> None:
    """An insertion that waits until the client has given the call up records nothing."""
    results: list[Any] = []
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'"
    )
    with psycopg.connect(database._url, autocommit=True) as watcher, closing(Database(database._url)) as holder:

        def hold(tx: Transaction) -> None:
            add_binding(tx, phone_a=C, phone_b=D, idempotency_key="k")
            (now,) = watcher.execute("SELECT clock_timestamp()").fetchone() or (None,)
            latest = now + timedelta(seconds=2)

            def reserve_second() -> None:
                readings = {"fixed_clock": None, "earliest": now - MINUTE, "latest": latest}
                with suppress(Busy):
                    results.append(
                        undone(
                            database,
                            lambda tx: call(tx, request(idempotency_key="k"), lock_wait="60s", **readings),
                        )
                    )

            second = threading.Thread(target=reserve_second, daemon=True)
            started.append(second)
            second.start()
            wait_for(lambda: watcher.execute(waiting).fetchone() == (1,) or not second.is_alive())
            wait_for(lambda: watcher.execute("SELECT clock_timestamp() > %s", (latest,)).fetchone() == (True,))

        started: list[threading.Thread] = []
        undone(holder, hold)
        started[0].join(300)
    assert results in ([], [None])


CHECKS = {
    check.__name__.removeprefix("check_"): check
    for check in (
        check_holders,
        check_ends_and_scopes,
        check_readings,
        check_known_version,
        check_account,
        check_nothing_is_unknown,
        check_isolation,
        check_rival,
        check_clock_after_locks,
        check_keys,
        check_late_insertion,
    )
}
LOCK = "PERFORM pg_advisory_xact_lock(lock_key);"
CLOCK = "instant := coalesce(fixed_clock, clock_timestamp());"
# The check that must detect it, and what is replaced in the function.
BUGS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "no lock": ("rival", ((LOCK, "NULL;"),)),
    "checks before the locks": (
        "rival",
        (
            (LOCK, "NULL;"),
            ("WITH recorded", f"FOREACH lock_key IN ARRAY lock_keys LOOP {LOCK} END LOOP; WITH recorded"),
        ),
    ),
    "the clock before the locks": ("clock_after_locks", ((CLOCK, "NULL;"), ("FOREACH", f"{CLOCK} FOREACH"))),
    "any isolation level": ("isolation", (("<> 'read committed'", "= 'none'"),)),
    "any reading": ("readings", (("(instant BETWEEN earliest AND latest) IS NOT TRUE", "false"),)),
    "a late reading": (
        "readings",
        (("instant BETWEEN earliest AND latest", "instant >= earliest"), ("> latest", "< earliest")),
    ),
    "a late insertion": ("late_insertion", (("> latest", "< earliest"),)),
    "no check of A's column": ("holders", (("WHERE phone_a = ANY", "WHERE false AND phone_a = ANY"),)),
    "no check of B's column": ("holders", (("WHERE phone_b = ANY", "WHERE false AND phone_b = ANY"),)),
    "no check of holds": ("ends_and_scopes", (("WHERE phone = ANY", "WHERE false AND phone = ANY"),)),
    "the same pair as any other": ("holders", (("THEN 'pair'", "THEN NULL"),)),
    "every scope": ("ends_and_scopes", (("AND scope = new_scope", ""),)),
    "held at its end": ("ends_and_scopes", (("held_until > instant", "held_until >= instant"),)),
    "any older version": ("known_version", (("version >= known_version", "version > 0"),)),
    "a missing version": ("known_version", (("known_id IS NOT NULL AND NOT EXISTS", "false AND NOT EXISTS"),)),
    "a scan that is required": ("account", (("scan_owed_since IS NULL", "true"),)),
    "any index key": ("account", (("phone_index_key IS NOT DISTINCT FROM index_key", "true"),)),
    "any data key": ("account", (("phone_data_key IS NOT DISTINCT FROM data_key", "true"),)),
    "sealed or not": ("account", (("(phones_sealed_at IS NOT NULL) = all_sealed", "true"),)),
    "no account": ("account", (("index_key IS NULL AND data_key IS NULL AND all_sealed IS FALSE", "true"),)),
    "unknown holders are allowed": (
        "nothing_is_unknown",
        ((") IS NOT TRUE\n        )", ") IS FALSE\n        )"),),
    ),
    "an event without a binding": (
        "keys",
        (
            (
                "FROM recorded;",
                "FROM (SELECT * FROM recorded UNION ALL SELECT * FROM bindings LIMIT 1) AS recorded;",
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", CHECKS)
def test_I1_it_admits_nothing_that_the_transaction_does_not_admit(database: Database, name: str) -> None:
    CHECKS[name](database)


@pytest.fixture(scope="module")
def scratch_url(postgres_server: Server, postgres_template: str) -> Iterator[str]:
    """Provide a database whose function is changed by each test."""
    url = postgres_server.create(template=postgres_template)
    try:
        yield url
    finally:
        postgres_server.drop(url)


@pytest.mark.parametrize("bug", BUGS)
def test_seeded_bug_of_the_function_is_detected(scratch_url: str, bug: str) -> None:
    check, edits = BUGS[bug]
    query = "SELECT pg_get_functiondef(%s::regproc)"
    database = Database(scratch_url, read_clock=Clock(AT))
    with psycopg.connect(scratch_url, autocommit=True) as owner:
        (definition,) = owner.execute(query, (FUNCTION,)).fetchone() or ("",)
        changed = definition
        for old, new in edits:
            assert old in changed, f"the bug does not fit the function any more: {old}"
            changed = changed.replace(old, new)
        owner.execute(changed)
        try:
            with pytest.raises(AssertionError):
                CHECKS[check](database)
        finally:
            owner.execute(definition)
            owner.execute("SET session_replication_role = replica; DELETE FROM events; DELETE FROM bindings")
            database.close()


def test_function_that_is_not_volatile_records_nothing(scratch_url: str) -> None:
    """The snapshot of its statements would be that of the call, older than the locks."""
    database = Database(scratch_url, read_clock=Clock(AT))
    with psycopg.connect(scratch_url, autocommit=True) as owner:
        owner.execute(f"ALTER FUNCTION {FUNCTION} STABLE")
        try:
            with pytest.raises(Busy):
                undone(database, lambda tx: call(tx, request()))
        finally:
            owner.execute(f"ALTER FUNCTION {FUNCTION} VOLATILE")
            database.close()


# How a bind uses it.


@pytest.fixture
def plain_service(postgres_url: str, simulator: Simulator) -> Iterator[BindingService]:
    """Provide a service on real clocks, as an application opens it."""
    with open_service(postgres_url, simulator) as service:
        yield service


def open_service(url: str, simulator: Simulator) -> BindingService:
    return BindingService.open(
        database_url=url,
        **account_settings(simulator.url),
    )


def bind(service: BindingService, a: str = A, b: str = B, mode: str = "AXB", **fields: Any) -> Any:
    """Bind; return the binding or the error."""
    try:
        return service.bind(phone_a=a, phone_b=b, mode=mode, pool_number=POOL, expire_s=600, **fields)
    except BindingsError as error:
        return error


@contextmanager
def round_trips(database: Database, path: Path) -> Iterator[list[str]]:
    """Provide, after the block, the message that ended each round trip to the server."""
    trips: list[str] = []
    with path.open("w+", encoding="utf-8") as log:
        idle = [kept.raw.pgconn for pool in (database._writes, database._reads) for kept in pool._idle]
        for pgconn in idle:
            pgconn.trace(log.fileno())
        yield trips
        for pgconn in idle:
            pgconn.untrace()
        log.seek(0)
        messages = [line.strip().split("\t") for line in log]
        trips += [name for _, sender, _, name, *_ in messages if sender == "F" and name in {"Sync", "Query"}]


def test_plain_bind_makes_two_round_trips(plain_service: BindingService, tmp_path: Path) -> None:
    """The statement that records the intent, and the one that records the success: each commits by itself."""
    for number in range(8):  # the first ones prepare statements, which takes further round trips
        assert bind(plain_service, f"91880687{number:02}", f"91880688{number:02}").state is State.ACTIVE
    with round_trips(plain_service.runtime.database, tmp_path / "trace") as trips:
        assert bind(plain_service).state is State.ACTIVE
    assert len(trips) == 2, trips


# The types that SQLAlchemy gives texts: by them alone this function would fit the arguments better.
OVERLOADED = f"""DO $do$ BEGIN EXECUTE (
    SELECT 'CREATE FUNCTION {FUNCTION}(' || replace(pg_get_function_arguments(oid), ' text', ' character varying')
        || ') RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION ''the other one''; END$$'
    FROM pg_proc WHERE proname = '{FUNCTION}'
); END $do$"""
NOT_CALLABLE = {
    "it is missing": f"DROP FUNCTION {FUNCTION}",
    "is not read committed": "ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'",
}


@pytest.mark.parametrize("cause", NOT_CALLABLE)
def test_function_that_cannot_be_called_is_logged_once_and_binds_go_on(
    postgres_server: Server,
    postgres_template: str,
    simulator: Simulator,
    caplog: pytest.LogCaptureFixture,
    cause: str,
) -> None:
    url = postgres_server.create(template=postgres_template)
    try:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(NOT_CALLABLE[cause].format(database=owner.info.dbname).encode())
        with open_service(url, simulator) as service:
            results = [bind(service, mode="AXXB"), bind(service, A, C, "AXXB"), bind(service, A, B, "AXXB")]
            assert [type(result).__name__ for result in results] == ["Binding", "Binding", "PhoneInUse"]
            assert not service.runtime.reserve_call._callable
        logged = [record.getMessage() for record in caplog.records if FUNCTION in record.getMessage()]
        assert len(logged) == 1
        assert cause in logged[0]
    finally:
        postgres_server.drop(url)


def test_another_function_of_its_name_is_not_called(postgres_server: Server, postgres_template: str) -> None:
    url = postgres_server.create(template=postgres_template)
    database = Database(url)
    try:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(OVERLOADED.encode())
        assert _reserved_by(database, ReserveCall()) == "function"
    finally:
        database.close()
        postgres_server.drop(url)


def test_refused_permission_leaves_binds_to_the_transaction(postgres_url: str) -> None:
    from tests.store.test_roles import restricted

    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"REVOKE EXECUTE ON FUNCTION {FUNCTION} FROM PUBLIC".encode())
        try:
            with restricted(postgres_url) as url:
                database, function = Database(url), ReserveCall()
                assert "EXECUTE on " + FUNCTION not in _missing(database)
                role = owner.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'Bindings test%'").fetchone()
                owner.execute(f'REVOKE EXECUTE ON FUNCTION {FUNCTION} FROM "{role[0]}"'.encode())  # type: ignore[index]
                assert "EXECUTE on " + FUNCTION in _missing(database)
                assert _reserved_by(database, function) == "transaction"
                assert not function._callable
                database.close()
        finally:
            owner.execute(f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO PUBLIC".encode())


def _missing(database: Database) -> tuple[str, ...]:
    from bindings.store import protection

    return database.read(protection.role_rights).missing


def _reserved_by(database: Database, function: ReserveCall, bind_request: BindRequest | None = None) -> str:
    """Reserve as a bind does, and return which way it went."""
    reading = database.clock()
    binding_id, asked = str(uuid7()), bind_request or request()
    ways: list[str] = []

    def by_function(tx: Transaction) -> Any:
        ways.append("function")
        return function.reserve(
            tx,
            binding_id,
            asked,
            TERMS,
            CALLER,
            committed=None,
            trusted_range=lambda within_s: (reading - MINUTE, reading + timedelta(seconds=within_s)),
        )

    def by_transaction(tx: Transaction) -> Any:
        ways.append("transaction")
        return reserve.reserve(tx, binding_id, asked, TERMS, CALLER)

    result = database.write(by_transaction, autocommit_first=by_function, attempt_timeout_s=database.timeout_s)
    return ways[-1] if isinstance(result, reserve.Reserved) else type(result).__name__


def test_I3_cancelled_call_is_repeated_as_a_transaction_and_records_one_intent(postgres_url: str) -> None:
    database, results = Database(postgres_url), []
    with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url, autocommit=True) as watcher:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (reserve._lock_key("default", A),))
        waiting = threading.Thread(
            target=lambda: results.append(_reserved_by(database, ReserveCall())), daemon=True
        )
        waiting.start()
        wait_for(lambda: watcher.execute(WAITING).fetchone() == (1,))
        cancel = "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        watcher.execute(cancel)
        holder.rollback()
        waiting.join(300)
    assert results == ["transaction"]
    assert database.read(lambda connection: len(connection.execute(select(bindings.c.id)).all())) == 1
    database.close()


def test_I3_call_that_its_client_has_given_up_records_nothing_later(postgres_url: str) -> None:
    """It waits for a lock at the server for longer than the client waits: then it must not hold the phones."""
    database = Database(postgres_url, timeout_s=1.0)
    with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url, autocommit=True) as watcher:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (reserve._lock_key("default", A),))
        with pytest.raises(Busy):
            _reserved_by(database, ReserveCall())
        assert watcher.execute(WAITING).fetchone() == (1,), "a change in AUTOCOMMIT is not cancelled at the server"
        holder.rollback()
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        locks += " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        wait_for(lambda: watcher.execute(locks).fetchone() == (0,))
    assert not database.read(lambda connection: connection.execute(select(bindings.c.id)).all())
    database.close()


def test_phones_are_encrypted_from_the_next_bind_on(postgres_url: str) -> None:
    """The function refuses what was prepared for the storage of before; the transaction learns the new one."""
    database = Database(postgres_url, phone_keys=phone_keys())
    account_rows.register_scope(database, "default")
    function = ReserveCall()
    trusted = (AT - 99_999_999 * MINUTE, AT + 99_999_999 * MINUTE)
    numbers = iter(range(100, 200))

    def way() -> str:
        ways = []
        name, asked = str(uuid7()), request(f"9188067{next(numbers)}", f"9188068{next(numbers)}")

        def by_function(tx: Transaction) -> Any:
            reserved = function.reserve(
                tx, name, asked, TERMS, CALLER, committed=None, trusted_range=lambda _: trusted
            )
            ways.append("transaction" if reserved is None else "function")
            return reserved

        database.write(
            lambda tx: reserve.reserve(tx, name, asked, TERMS, CALLER, on_phone_storage=function.remember),
            autocommit_first=by_function,
        )
        return ways[0]

    phases: list[dict[str, Any]] = [
        {},
        {"phone_index_key": 1, "phone_data_key": 1},
        {"phones_sealed_at": AT},
    ]
    taken = []
    for values in phases:
        if values:
            database.write(lambda tx, values=values: tx.connection.execute(update(account).values(values)))  # type: ignore[misc]
        taken += [way(), way()]
    assert taken == ["function", "function", "transaction", "function", "transaction", "function"]
    database.close()


@pytest.mark.parametrize("seed", range(4))
def test_I1_function_and_transaction_decide_alike_after_any_history(harness: ServiceHarness, seed: int) -> None:
    """Random binds, unbinds, ends, refusals and doubts; then every request is put to both, and both are undone."""
    rng = random.Random(seed)
    numbers = (A, B, C, D)
    decided: Counter[tuple[bool, bool]] = Counter()
    service = harness.open(conflict_policy=rng.choice(tuple(Policy)))
    terms = service.runtime.limits
    for _ in range(12):
        a, b = rng.sample(numbers, 2)
        step = rng.randrange(8)
        if step == 0:
            harness.simulator.script(rng.choice(("refuse:-35", "lost_reply", "refuse:-22")), times=1, on="bind")
        mode = rng.choice(("AXB", "AXXB"))
        key = rng.choice((None, "k1", "k2"))
        with suppress(BindingsError):
            made = service.bind(
                phone_a=a, phone_b=b, mode=mode, pool_number=POOL, expire_s=60, idempotency_key=key
            )
            if step == 1:
                service.unbind(made.id)
        harness.clock.advance(rng.choice((0, 1, 30, 90)))
        for _ in range(rng.randrange(2)):
            service.expire_due()
            service.recover()
        a, b = rng.sample(numbers, 2)
        asked = request(a, b, rng.choice(tuple(Mode)), idempotency_key=rng.choice((None, "k1", "k3")))
        now = harness.clock()
        same_clock = {"fixed_clock": now, "earliest": now, "latest": now}
        caller = service.runtime.caller

        def transaction(tx: Transaction, asked: BindRequest = asked, caller: Caller = caller) -> Any:
            return type(reserve.reserve(tx, str(uuid7()), asked, terms, caller))

        by_function = undone(
            harness.database,
            lambda tx, asked=asked, kept=same_clock, caller=caller: call(  # type: ignore[misc]
                tx, asked, terms=terms, caller=caller, **kept
            ),
        )
        admitted = undone(harness.database, transaction) is reserve.Reserved
        decided[by_function is not None, admitted] += 1
    assert not decided[True, False]
    assert not decided[False, True], "a plain case, which the function should handle"


@pytest.mark.parametrize("ways", [("function", "function"), ("function", "transaction")])
def test_I1_of_crossing_calls_exactly_one_passes_without_deadlock(
    postgres_url: str, ways: tuple[str, str]
) -> None:
    """Two replicas, of which one may be of the version before, which has the transaction only."""
    replicas = [Database(postgres_url), Database(postgres_url)]
    calls = [ReserveCall(), ReserveCall()]
    for function, way in zip(calls, ways, strict=True):
        function._callable = way == "function"
    pairs = [(A, B), (B, A), (A, C), (C, B)]
    for _ in range(15):
        results: list[str] = []

        def reserve_one(number: int, pair: tuple[str, str], results: list[str] = results) -> None:
            results.append(_reserved_by(replicas[number % 2], calls[number % 2], request(*pair)))

        raised = in_threads(*(partial(reserve_one, number, pair) for number, pair in enumerate(pairs)))
        assert raised == []
        assert Counter(results)["Conflict"] == len(pairs) - 1, results
        with psycopg.connect(postgres_url) as owner:
            owner.execute("SET session_replication_role = replica; DELETE FROM events; DELETE FROM bindings")
    for replica in replicas:
        replica.close()


@pytest.mark.parametrize("analyzed", [False, True])
def test_checks_of_the_function_reach_their_rows_by_an_index(
    postgres_server: Server, postgres_template: str, *, analyzed: bool
) -> None:
    """Also without statistics, and after the five executions that PL/pgSQL plans with their values."""
    url = postgres_server.create(template=postgres_template)
    database = Database(url, read_clock=Clock(AT))
    scans = (
        "SELECT relname, seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('bindings', 'holds')"
    )
    try:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(
                "INSERT INTO bindings (id, mode, phone_a, phone_b, pool_number, app_id, scope, expire_s, state,"
                " actor, requested_at, send_by, settle_by, held_until, version)"
                " SELECT gen_random_uuid(), 'AXB', 91e9 + n,"
                " 92e9 + n, '91', 'app', 'default', 60, 'pending', 'x', now(), now(), now(),"
                " timestamptz '2030-01-01' + n * interval '1 s', 1 FROM generate_series(1, 20000) AS n"
            )
            owner.execute(
                "INSERT INTO holds (id, scope, phone, why, app_id, held_until, strikes, created_at)"
                " SELECT gen_random_uuid(), 'default', 91e9 + n, 'refused', 'app', '2030-01-01', 1, now()"
                " FROM generate_series(1, 20000) AS n"
            )
            if analyzed:
                owner.execute("ANALYZE")

        def work(tx: Transaction) -> Any:
            for number in range(10):
                assert call(tx, request(f"9188067{number:03}", f"9188068{number:03}")) is not None
            return tx.connection.execute(text(scans)).all()

        for name, seq_scans, fetched in undone(database, work):
            assert (seq_scans, fetched) == (0, 0), name
    finally:
        database.close()
        postgres_server.drop(url)


def test_right_to_call_it_is_granted_with_those_to_the_tables() -> None:
    assert f'GRANT EXECUTE ON FUNCTION {FUNCTION} TO "app";' in grants.sql_for("app")
