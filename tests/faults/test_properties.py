"""The invariants I1 to I8 hold for any operations in any order (R10).

First a state machine that hypothesis runs on both databases, with every step checked against the provider's ledger
and a plain model (`model`). Then single runs that once failed or that detect a seeded bug (`mutations`). Last the
effects of concurrency.
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

import bindings.store.retry
from bindings import errors, failpoints
from bindings.domain.binding import Binding, BindRequest, Caller, EventKind, Mode, State
from bindings.domain.conflict import Policy
from bindings.domain.phone import Phone
from bindings.provider.instants import FORMS
from bindings.provider.simulator import Simulator
from bindings.store import events, failures, reserve
from bindings.store.database import Database
from tests.faults.model import Request, Stop, System
from tests.faults.test_kill import LIMIT_S, report
from tests.service.harness import APP, POOL, Clock, assert_sound, service_at, wait_for

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
ODD_FIELDS = ("bind_id", "phone_b", "middle_number_a", "ends_at")
PAGE_FAULTS = ("bad_gateway", "lost_reply", "cut_body", "truncated")
UNREACHABLE_URL = "http://127.0.0.1:9"

PAIRS = tuple(itertools.permutations(PHONES, 2))
PAUSES_S = (0.0, 0.4, 2.5, 7.3, 12.1, 31.7, 68.2, 400.0)
LOST_COMMITS = (0,) * 9 + (1, 2, 3)
REQUESTS = tuple(
    Request(*pair, mode, expire_s, max_expire_s=max_expire_s)
    for pair in PAIRS
    for mode in ("AXB", "AXXB")
    for expire_s, max_expire_s in (*[(60, None)] * 3, (20, None), (600, None), (60, 600), (20, 300), (60, 90))
)


def half_none(kinds: tuple[str, ...]) -> tuple[str | None, ...]:
    """Add as many Nones as there are kinds: no fault in half of the draws."""
    return (None,) * len(kinds) + kinds


def true_once_in(number: int) -> tuple[bool, ...]:
    return (False,) * (number - 1) + (True,)


def stops(places: tuple[str, ...], actions: tuple[str, ...]) -> tuple[Stop | None, ...]:
    """Return stops, and as many Nones; inside a transaction no other caller can act."""
    choices: list[Stop | None] = []
    for place in places:
        possible = ("crash", "stop", "pause") if place.endswith("in_transaction") else actions
        choices += [Stop(place, action, pause) for action in possible for pause in PAUSES_S]
    return (None,) * len(choices) + tuple(choices)


# Every rule, and the values of each of its arguments.
CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "bind": {
        "request": REQUESTS,
        "crowded": true_once_in(4),
        "key": (None, None, None, "k1", "k2", "k3"),
        "fault": half_none(BIND_FAULTS),
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
    "bind_plainly": {"request": REQUESTS},
    "bind_into_doubt": {"request": REQUESTS, "fault": BIND_FAULTS[:11]},
    "replace": {
        "which": tuple(range(12)),
        "phone_b": (None, *PHONES),
        "expire_s": (None, 20, 600),
        "key": (None, "k1", "k4", "k5"),
        "fault": half_none(("bind", "unbind")),
        "kind": BIND_FAULTS,
        "unbind_kind": UNBIND_FAULTS,
        "times": (1, 1, 2, 9),
        "stop": stops(
            (
                "replace.before_begin",
                "replace.begin_in_transaction",
                "replace.after_begin",
                "replace.after_unbind",
                "replace.end_waiting_in_transaction",
                "replace.clear_in_transaction",
                "replace.after_clear",
                "bind.before_send",
                "bind.after_answer",
                "bind.settle_in_transaction",
            ),
            ("crash", "pause", "sweep", "recover", "recover_as_before", "scan", "unbind", "bind"),
        ),
        "lose": LOST_COMMITS,
    },
    "repeat_a_key": {"which": tuple(range(6))},
    "unbind": {
        "which": tuple(range(12)),
        "fault": half_none(UNBIND_FAULTS),
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
    "unbind_all": {"phone": PHONES, "fault": half_none(UNBIND_FAULTS)},
    "recover_as_before": {},
    "extend": {
        "which": tuple(range(12)),
        "expire_s": (7, 35, 70, 250, 500),
        "stop": stops(("extend.in_transaction",), ()),
        "lose": LOST_COMMITS,
    },
    "shorten": {
        "which": tuple(range(12)),
        "after_s": (1, 7, 35, 250),
        "stop": stops(("shorten.in_transaction",), ()),
        "lose": LOST_COMMITS,
    },
    "tick": {"seconds": (0.4, 7.3, 12.1, 31.7, 68.2)},
    "sweep": {"stop": stops(("expire.after_batch", "expire.in_transaction"), ("crash", "pause"))},
    "recover": {
        "stop": stops(
            ("recover.before_unbinds", "unbind.after_answer", "recover.in_transaction"),
            ("crash", "pause", "sweep", "recover"),
        ),
        "fault": half_none(UNBIND_FAULTS),
        "lose": LOST_COMMITS,
    },
    "reconcile": {
        "seconds": (0.0, 0.4, 7.3, 12.1, 31.7, 68.2),
        "stop": stops(
            (
                "reconcile.after_first_scan",
                "reconcile.after_second_scan",
                "reconcile.after_page",
                "reconcile.after_adopt",
                "reconcile.adopt_in_transaction",
                "reconcile.hold_in_transaction",
            ),
            ("crash", "stop", "pause", "sweep", "recover", "hidden", "shown"),
        ),
        "fault": half_none(PAGE_FAULTS),
        "times": (1, 2, 3, 4),
        "lying": true_once_in(3),
        "lose": LOST_COMMITS,
    },
    "jump": {
        "ahead_s": (3_600.0, 31_536_000.0, -3_600.0),
        "action": ("bind", "unbind", "unbind", "extend", "replace", "expire_due", "recover", "reconcile"),
        "request": REQUESTS,
        "which": tuple(range(6)),
    },
    "change_list": {
        "shuffled": (False, True),
        "total_offset": (0, 0, 0, 1, -1, 1_000_000),
        "page_rows": (None, None, 1, 2),
        "form": FORMS,
    },
    "plant": {"request": REQUESTS, "beside_a_doubt": true_once_in(2), "odd": half_none(ODD_FIELDS)},
    "vanish": {"which": tuple(range(6))},
    "hide": {"which": tuple(range(6)), "seconds": (0.0, 61.0, 61.0)},
    "take_back": {"which": tuple(range(6)), "seconds": (0.0, 4.0, 61.0)},
    "delay_list": {"late": (False, True)},
    "reconcile_undisturbed": {"seconds": (0.0, 31.7, 61.0)},
}
WEIGHTS = dict.fromkeys(CHOICES, 1) | {"bind": 4, "bind_plainly": 2, "replace": 4, "unbind": 2, "extend": 2}
WEIGHTS |= {"reconcile": 2, "tick": 2}
TAKEOVERS = {
    "bind_plainly": 2,
    "bind": 1,
    "replace": 8,
    "repeat_a_key": 3,
    "unbind": 1,
    "unbind_all": 1,
    "extend": 1,
}
TAKEOVERS |= {"tick": 2, "sweep": 1, "recover": 1, "recover_as_before": 1, "reconcile": 1, "take_back": 1}


def step(name: str) -> Callable[[Step], Step]:
    """Return a decorator for a rule whose arguments are drawn from its choices."""
    drawn = {argument: st.sampled_from(choices) for argument, choices in CHOICES[name].items()}
    decorate: Callable[[Step], Step] = cast("Any", rule)(**drawn)
    return decorate


class Lifecycle(RuleBasedStateMachine):
    """The operations of callers, scheduler, network and provider, in any order."""

    def __init__(self, fresh: Callable[[], str]) -> None:
        super().__init__()
        self.fresh = fresh
        self.system: System | None = None
        self.steps: list[tuple[str, dict[str, Any]]] = []  # of the walks, printed if one fails

    @initialize(
        policy=st.sampled_from(Policy),
        tolerance_s=st.sampled_from((2.0, 2.0, 300.0)),
        lag_s=st.sampled_from((0.0, 4.0)),
        swapped=st.booleans(),
    )
    def begin(self, policy: Policy, tolerance_s: float, lag_s: float, swapped: bool) -> None:
        self.system = System(self.fresh(), policy=policy, tolerance_s=tolerance_s, lag_s=lag_s, swapped=swapped)

    @property
    def current(self) -> System:
        assert self.system is not None
        return self.system

    def script(self, kind: str | None, on: str, times: int = 1) -> None:
        if kind == "down":
            self.current.client._base_url = UNREACHABLE_URL
        elif kind is not None:
            self.current.simulator.script(kind, times=times, on=on)

    def stop_at(self, *places: Stop | None) -> None:
        self.current.stops = [place for place in places if place is not None]

    def stop_faults(self) -> None:
        self.current.stop_faults()

    def free(self, request: Request, *, crowded: bool) -> Request:
        """Return the request with the next free pair of phones, so that most runs get further than a refusal."""
        if crowded:
            return request
        start, refused = PAIRS.index((request.phone_a, request.phone_b)), self.current.refusing()
        nearby = (replace(request, phone_a=a, phone_b=b) for a, b in PAIRS[start:] + PAIRS[:start])
        return next((near for near in nearby if not refused(near)), request)

    @step("bind")
    def bind(
        self,
        request: Request,
        crowded: bool,
        key: str | None,
        fault: str | None,
        stop: Stop | None,
        signing_s: float,
        network_s: float,
        lose: int,
    ) -> None:
        free_request = replace(self.free(request, crowded=crowded), key=key)
        self.script(fault, "bind")
        self.stop_at(stop)
        self.current.signing_pause_s, self.current.network_s, self.current.lose_commit = signing_s, network_s, lose
        self.current.bind(free_request)
        self.stop_faults()

    @step("bind_plainly")
    def bind_plainly(self, request: Request) -> None:
        """Bind without a fault: witnesses for scans, and bindings to unbind."""
        self.current.bind(self.free(request, crowded=False))

    @step("bind_into_doubt")
    def bind_into_doubt(self, request: Request, fault: str) -> None:
        self.script(fault, "bind")
        self.current.bind(self.free(request, crowded=False))
        self.stop_faults()

    @step("repeat_a_key")
    def repeat_a_key(self, which: int) -> None:
        used = list(self.current.keys.values())
        if used:
            self.current.call(used[which % len(used)][0])

    @step("unbind")
    def unbind(self, which: int, fault: str | None, stop: Stop | None, lose: int) -> None:
        rows = sorted(self.current.rows().values(), key=lambda row: (row.version, row.requested_at))
        if not rows:
            return
        self.script(fault, "unbind")
        self.stop_at(stop)
        self.current.lose_commit = lose
        self.current.unbind(rows[which % len(rows)].id)
        self.stop_faults()

    @step("replace")
    def replace(
        self,
        which: int,
        phone_b: str | None,
        expire_s: int | None,
        key: str | None,
        fault: str | None,
        kind: str,
        unbind_kind: str,
        times: int,
        stop: Stop | None,
        lose: int,
    ) -> None:
        """Replace a binding in any state, the latest and those that are active first."""
        rows = sorted(self.current.rows().values(), key=lambda row: row.requested_at, reverse=True)
        rows.sort(key=lambda row: row.state not in (State.ACTIVE, State.EXPIRED))
        if not rows:
            return
        predecessor = rows[which % len(rows)]
        if phone_b == predecessor.phone_a.digits:
            phone_b = None
        if fault is not None:
            self.script(kind if fault == "bind" else unbind_kind, fault, times)
        self.stop_at(stop)
        self.current.lose_commit = lose
        self.current.replace(self.current.replacement(predecessor.id, phone_b, expire_s, key))
        self.stop_faults()

    @step("unbind_all")
    def unbind_all(self, phone: str, fault: str | None) -> None:
        self.script(fault, "unbind")
        self.current.unbind_all(phone)
        self.stop_faults()

    @step("recover_as_before")
    def recover_as_before(self) -> None:
        self.current.recover_as_before()

    def active(self, which: int) -> Binding | None:
        """Return one of the bindings that are recorded as active, which may be over or about to be unbound."""
        rows = [row for row in self.current.rows().values() if row.state is State.ACTIVE]
        return rows[which % len(rows)] if rows else None

    @step("extend")
    def extend(self, which: int, expire_s: int, stop: Stop | None, lose: int) -> None:
        if (binding := self.active(which)) is not None:
            self.stop_at(stop)
            self.current.lose_commit = lose
            self.current.extend(binding.id, expire_s)
            self.stop_faults()

    @step("shorten")
    def shorten(self, which: int, after_s: int, stop: Stop | None, lose: int) -> None:
        if (binding := self.active(which)) is not None:
            self.stop_at(stop)
            self.current.lose_commit = lose
            self.current.shorten(binding.id, after_s)
            self.stop_faults()

    @step("tick")
    def tick(self, seconds: float) -> None:
        self.current.clock.advance(seconds)

    @step("sweep")
    def sweep(self, stop: Stop | None) -> None:
        self.stop_at(stop)
        self.current.run_job("expire_due")
        self.stop_faults()

    @step("recover")
    def recover(self, stop: Stop | None, fault: str | None, lose: int) -> None:
        self.script(fault, "unbind")
        self.stop_at(stop)
        self.current.lose_commit = lose
        self.current.run_job("recover")
        self.current.run_job("look")
        self.stop_faults()

    @step("reconcile")
    def reconcile(
        self, seconds: float, stop: Stop | None, fault: str | None, times: int, lying: bool, lose: int
    ) -> None:
        """Reconcile, perhaps with a list that omits all of our own bindings in one of the two scans."""
        self.current.clock.advance(seconds)
        self.script(fault, "page", times)
        end_hiding = Stop("reconcile.after_first_scan", "shown") if lying else None
        self.stop_at(end_hiding, stop)
        if lying:
            self.current._perform("hidden", None)
        self.current.lose_commit = lose
        self.current.run_job("reconcile")
        self.current.hidden.clear()
        self.stop_faults()

    @step("jump")
    def jump(self, ahead_s: float, action: str, request: Request, which: int) -> None:
        self.current.act_while_the_clock_is_wrong(ahead_s, action, self.free(request, crowded=False), which)

    @step("change_list")
    def change_list(self, shuffled: bool, total_offset: int, page_rows: int | None, form: str) -> None:
        self.current.simulator.change(
            shuffle_pages=shuffled, total_offset=total_offset, max_page_rows=page_rows, end_form=form
        )

    @step("plant")
    def plant(self, request: Request, beside_a_doubt: bool, odd: str | None) -> None:
        """Add a foreign binding, perhaps with the pair of one of our own in doubt, or listed as an odd row."""
        doubts = [row for row in self.current.rows().values() if row.state is State.IN_DOUBT]
        if doubts and beside_a_doubt:
            request = replace(request, phone_a=doubts[0].phone_b.digits, phone_b=doubts[0].phone_a.digits)
        entry = self.current.simulator.add_foreign_binding(
            phone_a=request.phone_a,
            phone_b=request.phone_b,
            app_id=APP,
            expire_s=request.expire_s,
            mode=request.mode,
        )
        if odd is not None:
            self.current.simulator.list_as(entry.bind_id, {odd: None})

    @step("vanish")
    def vanish(self, which: int) -> None:
        live = self.current.live()
        if live:
            self.current.simulator.remove_binding(live[which % len(live)].bind_id)

    @step("hide")
    def hide(self, which: int, seconds: float) -> None:
        """Let a list hide one of our own bindings during a whole reconciliation."""
        self.current.clock.advance(seconds)
        own = [entry for entry in self.current.own() if self.current._has_pair_alone(entry)]
        if own:
            self.current.hide_for_one_run(own[which % len(own)])

    @step("take_back")
    def take_back(self, which: int, seconds: float) -> None:
        """Let the provider take back an unbind that it has confirmed."""
        self.current.clock.advance(seconds)
        rows = [row for row in self.current.rows().values() if row.state in (State.UNBOUND, State.EXPIRED)]
        entries = [self.current.entry_of(row) for row in sorted(rows, key=lambda row: row.requested_at)]
        unbound = [entry for entry in entries if entry is not None and entry.unbound_at is not None]
        if unbound:
            self.current.take_back(unbound[which % len(unbound)])

    @step("delay_list")
    def delay_list(self, late: bool) -> None:
        """Let the list be late, by less than the time in which a request may still be accepted."""
        lag_s = 0.7 * min(self.current.tolerance_s, 30.0) if late else 0.0
        self.current.simulator.change(list_lag_s=lag_s)

    @step("reconcile_undisturbed")
    def reconcile_undisturbed(self, seconds: float) -> None:
        self.current.clock.advance(seconds)
        self.current.reconcile_undisturbed()

    @rule(seed=st.integers(0, 2**32 - 1))
    def walk(self, seed: int, steps: int = 8, weights: dict[str, int] = WEIGHTS) -> None:
        """Run more steps, drawn evenly: hypothesis itself prefers simple and repeated ones."""
        rng = random.Random(seed)
        for _ in range(steps):
            name = rng.choice([name for name, weight in weights.items() for _ in range(weight)])
            arguments = {argument: rng.choice(choices) for argument, choices in CHOICES[name].items()}
            self.steps.append((name, arguments))
            getattr(self, name)(**arguments)
            self.current.check(all_lookups=False)

    @invariant()
    def sound(self) -> None:
        if self.system is not None:
            self.system.check(all_lookups=False)

    def teardown(self) -> None:
        if self.system is None:
            return
        try:
            self.system.settle_everything()
        finally:
            self.system.close()


@pytest.fixture
def fresh(database_url: str, tmp_path: Path) -> Callable[[], str]:
    """Return a function that empties the database and returns its address."""
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
    without_shrinking = "BINDINGS_TEST_NO_SHRINK" in os.environ  # a seeded bug need only be detected
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


def run_walk(fresh: Callable[[], str], seed: int, steps: int, *, weights: dict[str, int] = WEIGHTS) -> None:
    """Run one seeded walk without hypothesis; print the steps if it fails."""
    rng = random.Random(seed)
    machine = Lifecycle(fresh)
    machine.begin(rng.choice(list(Policy)), rng.choice((2.0, 2.0, 300.0)), rng.choice((0.0, 4.0)), seed % 2 == 0)
    try:
        machine.walk(seed, steps, weights)
        machine.current.settle_everything()
    except BaseException:
        print(f"seed {seed}:", *machine.steps, sep="\n    ")  # noqa: T201 -- pytest shows it with the failure
        raise
    finally:
        machine.current.close()


def test_random_operations_in_any_order_keep_every_invariant(fresh: Callable[[], str]) -> None:
    run(fresh, examples=5, steps=15, seeded=True)


@pytest.mark.parametrize("seed", range(6))
def test_seeded_walk_keeps_every_invariant(fresh: Callable[[], str], seed: int) -> None:
    run_walk(fresh, seed, 60)


@pytest.mark.parametrize("seed", range(4))
def test_seeded_walk_of_replacements_keeps_every_invariant(fresh: Callable[[], str], seed: int) -> None:
    run_walk(fresh, seed, 60, weights=TAKEOVERS)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_two_hundred_seeded_walks_of_replacements_keep_every_invariant(fresh: Callable[[], str]) -> None:
    for seed in range(1_000, 1_200):
        run_walk(fresh, seed, 60, weights=TAKEOVERS)
    report(run="walks of replacements", walks=200)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_random_operations_for_a_long_time_keep_every_invariant(fresh: Callable[[], str]) -> None:
    run(fresh, examples=max(5, int(LIMIT_S / 2)), steps=50, seeded=False)  # about two seconds each


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_thousand_seeded_walks_keep_every_invariant(fresh: Callable[[], str]) -> None:
    until = time.monotonic() + LIMIT_S
    completed = 0
    for seed in range(1_000, 2_000):
        if time.monotonic() > until:
            break
        run_walk(fresh, seed, 100)
        completed += 1
    report(run="walks", walks=completed)


# Single runs that once failed, or that detect a seeded bug.


@pytest.fixture
def system(fresh: Callable[[], str]) -> Iterator[System]:
    with System(fresh()) as system:
        yield system
        system.check()


def doubt(system: System, request: Request = Request(P, Q, "AXXB"), fault: str = "lost_reply") -> Binding:  # noqa: B008
    """Return a binding in doubt; there is a witness too."""
    system.bind(Request(T, U, "AXB", 600))
    system.clock.advance(61)  # from then on the list must have it
    system.simulator.script(fault, times=1, on="bind")
    result = system.bind(request)
    assert isinstance(result, errors.OutcomeUnknown)
    system.check()
    return result.binding


def test_axxb_in_doubt_under_strict_refuses_another_axxb_on_its_phone(fresh: Callable[[], str]) -> None:
    """Found by the state machine: the bind was sent, and the provider refused it with -35."""
    with System(fresh(), policy=Policy.STRICT) as system:
        doubt(system, Request(P, Q, "AXXB"))
        assert isinstance(system.bind(Request(Q, R, "AXXB")), errors.PhoneInUse)
        system.check()


def test_I4_unknown_outcome_frees_no_phone(system: System) -> None:
    for fault, request in (
        ("anomaly_after", Request(P, Q)),
        ("lost_reply", Request(R, S)),
        ("bad_gateway_after", Request(T, U)),
    ):
        system.simulator.script(fault, times=1, on="bind")
        assert isinstance(system.bind(request), errors.OutcomeUnknown)
        system.check()
        assert isinstance(system.bind(replace(request, mode="AXXB")), errors.PhoneInUse)


def test_I3_request_is_sent_once_for_any_response(system: System) -> None:
    for fault in ("bad_gateway", "reset_before", "redirect", "anomaly_before"):
        before = system.simulator.counts.received.get("bind", 0)
        system.simulator.script(fault, times=1, on="bind")
        system.bind(Request(P, Q))
        system.check()
        assert system.simulator.counts.received["bind"] == before + 1
        assert "other" not in system.simulator.counts.received, "the redirect was followed"
        system.clock.advance(500)


def test_I4_request_signed_too_late_is_not_sent(system: System) -> None:
    """Two pauses, each shorter than a call's time limit, and together longer than the send window."""
    system.stops = [Stop("bind.after_reserve", "pause", 4.0)]
    system.signing_pause_s = 4.0
    result = system.bind(Request(P, Q))
    assert isinstance(result, errors.ProviderUnreachable)
    assert not system.own()


def test_I4_request_delayed_in_the_network_is_refused_by_its_timestamp(system: System) -> None:
    system.network_s = 30.0
    assert isinstance(system.bind(Request(P, Q)), errors.OutcomeUnknown)
    assert not system.own()


def test_I4_request_accepted_late_is_covered_by_the_hold_until_its_end(fresh: Callable[[], str]) -> None:
    with System(fresh(), tolerance_s=300.0) as system:
        system.network_s = 299.0
        assert isinstance(system.bind(Request(P, Q, "AXB", 20)), errors.OutcomeUnknown)
        system.check()
        assert system.own()
        system.clock.advance(19.5)
        system.service.recover()
        system.check()
        assert isinstance(system.bind(Request(P, R)), errors.PhoneInUse)


def test_I4_phones_stay_held_for_the_guard_time_after_the_end(fresh: Callable[[], str]) -> None:
    with System(fresh(), lag_s=4.0) as system:
        assert isinstance(system.bind(Request(P, Q)), Binding)
        system.clock.advance(61)
        system.service.expire_due()
        system.check()
        assert isinstance(system.bind(Request(P, R)), errors.PhoneInUse)
        system.clock.advance(4.5)
        assert isinstance(system.bind(Request(P, R)), Binding)
        system.check()


def test_I4_unbind_that_finds_no_binding_holds_the_phones_for_the_guard_time(fresh: Callable[[], str]) -> None:
    """The provider refuses longer than it lists: here the binding ended while the unbind was in the network."""
    with System(fresh(), lag_s=4.0) as system:
        result = system.bind(Request(P, Q))
        assert isinstance(result, Binding)
        system.clock.advance(58)
        system.stops = [Stop("unbind.after_request", "pause", 2.5)]
        unbound = system.unbind(result.id)
        assert isinstance(unbound, Binding)
        assert unbound.reason == "not_found"
        system.check()
        assert isinstance(system.bind(Request(P, R)), errors.PhoneInUse)
        system.check()


def test_I6_binding_is_extended_no_further_than_the_provider_keeps_it(system: System) -> None:
    binding = system.bind(Request(P, Q, "AXB", 60, max_expire_s=90))
    assert isinstance(binding, Binding)
    system.clock.advance(1)
    assert isinstance(system.extend(binding.id, 90), errors.InvalidRequest)
    assert isinstance(system.extend(binding.id, 89), Binding)


def test_binding_past_its_promised_end_is_not_extended(system: System) -> None:
    binding = system.bind(Request(P, Q, "AXB", 60, max_expire_s=600))
    assert isinstance(binding, Binding)
    system.clock.advance(60)
    assert isinstance(system.extend(binding.id, 60), errors.NotActive)
    assert isinstance(system.shorten(binding.id, 1), errors.NotActive)
    assert isinstance(system.unbind(binding.id), Binding)
    assert isinstance(system.extend(binding.id, 60), errors.NotActive)


def test_binding_that_is_to_be_unbound_is_not_extended(system: System) -> None:
    binding = system.bind(Request(P, Q, "AXB", 60, max_expire_s=600))
    assert isinstance(binding, Binding)
    system.simulator.script("lost_reply", times=1, on="unbind")
    assert isinstance(system.unbind(binding.id), errors.OutcomeUnknown)
    assert isinstance(system.extend(binding.id, 120), errors.NotActive)


def test_I4_rest_of_the_time_after_a_promised_end_is_released(system: System) -> None:
    assert isinstance(system.bind(Request(P, Q, "AXB", 60, max_expire_s=600)), Binding)
    system.clock.advance(61)
    system.service.expire_due()
    system.check()
    assert isinstance(system.bind(Request(P, R)), errors.PhoneInUse)
    system.service.recover()
    assert not system.own()
    assert isinstance(system.bind(Request(P, R)), Binding)


def test_I2_row_that_ends_outside_the_window_is_not_adopted(system: System) -> None:
    binding = doubt(system, fault="anomaly_before")
    system.simulator.add_foreign_binding(phone_a=P, phone_b=Q, app_id=APP, expire_s=120, mode="AXXB")
    system.clock.advance(12.1)
    assert system.service.reconcile().adopted == 0
    assert system.rows()[binding.id].state is State.IN_DOUBT


def test_adopted_row_with_swapped_parties_gives_each_party_its_own_number(
    fresh: Callable[[], str],
) -> None:
    with System(fresh(), swapped=True) as system:
        binding = doubt(system)
        system.clock.advance(12.1)
        assert system.service.reconcile().adopted == 1
        system.check()
        adopted, entry = system.rows()[binding.id], system.entry_of(system.rows()[binding.id])
        assert entry is not None
        assert adopted.middle_number_a == entry.number_of(P) != entry.number_of(Q)


@pytest.mark.parametrize("hide_in_first", [True, False])
def test_I4_one_scan_of_the_list_proves_no_absence(system: System, hide_in_first: bool) -> None:
    binding = doubt(system, Request(P, Q, "AXXB", 300))
    bind_id = system.simulator.ledger.entries()[-1].bind_id
    system.clock.advance(72.1)
    system.stops = [Stop("reconcile.after_first_scan", "shown" if hide_in_first else "pause")]
    if hide_in_first:
        system.hidden.add(bind_id)
        assert system.service.reconcile().absent == 0
        system.check()
    assert system.rows()[binding.id].state in (State.IN_DOUBT, State.ACTIVE) or not hide_in_first


def test_absence_proved_by_two_scans_frees_the_phones(system: System) -> None:
    binding = doubt(system, Request(P, Q, "AXXB", 300), fault="anomaly_before")
    system.clock.advance(72.1)
    assert system.service.reconcile().absent == 1
    assert system.rows()[binding.id].reason == "absent"
    system.check()
    assert isinstance(system.bind(Request(P, Q)), Binding)


def end_here_only(system: System, *, hide: bool) -> Binding:
    """Return a binding that has ended here a minute ago and lives at the provider, and bind a witness."""
    result = system.bind(Request(P, Q, "AXB", 600))
    assert isinstance(result, Binding)
    system.bind(Request(T, U, "AXB", 600))
    system.clock.advance(61)
    entry = system.entry_of(result)
    assert entry is not None
    if hide:
        system.hide_for_one_run(entry)
    else:
        system.unbind(result.id)
        system.take_back(entry)
    system.clock.advance(61)
    assert system.rows()[result.id].state is State.UNBOUND
    return result


@pytest.mark.parametrize("hide", [True, False])
def test_I4_living_binding_that_ended_here_holds_its_phones(system: System, hide: bool) -> None:
    ended = end_here_only(system, hide=hide)
    system.reconcile_undisturbed()
    assert isinstance(system.bind(Request(P, R)), errors.PhoneInUse)
    system.check()
    system.unbind(ended.id)
    entry = system.entry_of(ended)
    assert entry is not None
    assert entry.unbound_at is not None
    assert isinstance(system.bind(Request(P, R)), Binding)


def test_I4_hold_after_minus_35_outlasts_a_scan_that_holds_nothing_else(fresh: Callable[[], str]) -> None:
    with System(fresh(), on_orphan="observe") as system:
        end_here_only(system, hide=False)
        assert isinstance(system.bind(Request(P, R)), errors.PhoneInUseAtProvider)
        system.service.reconcile()
        assert isinstance(system.bind(Request(P, R)), errors.PhoneInUse)
        assert system.simulator.counts.decided["bind"]["-35"] == 1


def test_I4_binding_that_a_late_list_does_not_show_yet_is_not_ended(fresh: Callable[[], str]) -> None:
    with System(fresh()) as system:
        system.bind(Request(T, U, "AXB", 600))
        system.clock.advance(61)
        system.simulator.change(list_lag_s=40.0)
        young = system.bind(Request(P, Q))
        assert isinstance(young, Binding)
        system.clock.advance(5)
        assert system.service.reconcile().ghosts == 0
        system.check()


def test_I8_refusal_uses_up_no_key(system: System) -> None:
    first = system.bind(Request(P, Q))
    assert isinstance(first, Binding)
    assert isinstance(system.bind(Request(P, R, key="k")), errors.PhoneInUse)
    system.unbind(first.id)
    assert isinstance(system.bind(Request(P, R, key="k")), Binding)


def test_I5_expire_ends_active_bindings_only(system: System) -> None:
    first, second = system.bind(Request(P, Q)), system.bind(Request(R, S))
    assert isinstance(first, Binding)
    assert isinstance(second, Binding)
    system.unbind(first.id)
    system.clock.advance(100)
    assert system.service.expire_due().expired == 1
    assert system.service.expire_due().expired == 0


def test_I5_success_after_the_end_becomes_a_hold_and_is_unbound(fresh: Callable[[], str]) -> None:
    """Every job runs while the response is in the network; the row has ended by then, and stays so."""
    with System(fresh(), tolerance_s=300.0) as system:
        system.stops = [Stop("bind.before_send", "recover", 290.0), Stop("bind.after_answer", "recover", 100.0)]
        result = system.bind(Request(P, Q, "AXB", 20))
        system.check()
        assert not isinstance(result, Binding) or result.state is not State.PENDING
        system.settle_everything()


def test_I5_settled_binding_ignores_a_second_outcome(system: System) -> None:
    """The scan adopts it, and it is unbound, while the first response is still in the network."""
    system.bind(Request(T, U, "AXB", 600))
    system.stops = [Stop("bind.after_answer", "scan", 12.1), Stop("bind.settle_in_transaction", "pause", 1.0)]
    result = system.bind(Request(P, Q))
    system.check()
    assert isinstance(result, Binding)
    assert system.unbind(result.id)
    system.check()


def test_I5_success_for_an_adopted_and_unbound_binding_changes_nothing(system: System) -> None:
    system.bind(Request(T, U, "AXB", 600))
    system.stops = [
        Stop("bind.after_answer", "scan", 12.1),
        Stop("reconcile.after_adopt", "unbind"),
    ]
    result = system.bind(Request(P, Q))
    system.check()
    assert isinstance(result, Binding)
    assert result.state is State.UNBOUND
    assert not any(entry.phone_a == P for entry in system.own())


def test_I7_interrupted_transaction_leaves_no_change(system: System) -> None:
    for place in ("bind.reserve_in_transaction", "bind.settle_in_transaction"):
        before = len(system.rows())
        system.stops = [Stop(place, "crash")]
        assert system.bind(Request(P, Q)) is None
        system.check()
        rows = system.rows()
        assert len(rows) == before + (place != "bind.reserve_in_transaction")
        assert all(row.state is State.PENDING for row in rows.values())


@pytest.mark.parametrize("lost", [1, 2])  # of the takeover, and of the end of the predecessor
def test_I3_lost_commit_in_a_replace_sends_its_successor_once(system: System, lost: int) -> None:
    predecessor = system.bind(Request(P, Q, "AXB", 600))
    assert isinstance(predecessor, Binding)
    system.lose_commit = lost
    successor = system.replace(system.replacement(predecessor.id, R, None, "k"))
    system.check()
    assert isinstance(successor, Binding)
    assert (successor.state, successor.replaces) == (State.ACTIVE, predecessor.id)
    received = system.simulator.counts.received
    assert (received["bind"], received["unbind"], system.lose_commit <= 0) == (2, 1, True)


# Effects of concurrency.


@dataclass(kw_only=True)
class Replicas:
    """Two services, as of two processes, on one database, one provider and one clock."""

    first: BindingService
    second: BindingService
    clock: Clock
    simulator: Simulator

    @property
    def both(self) -> tuple[BindingService, BindingService]:
        return self.first, self.second

    def bind(self, service: BindingService, a: str, b: str, mode: str = "AXB", **fields: Any) -> Any:
        """Bind; return the binding or the error."""
        try:
            return service.bind(phone_a=a, phone_b=b, mode=mode, pool_number=POOL, expire_s=60, **fields)
        except errors.BindingsError as error:
            return error

    def assert_sound(self) -> None:
        assert_sound(self.first)
        assert not self.simulator.ledger.overlaps()
        assert "-35" not in self.simulator.counts.decided.get("bind", {}), (
            "the provider refused a concurrent request"
        )


@pytest.fixture
def replicas(database_url: str) -> Iterator[Replicas]:
    clock = Clock()
    with Simulator(clock=clock.unix, pool_size=50, timestamp_tolerance_s=2.0) as simulator:
        first, second = (
            service_at(database_url, clock, simulator.url, timestamp_tolerance_s=2.0) for _ in range(2)
        )
        replicas = Replicas(first=first, second=second, clock=clock, simulator=simulator)
        try:
            yield replicas
            failpoints.install(None)
            replicas.assert_sound()
        finally:
            failpoints.install(None)
            first.close()
            second.close()


def run_concurrently(*works: Callable[[], Any]) -> list[Any]:
    """Run the functions in threads that start together; return the results, or raise an exception of one."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        barrier.wait(300)
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return [running.result(300) for running in [threads.submit(begin, work) for work in works]]


def wait_for_both_at(place: str, *, wait_s: float = 0.7) -> None:
    """Make the first thread at a fail point wait there for the second one, for at most `wait_s`."""
    barrier = threading.Barrier(2)

    def hook(name: str) -> None:
        if name == place:
            with suppress(threading.BrokenBarrierError):
                barrier.wait(wait_s)

    failpoints.install(hook)


# Whether each replica calls the function of PostgreSQL: code of the version before has the transaction only.
WAYS = [(True, True), (True, False), (False, False)]


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("pairs", [((P, Q), (Q, R)), ((P, Q), (Q, P)), ((P, Q), (P, Q))])
def test_I1_two_replicas_reserving_simultaneously_get_one_refusal(
    replicas: Replicas, pairs: tuple[tuple[str, str], tuple[str, str]], ways: tuple[bool, bool]
) -> None:
    for service, calls_function in zip(replicas.both, ways, strict=True):
        service.runtime.reserve_call._callable = calls_function
    wait_for_both_at("bind.reserve_in_transaction")
    results = run_concurrently(
        *(partial(replicas.bind, service, *pair) for service, pair in zip(replicas.both, pairs, strict=True))
    )
    assert sorted(type(result).__name__ for result in results) == ["Binding", "PhoneInUse"]
    assert replicas.simulator.counts.received["bind"] == 1


def test_I1_concurrent_axb_and_axxb_on_a_shared_phone_get_one_refusal(replicas: Replicas) -> None:
    """The first is not answered before the second one has a result: an AXXB that is active lets it pass."""
    barrier, second_done = threading.Barrier(2), threading.Event()

    def hook(name: str) -> None:
        if name == "bind.reserve_in_transaction":
            with suppress(threading.BrokenBarrierError):
                barrier.wait(0.7)
        elif name == "bind.before_send":
            second_done.wait(300)

    def bind(service: BindingService, *arguments: str) -> Any:
        result = replicas.bind(service, *arguments)
        second_done.set()
        return result

    failpoints.install(hook)
    results = run_concurrently(
        partial(bind, replicas.first, P, Q, "AXXB"), partial(bind, replicas.second, Q, R, "AXB")
    )
    assert sorted(type(result).__name__ for result in results) == ["Binding", "PhoneInUse"]


def test_pairs_in_opposite_order_never_deadlock(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    sql_states: list[str] = []
    explain = failures.explain

    def record_state(error: Any, url: Any) -> Any:
        sql_states.append(str(getattr(getattr(error, "orig", None), "sqlstate", None)))
        return explain(error, url)

    monkeypatch.setattr(bindings.store.retry, "explain", record_state)
    rng = random.Random(1)

    def bind_and_unbind(service: BindingService, names: tuple[str, ...]) -> None:
        for _ in range(12):
            a, b = rng.sample(names, 2)
            result = replicas.bind(service, a, b)
            if isinstance(result, Binding):
                service.unbind(result.id)

    run_concurrently(*(partial(bind_and_unbind, service, (P, Q, R)) for service in replicas.both * 2))
    assert "40P01" not in sql_states


@pytest.mark.postgres
def test_phone_locks_are_taken_in_one_order_for_either_role(postgres_url: str) -> None:
    """Another session has the first lock of the pair: a bind that waits for it must not have the second yet."""
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
        deadline = time.monotonic() + 300
        granted = total = 0
        while total < 3 and time.monotonic() < deadline:
            granted, total = watcher.execute(query).fetchone() or (0, 0)
        holder.rollback()
        for thread in waiting:
            thread.join(300)
    database.close()
    assert (granted, total) == (1, 3)


LIMITS = reserve.BindLimits(
    scope="default", policy=Policy.LITERAL, call_timeout_s=5, tolerance_s=2, guard_for=lambda _: 5.0, warn_s=None
)


def intend(a: str, b: str, tx: Transaction) -> Any:
    """Run the first transaction of a bind."""
    request = BindRequest(
        phone_a=Phone(a), phone_b=Phone(b), pool_number=POOL, expire_s=60, mode=Mode.AXB, app_id=APP
    )
    return reserve.reserve(tx, str(uuid.uuid4()), request, LIMITS, Caller(actor="test"))


def test_second_writer_begins_after_the_first_has_committed(sqlite_url: str) -> None:
    """BEGIN IMMEDIATE: a transaction reads data and clock after the earlier one has committed."""
    first, second = Database(sqlite_url), Database(sqlite_url)
    second_started = threading.Event()
    waiting = threading.Thread(target=second.write, args=(lambda _: second_started.set(),))

    def work(_: Transaction) -> bool:
        waiting.start()
        return second_started.wait(0.4)

    assert not first.write(work)
    waiting.join(300)
    assert second_started.is_set()
    first.close()
    second.close()


WAITING_FOR_A_LOCK = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.mark.postgres
def test_clock_is_read_after_the_lock_is_acquired(postgres_url: str) -> None:
    """now() is fixed at the begin of a transaction, clock_timestamp() is not."""
    database = Database(postgres_url)
    key = reserve._lock_key("default", Phone(P).key)
    with psycopg.connect(postgres_url) as holder, ThreadPoolExecutor(1) as threads:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        reading = threads.submit(database.write, partial(intend, P, Q))
        wait_for(lambda: holder.execute(WAITING_FOR_A_LOCK).fetchone() == (1,))
        (released,) = holder.execute("SELECT clock_timestamp()").fetchone() or (None,)
        holder.rollback()
        assert reading.result(300).binding.requested_at >= released
    database.close()


@pytest.mark.postgres
def test_feed_waits_for_a_transaction_that_started_earlier(postgres_url: str) -> None:
    database = Database(postgres_url)
    caller = Caller(actor="test")
    release = threading.Event()
    written = threading.Event()

    def slow(tx: Transaction) -> None:
        events.append_without_binding(tx, EventKind.HELD, caller, {"n": 0})
        written.set()
        release.wait(300)

    def read(after: tuple[int, int]) -> list[Event]:
        return database.read(events.feed, after=after, limit=10)

    running = threading.Thread(target=database.write, args=(slow,))
    running.start()
    written.wait(300)
    database.write(lambda tx: events.append_without_binding(tx, EventKind.HELD, caller, {"n": 1}))
    feed = read((0, 0))
    release.set()
    running.join(300)
    deadline = time.monotonic() + 300  # a transaction of any database on this server may delay the feed
    while [event.detail["n"] for event in feed] in ([], [0]) and time.monotonic() < deadline:
        tx, position = feed[-1].cursor.split("-") if feed else ("0", "0")
        feed += read((int(tx), int(position)))
        time.sleep(0.05)
    database.close()
    assert [event.detail["n"] for event in feed] == [0, 1]


def test_I8_one_key_used_concurrently_makes_one_binding(replicas: Replicas) -> None:
    results = run_concurrently(
        *(partial(replicas.bind, service, P, Q, idempotency_key="k") for service in replicas.both * 3)
    )
    assert len({binding.id for binding in results}) == 1
    assert replicas.simulator.counts.received["bind"] == 1


def test_I5_expire_during_an_unbind_ends_no_binding_twice(replicas: Replicas, database_url: str) -> None:
    binding = replicas.bind(replicas.first, P, Q)
    unbinding, expired = threading.Event(), threading.Event()

    def hook(name: str) -> None:
        if name == "unbind.settle_in_transaction":
            unbinding.set()
            wait_for_end_or_lock(expired, database_url)  # the row is locked, its change is not visible yet

    def expire() -> int:
        unbinding.wait(300)
        replicas.clock.advance(61)
        try:
            return replicas.second.expire_due().expired
        finally:
            expired.set()

    failpoints.install(hook)
    unbound, count = run_concurrently(lambda: replicas.first.unbind(binding.id), expire)
    assert unbound.state is State.UNBOUND
    assert count == 0


def wait_for_end_or_lock(ended: threading.Event, database_url: str) -> None:
    """Wait until a statement has ended or, on PostgreSQL, waits for a lock; on SQLite for 0.6 s at most.

    On SQLite it cannot begin before the caller's own transaction has ended.
    """
    if database_url.startswith("sqlite"):
        ended.wait(0.6)
        return
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(database_url, autocommit=True) as watcher:
        while not ended.wait(0.01) and watcher.execute(query).fetchone() == (0,):
            pass


@pytest.mark.parametrize("seed", range(4))
def test_concurrent_outcome_recovery_and_scan_agree(replicas: Replicas, seed: int) -> None:
    rng = random.Random(seed)
    replicas.bind(replicas.second, T, U)
    answered, settle = threading.Event(), threading.Event()

    def hook(name: str) -> None:
        if name == "bind.after_answer" and threading.current_thread().name == "binder":
            answered.set()
            settle.wait(300)

    results: list[Any] = []
    binder = threading.Thread(name="binder", target=lambda: results.append(replicas.bind(replicas.first, P, Q)))
    failpoints.install(hook)
    binder.start()
    answered.wait(300)
    replicas.clock.advance(12.1)
    works = [
        replicas.first.recover,
        replicas.second.reconcile,
        replicas.second.recover,
        replicas.first.reconcile,
        settle.set,
    ]
    waits = [rng.uniform(0, 0.02) for _ in works]

    def run_after(work: Any, wait_s: float) -> Any:
        time.sleep(wait_s)
        return work()

    run_concurrently(*(partial(run_after, work, wait_s) for work, wait_s in zip(works, waits, strict=True)))
    binder.join(300)
    assert isinstance(results[0], Binding)
    row = replicas.first.get(results[0].id)
    assert row.state is State.ACTIVE
    assert row.bind_id == str(replicas.simulator.ledger.entries()[-1].bind_id)
    ends = [event.kind for event in replicas.first.history(row.id)]
    assert len([kind for kind in ends if kind in (EventKind.ACTIVATED, EventKind.ADOPTED)]) == 1
