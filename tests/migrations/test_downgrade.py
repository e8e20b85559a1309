"""`bindings db downgrade`: what it says is lost, when it is refused, and what it waits for."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import select

from bindings.domain.acts import Act, describe
from bindings.domain.binding import Caller
from bindings.errors import Busy, InvalidRequest, SchemaOutOfDate
from bindings.service import BindingService
from bindings.store import downgrade, events, migration_locks, migrations, schema
from bindings.store.downgrade import ACTS_SINCE, OLDEST, PREVIOUS
from bindings.store.engine import make_engine
from bindings.store.migrations import script_directory
from bindings.store.schema import HEAD
from tests.migrations.test_migrations import ROOT, ROW, WAITS_EXCLUSIVELY, _insert
from tests.migrations.test_two_versions import NEWER, _execute, _make_newer, _scalars
from tests.service.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests.store.databases import Server


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


CALLER = Caller(actor="cli:ann")
AT = "2026-03-01T12:00:00.000000Z"
BINDING_OF_EACH_LOSS: tuple[dict[str, Any], ...] = (
    {"max_expire_s": 3_600},
    {"duplicate_key": "k"},
    {"facts_salt": b"salt"},
)
ROW_OF_EACH_LOSS = (  # besides those of bindings
    f"INSERT INTO bind_counts VALUES (60, '{AT}', 'a', '918806', 'failed', '-41', 1)",
    f"INSERT INTO budgets VALUES ('a', '', 'phone_searches', '{AT}', 1, NULL)",
    "INSERT INTO texts VALUES (1, 'reason', NULL, 'why', '')",
    f"INSERT INTO seals VALUES (1, 0, 1, '{{}}', '', '{AT}')",
    (
        "INSERT INTO refusals (id, at, code, mode, phone_a, phone_b, pool_number, app_id, actor)"
        f" VALUES ('{ROW['id']}', '{AT}', 'phone-in-use', 'AXB', '91', '92', '918806', 'a', 'test')"
    ),
)


def _losses(url: str) -> dict[str, list[str]]:
    return {migration.revision: migration.losses for migration in downgrade.plan(url, OLDEST).migrations}


def test_plan_names_exactly_what_is_there_to_be_lost(database_url: str, engine: Engine) -> None:
    documented = {
        script.revision: [*script.module.LOSSES] for script in script_directory().iterate_revisions(HEAD, OLDEST)
    }
    assert _losses(database_url) == {revision: [] for revision in documented}
    for number, columns in enumerate(BINDING_OF_EACH_LOSS, 1):
        _insert(engine, ROW | {"id": ROW["id"][:-1] + str(number)} | columns)
    _execute(engine, *ROW_OF_EACH_LOSS)
    assert _losses(database_url) == documented
    assert migrations.current(database_url).revision == HEAD


def test_encrypted_phones_keep_the_schema_that_reads_them(database_url: str, engine: Engine) -> None:
    _execute(engine, "INSERT INTO account (id, scope, phone_index_key) VALUES (1, 'default', 1)")
    downgrade.plan(database_url, "0018").require(lose_data=False, processes_ended=False)
    with pytest.raises(InvalidRequest, match=r"revision must be 0018 or later: phones are encrypted"):
        downgrade.plan(database_url, "0017").require(lose_data=True, processes_ended=True)


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("9997", f"must not be newer than the schema, which is at {HEAD}"),
        ("0007", "must be 0008 or later"),
        ("19", "must be four digits"),
        ("-1", "must be four digits"),
    ],
)
def test_revision_that_cannot_be_reached_is_refused(sqlite_url: str, revision: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"revision {message}"):
        downgrade.plan(sqlite_url, revision)


def test_migration_of_a_newer_version_is_left_to_that_version(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    _make_newer(engine, readable_from=HEAD)
    engine.dispose()
    with pytest.raises(SchemaOutOfDate, match=f"at {NEWER}, .* up to {HEAD}; nothing was changed"):
        downgrade.plan(sqlite_url, PREVIOUS)


def test_processes_that_need_a_newer_schema_are_named(database_url: str, engine: Engine) -> None:
    BindingService.open(database_url=database_url).close()
    name = _scalars(engine, "SELECT name FROM replicas")[0]
    plan = downgrade.plan(database_url, PREVIOUS)
    assert plan.processes == [f"{name} (for {HEAD})"]
    with pytest.raises(InvalidRequest, match=rf"processes_ended is needed, .*: {name} \(for {HEAD}\)"):
        plan.require(lose_data=False, processes_ended=False)
    plan.require(lose_data=False, processes_ended=True)
    _execute(engine, f"UPDATE replicas SET schema_revision = '{plan.revision}'")
    assert downgrade.plan(database_url, PREVIOUS).processes == []


def test_each_undone_migration_is_an_act_if_the_older_version_reads_it(
    own_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    engine = make_engine(own_database_url)
    _execute(engine, f"INSERT INTO bind_counts VALUES (60, '{AT}', 'a', '918806', 'failed', '-41', 1)")
    path = [*script_directory().iterate_revisions(HEAD, "0017")]
    last_act = next(script.down_revision for script in reversed(path) if script.revision > ACTS_SINCE)
    downgrade.run(own_database_url, downgrade.plan(own_database_url, str(last_act)), CALLER)
    with engine.connect() as connection:
        recorded = events.read(connection, select(*events.COLUMNS).order_by(schema.events.c.position))
    assert {(event.kind, event.actor) for event in recorded} == {("administered", "cli:ann")}
    assert [event.detail["migration"] for event in recorded] == [
        script.revision for script in path if script.revision > ACTS_SINCE
    ]
    [losing] = [event for event in recorded if event.detail["migration"] == "0021"]
    assert losing.detail == {
        "act": Act.SCHEMA_DOWNGRADED,
        "migration": "0021",
        "revision": "0020",
        "losses": [*script_directory().get_revision("0021").module.LOSSES],
    }
    assert describe(losing.detail) == "migration of the schema undone: migration 0021"
    assert not caplog.messages
    downgrade.run(own_database_url, downgrade.plan(own_database_url, "0017"), CALLER)
    assert len(_scalars(engine, "SELECT kind FROM events")) == len(recorded)
    assert [message.partition(";")[0] for message in caplog.messages] == [
        f"cli:ann undid migration {revision}, lost: nothing" for revision in (ACTS_SINCE, "0018")
    ]
    engine.dispose()


@pytest.mark.postgres
def test_downgrade_beside_a_long_read_blocks_no_other_reader(
    postgres_server: Server, postgres_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long read of an export or a dump: the downgrade gives way, gives up once, and is done afterwards."""
    url = postgres_server.create(template=postgres_template)
    plan = downgrade.plan(url, "0019")
    monkeypatch.setattr(migration_locks, "TRIES", 2)
    monkeypatch.setattr(migration_locks, "PAUSE_S", 0.0)
    refusals: list[Busy] = []

    def run() -> None:
        try:
            downgrade.run(url, plan, CALLER)
        except Busy as busy:
            refusals.append(busy)

    with psycopg.connect(url) as export, psycopg.connect(url, autocommit=True) as reader:
        export.execute("SELECT count(*) FROM budgets")
        reader.execute("SET lock_timeout = '1s'")
        thread = threading.Thread(target=run)
        thread.start()
        for _ in range(2):
            wait_for(lambda: bool((reader.execute(WAITS_EXCLUSIVELY).fetchone() or [0])[0]))
            reader.execute("SELECT count(*) FROM budgets")
        thread.join(300)
    assert "keeps a table locked; the schema is at 0020, and nothing more was done" in str(refusals[0])
    downgrade.run(url, plan, CALLER)
    assert migrations.current(url).revision == "0019"
    postgres_server.drop(url)


def _documented_query(engine: Engine) -> str:
    """Return the query of the how-to for the bindings that undoing 0011 affects."""
    page = (ROOT / "docs" / "how-to" / "upgrade.md").read_text(encoding="utf-8")
    [query] = re.findall(r"```sql\n(SELECT id, state FROM bindings\n.*?);\n```", page, re.DOTALL)
    [instead] = re.findall(r"On SQLite, write `(strftime\(.*?\))`", page)
    return str(query.replace("now()", instead) if engine.dialect.name == "sqlite" else query).replace(":", r"\:")


def test_provider_s_ends_are_lost_only_if_that_is_confirmed(own_database_url: str) -> None:
    """The provider's end of a binding is lost with the column of 0011; its phones stay held as long as before."""
    engine = make_engine(own_database_url)
    promised = {"state": "active", "max_expire_s": 3600, "provider_expires_at": "2026-03-01T13:00:00.000000Z"}
    answered = {"bind_id": "1001", "middle_number_a": "918806", "middle_number_b": "918806"}
    instants = {"expires_at": "2026-03-01T12:01:00.000000Z", "held_until": "2999-03-01T13:01:00.000000Z"}
    _insert(engine, ROW | promised | answered | instants)
    assert _scalars(engine, _documented_query(engine)) == [ROW["id"]]
    held_until = _scalars(engine, "SELECT held_until FROM bindings")
    undo = downgrade.plan(own_database_url, "0010")
    with pytest.raises(InvalidRequest, match="lose_data is needed: this deletes the provider's end of bindings"):
        undo.require(lose_data=False, processes_ended=False)
    downgrade.run(own_database_url, undo, CALLER)
    assert migrations.current(own_database_url).revision == "0010"
    with pytest.raises(SchemaOutOfDate, match="run `bindings db upgrade`"):
        BindingService.open(database_url=own_database_url)
    migrations.upgrade(own_database_url)
    assert _scalars(engine, "SELECT held_until FROM bindings") == held_until
    assert _scalars(engine, "SELECT provider_expires_at FROM bindings") == [None]
    engine.dispose()
