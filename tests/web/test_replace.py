"""POST /v1/bindings/{binding_id}/replace: the responses, a repeated call, and what each role may do and see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bindings.domain.phone import mask
from bindings.jobs.registry import RECONCILE
from bindings.jobs.runner import JobRunner
from bindings.lifecycle import replace
from bindings.web import problems
from bindings.web.middleware import MAX_BODY_BYTES
from tests.service.harness import A, B, C, D, E

if TYPE_CHECKING:
    import pytest
    from requests import Response

    from bindings.provider.simulator import Simulator
    from tests.web.conftest import Running

KEY = {"Idempotency-Key": "order-42/2"}


def call_replace(
    running: Running, binding_id: str, fields: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> Response:
    return running.post(f"/v1/bindings/{binding_id}/replace", fields, headers)


def test_successor_takes_over_and_the_key_returns_it_again(running: Running, simulator: Simulator) -> None:
    rides = running.key("app", "rides")
    driver = running.bind(rides, reference="order-42").json()
    replaced = call_replace(running, driver["id"], {"phone_b": f"+{C}"}, rides | KEY)
    successor = replaced.json()
    assert (replaced.status_code, replaced.headers["Location"]) == (201, f"/v1/bindings/{successor['id']}")
    assert (successor["phone_a"], successor["phone_b"], successor["reference"]) == (A, C, "order-42")
    assert (successor["replaces"], successor["state"], successor["waits_for"]) == (driver["id"], "active", None)
    ended = running.get(f"/v1/bindings/{driver['id']}", rides).json()
    assert (ended["state"], ended["reason"], ended["replaced_by"]) == ("unbound", "replaced", successor["id"])
    replay = call_replace(running, driver["id"], {"phone_b": C}, rides | KEY)
    assert (replay.status_code, replay.json()) == (200, successor)
    assert replay.headers["Idempotent-Replayed"] == "true"
    assert simulator.counts.received["bind"] == 2
    mismatch = call_replace(running, driver["id"], {"phone_b": D}, rides | KEY)
    assert (mismatch.status_code, mismatch.json()["code"]) == (422, "idempotency-mismatch")
    refused = call_replace(running, driver["id"], None, rides)
    assert (refused.status_code, refused.json()["code"]) == (409, "already-replaced")
    assert refused.json()["replaced_by"] == successor["id"]
    assert "predecessor_ended" not in refused.json()
    assert running.post("/v1/lookup", {"reference": "order-42"}, rides).json() == {"data": [successor]}
    renewed = call_replace(running, successor["id"], None, rides)  # without a body
    assert (renewed.status_code, renewed.json()["phone_b"]) == (201, C)


def test_unconfirmed_end_is_202_with_the_predecessor_and_the_same_call_goes_on(
    running: Running, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = running.bind().json()
    simulator.script("lost_reply", times=1, on="unbind")
    with monkeypatch.context() as patch:
        patch.setattr(replace, "STEPS_S", 0.1 - running.service.settings.provider_timeout_s)
        accepted = call_replace(running, driver["id"], {"phone_b": C}, KEY)
    body = accepted.json()
    assert (accepted.status_code, body["id"], body["predecessor_ended"]) == (202, driver["id"], False)
    assert accepted.headers["Location"] == f"/v1/bindings/{driver['id']}"
    assert int(accepted.headers["Retry-After"]) > 0
    assert "its successor was not sent" in body["detail"]
    assert body["unbind_requested_at"] is not None
    assert running.post("/v1/lookup", {"phone": A}).json() == {"data": []}
    assert running.bind(phone_b=D).status_code == 409, "the phones stay held"
    again = call_replace(running, driver["id"], {"phone_b": C}, KEY)
    assert (again.status_code, again.json()["replaces"]) == (201, driver["id"])


def test_unclear_bind_is_202_with_the_successor(running: Running, simulator: Simulator) -> None:
    JobRunner(running.service.runtime).run_once_per_period(RECONCILE, 300)  # so that a next scan is known
    driver = running.bind().json()
    simulator.script("lost_reply", times=1, on="bind")
    accepted = call_replace(running, driver["id"], {"phone_b": C}, KEY)
    body = accepted.json()
    assert (accepted.status_code, body["replaces"], body["predecessor_ended"]) == (202, driver["id"], True)
    assert (body["state"], accepted.headers["Location"]) == ("in_doubt", f"/v1/bindings/{body['id']}")
    assert 0 < int(accepted.headers["Retry-After"]) <= 300
    replay = call_replace(running, driver["id"], {"phone_b": C}, KEY)
    assert (replay.status_code, replay.json()["predecessor_ended"]) == (202, True)
    assert replay.headers["Idempotent-Replayed"] == "true"
    running.service.reconcile()
    adopted = call_replace(running, driver["id"], {"phone_b": C}, KEY)
    assert (adopted.status_code, adopted.json()["id"], adopted.json()["state"]) == (200, body["id"], "active")


def test_problem_says_whether_the_predecessor_has_ended(running: Running, simulator: Simulator) -> None:
    driver = running.bind().json()
    kept = running.bind(phone_a="9188067721", phone_b="9188067722").json()
    simulator.script("refuse:-41", times=1, on="bind")
    empty = call_replace(running, driver["id"], {"phone_b": C}, KEY)
    assert (empty.status_code, empty.json()["code"]) == (503, "no-middle-number")
    assert (empty.json()["predecessor_ended"], empty.json()["safe_to_retry"]) == (True, True)
    early = call_replace(running, kept["id"])
    assert (early.status_code, "nothing was replaced" in early.json()["detail"]) == (503, True)
    assert "predecessor_ended" not in early.json()
    assert int(early.headers["Retry-After"]) <= 60
    assert call_replace(running, kept["id"], {"force": True}).status_code == 201
    forced = call_replace(running, driver["id"], {"phone_b": C}, KEY)
    assert forced.status_code == 201
    simulator.script("refuse:-35", times=1, on="bind")
    again = ({"force": True}, {"Idempotency-Key": "order-42/3"})
    late = call_replace(running, forced.json()["id"], *again)
    assert (late.status_code, late.json()["predecessor_ended"]) == (409, True)
    assert running.get(f"/v1/bindings/{forced.json()['id']}").json()["state"] == "unbound"
    forced = call_replace(running, forced.json()["id"], *again)
    running.post(f"/v1/bindings/{forced.json()['id']}/unbind")
    refused = call_replace(running, forced.json()["id"])
    assert (refused.status_code, refused.json()["code"]) == (409, "not-active")
    metrics = running.get("/metrics").text
    for labels in (
        'outcome="bound",provider_status="0"} 5.0',
        'outcome="no-middle-number",provider_status="-41"',
        'outcome="in-use-after-unbind",provider_status="-35"',
    ):
        assert labels in metrics


def test_wrong_fields_are_named_and_nothing_is_replaced(running: Running, simulator: Simulator) -> None:
    binding_id = running.bind().json()["id"]
    for fields, headers, wrong in (
        ({"phone_c": C, "expire_s": "x", "force": 1}, {}, ["expire_s", "force", "phone_c"]),
        ({"app_id": "other", "phone_a": "0"}, {}, ["app_id", "phone_a"]),
        ({"idempotency_key": "x"}, {"Idempotency-Key": ""}, ["Idempotency-Key", "idempotency_key"]),
        ({"phone_b": A}, {}, ["phone_b"]),
        ({"expire_s": 60, "max_expire_s": 30}, {}, ["max_expire_s"]),
        ({"reference": "a\nb"}, {"Idempotency-Key": "x" * 256}, ["Idempotency-Key", "reference"]),
    ):
        refused = call_replace(running, binding_id, fields, headers)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid-request"), fields
        assert sorted(error["field"] for error in refused.json()["errors"]) == wrong, fields
    too_large = running.session.post(
        f"{running.url}/v1/bindings/{binding_id}/replace", data=b"{" + b" " * MAX_BODY_BYTES
    )
    assert (too_large.status_code, too_large.json()["code"]) == (413, problems.TooLarge.code)
    assert simulator.counts.received.get("unbind", 0) == 0
    assert running.get(f"/v1/bindings/{binding_id}").json()["state"] == "active"


def test_app_replaces_its_own_binding_and_does_not_learn_another_holder(running: Running) -> None:
    rides, food = running.key("app", "rides"), running.key("app", "food")
    own, other = running.bind(rides).json(), running.bind(food, phone_a=C, phone_b=D).json()
    hidden = call_replace(running, other["id"], {"phone_b": E}, rides)
    assert (hidden.status_code, hidden.json()["code"]) == (404, "not-found")
    taken = call_replace(running, own["id"], {"phone_b": C}, rides)
    assert (taken.status_code, taken.json()["code"]) == (409, "phone-in-use")
    assert (taken.json()["holder"]["id"], taken.json()["holder"]["actor"]) == (None, None)
    assert other["id"] not in taken.text
    for binding, headers in ((own, rides), (other, food)):
        assert running.get(f"/v1/bindings/{binding['id']}", headers).json() == binding


def test_successor_that_an_admin_makes_belongs_to_the_app_and_is_masked_for_the_admin(running: Running) -> None:
    rides, admin = running.key("app", "rides"), running.key("admin", "ops")
    created = running.bind(rides).json()
    running.bind(admin, phone_a=D, phone_b=E)
    conflict = call_replace(running, created["id"], {"phone_b": D}, admin)
    assert conflict.status_code == 409
    replaced = call_replace(running, created["id"], {"phone_b": C}, admin)
    answers = (
        replaced,
        running.get(replaced.headers["Location"], admin),
        running.post("/v1/lookup", {"phone": A}, admin),
        running.post("/v1/refusals/search", {"phone": A}, admin),
    )
    for answer in answers:
        assert (answer.ok, mask(A) in answer.text, A in answer.text, B in answer.text) == (
            True,
            True,
            False,
            False,
        )
    of_the_app = running.get(replaced.headers["Location"], rides)
    assert (of_the_app.status_code, of_the_app.json()["phone_a"]) == (200, A)
    renewed = call_replace(running, replaced.json()["id"], {}, rides)
    assert renewed.status_code == 201
