"""Whatever happens, in whatever order: the invariants I1 to I8 hold (targets: R10).

First a state machine that hypothesis drives over both databases, every step checked against the provider's
ledger and a plain model (model.py). Then, one by one, the runs that once broke something or that prove a
seeded bug (mutations.py). Last what a single thread cannot see.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import bindings.store.database
from bindings import errors, failpoints
from bindings.domain.binding import Binding, BindRequest, Caller, EventKind, Mode, State
from bindings.domain.conflict import Policy
from bindings.domain.phone import Phone
from bindings.provider.simulator import Simulator
from bindings.store import events, reserve
from bindings.store.database import Database
from tests.faults.model import Ask, Stop, System
from tests.faults.test_kill import LIMIT_S, report
from tests.service.harness import APP, POOL, Clock, assert_sound, service_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bindings.domain.binding import Event
    from bindings.service import BindingService
    from bindings.store.database import Transaction

Step = TypeVar("Step", bound="Callable[..., None]")

P, Q, R, S, T, U = (f"918806770{number}" for number in range(1, 7))
PHONES = (P, Q, R, S, T, U)
BIND_FAULTS = (
    "lost_reply",
    "reset_before",
    "reset_after",
    "anomaly_before",
    "anomaly_after",
    "bad_gateway",
    "bad_gateway_after",
    "garbage",
    "cut_body",
    "redirect",
    "truncated",
    "refuse:-41",
    "refuse:-16",
    "refuse:-35",
    "refuse:-1",
    "refuse:-99",
    "down",
)
UNBIND_FAULTS = ("lost_reply", "reset_before", "anomaly_before", "anomaly_after", "bad_gateway_after", "refuse:-1")
PAGE_FAULTS = ("bad_gateway", "lost_reply", "cut_body", "truncated")
NOWHERE = "http://127.0.0.1:9"

PAIRS = tuple(itertools.permutations(PHONES, 2))
PAUSES = (0.0, 0.4, 2.5, 7.3, 12.1, 31.7, 68.2, 400.0)
LOST_COMMITS = (0,) * 9 + (1, 2, 3)
ASKS = tuple(
    Ask(*pair, mode, expire_s)
    for pair in PAIRS
    for mode in ("AXB", "AXXB")
    for expire_s in (60, 60, 60, 60, 20, 600)
)


def perhaps(kinds: tuple[str, ...]) -> tuple[str | None, ...]:
    """Every other time nothing."""
    return (None,) * len(kinds) + kinds


def one_in(number: int) -> tuple[bool, ...]:
    return (False,) * (number - 1) + (True,)


def stops(places: tuple[str, ...], actions: tuple[str, ...]) -> tuple[Stop | None, ...]:
    """Half of the time nothing; inside of a transaction nobody else can act."""
    found: list[Stop | None] = []
    for place in places:
        at_hand = ("crash", "pause") if place.endswith("in_transaction") else actions
        found += [Stop(place, action, pause) for action in at_hand for pause in PAUSES]
    return (None,) * len(found) + tuple(found)


# Every rule, and what each of its arguments may be.
CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "bind": {
        "ask": ASKS,
        "crowded": one_in(4),
        "key": (None, None, None, "k1", "k2", "k3"),
        "fault": perhaps(BIND_FAULTS),
        "stop": stops(
            (
                "bind.before_reserve",
                "bind.reserve_in_transaction",
                "bind.after_reserve",
                "bind.before_send",
                "bind.after_answer",
                "bind.settle_in_transaction",
                "bind.after_settle",
            ),
            ("crash", "pause", "sweep", "recover", "scan", "unbind", "bind"),
        ),
        "signing_s": (0.0,) * 8 + (4.0, 30.0),
        "network_s": (0.0,) * 7 + (1.5, 4.2, 12.1, 250.0),
        "lose": LOST_COMMITS,
    },
    "bind_plainly": {"ask": ASKS},
    "bind_into_doubt": {"ask": ASKS, "fault": BIND_FAULTS[:11]},
    "repeat_a_key": {"which": tuple(range(6))},
    "unbind": {
        "which": tuple(range(12)),
        "fault": perhaps(UNBIND_FAULTS),
        "stop": stops(
            (
                "unbind.after_request",
                "unbind.after_answer",
                "unbind.after_settle",
                "unbind.request_in_transaction",
                "unbind.settle_in_transaction",
            ),
            ("crash", "pause", "sweep", "recover", "scan"),
        ),
        "lose": LOST_COMMITS,
    },
    "tick": {"seconds": (0.4, 7.3, 12.1, 31.7, 68.2)},
    "sweep": {"stop": stops(("expire.after_batch", "expire.in_transaction"), ("crash", "pause"))},
    "recover": {
        "stop": stops(
            ("recover.before_unbinds", "unbind.after_answer", "recover.in_transaction"),
            ("crash", "pause", "sweep", "recover"),
        ),
        "fault": perhaps(UNBIND_FAULTS),
        "lose": LOST_COMMITS,
    },
    "reconcile": {
        "seconds": (0.0, 0.4, 7.3, 12.1, 12.1, 31.7),
        "stop": stops(
            (
                "reconcile.after_first_scan",
                "reconcile.after_second_scan",
                "reconcile.after_adopt",
                "reconcile.adopt_in_transaction",
            ),
            ("crash", "pause", "sweep", "recover", "hidden", "shown"),
        ),
        "fault": perhaps(PAGE_FAULTS),
        "times": (1, 2, 3, 4),
        "lying": one_in(3),
        "lose": LOST_COMMITS,
    },
    "shuffle_pages": {"shuffled": (False, True)},
    "plant": {"ask": ASKS, "beside_a_doubt": one_in(2)},
    "vanish": {"which": tuple(range(6))},
}
WEIGHTS = {"bind": 4, "bind_plainly": 2, "unbind": 2, "reconcile": 2, "tick": 2}


def step(name: str) -> Callable[[Step], Step]:
    """A rule whose arguments are drawn from its choices."""
    drawn = {argument: st.sampled_from(choices) for argument, choices in CHOICES[name].items()}
    decorate: Callable[[Step], Step] = cast("Any", rule)(**drawn)
    return decorate


class Lifecycle(RuleBasedStateMachine):
    """Everything that callers, timers, the network and the provider may do, in any order."""

    def __init__(self, fresh: Callable[[], str]) -> None:
        super().__init__()
        self.fresh = fresh
        self.system: System | None = None
        self.steps: list[tuple[str, dict[str, Any]]] = []  # of the walks, to read a failing one

    @initialize(
        policy=st.sampled_from(Policy),
        tolerance_s=st.sampled_from((2.0, 2.0, 300.0)),
        lag_s=st.sampled_from((0.0, 4.0)),
        swapped=st.booleans(),
    )
    def begin(self, policy: Policy, tolerance_s: float, lag_s: float, swapped: bool) -> None:
        self.system = System(self.fresh(), policy=policy, tolerance_s=tolerance_s, lag_s=lag_s, swapped=swapped)

    @property
    def it(self) -> System:
        assert self.system is not None
        return self.system

    def script(self, kind: str | None, on: str, times: int = 1) -> None:
        if kind == "down":
            self.it.client._base_url = NOWHERE
        elif kind is not None:
            self.it.simulator.script(kind, times=times, on=on)

    def stop_at(self, *places: Stop | None) -> None:
        self.it.stops = [place for place in places if place is not None]

    def calm(self) -> None:
        self.it.calm()

    def free(self, ask: Ask, *, crowded: bool) -> Ask:
        """The next pair that nobody holds, so that most runs get further than a refusal."""
        if crowded:
            return ask
        start, refused = PAIRS.index((ask.phone_a, ask.phone_b)), self.it.refusing()
        nearby = (replace(ask, phone_a=a, phone_b=b) for a, b in PAIRS[start:] + PAIRS[:start])
        return next((near for near in nearby if not refused(near)), ask)

    @step("bind")
    def bind(
        self,
        ask: Ask,
        crowded: bool,
        key: str | None,
        fault: str | None,
        stop: Stop | None,
        signing_s: float,
        network_s: float,
        lose: int,
    ) -> None:
        wanted = replace(self.free(ask, crowded=crowded), key=key)
        self.script(fault, "bind")
        self.stop_at(stop)
        self.it.signing_pause_s, self.it.network_s, self.it.lose_commit = signing_s, network_s, lose
        self.it.bind(wanted)
        self.calm()

    @step("bind_plainly")
    def bind_plainly(self, ask: Ask) -> None:
        """Witnesses for scans, and something to unbind."""
        self.it.bind(self.free(ask, crowded=False))

    @step("bind_into_doubt")
    def bind_into_doubt(self, ask: Ask, fault: str) -> None:
        self.script(fault, "bind")
        self.it.bind(self.free(ask, crowded=False))
        self.calm()

    @step("repeat_a_key")
    def repeat_a_key(self, which: int) -> None:
        used = list(self.it.keys.values())
        if used:
            self.it.bind(used[which % len(used)][0])

    @step("unbind")
    def unbind(self, which: int, fault: str | None, stop: Stop | None, lose: int) -> None:
        rows = sorted(self.it.rows().values(), key=lambda row: (row.version, row.requested_at))
        if not rows:
            return
        self.script(fault, "unbind")
        self.stop_at(stop)
        self.it.lose_commit = lose
        self.it.unbind(rows[which % len(rows)].id)
        self.calm()

    @step("tick")
    def tick(self, seconds: float) -> None:
        self.it.clock.advance(seconds)

    @step("sweep")
    def sweep(self, stop: Stop | None) -> None:
        self.stop_at(stop)
        self.it.pass_by("expire_due")
        self.calm()

    @step("recover")
    def recover(self, stop: Stop | None, fault: str | None, lose: int) -> None:
        self.script(fault, "unbind")
        self.stop_at(stop)
        self.it.lose_commit = lose
        self.it.pass_by("recover")
        self.calm()

    @step("reconcile")
    def reconcile(
        self, seconds: float, stop: Stop | None, fault: str | None, times: int, lying: bool, lose: int
    ) -> None:
        """A scan, and perhaps a list that leaves out every binding of ours, in one of the two readings."""
        self.it.clock.advance(seconds)
        self.script(fault, "page", times)
        shown = Stop("reconcile.after_first_scan", "shown") if lying else None
        self.stop_at(shown, stop)
        if lying:
            self.it._act("hidden", None)
        self.it.lose_commit = lose
        self.it.pass_by("reconcile")
        self.it.hidden.clear()
        self.calm()

    @step("shuffle_pages")
    def shuffle_pages(self, shuffled: bool) -> None:
        self.it.simulator.change(shuffle_pages=shuffled)

    @step("plant")
    def plant(self, ask: Ask, beside_a_doubt: bool) -> None:
        """A stranger's binding; the most trying one has the pair of a doubt of ours."""
        doubts = [row for row in self.it.rows().values() if row.state is State.IN_DOUBT]
        if doubts and beside_a_doubt:
            ask = replace(ask, phone_a=doubts[0].phone_b.digits, phone_b=doubts[0].phone_a.digits)
        self.it.simulator.add_foreign_binding(
            phone_a=ask.phone_a, phone_b=ask.phone_b, app_id=APP, expire_s=ask.expire_s, mode=ask.mode
        )

    @step("vanish")
    def vanish(self, which: int) -> None:
        live = self.it.live()
        if live:
            self.it.simulator.remove_binding(live[which % len(live)].bind_id)

    @rule(seed=st.integers(0, 2**32 - 1))
    def walk(self, seed: int, steps: int = 8) -> None:
        """Some more steps, evenly drawn: hypothesis itself prefers what is simple and repeats itself."""
        dice = random.Random(seed)
        for _ in range(steps):
            name = dice.choice([name for name in CHOICES for _ in range(WEIGHTS.get(name, 1))])
            given = {argument: dice.choice(choices) for argument, choices in CHOICES[name].items()}
            self.steps.append((name, given))
            getattr(self, name)(**given)
            self.it.check(everything=False)

    @invariant()
    def sound(self) -> None:
        if self.system is not None:
            self.system.check(everything=False)

    def teardown(self) -> None:
        if self.system is None:
            return
        try:
            self.system.heal()
        finally:
            self.system.close()


@pytest.fixture
def fresh(database_url: str, tmp_path: Path) -> Callable[[], str]:
    """Makes an empty database, again and again."""
    template = tmp_path / "template.db"
    if database_url.startswith("sqlite"):
        shutil.copyfile(database_url.removeprefix("sqlite:///"), template)

    def make() -> str:
        if database_url.startswith("sqlite"):
            for leftover in tmp_path.glob("example.db*"):
                leftover.unlink()
            shutil.copyfile(template, tmp_path / "example.db")
            return f"sqlite:///{tmp_path / 'example.db'}"
        with psycopg.connect(database_url) as connection:
            connection.execute("SET session_replication_role = replica")
            for table in ("events", "bindings", "holds", "passes", "account"):
                connection.execute(f"DELETE FROM {table}")
        return database_url

    return make


def run(fresh: Callable[[], str], *, examples: int, steps: int, seeded: bool) -> None:
    without_shrinking = "BINDINGS_TEST_NO_SHRINK" in os.environ  # a seeded bug need only be seen
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        derandomize=seeded,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,) if without_shrinking else (Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(cast("Any", lambda: Lifecycle(fresh)), settings=profile)


def stroll(fresh: Callable[[], str], seed: int, steps: int) -> None:
    """One seeded walk without hypothesis; the steps that led to a failure are printed."""
    dice = random.Random(seed)
    machine = Lifecycle(fresh)
    machine.begin(
        dice.choice(list(Policy)), dice.choice((2.0, 2.0, 300.0)), dice.choice((0.0, 4.0)), seed % 2 == 0
    )
    try:
        machine.walk(seed, steps)
        machine.it.heal()
    except BaseException:
        print(f"seed {seed}:", *machine.steps, sep="\n    ")  # noqa: T201 -- pytest shows it with the failure
        raise
    finally:
        machine.it.close()


def test_whatever_happens_in_whatever_order_every_invariant_holds(fresh: Callable[[], str]) -> None:
    run(fresh, examples=5, steps=15, seeded=True)


@pytest.mark.parametrize("seed", range(6))
def test_on_every_seeded_walk_every_invariant_holds(fresh: Callable[[], str], seed: int) -> None:
    stroll(fresh, seed, 60)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_whatever_happens_for_a_long_time_every_invariant_holds(fresh: Callable[[], str]) -> None:
    run(fresh, examples=max(5, int(LIMIT_S / 2)), steps=50, seeded=False)  # about two seconds each


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_on_a_thousand_seeded_walks_every_invariant_holds(fresh: Callable[[], str]) -> None:
    until = time.monotonic() + LIMIT_S
    done = 0
    for seed in range(1_000, 2_000):
        if time.monotonic() > until:
            break
        stroll(fresh, seed, 100)
        done += 1
    report(what="walks", walks=done)


# One by one: what broke once, and what proves a seeded bug.


@pytest.fixture
def system(fresh: Callable[[], str]) -> Iterator[System]:
    with System(fresh()) as system:
        yield system
        system.check()


def doubt(system: System, ask: Ask = Ask(P, Q, "AXXB"), fault: str = "lost_reply") -> Binding:  # noqa: B008
    """A bind without a clear answer, and a witness beside it."""
    system.bind(Ask(T, U, "AXB", 600))
    system.simulator.script(fault, times=1, on="bind")
    made = system.bind(ask)
    assert isinstance(made, errors.OutcomeUnknown)
    system.check()
    return made.binding


def test_under_strict_an_axxb_in_doubt_refuses_another_one_on_its_phone(fresh: Callable[[], str]) -> None:
    """Found by the state machine: it was let through, and the provider refused it with -35."""
    with System(fresh(), policy=Policy.STRICT) as system:
        doubt(system, Ask(P, Q, "AXXB"))
        assert isinstance(system.bind(Ask(Q, R, "AXXB")), errors.PhoneInUse)
        system.check()


def test_I4_an_unclear_answer_frees_nothing(system: System) -> None:
    for fault, ask in (("anomaly_after", Ask(P, Q)), ("lost_reply", Ask(R, S)), ("bad_gateway_after", Ask(T, U))):
        system.simulator.script(fault, times=1, on="bind")
        assert isinstance(system.bind(ask), errors.OutcomeUnknown)
        system.check()
        assert isinstance(system.bind(replace(ask, mode="AXXB")), errors.PhoneInUse)


def test_I3_whatever_is_answered_a_request_is_sent_once(system: System) -> None:
    for fault in ("bad_gateway", "reset_before", "redirect", "anomaly_before"):
        before = system.simulator.counts.received.get("bind", 0)
        system.simulator.script(fault, times=1, on="bind")
        system.bind(Ask(P, Q))
        system.check()
        assert system.simulator.counts.received["bind"] == before + 1
        assert "other" not in system.simulator.counts.received, "the redirect was followed"
        system.clock.advance(500)


def test_I4_a_request_that_was_signed_late_does_not_leave(system: System) -> None:
    """Two pauses, each shorter than a call may last, and together longer than the send window."""
    system.stops = [Stop("bind.after_reserve", "pause", 4.0)]
    system.signing_pause_s = 4.0
    made = system.bind(Ask(P, Q))
    assert isinstance(made, errors.ProviderUnreachable)
    assert not system.own()


def test_I4_a_request_that_is_long_on_its_way_is_refused_by_its_stamp(system: System) -> None:
    system.network_s = 30.0
    assert isinstance(system.bind(Ask(P, Q)), errors.OutcomeUnknown)
    assert not system.own()


def test_I4_a_request_that_is_accepted_late_is_covered_by_the_hold_to_its_end(fresh: Callable[[], str]) -> None:
    with System(fresh(), tolerance_s=300.0) as system:
        system.network_s = 299.0
        assert isinstance(system.bind(Ask(P, Q, "AXB", 20)), errors.OutcomeUnknown)
        system.check()
        assert system.own()
        system.clock.advance(19.5)
        system.service.recover()
        system.check()
        assert isinstance(system.bind(Ask(P, R)), errors.PhoneInUse)


def test_I4_the_phones_stay_held_for_the_guard_after_the_end(fresh: Callable[[], str]) -> None:
    with System(fresh(), lag_s=4.0) as system:
        assert isinstance(system.bind(Ask(P, Q)), Binding)
        system.clock.advance(61)
        system.service.expire_due()
        system.check()
        assert isinstance(system.bind(Ask(P, R)), errors.PhoneInUse)
        system.clock.advance(4.5)
        assert isinstance(system.bind(Ask(P, R)), Binding)
        system.check()


def test_I4_an_unbind_that_finds_nothing_holds_the_phones_for_the_guard(fresh: Callable[[], str]) -> None:
    """The provider's refusals outlast its record: here the binding ran out while the unbind was on its way."""
    with System(fresh(), lag_s=4.0) as system:
        made = system.bind(Ask(P, Q))
        assert isinstance(made, Binding)
        system.clock.advance(58)
        system.stops = [Stop("unbind.after_request", "pause", 2.5)]
        ended = system.unbind(made.id)
        assert isinstance(ended, Binding)
        assert ended.reason == "not_found"
        system.check()
        assert isinstance(system.bind(Ask(P, R)), errors.PhoneInUse)
        system.check()


def test_I2_only_a_row_that_ends_in_the_window_is_adopted(system: System) -> None:
    asked = doubt(system, fault="anomaly_before")
    system.simulator.add_foreign_binding(phone_a=P, phone_b=Q, app_id=APP, expire_s=120, mode="AXXB")
    system.clock.advance(12.1)
    assert system.service.reconcile().adopted == 0
    assert system.rows()[asked.id].state is State.IN_DOUBT


def test_a_row_that_lists_the_parties_the_other_way_round_gives_each_its_own_number(
    fresh: Callable[[], str],
) -> None:
    with System(fresh(), swapped=True) as system:
        asked = doubt(system)
        system.clock.advance(12.1)
        assert system.service.reconcile().adopted == 1
        system.check()
        adopted, entry = system.rows()[asked.id], system.entry_of(system.rows()[asked.id])
        assert entry is not None
        assert adopted.middle_number_a == entry.number_of(P) != entry.number_of(Q)


@pytest.mark.parametrize("first", [True, False])
def test_I4_one_reading_of_the_list_proves_no_absence(system: System, first: bool) -> None:
    asked = doubt(system)
    made = system.simulator.ledger.entries()[-1].bind_id
    system.clock.advance(12.1)
    system.stops = [Stop("reconcile.after_first_scan", "shown" if first else "pause")]
    if first:
        system.hidden.add(made)
        assert system.service.reconcile().absent == 0
        system.check()
    assert system.rows()[asked.id].state in (State.IN_DOUBT, State.ACTIVE) or not first


def test_an_absence_that_two_readings_prove_frees_the_phones(system: System) -> None:
    asked = doubt(system, fault="anomaly_before")
    system.clock.advance(12.1)
    assert system.service.reconcile().absent == 1
    assert system.rows()[asked.id].reason == "absent"
    system.check()
    assert isinstance(system.bind(Ask(P, Q)), Binding)


def test_I8_a_refusal_uses_up_no_key(system: System) -> None:
    first = system.bind(Ask(P, Q))
    assert isinstance(first, Binding)
    assert isinstance(system.bind(Ask(P, R, key="k")), errors.PhoneInUse)
    system.unbind(first.id)
    assert isinstance(system.bind(Ask(P, R, key="k")), Binding)


def test_I5_a_sweep_ends_only_what_is_active(system: System) -> None:
    first, second = system.bind(Ask(P, Q)), system.bind(Ask(R, S))
    assert isinstance(first, Binding)
    assert isinstance(second, Binding)
    system.unbind(first.id)
    system.clock.advance(100)
    assert system.service.expire_due().expired == 1
    assert system.service.expire_due().expired == 0


def test_I5_an_answer_that_comes_after_the_end_becomes_a_hold_and_is_unbound(fresh: Callable[[], str]) -> None:
    """Every pass runs while the answer is on its way; the row is over by then, and stays over."""
    with System(fresh(), tolerance_s=300.0) as system:
        system.stops = [Stop("bind.before_send", "recover", 290.0), Stop("bind.after_answer", "recover", 100.0)]
        made = system.bind(Ask(P, Q, "AXB", 20))
        system.check()
        assert not isinstance(made, Binding) or made.state is not State.PENDING
        system.heal()


def test_I5_a_settled_binding_takes_no_second_answer(system: System) -> None:
    """The scan adopts it, and it is unbound, while the first answer is still on its way."""
    system.bind(Ask(T, U, "AXB", 600))
    system.stops = [Stop("bind.after_answer", "scan", 12.1), Stop("bind.settle_in_transaction", "pause", 1.0)]
    made = system.bind(Ask(P, Q))
    system.check()
    assert isinstance(made, Binding)
    assert system.unbind(made.id)
    system.check()


def test_I5_an_answer_to_a_binding_that_was_adopted_and_unbound_changes_nothing(system: System) -> None:
    system.bind(Ask(T, U, "AXB", 600))
    system.stops = [
        Stop("bind.after_answer", "scan", 12.1),
        Stop("reconcile.after_adopt", "unbind"),
    ]
    made = system.bind(Ask(P, Q))
    system.check()
    assert isinstance(made, Binding)
    assert made.state is State.UNBOUND
    assert not any(entry.phone_a == P for entry in system.own())


def test_I7_a_transaction_that_is_cut_off_leaves_nothing(system: System) -> None:
    for place in ("bind.reserve_in_transaction", "bind.settle_in_transaction"):
        before = len(system.rows())
        system.stops = [Stop(place, "crash")]
        assert system.bind(Ask(P, Q)) is None
        system.check()
        rows = system.rows()
        assert len(rows) == before + (place != "bind.reserve_in_transaction")
        assert all(row.state is State.PENDING for row in rows.values())


# What a single thread cannot see.


@dataclass(kw_only=True)
class Replicas:
    """Two processes' worth of services on one database, one provider, one clock."""

    one: BindingService
    two: BindingService
    clock: Clock
    simulator: Simulator

    @property
    def both(self) -> tuple[BindingService, BindingService]:
        return self.one, self.two

    def bind(self, service: BindingService, a: str, b: str, mode: str = "AXB", **asked: Any) -> Any:
        """The binding or the error."""
        try:
            return service.bind(phone_a=a, phone_b=b, mode=mode, pool_number=POOL, expire_s=60, **asked)
        except errors.BindingsError as error:
            return error

    def sound(self) -> None:
        assert_sound(self.one)
        assert not self.simulator.ledger.overlaps()
        assert "-35" not in self.simulator.counts.decided.get("bind", {}), "two requests met at the provider"


@pytest.fixture
def replicas(database_url: str) -> Iterator[Replicas]:
    clock = Clock()
    with Simulator(clock=clock.unix, pool_size=50, timestamp_tolerance_s=2.0) as simulator:
        one, two = (service_at(database_url, clock, simulator.url, timestamp_tolerance_s=2.0) for _ in range(2))
        found = Replicas(one=one, two=two, clock=clock, simulator=simulator)
        try:
            yield found
            failpoints.install(None)
            found.sound()
        finally:
            failpoints.install(None)
            one.close()
            two.close()


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run them side by side, begun at the same moment; an exception is raised here."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        barrier.wait(10)
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return [running.result(60) for running in [threads.submit(begin, work) for work in works]]


def meet(place: str, *, wait_s: float = 0.7) -> None:
    """Whoever reaches the place waits there for the other one, for a while: they meet if anything lets them."""
    barrier = threading.Barrier(2)

    def hook(name: str) -> None:
        if name == place:
            with suppress(threading.BrokenBarrierError):
                barrier.wait(wait_s)

    failpoints.install(hook)


@pytest.mark.parametrize("pairs", [((P, Q), (Q, R)), ((P, Q), (Q, P)), ((P, Q), (P, Q))])
def test_I1_of_two_replicas_that_reserve_at_the_same_moment_one_is_refused(
    replicas: Replicas, pairs: tuple[tuple[str, str], tuple[str, str]]
) -> None:
    meet("bind.reserve_in_transaction")
    made = at_once(
        *(partial(replicas.bind, service, *pair) for service, pair in zip(replicas.both, pairs, strict=True))
    )
    assert sorted(type(found).__name__ for found in made) == ["Binding", "PhoneInUse"]
    assert replicas.simulator.counts.received["bind"] == 1


def test_I1_an_axb_and_an_axxb_that_share_a_phone_do_not_pass_each_other(replicas: Replicas) -> None:
    """Whoever comes first is not answered before the other one is judged: an AXXB that is active lets it pass."""
    barrier, judged = threading.Barrier(2), threading.Event()

    def hook(name: str) -> None:
        if name == "bind.reserve_in_transaction":
            with suppress(threading.BrokenBarrierError):
                barrier.wait(0.7)
        elif name == "bind.before_send":
            judged.wait(5)

    def bind(service: BindingService, *asked: str) -> Any:
        made = replicas.bind(service, *asked)
        judged.set()
        return made

    failpoints.install(hook)
    made = at_once(partial(bind, replicas.one, P, Q, "AXXB"), partial(bind, replicas.two, Q, R, "AXB"))
    assert sorted(type(found).__name__ for found in made) == ["Binding", "PhoneInUse"]


def test_pairs_in_opposite_order_never_deadlock(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    transient = bindings.store.database._is_transient

    def watched(error: Exception) -> bool:
        seen.append(str(getattr(getattr(error, "orig", None), "sqlstate", None)))
        return transient(error)

    monkeypatch.setattr(bindings.store.database, "_is_transient", watched)
    dice = random.Random(1)

    def many(service: BindingService, names: tuple[str, ...]) -> None:
        for _ in range(12):
            a, b = dice.sample(names, 2)
            made = replicas.bind(service, a, b)
            if isinstance(made, Binding):
                service.unbind(made.id)

    at_once(*(partial(many, service, (P, Q, R)) for service in replicas.both * 2))
    assert "40P01" not in seen


@pytest.mark.postgres
def test_locks_are_taken_in_one_order_whoever_is_a_and_whoever_is_b(postgres_url: str) -> None:
    """Somebody has the first lock of the pair: whoever waits for it must not have the second one yet."""
    keys = sorted((reserve._lock_key("default", Phone(phone).key), phone) for phone in (P, Q))
    database = Database(postgres_url)
    with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url, autocommit=True) as watcher:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (keys[0][0],))
        waiting = [
            threading.Thread(target=database.write, args=(partial(intend, order[0][1], order[1][1]),))
            for order in (keys, keys[::-1])
        ]
        for thread in waiting:
            thread.start()
        query = "SELECT count(*) FILTER (WHERE granted), count(*) FROM pg_locks WHERE locktype = 'advisory'"
        query += " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        deadline = time.monotonic() + 5
        granted = total = 0
        while total < 3 and time.monotonic() < deadline:
            granted, total = watcher.execute(query).fetchone() or (0, 0)
        holder.rollback()
        for thread in waiting:
            thread.join(10)
    database.close()
    assert (granted, total) == (1, 3)


TERMS = reserve.BindLimits(
    scope="default", policy=Policy.LITERAL, call_timeout_s=5, tolerance_s=2, guard_for=lambda _: 5.0, warn_s=None
)


def intend(a: str, b: str, tx: Transaction) -> Any:
    """The first transaction of a bind."""
    asked = BindRequest(
        phone_a=Phone(a), phone_b=Phone(b), pool_number=POOL, expire_s=60, mode=Mode.AXB, app_id=APP
    )
    return reserve.reserve(tx, str(uuid.uuid4()), asked, TERMS, Caller(actor="test"))


def test_a_second_writer_begins_when_the_first_has_committed(sqlite_url: str) -> None:
    """BEGIN IMMEDIATE: what a transaction reads, and the clock that it reads, are of its own turn."""
    first, second = Database(sqlite_url), Database(sqlite_url)
    began = threading.Event()
    waiting = threading.Thread(target=second.write, args=(lambda _: began.set(),))

    def work(_: Transaction) -> bool:
        waiting.start()
        return began.wait(0.4)

    assert not first.write(work)
    waiting.join(10)
    assert began.is_set()
    first.close()
    second.close()


@pytest.mark.postgres
def test_the_clock_is_read_when_the_lock_is_had(postgres_url: str) -> None:
    """now() stands still from the begin of a transaction on, clock_timestamp() does not."""
    database = Database(postgres_url)
    key = reserve._lock_key("default", Phone(P).key)
    with psycopg.connect(postgres_url) as holder, ThreadPoolExecutor(1) as threads:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        reading = threads.submit(database.write, partial(intend, P, Q))
        time.sleep(0.5)
        (released,) = holder.execute("SELECT clock_timestamp()").fetchone() or (None,)
        holder.rollback()
        assert reading.result(10).binding.requested_at >= released
    database.close()


@pytest.mark.postgres
def test_the_feed_waits_for_a_transaction_that_began_earlier(postgres_url: str) -> None:
    database = Database(postgres_url)
    caller = Caller(actor="test")
    late, early = (
        (lambda tx: events.append_without_binding(tx, EventKind.HELD, caller, {"n": 1})),
        threading.Event(),
    )
    written = threading.Event()

    def slow(tx: Transaction) -> None:
        events.append_without_binding(tx, EventKind.HELD, caller, {"n": 0})
        written.set()
        early.wait(10)

    def read(after: tuple[int, int]) -> list[Event]:
        return database.read(events.feed, after=after, limit=10)

    running = threading.Thread(target=database.write, args=(slow,))
    running.start()
    written.wait(10)
    database.write(late)
    seen = read((0, 0))
    early.set()
    running.join(10)
    deadline = time.monotonic() + 30  # a transaction of any database on this server may hold the feed back
    while len(seen) < 2 and time.monotonic() < deadline:
        tx, position = seen[-1].cursor.split("-") if seen else ("0", "0")
        seen += read((int(tx), int(position)))
        time.sleep(0.05)
    database.close()
    assert [event.detail["n"] for event in seen] == [0, 1]


def test_I8_one_key_in_many_hands_is_one_binding(replicas: Replicas) -> None:
    made = at_once(*(partial(replicas.bind, service, P, Q, idempotency_key="k") for service in replicas.both * 3))
    assert len({found.id for found in made}) == 1
    assert replicas.simulator.counts.received["bind"] == 1


def test_I5_a_sweep_that_meets_a_running_unbind_ends_nothing_twice(replicas: Replicas) -> None:
    made = replicas.bind(replicas.one, P, Q)
    unbinding, swept = threading.Event(), threading.Event()

    def hook(name: str) -> None:
        if name == "unbind.settle_in_transaction":
            unbinding.set()
            swept.wait(0.6)  # its row is locked, its change is not yet to be seen

    def sweep() -> int:
        unbinding.wait(10)
        replicas.clock.advance(61)
        try:
            return replicas.two.expire_due().expired
        finally:
            swept.set()

    failpoints.install(hook)
    ended, expired = at_once(lambda: replicas.one.unbind(made.id), sweep)
    assert ended.state is State.UNBOUND
    assert expired == 0


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_a_recovery_and_a_scan_at_the_same_moment_agree(replicas: Replicas, seed: int) -> None:
    dice = random.Random(seed)
    replicas.bind(replicas.two, T, U)
    answered, settle = threading.Event(), threading.Event()

    def hook(name: str) -> None:
        if name == "bind.after_answer" and threading.current_thread().name == "binder":
            answered.set()
            settle.wait(10)

    made: list[Any] = []
    binder = threading.Thread(name="binder", target=lambda: made.append(replicas.bind(replicas.one, P, Q)))
    failpoints.install(hook)
    binder.start()
    answered.wait(10)
    replicas.clock.advance(12.1)
    works = [
        replicas.one.recover,
        replicas.two.reconcile,
        replicas.two.recover,
        replicas.one.reconcile,
        settle.set,
    ]
    waits = [dice.uniform(0, 0.02) for _ in works]

    def later(work: Any, wait_s: float) -> Any:
        time.sleep(wait_s)
        return work()

    at_once(*(partial(later, work, wait_s) for work, wait_s in zip(works, waits, strict=True)))
    binder.join(10)
    assert isinstance(made[0], Binding)
    row = replicas.one.get(made[0].id)
    assert row.state is State.ACTIVE
    assert row.bind_id == str(replicas.simulator.ledger.entries()[-1].bind_id)
    ends = [event.kind for event in replicas.one.history(row.id)]
    assert len([kind for kind in ends if kind in (EventKind.ACTIVATED, EventKind.ADOPTED)]) == 1
