"""Attacks on the HTTP service and the console; docs/maintainers/attacks.md lists them all with their tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from bindings.errors import FieldError
from bindings.web import app
from bindings.web.api import openapi
from bindings.web.problems import MAX_FIELDS
from tests.service.harness import A, B, C, D
from tests.web.browser import HTML, Browser
from tests.web.wire import JSON, posted, problem, request, speak, status

if TYPE_CHECKING:
    from requests import Response

    from tests.web.conftest import Running

UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"
MANY = 1_100  # names that fit into a body of 17 KiB


def send(running: Running, key: dict[str, str], call: tuple[str, str], values: dict[str, Any]) -> Response:
    """Make a call of the OpenAPI document with these values, in the body or in the query."""
    method, path = call
    if method == "get":
        return running.get(path, key, params=values)
    return running.post(path, values, key)


def test_no_call_shows_or_changes_a_binding_of_another_application(running: Running) -> None:
    victim, thief = running.key("app", "victim"), running.key("app", "thief")
    binding = running.bind(victim, reference="secret-order", phone_a=C, phone_b=D).json()
    names = ("id", "reference", "actor", "request_id", "bind_id", "phone_a", "phone_b", "middle_number_a")
    values = binding | {
        "phone": C,
        "party": C,
        "middle_number": binding["middle_number_a"],
        "expire_s": 60,
        "at": binding["answered_at"],
        "reason": "complaint 118",
        "reveal": {"reason": "complaint 118"},
    }
    refused = set()
    for (method, path), operation in openapi.operations().items():
        if operation.open:  # they show no binding
            continue
        model = operation.body or operation.query
        fields = [] if model is None else [field.name for field in structs.fields(model)]
        for chosen in ([], fields, *([field] for field in fields)):
            sent = {field: values[field] for field in chosen if values.get(field) is not None}
            answer = send(running, thief, (method, path.replace("{binding_id}", binding["id"])), sent)
            assert answer.status_code in (200, 403, 404, 409, 422), (method, path, answer.text)
            known = f"{sent} {path.replace('{binding_id}', binding['id'])}"  # what the thief says itself
            if path == "/v1/refusals/search":  # has the thief's own binds of these phones, which were refused
                known += f"{values['reference']} {values['phone_a']} {values['phone_b']}"
            shown = [name for name in names if binding[name] in answer.text and binding[name] not in known]
            assert shown == [], (method, path, chosen, answer.text)
            if "{binding_id}" in path:
                unknown = send(running, thief, (method, path.replace("{binding_id}", UNKNOWN_ID)), sent)
                assert (answer.status_code, answer.json()["code"]) == (unknown.status_code, unknown.json()["code"])
                refused.add(answer.status_code)
    assert refused <= {403, 404, 422}
    assert running.get(f"/v1/bindings/{binding['id']}", victim).json() == binding


def test_no_form_of_the_console_is_accepted_without_the_token_of_its_session(running: Running) -> None:
    application: Any = app.framework(running.app_state)
    documented = {path for _, path in openapi.operations()}
    forms = [route.path_format for route in application.routes if "POST" in route.methods]
    paths = [path.format_map(_Ids()) for path in forms if path not in documented]
    assert len(paths) > 10
    admin, other = Browser(running).sign_in("admin"), Browser(running).sign_in("admin", "other")
    reason = {"reason": "complaint 118", "action": "run", "q": A, "zone": "UTC"}
    own, foreign = {"csrf": admin.csrf()}, {"csrf": other.csrf()}
    for path in paths:
        for token, headers in (
            ({"csrf": ""}, {}),
            ({"csrf": "0" * 64}, {}),
            (foreign, {}),
            (own, {"Origin": "https://evil.example"}),
            (own, {"Origin": "null"}),
            (own, {"Sec-Fetch-Site": "cross-site"}),
            (own, {"Sec-Fetch-Site": "same-site"}),
        ):
            answer = admin.post(path, reason | token, headers)
            assert (answer.status_code, "not sent from this console" in answer.text) == (403, True), (
                path,
                headers,
            )
    acts = {entry.act for entry in running.service.access_log.entries().data}
    assert acts == {"key.created", "session.began"}
    assert admin.get("/").status_code == 200, "nothing has ended the session"


def test_address_of_a_form_leads_to_its_page(running: Running) -> None:
    """After a form was refused, a user may open its address with GET."""
    application: Any = app.framework(running.app_state)
    methods = {route.path_format: route.methods for route in application.routes}
    documented = {path for _, path in openapi.operations()}
    forms = [path for path in methods if path not in documented and "GET" not in methods[path]]
    assert len(forms) > 10
    browser = Browser(running).sign_in("admin")
    for form in forms:
        answer = browser.get(form.format_map(_Ids()))
        page = form.rpartition("/")[0] or "/"
        assert (answer.status_code, answer.headers["Location"]) == (303, page.format_map(_Ids())), form
        assert "GET" in methods[page], form
    answer = running.get(forms[0].format_map(_Ids()))
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed"), "a client is no browser"
    assert browser.get("//bindings/export").headers.get("Location", "/bindings") == "/bindings", (
        "never another host"
    )


class _Ids(dict[str, str]):
    """Fills each parameter of a path with the same id."""

    def __missing__(self, _: str) -> str:
        return UNKNOWN_ID


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({f"n{number}": 0 for number in range(MANY)}),
        "{" + ",".join(f'"n{number % 700}":0' for number in range(MANY)) + "}",
        json.dumps({"reveal": {f"n{number}": 0 for number in range(MANY)}}),
        json.dumps({"phone": [{f"n{number}": 0} for number in range(MANY // 2)]}),
        json.dumps({"phone": "1" * 16_000}),
    ],
    ids=["unknown names", "repeated names", "unknown names in a field", "objects as a value", "a long value"],
)
def test_work_and_answer_for_a_heavy_body_do_not_grow_with_it(
    running: Running, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """What is counted is the errors that are made, and the bytes of the answer."""
    key = running.key("app")
    made: list[str] = []

    def make_error(field: str, message: str) -> FieldError:
        made.append(field)
        return FieldError(field, message)

    for module in ("bindings.web.api.requests", "bindings.web.problems"):
        monkeypatch.setattr(f"{module}.FieldError", make_error)
    answer = speak(running, posted(body.encode(), f"Authorization: {key['Authorization']}", path="/v1/lookup"))
    assert problem(answer)["status"] in (413, 422)
    assert len(made) <= 25
    assert len(answer) < 8_192


def test_form_with_many_fields_is_refused_before_its_token_is_read(running: Running) -> None:
    browser = Browser(running).sign_in("auditor")
    heavy = {f"n{number}": "0" for number in range(MAX_FIELDS)}
    answer = browser.post("/find", heavy)
    assert (answer.status_code, len(answer.text) < 8_192) == (400, True)


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: PUT",
        "X-Original-URL: /metrics",
        "X-Rewrite-URL: /metrics",
        "X-Forwarded-Prefix: /evil",
        "X-Forwarded-Host: evil.example",
    ],
)
def test_header_changes_neither_the_method_nor_the_path_of_a_request(running: Running, header: str) -> None:
    answer = speak(running, request(b"", header, path="/livez", method="GET"))
    assert (status(answer), b"evil" in answer, b"# HELP" in answer) == (200, False, False)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost@evil.example"])
def test_host_of_a_request_is_in_no_address_of_the_answer(running: Running, host: str) -> None:
    running.key("admin")
    head = f"GET /overview HTTP/1.1\r\nHost: {host}\r\nAccept: {HTML['Accept']}\r\nConnection: close\r\n\r\n"
    answer = speak(running, head.encode())
    assert (status(answer), b"location: /sign-in?next=/overview" in answer.lower()) == (303, True)
    assert b"evil.example" not in answer


@pytest.mark.parametrize("place", ["?key={key}", "?access_token={key}", "?authorization=Bearer%20{key}"])
def test_key_in_an_address_is_no_key(running: Running, place: str) -> None:
    key = running.key("admin")["Authorization"].removeprefix("Bearer ")
    assert running.get(f"/v1/bindings{place.format(key=key)}").status_code == 401
    assert running.get("/v1/bindings", {"X-Api-Key": key, "Cookie": f"bindings_session={key}"}).status_code == 401


def test_pipelined_request_behind_a_refused_one_is_not_handled(running: Running) -> None:
    key = running.key("app")["Authorization"]
    bind = json.dumps({"phone_a": A, "phone_b": B, "pool_number": "1", "expire_s": 60, "mode": "AXB"}).encode()
    second = posted(bind, f"Authorization: {key}")
    for first in (
        request(b"", JSON, "Transfer-Encoding: chunked", "Content-Length: 4", path="/v1/lookup"),
        request(b"xx\r\n", JSON, "Transfer-Encoding: chunked", path="/v1/lookup"),
        request(b"", JSON, f"Content-Length: {10**9}", path="/v1/lookup"),
    ):
        answer = speak(running, first.replace(b"Connection: close\r\n", b"") + second)
        assert (answer.count(b"HTTP/1.1 "), 400 <= status(answer) < 500) == (1, True)
    assert running.service.search().data == ()
