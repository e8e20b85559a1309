"""Words that a later version writes: kinds, reasons, roles, states and cases are passed on as text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from uuid_utils.compat import uuid7

from bindings.domain.binding import State
from bindings.errors import PhoneInUse, PhoneInUseAtProvider, ProviderRefused, error_for
from bindings.provider.simulator import Fault, FaultKind, Simulator
from bindings.web.console import failure_text
from bindings.webhooks.sender import deliver_pending
from tests.service.harness import C, D, ServiceHarness, feed_has_caught_up
from tests.web.browser import Browser
from tests.web.conftest import run
from tests.web.later_version import (
    CASE,
    DELIVERY,
    HELD_BY,
    KIND,
    REASON,
    ROLE,
    allow_unknown_words,
    execute,
    write_event,
)
from tests.web.receivers import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.service.harness import Clock
    from tests.web.conftest import Running


@pytest.fixture
def later(own_database_url: str, clock: Clock) -> Iterator[ServiceHarness]:
    """Services on a database whose lists of words a later version has dropped."""
    with Simulator(clock=clock.unix) as simulator:
        harness = ServiceHarness(url=own_database_url, clock=clock, simulator=simulator)
        allow_unknown_words(harness)
        yield harness
        harness.close()


@pytest.fixture
def running(later: ServiceHarness) -> Iterator[Running]:
    """A running service on that database."""
    yield from run(later.service)


def test_event_of_unknown_kind_is_read_everywhere_as_text(later: ServiceHarness, running: Running) -> None:
    binding = later.bind()
    feed_has_caught_up(later.service)
    with Receiver() as receiver:
        webhook = later.service.webhooks.add(url=receiver.url)
        write_event(later, binding, KIND, reason=REASON, steps=3, parts=["x"])
        feed_has_caught_up(later.service)
        deliver_pending(later.service.runtime)
        messages = [json.loads(message.body) for message in receiver.messages]
    assert [(message["type"], message["data"]["kind"]) for message in messages] == [(f"binding.{KIND}", KIND)]
    assert [delivery.event.kind for delivery in later.service.webhooks.deliveries(webhook.webhook.id).data] == [
        KIND
    ]
    assert later.service.history(binding.id)[-1].kind == KIND
    assert [event.kind for event in later.service.events().data][-1] == KIND
    assert [event.kind for event in later.service.export_events()][-1] == KIND
    assert later.service.stats()["by_event"][KIND] == 1
    later.service.update_statistics()
    headers = running.key("admin")
    kinds = [event["kind"] for event in running.get("/v1/events", headers).json()["data"]]
    assert [kind for kind in kinds if kind != "administered"][-1] == KIND
    history = running.get(f"/v1/bindings/{binding.id}/events", headers)
    assert (history.status_code, history.json()["data"][-1]["kind"]) == (200, KIND)
    browser = Browser(running).sign_in("auditor")
    for path in (f"/bindings/{binding.id}", "/overview", "/failures"):
        response = browser.get(path)
        assert response.status_code == 200, path
        assert (KIND in response.text) == path.startswith("/bindings")


def test_unknown_reason_and_status_are_read_everywhere_as_text(later: ServiceHarness, running: Running) -> None:
    binding = later.bind()
    later.service.unbind(binding.id)
    change = "UPDATE bindings SET reason = :reason, provider_status = '-77' WHERE id = :id"
    execute(later, change, reason=REASON, id=binding.id)
    write_event(later, binding, "in_doubt", reason=REASON, status=None, said=None)
    write_event(later, binding, "refused", held_by=HELD_BY * 4, holder_id=None)
    feed_has_caught_up(later.service)
    later.service.update_statistics()
    headers = running.key("admin")
    shown = running.get(f"/v1/bindings/{binding.id}", headers).json()
    assert (shown["reason"], shown["provider_status"]) == (REASON, "-77")
    browser = Browser(running).sign_in("auditor")
    assert REASON in browser.get(f"/bindings/{binding.id}").text
    failures = browser.get("/failures")
    assert failures.status_code == 200
    for code in (REASON, (HELD_BY * 4)[:32]):
        assert code in failures.text
    page = browser.get(f"/failures/in_doubt/{REASON}")
    assert page.status_code == 200
    assert "nother version of bindings recorded this word" in page.text
    assert "documentation does not list it" not in page.text


def test_failed_binding_with_unknown_reason_has_an_error_that_names_it(later: ServiceHarness) -> None:
    later.simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-22"))
    with pytest.raises(ProviderRefused) as refused:
        later.bind()
    assert refused.value.binding_id is not None
    change = "UPDATE bindings SET reason = :reason, provider_status = NULL WHERE id = :id"
    execute(later, change, reason=REASON, id=refused.value.binding_id)
    binding = later.service.get(refused.value.binding_id)
    assert binding.state is State.FAILED
    assert REASON in str(error_for(binding))


def test_key_of_unknown_role_is_listed_and_allowed_nothing(later: ServiceHarness, running: Running) -> None:
    headers = running.key("admin", name="next")
    admin = running.key("admin")
    execute(later, "UPDATE keys SET role = :role WHERE name = 'next'", role=ROLE)
    running.app_state.authenticator._cache.clear()
    assert {key.role for key in later.service.api_keys.list()} == {ROLE, "admin"}
    for path in ("/v1/events", "/v1/bindings"):
        assert running.get(path, headers).status_code == 403, path
        assert running.get(path, admin).status_code == 200, path
    assert running.bind(headers).status_code == 403
    assert running.post("/v1/lookup", {"phone": C}, headers).status_code == 403
    key = headers["Authorization"].removeprefix("Bearer ")
    assert Browser(running).post("/sign-in", {"key": key}).status_code == 403


def test_hold_of_unknown_reason_holds_its_phone_and_is_left_alone(later: ServiceHarness, running: Running) -> None:
    later.simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-35"))
    with pytest.raises(PhoneInUseAtProvider):
        later.bind(C, D)
    execute(later, "UPDATE holds SET why = :why", why=HELD_BY[:16])
    for job in (later.service.recover, later.service.reconcile):
        job()
        assert {holder.why for holder in later.service.check(phone_a=C, phone_b=D, mode="AXB")} == {HELD_BY[:16]}
    with pytest.raises(PhoneInUse):
        later.bind(C, D)
    assert (
        running.post("/v1/bindings/check", {"phone_a": C, "phone_b": D, "mode": "AXB"}).json()["data"][0]["why"]
        == HELD_BY[:16]
    )
    browser = Browser(running).sign_in("auditor")
    assert browser.get("/overview").status_code == 200


def test_delivery_in_unknown_state_is_listed_as_text(later: ServiceHarness) -> None:
    with Receiver() as receiver:
        webhook = later.service.webhooks.add(url=receiver.url, kinds=["activated"]).webhook
        later.bind()
        feed_has_caught_up(later.service)
        deliver_pending(later.service.runtime)
    execute(later, "UPDATE deliveries SET state = :state", state=DELIVERY)
    kinds = "UPDATE webhooks SET kinds = :kinds"
    execute(later, kinds, kinds=json.dumps(["activated", KIND]))
    assert [delivery.state for delivery in later.service.webhooks.deliveries(webhook.id).data] == [DELIVERY]
    assert later.service.webhooks.get(webhook.id).kinds == ("activated", KIND)


def test_report_with_unknown_case_and_counts_is_shown(later: ServiceHarness, running: Running) -> None:
    cases = [{"case": CASE, "number": 3, "parts": ["x"]}, {"what": "no name"}]
    values = {"id": str(uuid7()), "at": "2026-03-01T12:00:00.000000Z", "counts": json.dumps({CASE: 1})}
    execute(
        later,
        "INSERT INTO reports (id, began_at, finished_at, actor, counts, cases)"
        " VALUES (:id, :at, :at, 'later', :counts, :cases)",
        cases=json.dumps(cases),
        **values,
    )
    browser = Browser(running).sign_in("auditor")
    assert browser.get("/reports").status_code == 200
    page = browser.get(f"/reports/{values['id']}")
    assert (page.status_code, CASE.replace("_", " ") in page.text) == (200, True)
    assert later.service.report(values["id"]).cases == cases


def test_explanations_of_unknown_words_are_true() -> None:
    for code in (REASON, HELD_BY):
        explanation = failure_text.explain("in_doubt", code)
        assert code in explanation.title
        assert "another version of bindings" in explanation.cause
    assert "provider" in failure_text.explain("failed", "-77").cause
