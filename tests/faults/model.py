"""The whole product on one clock, with every step checked against the provider's ledger and a plain model.

`System` is a service and a simulated provider whose clocks, monotonic ones included, are all the test's own, so
that a pause of ten minutes takes no time and a failing run can be repeated. At any fail point it can crash, pause,
or let another caller or job act. `check` compares I1 to I8 with the provider's ledger; it uses neither the
product's conflict policy nor its replay of events.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import event, exc, select, update

from bindings import errors, failpoints
from bindings.clock import HostClock
from bindings.domain.binding import Binding, Caller, Event, EventKind, Mode, Reason, State
from bindings.domain.conflict import Policy
from bindings.jobs.registry import RECOVER
from bindings.lifecycle.clock_monitor import RECHECK_S
from bindings.provider import signing
from bindings.provider.circuit import RETRY_AFTER_S
from bindings.provider.simulator import Simulator, find_overlaps, rules
from bindings.store import bindings as store
from bindings.store import events, holds
from bindings.store.schema import bindings as binding_table
from bindings.store.schema import events as event_table
from tests.service.harness import APP, POOL, Clock, service_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.provider.outcome import ProviderBinding
    from bindings.provider.simulator import Entry
    from bindings.store.holds import Hold

_ALL_ROWS = select(*store.COLUMNS).order_by(binding_table.c.id)
SEND_WINDOW_S, CALL_S, MARGIN_S = 5, 5, 1  # lifecycle: bind, T1
TAKEOVER_S = CALL_S + 5  # verbs: T0
WAIT_STEP_S = 3.0  # a replay that waits moves the clock in such steps
STRANGER = "9188067766"  # a phone of no pair of the run
OPEN = (State.PENDING, State.IN_DOUBT)
FREES_KEY = ("never_sent", "account", "clock", "in_use", "no_number", "request")
TERMINAL = (State.FAILED, State.EXPIRED, State.UNBOUND, State.LAPSED)
NEXT_STATES = {
    State.PENDING: {State.ACTIVE, State.IN_DOUBT, State.FAILED},
    State.IN_DOUBT: {State.ACTIVE, State.FAILED, State.LAPSED},
    State.ACTIVE: {State.EXPIRED, State.UNBOUND},
}
STATE_AFTER = {
    EventKind.ACTIVATED: State.ACTIVE,
    EventKind.ADOPTED: State.ACTIVE,
    EventKind.FAILED: State.FAILED,
    EventKind.IN_DOUBT: State.IN_DOUBT,
    EventKind.EXPIRED: State.EXPIRED,
    EventKind.UNBOUND: State.UNBOUND,
    EventKind.LAPSED: State.LAPSED,
}


class Crash(BaseException):
    """Simulates the end of the process; no handler of the product may catch it."""


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of a bind, or of a replace."""

    phone_a: str
    phone_b: str
    mode: str = "AXB"
    expire_s: int = 60
    key: str | None = None
    max_expire_s: int | None = None
    replaces: str | None = None  # the id of the predecessor: then the call is a replace

    @property
    def pair(self) -> frozenset[str]:
        return frozenset((self.phone_a, self.phone_b))


@dataclass(frozen=True, slots=True)
class Stop:
    """An action at the first reach of a fail point."""

    place: str
    action: str  # an item of ACTIONS
    seconds: float = 0.0


ACTIONS = ("crash", "pause", "sweep", "recover", "recover_as_before", "scan", "unbind", "bind", "shown", "hidden")


@dataclass(slots=True)
class BindInProgress:
    """A bind or a replace in progress, and what the model expects of it.

    `refused`: whether a phone is held; `refused_later`: whether one is after a stop in the transaction.
    `begins`: whether the takeover begins, or why it does not; `successors`: the ids of the successors before.
    `intent` is set if a request was sent for it.
    """

    request: Request
    refused: bool | None = None
    refused_later: bool | None = None
    intent: str | None = None
    begins: str | None = None  # "begins", "replay", "already_replaced", "not_active", "in_use" or "any"
    successors: frozenset[str] = frozenset()


class JumpingClock(Clock):
    """The test's clock, of which the database's and the host's wall clock may be `ahead_s` seconds ahead."""

    ahead_s: float = 0.0

    def __call__(self) -> datetime:
        return self.at + timedelta(seconds=self.ahead_s)

    def wall(self) -> float:
        return self.unix() + self.ahead_s


def host_clock(clock: JumpingClock) -> HostClock:
    """Return the host's clocks for the product: they follow the test's clock, and a sleep advances it."""
    return HostClock(
        wall=clock.wall,
        monotonic=clock.unix,
        sleep=lambda seconds: clock.advance(max(seconds, WAIT_STEP_S)),
    )


@dataclass
class System:
    """A service, a provider and one clock, and the model's record of them."""

    url: str
    policy: Policy = Policy.LITERAL
    tolerance_s: float = 2.0
    lag_s: float = 0.0
    swapped: bool = False
    on_orphan: str = "hold"
    clock: JumpingClock = field(default_factory=JumpingClock)
    sent: list[str] = field(default_factory=list)  # the intents whose request was sent
    keys: dict[str, tuple[Request, str]] = field(default_factory=dict)
    histories: dict[str, list[Event]] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    returned: list[Binding] = field(default_factory=list)
    calls: list[BindInProgress] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)
    stops: list[Stop] = field(default_factory=list)
    signing_pause_s: float = 0.0
    network_s: float = 0.0  # how long the network delays the next bind
    lose_commit: int = 0
    position: int = 0
    turn: int = 0
    requests_read: int = 0
    revenants: set[int] = field(default_factory=set)  # bind_ids that a list hid, or whose unbind was taken back
    hidden_at: datetime | None = None  # when a list last hid a binding in both scans
    stop_run: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.simulator = Simulator(
            clock=self.clock.unix,
            pool_size=50,
            policy=self.policy,
            timestamp_tolerance_s=self.tolerance_s,
            release_lag_s=self.lag_s,
        ).start()
        self._row = rules._provider_binding
        rules._provider_binding = self._swap_parties
        provider: Any = self.simulator._own_state.rules
        listed = provider._listed
        provider._listed = lambda app, now: [
            entry for entry in listed(app, now) if entry.bind_id not in self.hidden
        ]
        self._decide = provider.answer
        provider.answer = self._receive_late
        self.service = service_at(
            self.url,
            self.clock,
            self.simulator.url,
            host_clock=host_clock(self.clock),
            accept_jumps=False,
            timestamp_tolerance_s=self.tolerance_s,
            conflict_policy=self.policy.value,
            on_orphan=self.on_orphan,
            provider_timeout_s=float(CALL_S),
        )
        self.database = self.service.runtime.database
        if not self.database.postgres:
            event.listen(self.database._engine, "connect", _do_not_sync)
        client = self.service.runtime.client
        assert client is not None
        self.client = client
        self._address = client._base_url
        client.clock._wall = self._wall
        database: Any = self.database
        self._begin = database._transaction
        database._transaction = self._transaction
        failpoints.install(self._at_fail_point)

    def close(self) -> None:
        failpoints.install(None)
        rules._provider_binding = self._row
        self.service.close()
        self.simulator.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Faults and interruptions.

    def stop_faults(self) -> None:
        """End every fault."""
        self.stops.clear()
        self.hidden.clear()
        self.stop_run.clear()
        self.lose_commit = 0
        self.signing_pause_s = self.network_s = 0.0
        self.simulator.clear_faults()
        self.client._base_url = self._address

    def _wall(self) -> float:
        pause, self.signing_pause_s = self.signing_pause_s, 0.0
        self.clock.advance(pause)
        return self.clock.wall()

    def _receive_late(self, call: Any, *request: Any) -> Any:
        """Delay a bind in the network, perhaps for longer than its caller waits."""
        if call == "bind":
            delay, self.network_s = self.network_s, 0.0
            self.clock.advance(delay)
            if delay >= CALL_S:  # the caller does not wait for the response any more
                self._decide(call, *request)
                return rules.Answer(status="-18")
        return self._decide(call, *request)

    def _swap_parties(self, entry: Entry) -> ProviderBinding:
        """List the two parties in swapped roles if the provider is set so."""
        row = self._row(entry)
        if not self.swapped:
            return row
        return type(row)(
            bind_id=row.bind_id,
            phone_a=row.phone_b,
            phone_b=row.phone_a,
            middle_number_a=row.middle_number_b,
            middle_number_b=row.middle_number_a,
            ends_at=row.ends_at,
        )

    @contextmanager
    def _transaction(self, *arguments: Any) -> Iterator[Any]:
        """Run a transaction; its COMMIT may succeed and the reply be lost."""
        with self._begin(*arguments) as transaction:
            yield transaction
        self.lose_commit -= 1
        if self.lose_commit == 0:
            error = sqlite3.OperationalError("the connection was lost")
            raise exc.OperationalError("COMMIT", {}, error)

    def _at_fail_point(self, name: str) -> None:
        call = self.calls[-1] if self.calls else None
        if name == "bind.before_send" and call is not None:
            self._check_before_send(call)
        if name in ("replace.after_begin", "replace.after_unbind", "replace.after_clear") and call is not None:
            self._check_takeover(call)
        for stop in [stop for stop in self.stops if stop.place == name]:
            self.stops.remove(stop)
            self.clock.advance(stop.seconds)
            if name == "replace.begin_in_transaction" and stop.seconds and call is not None:
                call.begins = "any"  # if its COMMIT is lost, the transaction runs again so much later
            self._perform(stop.action, call)
            if name == "bind.reserve_in_transaction" and call is not None and call.request.replaces is None:
                call.refused_later = self.would_refuse(call.request)
        if name == "bind.before_reserve" and call is not None:
            call.refused = self.would_refuse(call.request)
        if name == "replace.before_begin" and call is not None:
            call.begins = self._expected_begin(call.request)
            call.successors = self._successor_ids(call.request)

    def _successors(self, predecessor_id: str | None) -> list[Binding]:
        return [row for row in self.rows().values() if row.replaces == predecessor_id]

    def _successor_ids(self, request: Request) -> frozenset[str]:
        return frozenset(row.id for row in self._successors(request.replaces))

    def _is_overdue(self, row: Binding) -> bool:
        """Return whether a successor has waited too long: then the next call that meets it ends it."""
        return row.waits_for is not None and row.state in OPEN and row.settle_by <= self.clock.at

    def _expected_begin(self, request: Request) -> str:
        rows = self.rows()
        predecessor = rows[str(request.replaces)]
        for row in rows.values():
            was_freed = self._is_overdue(row) and row.unbind_requested_at is None
            if row.idempotency_key is not None and row.idempotency_key == request.key and not was_freed:
                return "replay"
        successors = self._successors(predecessor.id)
        if any(row.state is not State.FAILED and not self._is_overdue(row) for row in successors):
            return "already_replaced"
        is_active = predecessor.state is State.ACTIVE and predecessor.unbind_requested_at is None
        was_replaced = bool(successors) and predecessor.state in (State.ACTIVE, State.UNBOUND)
        if not (is_active or was_replaced or predecessor.state is State.EXPIRED):
            return "not_active"
        return "in_use" if self.would_refuse(request) else "begins"

    def _check_takeover(self, call: BindInProgress) -> None:
        """I1: during a takeover no phone of the successor is free, and the predecessor is not offered."""
        rows = self.rows()
        made = [row for row in self._successors(call.request.replaces) if row.id not in call.successors]
        if not made or made[0].state not in OPEN or self._is_overdue(made[0]):
            return
        if made[0].waits_for is None and made[0].send_by < self.clock.at:
            return  # it took too long to record that it may be sent: it is not sent
        for phone in call.request.pair:
            assert self.would_refuse(Request(phone, STRANGER)), "I1: a phone is free during a takeover"
        predecessor = rows[str(call.request.replaces)]
        assert not predecessor.is_active(self.clock.at), "the predecessor is offered during the takeover"

    def _check_before_send(self, call: BindInProgress) -> None:
        """I3: a request is sent only for a committed intent, and once."""
        open_rows = [
            row
            for row in self.rows().values()
            if row.state in OPEN
            and row.waits_for is None
            and pair_of(row) == call.request.pair
            and row.held_until > self.clock.at
        ]
        assert len(open_rows) == 1, "I3: no request without exactly one committed intent"
        call.intent = open_rows[0].id
        assert call.intent not in self.sent, "I3: at most one request for an intent"
        self.sent.append(call.intent)

    def _perform(self, action: str, call: BindInProgress | None) -> None:  # noqa: C901 -- one case per action
        match action:
            case "crash":
                raise Crash
            case "stop":
                self.stop_run.set()
            case "sweep":
                self.service.expire_due()
            case "recover":
                self.service.recover()
            case "recover_as_before":
                self.recover_as_before()
            case "scan":
                self.service.reconcile()
            case "unbind":
                for row in [row for row in self.rows().values() if call and pair_of(row) == call.request.pair]:
                    self.unbind(row.id)
            case "bind" if call is not None:
                self.bind(Request(call.request.phone_b, STRANGER, "AXB", 30))
            case "shown":
                self.hidden.clear()
            case "hidden":
                self.hidden |= {entry.bind_id for entry in self.own() if self._has_pair_alone(entry)}
            case _:
                pass

    def _has_pair_alone(self, entry: Entry) -> bool:
        """Return whether no foreign binding has the same pair: which of two is our own could not be decided."""
        pair = {entry.phone_a, entry.phone_b}
        return not any(other.foreign and {other.phone_a, other.phone_b} == pair for other in self.live())

    # Calls, and their expected results.

    def bind(self, request: Request) -> Binding | errors.BindingsError | None:
        """Bind and check the result; return it, or None if the process crashed."""
        self._forget_freed_keys(self.rows())
        used = None if request.key is None else self.keys.get(request.key)
        call = BindInProgress(request)
        result = self._result_of(
            call,
            lambda: self.service.bind(
                phone_a=request.phone_a,
                phone_b=request.phone_b,
                pool_number=POOL,
                expire_s=request.expire_s,
                max_expire_s=request.max_expire_s,
                mode=request.mode,
                idempotency_key=request.key,
            ),
        )
        if result is not None:
            self._judge(call, result, used)
        return result

    def _result_of(
        self, call: BindInProgress, bind_or_replace: Callable[[], Binding]
    ) -> Binding | errors.BindingsError | None:
        """Make a call that is in progress until it returns; return its result or error, None after a crash."""
        self.calls.append(call)
        try:
            return bind_or_replace()
        except errors.BindingsError as error:
            return error
        except Crash:
            return None
        finally:
            self.calls.pop()

    def _judge(
        self, call: BindInProgress, result: Binding | errors.BindingsError, used: tuple[Request, str] | None
    ) -> None:
        rejected_early = (
            isinstance(result, errors.Busy | errors.ProviderAccountRefused) and result.binding_id is None
        )
        if used is not None and not rejected_early:
            self._judge_replay(call, result, *used)
            return
        binding_id = result.id if isinstance(result, Binding) else result.binding_id
        if isinstance(result, errors.PhoneInUse) and binding_id is None:
            assert call.refused or call.refused_later, "a bind was refused although its phones are free"
            assert call.intent is None
            if call.request.key is not None:
                assert call.request.key not in self._keys_used(), "I8: a refusal uses up no key"
        elif call.refused is not None and binding_id is not None and not self._replayed_since(call, binding_id):
            # The transaction may have run again after a pause, because its COMMIT was lost.
            is_held = call.refused and call.refused_later is not False
            assert not is_held, "I1: a bind was sent although its phones are held"
        if isinstance(result, Binding):
            self.returned.append(result)
            if result.state is State.ACTIVE:
                self._check_end_and_numbers(result)
        elif not result.may_have_acted and call.intent is not None:
            row = self.rows()[call.intent]
            assert row.state is State.FAILED, f"{result.code} said that nothing was done"

    def _judge_replay(
        self, call: BindInProgress, result: Binding | errors.BindingsError, first: Request, binding_id: str
    ) -> None:
        assert call.intent is None, "I8: a repeated key sends nothing"
        if first != call.request:
            assert isinstance(result, errors.IdempotencyMismatch), result
        else:
            returned_id = result.id if isinstance(result, Binding) else result.binding_id
            if isinstance(result, errors.OutcomeUnknown) and returned_id == first.replaces:
                row = self.rows()[binding_id]
                assert (row.state, row.reason) == (State.FAILED, Reason.NEVER_SENT), "its predecessor may live on"
            else:
                assert returned_id == binding_id, "I8: the same key returns the same binding"

    def _replayed_since(self, call: BindInProgress, binding_id: str) -> bool:
        """Return whether a nested call used the key after the model had read the keys."""
        return call.request.key is not None and call.intent is None and binding_id in self._keys_used().values()

    def call(self, request: Request) -> Binding | errors.BindingsError | None:
        """Bind or replace, and check the result; return it, or None if the process crashed."""
        return self.bind(request) if request.replaces is None else self.replace(request)

    def replacement(self, binding_id: str, phone_b: str | None, expire_s: int | None, key: str | None) -> Request:
        """Return the request of a replace; what is None is the predecessor's."""
        row = self.rows()[binding_id]
        phones = row.phone_a.digits, phone_b or row.phone_b.digits
        lifetime_s = expire_s or row.expire_s
        longest = None if row.max_expire_s is None else max(row.max_expire_s, lifetime_s)
        return Request(*phones, row.mode, lifetime_s, key, longest, replaces=row.id)

    def replace(self, request: Request) -> Binding | errors.BindingsError | None:
        """Replace and check the result; return it, or None if the process crashed."""
        self._forget_freed_keys(self.rows())
        used = None if request.key is None else self.keys.get(request.key)
        call = BindInProgress(request, successors=self._successor_ids(request))
        result = self._result_of(
            call,
            lambda: self.service.replace(
                str(request.replaces),
                phone_a=request.phone_a,
                phone_b=request.phone_b,
                mode=request.mode,
                expire_s=request.expire_s,
                max_expire_s=request.max_expire_s,
                idempotency_key=request.key,
            ),
        )
        if result is not None and used is not None and call.begins in (None, "replay", "any"):
            replayed = isinstance(result, Binding) or result.binding_id is not None
            if replayed and call.begins != "any":
                self._judge_replay(call, result, *used)
        elif result is not None:
            self._judge_replace(call, result)
        return result

    def _judge_replace(self, call: BindInProgress, result: Binding | errors.BindingsError) -> None:
        rows = self.rows()
        predecessor = rows[str(call.request.replaces)]
        made = {row.id for row in self._successors(predecessor.id)} - call.successors
        waiting = [row for name, row in rows.items() if name in made and row.waits_for and row.state in OPEN]
        if isinstance(result, Binding):
            assert call.begins in ("begins", "any"), f"a replace succeeded that was to be {call.begins}"
            assert {result.id} == made, "one successor is made by a call"
            assert not waiting, "the successor waits although it was returned"
            assert predecessor.state in TERMINAL, "the successor was made before its predecessor had ended"
            self.returned.append(result)
            if result.state is State.ACTIVE:
                self._check_end_and_numbers(result)
            return
        match result:
            case _ if result.predecessor_ended is None:
                assert not made, f"{result.code} said that nothing was replaced"
            case errors.OutcomeUnknown() if not result.predecessor_ended:
                assert result.binding.id == predecessor.id, "the unknown outcome is of the predecessor"
                assert call.intent is None, "the successor was sent before its predecessor had ended"
            case _:
                assert result.predecessor_ended, f"{result.code} without the end of the predecessor"
                assert predecessor.state in TERMINAL, "the end of the predecessor is not recorded"
        assert not waiting, "a successor was left waiting by a call that returned"
        assert self.clock.ahead_s or not isinstance(result, errors.ClockInDoubt), "the clock was never in doubt"
        expected = {errors.PhoneInUse: "in_use", errors.AlreadyReplaced: "already_replaced"}
        if type(result) is errors.NotActive:
            assert call.begins in ("not_active", "any"), f"not active, expected: {call.begins}"
        elif type(result) in expected and result.predecessor_ended is None:
            assert call.begins in (expected[type(result)], "any"), f"{result.code}, expected: {call.begins}"
        elif made:
            assert call.begins in ("begins", "any"), f"a takeover began that was to be {call.begins}"

    def recover_as_before(self) -> None:
        """Do what `recover` of the version before does: it takes a waiting successor for one that was sent."""
        overdue = (
            (State.PENDING, "settle_by", EventKind.IN_DOUBT),
            (State.IN_DOUBT, "held_until", EventKind.LAPSED),
        )
        for from_state, deadline, kind in overdue:

            def work(tx: Any, from_state: State = from_state, deadline: str = deadline, kind: Any = kind) -> None:
                table = binding_table.c
                values: dict[str, Any] = {"state": STATE_AFTER[kind]}
                is_lapse = kind is EventKind.LAPSED
                values |= {"ended_at": table.held_until} if is_lapse else {"reason": Reason.NOT_SETTLED}
                change = (
                    update(binding_table)
                    .where(table.state == from_state, table[deadline] <= self.clock.at)
                    .values(values | store.version_columns(tx.dialect))
                    .returning(table.id, table.version, table.change_tx)
                )
                detail = {} if is_lapse else {"reason": Reason.NOT_SETTLED, "status": None}
                events.ChangeWithEvents(tx.dialect, change).run(tx, kind, Caller(actor="before"), detail, {})

            self.database.write(work)

    def unbind_all(self, phone: str) -> None:
        """Unbind everything of a phone, and check that none of it is offered from then on."""
        concerned = [
            row.id
            for row in self.rows().values()
            if phone in pair_of(row)
            and (
                (row.state in OPEN and (row.held_until > self.clock.at or row.waits_for))
                or row.is_active(self.clock.at)
            )
        ]
        self.service.unbind_all(phone=phone, reason="test")
        for row in (self.rows()[binding_id] for binding_id in concerned):
            assert row.unbind_requested_at is not None or row.state in TERMINAL, "left out by unbind_all"

    def unbind(self, binding_id: str) -> Binding | errors.BindingsError | None:
        """Unbind and check the result; return it, or None if the process crashed."""
        try:
            binding = self.service.unbind(binding_id)
        except errors.BindingsError as error:
            row = self.rows()[binding_id]
            assert row.unbind_requested_at is not None or row.state in TERMINAL
            return error
        except Crash:
            return None
        assert binding.state in TERMINAL
        return binding

    def extend(self, binding_id: str, expire_s: int) -> Binding | errors.BindingsError | None:
        """Extend and check the result; return it, or None if the process crashed."""
        before, called_at = self.rows()[binding_id], self.clock.at
        result = self._move_end(before, lambda: self.service.extend(binding_id, expire_s=expire_s))
        if isinstance(result, Binding):
            assert result.expires_at is not None
            assert result.expires_at >= called_at + timedelta(seconds=expire_s), "extended by less than asked"
        elif isinstance(result, errors.InvalidRequest):
            latest = before.provider_expires_at or before.expires_at
            assert latest is not None
            assert latest < self.clock.at + timedelta(seconds=expire_s), "refused before the provider's end"
        return result

    def shorten(self, binding_id: str, after_s: int) -> Binding | errors.BindingsError | None:
        """Shorten and check the result; return it, or None if the process crashed."""
        before = self.rows()[binding_id]
        result = self._move_end(before, lambda: self.service.unbind(binding_id, after_s=after_s))
        if isinstance(result, Binding):
            assert result.expires_at is not None
            assert result.expires_at <= self.clock.at + timedelta(seconds=after_s), "shortened by less than asked"
        return result

    def _move_end(self, before: Binding, move: Callable[[], Binding]) -> Binding | errors.BindingsError | None:
        was_active = before.is_active(self.clock.at)
        result: Binding | errors.BindingsError
        try:
            result = move()
        except errors.BindingsError as error:
            result = error
        except Crash:
            return None
        if not isinstance(result, Binding):
            refused = isinstance(result, errors.NotActive)
            # Not `before`: if only the answer of its COMMIT was lost, the end may have moved, and passed.
            current = self.rows()[before.id]
            assert not (refused and current.is_active(self.clock.at)), "an active binding was refused"
            return result
        assert was_active, "the end of a binding moved that was over"
        self.returned.append(result)
        self._check_end_and_numbers(result)
        return result

    def run_job(self, name: str) -> bool:
        """Run one job; return False if the process crashed in it."""
        self.stop_run.clear()
        try:
            if name == "reconcile":
                self.service.reconcile(stop=self.stop_run)
            elif name == "look":
                self.service.maintenance.look()
            else:
                getattr(self.service, name)()
        except Crash:
            return False
        return True

    def act_while_the_clock_is_wrong(self, ahead_s: float, action: str, request: Request, which: int) -> None:
        """Let the deciding clock jump, act, let it come back, and check what the action did meanwhile."""
        self.service.runtime.observe_database_clock()
        before = self.rows()
        active = [row for row in before.values() if row.is_active(self.clock.at)]
        self.clock.ahead_s = ahead_s
        try:
            match action:
                case "bind":
                    result = self.bind(request)
                    assert isinstance(result, errors.Busy | errors.ProviderAccountRefused), result
                    assert self.rows() == before, "a bind recorded something by a clock in doubt"
                case "unbind" if active:
                    ended = self.unbind(active[which % len(active)].id)
                    assert isinstance(ended, Binding), ended
                    assert ended.state is State.UNBOUND, "no call was made, or its result was not recorded"
                case "replace" if active:
                    replaced = active[which % len(active)].id
                    refused = self.replace(self.replacement(replaced, None, None, None))
                    assert isinstance(refused, errors.Busy | errors.ProviderAccountRefused), refused
                    assert self.rows() == before, "a takeover began by a clock in doubt"
                case "extend" if active:
                    refused = self.extend(active[which % len(active)].id, request.expire_s)
                    assert isinstance(refused, errors.Busy), refused
                    assert self.rows() == before, "an end moved by a clock in doubt"
                case "recover" | "expire_due" | "reconcile":
                    with suppress(errors.Busy):
                        getattr(self.service, action)()
                case _:
                    pass
            by_time = {State.EXPIRED, State.LAPSED, State.FAILED}
            ended_by_time = [
                row.id
                for row in self.rows().values()
                if row.state in by_time and row.state != before[row.id].state
            ]
            assert not ended_by_time, "a binding ended by a clock in doubt"
        finally:
            self.clock.ahead_s = 0.0
        for _ in range(2):
            self.clock.advance(RECHECK_S + 1)
            with suppress(errors.Busy):
                self.service.runtime.clocks.require_trusted_database()
        assert self.service.runtime.clocks.database_error is None, "the doubt ends when the clocks agree"

    # The actual state.

    def rows(self) -> dict[str, Binding]:
        rows = self.database.read(lambda connection: connection.execute(_ALL_ROWS).all())
        return {row.id: row for row in map(store.to_binding, rows)}

    def held(self) -> list[Hold]:
        return self.database.read(holds.live, "default", self.clock.at)

    def live(self) -> list[Entry]:
        return list(self.simulator.ledger.live(self.clock.unix()))

    def own(self) -> list[Entry]:
        return [entry for entry in self.live() if not entry.foreign]

    def _keys_used(self) -> dict[str, str]:
        return {row.idempotency_key: row.id for row in self.rows().values() if row.idempotency_key is not None}

    def would_refuse(self, request: Request) -> bool:
        return self.refusing()(request)

    def refusing(self) -> Callable[[Request], bool]:
        """Return the conflict policy over what is held now; implemented again, after lifecycle (bind)."""
        rows, held = self.rows(), self.held()

        def refused(request: Request) -> bool:
            predecessor = rows.get(request.replaces or "")
            own = None if predecessor is None else (predecessor.id, predecessor.bind_id)
            phones = {hold.phone.digits for hold in held if (hold.origin_id, hold.bind_id) != own}
            return bool(phones & request.pair) or self._refused_by(list(rows.values()), request)

        return refused

    def _refused_by(self, rows: list[Binding], request: Request) -> bool:
        now = self.clock.at
        for row in rows:
            if row.id == request.replaces or row.held_until <= now or not pair_of(row) & request.pair:
                continue
            if row.mode is Mode.AXB or pair_of(row) == request.pair:
                return True
            if self.policy is Policy.STRICT or (row.state in OPEN and request.mode == "AXB"):
                return True
        return False

    def guard_s(self, expire_s: int) -> float:
        return min(60.0, max(5.0, 0.01 * expire_s))

    # The invariants.

    def check(self, *, all_lookups: bool = True) -> None:
        """Check everything that must hold between two steps; without `all_lookups` one phone's lookup per call."""
        rows, entries = self.rows(), self.simulator.ledger.entries()
        self._read_events()
        for row in rows.values():
            self._check_row(row)
        requested = [entry for entry in entries if not entry.foreign and not entry.restored]
        overlaps = find_overlaps(requested, self.policy)
        assert not overlaps, "I1: two of our bindings hold a phone that they may not share"
        self._check_requests(rows)
        self._check_ledger(rows)
        self._check_successors(rows)
        self._check_keys(rows)
        self._check_lookups(rows, all_lookups=all_lookups)

    def _read_events(self) -> None:
        statement = select(*events.COLUMNS).where(event_table.c.position > self.position)
        rows = self.database.read(
            lambda connection: connection.execute(statement.order_by(event_table.c.position)).all()
        )
        for row in rows:
            self.position = max(self.position, row.position)
            change = events.to_event(row)
            if change.binding_id is not None:
                self.histories.setdefault(change.binding_id, []).append(change)

    def _check_row(self, row: Binding) -> None:
        history = self.histories.get(row.id, [])
        assert [event.sequence for event in history] == list(range(1, len(history) + 1)), "I7: gapless"
        assert row.version == len(history), "I7: every change has its event"
        self._check_replay(row, history)
        before = self.states.get(row.id)
        assert before is None or before == row.state or before not in TERMINAL, "I5: a terminal state changed"
        self.states[row.id] = row.state
        full = row.requested_at + timedelta(
            seconds=SEND_WINDOW_S + self.tolerance_s + asked_s(row) + self.guard_s(asked_s(row))
        )
        if row.replaces is not None and not any(event.kind is EventKind.CLEARED for event in history):
            self._check_waiting(row)
            return
        assert row.send_by == row.requested_at + timedelta(seconds=SEND_WINDOW_S)
        assert row.settle_by == row.send_by + timedelta(seconds=CALL_S + MARGIN_S)
        assert row.waits_for is None
        if row.state in OPEN or row.state is State.LAPSED:
            assert row.held_until == full, "I4: only a clear answer lowers held_until"
        if row.state is State.FAILED:
            assert row.held_until <= self.clock.at, "a definite refusal frees the phones immediately"
        assert (row.ended_at is not None) == (row.state in TERMINAL)
        if row.state is State.EXPIRED:
            assert row.ended_at == row.expires_at
        if row.state is State.ACTIVE:
            self._check_end_and_numbers(row)

    def _check_waiting(self, row: Binding) -> None:
        """Check a successor that was not cleared: it waits for a bounded time, and then is never sent."""
        assert row.send_by == row.requested_at
        assert row.settle_by == row.requested_at + timedelta(seconds=TAKEOVER_S)
        if row.state in OPEN or row.state is State.LAPSED:  # the version before makes it lapsed
            assert row.held_until == row.settle_by, "I4: held until it was to be sent"
            assert row.waits_for == row.replaces
        else:
            assert (row.state, row.reason, row.waits_for) == (State.FAILED, "never_sent", None)
            assert row.held_until <= self.clock.at, "what is never sent frees the phones immediately"
        assert row.id not in self.sent, "I3: a successor was sent that was not cleared"
        assert (row.ended_at is not None) == (row.state in TERMINAL)

    def _check_successors(self, rows: dict[str, Binding]) -> None:
        """I1: one successor at a time, and never at the provider beside its predecessor."""
        living = [row.replaces for row in rows.values() if row.replaces and row.state is not State.FAILED]
        assert len(living) == len(set(living)), "I1: two successors of one binding"
        for row in rows.values():
            before = self.entry_of(rows[row.replaces]) if row.replaces else None
            after = self.entry_of(row)
            if before is not None and after is not None and before.bind_id not in self.revenants:
                assert before.ended_at <= after.accepted_at, "I1: a successor beside its predecessor"

    def _check_replay(self, row: Binding, history: list[Event]) -> None:
        """I5 and I7: the row equals the replay of its events, by an implementation of the test's own."""
        replayed = replay(history, self.guard_s(asked_s(row)))
        actual = {name: getattr(row, name) for name in replayed}
        assert replayed == actual, "I7: the row equals its events"

    def _check_end_and_numbers(self, binding: Binding) -> None:
        entry = self.entry_of(binding)
        assert entry is not None, "the provider never gave this bindId"
        end = binding.expires_at
        assert end is not None
        latest = max(end, binding.provider_expires_at or end)
        assert latest.timestamp() <= entry.expires_at + 1e-6, "I6: a later end than the ledger's"
        numbers = (binding.middle_number_a, binding.middle_number_b)
        real = (entry.number_of(binding.phone_a.digits), entry.number_of(binding.phone_b.digits))
        assert numbers == real, "a party has the other party's middle number"
        if binding.reason == "adopted":
            low = binding.requested_at + timedelta(seconds=asked_s(binding))
            high = binding.send_by + timedelta(seconds=self.tolerance_s + asked_s(binding))
            assert low.timestamp() - 3.6 <= entry.expires_at <= high.timestamp() + 4.6, "outside of the window"
            assert entry.mode is binding.mode
            assert pair_of(binding) == {entry.phone_a, entry.phone_b}

    def entry_of(self, binding: Binding) -> Entry | None:
        return None if binding.bind_id is None else self.simulator.ledger.get(int(binding.bind_id))

    def _check_requests(self, rows: dict[str, Binding]) -> None:
        received = self.simulator.requests
        new, self.requests_read = received[self.requests_read :], len(received)
        assert all(request.call is not None for request in new), "a redirect was followed"
        binds = [request for request in received if request.call == "bind"]
        assert len(binds) <= len(self.sent), "I3: more requests than intents"
        for request in new:
            if request.call != "bind":
                continue
            fields = rules._READ[request.call](request.body.encode())
            pair = {fields.phone_a.digits, fields.phone_b.digits}  # type: ignore[union-attr]
            stamp = int(request.headers[signing.TIMESTAMP_HEADER.lower()])
            intents = [rows[name] for name in self.sent if pair_of(rows[name]) == pair]
            assert any(row.requested_at.timestamp() - 1 <= stamp <= row.send_by.timestamp() for row in intents), (
                "the timestamp of a request is between its intent and send_by"
            )
            if request.decided == "-35":
                at = request.at - self.lag_s
                strangers = [entry for entry in self.simulator.ledger if entry.foreign and entry.expires_at > at]
                unbound = [entry for entry in self.simulator.ledger if entry.unbound_at and entry.unbound_at > at]
                revenants = [entry for entry in self.simulator.ledger if entry.bind_id in self.revenants]
                replaced = [self.entry_of(rows[row.replaces]) for row in intents if row.replaces]
                just_ended = [entry for entry in replaced if entry is not None and entry.ended_at > at]
                causes = strangers + unbound + revenants + just_ended
                explained = any({entry.phone_a, entry.phone_b} & pair for entry in causes)
                assert explained, "-35 because of our own binding"

    def _check_ledger(self, rows: dict[str, Binding]) -> None:
        """I2 and I4: every binding of the provider is known or recoverable, and its phones are held here."""
        now, held = self.clock.at, self.held()
        by_bind_id = {row.bind_id: row for row in rows.values() if row.bind_id is not None}
        for row in rows.values():
            entry = self.entry_of(row)
            if entry is not None:
                self._check_end(row, entry)
        for entry in self.own():
            pair = {entry.phone_a, entry.phone_b}
            holder = by_bind_id.get(str(entry.bind_id))
            if holder is None:
                open_rows = [row for row in rows.values() if row.state in OPEN and pair_of(row) == pair]
                late = {hold.phone.digits for hold in held if hold.bind_id == str(entry.bind_id)}
                strangers = [row for row in rows.values() if self._adopted_instead(row, entry)]
                # A list that hid the binding of a doubt proved its absence: the next scan finds it.
                excused = strangers or entry.bind_id in self.revenants
                assert open_rows or late == pair or excused, "I2: a binding that is in no row and no hold"
                holder = max(open_rows, key=lambda row: row.held_until, default=None)
            if holder is not None and entry.bind_id not in self.revenants:
                assert holder.held_until > now, "I4: a phone is free while the provider holds it"
                assert holder.held_until.timestamp() >= entry.expires_at + self.lag_s, "I4: held too short"

    def hide_for_one_run(self, entry: Entry) -> None:
        """Reconcile with a list that omits a living binding in both scans: it may end here, as a ghost."""
        self.hidden.add(entry.bind_id)
        self.revenants.add(entry.bind_id)
        self.hidden_at = self.clock.at
        self.run_job("reconcile")
        self.hidden.clear()

    def take_back(self, entry: Entry) -> None:
        """Let the provider take back the unbind of a binding whose phones are free there."""
        live = {phone for other in self.live() for phone in (other.phone_a, other.phone_b)}
        if entry.expires_at > self.clock.unix() and not live & {entry.phone_a, entry.phone_b}:
            self.simulator.restore_binding(entry.bind_id)
            self.revenants.add(entry.bind_id)

    def reconcile_undisturbed(self) -> None:
        """Reconcile, and check that what had ended here a minute ago and lives at the provider is held."""
        self.stop_faults()
        began_at, shuffled = self.clock.at, self.simulator.behaviour.shuffle_pages
        self.simulator.change(shuffle_pages=False)  # a list whose order changes between its pages may omit a row
        is_trusted = self.service.reconcile().trusted
        self.simulator.change(shuffle_pages=shuffled)
        if not is_trusted:
            return
        rows, a_minute_before = self.rows().values(), began_at - timedelta(seconds=60)
        if self.hidden_at is not None and self.hidden_at > a_minute_before:
            return  # its hold has just ended, as the list seemed to prove: the next run holds it again
        unsettled = [pair_of(row) for row in rows if row.state in OPEN]
        held = {(hold.phone.digits, hold.bind_id): hold.held_until.timestamp() for hold in self.held()}
        for row in rows:
            entry = self.entry_of(row)
            if entry is None or not entry.live(self.clock.unix()) or pair_of(row) in unsettled:
                continue
            if entry.accepted_at > began_at.timestamp() - self.simulator.behaviour.list_lag_s:
                continue  # the list does not show yet that it was taken back
            unbound_at = row.ended_at if row.state is State.UNBOUND else row.held_until
            if row.state in (State.UNBOUND, State.EXPIRED) and unbound_at and unbound_at <= a_minute_before:
                ends = [held.get((phone, row.bind_id), row.held_until.timestamp()) for phone in pair_of(row)]
                assert min(ends) >= entry.expires_at, "I4: the phones of a living binding are held"

    def _adopted_instead(self, row: Binding, entry: Entry) -> bool:
        """Return whether a foreign row of the same pair was adopted instead, which cannot be decided."""
        other = self.entry_of(row)
        return other is not None and other.foreign and pair_of(row) == {entry.phone_a, entry.phone_b}

    def _check_end(self, row: Binding, entry: Entry) -> None:
        now = self.clock.unix()
        guard = self.guard_s(asked_s(row))
        if row.expires_at is not None:
            ends = (row.expires_at, row.provider_expires_at or row.expires_at)
            assert max(ends).timestamp() <= entry.expires_at + 1e-6, "I6: a later end than the ledger's"
        if row.state is State.UNBOUND:
            is_over = entry.ended_at <= now or entry.bind_id in self.revenants
            assert is_over, "ended here while it is live at the provider"
        elif (
            row.state in (State.ACTIVE, State.EXPIRED)
            and entry.unbound_at is None
            and entry.bind_id not in self.revenants
        ):
            assert row.held_until.timestamp() >= entry.expires_at + guard - 1e-6, "I4: the guard after the end"

    def _forget_freed_keys(self, rows: dict[str, Binding]) -> None:
        """Forget the keys that may be used again: of intents for which the provider certainly made nothing."""
        for key, (_, binding_id) in list(self.keys.items()):
            row = rows.get(binding_id)
            if row is not None and row.idempotency_key is None:
                assert row.state is State.FAILED, "I8: a key is free though its binding may exist"
                assert row.reason in FREES_KEY, "I8: a key is free though its binding may exist"
                assert row.unbind_requested_at is None, "I8: a key is free though its unbind was requested"
                del self.keys[key]

    def _check_keys(self, rows: dict[str, Binding]) -> None:
        self._forget_freed_keys(rows)
        for row in rows.values():
            if row.idempotency_key is None:
                continue
            request = Request(
                row.phone_a.digits,
                row.phone_b.digits,
                row.mode,
                row.expire_s,
                row.idempotency_key,
                row.max_expire_s,
                row.replaces,
            )
            assert self.keys.setdefault(row.idempotency_key, (request, row.id)) == (request, row.id), "I8"

    def _check_lookups(self, rows: dict[str, Binding], *, all_lookups: bool) -> None:
        now = self.clock.at
        active = [
            row
            for row in rows.values()
            if row.state is State.ACTIVE
            and row.expires_at is not None
            and row.expires_at > now
            and row.unbind_requested_at is None
        ]
        phones = sorted({phone for row in rows.values() for phone in pair_of(row)})
        self.turn += 1
        for phone in phones if all_lookups else phones[self.turn % len(phones or " ") :][:1]:
            expected = {row.id for row in active if phone in pair_of(row)}
            offered = self.service.lookup(phone=phone)
            assert {row.id for row in offered} == expected, "a lookup returns the active bindings only"
            for row in offered:
                entry = self.entry_of(row)
                assert entry is not None
                assert entry.vanished or entry.live(self.clock.unix()), "returned although it has ended"
        for binding in self.returned:
            row = rows[binding.id]
            assert row.phone_a == binding.phone_a
            if (
                row.state is State.ACTIVE
                and row.unbind_requested_at is None
                and row.expires_at == binding.expires_at
            ):
                assert (row in active) == (binding.expires_at is not None and binding.expires_at > now)

    def settle_everything(self) -> None:
        """End every fault, settle what is open, let every binding end, and check."""
        self.stop_faults()
        self.simulator.change(shuffle_pages=False, list_lag_s=0.0)
        self.clock.advance(SEND_WINDOW_S + CALL_S + MARGIN_S + 1)
        self.service.expire_due()
        undecidable = {entry.bind_id for entry in self.own() if not self._has_pair_alone(entry)}
        self.service.reconcile()
        self.check()
        rows, bind_ids = self.rows().values(), {hold.bind_id for hold in self.held()}
        bind_ids |= {row.bind_id for row in rows}
        for entry in self.own():
            assert str(entry.bind_id) in bind_ids or entry.bind_id in undecidable, "I2: not found by a scan"
        self._check_releases()
        self.clock.advance(
            max((row.held_until for row in rows), default=self.clock.at).timestamp() - self.clock.unix() + 1
        )
        self.service.expire_due()
        self.service.recover()
        self.check()
        assert all(row.state in TERMINAL for row in self.rows().values()), "every binding ends"
        self._check_feed()

    def _check_releases(self) -> None:
        """Let each promised end come; two intervals of `recover` later the provider has ended the binding too."""
        self.clock.advance(RETRY_AFTER_S)  # an account error of the run stops calls for that long
        began_at, within = self.clock.at, 2 * timedelta(seconds=RECOVER.interval_s(self.service.settings))
        provider_ends = {row.id: row.provider_expires_at or row.expires_at for row in self.rows().values()}
        for end in sorted({row.expires_at for row in self.rows().values() if row.expires_at is not None}):
            self.clock.at = max(self.clock.at, end)
            for _ in range(2):
                self.clock.at += within / 2
                self.service.expire_due()
                self.service.recover()
            self.check(all_lookups=False)
            for row in self.rows().values():
                entry, provider_end = self.entry_of(row), provider_ends[row.id]
                if row.state is not State.EXPIRED or entry is None or entry.bind_id in self.revenants:
                    continue
                assert row.ended_at is not None
                assert provider_end is not None
                is_due = max(row.ended_at, began_at) + within <= min(self.clock.at, provider_end)
                assert not (is_due and entry.live(self.clock.unix())), "an expired binding was not released"

    def _check_feed(self) -> None:
        feed: list[Event] = []
        cursor = None
        while True:
            page = self.service.events(after=cursor, limit=50)
            cursor = page.next_cursor
            feed += page.data
            if not page.data:
                break
        orders: dict[str, list[int]] = {}
        for change in feed:
            if change.binding_id is not None:
                orders.setdefault(change.binding_id, []).append(change.sequence)
        for name, order in orders.items():
            # On PostgreSQL a transaction of another database may hold the feed back, never its order.
            assert order == list(range(1, len(order) + 1)), "the feed keeps the order of a binding's events"
            assert self.database.postgres or len(order) == len(self.histories[name])


def _do_not_sync(connection: Any, _record: Any) -> None:
    """Turn off fsync: no run simulates a power failure."""
    connection.execute("PRAGMA synchronous = OFF")


def asked_s(row: Binding) -> int:
    """Return the seconds that the provider was asked for."""
    return row.max_expire_s or row.expire_s


def pair_of(row: Binding) -> frozenset[str]:
    return frozenset((row.phone_a.digits, row.phone_b.digits))


def replay(history: list[Event], guard_s: float) -> dict[str, Any]:
    """Replay the events of a binding; return its row. Fails if a state moves back or ends twice."""
    first = history[0]
    assert first.kind is EventKind.REQUESTED
    row: dict[str, Any] = dict.fromkeys(
        ("bind_id", "provider_status", "reason", "sent_at", "answered_at", "expires_at", "ended_at")
    )
    row |= {"middle_number_a": None, "middle_number_b": None, "unbind_requested_at": None}
    row |= {"state": State.PENDING, "requested_at": first.at, "mode": Mode(first.detail["mode"])}
    row |= {name: _instant(first.detail[name]) for name in ("send_by", "settle_by", "held_until")}
    row |= {name: first.detail[name] for name in ("expire_s", "app_id", "pool_number")}
    row |= {"max_expire_s": first.detail.get("max_expire_s"), "provider_expires_at": None, "replaced_by": None}
    row |= {name: first.detail.get(name) for name in ("replaces", "waits_for")}
    assert row["app_id"] == APP
    for later in history[1:]:
        _apply_event(row, later, guard_s)
    return row


def _apply_event(  # noqa: C901, PLR0912 -- one case per kind
    row: dict[str, Any], event: Event, guard_s: float
) -> None:
    detail, following = event.detail, STATE_AFTER.get(EventKind(event.kind))
    if following is not None:
        assert following in NEXT_STATES.get(row["state"], ()), f"I5: {row['state']} -> {following}"
        row["state"] = following
    within_life = min(max(event.at, row["requested_at"]), row["held_until"])
    match event.kind:
        case EventKind.ACTIVATED | EventKind.ADOPTED:
            row |= {name: detail[name] for name in ("bind_id", "middle_number_a", "middle_number_b")}
            names = ("sent_at", "answered_at", "expires_at", "held_until")
            row |= {name: _instant(detail[name]) for name in names}
            row |= _moved_ends(detail)
            adopted = event.kind is EventKind.ADOPTED
            row["reason"] = "adopted" if adopted else None
            row["provider_status"] = row["provider_status"] if adopted else None
        case EventKind.FAILED:
            row |= {"provider_status": detail["status"], "reason": detail["reason"]}
            row |= {"held_until": within_life, "ended_at": within_life, "waits_for": None}
        case EventKind.IN_DOUBT:
            row |= {"provider_status": detail["status"], "reason": detail["reason"]}
            row["sent_at"] = _instant(detail["sent_at"]) if detail.get("sent_at") else None
        case EventKind.EXPIRED:
            row["ended_at"] = row["expires_at"]
        case EventKind.LAPSED:
            row["ended_at"] = row["held_until"]
        case EventKind.UNBIND_REQUESTED:
            row["unbind_requested_at"] = within_life
        case EventKind.REPLACED:
            row["replaced_by"] = detail["replaced_by"]
            row |= {"unbind_requested_at": within_life} if detail.get("unbind_requested") else {}
        case EventKind.CLEARED:
            names = ("requested_at", "send_by", "settle_by", "held_until")
            row |= {name: _instant(detail[name]) for name in names} | {"waits_for": None}
        case EventKind.UNBOUND:
            held_s = 0.0 if detail["reason"] in ("asked", "replaced") else guard_s
            ended_at = _instant(detail["ended_at"])  # while the clock is in doubt not the time of the event
            assert row["requested_at"] <= ended_at <= row["held_until"]
            row["held_until"] = min(row["held_until"], ended_at + timedelta(seconds=held_s))
            row |= {"reason": detail["reason"], "ended_at": ended_at}
        case EventKind.UNBIND_CONFIRMED:
            row["held_until"] = _instant(detail["held_until"])
            row |= _moved_ends(detail)
        case EventKind.DRIFTED:
            row |= _moved_ends(detail)
            row |= {"held_until": _instant(detail["held_until"])} if "held_until" in detail else {}
        case EventKind.EXTENDED | EventKind.SHORTENED:
            row |= _moved_ends(detail)
        case _:
            pass


def _moved_ends(detail: dict[str, Any]) -> dict[str, datetime]:
    return {name: _instant(detail[name]) for name in ("expires_at", "provider_expires_at") if detail.get(name)}


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
