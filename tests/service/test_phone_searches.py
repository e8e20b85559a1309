"""The record of questions with a full phone, and the budgets of API keys, on both databases."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from bindings.domain.binding import EventKind
from bindings.domain.budget import WINDOW
from bindings.store import events
from bindings.store.schema import budgets
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from bindings.service import BindingService
    from tests.service.harness import ServiceHarness

EVE = "0199aaaa-7c5a-7d52-9b6e-2f1c8a4d7e90"
ANN = "0199bbbb-7c5a-7d52-9b6e-2f1c8a4d7e90"
LIMIT = 3


def ask(service: BindingService, *, has_match: bool = False) -> int | None:
    return service.phone_searches.record_for_key("lookup", has_match=has_match, is_counted=not has_match)


def recorded(harness: ServiceHarness) -> list[tuple[str, dict[str, Any]]]:
    """Return the kind and the detail of each event, in order of position."""
    columns = select(events_table.c.kind, events_table.c.detail).order_by(events_table.c.position)
    return [
        (row.kind, row.detail) for row in harness.database.read(lambda connection: connection.execute(columns))
    ]


def test_each_question_is_recorded_and_those_without_a_match_are_counted(harness: ServiceHarness) -> None:
    eve = harness.open(phone_search_budget=LIMIT).as_caller(actor="key:eve", key_id=EVE, request_id="req-1")
    assert [ask(eve, has_match=has_match) for has_match in (True, True, True, True, False)] == [None] * 5
    assert recorded(harness) == [
        (EventKind.PHONE_SEARCHED, {"question": "lookup", "match": match})
        for match in (True, True, True, True, False)
    ]
    (event, *_) = eve.export_events()
    assert (event.actor, event.key_id, event.request_id, event.binding_id) == ("key:eve", EVE, "req-1", None)


def test_past_the_budget_every_question_is_refused_with_one_event(harness: ServiceHarness) -> None:
    eve = harness.open(phone_search_budget=LIMIT).as_caller(actor="key:eve", key_id=EVE)
    assert [ask(eve) for _ in range(LIMIT)] == [None] * LIMIT
    harness.clock.advance(600)
    assert [ask(eve, has_match=has_match) for has_match in (False, True, False)] == [3_000] * 3
    until = (harness.clock.at + timedelta(seconds=3_000)).isoformat().replace("+00:00", "Z")
    used_up = {"budget": "phone_searches", "limit": LIMIT, "until": until}
    assert recorded(harness)[LIMIT:] == [(EventKind.BUDGET_USED_UP, used_up)]


def test_budget_holds_after_a_restart_for_each_key_and_ends_with_its_hour(harness: ServiceHarness) -> None:
    eve = harness.open(phone_search_budget=LIMIT).as_caller(actor="key:eve", key_id=EVE)
    for _ in range(LIMIT):
        ask(eve)
    again = harness.open(phone_search_budget=LIMIT).as_caller(actor="key:eve", key_id=EVE)
    assert ask(again) is not None
    assert ask(again.as_caller(actor="key:eve", key_id=ANN)) is None
    assert ask(again.as_caller(actor="key:ann")) is None
    harness.clock.advance(WINDOW.total_seconds() - 1)
    assert ask(again) == 1
    harness.clock.advance(1)
    assert [ask(again) for _ in range(LIMIT + 1)] == [None] * LIMIT + [3_600]
    kinds = [kind for kind, _ in recorded(harness)]
    assert kinds.count(EventKind.BUDGET_USED_UP) == 2, "one for each hour"


def test_clock_that_was_set_back_refuses_no_key_for_longer_than_an_hour(harness: ServiceHarness) -> None:
    eve = harness.open(phone_search_budget=1).as_caller(actor="key:eve", key_id=EVE)
    harness.clock.advance(86_400)
    assert (ask(eve), ask(eve)) == (None, 3_600)
    harness.clock.advance(-86_400)
    assert ask(eve) is None


def test_budgets_are_counted_apart(harness: ServiceHarness) -> None:
    service = harness.open(phone_search_budget=1, check_budget=2).as_caller(actor="key:eve", key_id=EVE)
    assert (ask(service), ask(service)) == (None, 3_600)
    answers = [service.phone_searches.count_held_answer() for _ in range(3)]
    assert answers == [None, None, 3_600]
    used_up = [detail["budget"] for kind, detail in recorded(harness) if kind == EventKind.BUDGET_USED_UP]
    assert used_up == ["phone_searches", "held_answers"]


ASKER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from bindings.service import BindingService
opened = BindingService.open(environment={}, database_url=sys.argv[1], pool_size=10)
service = opened.as_caller(actor="key:eve", key_id="0199aaaa-7c5a-7d52-9b6e-2f1c8a4d7e90")
ask = lambda _: service.phone_searches.record_for_key("lookup", has_match=False, is_counted=True)
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(10) as threads:
    answers = list(threads.map(ask, range(100)))
print(json.dumps([answers.count(None), len(answers)]))
"""


def test_two_processes_together_do_not_pass_the_budget(harness: ServiceHarness) -> None:
    assert ask(harness.open().as_caller(actor="key:other")) is None  # the schema is used once
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASKER, harness.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    streams = [(process, process.stdin, process.stdout) for process in processes]
    for _, _, stdout in streams:
        assert stdout is not None
        assert stdout.readline() == "ready\n"
    for _, stdin, _ in streams:
        assert stdin is not None
        stdin.write("go\n")
        stdin.flush()
    results = [json.loads(process.communicate()[0]) for process, _, _ in streams]
    assert [total for _, total in results] == [100, 100]
    assert sum(answered for answered, _ in results) == 60
    kinds = [kind for kind, _ in recorded(harness)]
    assert kinds.count(EventKind.PHONE_SEARCHED) == 60 + 1
    assert kinds.count(EventKind.BUDGET_USED_UP) == 1


def test_question_that_cannot_be_recorded_takes_nothing(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    eve = harness.open().as_caller(actor="key:eve", key_id=EVE)

    def fail(*_: object) -> None:
        raise RuntimeError("no event")

    monkeypatch.setattr(events, "append_without_binding", fail)
    with pytest.raises(RuntimeError, match="no event"):
        ask(eve)
    assert harness.database.read(lambda connection: connection.execute(select(budgets)).all()) == []
