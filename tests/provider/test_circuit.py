from __future__ import annotations

import threading

import pytest

from bindings.http_transport import NotSent, Unknown
from bindings.provider.circuit import QUERY_RETRY_AFTER_S, RETRY_AFTER_S, CircuitBreaker, Circuits
from bindings.provider.outcome import (
    BindOutcome,
    BindSucceeded,
    PageOutcome,
    ProviderPage,
    Refusal,
    Refused,
    UnbindNotFound,
    UnbindOutcome,
    UnbindSucceeded,
)

DISABLED = Refused(refusal=Refusal.ACCOUNT, status="-30", reason="key disabled")
SUCCEEDED = BindSucceeded(bind_id="1", middle_number_a="2", middle_number_b="2", sent=1.0, answered=2.0)
Outcome = BindOutcome | UnbindOutcome | PageOutcome


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(monotonic=clock)


def opened(circuit: CircuitBreaker) -> CircuitBreaker:
    circuit.record(DISABLED)
    return circuit


def test_new_circuit_is_closed(circuit: CircuitBreaker) -> None:
    assert circuit.check() is None
    assert circuit.refusal is None


def test_account_refusal_opens_the_circuit_and_calls_are_rejected_with_it(
    circuit: CircuitBreaker, clock: Clock
) -> None:
    opened(circuit)
    clock.now += 10
    rejection = circuit.check()
    assert rejection is not None
    assert rejection.refusal == DISABLED
    assert rejection.retry_in_s == 20
    assert circuit.refusal == DISABLED


@pytest.mark.parametrize("refusal", [refusal for refusal in Refusal if refusal is not Refusal.ACCOUNT])
def test_refusal_of_a_request_does_not_open_the_circuit(circuit: CircuitBreaker, refusal: Refusal) -> None:
    circuit.record(Refused(refusal=refusal, status="-22", reason=""))
    assert circuit.check() is None


@pytest.mark.parametrize("outcome", [NotSent(reason=""), Unknown(reason="", status="-18")])
def test_indefinite_outcome_neither_opens_nor_closes_the_circuit(
    circuit: CircuitBreaker, outcome: Outcome
) -> None:
    circuit.record(outcome)
    assert circuit.check() is None
    opened(circuit).record(outcome)
    assert circuit.check() is not None


@pytest.mark.parametrize(
    "outcome",
    [
        SUCCEEDED,
        UnbindSucceeded(),
        UnbindNotFound(status="-24"),
        ProviderPage(total=0, rows=()),
        Refused(refusal=Refusal.IN_USE, status="-35", reason=""),
    ],
)
def test_definite_outcome_closes_the_circuit(circuit: CircuitBreaker, outcome: Outcome) -> None:
    opened(circuit).record(outcome)
    assert circuit.check() is None
    assert circuit.refusal is None


def test_half_open_circuit_lets_one_trial_call_through_and_rejects_the_others(
    circuit: CircuitBreaker, clock: Clock
) -> None:
    opened(circuit)
    clock.now += 30
    answers = [circuit.check() for _ in range(5)]
    assert [answer is None for answer in answers] == [True, False, False, False, False]


def test_of_many_threads_exactly_one_makes_the_trial_call(circuit: CircuitBreaker, clock: Clock) -> None:
    opened(circuit)
    clock.now += 30
    barrier, trials = threading.Barrier(8), []

    def caller() -> None:
        barrier.wait(300)
        trials.append(circuit.check() is None)

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert sorted(trials) == [False] * 7 + [True]


def test_refused_trial_call_restarts_the_wait(circuit: CircuitBreaker, clock: Clock) -> None:
    opened(circuit)
    clock.now += 30
    assert circuit.check() is None
    clock.now += 2
    second_refusal = Refused(refusal=Refusal.ACCOUNT, status="-29", reason="workspace disabled")
    circuit.record(second_refusal)
    rejection = circuit.check()
    assert rejection is not None
    assert rejection.refusal == second_refusal
    assert rejection.retry_in_s == 30


def test_trial_call_without_an_outcome_is_followed_by_another(circuit: CircuitBreaker, clock: Clock) -> None:
    opened(circuit)
    clock.now += 30
    assert circuit.check() is None
    clock.now += 30
    assert circuit.check() is None


def test_trial_that_made_no_call_is_left_to_the_next_caller(circuit: CircuitBreaker, clock: Clock) -> None:
    opened(circuit)
    clock.now += 30
    assert circuit.check() is None
    circuit.release_trial()
    assert [circuit.check() is None for _ in range(2)] == [True, False]


@pytest.mark.parametrize("outcome", [DISABLED, NotSent(reason=""), Unknown(reason="", status="-18")])
def test_trial_that_made_its_call_is_not_released(circuit: CircuitBreaker, clock: Clock, outcome: Outcome) -> None:
    opened(circuit)
    clock.now += 30
    assert circuit.check() is None
    circuit.record(outcome)
    circuit.release_trial()
    assert circuit.check() is not None


def test_queries_are_tried_again_later_than_binds_and_unbinds(clock: Clock) -> None:
    circuits = Circuits(monotonic=clock)
    for circuit in (circuits.bind, circuits.unbind, circuits.page, circuits.pools):
        opened(circuit)
    clock.now += RETRY_AFTER_S
    assert (circuits.bind.rejects, circuits.unbind.rejects) == (False, False)
    assert (circuits.page.rejects, circuits.pools.rejects) == (True, True)
    clock.now += QUERY_RETRY_AFTER_S - RETRY_AFTER_S
    assert (circuits.page.rejects, circuits.pools.rejects) == (False, False)
    assert circuits.open_calls() == {"bind", "unbind", "page", "pools"}, "half-open is not closed"
