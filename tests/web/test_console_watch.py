"""The pages for whoever keeps the service well: overview, failures, doubts and their acts, pools, reports."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert

from bindings import errors
from bindings.domain.binding import EventKind, State
from bindings.jobs.registry import EXPIRE, RECONCILE
from bindings.jobs.runner import JobRunner
from bindings.store.schema import pools
from tests.service.harness import POOL, A, B, C, D, E, F, feed_has_caught_up, wait_for
from tests.web.browser import Browser
from tests.web.conftest import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from tests.service.harness import World
    from tests.web.conftest import Running

PAGES = ("/overview", "/failures", "/failures/failed/-41", "/doubts", "/pools", "/reports")
WHAT_TO_DO = re.compile("bindings (serve|scheduler)|Nothing needs to be done|Look further back")
ACTS = ("/doubts/resolve", "/doubts/{id}/absent")


@pytest.fixture
def watched(world: World) -> Iterator[Running]:
    """A running service on the world's clock."""
    yield from run(world.service)


def doubt(world: World, fault: str = "lost_reply", *, age_s: float = 400) -> Binding:
    world.simulator.script(fault, times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        world.bind(A, B, reference="order-42")
    world.clock.advance(age_s)
    return unknown.value.binding


def counted(world: World) -> None:
    feed_has_caught_up(world.service)
    world.service.update_statistics()


def test_every_page_of_an_empty_service_says_what_to_do_and_names_no_other_host(watched: Running) -> None:
    browser = Browser(watched).sign_in("auditor")
    for path in PAGES:
        answer = browser.get(path)
        assert answer.status_code == 200, path
        assert re.search(r"bindings (serve|scheduler)|Nothing needs to be done|Look further back", answer.text), (
            path
        )
        assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", answer.text), path
        assert "<script>" not in answer.text
        assert " style=" not in answer.text


def test_whoever_only_binds_sees_none_of_these_pages_and_an_auditor_none_of_the_acts(
    world: World, watched: Running
) -> None:
    found = doubt(world)
    app, auditor = Browser(watched).sign_in("app"), Browser(watched).sign_in("auditor")
    for path in PAGES:
        assert app.get(path).status_code == 403, path
    assert "Mark absent" not in auditor.get("/doubts").text
    assert auditor.get(f"/doubts/{found.id}/absent").status_code == 403
    for role in ("app", "auditor", "investigator"):
        browser = Browser(watched).sign_in(role, f"no-{role}")
        for act in ACTS:
            answer = browser.post(act.format(id=found.id), {"reason": "x", "how": "now"})
            assert answer.status_code == 403, (role, act)
    assert world.service.get(found.id).state is State.IN_DOUBT
    assert world.service.reports().data == ()


def test_an_act_without_the_pages_token_is_refused(world: World, watched: Running) -> None:
    found = doubt(world)
    admin = Browser(watched).sign_in("admin")
    for act in ACTS:
        answer = admin.post(act.format(id=found.id), {"reason": "x", "how": "now", "csrf": "0" * 64})
        assert answer.status_code == 403
    assert world.service.get(found.id).state is State.IN_DOUBT


def test_a_doubt_says_what_will_happen_and_shows_no_phone(world: World, watched: Running) -> None:
    doubt(world)
    JobRunner(world.service.runtime).run_once_per_period(RECONCILE, 300)
    page = Browser(watched).sign_in("auditor").get("/doubts").text
    assert "order-42" in page
    assert "a scan adopts it" in page
    assert "it lapses" in page
    assert A not in page
    assert B not in page


def test_marking_absent_asks_why_shows_exactly_what_changes_and_then_changes_it(
    world: World, watched: Running
) -> None:
    found = doubt(world, "reset_before")
    admin = Browser(watched).sign_in("admin", "ann")
    path = f"/doubts/{found.id}/absent"
    assert "cannot be taken back" in admin.get(path).text
    assert admin.post(path, {"reason": "", "how": "dry"}).status_code == 422
    preview = admin.post(path, {"reason": "ticket 4711", "how": "dry"})
    assert "nothing has changed yet" in preview.text
    assert "by key:ann, “ticket 4711”" in preview.text
    assert world.service.get(found.id).state is State.IN_DOUBT
    done = admin.submit(path, {"reason": "ticket 4711", "how": "now"})
    assert done.status_code == 200
    last = world.service.history(found.id)[-1]
    assert (last.kind, last.actor, last.detail["because"]) == (EventKind.FAILED, "key:ann", "ticket 4711")
    assert world.bind(A, C).state is State.ACTIVE


def test_a_young_doubt_cannot_be_marked_absent_and_the_page_says_until_when(
    world: World, watched: Running
) -> None:
    found = doubt(world, age_s=60)
    admin = Browser(watched).sign_in("admin")
    answer = admin.post(f"/doubts/{found.id}/absent", {"reason": "ticket 4711", "how": "now"})
    assert answer.status_code == 422
    assert "is too young" in answer.text
    assert 'value="ticket 4711"' in answer.text, "what was typed is not lost"


def test_resolving_runs_dry_first_then_in_earnest_and_leaves_two_reports(world: World, watched: Running) -> None:
    found = doubt(world)
    admin = Browser(watched).sign_in("admin", "ann")
    assert admin.post("/doubts/resolve", {"reason": ""}).status_code == 422
    dry = admin.submit("/doubts/resolve", {"reason": "ticket 4711", "how": "dry"})
    assert "nothing was changed" in dry.text
    assert world.service.get(found.id).state is State.IN_DOUBT
    done = admin.submit("/doubts/resolve", {"reason": "ticket 4711", "how": "now"})
    assert "What it did" in done.text
    assert world.service.get(found.id).state is State.ACTIVE
    newest, oldest = world.service.reports().data
    assert (newest.actor, newest.counts["reason"], newest.counts["adopted"]) == ("key:ann", "ticket 4711", 1)
    assert oldest.counts["dry_run"]
    assert "Nothing is in doubt" in admin.get("/doubts").text


def test_a_slow_provider_keeps_nobody_waiting_and_only_one_run_is_under_way(
    world: World, watched: Running
) -> None:
    found = doubt(world)
    admin = Browser(watched).sign_in("admin")
    world.simulator.script("delay:3", times=1, on="page")
    under_way = admin.submit("/doubts/resolve", {"reason": "ticket 4711", "how": "now"})
    assert "Reading the provider" in under_way.text
    assert 'http-equiv="refresh"' in under_way.text
    assert admin.get("/doubts").elapsed.total_seconds() < 1
    assert admin.post("/doubts/resolve", {"reason": "me too", "how": "now"}).status_code == 503
    wait_for(lambda: world.service.get(found.id).state is State.ACTIVE)


def test_failures_are_grouped_explained_and_lead_to_examples(world: World, watched: Running) -> None:
    world.bind(A, B)
    with pytest.raises(errors.PhoneInUse):
        world.bind(A, C, reference="order-43")
    for code in ("-41", "-35", "-99"):
        world.simulator.script(f"refuse:{code}", times=1, on="bind")
        with pytest.raises(errors.BindingsError):
            world.bind(C, D, reference=f"order{code}")
        world.clock.advance(70)
    counted(world)
    browser = Browser(watched).sign_in("auditor")
    page = browser.get("/failures?span=1h").text
    assert "<strong>1</strong> conflict stopped here" in page
    assert "<strong>1</strong> came back as -35" in page
    for link in ("failed/-41", "failed/-35", "in_doubt/-99", "refused/binding"):
        assert f"/failures/{link}?span=1h" in page, link
        assert "Open" in browser.get(f"/failures/{link}?span=1h").text, link
    assert "order-43" in browser.get("/failures/refused/binding").text
    assert "enlarged" in browser.get("/failures/failed/-41").text
    assert "unknown status" in browser.get("/failures/in_doubt/-99").text
    assert A not in page
    assert browser.get("/failures?span=9y").status_code == 422
    assert browser.get("/failures/activated/-41").status_code == 404


def test_the_overview_says_in_plain_words_whether_all_is_well(running: Running, simulator: Simulator) -> None:
    service, browser = running.service, Browser(running).sign_in("auditor")

    def told() -> str:
        running.app_state.readiness = (float("-inf"), ())
        return browser.get("/overview").text

    assert "<li><strong>Sweep:</strong>" in told(), "nobody sweeps yet"
    JobRunner(service.runtime).run(EXPIRE)
    page = told()
    assert "All is well" in page
    assert service.runtime.replica in page
    simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB")
    page = told()
    assert "It works, but look at this" in page
    assert "1 open" in page


def test_pools_are_told_with_their_forecast(world: World, watched: Running) -> None:
    now = world.clock()
    values = {"app_id": "a", "pool_number": "918806", "live": 95, "counted_at": now, "capacity": 100}
    world.database.write(lambda tx: tx.connection.execute(insert(pools).values(values)))
    browser = Browser(watched).sign_in("auditor")
    page = browser.get("/pools").text
    assert "1 pool will not last" in page
    assert "95 of about 100 in use (95%)" in page


def test_a_report_is_the_same_file_whenever_it_is_taken(world: World, watched: Running) -> None:
    found = doubt(world)
    world.service.reconcile(reason="ticket 4711")
    report = world.service.reports().data[0]
    browser = Browser(watched).sign_in("auditor")
    assert f"/reports/{report.id}" in browser.get("/reports").text
    page = browser.get(f"/reports/{report.id}").text
    assert found.id in page
    assert "ticket 4711" in page
    files = [browser.get(f"/reports/{report.id}/download") for _ in range(2)]
    assert files[0].content == files[1].content
    assert hashlib.sha256(files[0].content).hexdigest() in page
    assert json.loads(files[0].content)["cases"][0]["binding_id"] == found.id
    assert files[0].headers["Content-Disposition"].startswith('attachment; filename="report-20260301T')
    assert browser.get("/reports/01890000-0000-7000-8000-000000000000").status_code == 404


def test_long_lists_go_on_on_another_page(world: World, watched: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bindings.web.console.doubts.SHOWN", 1)
    monkeypatch.setattr("bindings.web.console.reports.SHOWN", 1)
    for pair in ((A, B), (C, D), (E, F)):
        world.simulator.script("reset_before", times=1, on="bind")
        with pytest.raises(errors.OutcomeUnknown):
            world.bind(*pair)
        world.clock.advance(10)
        world.service.reconcile(dry_run=True)
    browser = Browser(watched).sign_in("auditor")
    for path, what in (("/doubts", r"/bindings/([0-9a-f-]{36})\""), ("/reports", r"/reports/([0-9a-f-]{36})\"")):
        seen, nexts = [], path
        while nexts:
            page = browser.get(nexts).text
            seen += re.findall(what, page)
            found = re.search(r'href="([^"]+)" rel="next"', page)
            nexts = found[1] if found else ""
        assert len(seen) == len(set(seen)) == 3, path


def test_nothing_hangs_on_the_pages_while_every_bind_does(world: World, watched: Running) -> None:
    browser = Browser(watched).sign_in("auditor")
    world.simulator.script("delay:4", times=1, on="bind")
    slow = threading.Thread(target=lambda: watched.bind(watched.key("app", "slow")), daemon=True)
    slow.start()
    wait_for(lambda: world.received("bind") == 1)
    assert [browser.get(path).status_code for path in PAGES] == [200] * len(PAGES)
    assert slow.is_alive(), "they were all there before the bind was"
    slow.join(30)
