"""R6, R12: the primary is lost under load, at any moment, and nothing that was acknowledged is lost.

Real service processes bind and unbind on a PostgreSQL primary with two synchronous standbys and one simulated
provider. The primary is killed while some of their calls are held between two steps, for example after the
provider's success and before its commit; the standby with the most WAL is promoted; one service process is killed
and started again. Responses are recorded in files that outlive the processes; the provider's ledger is the second
source of truth.

Two tests must lose data, or the harness could not detect a loss: the wrong standby is promoted, and durability is
relaxed. `python -m tests.faults.test_failover` is one service process.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bindings import failpoints
from bindings.domain.binding import EventKind, State
from bindings.errors import BindingsError, Busy, OutcomeUnknown
from bindings.jobs import scan_evidence
from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.store import migrations
from tests.faults.cluster import Binaries, Cluster, ClusterError, find_binaries
from tests.faults.test_kill import LIMIT_S
from tests.service.harness import POOL, account_settings, assert_sound, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bindings.domain.binding import Binding

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
PHONES = [f"91880679{number:04}" for number in range(600)]
THREADS = 4
TOLERANCE_S = 5.0  # short, because absence is provable only after it
RESUME_S = 10.0  # R6: from the promotion to the first write of every process
START_S = 90.0  # interpreters start slowly on a busy machine
END_S = 60.0
SETTLE_S = 40.0
HELD_S = 15.0  # the time limit of a held call
HOLD_POINTS = (  # fail points at which calls may be held while the primary is killed
    "bind.reserve_in_transaction",
    "bind.after_reserve",
    "bind.after_answer",
    "bind.settle_in_transaction",
    "unbind.request_in_transaction",
    "unbind.after_answer",
)
BETWEEN_SUCCESS_AND_COMMIT = ("bind.after_answer", "bind.settle_in_transaction")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """The configuration of a service process; passed as JSON."""

    name: str
    database_url: str
    provider_url: str
    folder: str
    seed: int


@dataclass(kw_only=True)
class Round:
    """One experiment: the cluster, the provider, the processes, and the seed of everything random."""

    cluster: Cluster
    simulator: Simulator
    folder: Path
    seed: int
    database_url: str = ""
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    promoted_at: float = 0.0
    killed_at: float = 0.0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.database_url = self.database_url or self.cluster.url

    # The processes.

    def start(self, name: str) -> None:
        """Start a service process; its file of records shows when it is ready."""
        config = WorkerConfig(
            name=name,
            database_url=self.database_url,
            provider_url=self.simulator.url,
            folder=str(self.folder),
            seed=self.seed,
        )
        with (self.folder / f"{name}.err").open("ab") as errors:
            self.services[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.test_failover", json.dumps(asdict(config))],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    def kill(self, name: str) -> None:
        """Kill a service process."""
        process = self.services.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(START_S)

    def stop(self) -> None:
        """Let every process finish its calls, and end."""
        self.signal("stop")
        for name, process in self.services.items():
            assert process.wait(END_S) == 0, f"{name} ended badly: {self.error_logs()}"
        self.services.clear()

    def close(self) -> None:
        """Kill every process that still runs."""
        for name in list(self.services):
            self.kill(name)

    def signal(self, word: str) -> None:
        """Signal every process by a file: `armed`, `released`, `restart` or `stop`."""
        (self.folder / word).touch()

    # The records of the processes.

    def lines(self) -> list[dict[str, Any]]:
        """Return every whole record of the service processes, in order of time."""
        lines: list[dict[str, Any]] = []
        for file in self.folder.glob("*.records"):
            whole = file.read_text().rpartition("\n")[0]
            lines += [json.loads(line) for line in whole.splitlines()]
        return sorted(lines, key=lambda line: float(line["at"]))

    def records(self, kind: str, *, since: float = 0.0) -> list[dict[str, Any]]:
        """Return the records of one kind whose call started after `since` (monotonic)."""
        return [line for line in self.lines() if line["kind"] == kind and line["started_at"] >= since]

    def error_logs(self) -> str:
        """Return the end of what the processes wrote to stderr."""
        return "\n".join(file.read_text()[-8_000:] for file in self.folder.glob("*.err"))

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition; on a timeout fail with the stacks and the stderr of the processes."""
        try:
            wait_for(condition, seconds=seconds)
        except AssertionError as error:
            for process in self.services.values():
                process.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            raise AssertionError(f"{error}; seed {self.seed}; {self.error_logs()}") from None

    # The steps of a round.

    def load(self, *spare: str) -> None:
        """Start two processes, wait until both have bound, and then for a random time.

        A `spare` process imports everything, which takes seconds on a busy machine, and waits for `restart`.
        """
        for name in ("one", "two", *spare):
            self.start(name)
        self.wait(lambda: {line["by"] for line in self.records("bound")} == {"one", "two"}, START_S)
        time.sleep(self.rng.uniform(0.5, 2.0))

    def wait_for_held_calls(self) -> None:
        """Wait until calls are held, at least one between the provider's success and the commit."""
        self.signal("armed")
        self.wait(
            lambda: any(line["point"] in BETWEEN_SUCCESS_AND_COMMIT for line in self.records("held")), START_S
        )

    def lose_primary(self) -> None:
        """Kill the primary and the process `two`, in either order, and fence the node."""
        service_first = self.rng.random() < 0.5
        if service_first:
            self.kill("two")
        self.killed_at = time.monotonic()
        self.cluster.kill(self.cluster.primary)
        if not service_first:
            self.kill("two")

    def promote(self, *, wrong: bool = False, without_standby: bool = False) -> None:
        """Promote the standby with the most WAL (`wrong`: the least); release the held calls before or after."""
        early = self.rng.random() < 0.5
        if early:
            self.signal("released")
        self.cluster.promote(self.cluster.by_received()[0 if wrong else -1], without_standby=without_standby)
        self.promoted_at = time.monotonic()
        if not early:
            self.signal("released")
        self.signal("restart")

    def resume(self) -> float:
        """Wait until each process has written again; return the seconds from the promotion to the first."""

        def resumed() -> set[str]:
            return {line["by"] for line in self.records("bound", since=self.promoted_at)}

        self.wait(lambda: resumed() == {"one", "two-restarted"}, START_S)
        time.sleep(self.rng.uniform(0.5, 1.5))
        first = min(
            line["at"]
            for line in self.records("bound", since=self.promoted_at)
            + self.records("unbound", since=self.promoted_at)
        )
        return float(first) - self.promoted_at

    def settle_everything(self) -> BindingService:
        """Recover and reconcile until no binding is open; return the service that did it."""
        service = _open(self.database_url, self.simulator.url)
        deadline = time.monotonic() + SETTLE_S
        while True:
            service.expire_due()
            service.recover()
            service.reconcile()
            # Not doubts(): that omits a pending binding whose response may still come.
            still_open = [row for row in service.export_bindings() if _is_open(row)]
            if not still_open:
                return service
            assert time.monotonic() < deadline, f"open after {SETTLE_S} s: {still_open}; seed {self.seed}"
            time.sleep(0.5)


def _is_open(row: Binding) -> bool:
    unbind_pending = row.state is State.ACTIVE and row.unbind_requested_at is not None
    return unbind_pending or row.state in (State.PENDING, State.IN_DOUBT)


def _open(database_url: str, provider_url: str, *, pool_size: int = 32) -> BindingService:
    return BindingService.open(
        actor="failover",
        database_url=database_url,
        **account_settings(provider_url),
        pool_size=pool_size,
        provider_timeout_s=2.0,
        timestamp_tolerance_s=TOLERANCE_S,
        guard_s=1.0,
        scan_calls_per_s=1_000.0,
    )


# Requirements of a run; each function returns what violates it.


def missing(round_: Round, rows: Mapping[str, Binding]) -> list[str]:
    """Return the binds and unbinds that were acknowledged and are not in the database."""
    problems = []
    for line in round_.records("bound"):
        row = rows.get(line["id"])
        if row is None or row.bind_id != line["bind_id"]:
            problems.append(f"bind {line['id']}")
    for line in round_.records("unbound"):
        row = rows.get(line["id"])
        if row is None or row.unbind_requested_at is None or not row.state.terminal:
            problems.append(f"unbind {line['id']}")
    return problems


def unknown(round_: Round, service: BindingService, rows: Mapping[str, Binding]) -> list[int]:
    """Return the provider's bindings that are in no row, no hold that ever existed, and no resolved doubt.

    A short one may end before any list is read: then its row has lapsed, which counts as known.
    """
    bind_ids = {row.bind_id for row in rows.values()}
    bind_ids |= {event.detail.get("bind_id") for event in service.export_events() if event.kind in _OF_HOLDS}
    lapsed = {row.pool_number for row in rows.values() if row.state is State.LAPSED}
    now = round_.simulator.now()
    return [
        entry.bind_id
        for entry in round_.simulator.ledger
        if str(entry.bind_id) not in bind_ids and (entry.live(now) or entry.pool_number not in lapsed)
    ]


_OF_HOLDS = (EventKind.HELD, EventKind.LATE_SUCCESS)


def sent_without_intent(round_: Round, rows: Mapping[str, Binding]) -> list[int]:
    """Return the provider's bindings without a recorded intent, or beyond the first of an intent (I3)."""
    intents = {row.pool_number for row in rows.values()}
    times = Counter(entry.pool_number for entry in round_.simulator.ledger)
    return [
        entry.bind_id
        for entry in round_.simulator.ledger
        if entry.pool_number not in intents or times[entry.pool_number] > 1
    ]


def judge(round_: Round, service: BindingService) -> None:
    """Check everything that R6 requires."""
    rows = {row.id: row for row in service.export_bindings()}
    assert missing(round_, rows) == []
    assert unknown(round_, service, rows) == []
    assert sent_without_intent(round_, rows) == []
    assert round_.simulator.ledger.overlaps() == ()
    assert [line for line in round_.lines() if line["kind"] == "unexpected"] == []
    refused_own = [
        event for event in service.export_events() if event.kind is EventKind.FAILED and event.detail.get("own")
    ]
    assert refused_own == [], "the provider refused a phone that our own binding held"
    assert_sound(service)


def print_line(text: str) -> None:
    """Print a figure or a seed, shown by `pytest -s` or with a failure."""
    sys.stdout.write(f"\n{text}\n")


def report(round_: Round, resumed_s: float, service: BindingService) -> str:
    """Return one line with the figures of a round."""
    bound, unbound = round_.records("bound"), round_.records("unbound")
    at = sorted(line["at"] for line in bound)
    gap = max((after - before for before, after in itertools.pairwise(at)), default=0.0)
    held = Counter(line["point"] for line in round_.records("held"))
    errors = Counter(line["error"] for line in round_.records("refused", since=round_.killed_at))
    states = Counter(str(row.state) for row in service.export_bindings())
    adopted = sum(event.kind is EventKind.ADOPTED for event in service.export_events())
    return (
        f"failover: seed {round_.seed}, built in {round_.cluster.built_s:.1f} s, {len(bound)} binds and"
        f" {len(unbound)} unbinds acknowledged, writes resumed {resumed_s:.2f} s after the promotion"
        f" (which was done {round_.promoted_at - round_.killed_at:.2f} s after the kill), longest gap {gap:.2f} s,"
        f" held {dict(held)}, errors meanwhile {dict(errors)}, adopted {adopted}, rows {dict(states)}"
    )


@pytest.fixture(scope="module")
def binaries() -> Binaries:
    """Return the server's programs; without them the tests are skipped with a message, and fail in CI."""
    binaries = find_binaries()
    if binaries is None:
        message = "no PostgreSQL server programs: the loss of a primary was NOT tested"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return binaries


@pytest.fixture
def cluster(binaries: Binaries) -> Iterator[Cluster]:
    """Build a primary and two synchronous standbys at head."""
    yield from _built(binaries)


def _built(binaries: Binaries) -> Iterator[Cluster]:
    try:
        built = Cluster.build(binaries)
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        message = f"the programs in {binaries.folder} make no cluster here: {error}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with built:
        migrations.upgrade(built.url)
        yield built


@pytest.fixture
def failover(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Round]]:
    """Return a function that makes a round on the cluster; its processes end with the test."""
    monkeypatch.setattr(scan_evidence, "LIST_LAG", timedelta(0))  # the simulator's list shows changes at once
    rounds: list[Round] = []

    def make(seed: int, **fields: Any) -> Round:
        round_ = Round(cluster=cluster, simulator=simulated, folder=tmp_path, seed=seed, **fields)
        print_line(f"seed {seed}")
        rounds.append(round_)
        return round_

    with Simulator(pool_size=200, timestamp_tolerance_s=TOLERANCE_S) as simulated:
        try:
            yield make
        finally:
            for round_ in rounds:
                round_.close()


def _seed() -> int:
    return int(os.environ.get("BINDINGS_TEST_SEED") or random.SystemRandom().randrange(1_000_000))


def _lose_the_primary_and_promote_the_best(round_: Round) -> None:
    round_.load("two-restarted")
    round_.wait_for_held_calls()
    round_.lose_primary()
    round_.promote()
    resumed_s = round_.resume()
    round_.stop()
    service = round_.settle_everything()
    try:
        print_line(report(round_, resumed_s, service))
        judge(round_, service)
    finally:
        service.close()
    assert resumed_s < RESUME_S


def test_lost_primary_under_load_loses_no_acknowledged_bind_or_unbind(
    failover: Callable[..., Round],
) -> None:
    _lose_the_primary_and_promote_the_best(failover(_seed()))


@pytest.mark.soak
@pytest.mark.parametrize("number", range(max(1, min(8, int(LIMIT_S / 5)))))
def test_lost_primary_at_many_moments_loses_no_acknowledged_bind_or_unbind(
    failover: Callable[..., Round], number: int
) -> None:
    _lose_the_primary_and_promote_the_best(failover(_seed() + number))


def _losses(round_: Round) -> list[str]:
    """Return what is missing on the node that was promoted."""
    service = _open(round_.cluster.primary.url, round_.simulator.url)
    try:
        return missing(round_, {row.id: row for row in service.export_bindings()})
    finally:
        service.close()


def test_promotion_of_the_wrong_standby_loses_binds_and_is_detected(failover: Callable[..., Round]) -> None:
    round_ = failover(_seed())
    round_.load()
    behind = round_.cluster.standbys[round_.rng.randrange(2)]
    round_.cluster.cut(behind)
    cut_at = time.monotonic()
    round_.wait(lambda: len(round_.records("bound", since=cut_at)) >= 20, START_S)
    round_.close()
    round_.cluster.kill(round_.cluster.primary)
    assert round_.cluster.by_received()[0] is behind
    round_.cluster.promote(behind, without_standby=True)
    losses = _losses(round_)
    print_line(
        f"wrong standby: {len(losses)} of {len(round_.records('bound'))} acknowledged binds and unbinds lost"
    )
    assert sum(loss.startswith("bind") for loss in losses) >= 20


@pytest.mark.soak
@pytest.mark.parametrize("relaxed", ["local", "off"])
def test_relaxed_durability_loses_binds_and_is_detected(
    failover: Callable[..., Round], cluster: Cluster, relaxed: str
) -> None:
    round_ = failover(_seed(), database_url=f"{cluster.url}&options=-csynchronous_commit%3D{relaxed}")
    round_.load()
    for standby in cluster.standbys:
        cluster.cut(standby)
    cut_at = time.monotonic()
    round_.wait(lambda: len(round_.records("bound", since=cut_at)) >= 20, START_S)
    round_.close()
    cluster.kill(cluster.primary)
    cluster.promote(cluster.by_received()[-1], without_standby=True)
    losses = _losses(round_)
    print_line(f"synchronous_commit={relaxed}: {len(losses)} acknowledged binds and unbinds lost")
    assert sum(loss.startswith("bind") for loss in losses) >= 20


# One service in this process, and one failure between it and the primary.


# Without it the tests hang.
needs_deadline = pytest.mark.skipif(
    importlib.util.find_spec("bindings.store.deadline_connection") is None,
    reason="bindings waits without a time limit: no store/deadline_connection.py",
)


@pytest.fixture(scope="module")
def shared_cluster(binaries: Binaries) -> Iterator[Cluster]:
    """Build a cluster for tests that restore its state."""
    yield from _built(binaries)


@pytest.fixture
def provider() -> Iterator[Simulator]:
    """Start a provider with ids that no other test has used: `shared_cluster` keeps its rows."""
    with Simulator(pool_size=200, first_bind_id=int(time.time() * 1_000)) as simulator:
        yield simulator


@pytest.fixture
def isolated_service(shared_cluster: Cluster, provider: Simulator) -> Iterator[BindingService]:
    """Open a service that has bound once, and cut off both standbys; reconnect them afterwards."""
    standbys = shared_cluster.standbys
    # A role may hide warnings; one of them says that a commit is on no standby.
    url = f"{shared_cluster.url}&options=-cclient_min_messages%3Derror"
    with _open(url, provider.url) as service:
        _bind(service)
        for standby in standbys:
            shared_cluster.cut(standby)
        try:
            yield service
        finally:
            for standby in standbys:
                shared_cluster.reconnect(standby)


_FRESH_PAIRS = itertools.count(9_188_100_000, 2)  # the tests share a cluster, but no phones


def _bind(service: BindingService) -> Binding:
    number = next(_FRESH_PAIRS)
    phone_a, phone_b = str(number), str(number + 1)
    return service.bind(phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=60, mode="AXB")


_WAITING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@needs_deadline
def test_intent_that_no_standby_confirms_is_not_sent_and_the_call_ends(
    isolated_service: BindingService, provider: Simulator
) -> None:
    sent = provider.counts.received["bind"]
    with pytest.raises(Busy):
        _bind(isolated_service)
    assert provider.counts.received["bind"] == sent


@needs_deadline
def test_outcome_that_no_standby_confirms_is_recorded_when_one_returns(
    shared_cluster: Cluster, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bindings.lifecycle.bind.SETTLE_BUDGET_S", 3.0)
    standbys = shared_cluster.standbys

    def cut(point: str) -> None:
        if point == "bind.after_answer":
            for standby in standbys:
                shared_cluster.cut(standby)

    with _open(shared_cluster.url, provider.url) as service:
        failpoints.install(cut)
        try:
            with pytest.raises(OutcomeUnknown) as unknown:
                _bind(service)
        finally:
            failpoints.install(None)
            for standby in standbys:
                shared_cluster.reconnect(standby)
        wait_for(lambda: service.get(unknown.value.binding.id).state is State.ACTIVE)


@needs_deadline
@pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
def test_cancelled_wait_for_a_standby_counts_as_no_commit(
    isolated_service: BindingService, shared_cluster: Cluster, provider: Simulator, function: str
) -> None:
    sent = provider.counts.received["bind"]
    with ThreadPoolExecutor(1) as caller:
        binding = caller.submit(_bind, isolated_service)
        wait_for(lambda: shared_cluster.primary.sql(f"SELECT count(*) {_WAITING}") > 0)
        shared_cluster.primary.sql(f"SELECT {function}(pid) {_WAITING}")
        with pytest.raises(Busy):
            binding.result(START_S)
    assert provider.counts.received["bind"] == sent, "no standby has the intent"


@needs_deadline
def test_outcome_with_a_cancelled_wait_for_a_standby_is_recorded_again(
    shared_cluster: Cluster, provider: Simulator
) -> None:
    """It commits in the round trip of its statement: the server's reply is not trusted there either."""
    standbys = shared_cluster.standbys

    def cut(point: str) -> None:
        if point == "bind.settle_in_transaction":
            failpoints.install(None)
            for standby in standbys:
                shared_cluster.cut(standby)

    with _open(shared_cluster.url, provider.url) as service, ThreadPoolExecutor(1) as caller:
        failpoints.install(cut)
        try:
            binding = caller.submit(_bind, service)
            for _ in range(2):  # the second wait is the one of the repetition
                wait_for(lambda: shared_cluster.primary.sql(f"SELECT count(*) {_WAITING}") > 0)
                assert not binding.done()
                shared_cluster.primary.sql(f"SELECT pg_cancel_backend(pid) {_WAITING}")
        finally:
            failpoints.install(None)
            for standby in standbys:
                shared_cluster.reconnect(standby)
        assert binding.result(START_S).state is State.ACTIVE


@needs_deadline
@pytest.mark.soak
def test_read_only_primary_is_left_immediately(cluster: Cluster, provider: Simulator) -> None:
    old = cluster.primary
    with _open(cluster.url, provider.url) as service:
        bound = _bind(service)
        assert service.get(bound.id) == bound  # both engines have connections to the old primary
        cluster.demote(old)
        cluster.promote(cluster.by_received()[-1])
        moved = _bind(service)
        assert service.get(moved.id) == moved, "the reader has moved to the new primary too"


@needs_deadline
@pytest.mark.soak
def test_outcome_with_a_frozen_primary_is_recorded_on_the_next_primary(
    cluster: Cluster, provider: Simulator
) -> None:
    def freeze_and_replace(point: str) -> None:
        if point == "bind.after_answer":
            old = cluster.primary
            cluster.freeze(old)
            cluster._fenced.add(old.name)  # it is killed after the bind
            cluster.promote(cluster.by_received()[-1])

    # Its only connection for writes still waits at the frozen server when the next primary must be found.
    with _open(cluster.url, provider.url, pool_size=1) as service:
        _bind(service)
        failpoints.install(freeze_and_replace)
        started_at = time.monotonic()
        try:
            binding = _bind(service)
        finally:
            failpoints.install(None)
        print_line(f"frozen primary: recorded on the next one after {time.monotonic() - started_at:.1f} s")
        assert binding.state is State.ACTIVE
        assert cluster.primary.sql(f"SELECT state FROM bindings WHERE id = '{binding.id}'") == "active"


# One service process.


@dataclass(kw_only=True)
class Worker:
    """A service process: threads that bind and unbind, and a file of records."""

    config: WorkerConfig
    service: BindingService
    file: int
    thread: threading.local = field(default_factory=threading.local)
    count: Iterator[int] = field(default_factory=itertools.count)

    def record(self, kind: str, started_at: float, **fields: Any) -> None:
        """Append a record in one write, so that a killed process leaves whole lines."""
        line = {"kind": kind, "by": self.config.name, "started_at": started_at, "at": time.monotonic()} | fields
        os.write(self.file, json.dumps(line).encode() + b"\n")

    def has_signal(self, word: str) -> bool:
        """Return whether the test has sent this signal."""
        return (Path(self.config.folder) / word).exists()

    def hold(self, point: str) -> None:
        """Hold this thread at its fail point from the signal `armed` until `released`."""
        hold_point = getattr(self.thread, "hold_point", None)
        if point != hold_point or not self.has_signal("armed") or self.has_signal("released"):
            return
        self.record("held", time.monotonic(), point=point)
        deadline = time.monotonic() + HELD_S
        while not self.has_signal("released") and time.monotonic() < deadline:
            time.sleep(0.01)

    def work(self, number: int) -> None:
        """Bind and unbind until the signal `stop`; record the result of each call."""
        rng = random.Random(f"{self.config.seed}/{self.config.name}/{number}")
        # One thread at each point between success and commit, one at any point, and one that is never held.
        self.thread.hold_point = (*BETWEEN_SUCCESS_AND_COMMIT, rng.choice(HOLD_POINTS), None)[number]
        while not self.has_signal("stop"):
            started_at = time.monotonic()
            try:
                self.bind(rng, started_at, number)
                time.sleep(0.01)  # leave CPU time to the other processes
            except BindingsError as error:
                self.record("refused", started_at, error=error.code, id=error.binding_id)
                time.sleep(0.01 if error.code == "phone-in-use" else 0.05)
            except Exception as error:
                self.record("unexpected", started_at, error=f"{type(error).__name__}: {error}")
                raise

    def bind(self, rng: random.Random, started_at: float, number: int) -> None:
        """Bind once, and in most cases unbind.

        Each bind has its own pool number, the one field that both the row and the provider's ledger have.
        """
        process = ("one", "two", "two-restarted").index(self.config.name)
        tag = f"9{process}{number}{next(self.count):06}"
        phone_a, phone_b = rng.sample(PHONES, 2)
        expire_s = rng.choice((4, 3_600))
        binding = self.service.bind(
            phone_a=phone_a,
            phone_b=phone_b,
            pool_number=tag,
            expire_s=expire_s,
            mode=rng.choice(("AXB", "AXXB")),
        )
        self.record("bound", started_at, id=binding.id, bind_id=binding.bind_id)
        if expire_s > 4 and rng.random() < 0.8:
            started_at = time.monotonic()
            unbound = self.service.unbind(binding.id)
            if unbound.state is State.UNBOUND:
                self.record("unbound", started_at, id=binding.id)

    def run_jobs(self) -> None:
        """Run the scheduler's jobs, more often."""
        while not self.has_signal("stop"):
            started_at = time.monotonic()
            try:
                self.service.expire_due()
                self.service.recover()
            except Busy as error:
                self.record("refused", started_at, error=f"jobs-{error.code}", id=None)
            except Exception as error:
                self.record("unexpected", started_at, error=f"jobs: {type(error).__name__}: {error}")
                raise
            time.sleep(0.3)


def main() -> int:
    """Run the threads until the signal `stop`."""
    config = WorkerConfig(**json.loads(sys.argv[1]))
    faulthandler.register(signal.SIGUSR1)  # the test requests all stacks when a wait times out
    file = os.open(
        Path(config.folder) / f"{config.name}.records", os.O_CREAT | os.O_APPEND | os.O_WRONLY, mode=0o600
    )
    worker = Worker(config=config, service=_open_when_available(config), file=file)
    failpoints.install(worker.hold)
    threads = [threading.Thread(target=worker.work, args=(number,)) for number in range(THREADS)]
    threads.append(threading.Thread(target=worker.run_jobs))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.service.close()
    return 0


def _open_when_available(config: WorkerConfig) -> BindingService:
    """Open the service; during a failover retry until it is over, as a supervisor restarts a process."""
    while config.name.endswith("restarted") and not (Path(config.folder) / "restart").exists():
        time.sleep(0.01)
    deadline = time.monotonic() + START_S
    while True:
        try:
            return _open(config.database_url, config.provider_url)
        except Busy:
            if time.monotonic() > deadline:
                raise


if __name__ == "__main__":
    raise SystemExit(main())
