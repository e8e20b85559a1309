"""Plans of the search for refused binds: each filter reads its own index, the first page and later ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, text
from uuid_utils.compat import uuid7

from bindings.domain.binding import Caller
from bindings.domain.phone import Phone
from bindings.lifecycle.runtime import new_runtime
from bindings.service import BindingService
from bindings.settings import load
from bindings.store.database import Database
from bindings.store.schema import refusals
from tests.store.test_plans import WHOLE, explained

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 10_000
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PARTIES = {"ix_refusals_phone_a", "ix_refusals_phone_b"}
HOLDER = {"pk_bindings", "sqlite_autoindex_bindings_1"}


def _rows() -> Iterator[dict[str, Any]]:
    for number in range(ROWS):
        yield {
            "id": str(uuid7()),
            "at": NOON - timedelta(minutes=number),
            "code": "phone-in-use",
            "mode": "AXB",
            "phone_a": f"91{number % 2_000:08}",
            "phone_b": f"9155{number % 2_000:08}",
            "pool_number": "918806",
            "app_id": "4luaKsL2",
            "reference": f"order-{number % 2_000}",
            "actor": "test",
            "request_id": f"request-{number}",
        }


@pytest.fixture
def service(own_database_url: str) -> Iterator[BindingService]:
    runtime = new_runtime(
        load({}, database_url=own_database_url), Database(own_database_url), caller=Caller(actor="test")
    )
    service = BindingService(runtime)
    rows = [row | {"phone_a": Phone(row["phone_a"]), "phone_b": Phone(row["phone_b"])} for row in _rows()]
    runtime.database.write(lambda tx: tx.connection.execute(insert(refusals), rows))
    runtime.database.write(lambda tx: tx.connection.execute(text("ANALYZE")))
    yield service
    service.close()


@pytest.mark.parametrize(
    ("filters", "indexes"),
    [
        ({}, {"ix_refusals_at_id", "ix_refusals_at_id" + WHOLE}),
        ({"reference": "order-42"}, {"ix_refusals_reference"}),
        ({"reference_prefix": "order-42"}, {"ix_refusals_reference"}),
        ({"phone": "9100000042"}, PARTIES),
        ({"phone": "917"}, PARTIES),
        ({"request_id": "request-42"}, {"ix_refusals_request_id"}),
    ],
)
def test_each_filter_reads_its_own_index(
    service: BindingService, filters: dict[str, Any], indexes: set[str]
) -> None:
    def first_page() -> str | None:
        return service.search_refusals(limit=2, **filters).next_cursor

    cursor = first_page()
    ways = explained(service, first_page, "refusals")
    assert ways
    ways |= explained(service, lambda: service.search_refusals(cursor=cursor, limit=2, **filters), "refusals")
    assert ways <= indexes | HOLDER, ways


def test_name_is_found_by_the_indexes_of_references_and_requests(service: BindingService) -> None:
    for name in ("order-42", "request-42", "order-19"):
        ways = explained(service, lambda: service.investigation.find_by_name(name), "refusals")  # noqa: B023
        assert ways <= {"ix_refusals_reference", "ix_refusals_request_id"} | HOLDER, (name, ways)
