"""The sample of response times: each bind of a long period has the same weight, whenever it was requested."""

from __future__ import annotations

import random
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from bindings.domain.binding import EventKind
from bindings.monitoring import response_times as module
from bindings.monitoring.chart_range import TimeRange
from bindings.monitoring.response_times import response_times
from bindings.store.database import Database
from bindings.store.schema import bindings, tallies, tally_marks
from tests.service.harness import NOON, Clock
from tests.store.test_binding_list import row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import Table

    from bindings.store.database import Transaction

BURST_BINDS, OTHER_BINDS = 360, 40


def _calls() -> Iterator[tuple[datetime, float]]:
    """Yield (requested_at, seconds): most binds of the month were requested in one hour, and answered slowly."""
    burst = NOON - timedelta(days=9)
    for number in range(BURST_BINDS):
        yield burst + timedelta(seconds=10 * number), 2.0
    for number in range(1, OTHER_BINDS + 1):
        yield burst + timedelta(hours=number), 0.2


@pytest.fixture
def database(own_database_url: str) -> Iterator[Database]:
    database = Database(own_database_url, read_clock=Clock())
    rng, calls = random.Random(1), list(_calls())
    rows = [
        row(number, rng)
        | {"state": "expired", "requested_at": at, "sent_at": at, "settle_by": at + timedelta(seconds=16)}
        | {"answered_at": at + timedelta(seconds=seconds), "ended_at": at, "bind_id": str(number)}
        | {"middle_number_a": "9188061024", "middle_number_b": "9188061024", "expires_at": at, "held_until": at}
        for number, (at, seconds) in enumerate(calls)
    ]
    hours = [at.replace(minute=0, second=0) for at, _ in calls]
    counts = [
        {"period_s": 3_600, "began_at": hour, "kind": EventKind.REQUESTED, "code": "", "examples": []}
        | {"number": hours.count(hour)}
        for hour in set(hours)
    ]
    mark = {"id": 1, "tx": 0, "position": 0, "counted_to": NOON}
    for table, values in ((bindings, rows), (tallies, counts), (tally_marks, [mark])):
        database.write(partial(_insert, table, values))
    yield database
    database.close()


def _insert(table: Table, values: list[dict[str, Any]], tx: Transaction) -> None:
    tx.connection.execute(insert(table), values)


def test_sample_of_a_long_period_weighs_each_bind_equally(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLACES", 20)
    monkeypatch.setattr(module, "PER_PLACE", 5)
    times = response_times(database, TimeRange.MONTH.chart_range(NOON).period)
    assert (times.is_sample, times.requested, times.calls) == (True, 400, 100)
    shares = {share.within_s: share.calls / times.calls for share in times.shares}
    assert 1 - shares[1.0] == pytest.approx(BURST_BINDS / 400, abs=0.06)
    assert (shares[3.0], shares[None]) == (1, 0)


def test_period_with_few_binds_is_measured_completely(database: Database) -> None:
    times = response_times(database, TimeRange.MONTH.chart_range(NOON).period)
    assert (times.is_sample, times.requested, times.binds, times.calls) == (False, 400, 400, 400)
    assert (round(times.percentile(50), 3), round(times.durations_s[0], 3)) == (2.0, 0.2)
