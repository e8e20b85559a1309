"""A COMMIT that may have happened: its reply is lost, or the connection breaks before it (A2).

The service talks to PostgreSQL through a proxy that loses one COMMIT. Nothing is sent twice, nothing is half
written, and the caller is told what is true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import State
from bindings.errors import BindingsError, Busy
from bindings.jobs.registry import RECONCILE
from bindings.jobs.runner import JobRunner
from tests.faults import oracle
from tests.faults.proxy import CommitProxy, Lose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.service import BindingService
    from tests.faults.harness import Arena, Lab

pytestmark = [pytest.mark.processes, pytest.mark.postgres]

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
INTENT, CHANGE = "INSERT INTO bindings", "UPDATE bindings SET"


@pytest.fixture
def arena(lab: Lab) -> Iterator[Arena]:
    with lab.arena("postgresql") as arena:
        yield arena


@pytest.fixture
def proxy(arena: Arena) -> Iterator[CommitProxy]:
    with CommitProxy(arena.url) as proxy:
        yield proxy


@pytest.fixture
def service(arena: Arena, proxy: CommitProxy) -> Iterator[BindingService]:
    with arena.service(database_url=proxy.url) as service:
        yield service


def posts(arena: Arena, call: str = "bind") -> int:
    return arena.simulator.counts.received.get(call, 0)


def kinds(arena: Arena) -> list[str]:
    """The kind of every event that is committed; the feed would wait for writers in other databases."""
    return [event["kind"] for event in oracle.read_tables(arena.url)["events"]]


@pytest.mark.parametrize("what", Lose)
def test_a_lost_commit_of_the_intent_sends_one_request(
    arena: Arena, proxy: CommitProxy, service: BindingService, what: Lose
) -> None:
    proxy.lose(what, after=INTENT)
    made = service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=60, mode="AXB", idempotency_key="k")
    assert proxy.struck.is_set()
    assert made.state is State.ACTIVE
    assert posts(arena) == 1
    assert service.get(made.id) == made
    assert (
        service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=60, mode="AXB", idempotency_key="k").id
        == made.id
    )
    assert posts(arena) == 1
    arena.aftermath()


@pytest.mark.parametrize("what", Lose)
@pytest.mark.parametrize("kind", ["made", "refused:-41", "refused:-35", "no answer"])
def test_a_lost_commit_of_the_answer_is_settled_once(
    arena: Arena, proxy: CommitProxy, service: BindingService, what: Lose, kind: str
) -> None:
    if kind == "no answer":
        arena.simulator.script("lost_reply", times=1, on="bind")
    elif kind != "made":
        arena.simulator.script(kind.replace("refused", "refuse"), times=1, on="bind")
    proxy.lose(what, after=CHANGE)
    expected = {"made": "active", "no answer": "in_doubt"}.get(kind, "failed")
    try:
        binding_id = service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB").id
    except BindingsError as error:
        binding_id = error.binding_id or ""
    assert proxy.struck.is_set()
    assert service.get(binding_id).state == expected
    assert len(service.history(binding_id)) == 2
    assert kinds(arena).count("held") == (1 if kind == "refused:-35" else 0)
    assert posts(arena) == 1
    arena.aftermath()


@pytest.mark.parametrize("what", Lose)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_lost_commit_of_an_unbind_changes_nothing_of_its_end(
    arena: Arena, proxy: CommitProxy, service: BindingService, what: Lose, nth: int
) -> None:
    made = service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
    proxy.lose(what, after=CHANGE, nth=nth)
    ended = service.unbind(made.id)
    assert proxy.struck.is_set()
    assert ended.state is State.UNBOUND
    assert [event.kind for event in service.history(made.id)] == [
        "requested",
        "activated",
        "unbind_requested",
        "unbound",
    ]
    assert posts(arena, "unbind") == 1
    arena.aftermath()


def test_an_intent_that_cannot_be_committed_in_time_is_not_sent(
    arena: Arena, proxy: CommitProxy, service: BindingService
) -> None:
    proxy.lose(Lose.REPLY, after="", times=1_000)
    with pytest.raises(Busy):
        service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=60, mode="AXB")
    assert posts(arena) == 0
    proxy.lose(Lose.REPLY, after="nothing contains this")
    arena.aftermath()


def test_a_sweep_whose_commit_is_lost_ends_each_binding_once(
    arena: Arena, proxy: CommitProxy, service: BindingService
) -> None:
    for number, (a, b) in enumerate([(A, B), (C, D)]):
        service.bind(phone_a=a, phone_b=b, pool_number=f"9{number}", expire_s=1, mode="AXB")
    arena.clock.advance(5)
    proxy.lose(Lose.REPLY, after="UPDATE bindings")
    service.expire_due()
    assert proxy.struck.is_set()
    assert kinds(arena).count("expired") == 2
    arena.aftermath()


def test_the_slot_of_a_pass_whose_commit_is_lost_is_still_run_once(
    arena: Arena, proxy: CommitProxy, service: BindingService
) -> None:
    """The row was committed: whoever took it must not find it taken by somebody else."""
    proxy.lose(Lose.REPLY, after="INSERT INTO passes")
    counts = JobRunner(service.runtime).run_once_per_period(RECONCILE, 300.0)
    assert proxy.struck.is_set()
    assert counts is not None
    assert JobRunner(service.runtime).run_once_per_period(RECONCILE, 300.0) is None


def test_a_refusal_before_the_call_is_noted_once_though_its_commit_is_lost(
    arena: Arena, proxy: CommitProxy, service: BindingService
) -> None:
    service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
    proxy.lose(Lose.REPLY, after="INSERT INTO events")
    with pytest.raises(BindingsError):
        service.bind(phone_a=A, phone_b=C, pool_number="92", expire_s=600, mode="AXB")
    assert kinds(arena).count("refused") <= 2  # a note, at least once
    arena.aftermath()
