"""The migrations: equal to the metadata, safe from several replicas at the same time, and part of the wheel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from bindings.errors import Busy
from bindings.store import migrations
from bindings.store.engine import make_engine
from bindings.store.migrations import config_of_scripts, script_directory
from bindings.store.schema import HEAD, NAMING, metadata
from tests.service.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tests.store.databases import Server

ROOT = Path(__file__).parents[2]
pytestmark = [  # on SQLite; `_expression_indexes` reads them
    pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index"),
    pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index"),
]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def test_single_head_is_the_revision_that_the_code_needs() -> None:
    assert script_directory().get_heads() == [HEAD]


def _is_compared(engine: Engine) -> Callable[..., bool]:
    """Return a filter that excludes the partitions, and what the metadata has for the other database."""

    def include(item: Any, name: str | None, kind: str, reflected: bool, _counterpart: Any) -> bool:
        if kind == "table":
            return not (reflected and str(name).startswith("events_"))
        condition = getattr(item, "_ddl_if", None) if kind in ("index", "unique_constraint") else None
        return condition is None or condition.dialect == engine.dialect.name

    return include


def test_migrated_schema_equals_the_metadata(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_object": _is_compared(engine)}
        )
        assert compare_metadata(context, metadata) == []


def _schema(engine: Engine) -> dict[str, Any]:
    inspector = inspect(engine)
    tables = {}
    for name in sorted(metadata.tables):
        tables[name] = {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"]) for column in inspector.get_columns(name)
            },
            "indexes": {
                str(index["name"]): (
                    index["column_names"],
                    bool(index["unique"]),
                    _plain(_predicate(index)),
                    index.get("dialect_options", {}).get("postgresql_ops", {}),
                )
                for index in inspector.get_indexes(name)
            },
            "expressions": _expression_indexes(engine, name),
            "checks": {
                str(check["name"]): _plain(check["sqltext"]) for check in inspector.get_check_constraints(name)
            },
            "unique": {
                str(unique["name"]): unique["column_names"] for unique in inspector.get_unique_constraints(name)
            },
            "primary": inspector.get_pk_constraint(name)["constrained_columns"],
            "foreign": [
                (key["name"], key["constrained_columns"], key["referred_table"])
                for key in inspector.get_foreign_keys(name)
            ],
        }
    return tables


def _expression_indexes(engine: Engine, table: str) -> dict[str, str]:
    """Return the definitions of the indexes over an expression."""
    query = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = :name AND indexdef ILIKE '%coalesce%'"
    if engine.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :name"
        query += " AND sql LIKE '%coalesce%'"
    with engine.connect() as connection:
        return {name: _plain(sql) for name, sql in connection.execute(text(query), {"name": table})}


def _predicate(index: Any) -> str:
    options = index.get("dialect_options", {})
    predicates = [options[name] for name in ("postgresql_where", "sqlite_where") if options.get(name) is not None]
    return str(predicates[0]) if predicates else ""


def _plain(sql: object) -> str:
    """Return the text without the parentheses, casts and spaces that a database adds."""
    return re.sub(r"::[a-z ]+(\[\])?|[()\s]", "", str(sql))


def test_index_predicates_and_checks_equal_those_of_the_metadata(engine: Engine, empty_database_url: str) -> None:
    """Alembic compares neither partial predicates nor the text of CHECKs."""
    from_metadata = make_engine(empty_database_url)
    metadata.create_all(from_metadata)
    try:
        assert _schema(engine) == _schema(from_metadata)
    finally:
        from_metadata.dispose()


def test_every_constraint_and_index_follows_the_naming_convention(engine: Engine) -> None:
    inspector = inspect(engine)
    for table in metadata.tables:
        names = [
            *(index["name"] for index in inspector.get_indexes(table)),
            *(check["name"] for check in inspector.get_check_constraints(table)),
            *(unique["name"] for unique in inspector.get_unique_constraints(table)),
            *(key["name"] for key in inspector.get_foreign_keys(table)),
            inspector.get_pk_constraint(table)["name"],
        ]
        for name in filter(None, names):  # an autoincrement key has no name on SQLite
            assert re.match(rf"({'|'.join(NAMING)})_{table}", str(name)), name


def test_every_column_has_a_comment() -> None:
    assert [
        f"{table}.{column.name}"
        for table in metadata.tables.values()
        for column in table.columns
        if not column.comment
    ] == []


BAD_ROWS: dict[str, dict[str, Any]] = {
    "unknown state": {"state": "dead"},
    "unknown mode": {"mode": "AXC"},
    "zero seconds": {"expire_s": 0},
    "more than 72 hours": {"expire_s": 259_201},
    "same phone twice": {"phone_b": "9188067701"},
    "active without a bind_id": {"state": "active"},
    "ended without an end": {"state": "failed"},
    "an end while pending": {"ended_at": "2026-03-01T12:00:00.000000Z"},
}
ROW: dict[str, Any] = {
    "id": "0190b5a0-0000-7000-8000-000000000001",
    "mode": "AXB",
    "phone_a": "9188067701",
    "phone_b": "9188067799",
    "pool_number": "918806",
    "app_id": "a",
    "scope": "default",
    "expire_s": 60,
    "state": "pending",
    "actor": "test",
    "requested_at": "2026-03-01T12:00:00.000000Z",
    "send_by": "2026-03-01T12:00:05.000000Z",
    "settle_by": "2026-03-01T12:00:16.000000Z",
    "held_until": "2026-03-01T12:06:10.000000Z",
    "version": 1,
}


def _insert(engine: Engine, row: dict[str, Any]) -> None:
    statement = f"INSERT INTO bindings ({', '.join(row)}) VALUES ({', '.join(':' + name for name in row)})"
    with engine.begin() as connection:
        connection.execute(text(statement), row)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_check_constraint_rejects_an_invalid_row(engine: Engine, name: str) -> None:
    with pytest.raises(Exception, match=r"(?i)check constraint"):
        _insert(engine, ROW | BAD_ROWS[name])
    _insert(engine, ROW)


def _event(engine: Engine, kind: str = "requested", sequence: int = 1) -> None:
    statement = (
        "INSERT INTO events (binding_id, sequence, kind, at, actor, detail)"
        f" VALUES (:id, {sequence}, '{kind}', :at, 'test', '{{}}')"
    )
    with engine.begin() as connection:
        connection.execute(text(statement), {"id": ROW["id"], "at": ROW["requested_at"]})


def test_I5_unique_index_rejects_a_second_terminal_event(engine: Engine) -> None:
    _insert(engine, ROW)
    _event(engine, "expired", 1)
    with pytest.raises(Exception, match=r"(?i)unique"):
        _event(engine, "unbound", 2)


FORBIDDEN = {
    "UPDATE": "UPDATE events SET actor = 'x'",
    "DELETE": "DELETE FROM events",
    "DELETE of a row": "DELETE FROM events WHERE sequence = 1",
}
SQLITE_ONLY = {
    "REPLACE": "REPLACE INTO events (position, sequence, kind, at, actor, detail) SELECT position, 9, 'held', at,"
    " 'x', '{}' FROM events",
    "INSERT OR REPLACE": "INSERT OR REPLACE INTO events (position, sequence, kind, at, actor, detail)"
    " SELECT position, 9, 'held', at, 'x', '{}' FROM events",
}
POSTGRESQL_ONLY = {"TRUNCATE": "TRUNCATE events", "TRUNCATE of a partition": "TRUNCATE events_start"}


def test_triggers_reject_every_change_of_the_history(engine: Engine) -> None:
    _insert(engine, ROW)
    _event(engine)
    only = SQLITE_ONLY if engine.dialect.name == "sqlite" else POSTGRESQL_ONLY
    for verb, statement in (FORBIDDEN | only).items():
        with engine.connect() as connection:
            with pytest.raises(Exception, match="append-only"):
                connection.execute(text(statement))
            connection.rollback()
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT sequence, actor FROM events")).all()
        assert [tuple(row) for row in rows] == [(1, "test")], verb


def test_upgrade_downgrade_and_upgrade_give_the_same_schema(empty_database_url: str) -> None:
    assert migrations.upgrade(empty_database_url) == HEAD
    assert migrations.upgrade(empty_database_url) == HEAD
    engine = make_engine(empty_database_url)
    before = _schema(engine)
    with engine.connect() as connection:
        config = config_of_scripts()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        connection.commit()
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            own = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            assert connection.execute(text(own)).scalar() == 0
    assert migrations.upgrade(empty_database_url) == HEAD
    assert _schema(engine) == before
    engine.dispose()


def _environment(url: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BINDINGS_")}
    return environment | {"BINDINGS_DATABASE_URL": url}


UPGRADE = (
    "import os; from bindings.store.migrations import upgrade; print(upgrade(os.environ['BINDINGS_DATABASE_URL']))"
)


@pytest.mark.parametrize("count", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_R11_concurrent_upgrades_all_succeed(empty_database_url: str, count: int) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE],
            cwd=ROOT,
            env=_environment(empty_database_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    outcomes = [(*process.communicate(timeout=300), process.returncode) for process in running]
    assert [(out.strip(), code) for out, _, code in outcomes] == [(HEAD, 0)] * count, outcomes
    migrations.current(empty_database_url).require()


def test_alembic_command_upgrades_from_a_checkout(empty_database_url: str) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env=_environment(empty_database_url),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stderr
    assert migrations.current(empty_database_url).revision == HEAD


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the wheel, built from this checkout and unpacked alone."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    completed = subprocess.run(build, capture_output=True, text=True, check=False, timeout=300)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    with zipfile.ZipFile(wheel) as packed:  # as pip does with a pure wheel; the environments of uv have no pip
        packed.extractall(target)
    return target


def test_installed_wheel_upgrades_a_database_to_head_and_back(installed: Path, empty_database_url: str) -> None:
    assert (installed / "bindings" / "_migrations" / "env.py").is_file()

    def run(*arguments: str) -> str:
        completed = subprocess.run(
            [sys.executable, *arguments],
            cwd=installed,
            env=_environment(empty_database_url) | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    file, head = run("-c", "import bindings; print(bindings.__file__);" + UPGRADE).split()
    assert file.startswith(str(installed))
    assert head == HEAD
    assert migrations.current(empty_database_url).revision == HEAD
    undone = json.loads(run("-m", "bindings", "db", "downgrade", "previous", "--json"))
    assert [each["revision"] for each in undone["migrations"]] == [undone["before"]] == [HEAD]
    assert migrations.current(empty_database_url).revision == undone["revision"] < HEAD
    assert not list(installed.glob("tests*"))


def _migrate(engine: Engine, to: str) -> None:
    with engine.connect() as connection:
        config = config_of_scripts()
        config.attributes["connection"] = connection
        current = MigrationContext.configure(connection).get_current_revision() or ""
        (command.downgrade if to == "-1" or to < current else command.upgrade)(config, to)
        connection.commit()


def _partitions(engine: Engine) -> list[str]:
    if engine.dialect.name == "sqlite":
        return []
    query = "SELECT CAST(inhrelid AS regclass)::text FROM pg_inherits WHERE inhparent = to_regclass('events')"
    with engine.connect() as connection:
        return list(connection.execute(text(query)).scalars())


def _assert_append_only(engine: Engine) -> None:
    tables = ["events", *_partitions(engine)]
    verbs = ["UPDATE {} SET actor = 'x'", "DELETE FROM {}"]
    verbs += ["TRUNCATE {}"] if engine.dialect.name == "postgresql" else []
    for verb in (verb.format(table) for table in tables for verb in verbs):
        with engine.connect() as connection, pytest.raises(Exception, match="append-only"):
            connection.execute(text(verb))


def _event_rows(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT position, sequence, kind, actor FROM events ORDER BY position"))
        return [tuple(row) for row in rows]


def test_every_migration_keeps_rows_and_the_append_only_triggers(empty_database_url: str) -> None:
    revisions = [script.revision for script in script_directory().walk_revisions()][::-1]
    engine = make_engine(empty_database_url)
    _migrate(engine, revisions[0])
    _insert(engine, ROW)
    for sequence, kind in enumerate(("requested", "in_doubt", "lapsed"), 1):
        _event(engine, kind, sequence)
    written = _event_rows(engine)
    for revision in revisions[1:]:
        _migrate(engine, revision)
        _assert_append_only(engine)
        assert _event_rows(engine) == written, revision
    _event(engine, "revealed", 4)
    assert _event_rows(engine)[-1][0] == written[-1][0] + 1, "positions continue"
    written = _event_rows(engine)
    for revision in revisions[-2::-1]:
        _migrate(engine, "-1")
        _assert_append_only(engine)
        assert _event_rows(engine) == written, f"down to {revision}"
    _event(engine, "revealed", 5)
    assert _event_rows(engine)[-1][0] == written[-1][0] + 1
    engine.dispose()


LAST_WITH_ONE_TABLE = "0005"
WAITS_FOR_EVENTS = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND relation ="
    " to_regclass('events')"
)
WRITE = "INSERT INTO events (sequence, kind, at, actor, detail) VALUES (0, 'held', now(), 'writer', '{}')"


@pytest.mark.postgres
def test_partitioning_of_events_blocks_no_writer_for_a_second(postgres_server: Server) -> None:
    """A writer fails after a second of waiting; a long read blocks the migration until it has given up once."""
    url = postgres_server.create()
    engine = make_engine(url)
    _migrate(engine, LAST_WITH_ONE_TABLE)
    stop, written, failures = threading.Event(), 0, []

    def write() -> None:
        nonlocal written
        with psycopg.connect(url, autocommit=True) as writer:
            writer.execute("SET lock_timeout = '1s'")
            while not stop.is_set():
                try:
                    writer.execute(WRITE)
                    written += 1
                except psycopg.Error as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=write), threading.Thread(target=lambda: migrations.upgrade(url))]
    with psycopg.connect(url) as reader, psycopg.connect(url, autocommit=True) as watcher:
        reader.execute("SELECT count(*) FROM events")

        def migration_waits() -> bool:
            return bool((watcher.execute(WAITS_FOR_EVENTS).fetchone() or [0])[0])

        for thread in threads:
            thread.start()
        wait_for(migration_waits)
        wait_for(lambda: not migration_waits())
        reader.commit()
        threads[1].join(300)
        before = written
        wait_for(lambda: written > before or bool(failures))
        stop.set()
        threads[0].join(300)
    assert failures == []
    positions = [row[0] for row in _event_rows(engine)]
    assert len(positions) == len(set(positions)) == written
    assert migrations.current(url).revision == HEAD
    with engine.connect() as connection:
        indexes = connection.execute(text("SELECT indexname FROM pg_indexes WHERE tablename = 'events_start'"))
        assert not [name for name in indexes.scalars() if name.endswith("idx")], (
            "no index was built under the lock"
        )
    engine.dispose()
    postgres_server.drop(url)


LONG_WAITS = (
    "SELECT mode FROM pg_locks WHERE NOT granted AND relation = to_regclass(%s)"
    " AND clock_timestamp() - waitstart > CAST(current_setting('deadlock_timeout') AS interval)"
)


@pytest.mark.postgres
@pytest.mark.parametrize("table", ["events", "bindings", "passes"])
def test_upgrade_waits_for_a_vacuum_without_blocking_writers(postgres_server: Server, table: str) -> None:
    """The test takes the lock of a VACUUM. The server ends an autovacuum that blocks a lock for this long."""
    url = postgres_server.create()
    engine = make_engine(url)
    _migrate(engine, LAST_WITH_ONE_TABLE)
    upgrade = threading.Thread(target=lambda: migrations.upgrade(url))
    with psycopg.connect(url) as vacuum, psycopg.connect(url, autocommit=True) as writer:
        vacuum.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
        upgrade.start()
        wait_for(lambda: bool(writer.execute(LONG_WAITS, (table,)).fetchall()))
        assert writer.execute(LONG_WAITS, (table,)).fetchall() == [("ShareUpdateExclusiveLock",)]
        writer.execute("SET lock_timeout = '1s'")
        writer.execute(WRITE)
        vacuum.commit()
        upgrade.join(300)
    assert migrations.current(url).revision == HEAD
    assert len(_event_rows(engine)) == 1
    engine.dispose()
    postgres_server.drop(url)


@pytest.mark.postgres
def test_upgrade_of_comments_says_what_keeps_a_table(postgres_server: Server) -> None:
    url = postgres_server.create()
    engine = make_engine(url)
    _migrate(engine, "0023")
    with psycopg.connect(url) as vacuum:
        vacuum.execute("LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(Busy, match="a transaction or a VACUUM keeps a table locked"):
            migrations.upgrade(url)
    assert migrations.upgrade(url) == HEAD
    engine.dispose()
    postgres_server.drop(url)


WAITS_EXCLUSIVELY = (
    "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    " WHERE datname = current_database() AND NOT granted AND mode = 'AccessExclusiveLock'"
)


@pytest.mark.postgres
@pytest.mark.parametrize("table", ["bindings", "account"])
def test_upgrade_from_0015_beside_a_long_read_blocks_no_other_reader_for_a_second(
    postgres_server: Server, table: str
) -> None:
    """The long read is that of an export or a dump; the migration waits for its end, and gives way meanwhile."""
    url = postgres_server.create()
    engine = make_engine(url)
    _migrate(engine, "0015")
    upgrade = threading.Thread(target=lambda: migrations.upgrade(url))
    with psycopg.connect(url) as export, psycopg.connect(url, autocommit=True) as reader:
        export.execute(f"SELECT count(*) FROM {table}")
        reader.execute("SET lock_timeout = '1s'")
        upgrade.start()
        for _ in range(2):
            wait_for(lambda: bool((reader.execute(WAITS_EXCLUSIVELY).fetchone() or [0])[0]))
            reader.execute(f"SELECT count(*) FROM {table}")
        assert upgrade.is_alive()
        export.rollback()
        upgrade.join(300)
    assert migrations.current(url).revision == HEAD
    engine.dispose()
    postgres_server.drop(url)


LONGEST_LOCK_WAIT_S = 5  # of migrations/env.py
BEHIND_AN_EXPORT = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'virtualxid'"
    f" AND clock_timestamp() - waitstart > interval '{LONGEST_LOCK_WAIT_S + 0.5} s'"
)


@pytest.mark.postgres
def test_index_is_built_after_a_long_export_without_blocking_writers(postgres_server: Server) -> None:
    url = postgres_server.create()
    engine = make_engine(url)
    _migrate(engine, "0006")
    upgrade = threading.Thread(target=lambda: migrations.upgrade(url))
    with psycopg.connect(url) as export, psycopg.connect(url, autocommit=True) as writer:
        export.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        export.execute("SELECT count(*) FROM bindings")
        upgrade.start()
        wait_for(lambda: (writer.execute(BEHIND_AN_EXPORT).fetchone() or (0,))[0] > 0)
        writer.execute("SET lock_timeout = '1s'")
        writer.execute(WRITE)
        writer.execute("UPDATE passes SET finished_at = finished_at")
        export.commit()
        upgrade.join(300)
    assert migrations.current(url).revision == HEAD
    engine.dispose()
    postgres_server.drop(url)


@pytest.mark.postgres
def test_repeated_migration_keeps_what_an_interrupted_one_has_built(postgres_server: Server) -> None:
    """Where the old index is dropped already, running processes have only the new one."""
    url = postgres_server.create()
    engine = make_engine(url)
    _migrate(engine, "0022")
    built, broken = (f"ix_bindings_phone_{party}_held_until_requested_at" for party in "ab")
    with psycopg.connect(url, autocommit=True) as interrupted:
        interrupted.execute(f"CREATE INDEX {built} ON bindings (phone_a, held_until, requested_at)")
        interrupted.execute("DROP INDEX ix_bindings_phone_a_held_until")
        interrupted.execute(f"CREATE INDEX {broken} ON bindings (phone_b, held_until, requested_at)")
        interrupted.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (broken,))
        before = _indexes(interrupted, built, broken)
        migrations.upgrade(url)
        after = _indexes(interrupted, built, broken)
    assert after[built] == before[built]
    assert after[broken] != before[broken]
    assert {valid for _, valid in after.values()} == {True}
    engine.dispose()
    postgres_server.drop(url)


def _indexes(connection: psycopg.Connection[Any], *names: str) -> dict[str, Any]:
    """Return by name the number of each index, and whether it is valid."""
    rows = connection.execute(
        "SELECT indexrelid::regclass::text, indexrelid::bigint, indisvalid FROM pg_index"
        " WHERE indexrelid = ANY (%s::regclass[])",
        (list(names),),
    )
    return {name: (number, valid) for name, number, valid in rows}


@pytest.mark.postgres
def test_timeouts_of_the_role_do_not_end_a_migration(postgres_server: Server) -> None:
    url = postgres_server.create()
    with psycopg.connect(url, autocommit=True) as owner:
        for timeout in ("statement_timeout", "idle_in_transaction_session_timeout"):
            owner.execute(f'ALTER DATABASE "{owner.info.dbname}" SET {timeout} = 60000'.encode())
        owner.execute(
            "CREATE FUNCTION refuse_timeouts() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF current_setting('statement_timeout') <> '0'"
            " OR current_setting('idle_in_transaction_session_timeout') <> '0'"
            " THEN RAISE 'a migration has a timeout'; END IF; END $$"
        )
        owner.execute("CREATE EVENT TRIGGER no_timeouts ON ddl_command_start EXECUTE FUNCTION refuse_timeouts()")
    assert migrations.upgrade(url) == HEAD
    postgres_server.drop(url)


def test_growing_tables_have_autovacuum_settings(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        return
    query = "SELECT relname FROM pg_class WHERE array_to_string(reloptions, ' ') LIKE '%autovacuum%'"
    with engine.connect() as connection:
        tables = set(connection.execute(text(query)).scalars())
        of_bindings = text("SELECT reloptions FROM pg_class WHERE relname = 'bindings'")
        options = connection.execute(of_bindings).scalar_one()
    assert tables == {"bindings", "events_start"}
    assert "autovacuum_vacuum_scale_factor=0.01" in options
