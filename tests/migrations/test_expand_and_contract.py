"""A migration takes nothing away that the version before uses: it adds first, and a later version removes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, inspect, text

from bindings.store.downgrade import OLDEST
from bindings.store.engine import make_engine
from bindings.store.migrations import script_directory
from bindings.store.schema import HEAD
from tests.migrations.test_migrations import _migrate

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine.interfaces import ReflectedColumn

    from tests.store.databases import Server


@dataclass(frozen=True, kw_only=True)
class TableShape:
    """What code can rely on in a table, and what the table refuses."""

    columns: dict[str, ReflectedColumn]
    constraints: frozenset[str]


def shapes(engine: Engine) -> dict[str, TableShape]:
    """Return the tables of a database by name, without the partitions."""
    inspector = inspect(engine)
    return {
        table: TableShape(
            columns={column["name"]: column for column in inspector.get_columns(table)},
            constraints=frozenset(
                str(item["name"])
                for item in (
                    *_unique_indexes(engine, table),
                    *inspector.get_unique_constraints(table),
                    *inspector.get_check_constraints(table),
                    *inspector.get_foreign_keys(table),
                )
            ),
        )
        for table in inspector.get_table_names()
        if not table.startswith("events_")
    }


def _unique_indexes(engine: Engine, table: str) -> list[dict[str, str]]:
    """Return the unique indexes, also those over an expression, which SQLAlchemy does not read on SQLite."""
    if engine.dialect.name == "postgresql":
        return [{"name": str(index["name"])} for index in inspect(engine).get_indexes(table) if index["unique"]]
    with engine.connect() as connection:
        rows = connection.execute(text(f"PRAGMA index_list('{table}')")).mappings()
        return [{"name": row["name"]} for row in rows if row["unique"] and row["origin"] == "c"]


def narrowings(before: dict[str, TableShape], after: dict[str, TableShape]) -> set[str]:
    """Return what code that was made for `before` may read or write, and `after` does not have or accept."""
    result = {f"{table} is dropped" for table in before.keys() - after.keys()}
    for table in before.keys() & after.keys():
        old, new = before[table].columns, after[table].columns
        result |= {f"{table}.{name} is dropped" for name in old.keys() - new.keys()}
        result |= {f"{table}.{name} is required" for name in new.keys() - old.keys() if _is_required(new[name])}
        for name in old.keys() & new.keys():
            if not _is_wider(str(old[name]["type"]), str(new[name]["type"])):
                result.add(f"{table}.{name} has another type")
            if old[name]["nullable"] and not new[name]["nullable"]:
                result.add(f"{table}.{name} refuses NULL")
            if old[name]["default"] is not None and new[name]["default"] is None:
                result.add(f"{table}.{name} has no default")
        result |= {f"{name} is added" for name in after[table].constraints - before[table].constraints}
    return result


def _is_required(column: ReflectedColumn) -> bool:
    return not column["nullable"] and column["default"] is None


def _is_wider(old: str, new: str) -> bool:
    """Return whether each value of the old type is one of the new type: the same, or a longer text."""
    lengths = [re.fullmatch(r"VARCHAR\((\d+)\)", kind) for kind in (old, new)]
    if lengths[0] is not None and lengths[1] is not None:
        return int(lengths[0][1]) <= int(lengths[1][1])
    return old == new or (lengths[0] is not None and new in ("VARCHAR", "TEXT"))


def assert_narrows_only_what_it_names(revision: str, actual: set[str]) -> None:
    """Check that each narrowing of a migration was prepared by an earlier version."""
    script = script_directory().get_revision(revision)
    contracts: dict[str, str] = getattr(script.module, "CONTRACTS", {})
    assert actual == contracts.keys(), f"{revision} takes away what its CONTRACTS do not name, or names too much"
    for narrowing, prepared_by in contracts.items():
        assert prepared_by <= str(script.down_revision), f"{revision}: {narrowing} in the version that prepares it"
        assert prepared_by <= script.module.READABLE_FROM, f"{revision}: {narrowing}, and older code may still run"


@pytest.mark.postgres
def test_newest_migration_takes_nothing_away_that_the_version_before_uses(
    postgres_server: Server, postgres_template: str
) -> None:
    url = postgres_server.create(template=postgres_template)
    engine = make_engine(url)
    after = shapes(engine)
    _migrate(engine, "-1")
    assert_narrows_only_what_it_names(HEAD, narrowings(shapes(engine), after))
    engine.dispose()
    postgres_server.drop(url)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_no_migration_takes_anything_away_that_the_version_before_uses(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    _migrate(engine, OLDEST)
    before = shapes(engine)
    for script in [*script_directory().iterate_revisions(HEAD, OLDEST)][::-1]:
        _migrate(engine, script.revision)
        after = shapes(engine)
        assert_narrows_only_what_it_names(script.revision, narrowings(before, after))
        before = after
    engine.dispose()


TABLE = "CREATE TABLE t (a VARCHAR(8), b INTEGER DEFAULT 1, c INTEGER NOT NULL DEFAULT 1)"
NARROWINGS = {
    "t is dropped": "CREATE TABLE other (a INTEGER)",
    "t.a is dropped": TABLE.replace("a VARCHAR(8), ", ""),
    "t.a has another type": TABLE.replace("(8)", "(7)"),
    "t.a refuses NULL": TABLE.replace("(8)", "(8) NOT NULL"),
    "t.b has no default": TABLE.replace("b INTEGER DEFAULT 1", "b INTEGER"),
    "t.d is required": TABLE[:-1] + ", d INTEGER NOT NULL)",
    "ck_t_b is added": TABLE[:-1] + ", CONSTRAINT ck_t_b CHECK (b > 0))",
    "uq_t_a is added": TABLE[:-1] + ", CONSTRAINT uq_t_a UNIQUE (a))",
}


@pytest.mark.parametrize("narrowing", NARROWINGS)
def test_each_kind_of_narrowing_is_seen(narrowing: str) -> None:
    assert narrowings(_shapes_of(TABLE), _shapes_of(NARROWINGS[narrowing])) == {narrowing}


def test_additions_are_no_narrowing() -> None:
    wider = TABLE[:-1].replace("(8)", "(9)") + ", d INTEGER, e INTEGER NOT NULL DEFAULT 1)"
    assert narrowings(_shapes_of(TABLE), _shapes_of(wider)) == set()


def _shapes_of(table: str) -> dict[str, TableShape]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(text(table))
    try:
        return shapes(engine)
    finally:
        engine.dispose()
