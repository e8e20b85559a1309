"""What an app sees of its bindings: nothing of investigations, of other callers and of what exists besides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from bindings.webhooks.sender import deliver_pending
from tests.service.harness import C, D, feed_has_caught_up
from tests.web.browser import Browser
from tests.web.receivers import Receiver

if TYPE_CHECKING:
    import requests

    from tests.web.conftest import Running

REASON = "complaint 118"
SECRETS = (REASON, "key:eve", "revealed", "eve-call")
EVE_CALL = {"X-Request-ID": "eve-call"}


def feed(running: Running, headers: dict[str, str]) -> list[dict[str, Any]]:
    """Return the whole feed as a caller sees it, two events at a time."""
    feed_has_caught_up(running.service)
    events: list[dict[str, Any]] = []
    after, end = None, running.service.feed_end()
    while after != end:
        query = {"limit": 2} | ({"after": after} if after else {})
        page = running.get("/v1/events", headers, params=query).json()
        after = page["next_cursor"]
        events += page["data"]
    return events


def investigate(running: Running, binding_id: str) -> None:
    """Reveal a binding in every way as eve: four times one by one, once in a period; and let eve unbind it."""
    eve = running.key("admin", "eve") | EVE_CALL
    reveal = {"reveal": {"reason": REASON}}
    assert running.post(f"/v1/bindings/{binding_id}/reveal", {"reason": REASON}, eve).status_code == 200
    assert running.post("/v1/bindings/search", reveal, eve).status_code == 200
    browser = Browser(running).sign_in("investigator", "eve")
    assert browser.submit(f"/bindings/{binding_id}/reveal", {"reason": REASON}).status_code == 200
    assert browser.post("/exports", {"reason": REASON}).status_code == 200
    assert running.post(f"/v1/bindings/{binding_id}/unbind", {"reason": REASON}, eve).status_code == 200
    assert running.post(f"/v1/bindings/{binding_id}/reveal", {"reason": REASON}, eve).status_code == 200


def test_app_does_not_learn_who_investigates_its_bindings_and_why(running: Running) -> None:
    rides = running.key("app", "rides")
    created = running.bind(rides).json()
    path = f"/v1/bindings/{created['id']}"
    investigate(running, created["id"])
    answers = [
        running.get(path, rides),
        running.get(f"{path}/events", rides),
        running.get("/v1/events", rides),
        running.post("/v1/bindings/search", {}, rides),
        running.post(f"{path}/unbind", {}, rides),
    ]
    browser = Browser(running).sign_in("app", "rides")
    pages = [browser.get(f"/bindings/{created['id']}{part}") for part in ("", "/raw", "/numbers/phone_a")]
    exports = [browser.post(f"/bindings/{created['id']}{part}/export") for part in ("", "/numbers/phone_a")]
    for answer in (*answers, *pages, *exports):
        assert answer.status_code == 200
        assert not [secret for secret in SECRETS if secret in answer.text], answer.url
    history = running.get(f"{path}/events", rides).json()["data"]
    assert [(event["kind"], event["sequence"]) for event in history] == [
        ("requested", 1),
        ("activated", 2),
        ("unbind_requested", 3),
        ("unbound", 4),
    ]
    assert [event["actor"] for event in history] == ["key:rides", "key:rides", "other", "other"]
    assert feed(running, rides) == history
    assert {running.get(path, rides).json()["version"], created["version"]} == {0}
    assert json.loads(pages[1].text)["binding"]["version"] == 0
    auditor = running.key("auditor")
    whole = running.get(f"{path}/events", auditor).json()["data"]
    assert [event["sequence"] for event in whole] == list(range(1, len(whole) + 1))
    assert [event["kind"] for event in whole].count("revealed") == 4
    assert [event for event in feed(running, auditor) if event["binding_id"] == created["id"]] == whole


def test_app_sees_its_own_reasons_and_the_work_of_the_jobs(running: Running) -> None:
    rides = running.key("app", "rides")
    created = running.bind(rides).json()
    running.post(f"/v1/bindings/{created['id']}/unbind", {"reason": "trip ended"}, rides)
    other = running.bind(rides, phone_a=C, phone_b=D).json()
    running.service.as_caller(actor="scheduler").unbind(other["id"], reason="sweep")
    events = running.get(f"/v1/bindings/{created['id']}/events", rides).json()["data"]
    assert events[2]["detail"]["reason"] == "trip ended"
    events = running.get(f"/v1/bindings/{other['id']}/events", rides).json()["data"]
    assert events[2]["actor"] == "scheduler"


def test_webhook_gets_reveals_only_if_it_names_the_kind(running: Running) -> None:
    rides = running.key("app", "rides")
    with Receiver() as every, Receiver() as named:
        feed_has_caught_up(running.service)
        ordinary = running.service.webhooks.add(url=every.url)
        watching = running.service.webhooks.add(url=named.url, kinds=["revealed", "unbound"])
        investigate(running, running.bind(rides).json()["id"])
        feed_has_caught_up(running.service)
        deliver_pending(running.service.runtime)
        sent = [message.verified(ordinary.secret)["data"] for message in every.messages]
        assert sorted((data["sequence"], data["kind"]) for data in sent if data["binding_id"]) == [
            (1, "requested"),
            (2, "activated"),
            (3, "unbind_requested"),
            (4, "unbound"),
        ]
        seen = [message.verified(watching.secret)["data"] for message in named.messages]
    assert sorted((data["sequence"], data["kind"]) for data in seen if data["binding_id"]) == [
        (3, "revealed"),
        (4, "revealed"),
        (5, "revealed"),
        (7, "unbound"),
        (8, "revealed"),
    ]
    assert {data["binding_id"] for data in seen if data["sequence"] == 0} == {None}, "the export of a period"


def test_acts_and_exports_are_seen_by_readers_and_their_hashes_only_by_those_who_may_reveal(
    running: Running,
) -> None:
    rides, auditor, investigator = (running.key(role) for role in ("app", "auditor", "investigator"))
    created = running.bind(rides).json()
    service = running.service.as_caller(actor="key:eve", request_id="eve-call")
    export_id = service.access_log.start_export(view="bindings", filters={}, format="csv", reason=REASON)
    service.access_log.finish_export(export_id, row_count=1, sha256="5" * 64)
    assert {event["kind"] for event in feed(running, rides)} == {"requested", "activated"}
    search = Browser(running).sign_in("app").submit("/find", {"q": "eve-call"})
    assert "No matches" in search.text
    for headers, sees_hash in ((auditor, False), (investigator, True), (running.key("admin"), True)):
        events = feed(running, headers)
        assert {"administered", "exported", "requested"} <= {event["kind"] for event in events}
        assert ("5" * 64 in json.dumps(events)) == sees_hash
    of_binding = [event for event in feed(running, auditor) if event["binding_id"] == created["id"]]
    keys = {key.id for key in running.service.api_keys.list() if key.role == "app"}
    assert {event["key_id"] for event in of_binding} <= keys
    for role, sees_hash in (("auditor", False), ("investigator", True)):
        file = Browser(running).sign_in(role).post("/exports", {"what": "events", "format": "ndjson"})
        assert ("exported" in file.text, "5" * 64 in file.text) == (True, sees_hash)


def test_webhook_gets_acts_and_exports_only_if_it_names_the_kinds(running: Running) -> None:
    with Receiver() as every, Receiver() as named:
        running.service.webhooks.add(url=every.url)
        watching = running.service.webhooks.add(url=named.url, kinds=["administered", "exported"])
        running.service.access_log.start_export(view="bindings", filters={}, format="csv", reason=None)
        running.bind()
        feed_has_caught_up(running.service)
        deliver_pending(running.service.runtime)
        assert {json.loads(message.body)["type"] for message in every.messages} == {
            "binding.requested",
            "binding.activated",
        }
        messages = [message.verified(watching.secret) for message in named.messages]
    assert {(message["type"], message["data"].get("act")) for message in messages} == {
        ("audit.administered", "webhook.added"),
        ("audit.exported", None),
    }


def without_ids(answer: requests.Response) -> tuple[int, dict[str, Any], set[str]]:
    """Return status, body and header names of a response, without what differs with each request."""
    body = answer.json()
    for name in ("request_id", "binding_id"):
        body.pop(name, None)
    return answer.status_code, body, set(answer.headers) - {"date"}


@pytest.mark.parametrize("role", ["app", "auditor"])
def test_response_does_not_tell_if_what_may_not_be_seen_exists(running: Running, role: str) -> None:
    food = running.key("app", "food")
    created = running.bind(food).json()
    export = Browser(running).sign_in("app", "food").post(f"/bindings/{created['id']}/export")
    export_id = export.headers["Link"].partition(">")[0].rpartition("/")[2]
    running.service.reconcile(dry_run=True)
    report_id = running.service.reports().data[0].id
    headers, unknown = running.key(role, "rides"), str(uuid7())
    session = Browser(running).sign_in(role, "rides").session
    hidden = [("post", f"/v1/bindings/{{}}/{call}", created["id"]) for call in ("unbind", "reveal", "replace")]
    hidden += [("post", "/bindings/{}/reveal", created["id"]), ("post", "/doubts/{}/absent", created["id"])]
    hidden += [("get", "/doubts/{}/absent", created["id"])]
    if role == "app":
        hidden += [("get", path, created["id"]) for path in ("/v1/bindings/{}", "/v1/bindings/{}/events")]
        paths = ("/bindings/{}", "/bindings/{}/raw", "/bindings/{}/numbers/phone_a")
        hidden += [("get", path, created["id"]) for path in paths]
        hidden += [("get", "/exports/{}", export_id), ("get", "/exports/{}?as=json", export_id)]
        hidden += [("get", "/reports/{}", report_id), ("get", "/reports/{}/download", report_id)]
    for method, path, known in hidden:
        caller = running.session if path.startswith("/v1") else session
        body = {"reason": "x"} if path.endswith(("/unbind", "/reveal")) and path.startswith("/v1") else None
        answers = [
            caller.request(method, running.url + path.format(name), headers=headers, timeout=300, json=body)
            for name in (known, unknown)
        ]
        assert answers[0].status_code >= 400, path
        assert without_ids(answers[0]) == without_ids(answers[1]), path
