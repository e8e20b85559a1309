"""When a clock is in doubt, and which readings end the doubt."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from bindings.clock import HostClock
from bindings.errors import ClockInDoubt
from bindings.lifecycle.clock_monitor import RECHECK_S, ClockMonitor

if TYPE_CHECKING:
    from bindings.provider.client import ProviderClient
    from bindings.store.database import Database

START = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
HOUR_S = 3_600.0


@dataclass
class Clocks:
    """The true time, how far each clock is from it, and a monitor that compares them."""

    postgres: bool = True
    dates: bool = True
    elapsed_s: float = 0.0
    database_off_s: float = 0.0
    host_off_s: float = 0.0
    date_off_s: float = 0.0
    contradicted: bool = False
    measured: tuple[float, float] | None = None
    believed_skew_s: float | None = None
    calls: int = 0
    monitor: ClockMonitor = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = self.new_monitor()

    def new_monitor(self) -> ClockMonitor:
        """Return the monitor of another process under the same clocks."""
        host = HostClock(wall=lambda: START + self.elapsed_s + self.host_off_s, monotonic=lambda: self.elapsed_s)
        database = SimpleNamespace(postgres=self.postgres, clock=self.database_time)
        client = SimpleNamespace(page=self.page, clock=self)
        return ClockMonitor(
            cast("Database", database),
            cast("ProviderClient", client) if self.dates else None,
            app_id="app",
            clock=host,
        )

    def database_time(self) -> datetime:
        off_s = self.database_off_s if self.postgres else self.host_off_s
        return datetime.fromtimestamp(START + self.elapsed_s + off_s, UTC)

    # What the monitor uses of the provider's client.

    def page(self, **_: Any) -> None:
        self.calls += 1
        self.measured = (self.date_off_s - self.host_off_s, self.elapsed_s)

    @property
    def is_witness(self) -> bool:
        return self.measured is not None and not self.contradicted

    @property
    def measured_skew_s(self) -> float | None:
        return None if self.measured is None else self.measured[0]

    def fresh_skew_s(self, *, since: float) -> float | None:
        return self.measured[0] if self.measured is not None and self.measured[1] >= since else None

    # Steps of a test.

    def begin(self) -> None:
        """Let the monitor trust every clock as it is."""
        self.page()
        self.calls = 0
        self.monitor.require_trusted_database()

    def jump(self, by_s: float, *, host: bool = False, date: bool = False) -> None:
        """Let the deciding clock jump; on PostgreSQL `host` says whether the host's jumps with it."""
        self.database_off_s += by_s
        if host or not self.postgres:
            self.host_off_s += by_s
        if date:
            self.date_off_s += by_s

    def in_doubt(self, after_s: float = 0.0) -> bool:
        """Let time pass, compare, and return whether the database's clock is in doubt."""
        self.elapsed_s += after_s
        try:
            self.monitor.require_trusted_database()
        except ClockInDoubt:
            return True
        return False


@pytest.mark.parametrize("postgres", [True, False])
@pytest.mark.parametrize("by_s", [HOUR_S, 365 * 86_400.0, -HOUR_S])
def test_jump_is_in_doubt_until_two_readings_ten_seconds_apart_agree(postgres: bool, by_s: float) -> None:
    clocks = Clocks(postgres=postgres)
    clocks.begin()
    clocks.jump(by_s)
    assert clocks.in_doubt()
    assert clocks.in_doubt(after_s=3_600.0)
    clocks.jump(-by_s)
    assert clocks.in_doubt(after_s=RECHECK_S + 1), "the first reading that agrees"
    assert clocks.in_doubt(after_s=RECHECK_S - 1)
    assert not clocks.in_doubt(after_s=RECHECK_S + 1)
    assert not clocks.in_doubt()


@pytest.mark.parametrize("postgres", [True, False])
def test_reading_that_disagrees_begins_the_ten_seconds_anew(postgres: bool) -> None:
    clocks = Clocks(postgres=postgres)
    clocks.begin()
    clocks.jump(HOUR_S)
    assert clocks.in_doubt()
    clocks.jump(-HOUR_S)
    assert clocks.in_doubt(after_s=RECHECK_S + 1)
    clocks.jump(HOUR_S)
    assert clocks.in_doubt(after_s=RECHECK_S + 1)
    clocks.jump(-HOUR_S)
    assert clocks.in_doubt(after_s=RECHECK_S + 1)
    assert not clocks.in_doubt(after_s=RECHECK_S + 1)


@pytest.mark.parametrize("postgres", [True, False])
def test_jump_that_the_provider_confirms_is_accepted(postgres: bool) -> None:
    clocks = Clocks(postgres=postgres)
    clocks.begin()
    clocks.jump(HOUR_S, host=True, date=True)
    assert clocks.in_doubt()
    assert clocks.in_doubt(after_s=RECHECK_S + 1)
    assert not clocks.in_doubt(after_s=RECHECK_S + 1)
    assert clocks.calls == 2, "a Date is read with each of the two readings"


@pytest.mark.parametrize("postgres", [True, False])
def test_jump_that_the_provider_contradicts_stays_in_doubt(postgres: bool) -> None:
    clocks = Clocks(postgres=postgres)
    clocks.begin()
    clocks.jump(HOUR_S, host=True)
    assert all(clocks.in_doubt(after_s=RECHECK_S + 1) for _ in range(20))


@pytest.mark.parametrize("why", ["no account", "ignored", "wrong"])
def test_without_the_provider_another_host_clock_must_agree(why: str) -> None:
    clocks = Clocks(dates=why == "wrong", contradicted=why == "wrong", date_off_s=0.0)
    clocks.begin()
    clocks.jump(HOUR_S, host=True, date=True)
    assert clocks.in_doubt()
    assert clocks.in_doubt(after_s=RECHECK_S + 1)
    assert not clocks.in_doubt(after_s=RECHECK_S + 1)


def test_without_the_provider_the_clock_of_sqlite_confirms_no_jump_of_itself() -> None:
    clocks = Clocks(postgres=False, dates=False)
    clocks.begin()
    clocks.jump(HOUR_S)
    assert all(clocks.in_doubt(after_s=RECHECK_S + 1) for _ in range(20))
    assert "restart this process" in clocks.monitor.remedy
    clocks.jump(-HOUR_S)
    assert clocks.in_doubt(after_s=RECHECK_S + 1)
    assert not clocks.in_doubt(after_s=RECHECK_S + 1)


def test_process_that_starts_after_a_jump_is_warned_by_the_host_clock() -> None:
    clocks = Clocks()
    clocks.begin()
    clocks.jump(HOUR_S)
    clocks.monitor = clocks.new_monitor()
    assert clocks.in_doubt()


def test_slow_drift_is_no_jump() -> None:
    clocks = Clocks()
    clocks.begin()
    for _ in range(200):
        clocks.jump(0.9, host=True, date=True)
        assert not clocks.in_doubt(after_s=60.0)


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_trusted_instant_continues_from_before_the_jump(by_s: float) -> None:
    clocks = Clocks()
    clocks.begin()
    clocks.elapsed_s += 100.0
    before = clocks.database_time()
    assert clocks.monitor.trusted_instant(before) == before
    clocks.jump(by_s)
    assert clocks.in_doubt()
    assert clocks.monitor.trusted_instant(clocks.database_time()) == before


def test_clock_in_doubt_says_what_happened_what_holds_and_what_to_do() -> None:
    clocks = Clocks()
    clocks.begin()
    clocks.jump(HOUR_S)
    with pytest.raises(ClockInDoubt) as raised:
        clocks.monitor.require_trusted_database()
    for part in ("jumped by +3600 s", "nothing was done", "nothing ends by time", "NTP"):
        assert part in str(raised.value)
    assert raised.value.retry_after_s
    problem = raised.value.problem()
    assert (problem["code"], problem["status"], problem["may_have_acted"]) == ("busy", 503, False)
    assert "clock" in problem["title"]
    assert "bindings doctor" in raised.value.next_step()
