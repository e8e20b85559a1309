"""A PostgreSQL table that refuses changes with an error of the test's choice."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def failing(url: str, state: str, *, times: int | None = None, when: str = "INSERT ON events") -> Iterator[None]:
    """Let the next changes of a table fail with this SQLSTATE; the count outlives the failed transactions."""
    limit = sql.SQL("true" if times is None else "nextval('failures') <= {}").format(sql.Literal(times))
    body = sql.SQL("BEGIN IF {} THEN RAISE EXCEPTION 'no' USING ERRCODE = {}; END IF; RETURN NEW; END").format(
        limit, sql.Literal(state)
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE failures")
        function = sql.SQL("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS {}")
        connection.execute(function.format(sql.Literal(body.as_string())))
        trigger = f"CREATE TRIGGER fails BEFORE {when} FOR EACH ROW EXECUTE FUNCTION fail()"
        connection.execute(trigger.encode())
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION fail CASCADE")
            connection.execute("DROP SEQUENCE failures")
