"""Refused binds in the console: found by reference, request id and phone, with their cause and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete

from bindings.domain.phone import mask
from bindings.errors import PhoneInUse, ProviderAccountRefused
from bindings.store.schema import refusals
from tests.service.harness import POOL, A, C, D, E, feed_has_caught_up
from tests.web.browser import Browser
from tests.web.test_console_search import BIND, bind

if TYPE_CHECKING:
    from bindings.provider.simulator import Simulator
    from bindings.service import BindingService
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")


def refuse(service: BindingService, actor: str = "key:food", **fields: Any) -> None:
    caller = service.as_caller(actor=actor, request_id="req-2")
    with pytest.raises((PhoneInUse, ProviderAccountRefused)):
        caller.bind(**BIND | {"phone_b": C, "reference": "order-43"} | fields)


@pytest.mark.parametrize("name", ["order-43", "req-2", C, f"+{C}"])
def test_refused_bind_is_shown_with_its_cause_its_holder_and_what_to_do(running: Running, name: str) -> None:
    holder = bind(running.service)
    refuse(running.service)
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": name}).text
    assert "Refused before the call" in page
    assert "Held by our own binding." in page
    assert f'<a href="/bindings/{holder.id}">order-42</a>' in page
    assert "or unbind the binding that holds the phone" in page
    assert (mask(C) in page, C in page) == (True, False)
    assert C not in " ".join(browser.addresses)


def test_reference_of_a_binding_and_of_a_refused_bind_shows_both(running: Running) -> None:
    binding = bind(running.service)
    refuse(running.service, reference="order-42")
    page = Browser(running).sign_in("auditor").submit("/find", {"q": "order-42"}).text
    assert "1 binding with this reference" in page
    assert f"/bindings/{binding.id}" in page
    assert "Refused before the call" in page


def test_phone_of_a_binding_shows_its_refused_binds_too(running: Running) -> None:
    bind(running.service)
    refuse(running.service)
    page = Browser(running).sign_in("auditor").submit("/find", {"q": A}).text
    assert "1 binding has this number, 1 of them on this page" in page
    assert "order-43" in page


def test_app_finds_its_own_refused_binds_in_full_without_the_binding_of_another(running: Running) -> None:
    holder = bind(running.service)
    refuse(running.service)
    own, other = Browser(running).sign_in("app", "food"), Browser(running).sign_in("app", "rides")
    for name in ("order-43", "req-2", C):
        page = own.submit("/find", {"q": name}).text
        assert C in page
        assert "order-43" in page
        assert "Wait until" in page
        assert holder.id not in page
        assert "order-42" not in page
        page = other.submit("/find", {"q": name}).text
        assert "Refused before the call" not in page


def test_refusal_because_of_the_account_names_the_status(running: Running, simulator: Simulator) -> None:
    simulator.change(account_status="-29")
    with pytest.raises(ProviderAccountRefused):
        bind(running.service)
    refuse(running.service, phone_a=D, phone_b=E)
    page = Browser(running).sign_in("auditor").submit("/find", {"q": "order-43"}).text
    assert "The provider had refused the account: -29 workspace disabled." in page
    assert "<code>bindings doctor</code>" in page


def test_beginning_of_a_reference_finds_bindings_and_refused_binds(running: Running) -> None:
    binding = bind(running.service)
    refuse(running.service)
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": "order-4"}).text
    assert "Nothing has exactly this name." in page
    assert f"/bindings/{binding.id}" in page
    assert "order-43" in page
    page = browser.submit("/find", {"q": "order-42"}).text
    assert "Nothing has exactly this name." not in page


def test_empty_answer_says_what_was_searched(running: Running) -> None:
    page = Browser(running).sign_in("auditor").submit("/find", {"q": "order-9"}).text
    assert (
        "No binding has the id, bindId, idempotency key or request id “order-9” or a reference that begins so"
        in page
    )
    assert "no recorded refused bind has it as its request id or as the beginning of its reference" in page
    page = Browser(running).sign_in("app").submit("/find", {"q": "order-9"}).text
    assert "No binding of yours has the id" in page


def test_refusal_that_an_earlier_version_recorded_is_found_by_its_request(running: Running) -> None:
    holder = bind(running.service)
    refuse(running.service)
    running.service.runtime.database.write(lambda tx: tx.connection.execute(delete(refusals)))
    page = Browser(running).sign_in("auditor").submit("/find", {"q": "req-2"}).text
    assert "An earlier version recorded it" in page
    assert holder.id in page


def test_holder_that_retention_deleted_has_no_link(running: Running) -> None:
    holder = bind(running.service)
    refuse(running.service)
    unknown = "018f0000-0000-7000-8000-000000000000"
    running.service.runtime.database.write(
        lambda tx: tx.connection.execute(refusals.update().values(holder_id=unknown))
    )
    page = Browser(running).sign_in("auditor").submit("/find", {"q": "order-43"}).text
    assert "Held by our own binding." in page
    assert unknown not in page
    assert holder.id not in page


def test_refusals_because_of_the_account_are_in_the_shares_and_lead_to_their_reference(
    running: Running, simulator: Simulator
) -> None:
    simulator.change(account_status="-29")
    with pytest.raises(ProviderAccountRefused):
        bind(running.service)
    refuse(running.service, phone_a=D, phone_b=E)
    feed_has_caught_up(running.service)
    running.service.update_statistics()
    browser = Browser(running).sign_in("auditor")
    page = browser.get("/failures").text
    assert "of the binds failed: <strong>1</strong> of 2" in page
    assert "<strong>1</strong> was refused here before any call" in page
    assert "/failures/refused/-29" in page
    (pool_row,) = re.findall(rf">{POOL}</a></th>(.*?)</tr>", page, re.DOTALL)
    assert re.findall(r">\s*(\d+)", re.sub(r"\d+\.\d", "", pool_row)) == ["2", "1", "0", "1"]
    page = browser.get("/failures/refused/-29").text
    assert "the provider had refused the account: workspace disabled" in page
    assert "order-43" in page
