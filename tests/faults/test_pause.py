"""R1, A3: a process is stopped at a named step, the others move on, and then it goes on as if nothing had been.

Time passes while it is stopped, on every clock that it reads: SIGSTOP does not stop CLOCK_MONOTONIC. What it does
afterwards must not break what the others did meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.test_kill import DATABASES

if TYPE_CHECKING:
    from typing import Any

    from tests.faults.harness import Arena, Lab

pytestmark = pytest.mark.processes

A, B = "9188067701", "9188067799"
LIFE_S = 600
PAUSES_S = {"within the window": 1.0, "past send_by": 8.0, "past the tolerance": 320.0, "past its life": 1_200.0}
OPEN_TRANSACTION = {"bind.reserve_in_transaction", "bind.settle_in_transaction"}
POINTS = (
    *("bind.before_reserve", "bind.after_reserve", "bind.before_send", "bind.after_answer", "bind.after_settle"),
)
UNBIND_POINTS = ("unbind.after_request", "unbind.after_answer", "unbind.after_settle")
PASS_POINTS = (
    ("expire_due", "expire.after_batch"),
    ("recover", "recover.before"),
    ("recover", "recover.before_unbinds"),
    ("reconcile", "reconcile.after_first_scan"),
    ("reconcile", "reconcile.after_adopt"),
    ("reconcile", "reconcile.after_second_scan"),
)


def asked(tag: str, *, expire_s: int = LIFE_S, key: str | None = None, swapped: bool = False) -> dict[str, Any]:
    """One bind of the two phones."""
    phones = (B, A) if swapped else (A, B)
    return {
        "phone_a": phones[0],
        "phone_b": phones[1],
        "pool_number": tag,
        "expire_s": expire_s,
        "mode": "AXB",
        "idempotency_key": key,
    }


def posts(arena: Arena, tag: str) -> list[str | None]:
    """What the provider decided about each POST of one intent."""
    found = [r.decided for r in arena.simulator.requests if r.call == "bind" and f'"{tag}"' in r.body]
    assert len(found) <= 1
    return found


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("pause", PAUSES_S)
@pytest.mark.parametrize("name", POINTS)
def test_a_bind_that_was_stopped_meets_others_who_went_on(lab: Lab, kind: str, name: str, pause: str) -> None:
    with lab.arena(kind, provider_timeout_s=10.0) as arena:
        slow = arena.start("bind_one", asked=[asked("91")], hook=(name, 1, "STOP"))
        assert arena.stopped(slow)
        arena.clock.advance(PAUSES_S[pause])
        arena.run("bind_one", asked=[asked("92", swapped=True)])
        arena.run("run_pass", **{"pass": "reconcile"})
        arena.run("run_pass", **{"pass": "expire_due"})
        arena.resume(slow)
        arena.wait(slow)
        sent = posts(arena, "91")
        if name == "bind.after_reserve" and pause != "within the window":
            assert sent == [], "past send_by nothing is sent"
        if name == "bind.before_send" and PAUSES_S[pause] > 300:
            assert sent == [], "the check was passed in time, but by now the call's own deadline is over"
        arena.aftermath()


@pytest.mark.parametrize("kind", DATABASES)
def test_a_stamp_from_before_the_pause_is_refused_by_the_provider(lab: Lab, kind: str) -> None:
    """The call's own deadline is longer than the pause here: the stamp alone is the fence."""
    with lab.arena(kind, simulated={"timestamp_tolerance_s": 2.0}, provider_timeout_s=60.0) as arena:
        slow = arena.start("bind_one", asked=[asked("91")], hook=("bind.before_send", 1, "STOP"))
        assert arena.stopped(slow)
        arena.clock.advance(20)
        arena.resume(slow)
        arena.wait(slow)
        assert posts(arena, "91") == ["-16"]
        assert len(arena.simulator.ledger) == 0
        arena.aftermath()


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", sorted(OPEN_TRANSACTION))
def test_a_bind_that_is_stopped_inside_a_transaction_makes_others_wait_and_not_fail(
    lab: Lab, kind: str, name: str
) -> None:
    with lab.arena(kind) as arena:
        slow = arena.start("bind_one", asked=[asked("91", key="k")], hook=(name, 1, "STOP"))
        assert arena.stopped(slow)
        other = arena.start("bind_one", asked=[asked("92")])
        same = arena.start("bind_one", asked=[asked("91", key="k")])
        arena.resume(slow)
        for process in (slow, other, same):
            arena.wait(process)
        assert len(arena.simulator.ledger) == 1
        arena.aftermath()


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("pause", ["within the window", "past its life"])
@pytest.mark.parametrize("name", UNBIND_POINTS)
def test_an_unbind_that_was_stopped_meets_others_who_went_on(lab: Lab, kind: str, name: str, pause: str) -> None:
    with lab.arena(kind) as arena:
        arena.run("bind_one", asked=[asked("91")])
        bound = next(line for line in arena.told() if line["what"] == "bound")
        slow = arena.start("unbind_one", id=bound["id"], hook=(name, 1, "STOP"))
        assert arena.stopped(slow)
        arena.clock.advance(PAUSES_S[pause])
        arena.run("unbind_one", id=bound["id"])
        arena.run("run_pass", **{"pass": "expire_due"})
        arena.run("run_pass", **{"pass": "reconcile"})
        arena.clock.advance(arena.rules.guard_s + 1)  # the second unbind may have met -24
        arena.run("bind_one", asked=[asked("92")])
        arena.resume(slow)
        arena.wait(slow)
        assert len(arena.simulator.ledger) == 2, "the phones were free again, and were bound again"
        arena.aftermath()


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("pause", ["within the window", "past its life"])
@pytest.mark.parametrize(("pass_", "name"), PASS_POINTS)
def test_a_pass_that_was_stopped_meets_others_who_went_on(
    lab: Lab, kind: str, pass_: str, name: str, pause: str
) -> None:
    with lab.arena(kind) as arena:
        arena.simulator.script("lost_reply", times=1, on="bind")
        others = [
            asked("92", expire_s=5_000) | {"phone_a": f"918806771{n}", "phone_b": "9188067720"} for n in (1, 2)
        ]
        arena.run("bind_one", asked=[asked("91", expire_s=900), others[0]])
        arena.simulator.script("reset_before", times=1, on="bind")
        arena.run("bind_one", asked=[others[1] | {"phone_b": "9188067721", "pool_number": "93"}])
        arena.clock.advance(320)
        slow = arena.start("run_pass", **{"pass": pass_}, hook=(name, 1, "STOP"))
        assert arena.stopped(slow)
        arena.clock.advance(PAUSES_S[pause])
        arena.run("run_pass", **{"pass": "reconcile"})
        arena.run("run_pass", **{"pass": "expire_due"})
        arena.run("bind_one", asked=[asked("94")])
        arena.resume(slow)
        arena.wait(slow)
        arena.aftermath()
