"""The search for the bindings of a number: every page has the right rows, and reads no row of another page."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from bindings.domain.binding import Caller
from bindings.lifecycle.runtime import new_runtime
from bindings.service import BindingService
from bindings.settings import load
from bindings.store import search
from bindings.store.database import Database
from tests.store.test_plans import _fill, _recorded, _rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.store.databases import Server

PHONE, OTHER_PHONE, NUMBER, OTHER_NUMBER = "915512345678", "915587654321", "918800000001", "918800000002"
ROWS, OTHERS = 60, 300


def _history(now: datetime) -> list[dict[str, Any]]:
    """Return bindings of the phone and the number, as A or as B, of which four share an instant, and of others."""
    chosen = random.Random(1)
    rows = list(_rows(now, range(10_000, 10_000 + ROWS + OTHERS)))
    chosen.shuffle(rows)
    for place, row in enumerate(rows[:ROWS]):
        at = now - timedelta(hours=100 + place // 4)
        row |= {
            "requested_at": at,
            "sent_at": at,
            "held_until": at + timedelta(seconds=chosen.randrange(3_600, 259_200)),
        }
        row |= {chosen.choice(["phone_a", "phone_b"]): PHONE}
        numbers = chosen.choice([(NUMBER, NUMBER), (NUMBER, OTHER_NUMBER), (OTHER_NUMBER, NUMBER)])
        row |= dict(zip(("middle_number_a", "middle_number_b"), numbers, strict=True))
    return rows


@pytest.fixture
def service(own_database_url: str) -> Iterator[BindingService]:
    """Provide a service on a database with the history."""
    _fill(own_database_url, _history(datetime.now(UTC)))
    database = Database(own_database_url)
    config = load({}, database_url=own_database_url, provider_app_id="a")
    service = BindingService(new_runtime(config, database, caller=Caller(actor="test")))
    yield service
    service.close()


@pytest.mark.parametrize("most_sorted", [ROWS - 1, ROWS])
@pytest.mark.parametrize(
    "by", [{"phone": PHONE}, {"middle_number": NUMBER}, {"phone": PHONE, "pool_number": "918806"}]
)
def test_pages_of_a_number_have_each_binding_once_newest_first(
    service: BindingService, by: dict[str, Any], most_sorted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where several bindings were requested at the instant at which a page ends."""
    monkeypatch.setattr(search, "MOST_SORTED", most_sorted)
    search._page.cache_clear()
    search._count.cache_clear()
    everything = service.search(limit=200).data + service.search(limit=200, cursor=_last_cursor(service)).data
    matching = [
        binding
        for binding in everything
        if PHONE in {binding.phone_a.digits, binding.phone_b.digits}
        and NUMBER in {binding.middle_number_a, binding.middle_number_b}
    ]
    assert len(matching) == ROWS
    for limit in (1, 3, 8, 21, ROWS - 1, ROWS, ROWS + 1):
        pages, cursor = [], None
        while True:
            page = service.search(**by, limit=limit, cursor=cursor)
            pages.append(page.data)
            cursor = page.next_cursor
            if cursor is None:
                break
        assert [binding for data in pages for binding in data] == matching
        assert {len(data) for data in pages[:-1]} <= {limit}
    search._page.cache_clear()
    search._count.cache_clear()


def _last_cursor(service: BindingService) -> str | None:
    return service.search(limit=200).next_cursor


@pytest.mark.parametrize("by", [{"phone": OTHER_PHONE}, {"middle_number": "918800000003"}])
def test_number_without_bindings_has_one_empty_page(service: BindingService, by: dict[str, Any]) -> None:
    page = service.search(**by)
    assert (page.data, page.next_cursor) == ((), None)


@pytest.mark.postgres
def test_page_and_trace_read_no_row_of_other_bindings(postgres_server: Server, postgres_template: str) -> None:
    """The index has the times of the requests: what began later, or is on a later page, is not read."""
    url = postgres_server.create(template=postgres_template)
    now = datetime.now(UTC)
    _fill(url, _history(now))
    database = Database(url)
    config = load({}, database_url=url, provider_app_id="a")
    service = BindingService(new_runtime(config, database, caller=Caller(actor="test")))
    try:
        database.write(lambda tx: tx.connection.execute(text("ANALYZE bindings")))
        page = service.search(phone=PHONE, limit=4)
        with _recorded(service) as recorded:
            service.search(phone=PHONE, limit=4, cursor=page.next_cursor)
            service.trace(middle_number=NUMBER, at=now - timedelta(hours=99 + ROWS // 4, minutes=-30))
        statements = [sent for sent in recorded if "bindings.state" in sent[0]]
        read = [_rows_read(database, *sent) for sent in statements]
    finally:
        service.close()
        postgres_server.drop(url)
    # Those of the instant at which the first page ends, the second page, and all of the instant after it.
    assert read == [3 * 4, 4]


def _rows_read(database: Database, sql: str, values: Any) -> int:
    """Return how many rows of bindings a statement reads, without those that it reads from an index only."""

    def count(plan: dict[str, Any]) -> int:
        inner = sum(map(count, plan.get("Plans", ())))
        if plan["Node Type"] != "Index Scan":
            return inner
        return inner + int(plan["Actual Rows"]) + int(plan.get("Rows Removed by Filter", 0))

    with database._engine.connect() as connection:
        for way in ("seqscan", "bitmapscan"):  # cheaper only for so few rows
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        plan = connection.exec_driver_sql("EXPLAIN (ANALYZE, FORMAT JSON) " + sql, values).scalar_one()
    return count((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"])
