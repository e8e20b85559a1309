"""The calls under /v1 from a backend application: bind, read, unbind, and their errors."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.jobs.registry import RECONCILE
from bindings.jobs.runner import JobRunner
from bindings.provider.simulator import Fault, FaultKind
from bindings.web import problems
from bindings.web.api import samples
from tests.service.harness import A, B, C, D, in_threads, wait_for
from tests.web.conftest import BIND
from tests.web.wire import connect, posted

if TYPE_CHECKING:
    from bindings.provider.simulator import Simulator
    from tests.web.conftest import Running

NO_BINDING = "4afff24c-a839-438f-8f3a-8d44368b31ff"


def test_binding_can_be_created_shown_found_and_unbound(running: Running) -> None:
    created = running.bind(reference="order-42")
    assert created.status_code == 201
    binding = created.json()
    assert created.headers["Location"] == f"/v1/bindings/{binding['id']}"
    assert (binding["state"], binding["phone_a"], binding["reference"]) == ("active", A, "order-42")
    assert running.get(created.headers["Location"]).json() == binding
    number = binding["middle_number_a"]
    for fields, route in (
        ({"phone": f"+{A}"}, {"counterpart": B, "caller_id": binding["middle_number_b"]}),
        ({"middle_number": number, "party": B}, {"counterpart": A, "caller_id": number}),
        ({"middle_number": number}, {}),
        ({"reference": "order-42"}, {}),
    ):
        assert running.post("/v1/lookup", fields).json() == {"data": [binding | route]}
    traced = running.post("/v1/trace", {"middle_number": number, "at": binding["answered_at"]}).json()
    assert [(item["binding"]["id"], item["certainty"]) for item in traced["holders"]] == [
        (binding["id"], "certain")
    ]
    ended = running.post(f"/v1/bindings/{binding['id']}/unbind", {"reason": "trip ended"})
    assert (ended.status_code, ended.json()["state"]) == (200, "unbound")
    repeated = running.post(f"/v1/bindings/{binding['id']}/unbind")
    assert (repeated.status_code, repeated.json()) == (200, ended.json())
    history = running.get(f"/v1/bindings/{binding['id']}/events").json()
    kinds = [event["kind"] for event in history["data"]]
    assert kinds == ["requested", "activated", "unbind_requested", "unbound"]
    assert running.post("/v1/lookup", {"phone": A}).json() == {"data": []}


def test_next_page_starts_after_the_previous_page(running: Running) -> None:
    for number in range(3):
        assert running.bind(phone_a=f"91880677{number}0", phone_b=f"91880677{number}1").status_code == 201
    first = running.get("/v1/bindings?limit=2&state=active").json()
    second = running.get(f"/v1/bindings?limit=2&state=active&cursor={first['next_cursor']}").json()
    assert (len(first["data"]), len(second["data"]), second["next_cursor"]) == (2, 1, None)
    ended = running.post(f"/v1/bindings/{second['data'][0]['id']}/unbind").json()
    for address, ids in (
        ("active=true", [item["id"] for item in first["data"]]),
        ("active=false", [ended["id"]]),
    ):
        assert [item["id"] for item in running.get(f"/v1/bindings?{address}").json()["data"]] == ids
    for wrong in ("1", "True", ""):
        refused = running.get(f"/v1/bindings?active={wrong}")
        assert [(error["field"], error["message"]) for error in refused.json()["errors"]] == [
            ("active", "must be true or false")
        ]
    matches = running.post("/v1/bindings/search", {"phone": "9188067720"}).json()["data"]
    assert [item["id"] for item in matches] == [first["data"][0]["id"]]


def test_held_phone_is_a_conflict_with_its_holder_and_without_a_call(
    running: Running, simulator: Simulator
) -> None:
    holder = running.bind().json()
    refused = running.bind(phone_b=C)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "phone-in-use")
    assert problem["holder"]["id"] == holder["id"]
    assert int(refused.headers["Retry-After"]) == problem["retry_after_s"] > 0
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert problem["request_id"] == refused.headers["X-Request-ID"]
    would = running.post("/v1/bindings/check", {"phone_a": A, "phone_b": C, "mode": "AXB"}).json()["data"]
    assert [item["id"] for item in would] == [holder["id"]]
    assert simulator.counts.received["bind"] == 1


def test_unknown_outcome_returns_202_and_is_replayed_by_its_key(running: Running, simulator: Simulator) -> None:
    JobRunner(running.service.runtime).run_once_per_period(RECONCILE, 300)  # so that a next scan is known
    simulator.script(Fault(kind=FaultKind.LOST_REPLY, times=1))
    key = {"Idempotency-Key": "order-7/1"}
    unclear = running.bind(headers=key)
    assert (unclear.status_code, unclear.json()["state"]) == (202, "in_doubt")
    assert "Idempotent-Replayed" not in unclear.headers
    replay = running.bind(headers=key)
    assert (replay.status_code, replay.json()["id"]) == (202, unclear.json()["id"])
    assert replay.headers["Idempotent-Replayed"] == "true"
    for answer in (unclear, replay):
        assert 0 < int(answer.headers["Retry-After"]) <= 300
    running.service.reconcile()
    adopted = running.bind(headers=key)
    assert (adopted.status_code, adopted.json()["state"]) == (200, "active")
    assert simulator.counts.received["bind"] == 1
    simulator.script(Fault(kind=FaultKind.LOST_REPLY, times=1), on="unbind")
    unbind = running.post(f"/v1/bindings/{adopted.json()['id']}/unbind")
    assert (unbind.status_code, unbind.headers["Retry-After"]) == (202, "10")


def test_R5_twenty_callers_with_one_key_get_one_binding(running: Running, simulator: Simulator) -> None:
    simulator.script(Fault(kind=FaultKind.DELAY, times=1, seconds=0.5))
    answers: list[tuple[int, str, str | None]] = []
    lock = threading.Lock()

    def call() -> None:
        answer = running.bind(headers={"Idempotency-Key": "order-8/1"})
        with lock:
            answers.append((answer.status_code, answer.json()["id"], answer.headers.get("Idempotent-Replayed")))

    assert in_threads(*[call] * 20) == []
    assert len({item[1] for item in answers}) == 1
    assert sorted((status, replayed or "") for status, _, replayed in answers) == [
        *[(200, "true")] * 19,
        (201, ""),
    ]
    assert simulator.counts.received["bind"] == 1


def test_key_of_another_request_is_refused(running: Running) -> None:
    key = {"Idempotency-Key": "order-9/1"}
    assert running.bind(headers=key).status_code == 201
    mismatch = running.bind(headers=key, phone_b=D)
    assert (mismatch.status_code, mismatch.json()["code"]) == (422, "idempotency-mismatch")


def test_key_of_a_refused_bind_may_be_used_again(running: Running, simulator: Simulator) -> None:
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-41"))
    key = {"Idempotency-Key": "order-10/1"}
    first, second = running.bind(headers=key), running.bind(headers=key)
    assert (first.status_code, first.json()["code"], first.json()["safe_to_retry"]) == (
        503,
        "no-middle-number",
        True,
    )
    assert int(first.headers["Retry-After"]) > 0
    assert (second.status_code, second.json()["state"]) == (201, "active")
    assert {"Idempotent-Replayed"} & {*first.headers, *second.headers} == set()
    assert simulator.counts.received["bind"] == 2


def test_problem_of_a_key_that_is_used_up_names_no_time_and_says_that_it_is_replayed() -> None:
    error = errors.ProviderUnreachable(binding_id=samples.BINDING.id)
    error.safe_to_retry, error.replayed = False, True
    assert problems.headers(error) == {"Idempotent-Replayed": "true"}


@pytest.mark.parametrize(
    ("status", "http_status", "code"),
    [("-22", 502, "provider-refused"), ("-1", 503, "provider-account"), ("-35", 409, "phone-in-use-at-provider")],
)
def test_provider_refusal_shows_the_provider_status(
    running: Running, simulator: Simulator, status: str, http_status: int, code: str
) -> None:
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status=status))
    refused = running.bind()
    assert (refused.status_code, refused.json()["code"]) == (http_status, code)
    assert ("Retry-After" in refused.headers) == (http_status != 502)


def test_invalid_bind_lists_all_field_errors_and_does_nothing(running: Running, simulator: Simulator) -> None:
    bad = running.post(
        "/v1/bindings", {"phone_a": "12a", "phone_b": 5, "expire_s": 0, "mode": "AXQ", "zip": 1, "reference": ""}
    )
    assert bad.status_code == 422
    problem = bad.json()
    fields = sorted(fault["field"] for fault in problem["errors"])
    assert fields == ["expire_s", "mode", "phone_a", "phone_b", "pool_number", "reference", "zip"]
    assert "12a" not in bad.text
    assert simulator.counts.received.get("bind", 0) == 0
    assert running.get("/v1/events").json()["data"] == []


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/v1/lookup", {}, ["phone"]),
        ("/v1/lookup", {"phone": A, "middle_number": "1"}, ["phone"]),
        ("/v1/lookup", {"phone": A, "reference": "order-42"}, ["phone"]),
        ("/v1/bindings/search", {"active": "true"}, ["active"]),
        ("/v1/bindings/search", {"active": []}, ["active"]),
        ("/v1/trace", {"middle_number": "1", "at": "2026-11-23T14:32:00"}, ["at"]),
        ("/v1/lookup", {"phone": 5, "middle_number": "1"}, ["phone"]),
        ("/v1/lookup", {"middle_number": 5}, ["middle_number"]),
        ("/v1/lookup", {"phone": A, "party": True}, ["party"]),
        ("/v1/trace", {"at": 5}, ["at", "middle_number"]),
        ("/v1/trace", {"middle_number": "1", "at": "9000-01-01T00:00:00Z"}, ["at"]),
        ("/v1/bindings/search", {"actor": 5}, ["actor"]),
        ("/v1/bindings/check", {"phone_a": A, "phone_b": B, "mode": "AXB", "app_id": False}, ["app_id"]),
        (f"/v1/bindings/{NO_BINDING}/unbind", {"reason": 5}, ["reason"]),
        (f"/v1/bindings/{NO_BINDING}/reveal", {"reason": None}, ["reason"]),
        ("/v1/bindings/search", {"limit": 201, "state": "gone"}, ["limit", "state"]),
        ("/v1/bindings/check", {"phone_a": A, "phone_b": A, "mode": "AXB"}, ["phone_b"]),
        ("/v1/bindings/check", {"phone_a": f"00{A}", "phone_b": "0" + B, "mode": "AXB"}, ["phone_a", "phone_b"]),
        ("/v1/lookup", {"phone": f"00{A}"}, ["phone"]),
        ("/v1/trace", {"middle_number": "1", "at": "2026-11-23T14:32:00Z", "party": f"00{A}"}, ["party"]),
        ("/v1/bindings/search", {"phone": f"+00{A}"}, ["phone"]),
        ("/v1/bindings", dict(BIND, expire_s=True), ["expire_s"]),
        ("/v1/bindings", dict(BIND, expire_s=60.5), ["expire_s"]),
    ],
)
def test_invalid_body_lists_its_fields(running: Running, path: str, body: object, fields: list[str]) -> None:
    answer = running.post(path, body)
    assert answer.status_code == 422, answer.text
    assert sorted(fault["field"] for fault in answer.json()["errors"]) == fields


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/bindings", "is not a field: send it as the header Idempotency-Key"),
        (
            "/v1/bindings/01990000-0000-7000-8000-000000000000/replace",
            "is not a field: send it as the header Idempotency-Key",
        ),
        ("/v1/bindings/01990000-0000-7000-8000-000000000000/unbind", "is not a field of this request"),
    ],
)
def test_idempotency_key_in_a_body_is_refused_with_the_name_of_its_header(
    running: Running, path: str, message: str
) -> None:
    answer = running.post(path, {"idempotency_key": "order-1/1"})
    assert answer.status_code == 422, answer.text
    assert {"field": "idempotency_key", "message": message} in answer.json()["errors"]


def test_field_of_the_wrong_type_is_refused_also_if_the_role_overrides_it(running: Running) -> None:
    answer = running.post("/v1/bindings/search", {"actor": 5}, running.key("app", "rides"))
    assert (answer.status_code, [fault["field"] for fault in answer.json()["errors"]]) == (422, ["actor"])


def test_repeated_field_is_reported_without_errors_that_follow_from_it(running: Running) -> None:
    answer = running.session.post(
        f"{running.url}/v1/lookup",
        data=b'{"middle_number": "1", "middle_number": "1"}',
        headers={"Content-Type": "application/json"},
        timeout=300,
    )
    assert [fault["field"] for fault in answer.json()["errors"]] == ["middle_number"]


@pytest.mark.parametrize("body", [BIND | {"pool_number": ""}, BIND | {"pool_number": 1}, {}])
def test_invalid_key_is_listed_with_the_fields_of_the_body(running: Running, body: object) -> None:
    answer = running.post("/v1/bindings", body, {"Idempotency-Key": "a b"})
    assert answer.status_code == 422
    named = [fault["field"] for fault in answer.json()["errors"]]
    assert {"pool_number", "Idempotency-Key"} <= set(named)
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("query", "field"),
    [("phone=9188067701", "phone"), ("limit=many", "limit"), ("limit=1&limit=2", "limit"), ("state=x", "state")],
)
def test_invalid_query_lists_its_field(running: Running, query: str, field: str) -> None:
    answer = running.get(f"/v1/bindings?{query}")
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


def test_optional_field_that_is_null_counts_as_left_out(running: Running) -> None:
    created = running.bind(app_id=None, reference=None, warn_s=None, max_expire_s=None)
    assert created.status_code == 201
    assert len(running.post("/v1/bindings/search", {"limit": None, "active": None}).json()["data"]) == 1
    question = {"middle_number": created.json()["middle_number_a"], "at": created.json()["requested_at"]}
    assert running.post("/v1/trace", question | {"window_s": None}).status_code == 200
    replaced = running.post(f"/v1/bindings/{created.json()['id']}/replace", {"force": None})
    assert replaced.status_code == 201
    ended = running.post("/v1/bindings/unbind", {"phone": A, "reason": "test", "dry_run": None, "token": None})
    assert (ended.status_code, ended.json()["confirmed"]) == (200, 1)
    refused = running.post("/v1/bindings/search", {"limit": None, "state": "x"})
    assert [error["field"] for error in refused.json()["errors"]] == ["state"]
    assert running.post("/v1/bindings", BIND | {"expire_s": None}).status_code == 422


def test_query_that_is_not_utf_8_is_refused(running: Running) -> None:
    running.bind(reference="caf\u00e9")
    assert len(running.get("/v1/bindings?reference=caf%C3%A9").json()["data"]) == 1
    for query in ("reference=caf%E9", "%E9=1", "reference_prefix=%ED%A0%80"):
        answer = running.get(f"/v1/bindings?{query}")
        assert (answer.status_code, answer.json()["detail"]) == (400, "the query is not UTF-8; nothing was done")


def test_number_in_a_query_may_have_leading_zeros(running: Running) -> None:
    assert running.get("/v1/bindings?limit=0050").status_code == 200


def test_query_of_a_call_without_parameters_is_refused_without_its_value(running: Running) -> None:
    created = running.bind().json()
    for answer in (
        running.get(f"/v1/bindings/{created['id']}?phone={A}"),
        running.get(f"/v1/bindings/{created['id']}/events?limit=1"),
        running.post(f"/v1/lookup?phone={A}", {"phone": A}),
        running.post(f"/v1/bindings/{created['id']}/unbind?{A}=1", {}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
        assert A not in answer.text
    assert running.get(f"/v1/bindings/{created['id']}").json()["state"] == "active"


@pytest.mark.parametrize("binding_id", ["42", A, "4afff24c-a839-438f-8f3a-8d44368b31ff", "%00", "x" * 3_000])
def test_invalid_id_is_not_found(running: Running, binding_id: str) -> None:
    for call in (
        running.get(f"/v1/bindings/{binding_id}"),
        running.get(f"/v1/bindings/{binding_id}/events"),
        running.post(f"/v1/bindings/{binding_id}/unbind"),
        running.post(f"/v1/bindings/{binding_id}/reveal", {"reason": "x"}),
    ):
        assert (call.status_code, call.json()["code"]) == (404, "not-found")


def test_unreachable_provider_leaves_the_phones_free(running: Running, simulator: Simulator) -> None:
    simulator.stop()
    refused = running.bind()
    assert (refused.status_code, refused.json()["code"]) == (503, "provider-unreachable")
    assert int(refused.headers["Retry-After"]) > 0
    check = running.post("/v1/bindings/check", {"phone_a": A, "phone_b": B, "mode": "AXB"})
    assert check.json()["data"] == []


def test_bind_of_a_disconnected_client_is_settled_and_its_slot_is_freed(
    running: Running, simulator: Simulator
) -> None:
    simulator.script(Fault(kind=FaultKind.DELAY, times=1, seconds=0.5))
    body = json.dumps(BIND).encode()
    with connect(running) as leaving:
        leaving.sendall(posted(body, "Idempotency-Key: order-11/1"))
        wait_for(lambda: simulator.counts.received.get("bind", 0) == 1)
    replay = running.bind(headers={"Idempotency-Key": "order-11/1"})
    assert (replay.status_code, replay.json()["state"]) == (200, "active")
    wait_for(lambda: running.app_state.executors.provider_calls_in_flight == 0)
    assert simulator.counts.received["bind"] == 1
