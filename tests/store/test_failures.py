"""Every failure of the database is a `Busy` that names its cause, or is tried again if it may pass."""

from __future__ import annotations

import itertools
import select as select_module
import shutil
import socket
import sqlite3
import threading
import traceback
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import String, bindparam, exc, select, text
from sqlalchemy.engine import make_url

from bindings.domain.binding import Caller, EventKind
from bindings.errors import Busy, InvalidRequest, SchemaOutOfDate
from bindings.store import events, migrations, schema_version
from bindings.store.compiled import CompiledStatement
from bindings.store.database import Database
from bindings.store.deadline_connection import DeadlineConnection
from bindings.store.engine import driver_url
from bindings.store.failures import explain
from bindings.store.temporary_database import name_of
from tests.service.harness import in_threads
from tests.store.databases import free_port
from tests.store.failing import failing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from bindings.store.database import Transaction
    from tests.store.databases import Server

CALLER = Caller(actor="test")
PASSWORD = "hunter2"
MAY_PASS = [
    "08006",
    "08P01",
    "25P03",
    "25P04",
    "40001",
    "40P01",
    "53100",
    "53200",
    "53300",
    "53400",
    "55006",
    "55P03",
    "57014",
    "57P01",
    "57P02",
    "57P03",
    "57P05",
    "58030",
]
WILL_NOT_PASS = ["2200H", "3F000", "42501", "XX001", "54000", "55000", "P0001", "0A001", "28000", "57P04"]


def write_event(tx: Transaction) -> None:
    events.append_without_binding(tx, EventKind.REVEALED, CALLER, {})


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


def count_events(url: str) -> int:
    with opened(url) as database:
        count = database.read(
            lambda connection: connection.execute(text("SELECT count(*) FROM events")).scalar_one()
        )
    return int(count)


@pytest.mark.postgres
@pytest.mark.parametrize("state", MAY_PASS)
def test_failure_that_may_pass_is_tried_again(postgres_url: str, state: str) -> None:
    with failing(postgres_url, state, times=2), opened(postgres_url) as database:
        database.write(write_event)
    assert count_events(postgres_url) == 1


@pytest.mark.postgres
@pytest.mark.parametrize("state", MAY_PASS)
def test_failure_that_does_not_pass_in_time_is_busy(postgres_url: str, state: str) -> None:
    with failing(postgres_url, state), opened(postgres_url) as database:
        with pytest.raises(Busy, match="nothing more was done") as busy:
            database.write(write_event, budget_s=0.1)
        assert busy.value.todo
        assert database.connections_in_use() == 0
    assert count_events(postgres_url) == 0


@pytest.mark.postgres
@pytest.mark.parametrize("state", WILL_NOT_PASS)
def test_failure_that_will_not_pass_is_busy_after_one_attempt(postgres_url: str, state: str) -> None:
    attempts: list[int] = []

    def work(tx: Transaction) -> None:
        attempts.append(tx.attempt)
        write_event(tx)

    with failing(postgres_url, state), opened(postgres_url) as database, pytest.raises(Busy) as busy:
        database.write(work)
    assert attempts == [1]
    assert busy.value.todo
    assert busy.value.retry_after_s == 30


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("refusal", "cause", "may_pass"),
    [
        ("transaction blocks not allowed in statement pooling mode", "leads to a pooler that allows no tr", False),
        ("query_wait_timeout", "the database server, or a pooler before it, ended the connection", True),
    ],
)
def test_refusal_of_a_pooler_is_repeated(refusal: str, cause: str, *, may_pass: bool) -> None:
    """The messages are those of pgbouncer, which has one SQLSTATE for all."""
    refused = exc.OperationalError(None, None, psycopg.errors.ProtocolViolation(refusal))
    failure = explain(refused, make_url("postgresql://"))
    assert cause in failure.cause
    assert refusal in failure.cause
    assert failure.may_pass is may_pass


@pytest.mark.postgres
def test_connection_that_the_server_closed_while_it_was_idle_is_named_as_such(postgres_url: str) -> None:
    with (
        closing(Database(postgres_url, timeout_s=1)) as database,
        pytest.raises(Busy, match="closed a connection that was not in use"),
    ):
        database.read(_wait_for_the_idle_timeout)


def _wait_for_the_idle_timeout(connection: Connection) -> None:
    # Long enough that the driver has read the response of the COMMIT: what comes with it is lost.
    connection.exec_driver_sql("SET idle_session_timeout = 300")
    connection.commit()
    raw: Any = connection.connection.driver_connection
    select_module.select([raw.pgconn.socket], [], [], 60)  # readable when the server has closed it
    connection.exec_driver_sql("SELECT 1")


_CONNECT = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("words", "cause", "todo", "may_pass"),
    [
        (
            'FATAL:  role "u" is not permitted to log in',
            "the role of BINDINGS_DATABASE_URL may not",
            "LOGIN",
            False,
        ),
        ('FATAL:  too many connections for role "u"', "the role or the database", "CONNECTION LIMIT", True),
        (
            'FATAL:  too many connections for database "d"',
            "reached its connection limit",
            "CONNECTION LIMIT",
            True,
        ),
        ("FATAL:  sorry, too many clients already", "accepts no more connections", "max_connections", True),
        ("FATAL:  no more connections allowed (max_client_conn)", "accepts no more", "max_connections", True),
        (
            'FATAL:  database "d" is not currently accepting connections',
            "accepts no conn",
            "ALLOW_CONNECTIONS",
            True,
        ),
        ("FATAL:  the database system is starting up", "starts or shuts down", "log of the database server", True),
        (
            "FATAL:  Passwort-Authentifizierung f\u00fcr Benutzer \u00bbu\u00ab fehlgeschlagen",
            'refuses the connection: Passwort-Authentifizierung f\u00fcr Benutzer "..." fehlgeschlagen',
            "log of the database server",
            True,
        ),
        ("Connection refused\n\tIs the server running?", "Connection refused", "host and port", True),
    ],
)
def test_refusal_of_a_connection_names_its_cause_and_no_user(
    words: str, cause: str, todo: str, *, may_pass: bool
) -> None:
    refused = exc.OperationalError(None, None, psycopg.OperationalError(_CONNECT + words))
    failure = explain(refused, make_url("postgresql://u@h/d"))
    assert cause in failure.cause
    assert todo in failure.todo
    assert failure.may_pass is may_pass


def counted(before_attempt: Callable[[int], None]) -> Callable[..., DeadlineConnection]:
    """Return a `connect` that calls `before_attempt` with the number of each attempt, and then connects."""
    connect, numbers = DeadlineConnection.connect, itertools.count(1)

    def count_and_connect(*arguments: Any, **options: Any) -> DeadlineConnection:
        before_attempt(next(numbers))
        return connect(*arguments, **options)

    return count_and_connect


def _with(url: str, **parts: object) -> str:
    return make_url(url).set(**parts).render_as_string(hide_password=False)  # type: ignore[arg-type]


def _name_servers_are_away() -> bool:
    try:
        socket.getaddrinfo("no-such-host.invalid", 1)
    except socket.gaierror as error:
        return error.errno == socket.EAI_AGAIN
    return False


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        ({"username": "no_such_role"}, "no role of the name in BINDINGS_DATABASE_URL"),
        ({"database": "no_such_database"}, "no database of the name in BINDINGS_DATABASE_URL"),
        ({"host": "no-such-host.invalid"}, "the host in BINDINGS_DATABASE_URL is not known"),
        ({"query": {"sslmode": "require"}}, "do not agree on TLS"),
        ({"query": {"sslmode": "loose"}}, "BINDINGS_DATABASE_URL has a value of sslmode that libpq does not know"),
        (
            {"query": {"connect_timeout": "x"}},
            "BINDINGS_DATABASE_URL has a parameter that the driver does not accept",
        ),
    ],
    ids=["role", "database", "host", "tls", "value", "number"],
)
def test_connection_that_will_never_be_made_names_its_cause_and_the_variable(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, parts: dict[str, object], cause: str
) -> None:
    if "host" in parts and _name_servers_are_away():
        pytest.skip("no name server says that a host is unknown")
    attempts: list[int] = []
    with opened(_with(postgres_url, password=PASSWORD, **parts)) as database:
        monkeypatch.setattr(DeadlineConnection, "connect", counted(attempts.append))
        with pytest.raises(Busy, match=cause) as busy:
            schema_version.read(database)
    assert len(attempts) == 1
    assert busy.value.todo
    printed = "".join(traceback.format_exception(busy.value)) + busy.value.next_step() + str(busy.value.problem())
    assert PASSWORD not in printed


@pytest.mark.postgres
@pytest.mark.parametrize("compiled", [False, True], ids=["core", "compiled"])
def test_value_that_cannot_be_sent_is_no_fault_of_the_url(postgres_url: str, compiled: bool) -> None:
    echo = select(bindparam("value", type_=String))

    def read(connection: Connection) -> object:
        values = {"value": "a\0b"}
        if compiled:
            return CompiledStatement(echo).fetch_all(connection, values)
        return connection.execute(echo, values).all()

    with opened(postgres_url) as database, pytest.raises(Busy, match="a value cannot be sent") as busy:
        database.read(read)
    assert "BINDINGS_DATABASE_URL" not in str(busy.value)
    assert "a\0b" not in str(busy.value)


def test_url_that_cannot_be_read_names_the_variable_and_no_part_of_it() -> None:
    with pytest.raises(InvalidRequest, match="BINDINGS_DATABASE_URL is not the URL of a database") as refusal:
        Database(f"postgresql://u:{PASSWORD}@h:port/db")
    assert PASSWORD not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize(
    ("query", "cause"),
    [
        ("schema=s&pgbouncer=true", "has parameters that libpq does not know: pgbouncer, schema"),
        ("sslmode=disable&sslmode=require", "has parameters more than once: sslmode"),
    ],
    ids=["unknown", "repeated"],
)
def test_parameters_of_the_url_that_the_driver_refuses_are_named(query: str, cause: str) -> None:
    with pytest.raises(InvalidRequest, match=f"BINDINGS_DATABASE_URL {cause}") as refusal:
        Database(f"postgresql://u:{PASSWORD}@db.internal/db?application_name=a&{query}")
    assert PASSWORD not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.postgres
def test_read_waits_for_a_database_that_accepts_connections_later(
    postgres_server: Server, postgres_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on for as many attempts as the budget allows."""
    url = postgres_server.create(template=postgres_template)
    attempts: list[int] = []
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(postgres_server.url, autocommit=True) as admin, opened(url) as database:
        admin.execute(allow.format(sql.Identifier(name_of(url)), sql.Literal(False)))

        def allow_at_the_fifth(attempt: int) -> None:
            attempts.append(attempt)
            if attempt == 5:
                admin.execute(allow.format(sql.Identifier(name_of(url)), sql.Literal(True)))

        monkeypatch.setattr(DeadlineConnection, "connect", counted(allow_at_the_fifth))
        schema_version.read(database).require()
    assert attempts == [1, 2, 3, 4, 5]
    postgres_server.drop(url)


@pytest.mark.postgres
def test_server_that_does_not_run_is_busy_with_the_reason(postgres_url: str) -> None:
    with opened(_with(postgres_url, port=free_port())) as database, pytest.raises(Busy) as busy:
        database.write(write_event, budget_s=0.1)
    assert "the server in BINDINGS_DATABASE_URL does not accept connections: Connection refused" in str(busy.value)


# SQLite.


def test_full_disk_of_an_sqlite_file_is_named(sqlite_url: str) -> None:
    with opened(sqlite_url) as database:

        def work(tx: Transaction) -> None:
            pages = tx.connection.execute(text("PRAGMA page_count")).scalar()
            tx.connection.execute(text(f"PRAGMA max_page_count = {pages}"))
            for _ in range(1_000):
                write_event(tx)

        with pytest.raises(Busy, match="the disk of the SQLite file is full"):
            database.write(work)
    assert count_events(sqlite_url) == 0


def test_error_of_a_full_disk_is_named_as_such(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite reports an I/O error if the -wal or -shm file of a full disk cannot grow."""
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    error = exc.OperationalError(None, None, failed)
    assert explain(error, make_url(sqlite_url)).cause == "the disk reports an error for the SQLite file"
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(9, 9, 0))
    assert explain(error, make_url(sqlite_url)).cause == "the disk of the SQLite file is full"


def test_link_to_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("nowhere/x.db")
    with (
        opened(f"sqlite:///{tmp_path}/link.db") as database,
        pytest.raises(Busy, match="the folder in BINDINGS_DATABASE_URL does not exist"),
    ):
        schema_version.read(database)


def test_link_that_leads_back_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("link.db")
    with opened(f"sqlite:///{tmp_path}/link.db") as database, pytest.raises(Busy, match="leads back to itself"):
        schema_version.read(database)


@pytest.mark.parametrize("port", ["", ":5440"])
def test_folder_of_a_unix_socket_is_accepted_in_the_form_of_libpq(port: str) -> None:
    url = driver_url(f"postgresql://u:p@%2Fvar%2Frun%2Fpostgresql{port}/d?application_name=x")
    options = {"host": "/var/run/postgresql", "application_name": "x"} | ({"port": "5440"} if port else {})
    assert (url.host, url.database, dict(url.query)) == (None, "d", options)


def test_sqlite_file_that_cannot_be_written_is_named(sqlite_url: str) -> None:
    with opened(sqlite_url) as database:

        def work(tx: Transaction) -> None:
            tx.connection.execute(text("PRAGMA query_only = 1"))
            write_event(tx)

        with pytest.raises(Busy, match="the SQLite file cannot be written"):
            database.write(work)


def _text_file(folder: Path) -> Path:
    file = folder / "text.db"
    file.write_text("not a database, but long enough to be looked at\n" * 40)
    return file


def _damaged_file(folder: Path, template: Path) -> Path:
    file = folder / "damaged.db"
    shutil.copyfile(template, file)
    with closing(sqlite3.connect(file)) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with file.open("r+b") as pages:
        pages.seek(size)
        pages.write(b"\xff" * (file.stat().st_size - size))
    return file


def test_file_that_is_no_usable_database_is_named(tmp_path: Path, sqlite_template: Path) -> None:
    causes = {
        _text_file(tmp_path): "is not an SQLite database",
        _damaged_file(tmp_path, sqlite_template): "the SQLite file is damaged",
        tmp_path / "no" / "such" / "file.db": "the folder in BINDINGS_DATABASE_URL does not exist",
        tmp_path: "BINDINGS_DATABASE_URL names a folder",
    }
    for file, cause in causes.items():
        with opened(f"sqlite:///{file}") as database, pytest.raises(Busy, match=cause):
            database.write(write_event)


def test_lock_of_another_process_delays_no_caller_beyond_its_budget(sqlite_url: str) -> None:
    """Neither in SQLite's own wait, nor in the queue of this process before it: the lock outlasts every call."""
    with closing(sqlite3.connect(make_url(sqlite_url).database or "", isolation_level=None)) as backup:
        backup.execute("BEGIN IMMEDIATE")
        with opened(sqlite_url) as database:
            calls = [lambda: database.write(write_event, budget_s=0.3)] * 8
            refusals = in_threads(*calls)
            assert [type(refusal) for refusal in refusals] == [Busy] * 8
            assert {"another process holds the lock", "the write lock of this process"} >= {
                " ".join(str(refusal).split(" ")[: 5 if "another" in str(refusal) else 6]) for refusal in refusals
            }
            backup.execute("COMMIT")
            database.write(write_event)
    assert count_events(sqlite_url) == 1


# Another program's tables, and other releases.


def test_database_of_another_program_is_refused_by_name(empty_database_url: str) -> None:
    with opened(empty_database_url) as database:
        database.write(lambda tx: tx.connection.execute(text("CREATE TABLE events (id integer)")))
        with pytest.raises(
            InvalidRequest, match=r"BINDINGS_DATABASE_URL names a database of another program.*events"
        ):
            migrations.upgrade(empty_database_url)
        assert schema_version.read(database).revision is None


def test_migrations_of_another_program_are_refused_by_name(empty_database_url: str) -> None:
    with opened(empty_database_url) as database:

        def migrate(tx: Transaction) -> None:
            tx.connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32))"))
            tx.connection.execute(text("INSERT INTO alembic_version VALUES ('1c9f8a7b6d5e')"))

        database.write(migrate)
        for call in (
            lambda: schema_version.read(database).require(),
            lambda: migrations.upgrade(empty_database_url),
        ):
            with pytest.raises(InvalidRequest, match="BINDINGS_DATABASE_URL names a database of another program"):
                call()


def test_schema_of_a_newer_version_says_so(database_url: str) -> None:
    with opened(database_url) as database:
        change = "UPDATE alembic_version SET version_num = '{}'"
        head = schema_version.read(database).revision
        database.write(lambda tx: tx.connection.execute(text(change.format("9999"))))
        try:
            for call in (
                lambda: schema_version.read(database).require(),
                lambda: migrations.upgrade(database_url),
            ):
                with pytest.raises(SchemaOutOfDate, match="too new"):
                    call()
        finally:
            database.write(lambda tx: tx.connection.execute(text(change.format(head))))


@pytest.mark.postgres
def test_role_without_permission_on_its_schema_learns_what_to_grant(postgres_server: Server) -> None:
    url, role = postgres_server.create(), f"plain_{threading.get_native_id()}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("REVOKE CREATE ON SCHEMA public FROM public")  # as it is since PostgreSQL 15
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        try:
            with pytest.raises(Busy, match="permission denied for schema public") as busy:
                migrations.upgrade(_with(url, username=role))
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    assert "GRANT CREATE ON SCHEMA public" in busy.value.next_step()
    postgres_server.drop(url)
