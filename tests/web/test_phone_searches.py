"""Readers cannot find a full phone by asking about candidates: each question is recorded and has a budget."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, select
from uuid_utils.compat import uuid7

from bindings.domain.binding import EventKind
from bindings.domain.phone import Phone
from bindings.store import webhooks
from bindings.store.schema import budgets, events, holds
from tests.service.harness import A, B, C, D, E, feed_has_caught_up
from tests.store.databases import MOSTLY_SQLITE
from tests.web.browser import Browser

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

BUDGET = 60
CANDIDATES = [f"9177000{number:05}" for number in range(70)]
RECORDED = (EventKind.PHONE_SEARCHED, EventKind.BUDGET_USED_UP)


def recorded(running: Running) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the kind, the actor and the detail of each recorded question, in order."""
    rows = select(events.c.kind, events.c.actor, events.c.detail).where(events.c.kind.in_(RECORDED))
    ordered = rows.order_by(events.c.position)
    database = running.service.runtime.database
    return [tuple(row) for row in database.read(lambda connection: connection.execute(ordered).all())]


def asker(running: Running, question: str, role: str) -> Callable[[str], requests.Response]:
    """Return a function that asks this question about a phone."""
    headers = running.key(role, "eve")
    made = running.bind(running.key("app", "rides")).json()
    middle_number, at = made["middle_number_a"], made["answered_at"]
    calls: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
        "lookup of a phone": lambda phone: ("/v1/lookup", {"phone": phone}),
        "lookup of a party": lambda phone: ("/v1/lookup", {"middle_number": middle_number, "party": phone}),
        "search": lambda phone: ("/v1/bindings/search", {"phone": phone}),
        "trace": lambda phone: ("/v1/trace", {"middle_number": middle_number, "at": at, "party": phone}),
        "refusals": lambda phone: ("/v1/refusals/search", {"phone": phone}),
        "check": lambda phone: ("/v1/bindings/check", {"phone_a": A, "phone_b": phone, "mode": "AXB"}),
        "unbind": lambda phone: ("/v1/bindings/unbind", {"phone": phone, "reason": "x", "dry_run": True}),
    }
    if question in calls:
        return lambda phone: running.post(*calls[question](phone), headers)
    browser = Browser(running).sign_in(role, "eve")
    csrf = {"csrf": browser.csrf()}
    form = csrf if question == "find" else csrf | {"q": middle_number, "time": at, "zone": "UTC"}
    field = "q" if question == "find" else "party"
    return lambda phone: browser.post("/find", form | {field: phone})


@pytest.fixture(params=MOSTLY_SQLITE)
def database_kind(request: pytest.FixtureRequest) -> str:
    """Return the database that the test runs on: a scan takes seconds, and its rules are those of the service."""
    return str(request.param)


READERS = ["lookup of a phone", "lookup of a party", "search", "trace", "refusals", "find", "find with a party"]


@pytest.mark.parametrize(
    ("question", "role"),
    [(question, "auditor") for question in READERS]
    + [(question, "admin") for question in ("check", "unbind", "search", "find")]
    + [("search", "investigator")],
)
def test_scan_of_candidates_gets_its_budget_of_answers_and_is_recorded(
    running: Running, question: str, role: str
) -> None:
    ask = asker(running, question, role)
    answers = [ask(candidate) for candidate in CANDIDATES]
    answered = [answer for answer in answers if answer.status_code in (200, 303)]
    refused = answers[BUDGET:]
    assert (len(answered), {answer.status_code for answer in refused}) == (BUDGET, {429})
    assert all(1 <= int(answer.headers["Retry-After"]) <= 3_600 for answer in refused)
    hit = ask(B)
    assert hit.status_code == 429, "otherwise a refusal would mean that nothing matches"
    text = hit.text.replace("&#39;", "'")
    assert "60 questions of this key with a full phone matched nothing" in text
    assert B not in text
    kinds = [kind for kind, _, _ in recorded(running)]
    assert kinds == [EventKind.PHONE_SEARCHED] * BUDGET + [EventKind.BUDGET_USED_UP]
    assert {actor for _, actor, _ in recorded(running)} == {"key:eve"}
    details = json.dumps([detail for _, _, detail in recorded(running)])
    assert not any(candidate in details or candidate[-10:] in details for candidate in CANDIDATES)
    value = running.app_state.metrics.registry.get_sample_value(
        "bindings_budget_used_up_total", {"budget": "phone_searches"}
    )
    assert value == len(CANDIDATES) - BUDGET + 1


@pytest.mark.parametrize("question", READERS)
def test_question_that_matches_is_recorded_and_takes_nothing(running: Running, question: str) -> None:
    ask = asker(running, question, "auditor")
    running.bind(running.key("app", "food"), phone_b=D)  # refused, because A is held
    for _ in range(BUDGET + 5):
        assert ask(A).status_code in (200, 303)
    assert {(kind, detail["match"]) for kind, _, detail in recorded(running)} == {(EventKind.PHONE_SEARCHED, True)}
    assert len(recorded(running)) == BUDGET + 5


def test_reveal_of_a_match_is_not_recorded_once_the_budget_is_used_up(running: Running) -> None:
    running.bind(running.key("app", "rides"))
    eve = running.key("investigator", "eve")
    reveal = {"reveal": {"reason": "complaint 118"}}
    for candidate in CANDIDATES[:BUDGET]:
        assert running.post("/v1/lookup", {"phone": candidate} | reveal, eve).status_code == 200
    assert running.post("/v1/lookup", {"phone": A} | reveal, eve).status_code == 429
    revealed = [event for event in running.service.export_events() if event.kind == EventKind.REVEALED]
    assert revealed == []


def test_used_up_budget_leaves_other_questions_and_other_keys(running: Running) -> None:
    made = running.bind(running.key("app", "rides"), reference="order-42").json()
    eve, ann = running.key("auditor", "eve"), running.key("auditor", "ann")
    for candidate in CANDIDATES[: BUDGET + 1]:
        last = running.post("/v1/lookup", {"phone": candidate}, eve)
    assert (last.status_code, last.json()["code"]) == (429, "budget-used-up")
    assert (last.json()["safe_to_retry"], last.json()["retry_after_s"]) == (True, int(last.headers["Retry-After"]))
    for body in ({"reference": "order-42"}, {"middle_number": made["middle_number_a"]}):
        (shown,) = running.post("/v1/lookup", body, eve).json()["data"]
        assert shown["id"] == made["id"]
    assert running.get(f"/v1/bindings/{made['id']}", eve).status_code == 200
    assert running.post("/v1/lookup", {"phone": A}, ann).json()["data"][0]["id"] == made["id"]


def test_find_by_a_middle_number_is_no_search_by_a_phone(running: Running) -> None:
    made = running.bind(running.key("app", "rides"), reference="order-42").json()
    browser = Browser(running).sign_in("auditor")
    for form in ({"q": made["middle_number_a"]}, {"q": "order-42"}, {"q": made["id"]}):
        assert browser.submit("/find", form).status_code == 200
    assert recorded(running) == []


def hold(running: Running, phone: str) -> None:
    """Record that the provider holds a phone for something else."""
    database = running.service.runtime.database
    now = database.clock()
    values = {"id": str(uuid7()), "scope": "default", "phone": Phone(phone), "why": "orphan", "app_id": "app-1"}
    times = {"held_until": now + timedelta(hours=1), "created_at": now}
    row = insert(holds).values(**values, **times, strikes=0)
    database.write(lambda tx: tx.connection.execute(row))


def test_hold_of_another_phone_makes_no_question_a_match(running: Running) -> None:
    made = running.bind(running.key("app", "rides")).json()
    hold(running, E)
    eve, browser = running.key("auditor", "eve"), Browser(running).sign_in("auditor", "eve")
    trace = {"middle_number": made["middle_number_a"], "at": made["answered_at"], "party": C}
    assert running.post("/v1/trace", trace, eve).status_code == 200
    for number, party in ((E, C), (C, E), (made["middle_number_a"], C)):
        form = {"q": number, "party": party, "time": made["answered_at"], "zone": "UTC"}
        assert browser.post("/find", form).status_code == 303
    running.post("/v1/bindings/check", {"phone_a": E, "phone_b": C, "mode": "AXB"}, running.key("admin", "eve"))
    assert [detail["match"] for _, _, detail in recorded(running)] == [False, False, False, False, True]
    rows = running.service.runtime.database.read(lambda connection: connection.execute(select(budgets)).all())
    assert sorted(row.used for row in rows) == [1, 1, 3], "a check takes one also if it matches"


def test_apps_and_routers_write_nothing_when_they_ask(running: Running) -> None:
    rides, router = running.key("app", "rides"), running.key("router")
    made = running.bind(rides).json()
    party = {"middle_number": made["middle_number_a"], "party": A}
    for phone in (A, C):
        for headers in (rides, router):
            assert running.post("/v1/lookup", {"phone": phone}, headers).status_code == 200
        for path in ("/v1/bindings/search", "/v1/refusals/search"):
            assert running.post(path, {"phone": phone}, rides).status_code == 200
        assert (
            running.post("/v1/trace", party | {"party": phone, "at": made["answered_at"]}, rides).status_code
            == 200
        )
        check = {"phone_a": phone, "phone_b": D, "mode": "AXB"}
        assert running.post("/v1/bindings/check", check, rides).status_code == 200
    assert running.post("/v1/lookup", party, router).status_code == 200
    Browser(running).sign_in("app", "rides").submit("/find", {"q": C})
    assert recorded(running) == []
    assert (
        running.service.runtime.database.read(lambda connection: connection.execute(select(budgets)).all()) == []
    )


def test_check_needs_the_permission_to_bind(running: Running) -> None:
    body = {"phone_a": A, "phone_b": B, "mode": "AXB"}
    statuses = {
        role: running.post("/v1/bindings/check", body, running.key(role)).status_code
        for role in ("app", "auditor", "investigator", "admin", "router")
    }
    assert statuses == {"app": 200, "auditor": 403, "investigator": 403, "admin": 200, "router": 403}


def test_app_that_watches_the_phones_of_others_is_refused_every_check(running: Running) -> None:
    running.bind(running.key("app", "rides"))
    running.service.runtime.settings.__dict__["check_budget"] = 5
    food = running.key("app", "food")
    own = running.bind(food, phone_a=C, phone_b=D).json()
    held, free, mine = (A, E), (E, "917700000001"), (C, E)

    def check(phones: tuple[str, str]) -> requests.Response:
        return running.post(
            "/v1/bindings/check", dict(zip(("phone_a", "phone_b"), phones, strict=True)) | {"mode": "AXB"}, food
        )

    for phones in (free, mine) * 10:
        assert check(phones).status_code == 200
    assert [check(held).status_code for _ in range(6)] == [200] * 5 + [429]
    refused = [check(phones) for phones in (held, free, mine)]
    assert [answer.status_code for answer in refused] == [429] * 3, "a refusal does not say what the answer is"
    assert {answer.json()["code"] for answer in refused} == {"budget-used-up"}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 3_600 for answer in refused)
    assert running.get(f"/v1/bindings/{own['id']}", food).status_code == 200
    assert running.post(
        "/v1/bindings/check", {"phone_a": A, "phone_b": E, "mode": "AXB"}, running.key("app", "taxi")
    ).ok
    assert [(kind, actor, detail["budget"]) for kind, actor, detail in recorded(running)] == [
        (EventKind.BUDGET_USED_UP, "key:food", "held_answers")
    ]


def test_app_learns_the_end_of_another_binding_to_the_minute_only(running: Running) -> None:
    made = running.bind(running.key("app", "rides")).json()
    food = running.key("app", "food")
    (checked,) = running.post("/v1/bindings/check", {"phone_a": A, "phone_b": C, "mode": "AXB"}, food).json()[
        "data"
    ]
    refused = running.bind(food, phone_b=C)
    (listed,) = running.post("/v1/refusals/search", {"phone": A}, food).json()["data"]
    end = datetime.fromisoformat(made["held_until"])
    for holder in (checked, refused.json()["holder"], listed["holder"]):
        shown = datetime.fromisoformat(holder["held_until"])
        assert (shown.second, shown.microsecond) == (0, 0)
        assert timedelta(0) <= shown - end < timedelta(minutes=1)
        assert holder["retry_after_s"] >= (shown - end).total_seconds()
    assert int(refused.headers["Retry-After"]) == refused.json()["holder"]["retry_after_s"]
    assert made["held_until"][:19] not in refused.text + json.dumps([checked, listed])


def test_access_log_shows_questions_with_reveals_and_exports_and_an_app_sees_none(running: Running) -> None:
    rides, eve = running.key("app", "rides"), running.key("investigator", "eve")
    made = running.bind(rides).json()
    running.post("/v1/lookup", {"phone": A}, eve)
    running.post(f"/v1/bindings/{made['id']}/reveal", {"reason": "complaint 118"}, eve)
    for candidate in CANDIDATES[: BUDGET + 1]:
        running.post("/v1/lookup", {"phone": candidate}, eve)
    browser = Browser(running).sign_in("auditor", "ann")
    file = browser.post("/access/export", {"format": "ndjson"}).text
    entries = [entry for entry in map(json.loads, file.splitlines()) if entry["act"] is None]
    assert len(entries) == BUDGET + 4, (
        "two pages and more: a match, a reveal, the questions, the limit, this export"
    )
    times = [entry["at"] for entry in entries]
    assert times == sorted(times, reverse=True)
    texts = [entry["what"] for entry in entries]
    assert texts[1].startswith("budget phone_searches of 60 an hour used up until ")
    assert texts[2 : BUDGET + 2] == ["lookup by a full phone: no match"] * BUDGET
    assert texts[-2:] == ["phones of a binding", "lookup by a full phone: a match"]
    page = browser.get("/access").text
    assert "lookup by a full phone: no match" in page
    assert CANDIDATES[0] not in page + file
    feed_has_caught_up(running.service)
    seen = [event["kind"] for event in running.get("/v1/events", rides).json()["data"]]
    seen += [event["kind"] for event in running.get(f"/v1/bindings/{made['id']}/events", rides).json()["data"]]
    assert not {*RECORDED, EventKind.REVEALED} & set(seen)
    for kind in RECORDED:
        assert not webhooks.is_sent(kind, None)
        assert webhooks.is_sent(kind, [kind])


def test_used_up_budget_ends_nothing(running: Running) -> None:
    made = running.bind(running.key("app", "rides")).json()
    admin = running.key("admin", "eve")
    for candidate in CANDIDATES[:BUDGET]:
        running.post("/v1/lookup", {"phone": candidate}, admin)
    body = {"phone": A, "reason": "order closed"}
    assert running.post("/v1/bindings/unbind", body, admin).status_code == 429
    assert running.get(f"/v1/bindings/{made['id']}", admin).json()["unbind_requested_at"] is None
    assert running.post("/v1/bindings/unbind", body, running.key("admin", "ann")).status_code == 200
