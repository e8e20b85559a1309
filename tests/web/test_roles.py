"""Authentication, and what each role may do and see."""

from __future__ import annotations

import logging
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import requests

from bindings.access.api_keys import well_formed
from bindings.domain.binding import EventKind
from bindings.domain.hold import round_up
from bindings.domain.phone import mask
from bindings.domain.roles import Role
from bindings.errors import InvalidRequest, NotFound
from bindings.provider.simulator import Fault, FaultKind
from bindings.service import BindingService
from bindings.web import server
from bindings.web.api import openapi
from bindings.web.rate_limit import ATTEMPTS
from tests.service.harness import A, B, C, D, E, wait_for
from tests.web.conftest import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.provider.simulator import Simulator
    from tests.web.conftest import Running

UNKNOWN_ID = "01993b1e-7c5a-7d52-9b6e-2f1c8a4d7e90"


def test_local_client_is_admin_until_the_first_key_exists(running: Running) -> None:
    assert running.get("/v1/bindings").status_code == 200
    admin = running.key("admin")
    refused = running.get("/v1/bindings")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert running.get("/v1/bindings", admin).status_code == 200


def test_revoking_the_last_key_does_not_restore_local_access(running: Running) -> None:
    running.key("admin")
    running.service.api_keys.revoke(running.service.api_keys.list()[0].id)
    running.app_state.authenticator._cache.clear()
    assert running.get("/v1/bindings").status_code == 401


@pytest.mark.parametrize(
    ("host", "proxies"), [("0.0.0.0", ""), ("127.0.0.1", "127.0.0.1")], ids=["other hosts", "a proxy"]
)
def test_local_admin_is_refused_where_other_hosts_could_be_it(
    own_database_url: str, host: str, proxies: str
) -> None:
    environment = {"BINDINGS_DATABASE_URL": own_database_url, "BINDINGS_TRUSTED_PROXIES": proxies}
    with BindingService.open(environment=environment) as service, pytest.raises(InvalidRequest) as refused:
        server.serve(service, host=host, port=0, scheduler=False, local_admin=True, listening=print)
    assert [fault.field for fault in refused.value.field_errors] == ["local_admin"]


@pytest.fixture
def locked(service: BindingService) -> Iterator[Running]:
    """Run a service without `--local-admin`, before any key exists."""
    yield from run(service, local_admin=False)


def test_every_request_needs_a_key_also_before_one_exists(locked: Running) -> None:
    for path in ("/v1/bindings", "/metrics"):
        assert locked.get(path).status_code == 401
    assert locked.get("/overview", {"Accept": "text/html"}, allow_redirects=False).status_code == 303
    assert locked.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "presented",
    ["Bearer", "Bearer ", "Bearer bnd_x", "Basic YTpi", "Bearer {other}", "{good}", "Bearer {good} x"],
)
def test_invalid_key_is_refused(running: Running, presented: str) -> None:
    good = running.key("admin")["Authorization"].removeprefix("Bearer ")
    headers = {"Authorization": presented.format(good=good, other=good[:-1] + ("x" if good[-1] != "x" else "y"))}
    answer = running.get("/v1/bindings", headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert good not in answer.text


@pytest.mark.parametrize("presented", ["{good}", "Token {good}", "Bearer", "Basic YTpi"])
def test_key_without_its_scheme_is_refused_with_the_scheme_and_not_counted(
    running: Running, presented: str
) -> None:
    good = running.key("admin")["Authorization"].removeprefix("Bearer ")
    for _ in range(ATTEMPTS + 1):
        answer = running.get("/v1/bindings", {"Authorization": presented.format(good=good)})
        assert answer.json()["detail"] == "the header must be `Authorization: Bearer <key>`; nothing was done"


def test_key_is_valid_until_revoked_and_records_its_use(running: Running) -> None:
    app = running.key("app")
    assert running.get("/v1/bindings", app).status_code == 200
    key = running.service.api_keys.list()[0]
    assert key.last_used_at is not None
    revoked = running.service.api_keys.revoke(key.id)
    assert running.service.api_keys.revoke(key.id) == revoked
    running.app_state.authenticator._cache.clear()  # otherwise this takes five seconds
    assert running.get("/v1/bindings", app).status_code == 401
    with pytest.raises(NotFound):
        running.service.api_keys.revoke(UNKNOWN_ID)


def test_expired_key_is_refused(running: Running) -> None:
    past = running.key("admin", expires_at="2020-01-01T00:00:00Z")
    assert running.get("/v1/bindings", past).status_code == 401


def test_keys_of_one_name_see_the_same_bindings(running: Running) -> None:
    old, new = running.key("app", "rides"), running.key("app", "rides")
    created = running.bind(old).json()
    assert created["actor"] == "key:rides"
    assert running.get(f"/v1/bindings/{created['id']}", new).json() == created


ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/v1/bindings", {}),
    ("GET", "/v1/bindings", None),
    ("POST", "/v1/bindings/search", {}),
    ("POST", "/v1/bindings/check", {"phone_a": C, "phone_b": D, "mode": "AXB"}),
    ("GET", "/v1/bindings/{id}", None),
    ("GET", "/v1/bindings/{id}/events", None),
    ("POST", "/v1/bindings/{id}/reveal", {"reason": "complaint 118"}),
    ("POST", "/v1/lookup", {"phone": A}),
    ("POST", "/v1/lookup", {"phone": A, "reveal": {"reason": "complaint 118"}}),
    ("POST", "/v1/bindings/search", {"phone": A, "reveal": {"reason": "complaint 118"}}),
    ("POST", "/v1/trace", {"middle_number": "1", "at": "2026-01-01T00:00:00Z", "reveal": {"reason": "x"}}),
    ("GET", "/v1/events", None),
    ("GET", "/metrics", None),
    ("POST", "/v1/bindings/{id}/replace", {}),
    ("POST", "/v1/bindings/{id}/unbind", {}),
    ("POST", "/v1/bindings/unbind", {"reference": "no-order", "reason": "order closed"}),
]
# In the order of ROUTES. An empty bind passes authentication and is then refused for its fields (422).
ALLOWED = {
    "app": [422, 200, 200, 200, 404, 404, 403, 200, 403, 403, 403, 200, 403, 404, 404, 200],
    "auditor": [403, 200, 200, 403, 200, 200, 403, 200, 403, 403, 403, 200, 200, 403, 403, 403],
    "investigator": [403, 200, 200, 403, 200, 200, 200, 200, 200, 200, 200, 200, 200, 403, 403, 403],
    "admin": [422, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 201, 200, 200],
    "router": [403, 403, 403, 403, 403, 403, 403, 200, 403, 403, 403, 403, 403, 403, 403, 403],
}


@pytest.mark.parametrize("role", ALLOWED)
def test_role_allows_only_its_permissions(running: Running, role: str) -> None:
    created = running.bind(running.key("app", "rides")).json()
    headers = running.key(role, "another actor")
    results = [
        running.session.request(
            method, running.url + path.format(id=created["id"]), json=body, headers=headers, timeout=30
        ).status_code
        for method, path, body in ROUTES
    ]
    assert results == ALLOWED[role]


def test_app_sees_its_own_bindings_in_full_and_no_others(running: Running) -> None:
    rides, food = running.key("app", "rides"), running.key("app", "food")
    key = {"Idempotency-Key": "order-42/1"}
    own = running.bind(rides | key, reference="order-42").json()
    other = running.bind(food | key, phone_a=C, phone_b=D, reference="order-42").json()
    assert (own["phone_a"], own["phone_b"]) == (A, B)
    assert [item["id"] for item in running.get("/v1/bindings", rides).json()["data"]] == [own["id"]]
    assert running.post("/v1/lookup", {"phone": C}, rides).json()["data"] == []
    assert running.post("/v1/lookup", {"reference": "order-42"}, rides).json()["data"] == [own]
    assert running.post("/v1/bindings/search", {"actor": "key:food"}, rides).json()["data"] == [own]
    by_key = {"idempotency_key": "order-42/1"}
    assert running.post("/v1/bindings/search", by_key, rides).json()["data"] == [own]
    matches = running.post("/v1/bindings/search", by_key, running.key("auditor")).json()["data"]
    assert [item["id"] for item in matches] == [other["id"], own["id"]]
    at = {"middle_number": other["middle_number_a"], "at": other["answered_at"], "party": C}
    assert running.post("/v1/trace", at, rides).json() == {
        "holders": [],
        "near_misses": [],
        "other_holders": [],
        "holds": [],
    }
    # Four of the bindings, and three of the keys; a transaction of another test may delay the feed.
    wait_for(lambda: len(running.service.events().data) == 7)
    events = running.get("/v1/events", rides).json()["data"]
    assert {event["binding_id"] for event in events} == {own["id"]}


def test_app_sees_its_own_refused_binds_and_their_holders_only_if_they_are_its_own(running: Running) -> None:
    rides, food = running.key("app", "rides"), running.key("app", "food")
    own = running.bind(rides, reference="ride-1").json()
    running.bind(food, phone_a=C, phone_b=D)
    assert running.bind(rides, phone_b=E, reference="ride-2").status_code == 409
    assert running.bind(rides, phone_a=C, phone_b=E, reference="ride-3").status_code == 409
    assert running.bind(food, phone_a=A, phone_b=E, reference="food-4").status_code == 409
    route = "/v1/refusals/search"
    shown = running.post(route, {"actor": "key:food"}, rides).json()["data"]
    assert [(item["reference"], item["phone_b"]) for item in shown] == [("ride-3", E), ("ride-2", E)]
    assert [item["holder"]["id"] for item in shown] == [None, own["id"]]
    assert (shown[0]["holder"]["actor"], shown[1]["holder"]["reference"]) == (None, "ride-1")
    assert running.post(route, {"reference": "food-4"}, rides).json() == {"data": [], "next_cursor": None}
    assert running.post(route, {"phone": E, "reference_prefix": "ride"}, rides).json()["data"] == shown
    auditor = running.post(route, {"phone": E}, running.key("auditor"))
    assert [item["reference"] for item in auditor.json()["data"]] == ["food-4", "ride-3", "ride-2"]
    assert E not in auditor.text
    assert mask(E) in auditor.text
    assert running.post(route, {"phone": E, "reveal": {"reason": "x"}}, running.key("admin")).status_code == 422


def test_auditor_sees_all_bindings_with_masked_phones(running: Running) -> None:
    created = running.bind(running.key("app", "rides"), reference="order-42").json()
    auditor = running.key("auditor")
    at = {"middle_number": created["middle_number_a"], "at": created["answered_at"]}
    for answer in (
        running.get(f"/v1/bindings/{created['id']}", auditor),
        running.get("/v1/bindings", auditor),
        running.post("/v1/lookup", {"phone": A}, auditor),
        running.post("/v1/lookup", {"reference": "order-42"}, auditor),
        running.post("/v1/trace", at, auditor),
        running.post("/v1/bindings/search", {"phone": A}, auditor),
    ):
        assert answer.status_code == 200
        assert mask(A) in answer.text
        assert A not in answer.text
        assert "counterpart" not in answer.text
        assert created["middle_number_a"] in answer.text


def test_router_looks_up_the_bindings_of_all_callers_with_full_phones(running: Running) -> None:
    created = running.bind(running.key("app", "rides"), mode="AXXB", reference="order-42").json()
    router = running.key("router")
    route = {"counterpart": B, "caller_id": created["middle_number_b"]}
    by_party = {"middle_number": created["middle_number_a"], "party": f"+{A}"}
    assert running.post("/v1/lookup", by_party, router).json() == {"data": [created | route]}
    assert running.post("/v1/lookup", {"phone": A}, router).json() == {"data": [created | route]}
    assert running.post("/v1/lookup", {"reference": "order-42"}, router).json() == {"data": [created]}
    history = running.service.history(created["id"])
    assert EventKind.REVEALED not in {event.kind for event in history}


def test_router_is_refused_by_every_other_call_of_the_document(running: Running) -> None:
    router = running.key("router")
    refused = {
        (method, path)
        for (method, path), operation in openapi.operations().items()
        if not operation.open and path != "/v1/lookup"
    }
    assert len(refused) > 10
    for method, path in refused:
        url = running.url + path.format(binding_id=UNKNOWN_ID)
        assert running.session.request(method, url, headers=router, timeout=30).status_code == 403, path


def test_admin_sees_the_phones_of_other_callers_only_by_a_reveal(running: Running) -> None:
    running.bind(running.key("app", "rides"))
    answer = running.post("/v1/lookup", {"phone": A}, running.key("admin", "ops"))
    assert (answer.status_code, mask(A) in answer.text, A in answer.text) == (200, True, False)


def test_reveal_records_actor_and_reason_before_phones_are_shown(running: Running) -> None:
    created = running.bind(running.key("app", "rides")).json()
    investigator = running.key("investigator", "eve")
    reveal = {"reveal": {"reason": "complaint 118"}}
    revealed = [
        running.post(f"/v1/bindings/{created['id']}/reveal", reveal["reveal"], investigator).json(),
        running.post("/v1/lookup", {"phone": A} | reveal, investigator).json()["data"][0],
        running.post("/v1/bindings/search", {"phone": A} | reveal, investigator).json()["data"][0],
        running.post(
            "/v1/trace",
            {"middle_number": created["middle_number_a"], "at": created["answered_at"]} | reveal,
            investigator,
        ).json()["holders"][0]["binding"],
    ]
    assert {(item["phone_a"], item["phone_b"]) for item in revealed} == {(A, B)}
    events = [event for event in running.service.history(created["id"]) if event.kind is EventKind.REVEALED]
    assert [(event.actor, event.detail["reason"]) for event in events] == [("key:eve", "complaint 118")] * 4
    assert all(event.request_id for event in events)


def test_reveal_without_a_reason_is_refused(running: Running) -> None:
    created = running.bind(running.key("app", "rides")).json()
    investigator = running.key("investigator")
    for path, body, field in (
        (f"/v1/bindings/{created['id']}/reveal", {}, "reason"),
        (f"/v1/bindings/{created['id']}/reveal", {"reason": ""}, "reason"),
        ("/v1/lookup", {"phone": A, "reveal": {}}, "reveal.reason"),
        ("/v1/lookup", {"phone": A, "reveal": {"reason": ""}}, "reason"),
    ):
        refused = running.post(path, body, investigator)
        assert refused.status_code == 422
        assert [fault["field"] for fault in refused.json()["errors"]] == [field]


def test_rate_limit_applies_to_each_key_separately(running: Running) -> None:
    greedy, other = running.key("app", "greedy", rate_limit=2), running.key("app", "other")
    answers = [running.post("/v1/lookup", {"phone": A}, greedy) for _ in range(6)]
    late = [answer for answer in answers if answer.status_code == 429]
    assert late
    assert {(item.json()["code"], item.headers["Retry-After"]) for item in late} == {("rate-limited", "1")}
    assert running.post("/v1/lookup", {"phone": A}, other).status_code == 200


def test_key_arguments_are_checked_and_the_key_is_not_stored(running: Running) -> None:
    with pytest.raises(InvalidRequest) as refused:
        running.service.api_keys.create(name="", role="root", rate_limit=0)
    assert sorted(fault.field for fault in refused.value.field_errors) == ["name", "rate_limit", "role"]
    created = running.service.api_keys.create(name="rides", role="app")
    assert well_formed(created.key)
    assert not well_formed(created.key[:-1])
    assert not well_formed(created.key[:10] + ("0" if created.key[10] != "0" else "1") + created.key[11:])
    assert created.key not in repr(created)
    assert created.key not in repr(running.service.api_keys.list())


def test_log_lines_carry_no_key(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    headers = running.key("app")
    secret = headers["Authorization"].removeprefix("Bearer ")
    running.bind(headers)
    requests.get(f"{running.url}/v1/bindings", headers={"Authorization": f"Bearer {secret}x"}, timeout=300)
    assert secret not in caplog.text


def test_app_sees_only_held_until_of_another_holder(running: Running) -> None:
    rides, food, admin = running.key("app", "rides"), running.key("app", "food"), running.key("admin")
    created = running.bind(rides, reference="order-42").json()
    refused = running.bind(food, phone_b=C)
    request = {"phone_a": A, "phone_b": C, "mode": "AXB"}
    (holder_seen,) = running.post("/v1/bindings/check", request, food).json()["data"]
    for holder in (refused.json()["holder"], holder_seen):
        visible = {name for name, value in holder.items() if value is not None}
        assert visible == {"held_until", "retry_after_s", "why"}
        until = round_up(datetime.fromisoformat(created["held_until"]))
        assert (datetime.fromisoformat(holder["held_until"]), holder["why"]) == (until, "binding")
    assert (refused.status_code, refused.json()["code"]) == (409, "phone-in-use")
    for telling in (rides, admin):
        (holder,) = running.post("/v1/bindings/check", request, telling).json()["data"]
        assert (holder["id"], holder["actor"], holder["reference"]) == (created["id"], "key:rides", "order-42")
    texts = running.get("/v1/events", food).text + running.post("/v1/bindings/search", {}, food).text
    for secret in (created["id"], "order-42", "key:rides"):
        assert secret not in refused.text + texts


@pytest.mark.parametrize("fault", [None, "lost_reply", "refuse"])
def test_idempotency_key_of_another_actor_replays_nothing(
    running: Running, simulator: Simulator, fault: str | None
) -> None:
    if fault is not None:
        simulator.script(Fault(kind=FaultKind(fault), times=1, status="-41" if fault == "refuse" else None))
    same = {"Idempotency-Key": "order-42/1"}
    other = running.bind(running.key("app", "rides") | same, reference="order-42")
    assert other.status_code == {None: 201, "lost_reply": 202, "refuse": 503}[fault]
    binding_id = other.json().get("id") or other.json()["binding_id"]
    food = running.key("app", "food") | same
    answer = running.bind(food, reference="order-42")
    if fault == "refuse":  # the phones are free
        assert answer.status_code == 201
    else:
        assert (answer.status_code, answer.json()["code"]) == (409, "phone-in-use")
        assert "Location" not in answer.headers
        assert running.bind(food, phone_a=C, phone_b=D).status_code == 201
    for secret in (binding_id, "key:rides"):
        assert secret not in answer.text
    assert simulator.counts.received["bind"] == 2
    changed = running.bind(running.key("app", "rides") | same, reference="order-42")
    if fault == "refuse":  # the key was given back, and the other actor has the phones
        assert (changed.status_code, changed.json()["code"]) == (409, "phone-in-use")
    else:
        assert changed.json().get("id", changed.json().get("binding_id")) == binding_id


def test_events_of_an_app_do_not_name_bindings_of_other_actors(running: Running, simulator: Simulator) -> None:
    rides, food = running.key("app", "rides"), running.key("app", "food")
    other = running.bind(rides, mode="AXXB").json()
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-35"))
    failed = running.bind(food, phone_b=C, mode="AXXB")
    assert (failed.status_code, failed.json()["code"]) == (409, "phone-in-use-at-provider")
    path = f"/v1/bindings/{failed.json()['binding_id']}/events"
    texts = running.get(path, food).text + running.get("/v1/events", food).text + failed.text
    assert other["id"] not in texts
    assert other["id"] in running.get(path, running.key("auditor")).text


def test_key_revoked_during_a_wait_is_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bindings.web.auth.CACHE_S", 0.0)
    auditor, admin = running.key("auditor"), running.key("admin")
    after = running.get("/v1/events", auditor).json()["next_cursor"]
    answers: list[int] = []
    waiting = threading.Thread(
        target=lambda: answers.append(running.get(f"/v1/events?after={after}&wait_s=20", auditor).status_code)
    )
    waiting.start()
    wait_for(lambda: running.app_state.notifier.waiting == 1)
    (key,) = (key for key in running.service.api_keys.list() if key.role is Role.AUDITOR)
    running.service.api_keys.revoke(key.id)
    assert running.bind(admin).status_code == 201
    waiting.join(300)
    assert answers == [401]


@pytest.mark.parametrize(("origin", "expected"), [("http://evil.example", 401), ("null", 401), (None, 200)])
def test_without_keys_a_cross_origin_post_is_refused(running: Running, origin: str | None, expected: int) -> None:
    own = running.url if origin is None else origin
    assert running.post("/v1/bindings/search", None, {"Origin": own}).status_code == expected
