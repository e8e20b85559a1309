"""R7: jobs do not run, hang or raise, and the wall clock jumps; queries stay correct meanwhile."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from bindings.domain.binding import State
from bindings.jobs.maintenance import Maintenance
from bindings.scheduler import Scheduler
from tests.faults.clock import SharedClock
from tests.faults.harness import ROOT
from tests.faults.test_kill import DATABASES, report
from tests.service.harness import POOL, A, B, ServiceHarness, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.jobs.expire import ExpireResult
    from tests.faults.harness import Experiment, FaultHarness

pytestmark = pytest.mark.processes

INTERVAL_S = 1.0
SOON_S = 300.0  # far below the hour that a timer on the wall clock would wait after a jump back
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
DAY_S = 86_400.0


def test_R7_queries_after_a_day_without_the_expire_job_are_correct(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=60)
    harness.clock.advance(DAY_S)
    assert harness.service.get(binding.id).state is State.ACTIVE, "the expire job has not run"
    assert harness.service.lookup(phone=A) == []
    assert harness.service.lookup(middle_number=binding.middle_number_a) == []
    assert harness.service.check(phone_a=A, phone_b=B, mode="AXB") == []
    assert (
        harness.service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE
    )
    assert harness.service.expire_due().expired == 1
    expired = harness.service.get(binding.id)
    assert (expired.state, expired.ended_at) == (State.EXPIRED, binding.expires_at)


def test_changes_by_the_scheduler_are_recorded_with_its_own_actor(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=60, warn_s=30)
    harness.clock.advance(61)
    with Scheduler(harness.service):
        wait_for(lambda: harness.service.get(binding.id).state is State.EXPIRED)
    assert [event.actor for event in harness.service.history(binding.id)] == ["test", "test", "scheduler"]


@pytest.mark.parametrize("kind", DATABASES)
def test_R7_expire_job_that_hangs_is_reported_stalled_and_later_runs_start(
    fault_harness: FaultHarness, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    with fault_harness.experiment(kind, sweep_interval_s=0.2) as experiment, experiment.service() as service:
        expire_due, calls = Maintenance.expire_due, []

        def hang_once(maintenance: Maintenance) -> ExpireResult:
            calls.append(time.monotonic())
            if len(calls) == 1:
                release.wait(300)
            return expire_due(maintenance)

        monkeypatch.setattr(Maintenance, "expire_due", hang_once)
        with Scheduler(service) as scheduler:
            wait_for(lambda: scheduler.stalled() == ["expire"])
            assert len(calls) == 1
            release.set()
            wait_for(lambda: len(calls) > 3 and not scheduler.stalled())


@pytest.mark.parametrize("error", [RuntimeError("raised by the test"), SystemExit(3), MemoryError()])
def test_R7_expire_job_that_raises_is_reported_stalled_and_is_retried(
    fault_harness: FaultHarness, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_harness.experiment("sqlite", sweep_interval_s=0.2) as experiment, experiment.service() as service:
        expire_due, repaired, calls = Maintenance.expire_due, threading.Event(), []

        def raise_at_first(maintenance: Maintenance) -> ExpireResult:
            calls.append(time.monotonic())
            if not repaired.is_set():
                raise error
            return expire_due(maintenance)

        monkeypatch.setattr(Maintenance, "expire_due", raise_at_first)
        with Scheduler(service) as scheduler:
            wait_for(lambda: scheduler.stalled() == ["expire"])
            wait_for(lambda: len(calls) > 3)
            repaired.set()
            wait_for(lambda: not scheduler.stalled())


@pytest.mark.postgres
def test_R7_expire_job_that_waits_for_a_foreign_lock_is_reported_stalled_and_continues(
    fault_harness: FaultHarness,
) -> None:
    with (
        fault_harness.experiment("postgresql", sweep_interval_s=0.2) as experiment,
        experiment.service() as service,
    ):
        binding = service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=1, mode="AXB")
        with psycopg.connect(experiment.url) as other:
            other.execute("LOCK TABLE bindings IN ACCESS EXCLUSIVE MODE")
            with Scheduler(service) as scheduler:
                wait_for(lambda: "expire" in scheduler.stalled())
                other.rollback()
                wait_for(lambda: not scheduler.stalled())
                wait_for(lambda: service.get(binding.id).state is State.EXPIRED)


class Timer:
    """A scheduler in a process of its own; `lines` are its reports: (monotonic seconds, event)."""

    def __init__(self, settings: dict[str, Any], folder: Path, environment: dict[str, str]) -> None:
        file = folder / "timer.json"
        file.write_text(json.dumps(settings))
        self._reports, reports_write_end = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.timer", str(file), str(reports_write_end)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(reports_write_end,),
            env={k: v for k, v in os.environ.items() if not k.startswith("BINDINGS_")} | environment,
        )
        os.close(reports_write_end)
        self.lines: list[tuple[float, str]] = []
        self._buffered = b""

    def await_sweep(self, after: float, *, within_s: float) -> float | None:
        """Wait for the first run after a reading of the monotonic clock; return the seconds since it, or None."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for at, event in self.lines:
                if event == "sweep" and at > after:
                    return at - after
            self._receive(deadline - time.monotonic())
        return None

    def _receive(self, within_s: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._reports, selectors.EVENT_READ)
            if not selector.select(max(0.0, within_s)):
                return
        data = os.read(self._reports, 65_536)
        if not data:
            raise AssertionError("the scheduler has ended")
        *lines, self._buffered = (self._buffered + data).split(b"\n")
        for line in lines:
            at, event = line.decode().split()
            self.lines.append((float(at), event))

    def end(self) -> int:
        """Send SIGTERM; return the exit code, or minus SIGKILL if it does not end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(300)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(300)

    def close(self) -> None:
        """Kill the process if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(300)
        os.close(self._reports)


@contextmanager
def timer(experiment: Experiment, method: str) -> Iterator[tuple[Timer, SharedClock]]:
    """Start a scheduler with a job interval of one second; yield it and the shift of its wall clock."""
    wall = SharedClock(experiment.folder / "wall")
    settings = experiment.base_settings() | {
        "sweep_interval_s": INTERVAL_S,
        "provider_api_key": None,
        "provider_api_secret": None,
    }
    environment: dict[str, str] = {}
    if method == "patched":
        settings["wall"] = str(wall.file)
    else:
        stamp = experiment.folder / "stamp"
        stamp.write_text("+0")
        environment = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(stamp),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    running = Timer({k: v for k, v in settings.items() if v is not None}, experiment.folder, environment)
    try:
        assert running.await_sweep(0.0, within_s=SOON_S) is not None
        yield running, wall
    finally:
        running.close()


def jump(experiment: Experiment, wall: SharedClock, method: str, by_s: float) -> float:
    """Set the wall clock to `by_s` seconds ahead of the machine's; return the monotonic time of the change."""
    if method == "patched":
        wall.advance(by_s - wall.shift)
    else:
        new = experiment.folder / "stamp.new"
        new.write_text(f"{by_s:+.0f}")
        shutil.move(new, experiment.folder / "stamp")
    return time.monotonic()


JUMPS_S = {"+62 s": 62.0, "-60 s": -60.0, "+1 h": 3_600.0, "-1 h": -3_600.0, "+1 y": 365 * DAY_S}
NO_FAKETIME = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")


@pytest.mark.parametrize("method", ["patched", pytest.param("faketime", marks=[pytest.mark.soak, NO_FAKETIME])])
def test_R7_expire_job_starts_soon_after_the_wall_clock_jumps(fault_harness: FaultHarness, method: str) -> None:
    with fault_harness.experiment("sqlite") as experiment, timer(experiment, method) as (running, wall):
        shift = 0.0
        for name, by_s in JUMPS_S.items():
            shift += by_s
            jumped_at = jump(experiment, wall, method, shift)
            first_s = running.await_sweep(jumped_at + 0.2, within_s=SOON_S)
            assert first_s is not None, f"no sweep running after {name}"
            assert running.await_sweep(jumped_at + first_s + 0.2, within_s=SOON_S) is not None, (
                f"only one after {name}"
            )
            report(run="jump", name=name, method=method, first_sweep_s=round(first_s + 0.2, 2))
        assert running.end() == 0
