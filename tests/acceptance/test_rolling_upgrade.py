"""The version before and this one side by side: upgrade and roll back under load, without a failed request."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import requests

from bindings.domain.binding import Caller
from bindings.provider.simulator import Simulator
from bindings.store import downgrade
from bindings.store.downgrade import PREVIOUS
from bindings.store.migrations import script_directory
from bindings.store.schema import HEAD
from tests.acceptance.test_processes import settings
from tests.acceptance.test_replicas import GUARD_S, TOLERANCE_S, Load
from tests.acceptance.versions import version_for
from tests.faults import oracle
from tests.service.harness import wait_for

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.serving import Replica
    from tests.acceptance.versions import Version
    from tests.store.databases import Server

pytestmark = pytest.mark.processes

FIRST = "0020"  # of the migrations whose version runs beside the one before
BEFORE: dict[str, str] = {
    script.revision: str(script.down_revision) for script in script_directory().walk_revisions()
}
PAUSE_S = 0.01  # of a client before each call
EXPECTED = {"200", "201", "409"}  # answers to binds: a repeated one, a new one, and a phone in use


@dataclass(kw_only=True)
class BalancedLoad(Load):
    """A load through a balancer: a replica that is removed gets no further call, and no call is repeated."""

    in_flight: Counter[str] = field(default_factory=Counter)
    answered: int = 0

    def send(
        self,
        session: requests.Session,
        dice: random.Random,
        path: str,
        body: Any,
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        """Call one of the replicas, once, after a pause: the processes that start need the CPUs too."""
        self.over.wait(PAUSE_S)
        with self.lock:
            url = dice.choice(self.urls)
            self.in_flight[url] += 1
        try:
            return session.post(url + path, json=body, headers=headers, timeout=300)
        finally:
            with self.lock:
                self.in_flight[url] -= 1
                self.answered += 1

    def remove(self, url: str) -> None:
        """Send no further call to a replica, and wait for the answers to those in flight."""
        with self.lock:
            self.urls.remove(url)
        wait_for(lambda: not self.in_flight[url])

    def go_on(self, calls: int) -> None:
        """Wait until this many calls more were answered."""
        enough = self.answered + calls
        wait_for(lambda: self.answered >= enough or bool(self.wrong))


@dataclass(kw_only=True)
class Rollout:
    """The replicas of a service behind a balancer, under load."""

    folder: Path
    running: contextlib.ExitStack
    load: BalancedLoad
    calls: int  # that each stage lasts at least
    replicas: list[Replica] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self, new: Version) -> None:
        """Start a replica, and add it to the balancer when it is ready."""
        log = self.folder / f"serve-{next(self.numbers)}-{new.revision}.log"
        replica = self.running.enter_context(new.replica(log)).started()
        wait_for(lambda: _readiness(replica).ok)  # its first expire run has ended
        self.replicas.append(replica)
        self.load.urls.append(replica.url)

    def replace_all(self, new: Version) -> None:
        """Replace the replicas one after the other; each old one ends after the new one has taken over."""
        for replica in list(self.replicas):
            self.start(new)
            self.load.go_on(self.calls)
            self.load.remove(replica.url)
            self.replicas.remove(replica)
            assert replica.end(within_s=120) == 0, replica.log.read_text()
        self.load.go_on(self.calls)

    def end_all(self) -> None:
        """End the replicas, which write no more then."""
        for replica in self.replicas:
            assert replica.end(within_s=120) == 0, replica.log.read_text()


def _readiness(replica: Replica) -> requests.Response:
    return requests.get(replica.url + "/readyz", timeout=60)


def _has_readiness(replica: Replica, text: str) -> bool:
    return text in _readiness(replica).text


def upgrade_and_roll_back(
    url: str, folder: Path, revision: str, *, replicas: int, clients: int, calls: int
) -> Counter[str]:
    """Upgrade from the version before `revision`, whose schema the database has, and roll back.

    Returns the counts of the answers to binds. No call fails, and no conflict is missed.
    """
    with Simulator(pool_size=300, timestamp_tolerance_s=60) as simulator, contextlib.ExitStack() as running:
        environment = settings(
            url,
            simulator,
            guard_s=str(GUARD_S),
            sweep_interval_s="0.3",
            timestamp_tolerance_s=str(TOLERANCE_S),
            phone_search_budget="10000",  # most lookups match nothing
        )
        old = version_for(BEFORE[revision], folder, environment)
        new = version_for(revision, folder, environment)
        load = BalancedLoad(urls=[], seed=int(revision))
        rollout = Rollout(folder=folder, running=running, load=load, calls=calls)
        for _ in range(replicas):
            rollout.start(old)
        threads = [threading.Thread(target=load.client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            load.go_on(calls)
            new.upgrade()
            for replica in rollout.replicas:
                newer = f"at {revision}: newer than this version needs ({old.revision}), which can work on it"
                wait_for(partial(_has_readiness, replica, newer))  # it is cached for a second
            rollout.replace_all(new)
            rollout.replace_all(old)
            new.downgrade(old.revision)
            load.go_on(calls)
        finally:
            load.over.set()
            for thread in threads:
                thread.join(300)
        rollout.end_all()
        assert load.wrong == []
        assert set(load.counts) <= EXPECTED, load.counts
        rules = oracle.Rules(tolerance_s=TOLERANCE_S, guard_s=GUARD_S)
        evidence = oracle.gather(url, simulator, records=load.confirmed, rules=rules)
        assert [str(violation) for violation in oracle.judge(evidence)] == []
        assert "-35" not in simulator.counts.decided["bind"], "a conflict was missed"
        assert simulator.ledger.overlaps() == ()
    return load.counts


@pytest.mark.soak
@pytest.mark.postgres
def test_this_version_and_the_one_before_replace_each_other_under_load(
    postgres_server: Server, postgres_template: str, tmp_path: Path
) -> None:
    url = postgres_server.create(template=postgres_template)
    downgrade.run(url, downgrade.plan(url, PREVIOUS), Caller(actor="test"))
    counts = upgrade_and_roll_back(url, tmp_path, HEAD, replicas=1, clients=3, calls=10)
    postgres_server.drop(url)
    assert counts["409"] > 0, "the clients met in conflicts"


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("revision", sorted(revision for revision in BEFORE if revision >= FIRST))
def test_each_version_and_the_one_before_replace_each_other_under_load(
    empty_database_url: str, tmp_path: Path, revision: str
) -> None:
    version_for(BEFORE[revision], tmp_path / "first", {"BINDINGS_DATABASE_URL": empty_database_url}).upgrade()
    counts = upgrade_and_roll_back(empty_database_url, tmp_path, revision, replicas=2, clients=6, calls=300)
    print(dict(counts))  # noqa: T201 -- the figures of a soak
    assert counts["409"] > 0
