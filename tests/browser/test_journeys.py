"""Investigations in a real browser: search, trace, reveal, export; and what a role may not do."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import time
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

import pytest

from bindings.domain.phone import mask
from tests.browser.seed_data import DRIVER, RIDER
from tests.browser.test_accessibility import axe_violations
from tests.browser.webdriver import DOWN, ENTER, TAB
from tests.service.harness import POOL
from tests.web.conftest import Running

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tests.browser.conftest import Console
    from tests.browser.seed_data import Day

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("no_console_errors")]


def format_time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def test_search_by_middle_number_time_and_party_leads_to_the_binding(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    at = day.ride.answered_at + timedelta(minutes=10) if day.ride.answered_at else None
    assert at is not None
    console.find(q=str(day.ride.middle_number_a), time=format_time(at), zone="UTC", party=f"+{RIDER}")
    text = console.window.text
    assert "One binding had this number" in text
    assert "certain" in text
    assert mask(RIDER) in text
    assert not re.search(rf"{RIDER}|{DRIVER}", console.window.run("return document.documentElement.outerHTML"))
    assert not re.search(r"\d{7,}", console.window.address.rpartition("/")[2])
    results_address = console.window.address
    console.window.click("article.card a.open")
    console.window.wait("location.pathname.startsWith('/bindings/')")
    assert console.window.address.endswith(day.ride.id)
    assert "It ended early" in console.window.text
    assert "trip ended" in console.window.text
    console.window.back()
    console.window.wait("location.pathname.startsWith('/find/')")
    console.window.reload()
    assert console.window.address == results_address
    assert "One binding had this number" in console.window.text


def test_search_at_a_time_without_a_holder_shows_near_misses(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    assert day.ride.ended_at is not None
    at = day.ride.ended_at + timedelta(seconds=60)
    console.find(q=str(day.ride.middle_number_a), time=format_time(at), zone="UTC")
    text = console.window.text
    assert "No binding recorded here at this time" in text
    assert "The last one ended at" in text
    assert "ended 1 min" in text or "ended 59 s" in text
    assert str(day.reuse.reference) in text
    console.window.click("a[href$='/history']")
    console.window.wait("location.pathname.endsWith('/history')")
    assert "Quick re-use" in console.window.text


def test_chosen_zone_applies_to_the_search_and_to_every_page(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    assert day.ride.answered_at is not None
    at = day.ride.answered_at + timedelta(hours=5, minutes=30, seconds=60)
    console.find(q=str(day.ride.middle_number_a), time=format_time(at), zone="Asia/Kolkata", party=RIDER)
    assert "One binding had this number" in console.window.text
    assert "+05:30" in console.window.text
    console.open(f"/bindings/{day.ride.id}")
    assert "+05:30" in console.window.text


def test_zone_of_the_browser_is_suggested_until_the_user_chooses_one(console: Console) -> None:
    console.sign_in("auditor")
    console.window.command("Emulation.setTimezoneOverride", timezoneId="Africa/Nairobi")
    console.open("/")
    assert console.window.run("return document.getElementById('zone').value") == "Africa/Nairobi"
    console.find(q="order-1003", zone="Asia/Kolkata")
    console.open("/")
    assert console.window.run("return document.getElementById('zone').value") == "Asia/Kolkata"


def test_reveal_shows_the_phones_once_and_is_in_the_access_log(console: Console, day: Day) -> None:
    console.sign_in("investigator", "mallory")
    console.open(f"/bindings/{day.ride.id}")
    assert RIDER not in console.window.text
    console.window.fill("#reason", "police request 7/26")
    console.window.click("form[action$='/reveal'] button")
    console.window.wait("document.body.innerText.includes('Shown in full once')")
    assert RIDER in console.window.text
    assert DRIVER in console.window.text
    console.open(f"/bindings/{day.ride.id}")
    assert RIDER not in console.window.text
    console.open("/access")
    row = console.window.run("return document.querySelector('tbody tr').innerText")
    assert "key:mallory" in row
    assert "police request 7/26" in row
    assert "key:eve" in console.window.text


def test_replaced_binding_leads_to_its_successor_and_back(console: Console) -> None:
    old = console.running.service.as_caller(actor="key:rides").bind(
        phone_a="9188067751", phone_b="9188067752", pool_number=POOL, expire_s=3_600, mode="AXB"
    )
    console.sign_in("admin", "ops")
    console.open(f"/bindings/{old.id}")
    console.window.fill("#replace-phone_b", "9188067753")
    console.window.click("form[action$='/replace'] button")
    console.window.wait(
        f"document.body.innerText.includes('Replacements') && !location.pathname.endsWith('{old.id}')"
    )
    assert not re.search(r"9188067\d{3}", console.window.address)
    assert axe_violations(console) == []
    for text in ("s after the end of the binding that it replaces", "this one", mask("9188067753")):
        assert text in console.window.text
    console.window.click("section[aria-labelledby='replacements'] a")
    console.window.wait(f"location.pathname.endsWith('{old.id}')")
    assert "It has a successor already" in console.window.text
    assert "9188067753" not in console.window.text


def test_exported_history_matches_its_manifest(console: Console, day: Day, downloads: Path) -> None:
    console.sign_in("auditor")
    console.open(f"/bindings/{day.ride.id}/numbers/phone_a")
    console.window.click("details.export summary")
    console.window.click("details.export button")
    file = _downloaded(downloads)
    console.window.wait("document.body.innerText.includes('The export has started and is recorded')")
    manifest = console.window.run("return document.querySelector('[data-exported] a').pathname")
    assert manifest.removeprefix("/exports/") in file.name
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    assert day.ride.id in {row["id"] for row in rows}
    assert RIDER not in file.read_text()
    console.open("/access")
    console.window.click("tbody tr:first-child a[href^='/exports/']")
    console.window.wait("location.pathname.startsWith('/exports/')")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in console.window.text


def _downloaded(folder: Path) -> Path:
    deadline = time.monotonic() + 20
    while True:
        files = [file for file in folder.glob("number-history-*.csv") if file.stat().st_size]
        if files:
            return files[0]
        assert time.monotonic() < deadline, f"no file was downloaded: {list(folder.iterdir())}"
        time.sleep(0.05)


def test_auditor_is_not_offered_a_reveal_and_is_refused_one(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    console.open(f"/bindings/{day.ride.id}")
    assert not console.window.has("#reason")
    token = console.window.run("return document.querySelector('[name=csrf]').value")
    console.window.run(
        "const f = document.createElement('form'); f.method = 'post'; f.action = arguments[0];"
        "for (const [n, v] of [['csrf', arguments[1]], ['reason', 'curious']])"
        "{ const i = document.createElement('input'); i.name = n; i.value = v; f.append(i); }"
        "document.body.append(f); f.submit()",
        f"/bindings/{day.ride.id}/reveal",
        token,
    )
    console.window.wait("document.title.startsWith('Not allowed')")
    assert RIDER not in console.window.text


def test_app_key_sees_only_its_own_bindings(console: Console, day: Day) -> None:
    console.sign_in("app", "food")
    assert not console.window.has("nav a[href='/access']")
    console.open(f"/bindings/{day.ride.id}")
    assert "Not found" in console.window.text
    console.open("/access")
    assert "Not allowed" in console.window.text
    console.find(q=str(day.ride.middle_number_a), time=format_time(day.ride.requested_at + timedelta(minutes=5)))
    assert "No binding recorded here at this time" in console.window.text


def test_invalid_key_is_refused_and_sign_out_leaves_no_page_in_the_history(console: Console, day: Day) -> None:
    console.running.key("auditor")
    console.open(f"/bindings/{day.ride.id}")
    assert console.window.address.endswith(f"/sign-in?next=/bindings/{day.ride.id}")
    console.window.fill("#key", "bnd_wrong")
    console.window.click("main button.main")
    console.window.wait("document.body.innerText.includes('not known')")
    console.sign_in("auditor")
    cookie = console.window.cookies()["bindings_session"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert "bindings_session" not in console.window.run("return document.cookie")
    console.open(f"/bindings/{day.ride.id}")
    console.window.click(".account details.menu:last-of-type summary")
    console.window.click("form[action='/sign-out'] button")
    console.window.wait("location.pathname === '/sign-in'")
    console.window.back()
    console.window.wait("location.pathname === '/sign-in'")


def test_slash_key_leads_to_the_search_field_from_every_page(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    console.open(f"/bindings/{day.ride.id}")
    console.window.press("/")
    console.window.wait("location.pathname === '/' && document.activeElement.id === 'q'")
    console.window.fill("#q", "order-1003")
    console.window.click(".search-form button.main")
    console.window.wait("location.pathname.startsWith('/bindings/')")
    console.find(q="unknown name")
    console.window.run("document.activeElement.blur()")
    console.window.press("/")
    console.window.wait("document.activeElement.id === 'q'")
    assert console.window.run("return document.getElementById('q').value") == ""


def test_search_and_reveal_work_without_javascript(console: Console, day: Day) -> None:
    console.window.scripts(on=False)
    console.sign_in("investigator")
    at = format_time(day.ride.requested_at + timedelta(minutes=10))
    console.find(q=str(day.ride.middle_number_a), time=at, party=RIDER)
    console.window.click("article.card a.open")
    console.window.fill("#reason", "complaint 119")
    console.window.click("form[action$='/reveal'] button")
    console.window.wait("document.body.innerText.includes('Shown in full once')")
    assert DRIVER in console.window.text


def test_binding_is_extended_and_ended_with_the_keyboard(console: Console) -> None:
    service = console.running.service
    binding = service.bind(
        phone_a="9188067751", phone_b="9188067752", pool_number=POOL, mode="AXB", expire_s=600, max_expire_s=7_200
    )
    console.sign_in("admin")
    console.open(f"/bindings/{binding.id}")
    console.window.focus("#extend-amount")
    console.window.press("3" + TAB + "h" + TAB + ENTER)  # three hours: too long
    console.window.wait("document.body.innerText.includes('must be at most')")
    assert console.window.run("return document.getElementById('extend-amount').value") == "3"
    assert console.window.run("return document.querySelector('#extend-amount ~ select').value") == "hours"
    console.window.focus("#extend-amount")
    console.window.press("1" + ENTER)  # replaces the selected 3
    console.window.wait("document.body.innerText.includes('its promised end was moved to a later time')")
    console.window.focus("#unbind-reason")
    console.window.press("arrived" + TAB + DOWN + TAB + "20" + ENTER)  # after twenty minutes
    console.window.wait("document.body.innerText.includes('its promised end was moved to an earlier time')")
    console.window.focus("#unbind-reason")
    console.window.press("arrived" + ENTER)
    console.window.wait("document.body.innerText.includes('It ended early')")
    assert not console.window.has("#unbind-reason")
    assert service.get(binding.id).state == "unbound"


def test_all_bindings_of_a_phone_are_ended_after_a_dry_run(console: Console) -> None:
    console.sign_in("admin")
    console.find(q=RIDER)
    console.window.click("a.button[href$='/unbind']")
    console.window.focus("#reason")
    console.window.press("number stolen" + ENTER)
    console.window.wait("document.body.innerText.includes('What would be ended')")
    assert mask(RIDER) in console.window.text
    assert RIDER not in console.window.text + console.window.address
    console.window.focus("button.danger")
    console.window.press(ENTER)
    console.window.wait("document.title.startsWith('Unbinds of a request')")
    assert "2 unbinds requested, 2 done" in console.window.text
    console.window.reload()
    assert "2 unbinds requested, 2 done" in console.window.text


def test_pages_load_nothing_from_other_hosts(console: Console, day: Day) -> None:
    console.sign_in("admin")
    for path in ("/", f"/bindings/{day.ride.id}", "/access", "/exports"):
        console.open(path)
        resources = console.window.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert resources
        assert all(url.startswith(console.running.url) for url in resources)


def test_local_browser_needs_no_key_until_a_key_exists(empty: Console) -> None:
    empty.open("/")
    assert "No bindings yet" in empty.window.text
    assert isinstance(empty.running, Running)
    empty.running.key("admin")
    empty.open("/")
    assert "Sign in" in empty.window.text


def test_list_of_bindings_is_filtered_narrowed_and_opened_by_keyboard_and_mouse(
    console: Console, day: Day
) -> None:
    console.sign_in("auditor")
    window = console.window
    window.click("nav a[href='/bindings']")
    window.wait("location.pathname === '/bindings'")
    window.click("details.filters summary")
    window.fill("#reference_prefix", "meal-")
    window.press(ENTER)
    window.wait("location.search === '?reference_prefix=meal-'")
    assert "meal-77" in window.text
    assert "order-1003" not in window.text
    window.click(".value-counts a[href$='state=failed&reference_prefix=meal-']")
    window.wait("location.search.includes('state=failed')")
    rows = "return document.querySelectorAll('tr[data-href]').length"
    assert window.run(rows) == 1
    window.click(".chosen a[href='/bindings?state=failed']")
    window.wait("location.search === '?state=failed'")
    window.click("tr[data-href] td:last-child")
    window.wait("location.pathname.startsWith('/bindings/')")
    assert window.address.endswith(day.failed.id)
    window.back()
    window.wait("location.search === '?state=failed'")


def test_list_of_bindings_works_without_scripts_and_shows_what_was_wrong(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    window = console.window
    window.scripts(on=False)
    console.open("/bindings?mode=AXB")
    window.click("details.filters summary")
    window.fill("#reference_prefix", RIDER)
    window.click("details.filters button.main")
    window.wait("document.body.innerText.includes('looks like a phone or a middle number')")
    assert RIDER not in window.address
    console.open(f"/bindings?reference_prefix={day.ride.reference}")
    window.click("table.list tbody a")
    window.wait(f"location.pathname.endsWith('{day.ride.id}')")
