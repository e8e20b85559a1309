"""Two versions on one schema: which code accepts which revision, and what revision 0008 lets newer code write."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import inspect, text
from uuid_utils.compat import uuid7

from bindings.domain.binding import Caller
from bindings.errors import SchemaOutOfDate
from bindings.monitoring import health
from bindings.monitoring.check import Level
from bindings.service import BindingService
from bindings.store import migrations, partitions, schema_version
from bindings.store.database import Database
from bindings.store.engine import make_engine
from bindings.store.migrations import script_directory
from bindings.store.reserve import Replayed, Reserved
from bindings.store.schema import HEAD, SEALED_PHONES
from tests.migrations.test_migrations import ROW, _event, _insert, _migrate
from tests.service.harness import APP, A, B, C, D, E, F
from tests.store.test_reserve import request, reserve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests.store.databases import Server

FIRST_WITH_INFO = "0008"
NEWER = "9998"
LONG_KIND = "a_kind_of_exactly_32_characters_"


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    engine = make_engine(empty_database_url)
    yield engine
    engine.dispose()


def _execute(engine: Engine, *statements: str, **values: Any) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), values)


def _scalars(engine: Engine, statement: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(statement)).scalars())


def _make_newer(engine: Engine, *, readable_from: str | None) -> None:
    _execute(engine, f"UPDATE alembic_version SET version_num = '{NEWER}'")
    if readable_from is not None:
        _execute(engine, f"INSERT INTO schema_info VALUES ('{NEWER}', '{readable_from}')")


@pytest.mark.parametrize("readable_from", [FIRST_WITH_INFO, HEAD])
def test_newer_schema_that_this_code_can_work_on_is_accepted(
    empty_database_url: str, engine: Engine, readable_from: str
) -> None:
    migrations.upgrade(empty_database_url)
    with BindingService.open(database_url=empty_database_url) as service:
        _make_newer(engine, readable_from=readable_from)
        checks = {check.name: check for check in health.readiness_checks(service.runtime)}
        assert checks["schema"].level is Level.OK, checks["schema"]
    BindingService.open(database_url=empty_database_url).close()
    assert migrations.upgrade(empty_database_url) == NEWER, "an older version migrates nothing"
    assert migrations.current(empty_database_url).describe() == (
        f"at {NEWER}: newer than this version needs ({HEAD}), which can work on it"
    )


@pytest.mark.parametrize("readable_from", [None, "9997"])
def test_newer_schema_that_this_code_cannot_work_on_is_refused(
    empty_database_url: str, engine: Engine, readable_from: str | None
) -> None:
    migrations.upgrade(empty_database_url)
    _make_newer(engine, readable_from=readable_from)
    for use in (
        lambda: BindingService.open(database_url=empty_database_url),
        lambda: migrations.upgrade(empty_database_url),
    ):
        with pytest.raises(SchemaOutOfDate, match=rf"{NEWER}: too new .* needs {HEAD}; install a newer version"):
            use()
    assert migrations.current(empty_database_url).revision == NEWER


def test_schema_before_the_record_is_older(empty_database_url: str, engine: Engine) -> None:
    _migrate(engine, "0007")
    with pytest.raises(SchemaOutOfDate, match=f"at 0007, this version needs {HEAD}; run `bindings db upgrade`"):
        BindingService.open(database_url=empty_database_url)


def test_each_migration_records_which_code_can_work_on_it(engine: Engine) -> None:
    revisions = [script.revision for script in script_directory().walk_revisions()][::-1]
    recording = [revision for revision in revisions if revision >= FIRST_WITH_INFO]
    for revision in recording:
        _migrate(engine, revision)
        assert _scalars(engine, "SELECT revision FROM schema_info ORDER BY revision")[-1] == revision
    records = _scalars(engine, "SELECT readable_from FROM schema_info ORDER BY revision")
    assert len(records) == len(recording)
    assert all(readable_from <= revision for readable_from, revision in zip(records, recording, strict=True))
    _migrate(engine, "-1")
    assert recording[-1] not in (
        _scalars(engine, "SELECT revision FROM schema_info") if len(recording) > 1 else []
    )


def test_code_of_each_revision_from_0008_on_can_work_on_all_newer_ones(engine: Engine) -> None:
    _migrate(engine, HEAD)
    later = f"SELECT readable_from FROM schema_info WHERE revision > '{FIRST_WITH_INFO}'"
    assert set(_scalars(engine, later)) == {FIRST_WITH_INFO}


def test_code_before_the_encryption_of_phones_is_refused_on_later_revisions_too(engine: Engine) -> None:
    _migrate(engine, SEALED_PHONES)
    _execute(engine, "INSERT INTO account (id, scope, phone_index_key) VALUES (1, 'default', 1)")
    _migrate(engine, HEAD)
    protected = f"SELECT readable_from FROM schema_info WHERE revision >= '{SEALED_PHONES}'"
    assert set(_scalars(engine, protected)) == {SEALED_PHONES}


def _bind_again(engine: Engine, *, state: str, number: int) -> None:
    made = {"bind_id": "1001", "middle_number_a": "918806", "middle_number_b": "918806"}
    instants = {"expires_at": ROW["held_until"], "ended_at": None if state == "active" else ROW["held_until"]}
    identifier = {"id": ROW["id"][:-1] + str(number)}
    _insert(engine, ROW | made | instants | identifier | {"state": state})


def test_bind_id_is_unique_among_active_bindings_only(engine: Engine) -> None:
    _migrate(engine, HEAD)
    for number, state in enumerate(("expired", "unbound", "active")):
        _bind_again(engine, state=state, number=number)
    with pytest.raises(Exception, match=r"(?i)unique"):
        _bind_again(engine, state="active", number=9)


def test_revision_0008_is_undone_with_rows_that_only_it_allows(engine: Engine) -> None:
    """The rows stay; the database refuses new ones of that kind where the rows that are there allow it."""
    _migrate(engine, "0008")
    for number, state in enumerate(("expired", "active")):
        _bind_again(engine, state=state, number=number)
    _event(engine, LONG_KIND, 1)
    _migrate(engine, "-1")
    assert _scalars(engine, "SELECT kind FROM events") == [LONG_KIND]
    assert len(_scalars(engine, "SELECT id FROM bindings")) == 2
    with pytest.raises(Exception, match=r"(?i)unique"):
        _bind_again(engine, state="active", number=9)
    _migrate(engine, "0008")
    _event(engine, LONG_KIND, 2)


def test_positions_are_not_given_again_after_the_table_of_events_is_rebuilt(engine: Engine) -> None:
    """A feed reader's cursor may be at an event that retention has deleted."""
    _migrate(engine, "0007")
    for sequence in (1, 2, 3):
        _event(engine, "held", sequence)
    last = max(_scalars(engine, "SELECT position FROM events"))
    if engine.dialect.name == "sqlite":
        values = {"scope": "default", "last": last}
        _execute(
            engine,
            "INSERT INTO account (id, scope, gone_tx, gone_position) VALUES (1, :scope, 0, :last)",
            **values,
        )
        _execute(engine, "DELETE FROM events")
    _migrate(engine, "0008")
    _event(engine, LONG_KIND, 4)
    assert max(_scalars(engine, "SELECT position FROM events")) == last + 1


KEY = (
    "INSERT INTO keys (id, name, role, hash, prefix, created_at, created_by) VALUES"
    " ('0190b5a0-0000-7000-8000-00000000000{number}', 'a', '{role}', '{number}', 'bnd_', '2026-03-01', 'test')"
)
SESSION = (
    "INSERT INTO sessions (hash, key_id, began_at, seen_at, expires_at) SELECT 's', id, created_at, created_at,"
    " created_at FROM keys WHERE role = 'auditor'"
)


def test_revision_0012_keeps_keys_and_sessions_and_accepts_roles_of_later_versions(engine: Engine) -> None:
    """After a downgrade the list of roles is there again, unless a key has another role."""
    _migrate(engine, "0011")
    _execute(engine, KEY.format(number=1, role="auditor"), SESSION)
    _migrate(engine, "0012")
    _migrate(engine, "-1")
    with pytest.raises(Exception, match=r"(?i)check constraint"):
        _execute(engine, KEY.format(number=2, role="router"))
    _migrate(engine, "0012")
    _execute(engine, KEY.format(number=2, role="router"))
    _migrate(engine, "-1")
    assert _scalars(engine, "SELECT role FROM keys ORDER BY id") == ["auditor", "router"]
    _migrate(engine, "0012")
    assert _scalars(engine, "SELECT role FROM keys JOIN sessions ON key_id = keys.id") == ["auditor"]


LINKS = ("replaces", "replaced_by", "waits_for")


def _columns_and_indexes(engine: Engine) -> set[str]:
    inspected = inspect(engine)
    columns = {str(column["name"]) for column in inspected.get_columns("bindings")}
    return columns | {str(index["name"]) for index in inspected.get_indexes("bindings")}


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_revision_0014_is_undone_and_keeps_the_links_of_replaced_bindings(engine: Engine) -> None:
    """Without a replaced binding its columns are dropped."""
    _migrate(engine, "0014")
    _insert(engine, ROW)
    added = {*LINKS, "ix_bindings_waiting"}
    assert added <= _columns_and_indexes(engine)
    _migrate(engine, "-1")
    assert not added & _columns_and_indexes(engine)
    _migrate(engine, "0014")
    _execute(engine, "UPDATE bindings SET replaces = id, replaced_by = id")
    for revision in ("-1", "0014"):
        _migrate(engine, revision)
        assert added & _columns_and_indexes(engine) == (added if revision == "0014" else set(LINKS))
        assert _scalars(engine, "SELECT count(*) FROM bindings WHERE replaces = id AND replaced_by = id") == [1]


OF_EVENTS = (
    "FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid IN (SELECT CAST('events' AS regclass)"
    " UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = CAST('events' AS regclass))"
)
INDEX_COLUMNS = (
    f"SELECT CAST(indkey AS text) || coalesce(pg_get_expr(indpred, indrelid), '') {OF_EVENTS} ORDER BY 1"
)


@pytest.mark.postgres
def test_every_partition_keeps_its_indexes_when_the_kind_is_widened(postgres_server: Server) -> None:
    url = postgres_server.create()
    engine, database = make_engine(url), Database(url)
    now = datetime(2026, 3, 1, tzinfo=UTC)
    _migrate(engine, "0007")
    database.write(lambda tx: partitions.create(tx, 1, now))
    before = _scalars(engine, INDEX_COLUMNS)
    _migrate(engine, "0008")
    assert _scalars(engine, INDEX_COLUMNS) == before
    assert _scalars(engine, f"SELECT relname {OF_EVENTS} AND NOT indisvalid") == []
    database.write(lambda tx: partitions.create(tx, 2, now))
    database.close()
    engine.dispose()
    postgres_server.drop(url)


# Idempotency keys: statements of the version of 0009 beside those of this version.

KEY_ROW = ROW | {"app_id": APP, "idempotency_key": "k", "state": "failed", "ended_at": ROW["requested_at"]}


def _bind_by_0009(engine: Engine, actor: str, **changed: Any) -> tuple[bool, list[str]]:
    """Insert as code of 0009 does; return whether it did, and the actors whose bindings it finds by the key."""
    row = KEY_ROW | {"id": str(uuid7()), "actor": actor} | changed
    names = ", ".join(row)
    insert = (
        f"INSERT INTO bindings ({names}) VALUES ({', '.join(f':{name}' for name in row)})"
        " ON CONFLICT DO NOTHING RETURNING id"
    )
    find = "SELECT actor FROM bindings WHERE app_id = :app_id AND idempotency_key = :idempotency_key"
    with engine.begin() as connection:
        inserted = connection.execute(text(insert), row).scalar() is not None
        return inserted, list(connection.execute(text(find), row).scalars())


def _bind(database: Database, actor: str, phone_a: str = A, phone_b: str = B) -> Any:
    return reserve(database, request(phone_a, phone_b, idempotency_key="k"), caller=Caller(actor=actor))


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    migrations.upgrade(empty_database_url)
    database = Database(empty_database_url)
    yield database
    database.close()


def test_key_that_one_release_used_is_found_by_the_other(engine: Engine, database: Database) -> None:
    assert _bind_by_0009(engine, "rides") == (True, ["rides"])
    assert isinstance(_bind(database, "rides"), Replayed)
    assert _bind_by_0009(engine, "rides") == (False, ["rides"])


def test_key_that_this_version_used_is_repeated_at_the_other(engine: Engine, database: Database) -> None:
    assert isinstance(_bind(database, "rides"), Reserved)
    assert _bind_by_0009(engine, "rides") == (False, ["rides"])
    assert isinstance(_bind(database, "food", C, D), Reserved)
    assert _bind_by_0009(engine, "food") == (False, ["rides"]), "a mismatch there, and no second binding"


def test_old_version_makes_no_second_binding_after_the_first_actor_s_is_deleted(
    engine: Engine, database: Database
) -> None:
    assert _bind_by_0009(engine, "rides") == (True, ["rides"])
    assert isinstance(_bind(database, "food", C, D), Reserved)
    _delete_bindings_of(engine, "rides")
    assert _bind_by_0009(engine, "food") == (False, [])
    assert isinstance(_bind(database, "food", C, D), Replayed)


def test_keys_of_a_second_actor_outlast_a_downgrade(engine: Engine, database: Database) -> None:
    _bind_by_0009(engine, "rides")
    food, other = _bind(database, "food", C, D).binding, _bind(database, "other", E, F).binding
    _migrate(engine, "0009")
    _delete_bindings_of(engine, "rides")
    assert _bind_by_0009(engine, "other") == (True, ["other"]), "0009 knows no second key"
    _migrate(engine, HEAD)
    assert _bind(database, "food", C, D) == Replayed(binding=food, same=True)
    assert _bind(database, "other", E, F).binding.id != other.id, "the newer binding has the key"
    assert len(_scalars(engine, "SELECT id FROM bindings")) == 3


def _delete_bindings_of(engine: Engine, actor: str) -> None:
    """Delete ended bindings as retention does."""
    values = {"actor": actor, "kept_from": "2999-01-01T00:00:00.000000Z"}
    _execute(engine, "INSERT INTO account (id, scope, kept_from) VALUES (1, 'default', :kept_from)", **values)
    _execute(engine, "DELETE FROM bindings WHERE actor = :actor", **values)


def test_version_before_any_migration_says_so(engine: Engine, empty_database_url: str) -> None:
    engine.connect().close()  # creates the SQLite file
    database = Database(empty_database_url)
    version = schema_version.read(database)
    database.close()
    assert (version.revision, version.accepted, version.newer) == (None, False, False)
    assert version.remedy() == "run `bindings db upgrade`"
