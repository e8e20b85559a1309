"""The checks of the triggers and of the rights of a role, on databases whose guards were changed by hand."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from sqlalchemy import text, update
from sqlalchemy.engine import make_url

from bindings.cli.root import root
from bindings.domain.binding import Caller, EventKind
from bindings.errors import Busy
from bindings.monitoring.check import Level
from bindings.monitoring.protection_checks import of_integrity, of_rights, of_triggers
from bindings.store import events, migrations, partitions, protection
from bindings.store.account import register_scope
from bindings.store.database import Database
from bindings.store.grants import FUNCTION
from bindings.store.schema import HEAD, account
from bindings.store.temporary_database import name_of
from tests.store.test_roles import restricted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.monitoring.check import Check
    from bindings.store.database import Transaction
    from tests.store.databases import Server

IN_ORDER = "all that guard the history are there, enabled and unchanged"
NOT_IN_ORDER = "triggers that guard what was recorded are not as they must be: "
CAUSE = "find out who changed them, and what was written since; a new database has them as they must be"
OWNS = ", which may change the tables and disable the triggers"
USE_ANOTHER = "use a role with the rights of `bindings db grants` for the service, and this one to administer it"
RIGHTS_DIFFER = (
    "the rights of {} are not those of this version; more than it needs: INSERT of keys.created_at, INSERT of"
    " keys.created_by, INSERT of keys.expires_at, INSERT of keys.hash, INSERT of keys.id and 10 more; lacking:"
    " DELETE on sessions"
)
CREATE_AGAIN = "create them as in a new database, once no rows violate them; a restore may have ended with errors"
HIDDEN = (
    "row-level security may hide rows from {}, so that a conflict is not seen, and refuse new ones:"
    " bindings, holds"
)
BYPASS = "turn it off for each table (DISABLE ROW LEVEL SECURITY), or give the role BYPASSRLS"
MAINTENANCE = "those of bindings and exports let changes pass until "
MAINTENANCE_ENDS = "set account.maintenance_until to NULL when the work is done"


@pytest.fixture
def database(own_database_url: str) -> Iterator[Database]:
    database = Database(own_database_url)
    yield database
    database.close()


def _run(database: Database, *statements: str) -> None:
    def work(connection: object) -> None:
        for statement in statements:
            connection.execute(text(statement))  # type: ignore[attr-defined]

    database.write(lambda tx: work(tx.connection))


def _seen(check: Check) -> tuple[Level, str, str | None]:
    return check.level, check.seen, check.todo


def test_new_database_has_exactly_the_triggers_that_are_compared(database: Database) -> None:
    assert _seen(of_triggers(database)) == (Level.OK, IN_ORDER, None)
    if database.postgres:
        names = {
            f"{table}.{trigger}"
            for table, trigger in database.read(protection.digests_of_postgresql)
            if not trigger.startswith("RI_ConstraintTrigger") and table != "events_start"
        }
        assert names == set(protection.TRIGGERS_OF_POSTGRESQL)
        assert database.read(protection.trigger_context).functions == protection.FUNCTIONS_OF_POSTGRESQL
    else:
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        names = set(database.read(lambda connection: connection.execute(text(triggers)).scalars().all()))
        assert names == set(protection.TRIGGERS_OF_SQLITE)


@pytest.mark.parametrize("defaults_first", [True, False], ids=["before the migrations", "after the migrations"])
def test_triggers_are_in_order_where_the_database_quotes_all_identifiers(
    postgres_server: Server, *, defaults_first: bool
) -> None:
    url = postgres_server.create()
    if not defaults_first:
        migrations.upgrade(url)
    with psycopg.connect(url, autocommit=True) as connection:
        quote = sql.SQL("ALTER DATABASE {} SET quote_all_identifiers = on")
        connection.execute(quote.format(sql.Identifier(name_of(url))))
    migrations.upgrade(url)
    with closing(Database(url)) as database:
        assert _seen(of_triggers(database)) == (Level.OK, IN_ORDER, None)
    postgres_server.drop(url)


def test_changed_trigger_is_red_and_named(database: Database, own_database_url: str) -> None:
    if database.postgres:
        database.write(lambda tx: partitions.create(tx, 1, datetime(2026, 4, 1, tzinfo=UTC)))
        assert of_triggers(database).level is Level.OK
        _run(
            database,
            "ALTER TABLE events_start DISABLE TRIGGER events_refuse_change",
            "ALTER TABLE events_2026_04 DISABLE TRIGGER events_refuse_truncate",
            "ALTER TABLE bindings ENABLE REPLICA TRIGGER bindings_only_forward",
            "DROP TRIGGER reports_refuse_truncate ON reports",
            "CREATE OR REPLACE FUNCTION refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN NEW; END $$",
            f"ALTER FUNCTION {FUNCTION} SECURITY DEFINER",
        )
        expected = [
            *(
                f"{name} is changed"
                for name in ("bindings_as_asked on bindings", "bindings_keep_salt on bindings")
            ),
            "bindings_only_forward on bindings is disabled",
            "events_refuse_change on events_start is disabled",
            "events_refuse_truncate on events_2026_04 is disabled",
            *(
                f"exports_{name} on exports is changed"
                for name in ("as_recorded", "refuse_delete", "refuse_truncate")
            ),
            "reports_refuse_truncate on reports is missing",
            f"the function {FUNCTION} is changed",
        ]
    else:
        _run(
            database,
            "DROP TRIGGER events_refuse_delete",
            "DROP TRIGGER bindings_as_asked",
            "CREATE TRIGGER bindings_as_asked BEFORE UPDATE ON bindings WHEN 0 BEGIN SELECT 1; END",
        )
        expected = ["bindings_as_asked is changed", "events_refuse_delete is missing"]
    assert _seen(of_triggers(database)) == (Level.RED, NOT_IN_ORDER + ", ".join(expected), CAUSE)
    result = CliRunner(env={"BINDINGS_DATABASE_URL": own_database_url}).invoke(root, ["db", "check"])
    assert result.exit_code == 1
    assert f"{NOT_IN_ORDER}{expected[0]}" in " ".join(result.stderr.split())


@pytest.mark.postgres
def test_missing_function_and_a_second_one_of_its_name_are_red(
    postgres_server: Server, postgres_template: str
) -> None:
    url = postgres_server.create(template=postgres_template)
    database = Database(url)
    try:
        _run(database, f"CREATE FUNCTION {FUNCTION}(text) RETURNS text LANGUAGE sql AS 'SELECT $1'")
        assert of_triggers(database).seen == f"{NOT_IN_ORDER}the function {FUNCTION} is changed"
        _run(database, f"DO 'BEGIN DROP ROUTINE {FUNCTION}(text); DROP FUNCTION {FUNCTION}; END'")
        assert of_triggers(database).seen == f"{NOT_IN_ORDER}the function {FUNCTION} is missing"
    finally:
        database.close()
        postgres_server.drop(url)


def test_missing_constraints_are_red_and_missing_indexes_a_warning(database: Database) -> None:
    assert _seen(of_integrity(database)) == (Level.OK, "every index and constraint is there and valid", None)
    _run(database, "DROP INDEX ix_bindings_due")
    slow = "indexes are missing or not valid, so some queries read whole tables: ix_bindings_due"
    assert _seen(of_integrity(database)) == (
        Level.WARN,
        slow,
        "create them as in a new database, on PostgreSQL with CONCURRENTLY",
    )
    expected = ["uq_bindings_app_id_bind_id", "uq_holds_known"]
    _run(database, *(f"DROP INDEX {name}" for name in expected))
    if database.postgres:
        database.write(lambda tx: partitions.create(tx, 1, datetime(2026, 4, 1, tzinfo=UTC)))
        _run(
            database,
            "DROP INDEX uq_events_2026_04_terminal",
            "ALTER TABLE bindings DROP CONSTRAINT ck_bindings_held",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'uq_keys_hash'::regclass",
        )
        expected = sorted([*expected, "uq_events_2026_04_terminal", "ck_bindings_held", "uq_keys_hash"])
    lacking = f"unique indexes or constraints are missing or not valid: {', '.join(expected)}"
    assert _seen(of_integrity(database)) == (Level.RED, lacking, CREATE_AGAIN)
    _run(database, "UPDATE alembic_version SET version_num = '9998'")
    not_compared = f"not compared: the schema is at 9998, and this version knows the indexes of {HEAD}"
    assert _seen(of_integrity(database)) == (Level.OK, not_compared, None)


@pytest.mark.postgres
def test_detached_partition_is_red_and_named_by_each_write(
    postgres_server: Server, postgres_template: str
) -> None:
    url = postgres_server.create(template=postgres_template)
    with closing(Database(url)) as database:

        def write(tx: Transaction) -> None:
            events.append_without_binding(tx, EventKind.REVEALED, Caller(actor="test"), {})

        _run(database, "ALTER TABLE events DETACH PARTITION events_start")
        with pytest.raises(Busy, match="the write violated the bounds of the partitions of events and was"):
            database.write(write)
        check = of_integrity(database)
        assert (check.level, check.seen) == (
            Level.RED,
            "the partition of the table events for new events is missing or detached, so nothing can be recorded",
        )
        assert check.todo is not None
        assert check.todo.startswith("attach it again: ALTER TABLE events ATTACH PARTITION ... FOR VALUES FROM (")
        _run(database, "CREATE TABLE events_rest PARTITION OF events DEFAULT")
        assert "partition" not in of_integrity(database).seen, "it takes new events"
        _run(database, "DROP TABLE events_rest")
        _run(database, check.todo.removeprefix("attach it again: ").replace("...", "events_start"))
        assert of_integrity(database).level is Level.OK
        database.write(write)
        _run(
            database,
            "ALTER TABLE events ADD COLUMN own integer DEFAULT 1 NOT NULL",
            "ALTER TABLE events ALTER COLUMN own DROP DEFAULT",
        )
        with pytest.raises(Busy, match=r"the write violated NOT NULL of the column events_start\.own"):
            database.write(write)
    postgres_server.drop(url)


@pytest.mark.postgres
def test_positions_that_begin_again_are_red_and_busy_until_the_command(
    postgres_server: Server, postgres_template: str
) -> None:
    """Logical replication copies rows, and no sequences."""
    url = postgres_server.create(template=postgres_template)
    with closing(Database(url)) as database:

        def write(tx: Transaction) -> None:
            events.append_without_binding(tx, EventKind.REVEALED, Caller(actor="test"), {})

        database.write(write)
        database.write(write)
        _run(database, "SELECT setval('events_position_seq', 1)")
        with pytest.raises(Busy, match="the write violated pk_events_start and was rolled back"):
            database.write(write)
        _run(database, "SELECT setval('events_position_seq', 1)")
        behind = "new events would get positions that are recorded already, as after a move that copied only rows"
        todo = "run `bindings db moved` as the owner of the tables"
        assert _seen(of_integrity(database)) == (Level.RED, behind, todo)
        moved = CliRunner(env={"BINDINGS_DATABASE_URL": url}).invoke(root, ["db", "moved", "--json"])
        assert json.loads(moved.stdout) == {"continued": True}
        assert of_integrity(database).level is Level.OK
        database.write(write)
    postgres_server.drop(url)


@pytest.mark.postgres
def test_role_whose_connections_fire_no_trigger_is_red(postgres_server: Server, postgres_template: str) -> None:
    url = postgres_server.create(template=postgres_template)
    with psycopg.connect(url, autocommit=True) as owner:
        replica = sql.SQL("ALTER DATABASE {} SET session_replication_role = replica")
        owner.execute(replica.format(sql.Identifier(name_of(url))))
    with closing(Database(url)) as database:
        none_fires = "none fires on the connections of this process: their session_replication_role is replica"
        assert _seen(of_triggers(database)) == (Level.RED, NOT_IN_ORDER + none_fires, CAUSE)
    postgres_server.drop(url)


@pytest.mark.postgres
def test_row_level_security_that_hides_rows_is_red_until_the_role_bypasses_it(
    postgres_server: Server, postgres_template: str
) -> None:
    owner_url = postgres_server.create(template=postgres_template)
    with restricted(owner_url) as url, psycopg.connect(owner_url, autocommit=True) as owner:
        for table in ("bindings", "holds"):
            owner.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY".encode())
        with closing(Database(url)) as database:
            role = of_rights(database).seen.partition(" from ")[2].partition(", so that")[0]
            assert _seen(of_rights(database)) == (Level.RED, HIDDEN.format(role), BYPASS)
            owner.execute(sql.SQL("ALTER ROLE {} BYPASSRLS").format(sql.Identifier(role)))
            assert of_rights(database).level is Level.OK
        with closing(Database(owner_url)) as database:
            assert of_rights(database).level is Level.WARN, "it does not apply to the owner of the tables"
    postgres_server.drop(owner_url)


@pytest.mark.postgres
def test_function_that_hides_that_of_the_tables_is_red(postgres_server: Server, postgres_template: str) -> None:
    url = postgres_server.create(template=postgres_template)
    database = Database(url)
    copy = f"replace(pg_get_functiondef('public.{FUNCTION}'::regproc), 'public.', 'earlier.')"
    try:
        _run(database, "CREATE SCHEMA earlier", f"DO $do$ BEGIN EXECUTE {copy}; END $do$")
        assert of_triggers(database).level is Level.OK, "no call finds it"
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(f'ALTER DATABASE "{owner.info.dbname}" SET search_path = earlier, public'.encode())
        database.close()
        database = Database(url)
        assert of_triggers(database).seen == f"{NOT_IN_ORDER}the function {FUNCTION} is changed"
    finally:
        database.close()
        postgres_server.drop(url)


def test_maintenance_under_way_is_a_warning_and_another_schema_is_not_compared(database: Database) -> None:
    register_scope(database, "default")
    until = database.clock() + timedelta(minutes=10)
    database.write(lambda tx: tx.connection.execute(update(account).values(maintenance_until=until)))
    expected = f"{MAINTENANCE}{until:%Y-%m-%d %H:%M:%SZ}"
    assert _seen(of_triggers(database)) == (Level.WARN, expected, MAINTENANCE_ENDS)
    over = until - timedelta(minutes=20)
    database.write(lambda tx: tx.connection.execute(update(account).values(maintenance_until=over)))
    assert of_triggers(database).level is Level.OK
    _run(database, "UPDATE alembic_version SET version_num = '9998'")
    not_compared = f"not compared: the schema is at 9998, and this version knows the triggers of {HEAD}"
    assert _seen(of_triggers(database)) == (Level.OK, not_compared, None)


def test_sqlite_has_no_roles(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    assert _seen(of_rights(database)) == (Level.OK, "SQLite has no roles: the mode of the file decides", None)
    database.close()


@pytest.mark.postgres
def test_rights_that_are_not_those_of_the_service_are_a_warning(postgres_url: str) -> None:
    owner = Database(postgres_url)
    check = of_rights(owner)
    owner.close()
    name = make_url(postgres_url).username
    assert _seen(check) == (Level.WARN, f"this process uses {name}{OWNS}", USE_ANOTHER)
    with restricted(postgres_url) as url:
        database = Database(url)
        check = of_rights(database)
        role = check.seen.partition(" has the rights that the service needs, and no others")[0]
        assert _seen(check) == (Level.OK, f"{role} has the rights that the service needs, and no others", None)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            for statement in (
                "GRANT UPDATE (phone_a), REFERENCES ON bindings TO {}",
                "GRANT INSERT ON keys TO {}",
                "GRANT TRUNCATE ON events_start TO {}",
                "REVOKE DELETE ON sessions FROM {}",
            ):
                connection.execute(sql.SQL(statement).format(sql.Identifier(role)))
        check = of_rights(database)
        database.close()
    grant = "run the SQL of `bindings db grants` as the owner of the tables"
    assert _seen(check) == (Level.WARN, RIGHTS_DIFFER.format(role), grant)
