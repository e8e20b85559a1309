"""Rows as a later version writes them: with words that this version does not know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from bindings.store.engine import make_engine
from tests.service.harness import feed_has_caught_up

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness

KIND, REASON, ROLE, HELD_BY, DELIVERY, CASE = (
    "moved_to_another_number",
    "a_reason_of_the_next_version",
    "supervisor",
    "a_hold_of_a_new_kind",
    "parked",
    "a_case_of_a_later_version",
)
CHECKS = {"holds": "why", "deliveries": "state"}


def allow_unknown_words(harness: ServiceHarness) -> None:
    """Drop the lists of words that the database checks, as the later version's migration does."""
    if harness.database.postgres:
        for table, name in CHECKS.items():
            execute(harness, f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{name}")


def execute(harness: ServiceHarness, statement: str, **values: Any) -> None:
    """Run a statement of the later version."""
    engine = make_engine(harness.url)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.execute(text(statement), values)
    engine.dispose()


def write_event(harness: ServiceHarness, binding: Binding, kind: str, **detail: Any) -> None:
    """Write an event of the binding, as the later version does."""
    tx = "CAST(CAST(pg_current_xact_id() AS text) AS bigint)" if harness.database.postgres else "0"
    execute(harness, "UPDATE bindings SET version = version + 1 WHERE id = :id", id=binding.id)
    execute(
        harness,
        "INSERT INTO events (tx, binding_id, sequence, kind, at, actor, detail)"
        f" SELECT {tx}, id, version, :kind, requested_at, 'later', :detail FROM bindings WHERE id = :id",
        id=binding.id,
        kind=kind,
        detail=json.dumps(detail),
    )
    feed_has_caught_up(harness.service)
