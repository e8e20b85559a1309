"""A COMMIT in doubt: its reply is lost, or the connection breaks before it.

The service uses PostgreSQL through a proxy that loses one COMMIT. No request is sent twice, no change is written
in part, and the caller gets the true result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from bindings.domain.binding import State
from bindings.errors import BindingsError, Busy
from bindings.jobs.registry import RECONCILE
from bindings.jobs.runner import JobRunner
from bindings.store.grants import FUNCTION
from tests.faults import oracle
from tests.faults.proxy import CommitProxy, Lose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.service import BindingService
    from tests.faults.harness import Experiment, FaultHarness

pytestmark = [pytest.mark.processes, pytest.mark.postgres]

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
CHANGE = "UPDATE bindings SET"
INTENTS = {"function": FUNCTION, "transaction": "INSERT INTO bindings"}  # the statement that records an intent


@pytest.fixture
def experiment(fault_harness: FaultHarness) -> Iterator[Experiment]:
    with fault_harness.experiment("postgresql") as experiment:
        yield experiment


@pytest.fixture
def proxy(experiment: Experiment) -> Iterator[CommitProxy]:
    with CommitProxy(experiment.url) as proxy:
        yield proxy


@pytest.fixture
def service(experiment: Experiment, proxy: CommitProxy) -> Iterator[BindingService]:
    with experiment.service(database_url=proxy.url) as service:
        yield service


def posts(experiment: Experiment, call: str = "bind") -> int:
    return experiment.simulator.counts.received.get(call, 0)


def kinds(experiment: Experiment) -> list[str]:
    """Return the kind of every committed event; the feed would wait for writers in other databases."""
    return [event["kind"] for event in oracle.read_tables(experiment.url)["events"]]


@pytest.mark.parametrize("loss", Lose)
def test_proxy_loses_the_commit_and_no_statement_before_it(
    experiment: Experiment, proxy: CommitProxy, loss: Lose
) -> None:
    """Also of a transaction that names its isolation level, which may contain the word."""
    slots = "SELECT task FROM passes WHERE task LIKE 'lost%' ORDER BY task"
    with psycopg.connect(proxy.url, prepare_threshold=0) as connection:
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        proxy.lose(loss, after="INSERT INTO passes")
        for number in (1, 2):
            insertion = "INSERT INTO passes (task, slot, started_at, replica) VALUES (%s, 1, now(), 'r')"
            connection.execute(insertion, (f"lost {number}",))
        assert connection.execute(slots).fetchall() == [("lost 1",), ("lost 2",)]
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    with psycopg.connect(experiment.url) as connection:
        assert len(connection.execute(slots).fetchall()) == (2 if loss is Lose.REPLY else 0)


@pytest.mark.parametrize("way", INTENTS)
@pytest.mark.parametrize("loss", Lose)
def test_lost_commit_of_an_intent_sends_one_request(
    experiment: Experiment, proxy: CommitProxy, service: BindingService, loss: Lose, way: str
) -> None:
    service.runtime.reserve_call._callable = way == "function"
    proxy.lose(loss, after=INTENTS[way])
    binding = service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=60, mode="AXB", idempotency_key="k")
    assert proxy.triggered.is_set()
    assert binding.state is State.ACTIVE
    assert posts(experiment) == 1
    assert service.get(binding.id) == binding
    assert (
        service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=60, mode="AXB", idempotency_key="k").id
        == binding.id
    )
    assert posts(experiment) == 1
    experiment.assert_recovery()


@pytest.mark.parametrize("loss", Lose)
@pytest.mark.parametrize("kind", ["success", "refused:-41", "refused:-35", "no response"])
def test_lost_commit_of_an_outcome_settles_the_binding_once(
    experiment: Experiment, proxy: CommitProxy, service: BindingService, loss: Lose, kind: str
) -> None:
    if kind == "no response":
        experiment.simulator.script("lost_reply", times=1, on="bind")
    elif kind != "success":
        experiment.simulator.script(kind.replace("refused", "refuse"), times=1, on="bind")
    proxy.lose(loss, after=CHANGE)
    expected = {"success": "active", "no response": "in_doubt"}.get(kind, "failed")
    try:
        binding_id = service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB").id
    except BindingsError as error:
        binding_id = error.binding_id or ""
    assert proxy.triggered.is_set()
    assert service.get(binding_id).state == expected
    assert len(service.history(binding_id)) == 2
    assert kinds(experiment).count("held") == (1 if kind == "refused:-35" else 0)
    assert posts(experiment) == 1
    experiment.assert_recovery()


@pytest.mark.parametrize("loss", Lose)
@pytest.mark.parametrize("nth", [1, 2])
def test_lost_commit_of_an_unbind_leaves_its_result_unchanged(
    experiment: Experiment, proxy: CommitProxy, service: BindingService, loss: Lose, nth: int
) -> None:
    binding = service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
    proxy.lose(loss, after=CHANGE, nth=nth)
    unbound = service.unbind(binding.id)
    assert proxy.triggered.is_set()
    assert unbound.state is State.UNBOUND
    assert [event.kind for event in service.history(binding.id)] == [
        "requested",
        "activated",
        "unbind_requested",
        "unbound",
    ]
    assert posts(experiment, "unbind") == 1
    experiment.assert_recovery()


def test_intent_not_committed_in_time_is_not_sent(
    experiment: Experiment, proxy: CommitProxy, service: BindingService
) -> None:
    proxy.lose(Lose.REPLY, after="", times=1_000)
    with pytest.raises(Busy):
        service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=60, mode="AXB")
    assert posts(experiment) == 0
    proxy.lose(Lose.REPLY, after="in no statement")
    experiment.assert_recovery()


def test_expire_with_a_lost_commit_ends_each_binding_once(
    experiment: Experiment, proxy: CommitProxy, service: BindingService
) -> None:
    for number, (a, b) in enumerate([(A, B), (C, D)]):
        service.bind(phone_a=a, phone_b=b, pool_number=f"9{number}", expire_s=1, mode="AXB")
    experiment.clock.advance(5)
    proxy.lose(Lose.REPLY, after="UPDATE bindings")
    service.expire_due()
    assert proxy.triggered.is_set()
    assert kinds(experiment).count("expired") == 2
    experiment.assert_recovery()


def test_job_slot_with_a_lost_commit_is_run_once(
    experiment: Experiment, proxy: CommitProxy, service: BindingService
) -> None:
    """The row was committed: the process that claimed the slot must recognise it as its own."""
    proxy.lose(Lose.REPLY, after="INSERT INTO passes")
    counts = JobRunner(service.runtime).run_once_per_period(RECONCILE, 300.0)
    assert proxy.triggered.is_set()
    assert counts is not None
    assert JobRunner(service.runtime).run_once_per_period(RECONCILE, 300.0) is None


def test_refusal_before_the_call_with_a_lost_commit_is_recorded_at_most_twice(
    experiment: Experiment, proxy: CommitProxy, service: BindingService
) -> None:
    service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
    proxy.lose(Lose.REPLY, after="INSERT INTO events")
    with pytest.raises(BindingsError):
        service.bind(phone_a=A, phone_b=C, pool_number="92", expire_s=600, mode="AXB")
    assert kinds(experiment).count("refused") <= 2  # recorded at least once
    experiment.assert_recovery()
