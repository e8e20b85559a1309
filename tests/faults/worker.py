"""A program that starts real processes of the product, and lets one of its fail points strike them.

`python -m tests.faults.worker` imports everything once, then forks a process for every job that it reads from its
standard input; it tells on its standard output when one has started, stopped, or ended. A worker writes what its
callers were told to a file, line by line, so that it survives the worker's own death.

What a worker does is one of the functions in `JOBS`. Nothing in here judges; that is the oracle's.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING, Any

import psycopg  # noqa: F401 -- before the fork, once, like the two that follow
import sqlalchemy.dialects.postgresql.psycopg
import sqlalchemy.dialects.sqlite.pysqlite  # noqa: F401

from bindings import failpoints
from bindings.errors import BindingsError
from bindings.provider.client import ProviderClient
from bindings.scheduler import Scheduler
from bindings.service import BindingService
from bindings.store import migrations
from bindings.validation import requests as validation
from tests.faults.clock import SharedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding

BIND_FAULTS = (
    *("lost_reply", "reset_before", "reset_after", "anomaly_after", "anomaly_before", "bad_gateway", "cut_body"),
    *("bad_gateway_after", "garbage", "truncated", "redirect", "refuse:-41", "refuse:-1"),
)
UNBIND_FAULTS = ("lost_reply", "reset_before", "reset_after", "bad_gateway", "cut_body", "garbage")
LIVES_S = (20, 120, 900, 5_000)
TOURS = 3
SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP}


class Worker:
    """One job: a service, its clock, its dice, and the file of what its callers were told."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.dice = random.Random(f"{job['seed']}/{job.get('name', '')}")
        self.clock = SharedClock(Path(job["clock"]), job.get("server"))
        self._told = os.open(job["told"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._count = 0
        self.service = self._open() if job.get("open", True) else None

    def _open(self) -> BindingService:
        return BindingService.open(clock=self.clock.host_clock, **self.job["settings"])

    @property
    def opened(self) -> BindingService:
        assert self.service is not None
        return self.service

    def tell(self, **line: Any) -> None:
        """Write a line, whole or not at all, and past this process."""
        os.write(self._told, (json.dumps(line | {"worker": self.job["prefix"]}) + "\n").encode())

    def control(self, name: str, **body: Any) -> Any:
        """A control call to the simulator."""
        url = f"{self.job['settings']['provider_url']}/_simulator/{name}"
        request = urllib.request.Request(url, data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def fault(self, kind: str, call: str) -> None:
        """Let the next call of this kind go wrong."""
        self.control("faults", kind=kind, times=1, on=call)

    def phone(self) -> str:
        """A phone that no other worker and no other call of this one has used."""
        self._count += 1
        return f"9180{int(self.job['prefix']):04d}{self._count:04d}"

    def tag(self) -> str:
        """A pool number of its own for each bind: it names the intent on the wire and in the row."""
        self._count += 1
        return f"9{int(self.job['prefix']):05d}{self._count:06d}"

    def bind(
        self,
        phone_a: str,
        phone_b: str,
        expire_s: int,
        *,
        mode: str = "AXB",
        key: str | None = None,
        warn_s: int | None = None,
    ) -> str:
        """Bind, and write down what was asked and what was told; returns the binding's id or ''."""
        asked = {
            "phone_a": phone_a,
            "phone_b": phone_b,
            "pool_number": self.tag(),
            "expire_s": expire_s,
            "mode": mode,
            "idempotency_key": key,
            "warn_s": warn_s,
        }
        self.tell(what="ask", asked=asked)
        return self.ask(asked)

    def ask(self, asked: dict[str, Any]) -> str:
        """Bind as asked, once more or for the first time."""
        key = asked["idempotency_key"]
        try:
            made = self.opened.bind(**asked)
        except BindingsError as error:
            self.tell(
                what="refused", id=error.binding_id, key=key, error=type(error).__name__, tag=asked["pool_number"]
            )
            return error.binding_id or ""
        self.told(made, key)
        return made.id

    def told(self, made: Binding, key: str | None) -> None:
        """A binding was handed to a caller."""
        ends = None if made.expires_at is None else made.expires_at.isoformat()
        self.tell(what="bound", id=made.id, bind_id=made.bind_id, expires_at=ends, key=key, state=made.state)

    def unbind(self, binding_id: str) -> None:
        try:
            ended = self.opened.unbind(binding_id)
        except BindingsError as error:
            self.tell(what="unclear", id=binding_id, error=type(error).__name__)
        else:
            self.tell(what="unbound", id=ended.id, state=ended.state)

    def passes(self) -> None:
        """What a restarted process does first: recover, one reconcile, one sweep."""
        self.opened.recover()
        counts = self.opened.reconcile()
        self.opened.warn_due()
        self.opened.expire_due()
        self.tell(what="reconciled", adopted=counts.adopted, absent=counts.absent, orphans=counts.orphans)


def story(worker: Worker) -> None:
    """Some of everything, at random; then tours that reach every fail point for certain."""
    dice = worker.dice
    phones = [worker.phone() for _ in range(5)]
    if dice.random() < 0.5:
        worker.control("settings", shuffle_pages=True)
    for _ in range(dice.randrange(7)):
        _random_step(worker, phones)
    for _ in range(TOURS):
        tour(worker)


def _random_step(worker: Worker, phones: list[str]) -> None:  # noqa: C901 -- one case for each kind of step
    dice = worker.dice
    match dice.choice(("bind", "bind", "bind", "unbind", "time", "sweep", "recover", "reconcile", "foreign")):
        case "bind":
            if dice.random() < 0.4:
                worker.fault(dice.choice(BIND_FAULTS), "bind")
            key = f"{worker.job['prefix']}-{dice.randrange(1_000_000)}" if dice.random() < 0.5 else None
            a, b = dice.sample(phones, 2)
            life, mode = dice.choice(LIVES_S), dice.choice(("AXB", "AXXB"))
            worker.bind(a, b, life, mode=mode, key=key, warn_s=dice.choice((None, life // 2)))
        case "unbind":
            live = worker.opened.search(state="active").data
            if live:
                if dice.random() < 0.4:
                    worker.fault(dice.choice(UNBIND_FAULTS), "unbind")
                worker.unbind(dice.choice(live).id)
        case "time":
            worker.clock.advance(dice.choice((1, 7, 30, 330, 6_000)))
        case "sweep":
            worker.opened.warn_due()
            worker.opened.expire_due()
        case "recover":
            worker.opened.recover()
        case "reconcile":
            if dice.random() < 0.3:
                worker.control("faults", kind="bad_gateway", times=dice.randint(1, 4), on="page")
            worker.opened.reconcile()
        case "foreign":
            planted = {"phone_a": worker.phone(), "phone_b": dice.choice((worker.phone(), phones[0]))}
            worker.control(
                "foreign", **planted, app_id=worker.opened.settings.provider_app_id, pool_number="918806"
            )


def tour(worker: Worker) -> None:
    """A binding that lives, a doubt that was made, one that was not, unbinds clear and unclear, all passes."""
    key = f"{worker.job['prefix']}-{worker.tag()}"
    worker.bind(worker.phone(), worker.phone(), 20_000, mode="AXXB", key=key, warn_s=19_500)
    worker.fault("lost_reply", "bind")
    worker.bind(worker.phone(), worker.phone(), 900, key=key + "-lost")
    worker.fault("reset_before", "bind")
    worker.bind(worker.phone(), worker.phone(), 5_000)
    clear = worker.bind(worker.phone(), worker.phone(), 900)
    unclear = worker.bind(worker.phone(), worker.phone(), 900)
    worker.fault("lost_reply", "unbind")
    for binding_id in (unclear, clear):
        if binding_id:
            worker.unbind(binding_id)
    worker.clock.advance(330)
    worker.opened.recover()
    worker.opened.reconcile()
    worker.clock.advance(700)
    worker.opened.warn_due()
    worker.opened.count_pools()
    worker.opened.expire_due()


def restart(worker: Worker) -> None:
    """The first thing after a death; stops for the oracle; again when doubts are of age; then to the end."""
    worker.passes()
    _pause()
    worker.clock.advance(worker.job["age_s"])
    worker.passes()
    _pause()
    epilogue(worker)


def _pause() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def epilogue(worker: Worker) -> None:
    """Ask every key again, let every life end, run all passes, and see that every phone is free."""
    asked = worker.job["asked"]
    for request in asked:
        if request["idempotency_key"]:
            worker.ask(request)
    worker.clock.advance(worker.job["beyond_s"])
    worker.passes()
    worker.passes()  # an unbind that was unclear may have been asked again only now
    for request in asked:
        held = worker.opened.check(**{name: request[name] for name in ("phone_a", "phone_b", "mode")})
        if held:
            worker.tell(what="stuck", holder=str(held[0].id), why=held[0].why)


def bind_one(worker: Worker) -> None:
    """Bind as the job says, once."""
    for request in worker.job["asked"]:
        worker.tell(what="ask", asked=request)
        worker.ask(request)


def unbind_one(worker: Worker) -> None:
    worker.unbind(worker.job["id"])


def run_pass(worker: Worker) -> None:
    """One pass, by name."""
    counts = getattr(worker.opened, worker.job["pass"])()
    worker.tell(what="pass", counts=str(counts))


def migrate(worker: Worker) -> None:
    migrations.upgrade(worker.job["settings"]["database_url"])


def load(worker: Worker) -> None:
    """Many threads on few phones: binds with short lives, random unbinds, passes; for `seconds`."""
    until = time.monotonic() + worker.job["seconds"]
    lock = threading.Lock()
    tags = iter(range(1_000_000))
    counts: Counter[str] = Counter()

    def one(number: int) -> None:
        dice = random.Random(f"{worker.job['seed']}/{worker.job['prefix']}/{number}")
        while time.monotonic() < until:
            a, b = dice.sample(worker.job["phones"], 2)
            with lock:
                tag = f"9{int(worker.job['prefix']):05d}{next(tags):06d}"
            mode = "AXB" if dice.random() < 0.7 else "AXXB"
            try:
                made = worker.opened.bind(
                    phone_a=a, phone_b=b, pool_number=tag, expire_s=dice.randint(1, 3), mode=mode
                )
            except BindingsError as error:
                counts[type(error).__name__] += 1
                continue
            except Exception as error:  # noqa: BLE001 -- whatever it is, the run must show it
                counts[f"UNEXPECTED {error!r}"] += 1
                continue
            worker.told(made, None)
            counts["bound"] += 1
            if dice.random() < 0.4:
                with contextlib.suppress(BindingsError):
                    worker.opened.unbind(made.id)
                    counts["unbound"] += 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(worker.job["threads"])]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        worker.opened.expire_due()
        worker.opened.recover()
        worker.opened.reconcile()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    worker.tell(what="load", counts=counts)


def same_key(worker: Worker) -> None:
    """Several threads ask with one key at once, when the starting shot falls."""
    request = worker.job["asked"][0]
    ready = threading.Barrier(worker.job["threads"] + 1)

    def one() -> None:
        ready.wait()
        worker.ask(request)

    threads = [threading.Thread(target=one) for _ in range(worker.job["threads"])]
    for thread in threads:
        thread.start()
    while not Path(worker.job["shot"]).exists():
        time.sleep(0.002)
    ready.wait()
    for thread in threads:
        thread.join()


def schedule(worker: Worker) -> None:
    """Run a scheduler until asked to stop."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Scheduler(worker.opened) as scheduler:
        worker.tell(what="scheduling")
        while not stop.wait(0.1):
            if scheduler.stalled():
                worker.tell(what="stalled", tasks=scheduler.stalled())
    worker.tell(what="stopped")


def print_lines(worker: Worker) -> None:
    """Print to both standard streams, as libraries do, before and after a stop."""
    for _ in range(2):
        print("four words at least", flush=True)  # noqa: T201 -- the purpose of the job
        print("ended 1 0", flush=True)  # noqa: T201
        print("four words at least", file=sys.stderr, flush=True)  # noqa: T201
        _pause()


JOBS: dict[str, Callable[[Worker], None]] = {
    job.__name__: job
    for job in (story, restart, bind_one, unbind_one, run_pass, migrate, load, same_key, schedule, print_lines)
}


def strike(worker: Worker) -> Callable[[str], None]:
    """A hook that sends this process a signal at the nth reach of a name; TELL writes down every name."""
    hook = worker.job["hook"]
    if hook["signal"] == "TELL":
        return lambda name: worker.tell(what="reached", name=name)
    left = hook["nth"]

    def reached(name: str) -> None:
        nonlocal left
        if name != hook["name"]:
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), SIGNALS[hook["signal"]])

    return reached


def run(job: dict[str, Any]) -> int:
    """Do one job in this process; its exit code."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Path(job["log"]).open("a", buffering=1) as log:
        logging.basicConfig(stream=log, level=logging.WARNING, force=True)
        try:
            worker = Worker(job | {"open": job["do"] != "migrate"})
            if job.get("hook"):
                failpoints.install(strike(worker))
            JOBS[job["do"]](worker)
        except BaseException:  # noqa: BLE001 -- the test reads it there
            traceback.print_exc(file=log)
            return 1
    return 0


def warm() -> None:
    """Load what is loaded when it is first used, once for all workers."""
    request = {"pool_number": "1", "expire_s": 1, "mode": "AXB", "app_id": "a"}
    asked = validation.bind_request(phone_a="9188067701", phone_b="9188067799", **request)
    client = ProviderClient(
        base_url="http://127.0.0.1:1", api_key="", api_secret="", timeout_s=1.0, zone=UTC
    )  # nobody listens there
    client.bind(asked, send_before=time.monotonic() + 1)


class ForkServer:
    """Starts and kills workers on command, and reports when one has started, stopped or ended.

    Commands are JSON lines on the standard input: `{"start": job}` or `{"kill": pid}`. Each report is one write of
    one line, `started|stopped|ended PID CODE`, to a pipe that no worker keeps open.
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
