"""The pages that end all bindings of a phone, a middle number or a reference: dry run, confirmation, result."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.binding import State
from bindings.domain.phone import mask
from tests.service.harness import POOL, A, B, C, D, E, F
from tests.web.browser import Browser
from tests.web.pages import Page

if TYPE_CHECKING:
    import requests

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

ORDER = "order-42"
REASON = {"reason": "order cancelled"}
PAIRS = ((A, B), (A, C))


def bind(running: Running, phone_a: str, phone_b: str, **values: Any) -> Binding:
    options: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600, "mode": "AXXB", "reference": ORDER}
    caller = running.service.as_caller(actor=values.pop("actor", "key:rides"))
    return caller.bind(phone_a=phone_a, phone_b=phone_b, **options | values)


def link_of(page: requests.Response) -> str:
    """Return the link of the page to the one that ends all."""
    links = [link for link in Page(page.text).links if link.endswith("/unbind")]
    assert len(links) == 1, page.text
    return links[0]


def confirmation(page: requests.Response) -> dict[str, str]:
    """Return the fields of the form that ends what a dry run lists."""
    (form,) = (form for form in Page(page.text).forms if ("action", "run") in form.buttons)
    return form.fields | {"action": "run"}


def states(running: Running, *bindings: Binding) -> list[State]:
    return [running.service.get(binding.id).state for binding in bindings]


def test_each_page_leads_to_a_dry_run_and_its_confirmation_to_the_result(running: Running) -> None:
    browser = Browser(running).sign_in("admin", "ops")
    numbers: set[str] = set()
    for by in ("reference", "phone", "middle number"):
        bound = [bind(running, *pair) for pair in PAIRS]
        other = bind(running, D, E, reference=None)
        numbers |= {str(binding.middle_number_a) for binding in bound}
        if by == "middle number":
            path = f"/bindings/{bound[0].id}/numbers/middle_number_a"
            expected, kept = bound[:1], [bound[1], other]
        else:
            path = browser.post("/find", {"q": ORDER if by == "reference" else A}).headers["Location"]
            expected, kept = bound, [other]
        page = browser.get(path)
        page = browser.get(page.headers["Location"]) if page.status_code == 303 else page
        path = link_of(page)
        assert browser.get(path).status_code == 200
        listed = browser.post(path, REASON | {"action": "dry_run"})
        assert f"End {len(expected)} binding" in listed.text, by
        assert [binding.id for binding in (*bound, other) if binding.id in listed.text] == [
            binding.id for binding in expected
        ]
        assert (mask(A) in listed.text, A in listed.text) == (True, False)
        assert states(running, *bound, other) == [State.ACTIVE] * 3
        result = browser.post(path, confirmation(listed))
        assert result.status_code == 303
        page = browser.get(result.headers["Location"])
        assert f"{len(expected)} unbind{'s' * (len(expected) > 1)} requested, {len(expected)} done" in page.text
        assert states(running, *expected) == [State.UNBOUND] * len(expected)
        assert states(running, *kept) == [State.ACTIVE] * len(kept)
        events = [running.service.history(binding.id)[-2] for binding in expected]
        assert {(event.kind, event.actor, event.detail["reason"], event.request_id) for event in events} == {
            ("unbind_requested", "key:ops", "order cancelled", result.headers["X-Request-Id"])
        }
        for binding in kept:
            running.service.unbind(binding.id)
    addresses = " ".join(browser.addresses)
    assert not [number for number in (A, B, C, D, E, *numbers) if number in addresses]


def test_list_that_has_grown_is_refused_and_shown_as_it_is_now(running: Running) -> None:
    first, second = bind(running, A, B), bind(running, C, D)
    browser = Browser(running).sign_in("admin")
    path = link_of(browser.submit("/find", {"q": ORDER}))
    listed = browser.post(path, REASON)
    third = bind(running, E, F)
    grown = browser.post(path, confirmation(listed))
    assert (grown.status_code, "End 3 bindings" in grown.text) == (409, True)
    assert "Bindings were added since the dry run, so nothing was changed." in grown.text
    assert states(running, first, second, third) == [State.ACTIVE] * 3
    running.service.unbind(first.id)
    assert "2 done" in browser.submit(path, confirmation(grown)).text, "fewer are accepted"
    assert "Nothing to end" in browser.post(path, REASON).text
    repeated = browser.submit(path, confirmation(grown))
    assert "0 unbinds requested, 0 done" in repeated.text, "safe to repeat"


def test_result_says_how_many_are_done_and_follows_the_others(running: Running, simulator: Simulator) -> None:
    bindings = [bind(running, *pair) for pair in PAIRS]
    browser = Browser(running).sign_in("admin")
    path = link_of(browser.submit("/find", {"q": ORDER}))
    simulator.script("reset_before", times=1, on="unbind")
    page = browser.submit(path, confirmation(browser.post(path, REASON)))
    assert "2 unbinds requested, 1 done" in page.text
    assert "1 of 2 has not ended yet" in page.text
    assert 'href="/doubts"' in page.text
    assert "For 1 of them the unbind was requested before" in browser.post(path, REASON).text
    running.service.recover()
    page = browser.get(page.url.removeprefix(running.url))
    assert "2 unbinds requested, 2 done" in page.text
    assert states(running, *bindings) == [State.UNBOUND] * 2


def test_wrong_input_ends_nothing_and_is_kept(running: Running) -> None:
    bindings = [bind(running, *pair) for pair in PAIRS]
    browser = Browser(running).sign_in("admin")
    path = link_of(browser.submit("/find", {"q": ORDER}))
    run = confirmation(browser.post(path, REASON))
    for form, message in (
        ({"reason": " ", "action": "dry_run"}, "<strong>Reason</strong>"),
        (run | {"reason": ""}, "<strong>Reason</strong>"),
        (run | {"token": ""}, "<strong>List of the dry run</strong> must be the token of a dry run"),
        (run | {"token": "forged!"}, "<strong>List of the dry run</strong> must be the token of a dry run"),
    ):
        page = browser.post(path, form)
        assert (page.status_code, message in page.text) == (422, True), form
        assert f'name="reason" value="{form["reason"].strip()}"' in page.text
    assert browser.post(path, run | {"csrf": "0" * 64}).status_code == 403
    assert browser.post(path, run, {"Origin": "https://example.com"}).status_code == 403
    assert states(running, *bindings) == [State.ACTIVE] * 2


def test_role_ends_what_it_may_unbind_and_an_app_its_own(running: Running) -> None:
    own, other = bind(running, A, B), bind(running, C, D, actor="key:food")
    own_too = bind(running, A, E)
    for role in ("auditor", "investigator"):
        browser = Browser(running).sign_in(role)
        assert "End all" not in browser.submit("/find", {"q": ORDER}).text
        path = f"/bindings/{own.id}/numbers/phone_a/unbind"
        assert browser.get(path).status_code == browser.post(path, REASON).status_code == 403
    app = Browser(running).sign_in("app", "rides")
    assert app.get(f"/bindings/{other.id}/numbers/phone_a/unbind").status_code == 404
    path = link_of(app.submit("/find", {"q": ORDER}))
    listed = app.post(path, REASON)
    assert (other.id in listed.text, A in listed.text) == (False, True)
    result = app.submit(path, confirmation(listed))
    assert "2 unbinds requested, 2 done" in result.text
    assert states(running, own, own_too, other) == [State.UNBOUND, State.UNBOUND, State.ACTIVE]
    address = result.url.removeprefix(running.url)
    assert "0 unbinds requested" in Browser(running).sign_in("app", "food").get(address).text
    auditor = Browser(running).sign_in("auditor", "ada").get(address).text
    assert ("2 unbinds requested" in auditor, A in auditor) == (True, False)
    assert re.search("/find/[A-Za-z0-9_-]+", path)
    assert Browser(running).sign_in("admin").get(path).status_code == 404, "a search is of one browser"
