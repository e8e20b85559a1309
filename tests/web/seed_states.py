"""A database with every state, kind of event, reason, hold, report, delivery and role that the code knows.

Most rows come from the calls that write them in use; words of a later version are written by SQL. `missing`
compares the rows with the enumerations of the code, so that a new member fails a test until it is created here.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from uuid_utils.compat import uuid7

from bindings import failpoints
from bindings.domain.binding import EventKind, Mode, Reason, State
from bindings.domain.hold import HoldReason
from bindings.domain.roles import Role
from bindings.errors import BindingsError
from bindings.jobs.reconcile import ReconcileResult
from bindings.jobs.registry import EXPIRE, JOBS
from bindings.jobs.runner import JobRunner
from bindings.jobs.seal import seal_events
from bindings.provider.simulator.rules import middle_numbers
from bindings.sealing.keys import create_key_file
from bindings.store import reports, schema, settle
from bindings.store.account import register_scope
from bindings.store.deliveries import DeliveryState
from bindings.webhooks.sender import deliver_pending
from tests.service.harness import APP, POOL, Clock, ServiceHarness, feed_has_caught_up
from tests.web import later_version
from tests.web.receivers import Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import StrEnum

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Entry, Simulator
    from bindings.service import BindingService

NUMBER_AS_NAME = middle_numbers(POOL, 20)[0]  # a middle number that is also a reference
NAMES = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>&amp;{{7*7}}",
    "\N{ARABIC LETTER SEEN}\N{ARABIC LETTER LAM} 12 \N{HEBREW LETTER ALEF}",
    "x" * 255,
    "\N{CJK UNIFIED IDEOGRAPH-5F20}" * 255,
    "a/b?c=d#e%00%2F..\\;,'`",
    "-1",
)
MARKUP = '<b onclick=x>complaint & "118"</b> \' -- '
LAG_S = 61  # more than the list's lag
# Results of a reconciliation that its own runs here do not have: stopped, failed rows, a wrong zone, a restore.
STORED_RESULTS: tuple[dict[str, Any], ...] = (
    {"failures": 2, "incomplete": 1, "unproved": 1, "stopped": True, "faults": [MARKUP], "notes": [MARKUP]},
    {"zone_misfit_s": -28_800.0, "unresolved": 3, "scan_s": 12.5},
    {"made_good": True, "reason": MARKUP, "apps": 2, "scans": 4},
)


class SeedClock(Clock):
    """A clock that stands still while the rows are created, and then runs with the clock of the machine."""

    is_running = False

    def __call__(self) -> datetime:
        return datetime.now(UTC) if self.is_running else self.at

    def unix(self) -> float:
        return self().timestamp()


@dataclass(kw_only=True)
class SeededStates:
    """The seeded database: its services, the provider, and who has requested what."""

    harness: ServiceHarness
    phones: dict[str, set[str]] = field(default_factory=dict)  # full phones by the actor that requested them

    @property
    def bindings(self) -> list[Binding]:
        return list(self.harness.service.export_bindings())

    def others_phones(self, actor: str | None) -> set[str]:
        """Return the full phones that only other actors have requested, and those that are held."""
        own = self.phones.get(actor or "", set())
        return set().union(*self.phones.values()) - own


def create(url: str, simulator: Simulator, clock: SeedClock) -> SeededStates:
    """Create the rows in an empty database; its last instant is the present. Not safe to repeat."""
    harness = ServiceHarness(url=url, clock=clock, simulator=simulator)
    seed = _Seed(SeededStates(harness=harness))
    for step in (
        seed.ended_bindings,
        seed.erased_binding,
        seed.failed_bindings,
        seed.doubts,
        seed.reconciliations,
        seed.deliveries,
        seed.jobs,
        seed.recent_bindings,
        seed.replaced_bindings,
        seed.access,
        seed.words_of_a_later_version,
        seed.statistics,
    ):
        step()
    clock.is_running = True
    return seed.states


class _Seed:
    """Creates rows step by step on a clock that starts a day ago."""

    def __init__(self, states: SeededStates) -> None:
        self.states, self.harness = states, states.harness
        self.clock, self.simulator = states.harness.clock, states.harness.simulator
        self._phone = 917_700_000_000
        self.end = datetime.now(UTC)
        self.clock.at = self.end - timedelta(hours=40)

    @property
    def service(self) -> BindingService:
        return self.harness.service

    def pair(self, actor: str) -> dict[str, str]:
        """Return two phones that no other binding has."""
        self._phone += 2
        a, b = str(self._phone), str(self._phone + 1)
        self.states.phones.setdefault(actor, set()).update((a, b))
        return {"phone_a": a, "phone_b": b}

    def bind(self, *, actor: str = "key:app", service: BindingService | None = None, **values: Any) -> Binding:
        """Bind two new phones, or those in `values`."""
        caller = (service or self.service).as_caller(actor=actor, request_id="req-1")
        return caller.bind(**self.arguments(actor, **values))

    def arguments(self, actor: str, **values: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600, "mode": "AXB", "app_id": APP}
        return ({} if "phone_a" in values else self.pair(actor)) | defaults | values

    def fail(self, fault: str, *, on: str = "bind", **values: Any) -> Binding | None:
        """Bind while the provider has this fault; return the binding, if there is one."""
        self.simulator.script(fault, times=1, on=on)
        try:
            return self.bind(**values)
        except BindingsError as error:
            return None if error.binding_id is None else self.service.get(error.binding_id)

    def foreign_binding(self) -> Entry:
        phones = self.pair("other")
        return self.simulator.add_foreign_binding(phone_a=phones["phone_a"], phone_b=phones["phone_b"], app_id=APP)

    def doubt(self, fault: str = "lost_reply", **values: Any) -> Binding:
        binding = self.fail(fault, **values)
        assert binding is not None
        assert binding.state is State.IN_DOUBT
        return binding

    def ended_bindings(self) -> None:
        """Expired with a warning, unbound in each way, and an unbind that is confirmed after the end."""
        service = self.service
        expiring = self.bind(expire_s=600, warn_s=60, mode=Mode.AXXB)
        late = self.bind(expire_s=605)
        asked = self.bind(reference=NAMES[0])
        service.as_caller(actor="key:eve").unbind(asked.id, reason=MARKUP)
        missing = self.bind()
        self.simulator.remove_binding(str(missing.bind_id))
        service.unbind(missing.id)
        self.clock.advance(550)
        service.warn_due()
        caller = service.runtime.caller
        self.harness.database.write(lambda tx: settle.request_unbind(tx, late.id, caller, MARKUP))
        self.clock.advance(60)
        service.expire_due()
        self.harness.database.write(lambda tx: settle.settle_unbound(tx, late.id, caller, reason=Reason.ASKED))
        assert service.get(expiring.id).state is State.EXPIRED

    def erased_binding(self) -> None:
        """An ended binding whose party A was erased."""
        register_scope(self.harness.database, self.service.settings.scope)
        ended = self.bind(expire_s=60, reference=NAMES[1])
        self.service.reveal([ended.id], reason=MARKUP)
        self.clock.advance(600)
        self.service.expire_due()
        with tempfile.TemporaryDirectory() as folder:
            service = self.harness.open(erasure_journal=f"{folder}/erasures")
            service.erasure.erase(phone=ended.phone_a, reason=MARKUP, ticket=MARKUP[:64])
        assert self.service.get(ended.id).phone_a.is_erased

    def failed_bindings(self) -> None:
        """A binding that failed for each reason that a call has, a conflict, and a pool that runs low."""
        for status in ("-22", "-41", "-35"):
            self.fail(f"refuse:{status}", reference=NAMES[1])
        for status in ("-1", "-16", "-18", "-99"):  # each at a replica of its own, which then refuses binds
            self.fail(f"refuse:{status}", service=self.harness.open())
        with suppress(BindingsError):
            self.bind(service=self.harness.open(provider_url="http://127.0.0.1:1"))
        holder = self.bind(mode=Mode.AXB)
        with suppress(BindingsError):
            self.bind(phone_a=holder.phone_a.digits, phone_b=self.pair("key:app")["phone_b"])
        self.clock.advance(1)
        self.service.count_pools()

    def doubts(self) -> None:
        """A doubt that lapses, one that an operator ends although the provider made it, and one never settled."""
        lapsing = self.doubt("reset_before", expire_s=60)
        wrong = self.doubt(reference=NAMES[2])
        with dies_at("bind.after_reserve"), suppress(DiedError):
            self.bind(reference="never settled")
        self.clock.at = max(lapsing.held_until, self.clock.at + timedelta(seconds=700))
        self.service.recover()
        self.service.as_caller(actor="key:admin").mark_absent(wrong.id, reason=MARKUP)
        entry = next(entry for entry in self.simulator.ledger if str(entry.phone_a) == wrong.phone_a.digits)
        self.harness.settle_late(wrong, entry, lifetime=timedelta(days=3))

    def reconciliations(self) -> None:
        """Reports of each case, as dry runs and real runs."""
        service, simulator = self.service, self.simulator
        witnesses = [self.bind(expire_s=259_200) for _ in range(2)]
        ghost, drifting, restored = self.bind(expire_s=7_200), self.bind(expire_s=7_200), self.bind(expire_s=7_200)
        self.doubt(expire_s=7_200)
        orphan = self.foreign_binding()
        endless = self.foreign_binding()
        simulator.list_as(endless.bind_id, {"ends_at": "9999-12-31 23:59:59"})
        simulator.remove_binding(str(ghost.bind_id))
        middle_numbers = {"middle_number_a": "918806999", "middle_number_b": "918806999"}
        simulator.list_as(str(drifting.bind_id), middle_numbers)
        service.unbind(restored.id)
        simulator.restore_binding(str(restored.bind_id))
        self.clock.advance(LAG_S)
        service.as_caller(actor="key:admin").reconcile(dry_run=True, reason=MARKUP)
        service.reconcile()
        simulator.remove_binding(orphan.bind_id)
        impatient = self.harness.open(timestamp_tolerance_s=1)
        self.doubt("reset_before", service=impatient)
        self.clock.advance(LAG_S)
        impatient.reconcile()
        odd = self.foreign_binding()
        simulator.list_as(odd.bind_id, {"phone_b": None})
        simulator.script("bad_gateway", times=1, on="page")
        for _ in range(2):
            self.harness.open(on_orphan="observe", on_drift="observe").reconcile()
        simulator.remove_binding(odd.bind_id)
        for result in STORED_RESULTS:
            self._store_report(result, cases=[])
        assert all(service.get(witness.id).state is State.ACTIVE for witness in witnesses)

    def _store_report(self, counts: dict[str, Any], *, cases: list[dict[str, Any]]) -> None:
        caller, began_at = self.service.runtime.caller, self.clock()
        self.harness.database.write(
            lambda tx: reports.store(tx, caller, began_at=began_at, counts=counts, cases=cases)
        )

    def deliveries(self) -> None:
        """Webhooks with delivered, pending and dead deliveries, and one that is disabled."""
        with Receiver(lambda _: Reply(status=200)) as good, Receiver(lambda _: Reply(status=500)) as failing:
            webhooks = self.service.webhooks
            webhooks.add(url=good.url)
            dead = webhooks.add(url=failing.url, kinds=[EventKind.ACTIVATED]).webhook
            webhooks.add(url=failing.url, kinds=[EventKind.ACTIVATED])
            disabled = webhooks.add(url="https://receiver.example/%3Cb%3E?x=1&y=2").webhook
            webhooks.disable(disabled.id)
            feed_has_caught_up(self.service)
            self.bind()
            feed_has_caught_up(self.service)
            deliver_pending(self.service.runtime)
        dead_state = "UPDATE deliveries SET state = 'dead', finished_at = next_at WHERE webhook_id = :id"
        later_version.execute(self.harness, dead_state, id=dead.id)

    def recent_bindings(self) -> None:
        """Bindings of the last minutes: active with all names, pending, in doubt, with an unclear unbind."""
        self.clock.at = self.end - timedelta(minutes=5)
        for index, name in enumerate(NAMES):
            mode = list(Mode)[index % len(Mode)]
            self.bind(reference=name, idempotency_key=f"k-{index}", mode=mode, actor=f"key:{name[:100]}")
        for role in (*Role, later_version.ROLE):
            self.bindings_of_role(role)
        self.doubt("garbage", reference=NAMES[4])
        self.bind(reference=NUMBER_AS_NAME)
        unclear = self.bind(reference="unclear unbind")
        self.simulator.script("lost_reply", times=1, on="unbind")
        with suppress(BindingsError):
            self.service.unbind(unclear.id, reason=NAMES[3])
        self.clock.advance(60)
        with dies_at("bind.after_reserve"), suppress(DiedError):
            self.bind(reference="pending")
        self.fail("refuse:-22")
        self.fail("refuse:-41")

    def replaced_bindings(self) -> None:
        """An order that was replaced twice, with a successor that failed, and one whose takeover has stopped."""
        self.clock.advance(61)  # since a pool had no number left
        service = self.service.as_caller(actor="key:app", request_id="req-2")
        first = self.bind(reference="replaced order", warn_s=60)
        second = service.replace(first.id, phone_b=self.pair("key:app")["phone_b"])
        self.simulator.script("refuse:-22", times=1, on="bind")
        with suppress(BindingsError):
            service.replace(second.id, mode=Mode.AXXB)
        service.replace(second.id, mode=Mode.AXXB)
        waiting = self.bind(reference=NAMES[2])
        with dies_at("replace.after_begin"), suppress(DiedError):
            service.replace(waiting.id)

    def bindings_of_role(self, role: str) -> None:
        """Two active bindings of one phone: the crawl ends one on its page, the other with all of the phone."""
        values: dict[str, Any] = {"actor": f"key:{role}", "mode": Mode.AXXB, "max_expire_s": 7_200}
        first = self.bind(reference=f"of {role}", **values)
        other_phone = self.pair(f"key:{role}")["phone_b"]
        self.bind(phone_a=first.phone_a.digits, phone_b=other_phone, **values)

    def access(self) -> None:
        """Reveals and exports, with and without a reason, finished and not."""
        service = self.service.as_caller(actor="key:<i>eve</i>", request_id="req-118")
        first, second, *_ = self.states.bindings
        service.reveal([first.id, second.id], reason=MARKUP, what="number history")
        service.reveal([], reason=NAMES[2])
        asker = self.harness.open(phone_search_budget=1).as_caller(actor="key:ann").phone_searches
        for has_match in (True, False, False):
            asker.record_for_key("find", has_match=has_match, is_counted=not has_match)
        service.access_log.record_reveal_of_period(since=None, until=self.clock(), reason=MARKUP)
        for view in ("bindings", "events", "number history", "search results", "access log", MARKUP[:64]):
            for reason in (None, MARKUP):
                export_id = service.access_log.start_export(
                    view=view, filters={"words": NAMES[1], "number": "91**"}, format="csv", reason=reason
                )
                if reason is None:
                    service.access_log.finish_export(export_id, row_count=0, sha256="0" * 64)

    def words_of_a_later_version(self) -> None:
        """Rows with words that only a later version knows."""
        harness = self.harness
        later_version.allow_unknown_words(harness)
        details: tuple[dict[str, Any], ...] = (
            {},
            {"reason": later_version.REASON, "status": "-77"},
            {"steps": [1], "why": None, "x": {}},
        )
        for values in details:
            later_version.write_event(harness, self.bind(), later_version.KIND, **values)
        for kind in EventKind:  # with a detail that this version does not write, and without any
            binding = self.bind()
            later_version.write_event(harness, binding, kind, reason=MARKUP, expires_at="soon", said=NAMES[1])
            execute = "UPDATE bindings SET reason = :reason WHERE id = :id"
            later_version.execute(harness, execute, reason=later_version.REASON, id=binding.id)
        for reason in Reason:
            binding = self.bind()
            values = {"reason": reason, "id": binding.id, "status": "-77"}
            change = "UPDATE bindings SET reason = :reason, provider_status = :status WHERE id = :id"
            later_version.execute(harness, change, **values)
        hold = (
            "INSERT INTO holds (id, scope, phone, why, app_id, held_until, strikes, created_at)"
            " SELECT :id, scope, '917699999999', :why, app_id, held_until, 0, created_at FROM holds LIMIT 1"
        )
        later_version.execute(harness, hold, id=str(uuid7()), why=later_version.HELD_BY[:16])
        self.states.phones.setdefault("other", set()).add("917699999999")
        delivered = "(SELECT id FROM deliveries WHERE state = 'delivered' LIMIT 1)"
        change = f"UPDATE deliveries SET state = :state WHERE id = {delivered}"
        later_version.execute(harness, change, state=later_version.DELIVERY)
        cases: list[dict[str, Any]] = [
            {"case": "of_a_later_version", "action": MARKUP, "reasons": ["a", 1], "more": {"a": 1}},
            {"case": "orphans"},
            {"what": "no name"},
            {"case": "ghosts", "expires_at": "9999-12-31T23:59:59Z"},
        ]
        self._store_report(
            {"of_a_later_version": 3, "faults": None, "later": [1, {"a": json.dumps(NAMES)}], "suspicions": ["x"]},
            cases=cases,
        )

    def jobs(self) -> None:
        """Run each job once, as the scheduler does; a look has work if there is a young doubt."""
        self.doubt()
        self.clock.advance(30)
        with TemporaryDirectory() as folder:
            key_file = str(Path(folder) / "seal.pem")
            create_key_file(key_file, "key")
            runner = JobRunner(self.harness.open(seal_key_file=key_file).runtime)
        for job in JOBS:
            runner.run_once_per_period(job, period_s=60.0)
        with tempfile.TemporaryDirectory() as folder:
            key = create_key_file(f"{folder}/seal.pem", "key")
        feed_has_caught_up(self.service)
        seal_events(self.service.runtime.database, key, self.service.runtime.caller)

    def statistics(self) -> None:
        """Count the events up to the present."""
        self.clock.at = self.end
        feed_has_caught_up(self.service)
        JobRunner(self.service.runtime).run(EXPIRE)
        self.service.count_pools()
        self.service.update_statistics()


class DiedError(BaseException):
    """Stands for the end of the process."""


@contextmanager
def dies_at(name: str) -> Iterator[None]:
    """Let the process of a call end at a fail point."""

    def die(point: str) -> None:
        if point == name:
            raise DiedError

    failpoints.install(die)
    try:
        yield
    finally:
        failpoints.install(None)


def missing(states: SeededStates) -> dict[str, set[str]]:
    """Return the members of each enumeration, and the fields of a report, that no row has."""
    columns: dict[type[StrEnum], Any] = {
        State: schema.bindings.c.state,
        Mode: schema.bindings.c.mode,
        Reason: schema.bindings.c.reason,
        EventKind: schema.events.c.kind,
        HoldReason: schema.holds.c.why,
        DeliveryState: schema.deliveries.c.state,
    }
    rows = {values.__name__: _values(states, column) for values, column in columns.items()}
    result = {values.__name__: {str(value) for value in values} - rows[values.__name__] for values in columns}
    result["job"] = {job.name for job in JOBS} - _values(states, schema.passes.c.task)
    listed = states.harness.service.reports(limit=200).data
    counted = {name for report in listed for name, value in report.counts.items() if value}
    result["report"] = {item.name for item in fields(ReconcileResult)} - counted - {"report_id"}
    return {name: values for name, values in result.items() if values}


def _values(states: SeededStates, column: Any) -> set[str]:
    """Return the different values of a column."""
    return states.harness.database.read(lambda connection: set(connection.execute(select(column)).scalars()))
