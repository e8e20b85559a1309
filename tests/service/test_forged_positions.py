"""Cursors and limits that no page returned: refused with the name of the field, and no error of the database."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bindings.domain.phone import Phone
from bindings.errors import InvalidRequest, NotFound
from tests.service.harness import A

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.service import BindingService
    from tests.service.harness import ServiceHarness

ID = "0190b5a0-0000-7000-8000-000000000001"
YEARS = ("0001-01-01T00:00:00+00:00", "1970-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00")
NUMBERS = (-1, 0, 201, 2**31, 2**63, 2**64, 10**30, 1.5, 1e308, float("inf"), float("nan"), True)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


TEXTS = [
    *("", "x", "-1", "0", "\0", "a\0b", "\ud800", "٣", "1e400", "NaN", "null", "=" * 9, "A" * 5_000, "💥"),
    *(
        "9" * 18,
        "9" * 19,
        "9" * 20,
        "9" * 4_400,
        "1-1",
        f"{2**63 - 1}-1",
        f"{2**63}-1",
        f"1-{2**63}",
        "1-",
        "-1-1",
        "1--1",
    ),
    *(encoded(text) for text in ("", "x", "\0", "[" * 9_000, "9" * 9_000, "null", "[]", "{}", "\ud800")),
    *(encoded(f"{at} {row}") for at in YEARS for row in (ID, "x", "\0", "", f"{ID} {ID}")),
    *(encoded(f"{at} {ID}") for at in ("2026-03-01T12:00:00", "now", "1e400", "2026-03-01T12:00:00+99:99")),
    *(
        encoded(json.dumps(positions))
        for at in YEARS
        for positions in (
            [[at, 1], None],
            [None, [at, ID]],
            [[at, 2**63], [at, "x"]],
            [["2026-03-01T12:00:00+00:00", 10**30], None],
            [["2026-03-01T12:00:00+00:00", -1], None],
            [None, ["2026-03-01T12:00:00+00:00", 1]],
        )
    ),
]
BAD_LIMITS: list[Any] = [*NUMBERS, "10", None, [], b"1"]
OBJECTS: list[Any] = [b"x", [], {}, 1e400, 10**5_000, object()]


def deep_list() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


PAGES: dict[str, tuple[str, Callable[..., object]]] = {
    "search": ("cursor", lambda service, **values: service.search(**values)),
    "events": ("after", lambda service, **values: service.events(**values)),
    "events_for_actor": ("after", lambda service, **values: service.events_for_actor("key:one", **values)),
    "open_doubts": ("cursor", lambda service, **values: service.open_doubts(**values)),
    "reports": ("cursor", lambda service, **values: service.reports(**values)),
    "access_log": ("cursor", lambda service, **values: service.access_log.entries(**values)),
    "number_history": (
        "cursor",
        lambda service, **values: service.investigation.number_history(Phone(A), **values),
    ),
    "deliveries": ("cursor", lambda service, **values: service.webhooks.deliveries(webhook_of(service), **values)),
}


def webhook_of(service: BindingService) -> str:
    webhooks = service.webhooks.list() or [service.webhooks.add(url="http://127.0.0.1:9/").webhook]
    return webhooks[0].id


def assert_refused_or_read(call: Callable[[], object], field: str) -> None:
    refusals = []
    try:
        call()
    except InvalidRequest as refusal:
        refusals.append(refusal)
    assert [error.field for refusal in refusals for error in refusal.field_errors] in ([], [field])
    assert all(len(str(refusal)) < 300 for refusal in refusals)


@pytest.mark.parametrize("name", PAGES)
def test_page_refuses_a_forged_cursor_or_reads_on(harness: ServiceHarness, name: str) -> None:
    harness.bind()
    field, page = PAGES[name]
    for value in (*TEXTS, *OBJECTS, deep_list()):
        assert_refused_or_read(lambda value=value: page(harness.service, **{field: value}), field)  # type: ignore[misc]


@pytest.mark.parametrize("name", PAGES)
def test_page_refuses_every_limit_outside_of_1_to_200(harness: ServiceHarness, name: str) -> None:
    harness.bind()
    _, page = PAGES[name]
    for limit in BAD_LIMITS:
        with pytest.raises(InvalidRequest, match=r"^limit must be a whole number from 1 to 200"):
            page(harness.service, limit=limit)
    page(harness.service, limit=200)


@pytest.mark.parametrize("name", PAGES)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_page_refuses_random_cursors(harness: ServiceHarness, name: str, text: str) -> None:
    field, page = PAGES[name]
    assert_refused_or_read(lambda: page(harness.service, **{field: text}), field)


def test_doubts_and_ids_refuse_forged_values(harness: ServiceHarness) -> None:
    service = harness.service
    for limit in BAD_LIMITS:
        with pytest.raises(InvalidRequest, match=r"^limit "):
            service.doubts(limit=limit)
    for text in (*TEXTS, *OBJECTS):
        calls: list[Callable[[Any], object]] = [service.get, service.history, service.unbind, service.report]
        for call in (*calls, service.access_log.get_export):
            with pytest.raises(NotFound):
                call(text)


@pytest.mark.parametrize("field", ["requested_from", "requested_to"])
def test_search_refuses_instants_outside_of_the_calendar(harness: ServiceHarness, field: str) -> None:
    for value in (*TEXTS, *YEARS, *OBJECTS, *NUMBERS):
        assert_refused_or_read(lambda value=value: harness.service.search(**{field: value}), field)  # type: ignore[misc]
