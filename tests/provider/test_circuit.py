from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from bindings.http_transport import NotSent, Unknown
from bindings.provider.circuit import (
    FORGOTTEN_AFTER_S,
    MAX_UNCLEAR_RETRY_S,
    QUERY_RETRY_AFTER_S,
    RETRY_AFTER_S,
    CircuitBreaker,
    Circuits,
    describe,
)
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
    assert circuit.cause is None


def test_account_refusal_opens_the_circuit_and_calls_are_rejected_with_it(
    circuit: CircuitBreaker, clock: Clock
) -> None:
    opened(circuit)
    clock.now += 10
    rejection = circuit.check()
    assert rejection is not None
    assert rejection.cause == DISABLED
    assert rejection.retry_in_s == 20
    assert circuit.cause == DISABLED


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
    assert circuit.cause is None


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
    assert rejection.cause == second_refusal
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


UNDOCUMENTED = Unknown(reason="unknown status", status="-99", sent=1.0)
NO_SUCH_PATH = Unknown(reason="HTTP 404 without an envelope", http_status=404, sent=1.0)
MOVED = Unknown(reason="HTTP 302 without an envelope", http_status=302, sent=1.0)
FIREWALL = Unknown(reason="HTTP 403 without an envelope", http_status=403, sent=1.0)
PORTAL = Unknown(reason="HTTP 200 without an envelope", http_status=200, sent=1.0)
RENAMED = Unknown(reason="success without its data: bindId is missing", status="0", sent=1.0)
CREATED = Unknown(reason="HTTP 201", status="0", http_status=201, sent=1.0)
LIMITED = Unknown(reason="HTTP 429 without an envelope", http_status=429, sent=1.0)
PASSING = (
    Unknown(reason="HTTP 408 without an envelope", http_status=408, sent=1.0),
    Unknown(reason="HTTP 500", status="0", http_status=500, sent=1.0),
    Unknown(reason="system anomaly", status="-18", sent=1.0),
    Unknown(reason="HTTP 502 without an envelope", http_status=502, sent=1.0),
    Unknown(reason="HTTP 404", status="-35", http_status=404, sent=1.0),
    Unknown(reason="read: timed out", sent=1.0),
)


@pytest.fixture
def bind_circuit(clock: Clock) -> CircuitBreaker:
    return Circuits(monotonic=clock).bind


@pytest.mark.parametrize(
    "unclear",
    [UNDOCUMENTED, NO_SUCH_PATH, MOVED, FIREWALL, PORTAL, RENAMED, CREATED, LIMITED],
    ids=["status", "404", "302", "403", "200", "no data", "201", "429"],
)
def test_same_unclear_outcome_of_two_binds_in_a_row_opens_their_circuit(
    bind_circuit: CircuitBreaker, unclear: Unknown
) -> None:
    bind_circuit.record(unclear)
    assert bind_circuit.check() is None
    bind_circuit.record(NotSent(reason="connect: connection refused"))  # nothing was answered in between
    bind_circuit.record(unclear)
    rejection = bind_circuit.check()
    assert rejection is not None
    assert rejection.cause == unclear
    assert "twice in a row" in describe(rejection.cause)
    bind_circuit.record(SUCCEEDED)
    assert bind_circuit.check() is None


@pytest.mark.parametrize("between", [SUCCEEDED, MOVED, *PASSING])
def test_unclear_outcomes_with_another_answer_in_between_open_nothing(
    bind_circuit: CircuitBreaker, between: Outcome
) -> None:
    for outcome in (UNDOCUMENTED, between, UNDOCUMENTED):
        bind_circuit.record(outcome)
    assert bind_circuit.check() is None


@pytest.mark.parametrize("outcome", PASSING)
def test_outcomes_that_pass_by_themselves_never_open_the_circuit(
    bind_circuit: CircuitBreaker, outcome: Unknown
) -> None:
    for _ in range(5):
        bind_circuit.record(outcome)
    assert bind_circuit.check() is None


def test_only_the_circuit_of_binds_opens_for_an_unclear_outcome(clock: Clock) -> None:
    circuits = Circuits(monotonic=clock)
    for circuit in (circuits.unbind, circuits.page, circuits.pools):
        for _ in range(3):
            circuit.record(UNDOCUMENTED)
    assert circuits.open_calls() == frozenset()


def test_each_unclear_trial_doubles_the_wait_up_to_ten_minutes(bind_circuit: CircuitBreaker, clock: Clock) -> None:
    bind_circuit.record(UNDOCUMENTED)
    bind_circuit.record(UNDOCUMENTED)
    waits = []
    for _ in range(7):
        rejection = bind_circuit.check()
        assert rejection is not None
        waits.append(rejection.retry_in_s)
        clock.now += rejection.retry_in_s
        assert bind_circuit.check() is None
        bind_circuit.record(UNDOCUMENTED)
    assert waits == [30, 60, 120, 240, 480, MAX_UNCLEAR_RETRY_S, MAX_UNCLEAR_RETRY_S]


@pytest.mark.parametrize(("retry_after_s", "waits"), [(None, [2, 4, 8]), (7.0, [7, 14, 28])])
def test_rate_limit_is_waited_for_as_long_as_it_says(
    bind_circuit: CircuitBreaker, clock: Clock, retry_after_s: float | None, waits: list[float]
) -> None:
    limited = replace(LIMITED, retry_after_s=retry_after_s)
    bind_circuit.record(limited)
    for wait_s in waits:
        bind_circuit.record(limited)
        rejection = bind_circuit.check()
        assert rejection is not None
        assert rejection.retry_in_s == wait_s
        clock.now += wait_s
        assert bind_circuit.check() is None


def test_late_rate_limit_of_an_older_call_shortens_no_wait(bind_circuit: CircuitBreaker, clock: Clock) -> None:
    for _ in range(2):
        bind_circuit.record(LIMITED)
    for wait_s in (2, 4, 8):
        clock.now += wait_s
        assert bind_circuit.check() is None
        bind_circuit.record(LIMITED)  # of a call from before the circuit opened
        bind_circuit.record(LIMITED)  # of the trial call
        rejection = bind_circuit.check()
        assert rejection is not None
        assert rejection.retry_in_s == 2 * wait_s
        bind_circuit.record(LIMITED)  # of another call from before


def test_circuit_closes_by_time_if_no_call_was_refused_since(clock: Clock) -> None:
    circuits = Circuits(monotonic=clock)
    for circuit in (circuits.bind, circuits.unbind, circuits.page, circuits.pools):
        opened(circuit)
    clock.now += FORGOTTEN_AFTER_S - 1
    opened(circuits.page)
    clock.now += 1
    assert circuits.open_calls() == {"page"}
    assert circuits.bind.check() is None
    assert circuits.bind.check() is None, "a closed circuit has no trial call"
