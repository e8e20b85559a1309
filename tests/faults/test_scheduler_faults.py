"""R7: sweepers stand still, jobs hang and raise, the wall clock jumps; nothing is answered wrong meanwhile."""

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
from tests.service.harness import POOL, A, B, World, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.jobs.expire import ExpireResult
    from tests.faults.harness import Arena, Lab

pytestmark = pytest.mark.processes

INTERVAL_S = 1.0
SOON_S = 3 * INTERVAL_S + 8.0  # three intervals, and what a busy machine adds
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
DAY_S = 86_400.0


def test_R7_a_day_without_sweepers_gives_no_wrong_answer(world: World) -> None:
    made = world.bind(A, B, expire_s=60)
    world.clock.advance(DAY_S)
    assert world.service.get(made.id).state is State.ACTIVE, "nobody has swept"
    assert world.service.lookup(phone=A) == []
    assert world.service.lookup(middle_number=made.middle_number_a) == []
    assert world.service.check(phone_a=A, phone_b=B, mode="AXB") == []
    assert (
        world.service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE
    )
    assert world.service.expire_due().expired == 1
    ended = world.service.get(made.id)
    assert (ended.state, ended.ended_at) == (State.EXPIRED, made.expires_at)


def test_what_a_timer_does_is_written_under_its_own_name(world: World) -> None:
    made = world.bind(A, B, expire_s=60, warn_s=30)
    world.clock.advance(61)
    with Scheduler(world.service):
        wait_for(lambda: world.service.get(made.id).state is State.EXPIRED)
    assert [event.actor for event in world.service.history(made.id)] == ["test", "test", "scheduler"]


@pytest.mark.parametrize("kind", DATABASES)
def test_R7_a_sweep_that_hangs_turns_readiness_red_and_later_ones_run(
    lab: Lab, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    with lab.arena(kind, sweep_interval_s=0.2) as arena, arena.service() as service:
        expire_due, calls = Maintenance.expire_due, []

        def hang_once(maintenance: Maintenance) -> ExpireResult:
            calls.append(time.monotonic())
            if len(calls) == 1:
                release.wait(30)
            return expire_due(maintenance)

        monkeypatch.setattr(Maintenance, "expire_due", hang_once)
        with Scheduler(service) as scheduler:
            wait_for(lambda: scheduler.stalled() == ["expire"])
            assert len(calls) == 1
            release.set()
            wait_for(lambda: len(calls) > 3 and not scheduler.stalled())


@pytest.mark.parametrize("error", [RuntimeError("planted"), SystemExit(3), MemoryError()])
def test_R7_a_sweep_that_raises_turns_readiness_red_and_is_tried_again(
    lab: Lab, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.arena("sqlite", sweep_interval_s=0.2) as arena, arena.service() as service:
        expire_due, well, calls = Maintenance.expire_due, threading.Event(), []

        def raise_at_first(maintenance: Maintenance) -> ExpireResult:
            calls.append(time.monotonic())
            if not well.is_set():
                raise error
            return expire_due(maintenance)

        monkeypatch.setattr(Maintenance, "expire_due", raise_at_first)
        with Scheduler(service) as scheduler:
            wait_for(lambda: scheduler.stalled() == ["expire"])
            assert len(calls) > 3, "it is tried again all the while"
            well.set()
            wait_for(lambda: not scheduler.stalled())


@pytest.mark.postgres
def test_R7_a_sweep_that_waits_for_somebody_elses_lock_is_red_and_goes_on_afterwards(lab: Lab) -> None:
    with lab.arena("postgresql", sweep_interval_s=0.2) as arena, arena.service() as service:
        made = service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=1, mode="AXB")
        with psycopg.connect(arena.url) as other:
            other.execute("LOCK TABLE bindings IN ACCESS EXCLUSIVE MODE")
            with Scheduler(service) as scheduler:
                wait_for(lambda: "expire" in scheduler.stalled())
                other.rollback()
                wait_for(lambda: not scheduler.stalled())
                wait_for(lambda: service.get(made.id).state is State.EXPIRED)


class Timer:
    """A scheduler in a process of its own; `told` are its lines: (monotonic seconds, what)."""

    def __init__(self, settings: dict[str, Any], folder: Path, environment: dict[str, str]) -> None:
        file = folder / "timer.json"
        file.write_text(json.dumps(settings))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.timer", str(file)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if not k.startswith("BINDINGS_")} | environment,
        )
        self.told: list[tuple[float, str]] = []
        self._buffered = b""

    def await_sweep(self, after: float, *, within_s: float) -> float | None:
        """Wait for the first sweep after a reading of the monotonic clock; how long after, or None."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for at, what in self.told:
                if what == "sweep" and at > after:
                    return at - after
            self._listen(deadline - time.monotonic())
        return None

    def _listen(self, within_s: float) -> None:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout.fileno(), selectors.EVENT_READ)
            if not selector.select(max(0.0, within_s)):
                return
        data = os.read(self.process.stdout.fileno(), 65_536)
        if not data:
            raise AssertionError("the scheduler has ended")
        *lines, self._buffered = (self._buffered + data).split(b"\n")
        for line in lines:
            at, what = line.decode().split()
            self.told.append((float(at), what))

    def end(self) -> int:
        """Ask it to stop; its exit code, or minus SIGKILL where it did not within ten seconds."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        self.process.stdout.close()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(10)


@contextmanager
def timer(arena: Arena, how: str) -> Iterator[tuple[Timer, SharedClock]]:
    """A running scheduler, and the shift of its wall clock; the sweep interval is a second."""
    wall = SharedClock(arena.folder / "wall")
    settings = arena.given() | {
        "sweep_interval_s": INTERVAL_S,
        "provider_api_key": None,
        "provider_api_secret": None,
    }
    environment: dict[str, str] = {}
    if how == "patched":
        settings["wall"] = str(wall.file)
    else:
        stamp = arena.folder / "stamp"
        stamp.write_text("+0")
        environment = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(stamp),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    started = Timer({k: v for k, v in settings.items() if v is not None}, arena.folder, environment)
    try:
        assert started.await_sweep(0.0, within_s=30) is not None
        yield started, wall
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait(10)


def jump(arena: Arena, wall: SharedClock, how: str, by_s: float) -> float:
    """Set the wall clock, to seconds ahead of the machine's; the monotonic reading at which that was done."""
    if how == "patched":
        wall.advance(by_s - wall.shift)
    else:
        new = arena.folder / "stamp.new"
        new.write_text(f"{by_s:+.0f}")
        shutil.move(new, arena.folder / "stamp")
    return time.monotonic()


JUMPS_S = {"+62 s": 62.0, "-60 s": -60.0, "+1 h": 3_600.0, "-1 h": -3_600.0, "+1 y": 365 * DAY_S}
NO_FAKETIME = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")


@pytest.mark.parametrize("how", ["patched", pytest.param("faketime", marks=[pytest.mark.soak, NO_FAKETIME])])
def test_R7_a_sweep_starts_soon_whenever_the_wall_clock_jumps(lab: Lab, how: str) -> None:
    with lab.arena("sqlite") as arena, timer(arena, how) as (running, wall):
        shift = 0.0
        for name, by_s in JUMPS_S.items():
            shift += by_s
            jumped = jump(arena, wall, how, shift)
            first = running.await_sweep(jumped + 0.2, within_s=SOON_S)
            assert first is not None, f"no sweep started after {name}"
            assert running.await_sweep(jumped + first + 0.2, within_s=SOON_S) is not None, f"only one after {name}"
            report(what="jump", name=name, how=how, first_sweep_s=round(first + 0.2, 2))
        assert running.end() == 0
