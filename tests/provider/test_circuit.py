from __future__ import annotations

import threading

import pytest

from bindings.http_transport import NotSent, Unknown
from bindings.provider.circuit import AccountCircuitBreaker
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

DISABLED = Refused(why=Refusal.ACCOUNT, status="-30", reason="key disabled")
MADE = BindSucceeded(bind_id="1", middle_number_a="2", middle_number_b="2", sent=1.0, answered=2.0)
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
def circuit(clock: Clock) -> AccountCircuitBreaker:
    return AccountCircuitBreaker(monotonic=clock)


def opened(circuit: AccountCircuitBreaker) -> AccountCircuitBreaker:
    circuit.record(DISABLED)
    return circuit


def test_a_new_circuit_lets_everybody_go_ahead(circuit: AccountCircuitBreaker) -> None:
    assert circuit.check() is None
    assert circuit.refusal is None


def test_one_account_refusal_turns_callers_away_with_its_reason(
    circuit: AccountCircuitBreaker, clock: Clock
) -> None:
    opened(circuit)
    clock.now += 10
    turned_away = circuit.check()
    assert turned_away is not None
    assert turned_away.refusal == DISABLED
    assert turned_away.retry_in_s == 20
    assert circuit.refusal == DISABLED


@pytest.mark.parametrize("why", [why for why in Refusal if why is not Refusal.ACCOUNT])
def test_a_refusal_of_one_request_does_not_open_it(circuit: AccountCircuitBreaker, why: Refusal) -> None:
    circuit.record(Refused(why=why, status="-22", reason=""))
    assert circuit.check() is None


@pytest.mark.parametrize("outcome", [NotSent(reason=""), Unknown(reason="", status="-18")])
def test_no_answer_neither_opens_nor_closes_it(circuit: AccountCircuitBreaker, outcome: Outcome) -> None:
    circuit.record(outcome)
    assert circuit.check() is None
    opened(circuit).record(outcome)
    assert circuit.check() is not None


@pytest.mark.parametrize(
    "outcome",
    [
        MADE,
        UnbindSucceeded(),
        UnbindNotFound(status="-24"),
        ProviderPage(total=0, rows=()),
        Refused(why=Refusal.IN_USE, status="-35", reason=""),
    ],
)
def test_a_definite_answer_to_any_call_closes_it(circuit: AccountCircuitBreaker, outcome: Outcome) -> None:
    opened(circuit).record(outcome)
    assert circuit.check() is None
    assert circuit.refusal is None


def test_after_the_wait_one_caller_tries_and_the_others_keep_waiting(
    circuit: AccountCircuitBreaker, clock: Clock
) -> None:
    opened(circuit)
    clock.now += 30
    answers = [circuit.check() for _ in range(5)]
    assert [answer is None for answer in answers] == [True, False, False, False, False]


def test_of_many_threads_exactly_one_becomes_the_trial(circuit: AccountCircuitBreaker, clock: Clock) -> None:
    opened(circuit)
    clock.now += 30
    barrier, trials = threading.Barrier(8), []

    def caller() -> None:
        barrier.wait(5)
        trials.append(circuit.check() is None)

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(trials) == [False] * 7 + [True]


def test_a_trial_that_is_refused_again_starts_the_wait_anew(circuit: AccountCircuitBreaker, clock: Clock) -> None:
    opened(circuit)
    clock.now += 30
    assert circuit.check() is None
    clock.now += 2
    again = Refused(why=Refusal.ACCOUNT, status="-29", reason="workspace disabled")
    circuit.record(again)
    turned_away = circuit.check()
    assert turned_away is not None
    assert turned_away.refusal == again
    assert turned_away.retry_in_s == 30


def test_a_trial_that_never_reports_is_followed_by_another(circuit: AccountCircuitBreaker, clock: Clock) -> None:
    opened(circuit)
    clock.now += 30
    assert circuit.check() is None
    clock.now += 30
    assert circuit.check() is None
