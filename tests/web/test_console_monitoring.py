"""The pages for operators: overview, failures, bindings in doubt and their actions, pools, reports."""

from __future__ import annotations

import hashlib
import html
import json
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from bindings import errors
from bindings.domain.binding import Caller, EventKind, State
from bindings.jobs.registry import EXPIRE, POOLS, RECONCILE
from bindings.jobs.runner import JobRunner
from bindings.monitoring import activity_checks
from bindings.store import reports
from bindings.store.schema import pools
from bindings.web.console.cells import NO_VALUE
from bindings.web.console.check_areas import AREAS, OTHER
from tests.service.check_conditions import ignore_durability
from tests.service.harness import POOL, A, B, C, D, E, F, feed_has_caught_up, hold_answers, wait_for
from tests.web.browser import Browser
from tests.web.conftest import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from bindings.store.database import Transaction
    from tests.service.harness import ServiceHarness
    from tests.web.conftest import Running

PAGES = ("/overview", "/failures", "/failures/failed/-41", "/doubts", "/pools", "/reports")
ADVICE = re.compile("bindings (serve|scheduler)|[Nn]o action is required|Choose a longer time range")
ACTIONS = ("/doubts/resolve", "/doubts/{id}/absent")


@pytest.fixture
def console(harness: ServiceHarness) -> Iterator[Running]:
    """A running service on the clock of the test harness."""
    yield from run(harness.service)


def bind_in_doubt(harness: ServiceHarness, fault: str = "lost_reply", *, age_s: float = 400) -> Binding:
    harness.simulator.script(fault, times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.bind(A, B, reference="order-42")
    harness.clock.advance(age_s)
    return unknown.value.binding


def count_events(harness: ServiceHarness) -> None:
    feed_has_caught_up(harness.service)
    harness.service.update_statistics()


def test_empty_page_says_what_to_do_and_loads_nothing_from_other_hosts(console: Running) -> None:
    browser = Browser(console).sign_in("auditor")
    for path in PAGES:
        response = browser.get(path)
        assert response.status_code == 200, path
        assert ADVICE.search(response.text), path
        assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", response.text), path
        assert "<script>" not in response.text
        assert " style=" not in response.text


def test_app_key_sees_no_page_and_only_an_admin_key_may_act(harness: ServiceHarness, console: Running) -> None:
    binding = bind_in_doubt(harness)
    app, auditor = Browser(console).sign_in("app"), Browser(console).sign_in("auditor")
    for path in PAGES:
        assert app.get(path).status_code == 403, path
    assert "Mark absent" not in auditor.get("/doubts").text
    assert auditor.get(f"/doubts/{binding.id}/absent").status_code == 403
    for role in ("app", "auditor", "investigator"):
        browser = Browser(console).sign_in(role, f"no-{role}")
        for action in ACTIONS:
            response = browser.post(action.format(id=binding.id), {"reason": "x", "action": "run"})
            assert response.status_code == 403, (role, action)
    assert harness.service.get(binding.id).state is State.IN_DOUBT
    assert harness.service.reports().data == ()


def test_action_with_a_wrong_csrf_token_is_refused(harness: ServiceHarness, console: Running) -> None:
    binding = bind_in_doubt(harness)
    admin = Browser(console).sign_in("admin")
    for action in ACTIONS:
        response = admin.post(action.format(id=binding.id), {"reason": "x", "action": "run", "csrf": "0" * 64})
        assert response.status_code == 403
    assert harness.service.get(binding.id).state is State.IN_DOUBT


def test_doubts_page_shows_the_next_steps_and_no_full_phone(harness: ServiceHarness, console: Running) -> None:
    bind_in_doubt(harness)
    dry_run = replace(RECONCILE, run=lambda maintenance: maintenance.reconcile(dry_run=True))
    JobRunner(harness.service.runtime).run_once_per_period(dry_run, 300)  # so that a next scan is known
    page = Browser(console).sign_in("auditor").get("/doubts").text
    assert "order-42" in page
    assert "a scan adopts it" in page
    assert "it lapses" in page
    assert A not in page
    assert B not in page


def test_mark_absent_requires_a_reason_and_shows_the_change_before_it_is_made(
    harness: ServiceHarness, console: Running
) -> None:
    binding = bind_in_doubt(harness, "reset_before")
    admin = Browser(console).sign_in("admin", "ann")
    path = f"/doubts/{binding.id}/absent"
    assert "cannot be undone" in admin.get(path).text
    assert admin.post(path, {"reason": "", "action": "dry_run"}).status_code == 422
    preview = admin.post(path, {"reason": "ticket 4711", "action": "dry_run"})
    assert "nothing has changed yet" in preview.text
    assert "by key:ann, “ticket 4711”" in preview.text
    assert harness.service.get(binding.id).state is State.IN_DOUBT
    result = admin.submit(path, {"reason": "ticket 4711", "action": "run"})
    assert result.status_code == 200
    last = harness.service.history(binding.id)[-1]
    assert (last.kind, last.actor, last.detail["because"]) == (EventKind.FAILED, "key:ann", "ticket 4711")
    assert harness.bind(A, C).state is State.ACTIVE


def test_mark_absent_is_refused_while_the_provider_may_accept_the_request(
    harness: ServiceHarness, console: Running
) -> None:
    binding = bind_in_doubt(harness, age_s=60)
    admin = Browser(console).sign_in("admin")
    admin.post("/zone", {"zone": "Asia/Kolkata"})
    path, possible_from = f"/doubts/{binding.id}/absent", "2026-03-01 17:35:05 +05:30"
    assert path not in admin.get("/doubts").text, "the link is not offered before it can work"
    assert possible_from in admin.get("/doubts").text
    for page in (admin.get(path), admin.post(path, {"reason": "ticket 4711", "action": "run"})):
        assert page.status_code == (200 if page.request.method == "GET" else 422)
        assert "Not yet possible: the provider may still accept the request until" in page.text
        assert possible_from in page.text
        assert 'name="reason"' not in page.text
        assert "<strong>id</strong>" not in page.text
    harness.clock.advance(250)
    assert path in admin.get("/doubts").text
    assert admin.post(path, {"reason": "x" * 256, "action": "run"}).status_code == 422
    assert f'value="{"x" * 256}"' in admin.post(path, {"reason": "x" * 256, "action": "run"}).text
    active = harness.bind(C, D)
    refused = admin.post(f"/doubts/{active.id}/absent", {"reason": "ticket 4711", "action": "run"})
    assert (refused.status_code, "This binding is active, not in doubt" in refused.text) == (422, True)


def test_dry_run_then_run_resolves_the_doubt_and_creates_two_reports(
    harness: ServiceHarness, console: Running
) -> None:
    binding = bind_in_doubt(harness)
    admin = Browser(console).sign_in("admin", "ann")
    assert admin.post("/doubts/resolve", {"reason": ""}).status_code == 422
    dry = admin.wait_for_result(admin.submit("/doubts/resolve", {"reason": "ticket 4711", "action": "dry_run"}))
    assert "no binding was changed" in dry.text
    assert harness.service.get(binding.id).state is State.IN_DOUBT
    result = admin.wait_for_result(admin.submit("/doubts/resolve", {"reason": "ticket 4711", "action": "run"}))
    assert "Reconciliation results" in result.text
    assert harness.service.get(binding.id).state is State.ACTIVE
    newest, oldest = harness.service.reports().data
    assert (newest.actor, newest.counts["reason"], newest.counts["adopted"]) == ("key:ann", "ticket 4711", 1)
    assert oldest.counts["dry_run"]
    assert "Nothing is in doubt" in admin.get("/doubts").text


def test_slow_reconciliation_blocks_no_page_and_no_second_one_starts(
    harness: ServiceHarness, console: Running
) -> None:
    binding = bind_in_doubt(harness)
    admin = Browser(console).sign_in("admin")
    answer = hold_answers(harness.simulator, "delay", on="page")
    progress = admin.submit("/doubts/resolve", {"reason": "ticket 4711", "action": "run"})
    assert "Reading the provider" in progress.text
    assert 'http-equiv="refresh"' in progress.text
    assert admin.get("/doubts").status_code == 200
    assert admin.post("/doubts/resolve", {"reason": "second run", "action": "run"}).status_code == 503
    answer.set()
    wait_for(lambda: harness.service.get(binding.id).state is State.ACTIVE)


def test_failures_are_grouped_by_code_with_explanation_and_examples(
    harness: ServiceHarness, console: Running
) -> None:
    harness.bind(A, B)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C, reference="order-43")
    for code in ("-41", "-35", "-99"):
        harness.simulator.script(f"refuse:{code}", times=1, on="bind")
        with pytest.raises(errors.BindingsError):
            harness.bind(C, D, reference=f"order{code}")
        harness.clock.advance(70)
    count_events(harness)
    browser = Browser(console).sign_in("auditor")
    page = browser.get("/failures?span=1h").text
    assert "<strong>1</strong> was refused here" in page
    assert "<strong>1</strong> unexpected -35" in page
    for state, code in (("failed", "-41"), ("in_doubt", "-99")):
        binding = next(each for each in harness.service.search(state=state).data if each.provider_status == code)
        assert f'href="/failures/{state}/{code}"' in browser.get(f"/bindings/{binding.id}").text
    for link in ("failed/-41", "failed/-35", "in_doubt/-99", "refused/binding"):
        assert f"/failures/{link}?span=1h" in page, link
        assert "Open" in browser.get(f"/failures/{link}?span=1h").text, link
    assert "order-43" in browser.get("/failures/refused/binding").text
    assert "enlarged" in browser.get("/failures/failed/-41").text
    assert "unknown status" in browser.get("/failures/in_doubt/-99").text
    assert A not in page
    assert browser.get("/failures?span=9y").status_code == 422
    assert browser.get("/failures/activated/-41").status_code == 404


def test_failures_are_shared_among_applications_and_pools_and_lead_to_their_bindings(
    harness: ServiceHarness, console: Running
) -> None:
    harness.bind(A, B, app_id="food", pool_number="918807")
    harness.simulator.script("refuse:-41", times=1, on="bind")
    with pytest.raises(errors.NoMiddleNumber):
        harness.bind(C, D, app_id="food", pool_number="918806", reference="meal-1")
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, D, app_id="rides", pool_number="918807")
    harness.clock.advance(1)
    count_events(harness)
    browser = Browser(console).sign_in("auditor")
    page = browser.get("/failures").text
    assert "<strong>33.3 %</strong> of the binds failed: <strong>1</strong> of 3" in page
    rows = dict(re.findall(r'<a href="(/failures[^"]*(?:app_id|pool_number)=[^"]*)">([^<]+)</a></th>', page))
    assert sorted(rows.values()) == ["918806", "918807", "food", "rides"]
    address = next(html.unescape(address) for address, name in rows.items() if name == "food")
    narrowed = browser.get(address).text
    assert "<strong>50.0 %</strong> of the binds failed: <strong>1</strong> of 2" in narrowed
    assert ">rides<" not in narrowed
    lists = {html.unescape(link) for link in re.findall(r'href="(/bindings\?[^"]+)"', narrowed)}
    assert len(lists) == 3, "of the code, of the application, and of the pool"
    for link in lists:
        assert "meal-1" in browser.get(link).text, link
    code = browser.get("/failures/failed/-41?app_id=food").text
    assert "<strong>1</strong> of 2 binds: <strong>50.0 %</strong>" in code


def test_period_of_the_failures_is_chosen_by_a_form_that_puts_nothing_else_into_the_address(
    harness: ServiceHarness, console: Running
) -> None:
    harness.clock.at = datetime.now(UTC)
    harness.simulator.script("refuse:-41", times=1, on="bind")
    with pytest.raises(errors.NoMiddleNumber):
        harness.bind(A, B, app_id="food")
    count_events(harness)
    browser = Browser(console).sign_in("auditor")
    today = f"{harness.clock():%Y-%m-%d}"
    shown = browser.submit("/failures", {"from": today, "app_id": "food"})
    assert shown.url.endswith(f"/failures?from={today}T00%3A00%3A00Z&app_id=food")
    assert "<strong>1</strong> of 1" in shown.text
    browser.submit("/zone", {"zone": "Asia/Kolkata"})
    assert "<strong>1</strong> of 1" in browser.get(shown.url.removeprefix(console.url)).text
    for form in ({"from": A}, {"from": ""}, {"from": today, "to": "2020-01-01"}, {"from": today, "to": B}):
        refused = browser.post("/failures", form)
        assert (refused.status_code, "Another period" in refused.text) == (422, True), form
        assert "of the binds failed" not in refused.text
    for query in ("span=9y", "from=never", "unknown=1", "app_id=" + 65 * "x"):
        assert browser.get(f"/failures?{query}").status_code == 422, query


def test_chart_leaves_out_what_is_not_counted_yet(harness: ServiceHarness, console: Running) -> None:
    harness.bind(A, B)
    browser = Browser(console).sign_in("auditor")
    assert "<svg" not in browser.get("/failures").text, "nothing is counted"
    harness.clock.advance(1)
    count_events(harness)
    harness.clock.advance(5 * 60)
    page = browser.get("/overview").text
    assert page.count('class="gap"') == 5 * 5, "five minutes of five charts"
    assert page.count(": not counted yet</title>") == page.count('class="gap"')
    assert f'<td class="num">{NO_VALUE}</td>' in page


def test_overview_shows_whether_there_are_problems(
    running: Running, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(activity_checks.ACTIVITY_CHECKS, "rights")  # tests on PostgreSQL use the owner: a warning
    ignore_durability(monkeypatch)
    service, browser = running.service, Browser(running).sign_in("auditor")

    def overview_page() -> str:
        running.app_state.readiness = (float("-inf"), ())
        return browser.get("/overview").text

    assert "<li><strong>Sweep:</strong>" in overview_page(), "the expire job has not run yet"
    JobRunner(service.runtime).run(EXPIRE)
    page = overview_page()
    assert "No problems found" in page
    green = page.count('<td><span class="state active">green</span>')
    assert f"None of the {green} checks below reports a problem or a warning." in page, "all are green"
    assert service.runtime.replica in page
    simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown):
        service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB")
    page = overview_page()
    assert "Warnings found" in page
    assert "1 open" in page
    assert page.count('repeats unbinds.</span> <a href="/doubts">Doubts</a>') == 2
    areas = dict(re.findall(r'<li class="(?:ok|warn|red)">\s+<h2>([^<]+) <span class="state (\w+)"', page))
    assert areas == {title: "pending" if title == "Doubts" else "active" for title in (*AREAS, OTHER)}
    assert "Recorded in the database: default." in page, "a value keeps its case"


def test_active_bindings_are_counted_as_none_when_the_last_one_has_ended(
    harness: ServiceHarness, console: Running
) -> None:
    browser = Browser(console).sign_in("auditor")
    tile = r"Active, last count</dt><dd>(.*?)</dd><dd class=\"help\">(\w+)"

    def shown() -> tuple[str, str]:
        text = re.search(tile, browser.get("/overview").text)
        assert text is not None
        return re.sub("<[^>]+>", "", text[1]), text[2]

    assert shown() == (NO_VALUE, "not")
    runner = JobRunner(harness.service.runtime)
    binding = harness.bind(A, B)
    runner.run_once_per_period(POOLS, 60)
    assert shown() == ("1", "counted")
    harness.service.unbind(binding.id)
    harness.clock.advance(60)
    runner.run_once_per_period(POOLS, 60)
    assert shown() == ("0", "counted")
    assert "No pool in use" in browser.get("/pools").text


def test_pools_page_shows_the_use_and_the_forecast(harness: ServiceHarness, console: Running) -> None:
    now = harness.clock()
    values = {"app_id": "a", "pool_number": "918806", "live": 95, "counted_at": now, "capacity": 100}
    others = (
        {"pool_number": "918807", "live": 900, "capacity": 9_000},
        {"pool_number": "918808", "live": 70, "capacity": None},
        {"pool_number": "918809", "live": 1, "capacity": 2},
    )
    rows = [values, *(values | other for other in others)]
    harness.database.write(lambda tx: tx.connection.execute(insert(pools).values(rows)))
    browser = Browser(console).sign_in("auditor")
    page = browser.get("/pools").text
    order = [page.index(f'<th scope="row">{pool}') for pool in ("918806", "918809", "918807", "918808")]
    assert order == sorted(order), "the fullest is first, those of unknown capacity are last"
    assert "1 pool may run out of numbers" in page
    assert "95 of about 100 in use (95%)" in page


def test_pools_page_forecasts_nothing_for_a_pool_of_unknown_capacity(
    harness: ServiceHarness, console: Running
) -> None:
    values = {"app_id": "a", "pool_number": "918806", "live": 95, "counted_at": harness.clock()}
    harness.database.write(lambda tx: tx.connection.execute(insert(pools).values(values)))
    page = Browser(console).sign_in("auditor").get("/pools").text
    assert "no capacity is known, so there is no forecast" in page
    assert "is forecast to run out" not in page
    assert "full in about" not in page


def test_each_download_of_a_report_is_the_same_file(harness: ServiceHarness, console: Running) -> None:
    binding = bind_in_doubt(harness)
    harness.service.reconcile(reason="ticket 4711")
    report = harness.service.reports().data[0]
    browser = Browser(console).sign_in("auditor")
    assert f"/reports/{report.id}" in browser.get("/reports").text
    page = browser.get(f"/reports/{report.id}").text
    assert binding.id in page
    assert "ticket 4711" in page
    files = [browser.get(f"/reports/{report.id}/download") for _ in range(2)]
    assert files[0].content == files[1].content
    assert hashlib.sha256(files[0].content).hexdigest() in page
    assert json.loads(files[0].content)["cases"][0]["binding_id"] == binding.id
    assert files[0].headers["Content-Disposition"].startswith('attachment; filename="report-20260301T')
    assert browser.get("/reports/01890000-0000-7000-8000-000000000000").status_code == 404


CASES: tuple[dict[str, object], ...] = (
    {"case": "adopted", "action": "adopt", "app_id": "a", "binding_id": "b-1", "bind_id": "7"},
    {"case": "absent", "action": "", "app_id": "a", "binding_id": "b-2"},
    {
        "case": "ghosts",
        "action": "observe",
        "app_id": "a",
        "binding_id": "b-3",
        "expires_at": "2026-03-01T00:00:00Z",
    },
    {"case": "orphans", "action": "release", "app_id": "a", "bind_id": "8", "held_until": "9999-12-31T23:59:59Z"},
    {"case": "orphans", "origin_id": "b-4", "bind_id": "9"},
    {
        "case": "revenants",
        "action": "hold",
        "binding_id": "b-6",
        "bind_id": "10",
        "ends_at": "2026-03-01T00:00:00Z",
    },
    {"case": "drifted", "binding_id": "b-5", "difference_s": -3.5, "middle_number": None},
    {"case": "of_a_later_version", "action": "unknown", "reasons": ["a", 1], "more": {"a": 1}},
    {"case": "orphans"},
)


def test_page_of_a_report_shows_each_case_whatever_it_has(harness: ServiceHarness, console: Running) -> None:
    began_at, caller = harness.clock(), Caller(actor="scheduler")

    contents: list[tuple[dict[str, Any], tuple[dict[str, object], ...]]] = [
        *(({"scans": 1}, (case,)) for case in CASES),
        ({}, ()),
        ({"incomplete": 2, "scans": 3, "faults": ["HTTP 502"]}, CASES),
        ({"zone_misfit_s": 3_600.0, "later": [1, 2]}, CASES),
    ]

    def store(tx: Transaction) -> list[str]:
        return [
            reports.store(tx, caller, began_at=began_at, counts=counts, cases=list(cases))
            for counts, cases in contents
        ]

    for report_id in harness.database.write(store):
        for role in ("auditor", "admin"):
            browser = Browser(console).sign_in(role)
            assert browser.get(f"/reports/{report_id}").status_code == 200
            assert browser.get(f"/reports/{report_id}/download").status_code == 200
    page = Browser(console).sign_in("auditor").get("/reports")
    assert page.status_code == 200
    assert page.text.count("/reports/0") >= len(CASES)


def test_page_of_a_report_of_a_real_ghost_and_orphan(harness: ServiceHarness, console: Running) -> None:
    binding = harness.bind(A, B)
    harness.bind(E, F)  # proves that the list is read whole
    harness.simulator.remove_binding(int(binding.bind_id or 0))
    foreign = harness.simulator.add_foreign_binding(app_id=binding.app_id, phone_a=C, phone_b=D)
    harness.clock.advance(400)
    harness.service.reconcile()
    browser = Browser(console).sign_in("auditor")
    report = harness.service.reports().data[0]
    assert {case["case"] for case in report.cases} == {"ghosts", "orphans"}
    page = browser.get(f"/reports/{report.id}")
    assert (page.status_code, binding.id in page.text, str(foreign.bind_id) in page.text) == (200, True, True)


def test_revenant_is_shown_in_its_report_in_the_list_of_reports_and_on_the_overview(
    harness: ServiceHarness, console: Running
) -> None:
    binding = harness.bind(A, B)
    harness.bind(E, F)
    harness.service.unbind(binding.id)
    harness.simulator.restore_binding(str(binding.bind_id))
    harness.clock.advance(61)
    harness.service.reconcile()
    browser = Browser(console).sign_in("auditor")
    (report,) = harness.service.reports().data
    page = browser.get(f"/reports/{report.id}")
    assert (page.status_code, binding.id in page.text, "ended here, active at the provider" in page.text) == (
        200,
        True,
        True,
    )
    assert '"case": "revenants"' in browser.get(f"/reports/{report.id}/download").text
    assert '<th scope="col" class="num">Ended here, active at the provider</th>' in browser.get("/reports").text
    admin = Browser(console).sign_in("admin")
    assert "1 that ended here" in admin.get("/overview").text
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    failures = admin.get("/failures/refused/revenant")
    assert (failures.status_code, "ended here and lives at the provider" in failures.text) == (200, True)


def test_long_list_continues_on_further_pages_without_loss(
    harness: ServiceHarness, console: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bindings.web.console.doubts.PER_PAGE", 1)
    monkeypatch.setattr("bindings.web.console.reports.PER_PAGE", 1)
    for pair in ((A, B), (C, D), (E, F)):
        harness.simulator.script("reset_before", times=1, on="bind")
        with pytest.raises(errors.OutcomeUnknown):
            harness.bind(*pair)
        harness.clock.advance(10)
        harness.service.reconcile(dry_run=True)
    browser = Browser(console).sign_in("auditor")
    for path, id_pattern in (
        ("/doubts", r" href=\"/bindings/([0-9a-f-]{36})\""),
        ("/reports", r" href=\"/reports/([0-9a-f-]{36})\""),
    ):
        ids, next_path = [], path
        while next_path:
            page = browser.get(next_path).text
            ids += re.findall(id_pattern, page)
            match = re.search(r'href="([^"]+)" rel="next"', page)
            next_path = match[1] if match else ""
        assert len(ids) == len(set(ids)) == 3, path


def test_pages_respond_while_a_bind_waits_for_the_provider(harness: ServiceHarness, console: Running) -> None:
    browser = Browser(console).sign_in("auditor")
    answer = hold_answers(harness.simulator)
    slow = threading.Thread(target=lambda: console.bind(console.key("app", "slow")), daemon=True)
    slow.start()
    wait_for(lambda: harness.received("bind") == 1)
    assert [browser.get(path).status_code for path in PAGES] == [200] * len(PAGES)
    assert slow.is_alive(), "all pages responded before the bind ended"
    answer.set()
    slow.join(300)
