"""The primary is lost under load, at any moment, and nothing that anybody was told is lost with it (R6, R12).

Real service processes bind and unbind against a PostgreSQL primary with two synchronous standbys and one
simulated provider. The primary is killed while some of their calls stand still between two steps, among them
"the provider said yes" and "it is recorded"; the standby that has most is promoted; one service process is
killed and started again. What callers were told stands in files that outlive the processes, and the provider's
ledger is the second opinion.

Two rounds must lose something, or the test could not see a loss: the wrong standby promoted, and durability
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bindings import failpoints
from bindings.domain.binding import EventKind, State
from bindings.errors import BindingsError, Busy, OutcomeUnknown
from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.store import migrations
from tests.faults.cluster import Binaries, Cluster, ClusterError, find_binaries
from tests.faults.test_kill import LIMIT_S
from tests.service.harness import APP, KEY, POOL, SECRET, assert_sound, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bindings.domain.binding import Binding

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
PHONES = [f"91880679{number:04}" for number in range(600)]
THREADS = 4
TOLERANCE_S = 5.0  # short, because absence can be proved only after it
RESUME_S = 10.0  # R6: from the promotion to the first write of every process
START_S = 90.0  # interpreters start slowly on a busy machine
END_S = 60.0
HEAL_S = 40.0
STOOD_STILL_S = 15.0  # the longest that a held call waits for its release
CAUGHT = (  # where calls may stand still while the primary dies
    "bind.reserve_in_transaction",
    "bind.after_reserve",
    "bind.after_answer",
    "bind.settle_in_transaction",
    "unbind.request_in_transaction",
    "unbind.after_answer",
)
BETWEEN_YES_AND_COMMIT = ("bind.after_answer", "bind.settle_in_transaction")


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a service process is told to do; travels as JSON."""

    name: str
    database_url: str
    provider_url: str
    folder: str
    seed: int


@dataclass(kw_only=True)
class Round:
    """One experiment: the cluster, the provider, the processes, and a seed that decides all that varies."""

    cluster: Cluster
    simulator: Simulator
    folder: Path
    seed: int
    database_url: str = ""
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    promoted_at: float = 0.0
    killed_at: float = 0.0

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.database_url = self.database_url or self.cluster.url

    # The processes.

    def start(self, name: str) -> None:
        """Start a service process; it says in its file when it is ready."""
        orders = Orders(
            name=name,
            database_url=self.database_url,
            provider_url=self.simulator.url,
            folder=str(self.folder),
            seed=self.seed,
        )
        with (self.folder / f"{name}.err").open("ab") as errors:
            self.services[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.test_failover", json.dumps(asdict(orders))],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    def kill(self, name: str) -> None:
        """End a service process without a word."""
        process = self.services.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(START_S)

    def stop(self) -> None:
        """Let every process finish what it has begun, and end."""
        self.say("stop")
        for name, process in self.services.items():
            assert process.wait(END_S) == 0, f"{name} ended badly: {self.complaints()}"
        self.services.clear()

    def close(self) -> None:
        """End what still runs."""
        for name in list(self.services):
            self.kill(name)

    def say(self, word: str) -> None:
        """Tell every process something: `armed`, `released`, `stop`."""
        (self.folder / word).touch()

    # What the processes say.

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line that a service process wrote, in order of time."""
        found: list[dict[str, Any]] = []
        for file in self.folder.glob("*.told"):
            whole = file.read_text().rpartition("\n")[0]
            found += [json.loads(line) for line in whole.splitlines()]
        return sorted(found, key=lambda line: float(line["at"]))

    def told(self, what: str, *, since: float = 0.0) -> list[dict[str, Any]]:
        """The lines about one kind of thing that began after `since` (monotonic)."""
        return [line for line in self.lines() if line["what"] == what and line["began"] >= since]

    def complaints(self) -> str:
        """What the processes wrote to stderr, the end of it."""
        return "\n".join(file.read_text()[-8_000:] for file in self.folder.glob("*.err"))

    def wait(self, holds: Callable[[], bool], seconds: float) -> None:
        """Wait for `holds`; shows what the processes complained of where it never does."""
        try:
            wait_for(holds, seconds=seconds)
        except AssertionError as error:
            for process in self.services.values():
                process.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            raise AssertionError(f"{error}; seed {self.seed}; {self.complaints()}") from None

    # The story.

    def load(self, *spare: str) -> None:
        """Two processes that have both bound something, and then some time.

        A `spare` one has everything imported, which takes seconds on a busy machine, and waits for `again`.
        """
        for name in ("one", "two", *spare):
            self.start(name)
        self.wait(lambda: {line["by"] for line in self.told("bound")} == {"one", "two"}, START_S)
        time.sleep(self.dice.uniform(0.5, 2.0))

    def catch(self) -> None:
        """Wait until calls stand still, one at least between the provider's yes and the commit."""
        self.say("armed")
        self.wait(lambda: any(line["where"] in BETWEEN_YES_AND_COMMIT for line in self.told("caught")), START_S)

    def lose_primary(self) -> None:
        """The primary and the process `two` are killed, in either order; the node is fenced."""
        service_first = self.dice.random() < 0.5
        if service_first:
            self.kill("two")
        self.killed_at = time.monotonic()
        self.cluster.kill(self.cluster.primary)
        if not service_first:
            self.kill("two")

    def promote(self, *, wrong: bool = False, alone: bool = False) -> None:
        """Promote the standby that has most (`wrong`: least), and let the calls go on before or after."""
        early = self.dice.random() < 0.5
        if early:
            self.say("released")
        self.cluster.promote(self.cluster.by_received()[0 if wrong else -1], alone=alone)
        self.promoted_at = time.monotonic()
        if not early:
            self.say("released")
        self.say("again")

    def resume(self) -> float:
        """Wait until each process has written again; returns the seconds from the promotion to the first."""

        def again() -> set[str]:
            return {line["by"] for line in self.told("bound", since=self.promoted_at)}

        self.wait(lambda: again() == {"one", "two-again"}, START_S)
        time.sleep(self.dice.uniform(0.5, 1.5))
        first = min(
            line["at"]
            for line in self.told("bound", since=self.promoted_at) + self.told("unbound", since=self.promoted_at)
        )
        return float(first) - self.promoted_at

    def heal(self) -> BindingService:
        """Recover and reconcile until nothing is open; returns the service that did it."""
        service = _open(self.database_url, self.simulator.url)
        deadline = time.monotonic() + HEAL_S
        while True:
            service.expire_due()
            service.recover()
            service.reconcile()
            # Not doubts(): that leaves out a pending binding whose answer may still come.
            open_still = [row for row in service.export_bindings() if _open_still(row)]
            if not open_still:
                return service
            assert time.monotonic() < deadline, f"open after {HEAL_S} s: {open_still}; seed {self.seed}"
            time.sleep(0.5)


def _open_still(row: Binding) -> bool:
    is_unbinding = row.state is State.ACTIVE and row.unbind_requested_at is not None
    return is_unbinding or row.state in (State.PENDING, State.IN_DOUBT)


def _open(database_url: str, provider_url: str) -> BindingService:
    return BindingService.open(
        actor="failover",
        database_url=database_url,
        provider_url=provider_url,
        provider_api_key=KEY,
        provider_api_secret=SECRET,
        provider_app_id=APP,
        provider_timeout_s=2.0,
        timestamp_tolerance_s=TOLERANCE_S,
        guard_s=1.0,
        scan_calls_per_s=1_000.0,
    )


# What is asked of a run. Each returns what breaks it.


def lost(round_: Round, rows: Mapping[str, Binding]) -> list[str]:
    """Binds and unbinds that a caller was told of and that are not in the database."""
    missing = []
    for line in round_.told("bound"):
        row = rows.get(line["id"])
        if row is None or row.bind_id != line["bind_id"]:
            missing.append(f"bind {line['id']}")
    for line in round_.told("unbound"):
        row = rows.get(line["id"])
        if row is None or row.unbind_requested_at is None or not row.state.terminal:
            missing.append(f"unbind {line['id']}")
    return missing


def unknown(round_: Round, service: BindingService, rows: Mapping[str, Binding]) -> list[int]:
    """What the provider made and nothing here knows: no binding, no hold that was ever put, no resolved doubt.

    A short one may be over before any list was read: then its doubt has lapsed, and that is known too.
    """
    known = {row.bind_id for row in rows.values()}
    known |= {event.detail.get("bind_id") for event in service.export_events() if event.kind in _OF_HOLDS}
    lapsed = {row.pool_number for row in rows.values() if row.state is State.LAPSED}
    now = round_.simulator.now()
    return [
        entry.bind_id
        for entry in round_.simulator.ledger
        if str(entry.bind_id) not in known and (entry.live(now) or entry.pool_number not in lapsed)
    ]


_OF_HOLDS = (EventKind.HELD, EventKind.LATE_SUCCESS)


def sent_without_intent(round_: Round, rows: Mapping[str, Binding]) -> list[int]:
    """What the provider made for no intent that is recorded here, or for one a second time (I3)."""
    intents = {row.pool_number for row in rows.values()}
    times = Counter(entry.pool_number for entry in round_.simulator.ledger)
    return [
        entry.bind_id
        for entry in round_.simulator.ledger
        if entry.pool_number not in intents or times[entry.pool_number] > 1
    ]


def judge(round_: Round, service: BindingService) -> None:
    """Everything that R6 asks for."""
    rows = {row.id: row for row in service.export_bindings()}
    assert lost(round_, rows) == []
    assert unknown(round_, service, rows) == []
    assert sent_without_intent(round_, rows) == []
    assert round_.simulator.ledger.overlaps() == ()
    assert [line for line in round_.lines() if line["what"] == "surprise"] == []
    refused_own = [
        event for event in service.export_events() if event.kind is EventKind.FAILED and event.detail.get("own")
    ]
    assert refused_own == [], "the provider refused a phone that our own binding held"
    assert_sound(service)


def show(text: str) -> None:
    """A figure or a seed for whoever reads along (`pytest -s`) or reads a failure."""
    sys.stdout.write(f"\n{text}\n")


def report(round_: Round, resumed_s: float, service: BindingService) -> str:
    """One line with the figures of a round."""
    bound, unbound = round_.told("bound"), round_.told("unbound")
    at = sorted(line["at"] for line in bound)
    gap = max((after - before for before, after in itertools.pairwise(at)), default=0.0)
    caught = Counter(line["where"] for line in round_.told("caught"))
    errors = Counter(line["error"] for line in round_.told("refused", since=round_.killed_at))
    states = Counter(str(row.state) for row in service.export_bindings())
    adopted = sum(event.kind is EventKind.ADOPTED for event in service.export_events())
    return (
        f"failover: seed {round_.seed}, built in {round_.cluster.built_s:.1f} s, {len(bound)} binds and"
        f" {len(unbound)} unbinds acknowledged, writes resumed {resumed_s:.2f} s after the promotion"
        f" (which was done {round_.promoted_at - round_.killed_at:.2f} s after the kill), longest gap {gap:.2f} s,"
        f" caught {dict(caught)}, told meanwhile {dict(errors)}, adopted {adopted}, rows {dict(states)}"
    )


@pytest.fixture(scope="module")
def binaries() -> Binaries:
    """The server's programs; a machine without them skips, loudly, and fails in CI."""
    found = find_binaries()
    if found is None:
        message = "no PostgreSQL server programs: the loss of a primary was NOT tried"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture
def cluster(binaries: Binaries) -> Iterator[Cluster]:
    """A primary and two synchronous standbys at head."""
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
def failover(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Round]]:
    """Make a round on the cluster; its processes are ended with the test."""
    made: list[Round] = []

    def make(seed: int, **given: Any) -> Round:
        round_ = Round(cluster=cluster, simulator=simulated, folder=tmp_path, seed=seed, **given)
        show(f"seed {seed}")
        made.append(round_)
        return round_

    with Simulator(pool_size=200, timestamp_tolerance_s=TOLERANCE_S) as simulated:
        try:
            yield make
        finally:
            for round_ in made:
                round_.close()


def _seed() -> int:
    return int(os.environ.get("BINDINGS_TEST_SEED") or random.SystemRandom().randrange(1_000_000))


def _lose_the_primary_and_promote_the_best(round_: Round) -> None:
    round_.load("two-again")
    round_.catch()
    round_.lose_primary()
    round_.promote()
    resumed_s = round_.resume()
    round_.stop()
    service = round_.heal()
    try:
        show(report(round_, resumed_s, service))
        judge(round_, service)
    finally:
        service.close()
    assert resumed_s < RESUME_S


def test_losing_the_primary_under_load_loses_nothing_that_anybody_was_told(
    failover: Callable[..., Round],
) -> None:
    _lose_the_primary_and_promote_the_best(failover(_seed()))


@pytest.mark.soak
@pytest.mark.parametrize("number", range(max(1, min(8, int(LIMIT_S / 5)))))
def test_losing_the_primary_at_many_moments_loses_nothing(failover: Callable[..., Round], number: int) -> None:
    _lose_the_primary_and_promote_the_best(failover(_seed() + number))


def _losses(round_: Round) -> list[str]:
    """What was lost, as the harness sees it, on the node that took over."""
    service = _open(round_.cluster.primary.url, round_.simulator.url)
    try:
        return lost(round_, {row.id: row for row in service.export_bindings()})
    finally:
        service.close()


def test_promoting_the_wrong_standby_loses_binds_and_the_harness_sees_it(failover: Callable[..., Round]) -> None:
    round_ = failover(_seed())
    round_.load()
    behind = round_.cluster.standbys[round_.dice.randrange(2)]
    round_.cluster.cut(behind)
    cut_at = time.monotonic()
    round_.wait(lambda: len(round_.told("bound", since=cut_at)) >= 20, START_S)
    round_.close()
    round_.cluster.kill(round_.cluster.primary)
    assert round_.cluster.by_received()[0] is behind
    round_.cluster.promote(behind, alone=True)
    losses = _losses(round_)
    show(f"wrong standby: {len(losses)} of {len(round_.told('bound'))} acknowledged binds and unbinds lost")
    assert sum(loss.startswith("bind") for loss in losses) >= 20


@pytest.mark.soak
@pytest.mark.parametrize("relaxed", ["local", "off"])
def test_relaxing_durability_loses_binds_and_the_harness_sees_it(
    failover: Callable[..., Round], cluster: Cluster, relaxed: str
) -> None:
    round_ = failover(_seed(), database_url=f"{cluster.url}&options=-csynchronous_commit%3D{relaxed}")
    round_.load()
    for standby in cluster.standbys:
        cluster.cut(standby)
    cut_at = time.monotonic()
    round_.wait(lambda: len(round_.told("bound", since=cut_at)) >= 20, START_S)
    round_.close()
    cluster.kill(cluster.primary)
    cluster.promote(cluster.by_received()[-1], alone=True)
    losses = _losses(round_)
    show(f"synchronous_commit={relaxed}: {len(losses)} acknowledged binds and unbinds lost")
    assert sum(loss.startswith("bind") for loss in losses) >= 20


# One service in this process, and one thing that goes wrong between it and the primary.


# They hang without it.
needs_deadline = pytest.mark.skipif(
    importlib.util.find_spec("bindings.store.deadline_connection") is None,
    reason="bindings waits for ever: no store/deadline.py",
)


@pytest.fixture(scope="module")
def calm(binaries: Binaries) -> Iterator[Cluster]:
    """A cluster for tests that leave it as they found it."""
    yield from _built(binaries)


@pytest.fixture
def provider() -> Iterator[Simulator]:
    """A provider whose ids no other test has used: `calm` keeps its rows."""
    with Simulator(pool_size=200, first_bind_id=int(time.time() * 1_000)) as simulator:
        yield simulator


@pytest.fixture
def alone(calm: Cluster, provider: Simulator) -> Iterator[BindingService]:
    """A service on the calm cluster, warm, with both standbys cut; they are mended afterwards."""
    standbys = calm.standbys
    with _open(calm.url, provider.url) as service:
        _bind(service)
        for standby in standbys:
            calm.cut(standby)
        try:
            yield service
        finally:
            for standby in standbys:
                calm.mend(standby)


_FRESH_PAIRS = itertools.count(9_188_100_000, 2)  # the tests of waits share a cluster, and no phones


def _bind(service: BindingService) -> Binding:
    number = next(_FRESH_PAIRS)
    phone_a, phone_b = str(number), str(number + 1)
    return service.bind(phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=60, mode="AXB")


_WAITING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@needs_deadline
def test_an_intent_that_no_standby_confirms_is_not_sent_and_the_caller_is_told_in_time(
    alone: BindingService, provider: Simulator
) -> None:
    sent, began = provider.counts.received["bind"], time.monotonic()
    with pytest.raises(Busy):
        _bind(alone)
    assert time.monotonic() - began < 8.0
    assert provider.counts.received["bind"] == sent


@needs_deadline
def test_an_answer_that_no_standby_confirms_is_recorded_once_one_is_back(
    calm: Cluster, provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bindings.service.SETTLE_BUDGET_S", 3.0)
    standbys = calm.standbys

    def cut(point: str) -> None:
        if point == "bind.after_answer":
            for standby in standbys:
                calm.cut(standby)

    with _open(calm.url, provider.url) as service:
        failpoints.install(cut)
        try:
            with pytest.raises(OutcomeUnknown) as unknown:
                _bind(service)
        finally:
            failpoints.install(None)
            for standby in standbys:
                calm.mend(standby)
        wait_for(lambda: service.get(unknown.value.binding.id).state is State.ACTIVE)


@needs_deadline
@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_wait_for_a_standby_that_is_ended_by_hand_counts_as_no_commit(
    alone: BindingService, calm: Cluster, provider: Simulator, how: str
) -> None:
    sent = provider.counts.received["bind"]
    with ThreadPoolExecutor(1) as caller:
        binding = caller.submit(_bind, alone)
        wait_for(lambda: calm.primary.sql(f"SELECT count(*) {_WAITING}") > 0)
        calm.primary.sql(f"SELECT {how}(pid) {_WAITING}")
        with pytest.raises(Busy):
            binding.result(START_S)
    assert provider.counts.received["bind"] == sent, "no standby has the intent"


@needs_deadline
def test_an_answer_whose_wait_for_a_standby_is_ended_by_hand_is_recorded_again(
    calm: Cluster, provider: Simulator
) -> None:
    """It commits in the round trip of its statement: what the server says then is not believed there either."""
    standbys = calm.standbys

    def cut(point: str) -> None:
        if point == "bind.settle_in_transaction":
            failpoints.install(None)
            for standby in standbys:
                calm.cut(standby)

    with _open(calm.url, provider.url) as service, ThreadPoolExecutor(1) as caller:
        failpoints.install(cut)
        try:
            binding = caller.submit(_bind, service)
            for _ in range(2):  # the second time it is the repetition that waits
                wait_for(lambda: calm.primary.sql(f"SELECT count(*) {_WAITING}") > 0)
                assert not binding.done()
                calm.primary.sql(f"SELECT pg_cancel_backend(pid) {_WAITING}")
        finally:
            failpoints.install(None)
            for standby in standbys:
                calm.mend(standby)
        assert binding.result(START_S).state is State.ACTIVE


@needs_deadline
@pytest.mark.soak
def test_a_primary_that_takes_no_more_writes_is_left_at_once(cluster: Cluster, provider: Simulator) -> None:
    old = cluster.primary
    with _open(cluster.url, provider.url) as service:
        known = _bind(service)
        assert service.get(known.id) == known  # both engines have connections to the old primary
        cluster.demote(old)
        cluster.promote(cluster.by_received()[-1])
        moved = _bind(service)
        assert service.get(moved.id) == moved, "the reader has moved too"


@needs_deadline
@pytest.mark.soak
def test_a_frozen_primary_is_given_up_and_the_answer_recorded_on_the_next_one(
    cluster: Cluster, provider: Simulator
) -> None:
    def freeze_and_replace(point: str) -> None:
        if point == "bind.after_answer":
            old = cluster.primary
            cluster.freeze(old)
            cluster._fenced.add(old.name)  # it is killed once the binding is made
            cluster.promote(cluster.by_received()[-1])

    with _open(cluster.url, provider.url) as service:
        _bind(service)
        failpoints.install(freeze_and_replace)
        began = time.monotonic()
        try:
            binding = _bind(service)
        finally:
            failpoints.install(None)
        show(f"frozen primary: recorded on the next one after {time.monotonic() - began:.1f} s")
        assert binding.state is State.ACTIVE
        assert cluster.primary.sql(f"SELECT state FROM bindings WHERE id = '{binding.id}'") == "active"


# One service process.


@dataclass(kw_only=True)
class Worker:
    """A service process: threads that bind and unbind, and a file of what they were told."""

    orders: Orders
    service: BindingService
    file: int
    mine: threading.local = field(default_factory=threading.local)
    count: Iterator[int] = field(default_factory=itertools.count)

    def tell(self, what: str, began: float, **more: Any) -> None:
        """Append one line in one write, so that a killed process leaves whole lines."""
        line = {"what": what, "by": self.orders.name, "began": began, "at": time.monotonic()} | more
        os.write(self.file, json.dumps(line).encode() + b"\n")

    def said(self, word: str) -> bool:
        """Whether the test has said this word."""
        return (Path(self.orders.folder) / word).exists()

    def stand_still(self, point: str) -> None:
        """Hold this thread at its fail point from `armed` until `released`."""
        caught_at = getattr(self.mine, "caught_at", None)
        if point != caught_at or not self.said("armed") or self.said("released"):
            return
        self.tell("caught", time.monotonic(), where=point)
        deadline = time.monotonic() + STOOD_STILL_S
        while not self.said("released") and time.monotonic() < deadline:
            time.sleep(0.01)

    def work(self, number: int) -> None:
        """Bind and unbind until the test says stop; write down what came of each call, once it is known."""
        dice = random.Random(f"{self.orders.seed}/{self.orders.name}/{number}")
        # One thread each between yes and commit, one anywhere, and one that is never held.
        self.mine.caught_at = (*BETWEEN_YES_AND_COMMIT, dice.choice(CAUGHT), None)[number]
        while not self.said("stop"):
            began = time.monotonic()
            try:
                self.bind(dice, began, number)
                time.sleep(0.01)  # leave the machine something
            except BindingsError as error:
                self.tell("refused", began, error=error.code, id=error.binding_id)
                time.sleep(0.01 if error.code == "phone-in-use" else 0.05)
            except Exception as error:
                self.tell("surprise", began, error=f"{type(error).__name__}: {error}")
                raise

    def bind(self, dice: random.Random, began: float, number: int) -> None:
        """One bind, and mostly its unbind.

        Each has a pool number of its own, the one field that both the row and the provider's ledger carry.
        """
        process = ("one", "two", "two-again").index(self.orders.name)
        tag = f"9{process}{number}{next(self.count):06}"
        phone_a, phone_b = dice.sample(PHONES, 2)
        expire_s = dice.choice((4, 3_600))
        binding = self.service.bind(
            phone_a=phone_a,
            phone_b=phone_b,
            pool_number=tag,
            expire_s=expire_s,
            mode=dice.choice(("AXB", "AXXB")),
        )
        self.tell("bound", began, id=binding.id, bind_id=binding.bind_id)
        if expire_s > 4 and dice.random() < 0.8:
            began = time.monotonic()
            ended = self.service.unbind(binding.id)
            if ended.state is State.UNBOUND:
                self.tell("unbound", began, id=binding.id)

    def sweep(self) -> None:
        """What the timer does, more often."""
        while not self.said("stop"):
            began = time.monotonic()
            try:
                self.service.expire_due()
                self.service.recover()
            except Busy as error:
                self.tell("refused", began, error=f"sweep-{error.code}", id=None)
            except Exception as error:
                self.tell("surprise", began, error=f"sweep: {type(error).__name__}: {error}")
                raise
            time.sleep(0.3)


def main() -> int:
    """Serve until the test says stop; 1 where a thread was surprised."""
    orders = Orders(**json.loads(sys.argv[1]))
    faulthandler.register(signal.SIGUSR1)  # the test asks where everything stands when it waits in vain
    file = os.open(Path(orders.folder) / f"{orders.name}.told", os.O_CREAT | os.O_APPEND | os.O_WRONLY, mode=0o600)
    worker = Worker(orders=orders, service=_open_patiently(orders), file=file)
    failpoints.install(worker.stand_still)
    threads = [threading.Thread(target=worker.work, args=(number,)) for number in range(THREADS)]
    threads.append(threading.Thread(target=worker.sweep))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.service.close()
    return 0


def _open_patiently(orders: Orders) -> BindingService:
    """A process that starts during the failover waits for it to be over, as its supervisor would make it."""
    while orders.name.endswith("again") and not (Path(orders.folder) / "again").exists():
        time.sleep(0.01)
    deadline = time.monotonic() + START_S
    while True:
        try:
            return _open(orders.database_url, orders.provider_url)
        except Busy:
            if time.monotonic() > deadline:
                raise


if __name__ == "__main__":
    raise SystemExit(main())
