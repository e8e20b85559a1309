"""What people do with the console, in a real browser: find, trace, reveal, take away; and what they may not."""

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
from tests.browser.stage import DRIVER, RIDER
from tests.web.conftest import Running

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tests.browser.conftest import Console
    from tests.browser.stage import Day

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("no_complaints")]


def clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def test_this_middle_number_called_me_who_was_it(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    at = day.ride.answered_at + timedelta(minutes=10) if day.ride.answered_at else None
    assert at is not None
    console.find(q=str(day.ride.middle_number_a), time=clock(at), zone="UTC", party=f"+{RIDER}")
    text = console.window.text
    assert "One binding had it" in text
    assert "certain" in text
    assert mask(RIDER) in text
    assert not re.search(rf"{RIDER}|{DRIVER}", console.window.run("return document.documentElement.outerHTML"))
    assert not re.search(r"\d{7,}", console.window.address.rpartition("/")[2])
    answer = console.window.address
    console.window.click("article.card a.open")
    console.window.wait("location.pathname.startsWith('/bindings/')")
    assert console.window.address.endswith(day.ride.id)
    assert "It ended early" in console.window.text
    assert "trip ended" in console.window.text
    console.window.back()
    console.window.wait("location.pathname.startsWith('/find/')")
    console.window.reload()
    assert console.window.address == answer
    assert "One binding had it" in console.window.text


def test_where_there_was_none_the_near_misses_answer(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    assert day.ride.ended_at is not None
    at = day.ride.ended_at + timedelta(seconds=60)
    console.find(q=str(day.ride.middle_number_a), time=clock(at), zone="UTC")
    text = console.window.text
    assert "No binding then" in text
    assert "The last one ended at" in text
    assert "ended 1 min" in text or "ended 59 s" in text
    assert str(day.again.reference) in text
    console.window.click("a[href$='/history']")
    console.window.wait("location.pathname.endsWith('/history')")
    assert "Quick re-use" in console.window.text


def test_a_time_is_read_in_the_zone_that_was_chosen_and_every_page_shows_it(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    assert day.ride.answered_at is not None
    at = day.ride.answered_at + timedelta(hours=5, minutes=30, seconds=60)
    console.find(q=str(day.ride.middle_number_a), time=clock(at), zone="Asia/Kolkata", party=RIDER)
    assert "One binding had it" in console.window.text
    assert "+05:30" in console.window.text
    console.open(f"/bindings/{day.ride.id}")
    assert "+05:30" in console.window.text


def test_the_zone_of_the_browser_is_suggested_until_one_is_chosen(console: Console) -> None:
    console.sign_in("auditor")
    console.window.command("Emulation.setTimezoneOverride", timezoneId="Africa/Nairobi")
    console.open("/")
    assert console.window.run("return document.getElementById('zone').value") == "Africa/Nairobi"
    console.find(q="order-1003", zone="Asia/Kolkata")
    console.open("/")
    assert console.window.run("return document.getElementById('zone').value") == "Asia/Kolkata"


def test_an_investigator_sees_the_phones_for_a_reason_and_the_log_says_so(console: Console, day: Day) -> None:
    console.sign_in("investigator", "mallory")
    console.open(f"/bindings/{day.ride.id}")
    assert RIDER not in console.window.text
    console.window.fill("#reason", "police request 7/26")
    console.window.click("form[action$='/reveal'] button")
    console.window.wait("document.body.innerText.includes('Shown in full this once')")
    assert RIDER in console.window.text
    assert DRIVER in console.window.text
    console.open(f"/bindings/{day.ride.id}")
    assert RIDER not in console.window.text
    console.open("/access")
    line = console.window.run("return document.querySelector('tbody tr').innerText")
    assert "key:mallory" in line
    assert "police request 7/26" in line
    assert "key:eve" in console.window.text


def test_a_history_is_taken_away_and_its_manifest_fits_the_file(
    console: Console, day: Day, downloads: Path
) -> None:
    console.sign_in("auditor")
    console.open(f"/bindings/{day.ride.id}/numbers/phone_a")
    console.window.click("details.take summary")
    console.window.click("details.take button")
    file = _downloaded(downloads)
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert day.ride.id in {row["id"] for row in rows}
    assert RIDER not in file.read_text()
    console.open("/access")
    console.window.click("tbody tr:first-child a[href^='/exports/']")
    console.window.wait("location.pathname.startsWith('/exports/')")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in console.window.text


def _downloaded(folder: Path) -> Path:
    give_up_at = time.monotonic() + 20
    while True:
        whole = [each for each in folder.glob("number-history-*.csv") if each.stat().st_size]
        if whole:
            return whole[0]
        assert time.monotonic() < give_up_at, f"nothing came: {list(folder.iterdir())}"
        time.sleep(0.05)


def test_a_role_is_not_shown_what_it_may_not_do_and_is_refused_when_it_tries(console: Console, day: Day) -> None:
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
    console.window.wait("document.title.startsWith('Not for this key')")
    assert RIDER not in console.window.text


def test_an_app_sees_only_what_is_its_own(console: Console, day: Day) -> None:
    console.sign_in("app", "food")
    assert not console.window.has("nav a[href='/access']")
    console.open(f"/bindings/{day.ride.id}")
    assert "Not here" in console.window.text
    console.open("/access")
    assert "Not for this key" in console.window.text
    console.find(q=str(day.ride.middle_number_a), time=clock(day.ride.requested_at + timedelta(minutes=5)))
    assert "No binding then" in console.window.text


def test_a_bad_key_is_refused_and_signing_out_leaves_nothing_behind(console: Console, day: Day) -> None:
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
    console.window.click(".who details.menu:last-of-type summary")
    console.window.click("form[action='/sign-out'] button")
    console.window.wait("location.pathname === '/sign-in'")
    console.window.back()
    console.window.wait("location.pathname === '/sign-in'")


def test_a_slash_leads_to_the_box_from_every_page(console: Console, day: Day) -> None:
    console.sign_in("auditor")
    console.open(f"/bindings/{day.ride.id}")
    console.window.press("/")
    console.window.wait("location.pathname === '/' && document.activeElement.id === 'q'")
    console.window.fill("#q", "order-1003")
    console.window.click(".box button.main")
    console.window.wait("location.pathname.startsWith('/bindings/')")
    console.find(q="nothing of this name")
    console.window.run("document.activeElement.blur()")
    console.window.press("/")
    console.window.wait("document.activeElement.id === 'q'")
    assert console.window.run("return document.getElementById('q').value") == ""


def test_everything_works_with_scripts_off(console: Console, day: Day) -> None:
    console.window.scripts(on=False)
    console.sign_in("investigator")
    at = clock(day.ride.requested_at + timedelta(minutes=10))
    console.find(q=str(day.ride.middle_number_a), time=at, party=RIDER)
    console.window.click("article.card a.open")
    console.window.fill("#reason", "complaint 119")
    console.window.click("form[action$='/reveal'] button")
    console.window.wait("document.body.innerText.includes('Shown in full this once')")
    assert DRIVER in console.window.text


def test_no_page_reaches_for_anything_elsewhere(console: Console, day: Day) -> None:
    console.sign_in("admin")
    for path in ("/", f"/bindings/{day.ride.id}", "/access", "/exports"):
        console.open(path)
        asked = console.window.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert asked
        assert all(each.startswith(console.running.url) for each in asked)


def test_the_local_caller_needs_no_key_until_there_is_one(empty: Console) -> None:
    empty.open("/")
    assert "There is no binding yet" in empty.window.text
    assert isinstance(empty.running, Running)
    empty.running.key("admin")
    empty.open("/")
    assert "Sign in" in empty.window.text
