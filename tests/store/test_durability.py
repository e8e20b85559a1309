"""Settings of PostgreSQL by which a crash may lose a commit that it has acknowledged."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from bindings.store import durability
from bindings.store.database import Database
from bindings.store.temporary_database import name_of


def weak_settings(url: str) -> dict[str, str]:
    database = Database(url)
    try:
        return database.read(durability.weak_settings)
    finally:
        database.close()


@pytest.mark.parametrize(
    ("commit", "has_standbys", "is_weak"),
    [
        ("on", True, False),
        ("remote_apply", True, False),
        ("remote_write", True, True),
        ("local", True, True),
        ("local", False, False),
        ("off", False, True),
        ("off", True, True),
    ],
)
def test_commit_that_does_not_wait_is_weak(commit: str, *, has_standbys: bool, is_weak: bool) -> None:
    """Weaker than `on` is a matter of standbys: without one, such a commit waits for the same disk."""
    weak = durability.weak_values(commit, "on", "on", has_standbys=has_standbys)
    assert weak == ({"synchronous_commit": commit} if is_weak else {})


def test_disk_that_is_not_waited_for_is_weak() -> None:
    weak = durability.weak_values("on", "off", "off", has_standbys=False)
    assert weak == {"fsync": "off", "full_page_writes": "off"}


@pytest.mark.postgres
def test_value_of_the_connection_counts_and_not_that_of_the_server(postgres_url: str) -> None:
    name = sql.Identifier(name_of(postgres_url))
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        for value in ("on", "off"):
            owner.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = {}").format(name, value))
            assert weak_settings(postgres_url).get("synchronous_commit", "on") == value
    assert "synchronous_commit" not in weak_settings(f"{postgres_url}?options=-csynchronous_commit%3Don")


def test_sqlite_waits_for_the_disk(sqlite_url: str) -> None:
    assert weak_settings(sqlite_url) == {}
