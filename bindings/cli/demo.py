"""The demo: the lifecycle of bindings on SQLite and the simulator, explained step by step.

It needs no account, reads no variable, leaves no file, and connects to this machine only. Each line is printed
after the fact: what it claims has been checked (`DemoContext.check`), and a claim that does not hold ends the demo
with exit code 1. No business rule is here.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

import click

from bindings import errors
from bindings.domain.binding import Certainty, EventKind, State
from bindings.domain.phone import Phone
from bindings.domain.takeover import find_takeover
from bindings.provider import statuses
from bindings.provider.simulator import API_KEY, API_SECRET, Simulator
from bindings.scheduler import Scheduler
from bindings.service import BindingService
from bindings.store import migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.domain.binding import Binding, Event
    from bindings.errors import PhoneInUse

Result = TypeVar("Result")

POOL = "918806"
APP = "4luaKsL2"
ANNA, BEN, CARL, DORA, EMIL, FAY, GUS, HANA, IRIS, JON, KIM, LEO = (
    Phone(f"91880677{last:02}") for last in range(1, 13)
)
PAUSE_S = 0.3  # between two bindings of one pair, so that the near miss does not depend on rounding
GIVE_UP_S = 10.0  # the expire job runs every second; on a loaded machine it may take longer
LABEL_WIDTH = 11

INTRODUCTION = """\
bindings demo: the lifecycle of privacy-number bindings, on SQLite in a
temporary file and a simulated provider. It needs no account and connects to
this machine only. Phones are masked."""

NEXT = """\
Next steps (docs/quickstart.md explains each):
  pip install '.[all]'           install the command into a virtual environment
  bindings db upgrade            create the tables in ./bindings.db
  bindings simulator             run a simulated provider; prints its settings
  bindings bind --help           then: lookup, check, history, trace, unbind
  bindings serve                 HTTP service and scheduler in one process:
                                 console at http://127.0.0.1:8000, API at /docs
With a provider account (docs/how-to/go-live.md):
  bindings doctor                check settings, database and account
"""


class DemoContext:
    """What the steps share: the service, its simulated provider, the output, and the bindings of earlier steps."""

    def __init__(self, service: BindingService, simulator: Simulator, out: TextIO) -> None:
        self.service = service
        self.simulator = simulator
        self._out = out
        self.first: Binding
        self.adopted: Binding

    def print(self, label: str, text: str) -> None:
        """Print a line of a step."""
        click.echo(f"   {label.ljust(LABEL_WIDTH)}{text}", file=self._out)

    def heading(self, text: str) -> None:
        """Print the heading of a step."""
        click.echo("\n" + click.style(text, bold=True), file=self._out)

    def check(self, holds: object, claim: str) -> None:
        """End the demo if a claim does not hold; call it before printing the claim."""
        if not holds:
            raise SystemExit(f"demo: a check failed: {claim}")

    def bind(self, phone_a: Phone, phone_b: Phone, mode: str, reference: str, *, expire_s: int = 3_600) -> Binding:
        """Bind in the demo's pool, with a key that makes it safe to repeat."""
        return self.service.bind(
            phone_a=phone_a,
            phone_b=phone_b,
            pool_number=POOL,
            expire_s=expire_s,
            mode=mode,
            reference=reference,
            idempotency_key=f"{reference}/1",
        )

    def received(self, call: str) -> int:
        """Return how many calls of this kind the provider has received."""
        return self.simulator.counts.received.get(call, 0)


def run(out: TextIO | None = None) -> None:
    """Run all steps and print them on `out` (None: stdout). Raise SystemExit if a claim does not hold."""
    target = sys.stdout if out is None else out
    start = time.monotonic()
    with _open_demo(target) as demo:
        click.echo(INTRODUCTION, file=target)
        for number, step in enumerate(STEPS, start=1):
            demo.heading(f"{number}. {step.heading}")
            step.run(demo)
        _compare_with_provider(demo, time.monotonic() - start)
    click.echo("\n" + NEXT, file=target, nl=False)


@contextmanager
def _open_demo(out: TextIO) -> Iterator[DemoContext]:
    """Open a service that reads no environment, on a new database and a new simulated provider."""
    with tempfile.TemporaryDirectory(prefix="bindings-demo-") as folder, Simulator(pool_size=2) as simulator:
        url = f"sqlite:///{Path(folder) / 'bindings.db'}"
        migrations.upgrade(url)
        with BindingService.open(
            actor="demo",
            environment={},
            database_url=url,
            provider_url=simulator.url,
            provider_api_key=API_KEY,
            provider_api_secret=API_SECRET,
            provider_app_id=APP,
        ) as service:
            yield DemoContext(service, simulator, out)


def _bind(demo: DemoContext) -> None:
    axb = demo.bind(ANNA, BEN, "AXB", "ride-1")
    axxb = demo.bind(CARL, DORA, "AXXB", "ride-2")
    demo.check(axb.state is axxb.state is State.ACTIVE, "both bindings are active")
    demo.check(axb.middle_number_a == axb.middle_number_b, "in AXB both phones see the same number")
    demo.check(axxb.middle_number_a != axxb.middle_number_b, "in AXXB each phone sees its own number")
    active = demo.service.lookup(middle_number=axb.middle_number_a, party=ANNA)
    demo.check([binding.id for binding in active] == [axb.id], "a lookup finds the binding")
    demo.print("AXB", f"{ANNA} and {BEN} both see {axb.middle_number_a}: {axb.state}")
    demo.print("AXXB", f"{CARL} sees {axxb.middle_number_a}, {DORA} sees {axxb.middle_number_b}: {axxb.state}")
    demo.print("lookup", f"{ANNA} calls {axb.middle_number_a}: {axb.reference}, so connect to {BEN}")
    demo.print("why", "the intent is committed before the call, so a crash loses nothing")
    demo.first = axb


def _conflict(demo: DemoContext) -> None:
    before = demo.received("bind")
    refusal = _bind_held_phone(demo)
    after = demo.received("bind")
    demo.check(refusal is not None and refusal.holder.id == demo.first.id, "the error names the holder")
    demo.check(before == after, "the provider received no request")
    if refusal is not None:
        holder = f"{refusal.holder.reference} ({refusal.holder.mode}), free in {refusal.retry_after_s} s"
        demo.print("request", f"bind {ANNA} again, now with {EMIL}")
        demo.print("refused", f"PhoneInUse: held by {holder}")
    demo.print("provider", f"binds received before: {before}, after: {after}")
    demo.print("why", "it names the holder and its end; the provider's -35 names neither")


def _bind_held_phone(demo: DemoContext) -> PhoneInUse | None:
    try:
        demo.bind(ANNA, EMIL, "AXB", "ride-3")
    except errors.PhoneInUse as refusal:
        return refusal
    return None


def _in_doubt(demo: DemoContext) -> None:
    before = demo.received("bind")
    demo.simulator.script("lost_reply", times=1, on="bind")
    in_doubt = _bind_without_response(demo)
    demo.check(in_doubt is not None and in_doubt.state is State.IN_DOUBT, "the outcome is unknown")
    demo.check(len(demo.simulator.ledger) == demo.received("bind"), "the provider created the binding")
    if in_doubt is None:
        return
    demo.print("provider", f"it bound {EMIL} and {FAY}, but its response was lost")
    demo.print("error", f"OutcomeUnknown, recorded as {in_doubt.state}: both phones stay held")
    result = demo.service.reconcile()
    adopted = demo.service.get(in_doubt.id)
    demo.check(result.adopted == 1 and adopted.state is State.ACTIVE, "reconcile adopted the binding")
    demo.print("reconcile", f"found in the provider's list: adopted as bind_id {adopted.bind_id}")
    replay = demo.bind(EMIL, FAY, "AXB", "ride-4")
    sent = demo.received("bind") - before
    demo.check(replay.id == adopted.id and sent == 1, "the same key returns the binding and sends nothing")
    demo.print("retry", f"the same idempotency key returns it: {replay.state}; binds sent: {sent}")
    demo.print("why", "a new bind would be refused with -35; giving up loses the bind_id")
    demo.adopted = adopted


def _bind_without_response(demo: DemoContext) -> Binding | None:
    try:
        demo.bind(EMIL, FAY, "AXB", "ride-4")
    except errors.OutcomeUnknown as unknown:
        return unknown.binding
    return None


def _expiry(demo: DemoContext) -> None:
    with _scheduler(demo):
        short = demo.bind(GUS, HANA, "AXB", "ride-5", expire_s=2)
        expired = _wait_for_event(demo, short, EventKind.EXPIRED)
    demo.check(expired is not None and short.expires_at is not None, "the scheduler expired the binding")
    if expired is None or short.expires_at is None:
        return
    delay_s = (expired.at - short.expires_at).total_seconds()
    interval_s = demo.service.settings.sweep_interval_s
    demo.check(delay_s >= 0, "the binding did not expire early")
    demo.check(not demo.service.lookup(phone=GUS), "a lookup no longer finds the binding")
    demo.print("bind", f"{GUS} and {HANA} for {short.expire_s} s, with the scheduler running")
    demo.print(
        "expired", f"the event came {delay_s:.2f} s after expires_at; the job runs every {interval_s:.0f} s"
    )
    demo.print("why", "a lookup goes by the clock: a late job delays only the event")


@contextmanager
def _scheduler(demo: DemoContext) -> Iterator[None]:
    """Run the scheduler; the body starts after its first scan of the provider's list."""
    before = demo.received("page")
    with Scheduler(demo.service):
        _poll(lambda: demo.received("page") > before, GIVE_UP_S)
        yield


def _wait_for_event(demo: DemoContext, binding: Binding, kind: EventKind) -> Event | None:
    def find_event() -> Event | None:
        return next((event for event in demo.service.history(binding.id) if event.kind is kind), None)

    return _poll(find_event, binding.expire_s + GIVE_UP_S)


def _poll(function: Callable[[], Result], timeout_s: float) -> Result:
    """Call the function until its result is true or the time is over, and return the last result."""
    deadline = time.monotonic() + timeout_s
    while not (result := function()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return result


def _trace(demo: DemoContext) -> None:
    number = str(demo.first.middle_number_a)
    demo.service.unbind(demo.first.id, reason="ride ended")
    time.sleep(PAUSE_S)
    second = demo.bind(ANNA, IRIS, "AXB", "ride-6")
    demo.check(second.middle_number_a == number, "the provider lent the same middle number again")
    at = (second.answered_at or second.requested_at) + timedelta(seconds=0.1)
    time.sleep(PAUSE_S)
    result = demo.service.trace(middle_number=number, at=at, party=ANNA)
    demo.check([holder.id for holder in result.holders] == [second.id], "one binding had the number then")
    demo.check([miss.id for miss in result.near_misses] == [demo.first.id], "the earlier one is a near miss")
    holder, miss = result.holders[0], result.near_misses[0]
    demo.check(holder.certainty is Certainty.CERTAIN, "the holder is certain")
    demo.print("before", f"ride-1 ended, ride-6 began: {ANNA} sees {number} again")
    demo.print("question", f"who called {ANNA} from {number} at {at:%H:%M:%S}.{at.microsecond // 100_000}Z?")
    demo.print("holder", f"{holder.certainty}: {holder.binding.phone_b}, {holder.binding.reference}")
    demo.print(
        "near miss",
        f"{miss.binding.phone_b}, {miss.binding.reference}: {miss.relation} {-miss.offset_s:.1f} s before",
    )
    demo.print("why", "middle numbers are reused immediately: it shows how close it was")


def _replace(demo: DemoContext) -> None:
    first = demo.bind(JON, KIM, "AXB", "ride-7")
    second = demo.service.replace(first.id, phone_b=LEO)
    takeover = find_takeover(demo.service.history(second.id))
    demo.check(takeover is not None and takeover.gap_s is not None, "the takeover is recorded")
    if takeover is None or takeover.gap_s is None:
        return
    demo.check(demo.service.lookup(phone=JON) == [second], "the rider has the new binding and no other")
    demo.check(not demo.service.lookup(phone=KIM), "the first driver has none")
    number = "changed" if takeover.middle_number_changed else "is the same"
    demo.print("bind", f"{JON} and {KIM} (ride-7)")
    demo.print("replace", f"{LEO} instead of {KIM}: {second.state}")
    demo.print("gap", f"{takeover.gap_s:.3f} s between them; the middle number {number}")
    demo.print("why", "unbind, then bind: another caller could take the rider's phone")


def _history(demo: DemoContext) -> None:
    events = demo.service.history(demo.adopted.id)
    kinds = [event.kind for event in events]
    demo.check(kinds == [EventKind.REQUESTED, EventKind.IN_DOUBT, EventKind.ADOPTED], "three events, in order")
    for event in events:
        demo.print(
            f"{event.sequence} {event.at:%H:%M:%S}", f"{event.kind.ljust(10)} by {event.actor}{_detail(event)}"
        )
    demo.print("why", "an event is committed with its change and is never altered later")


def _detail(event: Event) -> str:
    match event.kind:
        case EventKind.IN_DOUBT:
            return f", {event.detail['reason']}"
        case EventKind.ADOPTED:
            return f", bind_id {event.detail['bind_id']}, number {event.detail['middle_number_a']}"
        case _:
            return ""


def _compare_with_provider(demo: DemoContext, duration_s: float) -> None:
    """Compare with the simulator's records: the claims about the provider hold for the whole run."""
    refused = demo.simulator.counts.decided.get("bind", {}).get(statuses.IN_USE, 0)
    unrecorded = [entry for entry in demo.simulator.ledger if not _is_recorded(demo, str(entry.bind_id))]
    demo.check(refused == 0, "the provider never found a phone in use")
    demo.check(not unrecorded, "every binding of the provider is recorded here")
    demo.check(not demo.service.doubts(), "nothing is in doubt")
    demo.heading("The provider's records agree")
    demo.print(
        "binds", f"{demo.received('bind')} received, {refused} refused with {statuses.IN_USE} (phone in use)"
    )
    demo.print("bindings", f"{len(demo.simulator.ledger)} created, all recorded here; in doubt: 0")
    demo.print("time", f"{duration_s:.1f} s")


def _is_recorded(demo: DemoContext, bind_id: str) -> bool:
    return bool(demo.service.search(bind_id=bind_id).data)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the demo."""

    heading: str
    run: Callable[[DemoContext], None]


STEPS = (
    Step("Bind: one middle number for both phones (AXB), or one for each (AXXB)", _bind),
    Step("A conflict is refused before the provider is called", _conflict),
    Step("A lost response leaves a binding in doubt; reconcile adopts it", _in_doubt),
    Step("The scheduler expires a binding whose time is over", _expiry),
    Step("Trace: who had this middle number at a given time?", _trace),
    Step("Another driver: replace keeps the rider's phone held all the time", _replace),
    Step("The history of the binding that was in doubt", _history),
)
