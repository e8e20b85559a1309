"""Databases whose revision cannot be read: no row or several of Alembic, a schema that the user may not use."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from bindings.errors import InvalidRequest, SchemaOutOfDate
from bindings.store import migrations, schema_version
from bindings.store.database import Database
from bindings.store.schema import HEAD
from bindings.store.temporary_database import name_of
from tests.store.test_roles import restricted

if TYPE_CHECKING:
    from tests.store.databases import Server


def _run(url: str, statement: str) -> None:
    with closing(Database(url)) as database:
        database.write(lambda tx: tx.connection.execute(text(statement)))


def test_tables_without_a_revision_are_not_taken_for_those_of_another_program(own_database_url: str) -> None:
    _run(own_database_url, "DELETE FROM alembic_version")
    with pytest.raises(InvalidRequest, match="insert the last revision of schema_info"):
        migrations.upgrade(own_database_url)


def test_several_revisions_are_no_revision(own_database_url: str) -> None:
    _run(own_database_url, "INSERT INTO alembic_version VALUES ('0022')")
    version = migrations.current(own_database_url)
    assert not version.accepted
    assert version.describe() == f"not clear: alembic_version has the rows 0022, {HEAD}"
    assert version.remedy() == "delete the rows that are wrong: the tables are at the last revision of schema_info"
    with pytest.raises(SchemaOutOfDate):
        version.require()
    with pytest.raises(SchemaOutOfDate):
        migrations.upgrade(own_database_url)


@pytest.mark.postgres
def test_search_path_without_a_schema_that_exists_is_named(
    postgres_server: Server, postgres_template: str
) -> None:
    url = postgres_server.create(template=postgres_template)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(sql.SQL("ALTER DATABASE {} SET search_path = bindngs").format(sql.Identifier(name_of(url))))
    with closing(Database(url)) as database:
        version = schema_version.read(database)
    assert not version.upgradable
    assert version.fault == (
        "missing: the search_path of the user of BINDINGS_DATABASE_URL names no schema that exists",
        "create the schema, or correct the search_path of the role, of the database or in PGOPTIONS",
    )
    postgres_server.drop(url)


@pytest.mark.postgres
def test_schema_that_the_role_may_not_use_is_named(postgres_server: Server) -> None:
    url = postgres_server.create()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA middle")
        path = sql.SQL("ALTER DATABASE {} SET search_path = middle")
        owner.execute(path.format(sql.Identifier(name_of(url))))
        migrations.upgrade(url)
        with restricted(url) as restricted_url:
            with closing(Database(restricted_url)) as database:
                version = schema_version.read(database)
            assert not version.upgradable
            denied = "not readable: the user of BINDINGS_DATABASE_URL may not use the schema middle"
            todo = "run the SQL of `bindings db grants`, and GRANT USAGE ON SCHEMA middle TO ..."
            assert version.fault == (denied, todo)
            with pytest.raises(SchemaOutOfDate, match="GRANT USAGE"):
                version.require()
    postgres_server.drop(url)
