"""POST /v1/bindings/unbind: the dry run and its token, 202 for what is unclear, and what each role reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.service.harness import A, B, C, D

if TYPE_CHECKING:
    from requests import Response

    from bindings.provider.simulator import Simulator
    from tests.web.conftest import Running

REASON = {"reason": "order closed"}
ORDER = REASON | {"reference": "order-42"}


def unbind_all(running: Running, fields: dict[str, Any], key: dict[str, str] | None = None) -> Response:
    return running.post("/v1/bindings/unbind", fields, key)


def test_dry_run_lists_and_its_token_ends_no_others(running: Running, simulator: Simulator) -> None:
    first = running.bind(reference="order-42").json()
    listed = unbind_all(running, ORDER | {"dry_run": True})
    body = listed.json()
    token = body.pop("token")
    assert listed.status_code == 200
    assert body == {"requested": 0, "confirmed": 0, "unclear": 0, "bindings": [first], "more": False}
    second = running.bind(phone_a=C, phone_b=D, reference="order-42").json()
    refused = unbind_all(running, ORDER | {"token": token})
    assert (refused.status_code, refused.json()["code"]) == (409, "selection-changed")
    assert simulator.counts.received.get("unbind", 0) == 0
    done = unbind_all(running, ORDER)
    assert done.status_code == 200
    assert (done.json()["requested"], done.json()["confirmed"], done.json()["token"]) == (2, 2, None)
    assert {row["id"]: row["state"] for row in done.json()["bindings"]} == {
        first["id"]: "unbound",
        second["id"]: "unbound",
    }
    events = [running.get(f"/v1/bindings/{row['id']}/events").json()["data"][-2:] for row in (first, second)]
    assert {event["request_id"] for pair in events for event in pair} == {done.headers["X-Request-Id"]}
    assert unbind_all(running, ORDER).json()["requested"] == 0


def test_unclear_answer_is_202_with_the_bindings(running: Running, simulator: Simulator) -> None:
    running.bind()
    simulator.script("lost_reply", times=1, on="unbind")
    accepted = unbind_all(running, REASON | {"phone": A})
    assert (accepted.status_code, accepted.json()["unclear"], accepted.headers["Retry-After"]) == (202, 1, "10")
    assert accepted.json()["bindings"][0]["unbind_requested_at"] is not None
    assert unbind_all(running, REASON | {"phone": A}).json()["confirmed"] == 1


def test_app_reaches_its_own_bindings_and_an_admin_all_of_them_masked(running: Running) -> None:
    rides, food, admin = running.key("app", "rides"), running.key("app", "food"), running.key("admin", "ops")
    binding = running.bind(rides, reference="order-42").json()
    number = binding["middle_number_a"]
    for by in ({"reference": "order-42"}, {"phone": A}, {"middle_number": number}):
        for dry_run in (True, False):
            answer = unbind_all(running, REASON | by | {"dry_run": dry_run}, food)
            assert (answer.status_code, answer.json()["bindings"]) == (200, [])
    assert running.get(f"/v1/bindings/{binding['id']}", rides).json() == binding
    (listed,) = unbind_all(running, REASON | {"phone": B, "dry_run": True}, admin).json()["bindings"]
    assert (listed["id"], listed["phone_a"]) == (binding["id"], "91******01")
    (own,) = unbind_all(running, REASON | {"phone": B, "dry_run": True}, rides).json()["bindings"]
    assert own == binding
    assert unbind_all(running, REASON | {"phone": B}, admin).json()["confirmed"] == 1


def test_wrong_field_is_named(running: Running) -> None:
    for fields, wrong in (
        (REASON, ["phone"]),
        ({"reference": "order-42"}, ["reason"]),
        (ORDER | {"phone": A}, ["phone"]),
        (ORDER | {"token": "x"}, ["token"]),
        (ORDER | {"dry_run": 1}, ["dry_run"]),
        ({"phone": 5, "dry_run": "x"}, ["reason", "phone", "dry_run"]),
    ):
        refused = unbind_all(running, fields)
        assert refused.status_code == 422, fields
        assert sorted(error["field"] for error in refused.json()["errors"]) == sorted(wrong), fields
