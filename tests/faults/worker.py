"""Worker processes that use the product, and the fork server that starts, reports and kills them.

`python -m tests.faults.worker FD` imports everything once, then forks a worker for each task that it reads from
its standard input; it reports on the pipe FD when one has started, stopped or ended. A worker records each request
and each response in a file, line by line, so that the records outlive it.

A task is one of the functions in `TASKS`. Whether a run was correct is decided in `oracle`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import random
import resource
import selectors
import signal
import sys
import threading
import time
import traceback
import urllib.request
from collections import Counter
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg  # noqa: F401 -- before the fork, once

import bindings.store.deadline_connection  # noqa: F401 -- before the fork, once
from bindings import failpoints, settings
from bindings.errors import BindingsError, Busy
from bindings.jobs import phone_sealing
from bindings.provider.circuit import MAX_UNCLEAR_RETRY_S
from bindings.provider.client import ProviderClient
from bindings.scheduler import Scheduler
from bindings.service import BindingService
from bindings.store import migrations
from bindings.store import phone_sealing as phone_rows
from bindings.validation import requests as validation
from tests.faults.clock import SharedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding

Step = Literal[
    "bind", "replace", "unbind", "unbind_all", "move", "time", "sweep", "recover", "reconcile", "foreign", "list"
]
BIND_FAULTS = (
    *("lost_reply", "reset_before", "reset_after", "anomaly_after", "anomaly_before", "bad_gateway", "cut_body"),
    *("bad_gateway_after", "garbage", "truncated", "redirect", "refuse:-41", "refuse:-1"),
)
UNBIND_FAULTS = ("lost_reply", "reset_before", "reset_after", "bad_gateway", "cut_body", "garbage")
LIFETIMES_S = (20, 120, 900, 5_000)
STEPS: tuple[Step, ...] = (
    "bind",
    "bind",
    "bind",
    "replace",
    "unbind",
    "move",
    "unbind_all",
    "time",
    "sweep",
    "recover",
    "reconcile",
    "foreign",
    "list",
)
COVERAGE_ROUNDS = 3
RELEASES = 3
PLAIN_BINDS = 4  # of `take_over`, before it replaces
TAKEOVER_S = 11  # longer than a successor waits for its predecessor
SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP}


class Abandoned(BaseException):
    """Ends a call of the product in the middle, as the end of its process would."""


class Worker:
    """One task: a service, its clock, its random numbers, and the file of its records."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.rng = random.Random(f"{task['seed']}/{task.get('name', '')}")
        self.clock = SharedClock(Path(task["clock"]), task.get("server"))
        self._records = os.open(task["records"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._count = 0
        self.service = self._open() if task.get("open", True) else None

    def _open(self) -> BindingService:
        return BindingService.open(clock=self.clock.host_clock, **self.task["settings"])

    @property
    def open_service(self) -> BindingService:
        assert self.service is not None
        return self.service

    def record(self, **line: Any) -> None:
        """Append a record in one write, so that a killed process leaves whole lines."""
        os.write(self._records, (json.dumps(line | {"worker": self.task["prefix"]}) + "\n").encode())

    def control(self, name: str, *, method: str = "POST", **body: Any) -> Any:
        """Send a control call to the simulator and return its response."""
        url = f"{self.task['settings']['provider_url']}/_simulator/{name}"
        request = urllib.request.Request(url, data=json.dumps(body).encode(), method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def fault(self, kind: str, call: str) -> None:
        """Make the next call of this kind fail."""
        self.control("faults", kind=kind, times=1, on=call)

    def phone(self) -> str:
        """Return a phone that no other worker and no earlier call of this one has returned."""
        self._count += 1
        return f"9180{int(self.task['prefix']):04d}{self._count:04d}"

    def tag(self) -> str:
        """Return a new pool number: it identifies the intent in the request and in the row."""
        self._count += 1
        return f"9{int(self.task['prefix']):05d}{self._count:06d}"

    def bind(
        self,
        phone_a: str,
        phone_b: str,
        expire_s: int,
        *,
        mode: str = "AXB",
        key: str | None = None,
        warn_s: int | None = None,
        max_expire_s: int | None = None,
    ) -> str:
        """Bind, and record the request and the response; return the binding's id, or '' if there is none."""
        request = {
            "phone_a": phone_a,
            "phone_b": phone_b,
            "pool_number": self.tag(),
            "expire_s": expire_s,
            "mode": mode,
            "idempotency_key": key,
            "warn_s": warn_s,
            "max_expire_s": max_expire_s,
        }
        self.record(kind="request", request=request)
        return self.send(request)

    def send(self, request: dict[str, Any]) -> str:
        """Send a recorded bind request, for the first time or again; return the binding's id or ''."""
        key = request["idempotency_key"]
        try:
            binding = self.open_service.bind(**request)
        except BindingsError as error:
            self.record(
                kind="refused",
                id=error.binding_id,
                key=key,
                error=type(error).__name__,
                tag=request["pool_number"],
            )
            return error.binding_id or ""
        self.record_bound(binding, key)
        return binding.id

    def replace(self, binding_id: str, *, phone_b: str | None = None, key: str | None = None) -> str:
        """Replace a binding, and record the request and the response; return the successor's id or ''."""
        request = {
            "binding_id": binding_id,
            "phone_b": phone_b,
            "pool_number": self.tag(),
            "idempotency_key": key,
        }
        self.record(kind="replace_request", request=request)
        return self.send_replace(request)

    def send_replace(self, request: dict[str, Any]) -> str:
        """Send a recorded replace request, for the first time or again; return the successor's id or ''."""
        key = request["idempotency_key"]
        try:
            successor = self.open_service.replace(**request)
        except BindingsError as error:
            successor_id = None if error.binding_id == request["binding_id"] else error.binding_id
            self.record(
                kind="not_replaced",
                id=successor_id,
                key=key,
                error=type(error).__name__,
                predecessor_ended=error.predecessor_ended,
            )
            return successor_id or ""
        self.record_bound(successor, key)
        return successor.id

    def successor_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the phones and the mode of the successor that a replace request asks for."""
        replaced = self.open_service.get(request["binding_id"])
        phone_b = request["phone_b"] or replaced.phone_b
        return {"phone_a": replaced.phone_a, "phone_b": phone_b, "mode": replaced.mode}

    def abandon_replace(self, binding_id: str, *, key: str | None = None) -> None:
        """Replace a binding by a call that ends as soon as the takeover is committed: its successor waits."""
        hook = failpoints._hook

        def abandon(name: str) -> None:
            if hook is not None:
                hook(name)
            if name == "replace.after_begin":
                raise Abandoned

        failpoints.install(abandon)
        with contextlib.suppress(Abandoned):
            self.replace(binding_id, key=key)
        failpoints.install(hook)

    def record_bound(self, binding: Binding, key: str | None) -> None:
        """Record that a binding was returned to a caller."""
        expires_at = None if binding.expires_at is None else binding.expires_at.isoformat()
        self.record(
            kind="bound",
            id=binding.id,
            bind_id=binding.bind_id,
            expires_at=expires_at,
            key=key,
            state=binding.state,
        )

    def unbind(self, binding_id: str) -> None:
        try:
            ended = self.open_service.unbind(binding_id)
        except BindingsError as error:
            self.record(kind="unbind_failed", id=binding_id, error=type(error).__name__)
        else:
            self.record(kind="unbound", id=ended.id, state=ended.state)

    def extend(self, binding_id: str, expire_s: int) -> None:
        self._move_end(lambda: self.open_service.extend(binding_id, expire_s=expire_s), binding_id)

    def shorten(self, binding_id: str, after_s: int) -> None:
        self._move_end(lambda: self.open_service.unbind(binding_id, after_s=after_s), binding_id)

    def _move_end(self, move: Callable[[], Binding], binding_id: str) -> None:
        try:
            self.record_bound(move(), None)
        except BindingsError as error:
            self.record(kind="not_moved", id=binding_id, error=type(error).__name__)

    def unbind_all(self, phone: str) -> None:
        try:
            result = self.open_service.unbind_all(phone=phone, reason="test")
        except BindingsError as error:
            self.record(kind="unbind_failed", id=None, error=type(error).__name__)
            return
        for binding in result.bindings:
            if binding.state.terminal:
                self.record(kind="unbound", id=binding.id, state=binding.state)

    def run_jobs(self) -> None:
        """Run what a restarted process runs first, and recover again: it releases what has just expired."""
        self.open_service.recover()
        counts = self.open_service.reconcile()
        self.open_service.warn_due()
        self.open_service.expire_due()
        self.open_service.recover()
        self.record(kind="reconciled", adopted=counts.adopted, absent=counts.absent, orphans=counts.orphans)


def scenario(worker: Worker) -> None:
    """Run random steps of every kind, then coverage rounds, which together reach every fail point."""
    rng = worker.rng
    phones = [worker.phone() for _ in range(5)]
    if rng.random() < 0.5:
        worker.control("settings", shuffle_pages=True)
    for _ in range(rng.randrange(7)):
        _random_step(worker, phones)
    # The rounds need calls that are sent, with their own faults, and a list that can be read to its end: no fault
    # may be left, no circuit open, and no page cut to a few rows, whose order may change.
    worker.control("faults", method="DELETE")
    worker.control("settings", max_page_rows=None)
    worker.clock.advance(MAX_UNCLEAR_RETRY_S + 1)
    for _ in range(COVERAGE_ROUNDS):
        coverage_round(worker)


def _random_step(worker: Worker, phones: list[str]) -> None:  # noqa: C901, PLR0912 -- one case per kind
    rng = worker.rng
    match rng.choice(STEPS):
        case "bind":
            if rng.random() < 0.4:
                worker.fault(rng.choice(BIND_FAULTS), "bind")
            key = _random_key(worker)
            a, b = rng.sample(phones, 2)
            expire_s, mode = rng.choice(LIFETIMES_S), rng.choice(("AXB", "AXXB"))
            longest = rng.choice((None, 2 * expire_s))
            worker.bind(
                a, b, expire_s, mode=mode, key=key, warn_s=rng.choice((None, expire_s // 2)), max_expire_s=longest
            )
        case "replace":
            ended_or_live = worker.open_service.search(state=rng.choice(("active", "active", "expired"))).data
            if ended_or_live:
                if rng.random() < 0.4:
                    on, faults = rng.choice((("bind", BIND_FAULTS), ("unbind", UNBIND_FAULTS)))
                    worker.fault(rng.choice(faults), on)
                replaced = rng.choice(ended_or_live)
                others = (None, worker.phone(), *(phone for phone in phones if phone != replaced.phone_a))
                worker.replace(replaced.id, phone_b=rng.choice(others), key=_random_key(worker))
        case "unbind":
            live = worker.open_service.search(state="active").data
            if live:
                if rng.random() < 0.4:
                    worker.fault(rng.choice(UNBIND_FAULTS), "unbind")
                worker.unbind(rng.choice(live).id)
        case "move":
            live = worker.open_service.search(state="active").data
            if live:
                move = rng.choice((worker.extend, worker.shorten))
                move(rng.choice(live).id, rng.choice((5, 60, 900, 4_000)))
        case "unbind_all":
            if rng.random() < 0.4:
                worker.fault(rng.choice(UNBIND_FAULTS), "unbind")
            worker.unbind_all(rng.choice(phones))
        case "time":
            worker.clock.advance(rng.choice((1, 7, 30, 330, 6_000)))
        case "sweep":
            worker.open_service.warn_due()
            worker.open_service.expire_due()
        case "recover":
            worker.open_service.recover()
        case "reconcile":
            if rng.random() < 0.3:
                worker.control("faults", kind="bad_gateway", times=rng.randint(1, 4), on="page")
            worker.open_service.reconcile()
        case "list":
            worker.control(
                "settings", total_offset=rng.choice((0, 5, 10**6)), max_page_rows=rng.choice((None, 1, 3))
            )
        case "foreign":
            foreign = {"phone_a": worker.phone(), "phone_b": rng.choice((worker.phone(), phones[0]))}
            worker.control(
                "foreign", **foreign, app_id=worker.open_service.settings.provider_app_id, pool_number="918806"
            )


def _random_key(worker: Worker) -> str | None:
    """Return a new idempotency key, or None."""
    rng = worker.rng
    return f"{worker.task['prefix']}-{rng.randrange(1_000_000)}" if rng.random() < 0.5 else None


def coverage_round(worker: Worker) -> None:
    """Bind with and without a clear response, or a held phone; move ends; replace; unbind; and run every job."""
    key = f"{worker.task['prefix']}-{worker.tag()}"
    worker.bind(worker.phone(), worker.phone(), 20_000, mode="AXXB", key=key, warn_s=19_500)
    worker.fault("lost_reply", "bind")
    worker.bind(worker.phone(), worker.phone(), 900, key=key + "-lost")
    worker.fault("lost_reply", "bind")
    worker.bind(worker.phone(), worker.phone(), 900, mode="AXXB")  # no look adopts it
    worker.fault("reset_before", "bind")
    worker.bind(worker.phone(), worker.phone(), 5_000)
    phone = worker.phone()
    clear = worker.bind(phone, worker.phone(), 900)
    worker.bind(phone, worker.phone(), 900)
    unclear = worker.bind(worker.phone(), worker.phone(), 900)
    worker.fault("lost_reply", "unbind")
    for binding_id in (unclear, clear):
        if binding_id:
            worker.unbind(binding_id)
    promised_less = worker.bind(worker.phone(), worker.phone(), 400, max_expire_s=5_000, warn_s=100)
    if promised_less:
        worker.extend(promised_less, 900)
        worker.shorten(promised_less, 700)
    released = worker.phone()
    worker.bind(released, worker.phone(), 900)
    worker.unbind_all(released)
    replaced = worker.bind(worker.phone(), worker.phone(), 900)
    if replaced:
        worker.replace(replaced, phone_b=worker.phone(), key=key + "-replace")
    app_id = worker.open_service.settings.provider_app_id
    worker.control("foreign", phone_a=worker.phone(), phone_b=worker.phone(), app_id=app_id, pool_number="918806")
    worker.control("settings", total_offset=0)
    abandoned, unconfirmed = (worker.bind(worker.phone(), worker.phone(), 900) for _ in range(2))
    if abandoned and unconfirmed:
        worker.abandon_replace(abandoned, key=key + "-abandoned")
        worker.fault("refuse:-1", "unbind")
        worker.replace(unconfirmed, key=key + "-unconfirmed")
    worker.clock.advance(330)
    worker.open_service.recover()
    worker.open_service.maintenance.look()
    worker.open_service.reconcile()
    worker.clock.advance(700)
    worker.open_service.warn_due()
    worker.open_service.count_pools()
    worker.open_service.expire_due()
    worker.open_service.recover()


def release(worker: Worker) -> None:
    """Let promised ends come, and release the bindings at the provider."""
    for _ in range(RELEASES):
        worker.bind(worker.phone(), worker.phone(), 60, max_expire_s=5_000)
    worker.clock.advance(61)
    worker.open_service.expire_due()
    worker.open_service.recover()


def take_over(worker: Worker) -> None:
    """Replace a binding by another party; one whose end is not confirmed; and one by a call that stops."""
    plain, abandoned, unconfirmed, _witness = (
        worker.bind(worker.phone(), worker.phone(), 20_000) for _ in range(PLAIN_BINDS)
    )
    key = worker.task["prefix"]
    worker.replace(plain, phone_b=worker.phone(), key=key)
    worker.abandon_replace(abandoned, key=key + "-abandoned")
    worker.clock.advance(TAKEOVER_S)
    worker.open_service.recover()
    worker.fault("refuse:-1", "unbind")
    worker.replace(unconfirmed, phone_b=worker.phone(), key=key + "-unconfirmed")


def restart(worker: Worker) -> None:
    """Run the jobs of a restart; stop for the oracle; run them again when absence is provable; then finish."""
    # While the total is wrong, no absence can be proved; and rows that change their pages may be overlooked.
    worker.control("settings", total_offset=0, shuffle_pages=False)
    worker.run_jobs()
    _pause()
    worker.clock.advance(worker.task["age_s"])
    worker.run_jobs()
    _pause()
    finish(worker)


def _pause() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def finish(worker: Worker) -> None:
    """Repeat every idempotency key, let every binding end, run the jobs, and record phones that are still held."""
    requests = worker.task["requests"]
    for request in requests:
        if request["idempotency_key"]:
            worker.send(request)
    for request in worker.task["replaces"]:
        if request["idempotency_key"]:
            worker.send_replace(request)
    worker.clock.advance(worker.task["beyond_s"])
    worker.run_jobs()
    worker.run_jobs()  # an unbind in doubt may have been repeated only by the first run
    for request in [*requests, *map(worker.successor_request, worker.task["replaces"])]:
        holders = worker.open_service.check(**{name: request[name] for name in ("phone_a", "phone_b", "mode")})
        if holders:
            worker.record(kind="stuck", holder=str(holders[0].id), why=holders[0].why)


def run_binds(worker: Worker) -> None:
    """Send every bind request of the task, once."""
    for request in worker.task["requests"]:
        worker.record(kind="request", request=request)
        worker.send(request)


def run_unbind(worker: Worker) -> None:
    worker.unbind(worker.task["id"])


def run_job(worker: Worker) -> None:
    """Run one job of the service, by its method's name."""
    counts = getattr(worker.open_service, worker.task["job"])()
    worker.record(kind="job", counts=str(counts))


def encrypt_phones(worker: Worker) -> None:
    """Encrypt the stored phones, `batch` rows in a transaction."""
    phone_rows.BATCH = worker.task["batch"]
    result = phone_sealing.seal(worker.open_service.runtime)
    worker.record(kind="encrypted", complete=result.complete, converted=result.converted)


def migrate(worker: Worker) -> None:
    migrations.upgrade(worker.task["settings"]["database_url"])


def load(worker: Worker) -> None:
    """Bind with short lives, unbind at random and run jobs, with many threads on few phones, for `seconds`."""
    until = time.monotonic() + worker.task["seconds"]
    lock = threading.Lock()
    tags = iter(range(1_000_000))
    counts: Counter[str] = Counter()

    def call_repeatedly(number: int) -> None:
        rng = random.Random(f"{worker.task['seed']}/{worker.task['prefix']}/{number}")
        while time.monotonic() < until:
            a, b = rng.sample(worker.task["phones"], 2)
            with lock:
                tag = f"9{int(worker.task['prefix']):05d}{next(tags):06d}"
            mode = "AXB" if rng.random() < 0.7 else "AXXB"
            try:
                binding = worker.open_service.bind(
                    phone_a=a, phone_b=b, pool_number=tag, expire_s=rng.randint(1, 3), mode=mode
                )
            except BindingsError as error:
                counts[type(error).__name__] += 1
                continue
            except Exception as error:  # noqa: BLE001 -- any error must appear in the counts
                counts[f"UNEXPECTED {error!r}"] += 1
                continue
            worker.record_bound(binding, None)
            counts["bound"] += 1
            if rng.random() < 0.4:
                with contextlib.suppress(BindingsError):
                    worker.open_service.unbind(binding.id)
                    counts["unbound"] += 1

    threads = [
        threading.Thread(target=call_repeatedly, args=(number,)) for number in range(worker.task["threads"])
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        for run_job in (
            worker.open_service.expire_due,
            worker.open_service.recover,
            worker.open_service.reconcile,
        ):
            with contextlib.suppress(Busy):  # no connection was free in time: the next round runs it
                run_job()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    worker.record(kind="load", counts=counts)


ENDED = "ended"


def replace_again(worker: Worker) -> None:
    """Replace a binding by another party, `replacements` times; name the new phone in the file `target`."""
    target, counts = Path(worker.task["target"]), Counter[str]()
    binding_id = worker.bind(worker.task["shared"], worker.phone(), 3_600)
    for _ in range(worker.task["replacements"]):
        phone_b = worker.phone()

        def name_the_phone(name: str, phone_b: str = phone_b) -> None:
            if name == "replace.after_begin":
                target.write_text(phone_b)

        failpoints.install(name_the_phone)
        successor_id = worker.replace(binding_id, phone_b=phone_b)
        counts["replaced" if successor_id else "lost"] += 1
        binding_id = successor_id or binding_id
    target.write_text(ENDED)
    worker.record(kind="replaced", counts=counts)


def compete(worker: Worker) -> None:
    """Bind the shared phone and the one that the file `target` names, all the time, until that says `ENDED`."""
    target, counts = Path(worker.task["target"]), Counter[str]()
    numbers = itertools.count()

    def named() -> str:
        return target.read_text() if target.exists() else ""

    def bind_repeatedly(role: str) -> None:
        while (phone := named()) != ENDED:
            phone = worker.task["shared"] if role == "shared" else phone
            if not named():
                continue
            with lock:
                number = next(numbers)
            try:
                worker.open_service.bind(
                    phone_a=f"9181{number:08d}",
                    phone_b=phone,
                    pool_number=f"8{number:08d}",
                    expire_s=1,
                    mode="AXB",
                )
                counts[f"bound {role}"] += 1
            except BindingsError:
                counts[f"refused {role}"] += 1

    lock = threading.Lock()
    threads = [threading.Thread(target=bind_repeatedly, args=(role,)) for role in ("shared", "new")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.record(kind="competed", counts=counts)


def same_key(worker: Worker) -> None:
    """Bind with one key in several threads simultaneously, as soon as the start signal's file exists."""
    request = worker.task["requests"][0]
    ready = threading.Barrier(worker.task["threads"] + 1)

    def bind() -> None:
        ready.wait()
        worker.send(request)

    threads = [threading.Thread(target=bind) for _ in range(worker.task["threads"])]
    for thread in threads:
        thread.start()
    while not Path(worker.task["start_signal"]).exists():
        time.sleep(0.002)
    ready.wait()
    for thread in threads:
        thread.join()


def schedule(worker: Worker) -> None:
    """Run a scheduler until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Scheduler(worker.open_service) as scheduler:
        worker.record(kind="scheduling")
        while not stop.wait(0.1):
            if scheduler.stalled():
                worker.record(kind="stalled", jobs=scheduler.stalled())
    worker.record(kind="stopped")


def print_lines(worker: Worker) -> None:
    """Print to both standard streams, as libraries do, before and after a stop."""
    for _ in range(2):
        print("four words at least", flush=True)  # noqa: T201 -- the purpose of the job
        print("ended 1 0", flush=True)  # noqa: T201
        print("four words at least", file=sys.stderr, flush=True)  # noqa: T201
        _pause()


TASKS: dict[str, Callable[[Worker], None]] = {
    task.__name__: task
    for task in (
        scenario,
        release,
        take_over,
        restart,
        run_binds,
        run_unbind,
        run_job,
        encrypt_phones,
        migrate,
        load,
        replace_again,
        compete,
        same_key,
        schedule,
        print_lines,
    )
}


def signal_hook(worker: Worker) -> Callable[[str], None]:
    """Return a fail point hook that signals this process at the nth reach of a name; RECORD records every name."""
    hook = worker.task["hook"]
    if hook["signal"] == "RECORD":
        return lambda name: worker.record(kind="reached", name=name)
    remaining = hook["nth"]

    def reached(name: str) -> None:
        nonlocal remaining
        if name != hook["name"]:
            return
        remaining -= 1
        if remaining == 0:
            os.kill(os.getpid(), SIGNALS[hook["signal"]])

    return reached


def run(task: dict[str, Any]) -> int:
    """Run one task in this process; return its exit code."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Path(task["log"]).open("a", buffering=1) as log:
        logging.basicConfig(stream=log, level=logging.WARNING, force=True)
        try:
            worker = Worker(task | {"open": task["task"] != "migrate"})
            if task.get("hook"):
                failpoints.install(signal_hook(worker))
            TASKS[task["task"]](worker)
        except BaseException:  # noqa: BLE001 -- the test reads the log
            traceback.print_exc(file=log)
            return 1
    return 0


def warm() -> None:
    """Import what is imported at first use, once for all workers: a fork is a start without imports."""
    fields: dict[str, Any] = {"pool_number": "1", "expire_s": 1, "mode": "AXB", "app_id": "a"}
    request = validation.bind_request(phone_a="9188067701", phone_b="9188067799", **fields)
    client = ProviderClient(
        base_url="http://127.0.0.1:1", path_prefix="", api_key="", api_secret="", timeout_s=1.0, zone=UTC
    )  # refused: no server listens there
    client.bind(request, send_before=time.monotonic() + 1)
    settings.load({})


class ForkServer:
    """Starts and kills workers on command, and reports when one has started, stopped or ended.

    Commands are JSON lines on the standard input: `{"start": task}` or `{"kill": pid}`. Each report is one write
    of one line, `started|stopped|ended PID CODE`, to a pipe that no worker keeps open.
    """

    def __init__(self, reports: int) -> None:
        self._reports = reports
        self._children: set[int] = set()

    def serve(self) -> None:
        """Run until the standard input ends; then kill the workers that are left, and wait for their ends."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(wake_read, selectors.EVENT_READ)
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        buffered = b""
        reading = True
        while reading or self._children:
            for key, _ in selector.select():
                if key.fd == wake_read:
                    os.read(wake_read, 4_096)
                    continue
                data = os.read(key.fd, 65_536)
                if not data:
                    selector.unregister(key.fd)
                    reading = False
                    for child in self._children:  # no process could continue a stopped one
                        os.kill(child, signal.SIGKILL)
                buffered += data
            *lines, buffered = buffered.split(b"\n")
            for line in lines:
                self._obey(json.loads(line))
            self._report_changes()

    def _obey(self, command: dict[str, Any]) -> None:
        if "start" in command:
            self._children.add(self._fork(command["start"]))
        elif command["kill"] in self._children:  # a child keeps its number until its end was reported
            os.kill(command["kill"], signal.SIGKILL)

    def _fork(self, job: dict[str, Any]) -> int:
        pid = os.fork()
        if pid == 0:
            os.close(self._reports)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(run(job))
        self._report("started", pid, 0)
        return pid

    def _report_changes(self) -> None:
        """Report every child that has stopped or ended since the last call."""
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._report("stopped", pid, 0)
                continue
            self._children.discard(pid)
            self._report("ended", pid, os.waitstatus_to_exitcode(status))

    def _report(self, event: str, pid: int, code: int) -> None:
        os.write(self._reports, f"{event} {pid} {code}\n".encode())


if __name__ == "__main__":
    warm()
    ForkServer(int(sys.argv[1])).serve()
