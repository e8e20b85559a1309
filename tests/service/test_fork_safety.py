"""What objects do when the process forks: locks are free in the child, and what cannot go on there says so."""

from __future__ import annotations

import importlib
import math
import os
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from bindings import errors, fork_safety
from bindings.fork_safety import ForkSafeLock, ForkSensitive, ProcessMark
from bindings.provider.simulator import Simulator
from bindings.scheduler import Scheduler
from bindings.store.connection_limit import ConnectionLimit
from bindings.webhooks.sender import WebhookSender
from tests.forking import ChildResult, run_in_child
from tests.service.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bindings.service import BindingService


@contextmanager
def held_by_another_thread(lock: AbstractContextManager[object]) -> Iterator[None]:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(10)
    try:
        yield
    finally:
        leave.set()
        thread.join()


def enter(lock: AbstractContextManager[object]) -> str:
    with lock:
        return "entered"


def test_lock_that_another_thread_holds_is_free_in_the_child_and_held_in_the_parent() -> None:
    lock = ForkSafeLock()
    with held_by_another_thread(lock):
        assert run_in_child(lambda: enter(lock)).value == "entered"
        assert not lock._lock.acquire(blocking=False)
    assert enter(lock) == "entered"


def test_child_of_a_child_gets_free_locks_too() -> None:
    lock = ForkSafeLock()
    with held_by_another_thread(lock):
        assert run_in_child(lambda: run_in_child(lambda: enter(lock)).value).value == "entered"


def test_hooks_run_once_per_fork_in_order_and_only_while_the_object_is_referenced() -> None:
    calls: list[str] = []

    class Watched(ForkSensitive):
        def before_fork(self) -> None:
            calls.append("before")

        def after_fork_in_parent(self) -> None:
            calls.append("parent")

        def after_fork_in_child(self) -> None:
            calls.append("child")

    watched = Watched()
    watched.watch_forks()
    assert run_in_child(lambda: list(calls)).value == ["before", "child"]
    assert calls == ["before", "parent"]
    del watched
    run_in_child(list)
    assert calls == ["before", "parent"]


def test_hook_may_wait_for_a_thread_that_makes_another_such_object() -> None:
    made = threading.Event()

    def make_another() -> None:
        ForkSafeLock()
        made.set()

    class Waits(ForkSensitive):
        def before_fork(self) -> None:
            threading.Thread(target=make_another).start()
            assert made.wait(10)

    waits = Waits()
    waits.watch_forks()
    assert run_in_child(made.is_set).value is True
    del waits


def test_mark_refuses_in_a_child_with_what_to_do() -> None:
    mark = ProcessMark()
    mark.check("this thing", "make a new one")
    refused = run_in_child(lambda: mark.check("this thing", "make a new one"))
    assert refused.is_refusal
    assert refused.message.endswith("make a new one")


@pytest.mark.parametrize(
    "use", [Scheduler.start, Scheduler.stalled, Scheduler.ages_s], ids=["start", "stalled", "ages_s"]
)
def test_scheduler_refuses_in_a_child_and_its_end_does_nothing_there(
    service: BindingService, use: Callable[[Scheduler], object]
) -> None:
    with Scheduler(service) as scheduler:
        assert run_in_child(lambda: use(scheduler)).is_refusal
        assert run_in_child(scheduler.stop).error is None
        assert "expire" in scheduler.ages_s()


def test_webhook_sender_refuses_in_a_child_and_its_end_does_nothing_there(service: BindingService) -> None:
    with WebhookSender(service.runtime) as sender:
        refused = run_in_child(sender.run)
        assert refused.is_refusal
        assert run_in_child(sender.stop).error is None
        assert sender.run().delivered == 0


def test_simulator_refuses_in_a_child_which_may_call_it_by_its_url() -> None:
    with Simulator() as simulator:
        refused = run_in_child(lambda: simulator.script("lost_reply", times=1))
        assert refused.is_refusal
        assert run_in_child(simulator.stop).error is None
        assert run_in_child(lambda: simulator.url).value == simulator.url
        assert simulator.counts.received == {}


def test_child_has_every_bind_slot_and_a_name_of_its_own(service: BindingService) -> None:
    admission, replica = service.runtime.admission, service.runtime.replica

    def use() -> str:
        with admission.slot("app"):
            return service.runtime.replica

    with ExitStack() as slots:
        for _ in range(service.runtime.settings.bind_limit):
            slots.enter_context(admission.slot("app"))
        with pytest.raises(errors.Busy), admission.slot("app"):
            pass
        assert run_in_child(use).value not in (None, replica)
    assert use() == replica


class LetImportEnd(ForkSensitive):
    """Lets the module that reads `pipe` go on when the fork begins, and not before."""

    def __init__(self, pipe: Path) -> None:
        self._pipe = pipe
        self.watch_forks()

    def before_fork(self) -> None:
        self._pipe.open("wb").close()


def test_fork_waits_for_an_import_of_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of a module that is being imported would never be free in the child."""
    name, pipe = "imported_at_the_fork", tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / f"{name}.py").write_text(
        f"with open({str(pipe)!r}, 'rb') as pipe:\n    pipe.read()\nREADY = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    thread = threading.Thread(target=importlib.import_module, args=(name,), daemon=True)
    thread.start()
    wait_for(lambda: name in sys.modules)
    let_import_end = LetImportEnd(pipe)
    child = run_in_child(lambda: importlib.import_module(name).READY)
    del let_import_end
    thread.join(60)
    sys.modules.pop(name)
    assert (child.value, child.message) == (True, "")


def test_fork_during_an_import_that_does_not_end_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a script may run a server while it is imported, and a fork of another thread waited for it."""
    monkeypatch.setattr(fork_safety, "LONGEST_IMPORT_S", 0.2)
    name, pipe = "imported_until_the_end", tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / f"{name}.py").write_text(f"with open({str(pipe)!r}, 'rb') as pipe:\n    pipe.read()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    thread = threading.Thread(target=importlib.import_module, args=(name,), daemon=True)
    thread.start()
    wait_for(lambda: name in sys.modules)
    forked: list[ChildResult] = []
    forking = threading.Thread(target=lambda: forked.append(run_in_child(lambda: "child")), daemon=True)
    forking.start()
    try:
        forking.join(60)
        assert [child.value for child in forked] == ["child"]
    finally:
        pipe.open("wb").close()
        thread.join(60)
        sys.modules.pop(name)


def test_module_that_forks_while_it_is_imported_does_not_wait_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_safety, "LONGEST_IMPORT_S", 3_600.0)
    name = "forks_at_its_import"
    (tmp_path / f"{name}.py").write_text(
        "from tests.forking import ChildResult, run_in_child\nCHILD = run_in_child(lambda: 'child').value\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.import_module(name).CHILD == "child"
    sys.modules.pop(name)


@pytest.mark.parametrize("other_thread", ["waits", "holds the lock"])
def test_child_returns_a_connection_that_was_lent_before_the_fork(other_thread: str) -> None:
    """Regression: it waited without end for a thread of the parent, or failed because one waited there."""
    limit = ConnectionLimit(1)
    limit.acquire(math.inf)
    if other_thread == "holds the lock":
        with held_by_another_thread(limit._lock):
            child = run_in_child(limit.release)
        limit.release()
    else:
        waiting = threading.Thread(target=lambda: limit.acquire(time.monotonic() + 60))
        waiting.start()
        wait_for(lambda: limit._waiting == 1)
        child = run_in_child(limit.release)
        limit.release()
        waiting.join(60)
    assert (child.error, child.message) == (None, "")
