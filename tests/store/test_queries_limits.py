"""Statements with more values than a database accepts in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.store import queries

if TYPE_CHECKING:
    from tests.service.harness import ServiceHarness

ROWS_OF_A_LONG_LIST = 100_000  # more than 65 535, PostgreSQL's limit


def test_bindings_are_read_by_any_number_of_provider_ids(harness: ServiceHarness) -> None:
    binding = harness.bind()
    ids = [*map(str, range(10**9, 10**9 + ROWS_OF_A_LONG_LIST)), str(binding.bind_id)]
    assert harness.database.read(queries.by_bind_ids, ids) == {str(binding.bind_id): [binding]}
