"""Who had a number: the permanent link to the answer, which has no phone in it, and the statement for a file."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bindings.domain.phone import mask
from tests.service.harness import POOL, A, B, C, D
from tests.web.browser import Browser

if TYPE_CHECKING:
    from tests.web.conftest import Running

LINK = re.compile(r'href="(/bindings/[^"]+/at[?][^"]+)"')


def bind(running: Running, **changes: Any) -> Any:
    terms: dict[str, Any] = {"phone_a": A, "phone_b": B, "pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}
    terms["reference"] = "order-42"
    return running.service.as_caller(actor="key:rides").bind(**terms | changes)


def link_in(page: str) -> str:
    match = LINK.search(page)
    assert match, page
    return match[1].replace("&amp;", "&")


@pytest.mark.parametrize("party", ["", A, f"+{B}"])
def test_link_shows_the_same_answer_to_another_reader(running: Running, party: str) -> None:
    binding = bind(running)
    page = (
        Browser(running)
        .sign_in("auditor")
        .submit("/find", {"q": str(binding.middle_number_a), "time": "now", "party": party})
        .text
    )
    link = link_in(page)
    assert all(digits not in link for digits in (A, B, str(binding.middle_number_a)))
    assert ("party=" in link) is bool(party)
    colleague = Browser(running).sign_in("auditor", "colleague")
    answer = colleague.get(link).text
    for expected in (
        "One binding had this number",
        f"/bindings/{binding.id}",
        "The provider confirmed it at",
        mask(A),
    ):
        assert expected in answer
        assert expected in page
    assert A not in answer
    assert link_in(answer) == link
    assert colleague.get(f"{link}x" if party else f"{link}&party=middle_number_a").status_code == 422
    assert colleague.get(link.partition("?")[0]).status_code == 422, "a time is required"


def test_answer_without_a_holder_and_with_other_parties_has_links(running: Running) -> None:
    binding = bind(running)
    browser = Browser(running).sign_in("auditor")
    number = str(binding.middle_number_a)
    before = (binding.requested_at - timedelta(days=1)).isoformat()
    page = browser.submit("/find", {"q": number, "time": before}).text
    assert "No binding recorded here at this time" in page
    assert "No binding recorded here at this time" in browser.get(link_in(page)).text
    page = browser.submit("/find", {"q": number, "time": "now", "party": C}).text
    assert "1 binding with other parties" in page
    assert "Keep this answer" not in page, "no binding has the party"
    assert "One binding had this number" in browser.get(link_in(page)).text
    unknown = browser.submit("/find", {"q": "9188099999", "time": "now"}).text
    assert LINK.search(unknown) is None


def test_time_that_has_not_come_is_refused_at_its_field_and_in_a_link(running: Running) -> None:
    """The binding lives: that it ended before that time would be wrong."""
    binding = bind(running)
    browser = Browser(running).sign_in("auditor")
    later = (binding.held_until + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    form = browser.submit("/find", {"q": str(binding.middle_number_a), "time": later})
    assert form.status_code == 422
    assert "<strong>Time</strong> must not be later than now, " in form.text
    link = f"/bindings/{binding.id}/numbers/phone_a/at?time={later}"
    for answer in (browser.get(link), browser.post(link, {"reason": "complaint 118"})):
        assert answer.status_code == 422
        assert "<strong>Time</strong> must not be later than now, " in answer.text


def test_time_of_a_clock_that_is_ahead_is_shown_as_now(running: Running) -> None:
    binding = bind(running)
    asked_at = datetime.now(UTC)
    ahead = (asked_at + timedelta(seconds=50)).isoformat().replace("+00:00", "Z")
    browser = Browser(running).sign_in("auditor")
    page = browser.submit("/find", {"q": str(binding.middle_number_a), "time": ahead}).text
    assert "One binding had this number" in page
    for link in (link_in(page), link_in(browser.get(f"{link_in(page).partition('?')[0]}?time={ahead}").text)):
        shown = datetime.fromisoformat(parse_qs(urlsplit(link).query)["time"][0])
        assert asked_at <= shown <= datetime.now(UTC)


def test_application_opens_links_to_its_own_bindings_only(running: Running) -> None:
    binding = bind(running)
    link = (
        f"/bindings/{binding.id}/numbers/phone_a/at?time={binding.answered_at.isoformat().replace('+00:00', 'Z')}"
    )
    assert Browser(running).sign_in("app", "rides").get(link).status_code == 200
    assert Browser(running).sign_in("app", "meals").get(link).status_code == 404


def test_statement_says_who_asked_why_and_what_proves_the_answer(running: Running) -> None:
    binding = bind(running)
    auditor = Browser(running).sign_in("auditor", "ann")
    link = link_in(auditor.submit("/find", {"q": str(binding.middle_number_a), "time": "now"}).text)
    assert auditor.post(link, {"reason": " "}).status_code == 422
    statement = auditor.post(link, {"reason": "complaint 118"}).text
    for expected in ("key:ann", "complaint 118", "The provider created the binding", "order-42", "is not sealed"):
        assert expected in statement
    assert all(event.cursor in statement for event in running.service.history(binding.id))
    assert A not in statement
    assert auditor.post(link, {"reason": "complaint 118", "in_full": "1"}).status_code == 403
    assert {event.kind for event in running.service.history(binding.id)} == {"requested", "activated"}
    investigator = Browser(running).sign_in("investigator", "eve")
    assert A in investigator.post(link, {"reason": "complaint 119", "in_full": "1"}).text
    [revealed] = [event for event in running.service.history(binding.id) if event.kind == "revealed"]
    assert (revealed.actor, revealed.detail["reason"]) == ("key:eve", "complaint 119")


def test_history_of_a_number_counts_its_bindings_and_starts_at_a_time(running: Running) -> None:
    first = bind(running)
    second = bind(running, phone_a=C, phone_b=D, mode="AXXB")
    running.service.unbind(first.id)
    browser = Browser(running).sign_in("auditor")
    path = f"/bindings/{first.id}/numbers/phone_a"
    page = browser.get(path).text
    assert "No binding recorded here holds it now." in page
    assert "1 binding has this number, 1 of them on this page" in page
    assert "1 binding may hold it now." in browser.get(f"/bindings/{second.id}/numbers/phone_b").text
    assert first.id in browser.submit(path, {"before": "2100-01-01"}).text
    assert "No binding was held until before that time" in browser.submit(path, {"before": "2001-01-01"}).text
    for wrong in ("soon", A):
        response = browser.post(path, {"before": wrong})
        assert (response.status_code, response.headers.get("Location")) == (422, None)
