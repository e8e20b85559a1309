"""Reads of a page: as one statement they return what each returns alone, and one that fails leaves the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from bindings import errors
from bindings.monitoring import health
from bindings.monitoring.check import Level
from bindings.monitoring.health_metrics import MAX_DOUBTS_READ
from bindings.monitoring.health_reads import reads_of_all
from bindings.store import cluster_move, deliveries, events, holds, pools, queries, statistics
from bindings.store.one_row import call, run_together
from tests.service.harness import A, B, C, D, feed_has_caught_up
from tests.store.test_plans import _recorded

if TYPE_CHECKING:
    from bindings.store.one_row import Call
    from tests.service.harness import ServiceHarness

# These depend on what other tests do in the same cluster meanwhile.
OF_CLUSTER = {cluster_move.numbers, events.oldest_not_final}


def _calls(harness: ServiceHarness) -> tuple[Call, ...]:
    reads = reads_of_all(harness.database, harness.service.settings)
    return tuple(each_call for each_call in reads.combined_calls if each_call.query not in OF_CLUSTER)


def _result(harness: ServiceHarness, each_call: Call) -> Any:
    return harness.database.read(each_call.query, *each_call.args, **dict(each_call.kwargs))


def _make_history(harness: ServiceHarness) -> None:
    """Leave an overdue binding, one in doubt, a hold, a webhook that lags, counts, and runs of jobs."""
    harness.service.webhooks.add(url="https://receiver.example")
    harness.bind(A, B, expire_s=60)
    harness.add_foreign_bindings(1)
    harness.service.reconcile()
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.bind(C, D)
    harness.service.update_statistics()
    feed_has_caught_up(harness.service)
    harness.clock.advance(120)


def test_each_query_returns_the_same_alone_as_in_one_statement(harness: ServiceHarness) -> None:
    for is_empty in (True, False):
        if not is_empty:
            _make_history(harness)
        calls = _calls(harness)
        results = harness.database.read(run_together, calls)
        assert results == {each_call: _result(harness, each_call) for each_call in calls}
    now, scope = harness.database.now, harness.service.settings.scope
    assert results[call(queries.longest_overdue, now)] is not None
    assert results[call(deliveries.waiting_since, now)] is not None
    assert results[call(statistics.counted_to)] is not None
    assert results[call(queries.count_doubts, now, limit=MAX_DOUBTS_READ)][0] == 1
    assert results[call(holds.count_orphans, scope, now)] == (1, 0)


def test_query_is_run_once_and_the_page_goes_by_one_reading_of_the_clock(harness: ServiceHarness) -> None:
    reads = reads_of_all(harness.database, harness.service.settings)
    began_at = harness.clock()
    with _recorded(harness.service) as statements:
        assert reads.clock() == began_at
        harness.clock.advance(60)
        assert reads.clock() == began_at
        assert reads.read(queries.longest_overdue, reads.now) is None
        assert len(statements) == 1, "all values are one statement"
        assert reads.read(pools.list_all) == reads.read(pools.list_all) == []
        assert len(statements) == 2


def test_table_that_cannot_be_read_fails_only_the_checks_that_need_it(harness: ServiceHarness) -> None:
    """The statement of all values fails then, and each value is read alone."""

    def checks() -> dict[str, str]:
        service_checks = health.service_checks(harness.service.runtime)
        return {check.name: check.seen for check in service_checks if check.level is Level.RED}

    assert checks() == {}
    harness.database.write(lambda tx: tx.connection.execute(text("ALTER TABLE deliveries RENAME TO elsewhere")))
    try:
        assert set(checks()) == {"webhooks"}
    finally:
        harness.database.write(
            lambda tx: tx.connection.execute(text("ALTER TABLE elsewhere RENAME TO deliveries"))
        )
