"""Harness of the service tests: services, simulator and database on one clock that only the test moves.

Also helpers that wait and run calls in threads, and `assert_sound`, which checks invariants over a whole database.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from bindings.clock import HostClock
from bindings.domain.binding import Binding, Caller, EventKind, State
from bindings.jobs.batches import BUDGET_S, DueBatches
from bindings.jobs.run_control import UNSTOPPED, RunControl
from bindings.lifecycle.clock_monitor import _Reading
from bindings.lifecycle.runtime import new_runtime
from bindings.sealing.encoding import event_bytes
from bindings.sealing.findings import Findings
from bindings.sealing.rows import RowComparison
from bindings.service import BindingService
from bindings.settings import load
from bindings.store import events, phone_key_source, seals, settle
from bindings.store.account import register_scope, rewrites_allowed
from bindings.store.database import Database
from bindings.testing.final_events import wait_until_final
from tests.service import phone_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Executable

    from bindings.domain.binding import Event
    from bindings.lifecycle.clock_monitor import ClockMonitor
    from bindings.provider.simulator import Entry, Simulator
    from bindings.store.database import Transaction

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
E, F, G, H = "9188067704", "9188067705", "9188067706", "9188067707"
POOL = "918806"
APP = "4luaKsL2"
KEY, SECRET = "bDqJFiq9", "7bz1lzh9"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
feed_has_caught_up = wait_until_final


class Clock:
    """A clock that stands still until a test moves it. Callable, as `Database(read_clock=...)` requires."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def unix(self) -> float:
        return self.at.timestamp()

    def advance(self, seconds: float) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at


@dataclass(kw_only=True)
class ServiceHarness:
    """One database, one simulated provider, one clock, and as many services (replicas) as the test opens."""

    url: str
    clock: Clock = field(default_factory=Clock)
    simulator: Simulator
    services: list[BindingService] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)  # of each service, besides the harness's own
    phones: str = phone_keys.PLAIN
    has_rewritten: bool = False

    @property
    def service(self) -> BindingService:
        return self.services[0] if self.services else self.open()

    @property
    def database(self) -> Database:
        return self.service.runtime.database

    def open(self, **settings: Any) -> BindingService:
        """Open another replica on the same database."""
        provider_url = settings.pop("provider_url", self.simulator.url)
        service = service_at(self.url, self.clock, provider_url, **(self.settings | settings))
        if self.phones != phone_keys.PLAIN and not self.services:
            phone_keys.write_sealed(service.runtime.database)
        self.services.append(service)
        return service

    def close(self) -> None:
        for service in self.services:
            service.close()

    def bind(self, phone_a: str = A, phone_b: str = B, mode: str = "AXB", **overrides: Any) -> Binding:
        arguments: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600} | overrides
        return self.service.bind(phone_a=phone_a, phone_b=phone_b, mode=mode, **arguments)

    def add_foreign_bindings(self, count: int) -> None:
        """Let the provider make bindings that are not ours, of phones that no test binds."""
        for number in range(count):
            self.simulator.add_foreign_binding(
                phone_a=f"91770000{number:03}", phone_b=f"91770001{number:03}", app_id=APP
            )

    def settle_late(
        self, binding: Binding, entry: Entry, *, lifetime: timedelta = timedelta(seconds=3_000)
    ) -> None:
        """Record that the provider made `entry` for a binding that has ended here, as a late answer does."""
        now = self.clock()
        success = settle.Success(
            bind_id=str(entry.bind_id),
            middle_number_a=entry.middle_number_a,
            middle_number_b=entry.middle_number_b,
            sent_at=now,
            answered_at=now,
            expires_at=now + lifetime,
            held_until=now + lifetime + timedelta(seconds=100),
            warn_s=None,
        )
        caller = self.service.runtime.caller
        self.database.write(lambda tx: settle.settle_success(tx, binding, success, caller))

    def rewrite(self, statement: Executable) -> None:
        """Run a statement that the triggers refuse, by the way around them that maintenance has."""

        def work(tx: Transaction) -> None:
            with rewrites_allowed(tx):
                tx.connection.execute(statement)

        register_scope(self.database, self.service.settings.scope)
        self.database.write(work)
        self.has_rewritten = True

    def kinds(self, binding: Binding) -> list[str]:
        return [event.kind for event in self.service.history(binding.id)]

    def all_kinds(self) -> list[str]:
        """Return the kind of every event, also of those that the feed does not return yet."""
        kinds = select(events.COLUMNS[4]).order_by(events.COLUMNS[1])
        return [
            EventKind(kind)
            for kind in self.database.read(lambda connection: connection.execute(kinds).scalars().all())
        ]

    def received(self, call: str) -> int:
        """Return the number of calls of this kind that the provider received."""
        return self.simulator.counts.received.get(call, 0)

    def entry(self, binding: Binding) -> Entry:
        entry = self.simulator.ledger.get(int(binding.bind_id or 0))
        assert entry is not None
        return entry


def account_settings(provider_url: str) -> dict[str, Any]:
    """Return the settings that name a simulated provider and its account, as arguments of `open` and `load`."""
    return {
        "provider_url": provider_url,
        "provider_api_key": KEY,
        "provider_api_secret": SECRET,
        "provider_app_id": APP,
    }


def account_variables(provider_url: str) -> dict[str, str]:
    """Return the settings of `account_settings` as environment variables."""
    return {f"BINDINGS_{name.upper()}": value for name, value in account_settings(provider_url).items()}


def service_at(
    url: str,
    clock: Clock,
    provider_url: str,
    *,
    host_clock: HostClock | None = None,
    accept_jumps: bool = True,
    **settings: Any,
) -> BindingService:
    """Open a service whose database and wall clock are `clock`; `host_clock` replaces all clocks of the host.

    Jumps of the clock are accepted, unless the test is about them.
    """
    values = {
        **account_settings(provider_url),
        "provider_timeout_s": 5.0,
        "scan_calls_per_s": 1_000.0,
    }
    host = host_clock or HostClock(wall=clock.unix)
    config = load({}, database_url=url, **(values | settings))
    database = Database(url, read_clock=clock, clock=host, phone_keys=phone_key_source.load(config))
    runtime = new_runtime(config, database, caller=Caller(actor="test"), clock=host)
    if accept_jumps:
        _accept_jumps(runtime.clocks)
    return BindingService(runtime)


def _accept_jumps(clocks: ClockMonitor) -> None:
    """Accept jumps of the test clock, which outside of tests would stop the binds of a process."""
    judge, trusted_range = clocks._judge, clocks.trusted_range

    def judge_without_anchor(reading: Any) -> None:
        clocks._anchor = None
        clocks._database_skew_s = 0.0  # the test may have moved both clocks between their readings
        judge(reading)

    def trusted_range_after_jump(within_s: float) -> Any:
        if clocks._doubt is None:
            clocks._anchor = clocks._latest = _Reading(clocks._clock.wall(), clocks._clock.monotonic())
        return trusted_range(within_s)

    clocks._judge = judge_without_anchor  # type: ignore[method-assign]
    clocks.trusted_range = trusted_range_after_jump  # type: ignore[method-assign]


def wait_for(condition: Callable[[], bool], *, seconds: float = 300.0) -> None:
    """Wait until another thread or process makes the condition true; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.005)


def hold_answers(
    simulator: Simulator, kind: str = "delay_before", *, on: str = "bind", times: int = 1
) -> threading.Event:
    """Let the provider hold back its next answers until the returned event is set; `kind` is the fault."""
    released = threading.Event()
    listener = simulator._listener
    assert listener is not None
    end_if_stopped = listener.pause

    def pause(seconds: float) -> None:
        while not released.wait(0.01):
            end_if_stopped(0.0)

    listener.pause = pause  # type: ignore[method-assign]
    simulator.script(kind, times=times, seconds=1.0, on=on)
    return released


def in_threads(*calls: Callable[[], object], seconds: float = 300.0) -> list[BaseException]:
    """Run the calls concurrently, each in its own thread; return what they raised, after all have ended."""
    barrier = threading.Barrier(len(calls))
    raised: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        barrier.wait(300)
        try:
            call()
        except BaseException as error:  # noqa: BLE001 -- returned to the test
            raised.append(error)

    # Daemon threads: a thread that hangs fails its test, but does not keep the process from ending.
    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a call did not end"
    return raised


REPLAYED = (
    "bind_id",
    "middle_number_a",
    "middle_number_b",
    "provider_status",
    "reason",
    "sent_at",
    "answered_at",
    "expires_at",
    "provider_expires_at",
    "held_until",
    "replaces",
    "replaced_by",
    "waits_for",
)
FORWARD = {
    EventKind.REQUESTED: State.PENDING,
    EventKind.ACTIVATED: State.ACTIVE,
    EventKind.ADOPTED: State.ACTIVE,
    EventKind.FAILED: State.FAILED,
    EventKind.IN_DOUBT: State.IN_DOUBT,
    EventKind.EXPIRED: State.EXPIRED,
    EventKind.UNBOUND: State.UNBOUND,
    EventKind.LAPSED: State.LAPSED,
}


def due_batches(
    service: BindingService, *, batch: int, budget_s: float = BUDGET_S, control: RunControl = UNSTOPPED
) -> DueBatches:
    """Return small batches of `expire_due` or `warn_due` for one run."""
    runtime = service.runtime
    return DueBatches(
        database=runtime.database, caller=runtime.caller, control=control, batch=batch, budget_s=budget_s
    )


def assert_sound(service: BindingService, *, compares_rows: bool = True) -> None:
    """Check I5 and I7 for every binding, and that no event contains a phone. Runs after every test."""
    all_events = service.runtime.database.read(
        lambda connection: [
            events.to_event(row) for row in connection.execute(select(*events.COLUMNS).order_by(events.COLUMNS[1]))
        ]
    )
    histories: dict[str, list[Event]] = {}
    for event in all_events:
        histories.setdefault(str(event.binding_id), []).append(event)
    phones: set[str] = set()
    for binding in service.export_bindings():
        phones |= {phone.digits for phone in (binding.phone_a, binding.phone_b) if len(phone.digits) > 6}
        _assert_replays(binding, sorted(histories[binding.id], key=lambda event: event.sequence))
    faults = row_faults(service) if compares_rows else []
    assert faults == [], faults
    for event in all_events:
        assert not any(phone in str(event.detail) for phone in phones), "no phones in events"


def row_faults(service: BindingService) -> list[str]:
    """Return in what the rows contradict the events, as `bindings audit verify` compares them."""

    def query(connection: Connection) -> Iterator[str]:
        findings = Findings()
        with seals.snapshot(connection), RowComparison(findings, with_rows=True) as comparison:
            for event in seals.list_events(connection):
                assert isinstance(event, dict)
                comparison.add_event(event_bytes(event), event, None)
            for subject, list_rows in seals.ROWS.items():
                for row in list_rows(connection):
                    comparison.add_row(subject, row)
            comparison.finish()
        yield from (f"{finding.subject} {finding.id} {finding.message}" for finding in findings.reported)

    without_account = "account 1 has an event and no row"  # a harness registers no scope
    return [fault for fault in service.runtime.database.stream(query) if fault != without_account]


def _assert_replays(binding: Binding, history: list[Event]) -> None:
    assert [event.sequence for event in history] == list(range(1, len(history) + 1)), (
        "sequence numbers have no gaps"
    )
    assert binding.version == len(history)
    state: State | None = None
    row: dict[str, Any] = dict.fromkeys(REPLAYED)
    for event in history:
        next_state = FORWARD.get(EventKind(event.kind))
        if next_state is not None:
            allowed = {State.PENDING} if state is None else state.next_states
            assert next_state in allowed, f"{state} -> {next_state}"
            state = next_state
        row = _replayed(row, event)
    assert binding.state is state, "the state of the row equals the replay of its events"
    for name in (
        *("bind_id", "middle_number_a", "middle_number_b", "provider_status", "reason"),
        *("replaces", "replaced_by", "waits_for"),
    ):
        assert getattr(binding, name) == row[name], f"{name} equals the replay of the events"
    for name in ("sent_at", "answered_at", "expires_at", "provider_expires_at"):
        replayed = None if row[name] is None else datetime.fromisoformat(row[name])
        assert getattr(binding, name) == replayed, f"{name} equals the replay of the events"
    unbind_requested = any(
        event.kind is EventKind.UNBIND_REQUESTED or "unbind_requested" in event.detail for event in history
    )
    assert (binding.unbind_requested_at is not None) == unbind_requested


def _replayed(row: dict[str, Any], event: Event) -> dict[str, Any]:
    """Return the row after an event."""
    updated = row | {name: value for name, value in event.detail.items() if name in REPLAYED}
    status = {"provider_status": event.detail.get("status")}
    derived: dict[str, dict[str, Any]] = {
        EventKind.ACTIVATED: {"provider_status": None, "reason": None},
        EventKind.ADOPTED: {"reason": "adopted"},
        EventKind.IN_DOUBT: status,
        EventKind.FAILED: status | {"waits_for": None},
        EventKind.CLEARED: {"waits_for": None},
        EventKind.REPLACED: {},
    }
    match event.kind:
        case EventKind.REQUESTED:
            return row | {name: updated[name] for name in ("replaces", "waits_for")}
        case EventKind.DRIFTED | EventKind.EXTENDED | EventKind.SHORTENED | EventKind.UNBIND_CONFIRMED:
            return row | {name: updated[name] for name in ("expires_at", "provider_expires_at")}
        case kind if kind in derived or kind in FORWARD:
            return updated | derived.get(kind, {})
        case _:
            return row  # late responses and reveals change none of these columns
