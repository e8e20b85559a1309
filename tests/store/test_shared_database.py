"""A schema in the database of an application whose tables have the same names."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from bindings.errors import InvalidRequest, PhoneInUse
from bindings.monitoring import protection_checks
from bindings.monitoring.check import Level
from bindings.service import BindingService
from bindings.store import migrations, temporary_database
from bindings.store.schema import HEAD
from tests.service.harness import POOL, A, B, C, account_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.provider.simulator import Simulator
    from tests.store.databases import Server

pytestmark = pytest.mark.postgres

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-postgresql.md"
SCHEMA = "middle_numbers"
TABLES = ("account", "bindings", "events", "keys", "sessions")
REVISION = "1c9f8a7b6d5e"


@pytest.fixture
def shared_url(postgres_server: Server) -> Iterator[str]:
    """Provide the URL of the role that the page creates, in a database of an application."""
    url = postgres_server.create()
    name = temporary_database.name_of(url)
    role = f"bindings_of_{name}"
    page = PAGE.read_text(encoding="utf-8").split("## Share a database with an application")[1]
    [statements] = re.findall(r"^```sql\n(.*?)^```$", page.split("\n## ")[0], re.MULTILINE | re.DOTALL)
    statements = statements.replace(" rides ", f" {name} ")
    statements = re.sub(r"(ROLE|AUTHORIZATION) bindings\b", rf"\1 {role}", statements)
    with psycopg.connect(url, autocommit=True) as connection:
        for table in TABLES:
            connection.execute(sql.SQL("CREATE TABLE {} (id integer)").format(sql.Identifier(table)))
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32))")
        connection.execute("INSERT INTO alembic_version VALUES (%s)", [REVISION])
        connection.execute(statements.encode())
    try:
        yield make_url(url).set(username=role).render_as_string(hide_password=False)
    finally:
        postgres_server.drop(url)
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_schema_in_a_database_of_an_application_serves_as_one_of_its_own(
    shared_url: str, postgres_server: Server, simulator: Simulator
) -> None:
    of_application = postgres_server.address(temporary_database.name_of(shared_url))
    with pytest.raises(InvalidRequest, match="or a schema of its own by search_path"):
        migrations.upgrade(of_application)
    migrations.upgrade(shared_url)
    by_url = f"{of_application}?options=-csearch_path%3D{SCHEMA}"
    with (
        BindingService.open(
            database_url=shared_url,
            **account_settings(simulator.url),
        ) as service,
        BindingService.open(database_url=by_url) as other,
    ):
        binding = service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=3_600, mode="AXB")
        with pytest.raises(PhoneInUse):
            service.bind(phone_a=A, phone_b=C, pool_number=POOL, expire_s=3_600, mode="AXB")
        assert other.lookup(phone=A) == [binding]
        assert service.unbind(binding.id) in other.export_bindings()
        service.apply_retention()
        assert protection_checks.of_triggers(service.runtime.database).level is Level.OK
    with closing(psycopg.connect(of_application)) as connection:
        for table in TABLES:
            rows = connection.execute(sql.SQL("SELECT * FROM public.{}").format(sql.Identifier(table))).fetchall()
            assert rows == []
        assert connection.execute("SELECT version_num FROM public.alembic_version").fetchall() == [(REVISION,)]


def _with_search_path(url: str, *schemas: str) -> str:
    return f"{url}?options=-csearch_path%3D{'%2C'.join(schemas)}"


@pytest.fixture
def installed_url(postgres_server: Server) -> Iterator[str]:
    """Provide the URL of a database with the tables in the schema `first`, and an empty schema `second`."""
    url = postgres_server.create()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA first")
        connection.execute("CREATE SCHEMA second")
    try:
        migrations.upgrade(_with_search_path(url, "first"))
        yield url
    finally:
        postgres_server.drop(url)


def test_installations_in_two_schemas_are_migrated_each_for_itself(installed_url: str) -> None:
    second = _with_search_path(installed_url, "second")
    assert migrations.current(second).revision is None
    assert migrations.upgrade(second) == HEAD
    assert (
        migrations.current(second).revision
        == migrations.current(_with_search_path(installed_url, "first")).revision
    )


def test_migration_refuses_a_search_path_with_another_installation(installed_url: str) -> None:
    both = _with_search_path(installed_url, "second", "first")
    assert migrations.current(both).revision == HEAD, "its statements use the tables of the first"
    with pytest.raises(InvalidRequest, match="'first' follows 'second' and has the table alembic_version"):
        migrations.upgrade(both)
    with psycopg.connect(installed_url) as connection:
        created = connection.execute("SELECT 1 FROM pg_class WHERE relnamespace = 'second'::regnamespace")
        assert created.fetchall() == []
    migrations.upgrade(_with_search_path(installed_url, "second"))
    with pytest.raises(InvalidRequest, match="'first' follows 'second' and has the table schema_info"):
        migrations.upgrade(both)
    assert migrations.current(both).revision == HEAD
