"""Looks at a few pages of the provider's list: what they adopt, how many pages they read, and when they run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import update

from bindings import errors
from bindings.clock import SYSTEM_CLOCK, HostClock
from bindings.domain.binding import Caller, EventKind, Mode, Reason, State
from bindings.jobs import look, provider_scan
from bindings.jobs.registry import LOOK, RECONCILE
from bindings.jobs.run_control import RunControl
from bindings.jobs.runner import JobRunner
from bindings.lifecycle.resolution_times import LONGEST_WAIT_S, LOOK_PAGES, first_look_result
from bindings.provider.simulator import Entry, rules
from bindings.store import account, job_runs, reports, schema
from tests.service.harness import APP, NOON, POOL, A, B, C, D, E, F, G, H, ServiceHarness
from tests.service.test_scan_end import NoDatabase, PagedList

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.jobs.look import LookResult
    from bindings.provider.outcome import ProviderPage
    from bindings.service import BindingService

OTHER = "other-app"
LONG = 1_000_000
GAP = 340  # rows of others between two of ours: more than three pages


ROW_THAT_IS_OVER = Entry(
    bind_id=0,
    app_id=APP,
    pool_number=POOL,
    mode=Mode.AXB,
    phone_a="91770000000",
    phone_b="91770000001",
    middle_number_a="9188061000",
    middle_number_b="9188061000",
    accepted_at=NOON.timestamp() - 3_600,
    expires_at=NOON.timestamp() - 60,
)


class LongList:
    """A list of the provider: `own` rows from row `first` on, every `gap` rows, and others that hold nothing."""

    def __init__(self, own: list[Entry], *, first: int, gap: int, rows: int) -> None:
        self._own = {first + gap * number: entry for number, entry in enumerate(own)}
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: slice) -> list[Entry]:
        numbers = range(*rows.indices(self._rows))
        return [self._own.get(number) or replace(ROW_THAT_IS_OVER, bind_id=10**9 + number) for number in numbers]


def lengthen_list(monkeypatch: pytest.MonkeyPatch, rows: int, order: str) -> None:
    """Let the provider list this many rows; our bindings are where `order` says."""
    listed = rules.Rules._listed

    def long_list(self: rules.Rules, app_id: str | None, now: float) -> LongList:
        own = listed(self, app_id, now)
        match order:
            case "newest first":
                return LongList(own[::-1], first=0, gap=GAP, rows=rows)
            case "oldest first":
                return LongList(own, first=rows - 1 - GAP * (len(own) - 1), gap=GAP, rows=rows)
            case _:
                return LongList(own, first=rows // 2, gap=1, rows=rows)

    monkeypatch.setattr(rules.Rules, "_listed", long_list)


class Looks:
    """A process with a scheduler on the clock of the test; `at` runs its job as the scheduler does."""

    def __init__(self, harness: ServiceHarness, **settings: object) -> None:
        clock = harness.clock
        host = HostClock(
            wall=clock.unix, monotonic=clock.unix, sleep=lambda seconds: clock.advance(max(seconds, 0.001))
        )
        self.service = harness.open(host_clock=host, **settings)
        self._runner = JobRunner(self.service.runtime)
        self._harness = harness

    def look(self) -> LookResult | None:
        """Run the job if it has work, and then let its interval pass."""
        result: LookResult | None = self._runner.run_once_per_period(LOOK, 5.0)
        self._harness.clock.advance(5)
        return result

    def scan(self) -> None:
        assert self._runner.run_once_per_period(RECONCILE, 300.0) is not None


def put_in_doubt(
    service: BindingService, harness: ServiceHarness, a: str = A, b: str = B, **fields: Any
) -> errors.OutcomeUnknown:
    """Bind under the fault `fault` (default: the response is lost) and return the error."""
    harness.simulator.script(fields.pop("fault", "lost_reply"), times=1, on="bind")
    arguments: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600, "mode": "AXB"} | fields
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        service.bind(phone_a=a, phone_b=b, **arguments)
    return excinfo.value


def wait_until_settled_by(harness: ServiceHarness, binding: Binding) -> None:
    harness.clock.at = max(harness.clock.at, binding.settle_by)


@pytest.mark.parametrize("order", ["newest first", "oldest first"])
def test_I2_lost_reply_is_adopted_by_a_look_on_a_few_pages_of_a_long_list(
    harness: ServiceHarness, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(harness)
    looks.scan()
    lengthen_list(monkeypatch, LONG, order)
    process_without_scheduler = harness.open()
    unknown = put_in_doubt(process_without_scheduler, harness)
    process_without_scheduler.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=3_600, mode="AXB")
    doubt, pages_before = unknown.binding, harness.received("page")
    assert looks.look() is None, "its own response may still arrive"
    assert harness.received("page") == pages_before
    wait_until_settled_by(harness, doubt)
    result = looks.look()
    assert result is not None
    assert (result.lists, result.adopted, result.unresolved, result.unread) == (1, 1, 0, 0)
    assert harness.received("page") - pages_before == result.pages <= LOOK_PAGES
    adopted = looks.service.get(doubt.id)
    assert (adopted.state, adopted.reason, adopted.phone_a) == (State.ACTIVE, Reason.ADOPTED, doubt.phone_a)
    assert harness.kinds(adopted)[-1] is EventKind.ADOPTED
    assert adopted.answered_at is not None
    assert adopted.answered_at <= first_look_result(looks.service.settings, doubt)
    assert unknown.retry_after_s is not None
    assert adopted.answered_at <= doubt.requested_at + timedelta(seconds=unknown.retry_after_s)
    assert looks.look() is None
    assert harness.received("bind") == 2


def test_look_learns_from_a_scan_where_the_newest_bindings_are(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengthen_list(monkeypatch, 40 * look.PAGE_SIZE, "in the middle")
    ignorant = Looks(harness)
    ignorant.service.bind(phone_a=E, phone_b=F, pool_number=POOL, expire_s=3_600, mode="AXB")
    wait_until_settled_by(harness, put_in_doubt(ignorant.service, harness).binding)
    result = ignorant.look()
    assert result is not None
    assert (result.pages, result.adopted, result.unresolved) == (LOOK_PAGES, 0, 1)
    looks = Looks(harness)
    looks.scan()
    wait_until_settled_by(harness, put_in_doubt(looks.service, harness, C, D).binding)
    harness.clock.advance(5)
    result = looks.look()
    assert result is not None
    assert (result.pages, result.adopted) == (2, 1)


CASES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "AXXB": ({"mode": "AXXB"}, {}),
    "two rows": ({}, {"phone_a": A, "phone_b": B}),
    "a later end": ({"fault": "reset_before"}, {"phone_a": A, "phone_b": B, "expire_s": 9_000}),
    "an earlier end": ({"fault": "reset_before"}, {"phone_a": A, "phone_b": B, "expire_s": 900}),
    "another pair": ({"fault": "reset_before"}, {"phone_a": A, "phone_b": "9188067711"}),
    "another mode": ({"fault": "reset_before"}, {"phone_a": A, "phone_b": B, "mode": "AXXB"}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_I4_look_adopts_nothing_else_and_concludes_nothing(
    harness: ServiceHarness, case: tuple[dict[str, str], dict[str, Any]]
) -> None:
    bind, foreign = case
    looks = Looks(harness, timestamp_tolerance_s=1)
    service = looks.service
    witness, ghost, drifted = (
        service.bind(phone_a=a, phone_b=b, pool_number=POOL, expire_s=7_200, mode="AXB")
        for a, b in ((C, D), (E, F), (G, H))
    )
    harness.simulator.remove_binding(str(ghost.bind_id))
    harness.simulator.list_as(int(str(drifted.bind_id)), {"ends_at": "2026-03-01 20:30:00"})
    harness.simulator.add_foreign_binding(phone_a="9177000001", phone_b="9177000002", app_id=APP)
    harness.clock.advance(120)
    put_in_doubt(
        service, harness, "9188067712", "9188067713", fault="reset_before"
    )  # so that each case is looked at
    unknown = put_in_doubt(service, harness, **bind)
    if foreign:
        harness.simulator.add_foreign_binding(app_id=APP, **foreign)
    harness.clock.advance(120)
    kinds, before = harness.all_kinds(), list(service.export_bindings())
    results = [looks.look() for _ in range(3)]
    assert results[0] is not None
    assert results[0].unresolved >= 1
    assert sum(result.adopted for result in results if result is not None) == 0
    assert service.get(unknown.binding.id).state is State.IN_DOUBT
    assert (harness.all_kinds(), list(service.export_bindings())) == (kinds, before)
    assert witness.id in {binding.id for binding in before}


def test_look_for_one_doubt_leaves_a_younger_doubt_of_the_same_list(harness: ServiceHarness) -> None:
    looks = Looks(harness)
    older = put_in_doubt(looks.service, harness, fault="reset_before").binding
    harness.clock.advance(10)
    younger = put_in_doubt(looks.service, harness, C, D).binding
    wait_until_settled_by(harness, older)
    result = looks.look()
    assert result is not None
    assert (result.adopted, result.unresolved) == (0, 1)
    wait_until_settled_by(harness, younger)
    result = looks.look()
    assert result is not None
    assert (result.adopted, result.unresolved) == (1, 1)


def test_looks_of_a_list_wait_longer_each_time_until_a_whole_scan_has_looked(harness: ServiceHarness) -> None:
    looks = Looks(harness)
    doubt = put_in_doubt(looks.service, harness, fault="reset_before").binding
    wait_until_settled_by(harness, doubt)
    began = harness.clock.at
    looked_at = []
    for _ in range(40):
        now = harness.clock.at
        if looks.look() is not None:
            looked_at.append(round((now - began).total_seconds()))
    assert looked_at == [0, 5, 15, 35, 75, 135, 195]
    put_in_doubt(looks.service, harness, C, D)
    harness.clock.advance(LONGEST_WAIT_S)
    result = looks.look()
    assert result is not None
    assert (result.adopted, result.unresolved) == (1, 1), "a wait ends after a minute, for younger doubts too"
    assert looks.look() is not None, "what is adopted ends the long waits"
    looks.scan()
    harness.clock.advance(LONGEST_WAIT_S)
    assert looks.look() is None


def test_no_look_beside_a_scan_that_has_just_begun_nor_where_a_doubt_is_not_adopted(
    harness: ServiceHarness,
) -> None:
    looks, observing = Looks(harness), Looks(harness, on_doubt="observe")
    wait_until_settled_by(harness, put_in_doubt(looks.service, harness).binding)
    assert observing.look() is None
    database = looks.service.runtime.database
    assert database.write(lambda tx: job_runs.claim_slot(tx, "reconcile", 300.0, "another")) is not None
    assert looks.look() is None
    harness.clock.advance(look.SHORT_SCAN_S)
    account.register_scope(database, "default")
    looks.service.mark_restored()
    assert looks.look() is None
    looks.service.mark_restored(waive=True)
    result = looks.look()
    assert result is not None
    assert result.adopted == 1


def test_report_from_before_the_clock_was_set_back_ends_no_looks(harness: ServiceHarness) -> None:
    looks = Looks(harness)
    wait_until_settled_by(harness, put_in_doubt(looks.service, harness).binding)
    later = harness.clock() + timedelta(hours=1)
    looks.service.runtime.database.write(
        lambda tx: reports.store(tx, Caller(actor="test"), began_at=later, counts={}, cases=[])
    )
    result = looks.look()
    assert result is not None
    assert result.adopted == 1


def test_no_look_for_a_successor_in_doubt_that_waits_and_was_never_sent(harness: ServiceHarness) -> None:
    looks = Looks(harness)
    predecessor = looks.service.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=3_600, mode="AXB")
    waiting = put_in_doubt(looks.service, harness).binding  # as `recover` of the version before leaves it
    wait_until_settled_by(harness, waiting)
    change = update(schema.bindings).where(schema.bindings.c.id == waiting.id)
    for waits_for, is_due in ((predecessor.id, False), (None, True)):
        statement = change.values(waits_for=waits_for)
        harness.rewrite(statement)
        assert (looks.look() is not None) == is_due


def test_each_list_with_a_doubt_is_looked_at_and_that_of_the_account_for_all(harness: ServiceHarness) -> None:
    for settings, lists in (({}, 2), ({"scan_scope": "account"}, 1)):
        looks = Looks(harness, **settings)
        doubts = [
            put_in_doubt(looks.service, harness, A, B).binding,
            put_in_doubt(looks.service, harness, C, D, app_id=OTHER).binding,
        ]
        wait_until_settled_by(harness, doubts[-1])
        result = looks.look()
        assert result is not None
        assert (result.lists, result.adopted) == (lists, 2)
        for doubt in doubts:
            looks.service.unbind(doubt.id)


def test_look_that_cannot_read_the_list_or_is_stopped_leaves_the_doubt_to_the_next_one(
    harness: ServiceHarness,
) -> None:
    looks = Looks(harness)
    doubt = put_in_doubt(looks.service, harness).binding
    wait_until_settled_by(harness, doubt)
    harness.simulator.script("bad_gateway", times=1, on="page")
    result = looks.look()
    assert result is not None
    assert (result.pages, result.adopted, result.unread, result.unresolved) == (1, 0, 1, 1)
    control = RunControl()
    control.stop()
    stopped: LookResult | None = JobRunner(looks.service.runtime).run_once_per_period(LOOK, 5.0, control)
    assert stopped is not None
    assert (stopped.stopped, stopped.lists) == (True, 0)
    result = looks.look()
    assert result is not None
    assert result.adopted == 1


def recorded_list(count: int, limit: int, total: int | None) -> tuple[provider_scan.ListSource, list[int]]:
    """Return a list of rows that are unknown here, and the pages that were asked for."""
    asked: list[int] = []

    class RecordedList(PagedList):
        def page(self, *, app_id: str, current: int, size: int) -> ProviderPage:
            asked.append(current)
            return super().page(app_id=app_id, current=current, size=size)

    source = provider_scan.ListSource(
        database=NoDatabase(),  # type: ignore[arg-type]
        provider=RecordedList(count, limit, total),  # type: ignore[arg-type]
        rate_limiter=provider_scan.RateLimiter(1e9, clock=SYSTEM_CLOCK),
        clock=SYSTEM_CLOCK,
        control=RunControl(),
    )
    return source, asked


def test_partial_scan_goes_to_the_pages_where_newer_bindings_end() -> None:
    source, asked = recorded_list(4_000, 10, 4_000)
    provider_scan.read_part(
        source, APP, size=10, max_pages=8, near=None, newer_counts=[1_000], is_enough=lambda _: False
    )
    assert asked == [1, 400, 101, 300, 102, 100, 301, 299]


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    count=st.integers(0, 60),
    limit=st.integers(1, 12),
    size=st.integers(1, 12),
    total=st.one_of(st.none(), st.integers(0, 10**6)),
    near=st.one_of(st.none(), st.tuples(st.integers(0, 80), st.integers(0, 80))),
    newer_counts=st.lists(st.integers(0, 100), max_size=2),
    max_pages=st.one_of(st.integers(1, 5), st.just(1_000)),
)
def test_partial_scan_reads_each_page_once_within_its_limit_and_ends(
    *,
    count: int,
    limit: int,
    size: int,
    total: int | None,
    near: tuple[int, int] | None,
    newer_counts: list[int],
    max_pages: int,
) -> None:
    source, asked = recorded_list(count, limit, total)
    place = near and provider_scan.NewestPlace(requested_at=NOON, page=1, first_row=min(near), rows=max(near))
    scan = provider_scan.read_part(
        source,
        APP,
        size=size,
        max_pages=max_pages,
        near=place,
        newer_counts=newer_counts,
        is_enough=lambda _: False,
    )
    assert (scan.complete, scan.proves_absence, scan.error) == (False, False, None)
    assert scan.pages_read == len(asked) == len(set(asked)) <= max_pages
    if max_pages == 1_000:
        assert scan.rows == count
