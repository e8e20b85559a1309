"""The form that replaces a binding, and what the pages of the bindings of one order say of its replacements."""

from __future__ import annotations

import html
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.binding import EventKind, State
from bindings.domain.phone import mask
from bindings.errors import OutcomeUnknown, ProviderRefused
from bindings.lifecycle import replace
from tests.service.harness import POOL, A, B, C, D, E, F
from tests.web.browser import Browser
from tests.web.conftest import run
from tests.web.seed_states import DiedError, dies_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness
    from tests.web.conftest import Running

HOUR = 3_600
G, H = "9188067771", "9188067791"
FAILED_REASON = "Failed: the provider's pool had no middle number available."
CHANGED, UNCHANGED = "A middle number changed.", "No middle number changed for a party of both."
CELL = re.compile(r"<td[^>]*>(.*?)</td>", re.DOTALL)
GAP = re.compile(r"\d+\.\d{3} s after the end of the binding that it replaces\. ")


@pytest.fixture
def console(harness: ServiceHarness) -> Iterator[Running]:
    """A running service on the clock of the test harness."""
    yield from run(harness.service)


def bind(harness: ServiceHarness, phone_a: str = A, phone_b: str = B, *, actor: str = "key:rides") -> Binding:
    values: dict[str, Any] = {"pool_number": POOL, "expire_s": HOUR, "mode": "AXB", "reference": "order-42"}
    return harness.service.as_caller(actor=actor).bind(phone_a=phone_a, phone_b=phone_b, **values)


def text_of(page: requests.Response) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


def facts_of(page: requests.Response) -> dict[str, str]:
    """Return the facts about the request, by label."""
    facts = re.findall(r"<div><dt>([^<]+)</dt><dd[^>]*>(.*?)</dd></div>", page.text)
    return {label: re.sub(r"<[^>]+>", "", value) for label, value in facts}


def chain_of(page: requests.Response) -> list[tuple[str, str, str]]:
    """Return the link, the state and the takeover of each row of the replacements."""
    section = page.text.partition('aria-labelledby="replacements"')[2].partition("</section>")[0]
    rows = [
        [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in CELL.findall(row)]
        for row in section.split("<tr>")[2:]
    ]
    return [(cells[0], cells[1], GAP.sub("GAP ", cells[-1])) for cells in rows if len(cells) > 1]


def test_form_replaces_and_both_pages_show_the_replacements(harness: ServiceHarness, console: Running) -> None:
    first = bind(harness)
    browser = Browser(console).sign_in("admin", "ops")
    page = browser.get(f"/bindings/{first.id}")
    assert f'placeholder="{mask(B)}"' in page.text
    assert "The new binding belongs to key:rides, as this one does." in text_of(page)
    assert 'id="replacements"' not in page.text
    answer = browser.post(f"/bindings/{first.id}/replace", {"phone_b": C, "amount": "2", "unit": "hours"})
    second = harness.service.get(str(harness.service.get(first.id).replaced_by))
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/bindings/{second.id}")
    assert (second.phone_b.digits, second.expire_s, second.actor) == (C, 2 * HOUR, "key:rides")
    again = browser.post(f"/bindings/{first.id}/replace", {"phone_b": D})
    assert (again.status_code, second.id in again.text, f'value="{D}"' in again.text) == (409, True, True)
    assert "Replace the successor" in text_of(again)
    harness.simulator.script("refuse:-41", times=1, on="bind")
    refused = browser.post(f"/bindings/{second.id}/replace", {"phone_b": E, "mode": "AXXB"})
    assert (refused.status_code, f'value="{E}"' in refused.text) == (503, True)
    assert "<option selected>AXXB</option>" in refused.text
    assert "The binding to be replaced has ended, and nothing has taken its place" in text_of(refused)
    assert 'name="force"' not in refused.text
    kept = bind(harness, D, F)
    early = browser.post(f"/bindings/{kept.id}/replace", {"phone_b": E})
    assert (early.status_code, 'name="force"' in early.text) == (503, True)
    assert "nothing was replaced" in text_of(early)
    assert browser.post(f"/bindings/{second.id}/replace", {"phone_b": E, "force": "1"}).status_code == 303
    history = harness.service.history(second.id)
    failed, third = (event.detail["replaced_by"] for event in history if event.kind == EventKind.REPLACED)
    assert harness.service.get(failed).state is State.FAILED
    changes = [CHANGED if number_changed(harness, name) else UNCHANGED for name in (second.id, third)]
    rows = [
        (first.id, "unbound", "\N{EN DASH}"),
        (second.id, "unbound", f"GAP {changes[0]}"),
        (failed, "failed", FAILED_REASON),
        (third, "active", f"GAP {changes[1]}"),
    ]
    for viewed, facts in (
        (first.id, {"Replaced by": second.id}),
        (second.id, {"Replaces": first.id, "Replaced by": third}),
        (failed, {"Was to replace": second.id}),
        (third, {"Replaces": second.id}),
    ):
        page = browser.get(f"/bindings/{viewed}")
        expected = [("this one" if name == viewed else name[-8:], state, text) for name, state, text in rows]
        assert chain_of(page) == expected
        shown = {label: value for label, value in facts_of(page).items() if "eplace" in label or "ucces" in label}
        assert shown == {label: name[-8:] for label, name in facts.items()}
        for phone in (A, B, C, E):
            assert phone not in page.text
    number = browser.get(f"/bindings/{third}/numbers/phone_a")
    assert number.text.count("#replacements") == 4
    found = browser.submit("/find", {"q": "order-42"})
    assert found.text.count("#replacements") == 4


def number_changed(harness: ServiceHarness, binding_id: str) -> bool:
    binding = harness.service.get(binding_id)
    predecessor = harness.service.get(str(binding.replaces))
    return binding.middle_number_for(A) != predecessor.middle_number_for(A)


def test_unclear_outcomes_are_shown_on_the_page_that_they_concern(
    harness: ServiceHarness, console: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding = bind(harness)
    browser = Browser(console).sign_in("admin")
    harness.simulator.script("lost_reply", times=1, on="unbind")
    with monkeypatch.context() as patch:
        patch.setattr(replace, "STEPS_S", -harness.service.settings.provider_timeout_s)
        unclear = browser.post(f"/bindings/{binding.id}/replace", {"phone_b": C})
    assert (unclear.status_code, f'value="{C}"' in unclear.text) == (202, True)
    assert "has not confirmed the end of the binding to be replaced" in text_of(unclear)
    assert "Replace it again in 10 s" in text_of(unclear)
    assert facts_of(unclear)["Successor, failed"]
    assert "It cannot be replaced now" not in text_of(unclear)
    harness.simulator.script("lost_reply", times=1, on="bind")
    doubt = browser.post(f"/bindings/{binding.id}/replace", {"phone_b": C})
    successor = harness.service.get(str(harness.service.get(binding.id).replaced_by))
    assert (doubt.status_code, doubt.headers["Location"]) == (303, f"/bindings/{successor.id}")
    assert successor.state is State.IN_DOUBT
    assert chain_of(browser.get(f"/bindings/{successor.id}"))[-1] == (
        "this one",
        "in doubt",
        "No success is recorded.",
    )
    assert "It cannot be replaced now. It is not active yet." in text_of(browser.get(f"/bindings/{successor.id}"))


def test_page_says_whether_a_binding_can_be_replaced(harness: ServiceHarness, console: Running) -> None:
    service, browser = harness.service, Browser(console).sign_in("admin")
    active, taken_over, unbound, unbinding = (
        bind(harness, A, B),
        bind(harness, C, D),
        bind(harness, E, F),
        bind(harness, G, H),
    )
    with dies_at("replace.after_begin"), pytest.raises(DiedError):
        service.replace(taken_over.id)
    waiting = service.get(str(service.get(taken_over.id).replaced_by))
    service.unbind(unbound.id)
    harness.simulator.script("reset_before", times=1, on="unbind")
    with suppress(OutcomeUnknown):
        service.unbind(unbinding.id)
    for binding, obstacle in (
        (active, None),
        (taken_over, "It has a successor already."),
        (waiting, "It is not active yet."),
        (unbound, "It has ended."),
        (unbinding, "An unbind was requested, and nothing takes that back."),
    ):
        page = browser.get(f"/bindings/{binding.id}")
        prefix = "It cannot be replaced now. "
        assert (prefix in text_of(page)) == (obstacle is not None), obstacle
        assert (prefix + str(obstacle) in text_of(page)) == (obstacle is not None), obstacle
        assert (f'action="/bindings/{binding.id}/replace"' in page.text) == (obstacle is None), obstacle
    assert facts_of(browser.get(f"/bindings/{taken_over.id}"))["To be replaced by"] == waiting.id[-8:]
    page = browser.get(f"/bindings/{waiting.id}")
    assert facts_of(page)["Is to replace"] == taken_over.id[-8:]
    assert chain_of(page)[-1] == ("this one", "pending", "Waits for the end of the binding that it replaces.")
    harness.clock.at = waiting.settle_by
    assert "It cannot be replaced now" not in text_of(browser.get(f"/bindings/{taken_over.id}"))
    harness.clock.advance(2 * HOUR)
    service.expire_due()
    expired = text_of(Browser(console).sign_in("admin", "later").get(f"/bindings/{active.id}"))
    assert "It ended because its lifetime was over." in expired
    assert "It cannot be replaced now" not in expired


def test_application_replaces_its_own_and_learns_nothing_of_others(
    harness: ServiceHarness, console: Running
) -> None:
    own, other = bind(harness), bind(harness, C, D, actor="key:food")
    rides = Browser(console).sign_in("app", "rides")
    assert rides.post(f"/bindings/{other.id}/replace", {"phone_b": E}).status_code == 404
    conflict = rides.post(f"/bindings/{own.id}/replace", {"phone_b": C})
    assert (conflict.status_code, "by another application" in text_of(conflict)) == (409, True)
    assert other.id not in conflict.text
    wrong = rides.post(f"/bindings/{own.id}/replace", {"phone_b": "x", "pool_number": "a b", "amount": ""})
    assert wrong.status_code == 422
    for field in ("Phone of B must", "Pool must"):
        assert field in text_of(wrong)
    assert Browser(console).sign_in("auditor").post(f"/bindings/{own.id}/replace").status_code == 403
    assert harness.service.get(own.id) == own
    harness.service.as_caller(actor="key:ops").replace(own.id)
    page = rides.get(f"/bindings/{own.id}")
    assert [row[1] for row in chain_of(page)] == ["unbound", "active"]
    assert "key:ops" not in page.text
    assert rides.get(f"/bindings/{harness.service.get(own.id).replaced_by}").status_code == 200


def test_many_failed_successors_are_counted(harness: ServiceHarness) -> None:
    binding = bind(harness)
    harness.simulator.script("refuse:-22", times=8, on="bind")
    for _ in range(8):
        with pytest.raises(ProviderRefused):
            harness.service.replace(binding.id)
    chain = harness.service.investigation.replacements(harness.service.get(binding.id))
    assert [item.hidden for item in chain] == [3, 0, 0, 0, 0, 0]
    ids = [
        event.detail["replaced_by"] for event in harness.service.history(binding.id) if event.kind == "replaced"
    ]
    viewed = harness.service.investigation.replacements(harness.service.get(ids[0]))
    assert [item.binding.id for item in viewed] == [binding.id, ids[0], *ids[3:]]
