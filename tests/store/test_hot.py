"""A hot statement answers as SQLAlchemy does, and fails as SQLAlchemy does, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import psycopg
import pytest
from sqlalchemy import exc, literal_column, select, text

from bindings.domain.phone import Phone
from bindings.service import BindingService
from bindings.store import engine
from bindings.store.compiled import CompiledStatement
from bindings.store.database import Database
from bindings.store.queries import Lookups, lookup
from bindings.store.schema import bindings
from tests.faults.proxy import CommitProxy
from tests.service.harness import APP, KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from tests.service.harness import World

PHONE_A, PHONE_B = "9188067701", "9188067799"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def asked(service: BindingService, number: str) -> list[object]:
    return [
        service.lookup(phone=PHONE_A),
        service.lookup(middle_number=number),
        service.lookup(middle_number=number, party=PHONE_B),
    ]


def test_it_gives_what_sqlalchemy_gives(world: World) -> None:
    """On the clock of a test; the next test runs on the database's own."""
    made = world.service.get(world.bind(PHONE_A, PHONE_B, reference="order 1").id)
    hot = asked(world.service, str(made.middle_number_a))
    with mock.patch.object(
        CompiledStatement, "fetch_all", lambda hot, connection, values: connection.execute(hot._statement, values)
    ):
        plain = asked(world.service, str(made.middle_number_a))
    assert hot == plain == [[made]] * 3
    world.clock.advance(100_000)
    assert asked(world.service, str(made.middle_number_a)) == [[]] * 3


def test_a_connection_that_was_lost_meanwhile_costs_no_answer(service: BindingService, database_kind: str) -> None:
    made = service.bind(phone_a=PHONE_A, phone_b=PHONE_B, pool_number="91", expire_s=60, mode="AXB")
    assert service.lookup(phone=PHONE_A) == [made]
    if database_kind == "postgresql":
        url = service.settings.database_url.get_secret_value()
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    assert service.lookup(phone=PHONE_A) == [made]
    assert service.runtime.database.connections_in_use() == 0


def test_a_mistake_is_told_in_sqlalchemys_words(database: Database) -> None:
    wrong = CompiledStatement(select(literal_column("no_such_column")).select_from(bindings))
    for _ in range(2):
        with pytest.raises((exc.OperationalError, exc.ProgrammingError), match="no_such_column"):
            database.read(wrong.fetch_all, {})
    assert database.connections_in_use() == 0


@pytest.mark.postgres
@pytest.mark.parametrize("pools", [False, True], ids=["direct", "behind a pooler"])
def test_the_server_plans_once_but_for_a_pooler_whose_servers_take_turns(
    postgres_url: str, *, pools: bool
) -> None:
    with CommitProxy(f"{postgres_url}?sslmode=disable", pools=pools) as proxy:
        database = Database(proxy.url)
        lookups = Lookups(database.now)
        for _ in range(3):
            assert database.read(lookup, lookups.by_phone, phone=Phone(PHONE_A)) == []
        seen = "SELECT count(*) FROM pg_prepared_statements"
        assert database.read(lambda found: found.execute(text(seen)).scalar()) == (0 if pools else 1)
        database.close()


@pytest.mark.postgres
def test_a_column_that_got_another_type_meanwhile_costs_no_answer(postgres_url: str) -> None:
    """Its plans are those of before; on a connection that only reads nothing else would end them."""
    database = Database(postgres_url)
    lookups = Lookups(database.now)

    def asked() -> list[Binding]:
        return database.read(lookup, lookups.by_phone, phone=Phone(PHONE_A))

    assert asked() == []
    with psycopg.connect(postgres_url, autocommit=True) as migration:
        migration.execute("ALTER TABLE bindings ALTER reference TYPE text")
        try:
            assert asked() == []
        finally:
            migration.execute("ALTER TABLE bindings ALTER reference TYPE varchar(255)")
    assert asked() == []
    database.close()


@pytest.mark.postgres
def test_a_yes_is_recorded_beside_lookups_that_have_every_connection_of_theirs(
    postgres_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the other way round: they are the pools of two engines."""
    monkeypatch.setitem(engine.POOL, "pool_size", 1)
    monkeypatch.setitem(engine.POOL, "max_overflow", 0)
    with BindingService.open(
        database_url=postgres_url,
        provider_url=simulator.url,
        provider_api_key=KEY,
        provider_api_secret=SECRET,
        provider_app_id=APP,
    ) as service:
        asking = service.runtime.database._reader.connect()
        made = service.bind(phone_a=PHONE_A, phone_b=PHONE_B, pool_number="91", expire_s=60, mode="AXB")
        asking.close()
        with service.runtime.database._engine.connect():
            assert service.lookup(phone=PHONE_A) == [made]
