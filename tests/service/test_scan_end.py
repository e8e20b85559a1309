"""The end of a scan: wrong page sizes and totals, repeated pages, the reverse order, and the time limit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bindings import errors
from bindings.clock import SYSTEM_CLOCK, HostClock
from bindings.domain.binding import Caller, State
from bindings.domain.phone import Phone
from bindings.http_transport import Unknown
from bindings.jobs import provider_scan, reconcile
from bindings.jobs.run_control import RunControl
from bindings.provider.outcome import ProviderBinding, ProviderPage
from bindings.provider.simulator import rules
from bindings.store import account, reports
from tests.service.harness import APP, NOON, A, B, C, D, E, F, G, H, ServiceHarness

if TYPE_CHECKING:
    from bindings.provider.wire import PageRequest
    from bindings.store.database import Transaction


def put_in_doubt(harness: ServiceHarness) -> str:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(A, B)
    harness.clock.advance(61)
    return excinfo.value.binding.id


def pages_asked(harness: ServiceHarness) -> list[tuple[int, int]]:
    """Return (page, size) of every page query, in order."""
    bodies = [json.loads(request.body) for request in harness.simulator.requests if request.call == "page"]
    return [(body["current"], body["size"]) for body in bodies]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_list_with_smaller_pages_than_asked_for_is_read_to_its_end(harness: ServiceHarness, rows: int) -> None:
    harness.simulator.change(max_page_rows=rows)
    harness.add_foreign_bindings(25)
    doubt = put_in_doubt(harness)
    counts = harness.service.reconcile()
    assert (counts.adopted, counts.orphans, counts.incomplete, counts.unproved) == (1, 25, 0, 0)
    assert harness.service.get(doubt).state is State.ACTIVE
    assert counts.notes == (f"a page of the list has {rows} rows at most; 10 were asked for",)
    assert harness.service.reports().data[0].counts["notes"] == list(counts.notes)


@pytest.mark.usefixtures("small_pages")
def test_two_scans_of_smaller_pages_prove_a_ghost_with_other_page_borders(harness: ServiceHarness) -> None:
    harness.simulator.change(max_page_rows=5)
    ghost, _, _ = harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)
    harness.add_foreign_bindings(20)
    harness.simulator.remove_binding(str(ghost.bind_id))
    harness.clock.advance(61)
    assert harness.service.reconcile().ghosts == 1
    assert {size for _, size in pages_asked(harness)} == {10, 3}


@pytest.mark.usefixtures("small_pages")
def test_full_pages_are_no_note(harness: ServiceHarness) -> None:
    harness.add_foreign_bindings(25)
    assert harness.service.reconcile().notes == ()


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("offset", [1, 1_000_000, 999_999_000_000])
def test_total_that_is_too_large_leaves_absence_unproved_and_nothing_else(
    harness: ServiceHarness, offset: int
) -> None:
    ghost, _, _ = harness.bind(C, D), harness.bind(E, F), harness.bind(G, H)
    harness.add_foreign_bindings(20)
    doubt = put_in_doubt(harness)
    harness.simulator.remove_binding(str(ghost.bind_id))
    harness.simulator.change(total_offset=offset)
    counts = harness.service.reconcile()
    assert (counts.adopted, counts.orphans, counts.ghosts) == (1, 20, 0)
    assert (counts.incomplete, counts.unproved) == (0, 1)
    assert counts.faults == (f"the list ended after 23 rows and says that it has {23 + offset}",)
    assert harness.service.get(doubt).state is State.ACTIVE
    assert len(pages_asked(harness)) == 4
    harness.simulator.change(total_offset=0)
    harness.clock.advance(61)
    assert harness.service.reconcile().ghosts == 1


@pytest.mark.usefixtures("small_pages")
def test_one_page_with_a_wrong_total_ends_like_every_other(harness: ServiceHarness) -> None:
    harness.add_foreign_bindings(25)
    harness.simulator.script("wrong_total", times=1, on="page")
    counts = harness.service.reconcile()
    assert (counts.orphans, counts.incomplete, counts.unproved) == (25, 0, 1)
    assert len(pages_asked(harness)) == 4


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("offset", [-1, -24, -1_000])
def test_total_that_is_too_small_loses_no_row(harness: ServiceHarness, offset: int) -> None:
    harness.simulator.change(total_offset=offset)
    harness.add_foreign_bindings(24)
    doubt = put_in_doubt(harness)
    counts = harness.service.reconcile()
    assert (counts.adopted, counts.orphans, counts.incomplete) == (1, 24, 0)
    assert harness.service.get(doubt).state is State.ACTIVE


@pytest.mark.usefixtures("small_pages")
def test_full_scan_after_a_restore_completes_although_the_total_stays_wrong(harness: ServiceHarness) -> None:
    account.register_scope(harness.database, "default")
    harness.simulator.change(total_offset=7)
    harness.add_foreign_bindings(25)
    harness.service.mark_restored()
    harness.clock.advance(1)
    counts = harness.service.reconcile()
    assert (counts.made_good, counts.scans, counts.unproved) == (True, 2, 2)
    assert harness.bind(A, B).state is State.ACTIVE


def test_full_scan_after_a_restore_waits_while_two_readings_differ(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.register_scope(harness.database, "default")
    harness.simulator.change(total_offset=7)
    harness.add_foreign_bindings(5)
    harness.service.mark_restored()
    harness.clock.advance(1)

    def add_before_second(context: object, scan: object, findings: object) -> None:
        if not harness.simulator.ledger.holders(C):
            harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP)
        apply(context, scan, findings)  # type: ignore[arg-type]

    apply = reconcile._apply
    monkeypatch.setattr(reconcile, "_apply", add_before_second)
    counts = harness.service.reconcile()
    assert (counts.made_good, counts.incomplete) == (False, 1)
    assert "other rows" in counts.faults[-1]
    assert harness.service.check(phone_a=C, phone_b=A, mode="AXB")
    with pytest.raises(errors.Busy):
        harness.bind(A, B)
    assert harness.service.reconcile().made_good


def answer_past_the_end(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Let the provider answer a page past the end of the list in another way than with an empty one."""
    original = rules.Rules._page

    def page(self: rules.Rules, request: PageRequest, now: float) -> dict[str, object]:
        last = max(1, -(-len(self._listed(request.app_id, now)) // request.size))
        if request.current > last and answer == "refusal":
            raise rules._Refused("-22")
        current = 1 if answer == "first page" else min(request.current, last)
        return original(self, type(request)(app_id=request.app_id, current=current, size=request.size), now)

    monkeypatch.setattr(rules.Rules, "_page", page)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("answer", ["last page", "refusal"])
def test_list_that_has_no_empty_page_is_read_to_its_end_in_both_directions(
    harness: ServiceHarness, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_past_the_end(monkeypatch, answer)
    ghost, _, _ = harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)
    harness.add_foreign_bindings(30)
    harness.simulator.remove_binding(str(ghost.bind_id))
    harness.clock.advance(61)
    counts = harness.service.reconcile()
    assert (counts.orphans, counts.ghosts, counts.incomplete, counts.unproved) == (30, 1, 0, 0)
    assert len(pages_asked(harness)) < 25


@pytest.mark.usefixtures("small_pages")
def test_list_that_answers_every_page_with_the_first_is_incomplete(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_past_the_end(monkeypatch, "first page")
    harness.add_foreign_bindings(30)
    counts = harness.service.reconcile()
    assert (counts.orphans, counts.incomplete) == (10, 1)
    assert counts.faults == ("3 pages in a row had no new row, after 10 of 30 rows",)
    assert len(pages_asked(harness)) == 4


@pytest.mark.usefixtures("small_pages")
def test_reverse_scan_begins_at_the_last_page_that_has_rows(harness: ServiceHarness) -> None:
    ghost, _, _ = harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)
    harness.add_foreign_bindings(25)
    harness.simulator.remove_binding(str(ghost.bind_id))
    harness.clock.advance(61)
    assert harness.service.reconcile().ghosts == 1
    assert [current for current, size in pages_asked(harness) if size == 10] == [1, 2, 3, 4]
    assert [current for current, size in pages_asked(harness) if size == 7] == [1, 4, 5, 3, 2, 1]


class PagedList:
    """A list of rows behind the client's `page` method, with pages of at most `limit` rows."""

    def __init__(self, count: int, limit: int, total: int) -> None:
        self._rows = [_row(number) for number in range(count)]
        self._limit = limit
        self._total = total

    def page(self, *, app_id: str, current: int, size: int) -> ProviderPage:  # noqa: ARG002
        size = min(size, self._limit)
        return ProviderPage(total=self._total, rows=tuple(self._rows[(current - 1) * size : current * size]))


def _row(number: int) -> ProviderBinding:
    phone = Phone(f"9188{number:06}")
    return ProviderBinding(
        bind_id=str(number), phone_a=phone, phone_b=phone, middle_number_a="1", middle_number_b="1", ends_at=NOON
    )


class NoDatabase:
    """A database without any binding."""

    def clock(self) -> object:
        return NOON

    def read(self, *_: object) -> dict[str, object]:
        return {}


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(0, 60),
    expected=st.integers(0, 200),
    limit=st.integers(1, 12),
    size=st.integers(1, 12),
    total=st.integers(0, 10**12),
)
def test_every_row_is_read_in_both_directions_by_any_page_size_total_and_expectation(
    count: int, expected: int, limit: int, size: int, total: int
) -> None:
    source = provider_scan.ListSource(
        database=NoDatabase(),  # type: ignore[arg-type]
        provider=PagedList(count, limit, total),  # type: ignore[arg-type]
        rate_limiter=provider_scan.RateLimiter(1e9, clock=SYSTEM_CLOCK),
        clock=SYSTEM_CLOCK,
        control=RunControl(),
    )
    for backwards_over in (None, expected):
        scan = provider_scan.read(source, APP, size=size, backwards_over=backwards_over)
        assert (scan.complete, scan.rows) == (True, count)
        assert scan.total_seen == (count >= total)


@pytest.mark.usefixtures("small_pages")
def test_time_limit_ends_a_scan_and_grows_with_the_scans_before(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.add_foreign_bindings(25)
    monkeypatch.setattr(reconcile, "MIN_TIME_LIMIT_S", -1.0)
    counts = harness.service.reconcile()
    assert (counts.incomplete, counts.orphans) == (1, 0)
    assert counts.faults == ("the list has more rows than can be read in 0 s",)
    monkeypatch.undo()
    assert reconcile._time_limit_s(harness.database) == reconcile.MIN_TIME_LIMIT_S
    assert harness.service.reconcile().orphans == 25


class SleepingClock:
    """The monotonic clock of a host, which moves while it sleeps, and by no more than that."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("fault", "slept_s"), [("bad_gateway", 5), ("rate_limit:7", 14)])
def test_page_is_asked_for_again_after_a_wait(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch, fault: str, slept_s: float
) -> None:
    """A gateway that restarts is back after seconds; a rate limit says after how many."""
    monkeypatch.undo()  # the waits are those of the product
    clock = SleepingClock()
    host = HostClock(wall=harness.clock.unix, monotonic=clock.monotonic, sleep=clock.sleep)
    service = harness.open(host_clock=host)
    harness.add_foreign_bindings(3)
    harness.simulator.script(fault, times=2, on="page")
    counts = service.reconcile()
    assert (counts.incomplete, counts.orphans, counts.faults) == (0, 3, ())
    assert clock.now - 1_000 == pytest.approx(slept_s, abs=0.1)


def test_wait_of_a_limit_is_bounded_and_outlasts_a_minute_if_it_names_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    limited = Unknown(reason="HTTP 429", http_status=429)
    assert sum(provider_scan._wait_s(limited, attempt) for attempt in (1, 2)) == 60
    long = replace(limited, retry_after_s=86_400.0)
    assert provider_scan._wait_s(long, 1) == provider_scan.LONGEST_WAIT_S


def test_rate_limit_ends_a_run_of_unbinds(harness: ServiceHarness) -> None:
    harness.simulator.script("rate_limit", rate=1.0, on="unbind")
    for phones in ((A, B), (C, D), (E, F)):
        with pytest.raises(errors.OutcomeUnknown):
            harness.service.unbind(harness.bind(*phones).id)
    before = harness.received("unbind")
    assert harness.service.recover().still_unclear == 3
    assert harness.received("unbind") - before == 1


def test_list_with_phones_in_another_notation_proves_no_doubt_absent(harness: ServiceHarness) -> None:
    listed, doubt = harness.bind(C, D), put_in_doubt(harness)
    ledger = {entry.phone_a: entry.bind_id for entry in harness.simulator.ledger}
    for phone_a, phone_b in ((A, B), (C, D)):
        national = {"phone_a": phone_a[2:], "phone_b": phone_b[2:]}
        harness.simulator.list_as(ledger[phone_a], national)
    harness.clock.advance(400)
    counts = harness.service.reconcile()
    assert (counts.adopted, counts.absent, counts.unresolved) == (0, 0, 1)
    assert harness.service.get(doubt).state is State.IN_DOUBT
    assert counts.notes == (
        "1 row(s) have other phones than the binding here with their bindId: no binding in doubt is proved absent",
        reconcile.LISTED_DOUBTS.format(1),
    )
    for bind_id in ledger.values():
        harness.simulator.list_as(bind_id)
    assert harness.service.reconcile().adopted == 1
    assert harness.service.get(listed.id).state is State.ACTIVE


@pytest.mark.parametrize("prefix", ["", "0"])
def test_doubt_whose_row_alone_is_in_another_notation_is_not_absent(harness: ServiceHarness, prefix: str) -> None:
    harness.bind(C, D)
    doubt = put_in_doubt(harness)
    row = next(entry for entry in harness.simulator.ledger if entry.phone_a == A)
    national = {"phone_a": prefix + B[2:], "phone_b": prefix + A[2:]}
    harness.simulator.list_as(row.bind_id, national)
    harness.clock.advance(400)
    counts = harness.service.reconcile()
    assert counts.absent == 0
    assert counts.notes[0].startswith("1 binding(s) stay in doubt although a row of the list has their phones")
    assert harness.service.get(doubt).state is State.IN_DOUBT
    harness.simulator.remove_binding(str(row.bind_id))
    assert harness.service.reconcile().absent == 1


def mark_restored_later(harness: ServiceHarness) -> None:
    """Let the bindings grow older than the list's lag, and record then that the database was restored."""
    harness.clock.advance(61)
    account.register_scope(harness.database, harness.service.settings.scope)
    harness.service.mark_restored()
    harness.clock.advance(1)


def test_restored_database_waits_if_a_list_is_empty_for_a_moment(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    mark_restored_later(harness)
    harness.simulator.list_as(int(binding.bind_id or 0), hidden=True)
    first = harness.service.reconcile()
    assert (first.made_good, first.faults) == (False, (reconcile.NONE_LISTED.format(APP),))
    assert first.suspicions == (f"none_listed:{APP}",)
    harness.simulator.list_as(int(binding.bind_id or 0))
    assert harness.service.reconcile().made_good


def test_reports_of_earlier_versions_may_lack_faults_and_notes(harness: ServiceHarness) -> None:
    made = [harness.bind(f"9188060010{number:02}", f"9188060020{number:02}") for number in range(30)]
    mark_restored_later(harness)
    caller = Caller(actor="test")

    def store(tx: Transaction) -> None:
        reports.store(tx, caller, began_at=tx.instant(), counts={"scans": 1}, cases=[])

    harness.database.write(store)
    harness.clock.advance(61)
    for binding in made:
        harness.simulator.list_as(int(binding.bind_id or 0), hidden=True)
    assert harness.service.reconcile().faults == (reconcile.NONE_LISTED.format(APP),)
    for binding in made[11:]:
        harness.simulator.list_as(int(binding.bind_id or 0))
    harness.database.write(store)
    counts = harness.service.reconcile()
    assert (counts.ghosts, counts.failures, len(counts.notes)) == (0, 0, 1)


def test_restored_database_continues_if_two_runs_list_none_of_its_bindings(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding = harness.bind(A, B)
    mark_restored_later(harness)
    harness.simulator.remove_binding(str(binding.bind_id))
    assert not harness.service.reconcile().made_good
    monkeypatch.setattr(reconcile, "NONE_LISTED", "another version has other words")
    assert not harness.service.reconcile().made_good, "it is the same moment"
    harness.clock.advance(61)
    assert harness.service.reconcile().made_good


def test_restored_database_continues_however_often_a_run_is_made(harness: ServiceHarness) -> None:
    """An operator repeats `bindings reconcile` until binds continue, perhaps every second."""
    binding = harness.bind(A, B)
    mark_restored_later(harness)
    harness.simulator.remove_binding(str(binding.bind_id))
    interval_s = 61 / (reconcile.RECENT_REPORTS + 2)
    for _ in range(reconcile.RECENT_REPORTS + 2):
        assert not harness.service.reconcile().made_good
        harness.clock.advance(interval_s)
    assert harness.service.reconcile().made_good
