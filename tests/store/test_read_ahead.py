"""Batches of a server cursor of PostgreSQL that are requested ahead of their use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from sqlalchemy import text

from bindings.store import read_ahead
from bindings.store.database import Database
from bindings.store.deadline_connection import DeadlineConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

pytestmark = pytest.mark.postgres
BATCH = 3


@pytest.fixture
def database(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=59s")
    database = Database(postgres_url)
    yield database
    database.close()


def rows_of(connection: Connection, statement: str) -> Iterator[Any]:
    with connection.execute(text(statement)) as result:
        for batch in read_ahead.batches(connection, result, size=BATCH):
            yield from batch


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7])
def test_batches_have_every_row_once(database: Database, count: int) -> None:
    rows = database.stream(rows_of, f"SELECT generate_series(1, {count})")
    assert [number for (number,) in rows] == list(range(1, count + 1))


def test_time_in_which_a_batch_waits_for_its_use_is_not_limited(database: Database) -> None:
    """The limit of the server (docs/how-to/use-postgresql.md) is for statements, not for what reads their rows."""
    limit = "SELECT current_setting('statement_timeout') FROM generate_series(1, 9)"
    assert [setting for (setting,) in database.stream(rows_of, limit)] == ["59s"] + ["0"] * 8


def test_caller_that_stops_early_does_not_wait_for_a_slow_batch(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = mock.create_autospec(
        DeadlineConnection._cancel_until_answered, side_effect=DeadlineConnection._cancel_until_answered
    )
    monkeypatch.setattr(DeadlineConnection, "_cancel_until_answered", cancel)
    monkeypatch.setattr(read_ahead, "LONGEST_STOP_S", 0.0)
    fast = 1 + BATCH  # the first row, and the first batch after it
    slow = f"SELECT CASE WHEN number > {fast} THEN pg_sleep(50) END FROM generate_series(1, 9) AS number"
    rows = database.stream(rows_of, slow)
    assert len([next(rows), next(rows)]) == 2
    rows.close()  # type: ignore[attr-defined]  # a generator
    assert cancel.call_count == 1
    assert database.read(lambda connection: connection.execute(text("SELECT 1")).scalar()) == 1
