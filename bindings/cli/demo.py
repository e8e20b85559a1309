"""The demo: the whole life of a binding on SQLite and the simulator, told as it happens.

It needs no account, reads no variable, leaves no file, and calls nothing but this machine. Every line is
written after the fact: what it tells has been checked (`_Stage.require`), and a step that does not come out as
told ends the demo with exit code 1. No rule of the product lives here.
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
from bindings.provider import statuses
from bindings.provider.simulator import API_KEY, API_SECRET, Simulator
from bindings.scheduler import Scheduler
from bindings.service import BindingService
from bindings.store import migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.domain.binding import Binding, Event
    from bindings.errors import PhoneInUse

Answer = TypeVar("Answer")

POOL = "918806"
APP = "4luaKsL2"
ANNA, BEN, CARL, DORA, EMIL, FAY, GUS, HANA, IRIS = (Phone(f"91880677{last:02}") for last in range(1, 10))
PAUSE_S = 0.3  # between two bindings of one pair, so that the near miss is no accident of rounding
GIVE_UP_S = 10.0  # a sweep is due every second; on a loaded machine it may take longer
WIDTH = 11

NEXT = """\
Next, by hand (docs/quickstart.md tells each step):
  bindings db upgrade            make the tables in ./bindings.db
  bindings simulator             a provider to play with; prints what to export
  bindings bind --help           then: lookup, check, history, trace, unbind
  bindings serve                 the same over HTTP, with the scheduler inside:
                                 console at http://127.0.0.1:8000, API at /docs
With an account (docs/how-to/go-live.md):
  bindings doctor                tells what is missing, and if the account works
"""


class DemoContext:
    """What the steps share: the service, the provider behind it, and where the story is told."""

    def __init__(self, service: BindingService, simulator: Simulator, out: TextIO) -> None:
        self.service = service
        self.simulator = simulator
        self._out = out
        self.first: Binding
        self.adopted: Binding

    def say(self, label: str, text: str) -> None:
        """One line under a heading."""
        click.echo(f"   {label.ljust(WIDTH)}{text}", file=self._out)

    def heading(self, text: str) -> None:
        """Begin a step."""
        click.echo("\n" + click.style(text, bold=True), file=self._out)

    def check(self, holds: object, told: str) -> None:
        """End the demo unless what is about to be told is true."""
        if not holds:
            raise SystemExit(f"demo: this did not come out as told: {told}")

    def bind(self, phone_a: Phone, phone_b: Phone, mode: str, reference: str, *, expire_s: int = 3_600) -> Binding:
        """Bind in the demo's pool."""
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
        """How many calls of this kind the provider has got."""
        return self.simulator.counts.received.get(call, 0)


def run(out: TextIO | None = None) -> None:
    """Tell the story on `out` (stdout). Raises SystemExit where a step does not come out as told."""
    target = sys.stdout if out is None else out
    began = time.monotonic()
    with _stage(target) as stage:
        click.echo("bindings demo: SQLite in a temporary file, and a simulated provider.", file=target)
        click.echo("No account, nothing outside this machine. Phones are masked.", file=target)
        for number, step in enumerate(STEPS, start=1):
            stage.heading(f"{number}. {step.heading}")
            step.play(stage)
        _sum_up(stage, time.monotonic() - began)
    click.echo("\n" + NEXT, file=target, nl=False)


@contextmanager
def _stage(out: TextIO) -> Iterator[DemoContext]:
    """A fresh database, a fresh provider, and a service between them that reads no environment."""
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


def _bind(stage: DemoContext) -> None:
    axb = stage.bind(ANNA, BEN, "AXB", "ride-1")
    axxb = stage.bind(CARL, DORA, "AXXB", "ride-2")
    stage.check(axb.state is axxb.state is State.ACTIVE, "both bindings are active")
    stage.check(axb.middle_number_a == axb.middle_number_b, "in AXB both call the same number")
    stage.check(axxb.middle_number_a != axxb.middle_number_b, "in AXXB each calls a number of their own")
    found = stage.service.lookup(middle_number=axb.middle_number_a, party=ANNA)
    stage.check([each.id for each in found] == [axb.id], "a lookup finds it")
    stage.say("AXB", f"{ANNA} and {BEN} both see {axb.middle_number_a}: {axb.state}")
    stage.say("AXXB", f"{CARL} sees {axxb.middle_number_a}, {DORA} sees {axxb.middle_number_b}: {axxb.state}")
    stage.say("lookup", f"{ANNA} calls {axb.middle_number_a}: that is {axb.reference}, so ring {BEN}")
    stage.say("why", "the intent is committed before the call: a crash loses nothing")
    stage.first = axb


def _conflict(stage: DemoContext) -> None:
    before = stage.received("bind")
    refusal = _refused(stage)
    after = stage.received("bind")
    stage.check(refusal is not None and refusal.holder.id == stage.first.id, "the holder is named")
    stage.check(before == after, "the provider got no request")
    if refusal is not None:
        held = f"{refusal.holder.reference} ({refusal.holder.mode}), free in {refusal.retry_after_s} s"
        stage.say("ask", f"bind {ANNA} again, now with {EMIL}")
        stage.say("refused", f"PhoneInUse: held by {held}")
    stage.say("provider", f"binds received before: {before}, after: {after}")
    stage.say("why", "it names who holds the phone and until when; -35 names nobody")


def _refused(stage: DemoContext) -> PhoneInUse | None:
    try:
        stage.bind(ANNA, EMIL, "AXB", "ride-3")
    except errors.PhoneInUse as refusal:
        return refusal
    return None


def _doubt(stage: DemoContext) -> None:
    before = stage.received("bind")
    stage.simulator.script("lost_reply", times=1, on="bind")
    doubt = _in_doubt(stage)
    stage.check(doubt is not None and doubt.state is State.IN_DOUBT, "the outcome is unknown")
    stage.check(len(stage.simulator.ledger) == stage.received("bind"), "the provider made the binding")
    if doubt is None:
        return
    stage.say("lost", f"the provider bound {EMIL} and {FAY}; its reply was lost")
    stage.say("told", f"OutcomeUnknown, recorded as {doubt.state}: both phones stay held")
    counts = stage.service.reconcile()
    adopted = stage.service.get(doubt.id)
    stage.check(counts.adopted == 1 and adopted.state is State.ACTIVE, "reconcile adopted it")
    stage.say("reconcile", f"found in the provider's list: adopted as bind_id {adopted.bind_id}")
    again = _in_doubt_again(stage)
    sent = stage.received("bind") - before
    stage.check(again.id == adopted.id and sent == 1, "the same key returns it, and nothing more was sent")
    stage.say("again", f"the same idempotency key returns it: {again.state}; binds sent: {sent}")
    stage.say("why", "binding again would meet -35; giving up would lose the bind_id")
    stage.adopted = adopted


def _in_doubt(stage: DemoContext) -> Binding | None:
    try:
        stage.bind(EMIL, FAY, "AXB", "ride-4")
    except errors.OutcomeUnknown as unknown:
        return unknown.binding
    return None


def _in_doubt_again(stage: DemoContext) -> Binding:
    return stage.bind(EMIL, FAY, "AXB", "ride-4")


def _expiry(stage: DemoContext) -> None:
    with _scheduler(stage):
        short = stage.bind(GUS, HANA, "AXB", "ride-5", expire_s=2)
        ended = _wait_for(stage, short, EventKind.EXPIRED)
    stage.check(ended is not None and short.expires_at is not None, "the scheduler expired it")
    if ended is None or short.expires_at is None:
        return
    late_s = (ended.at - short.expires_at).total_seconds()
    interval_s = stage.service.settings.sweep_interval_s
    stage.check(late_s >= 0, "it was not ended before its time")
    stage.check(not stage.service.lookup(phone=GUS), "a lookup finds it no more")
    stage.say("bind", f"{GUS} and {HANA} for {short.expire_s} s, with the scheduler running")
    stage.say("expired", f"the event came {late_s:.2f} s after expires_at; a sweep runs every {interval_s:.0f} s")
    stage.say("why", "a lookup goes by the clock: a late sweep delays only the event")


@contextmanager
def _scheduler(stage: DemoContext) -> Iterator[None]:
    """The product's own scheduler, after its first reading of the provider's list."""
    before = stage.received("page")
    with Scheduler(stage.service):
        _until(lambda: stage.received("page") > before, GIVE_UP_S)
        yield


def _wait_for(stage: DemoContext, binding: Binding, kind: EventKind) -> Event | None:
    def found() -> Event | None:
        return next((event for event in stage.service.history(binding.id) if event.kind is kind), None)

    return _until(found, binding.expire_s + GIVE_UP_S)


def _until(asked: Callable[[], Answer], seconds: float) -> Answer:
    """Ask until the answer is true, at most for so long."""
    deadline = time.monotonic() + seconds
    while not (answer := asked()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def _trace(stage: DemoContext) -> None:
    number = str(stage.first.middle_number_a)
    stage.service.unbind(stage.first.id, reason="ride ended")
    time.sleep(PAUSE_S)
    second = stage.bind(ANNA, IRIS, "AXB", "ride-6")
    stage.check(second.middle_number_a == number, "the provider lent the same middle number again")
    at = (second.answered_at or second.requested_at) + timedelta(seconds=0.1)
    found = stage.service.trace(middle_number=number, at=at, party=ANNA)
    stage.check([held.id for held in found.holders] == [second.id], "one binding had it then")
    stage.check([miss.id for miss in found.near_misses] == [stage.first.id], "the one before is a near miss")
    holder, miss = found.holders[0], found.near_misses[0]
    stage.check(holder.certainty is Certainty.CERTAIN, "it is certain")
    stage.say("meanwhile", f"ride-1 ends, ride-6 begins, {ANNA} gets {number} again")
    stage.say("ask", f'"{number} called me at {at:%H:%M:%S}.{at.microsecond // 100_000}Z: who was it?"')
    stage.say("holder", f"{holder.certainty}: {holder.binding.phone_b}, {holder.binding.reference}")
    stage.say(
        "near miss",
        f"{miss.binding.phone_b}, {miss.binding.reference}: {miss.relation} {-miss.offset_s:.1f} s before",
    )
    stage.say("why", "middle numbers are lent again at once; it says how close it was")


def _history(stage: DemoContext) -> None:
    events = stage.service.history(stage.adopted.id)
    kinds = [event.kind for event in events]
    stage.check(kinds == [EventKind.REQUESTED, EventKind.IN_DOUBT, EventKind.ADOPTED], "three events, in order")
    for event in events:
        stage.say(
            f"{event.sequence} {event.at:%H:%M:%S}", f"{event.kind.ljust(10)} by {event.actor}{_because(event)}"
        )
    stage.say("why", "an event is written with its change; nothing alters it later")


def _because(event: Event) -> str:
    match event.kind:
        case EventKind.IN_DOUBT:
            return f", {event.detail['reason']}"
        case EventKind.ADOPTED:
            return f", bind_id {event.detail['bind_id']}, number {event.detail['middle_number_a']}"
        case _:
            return ""


def _sum_up(stage: DemoContext, seconds: float) -> None:
    """Compare with the provider's own books: what was claimed about it holds for the whole run."""
    refused = stage.simulator.counts.decided.get("bind", {}).get(statuses.IN_USE, 0)
    unknown = [entry for entry in stage.simulator.ledger if not _known(stage, str(entry.bind_id))]
    stage.check(refused == 0, "the provider never found a phone in use")
    stage.check(not unknown, "every binding of the provider is known here")
    stage.check(not stage.service.doubts(), "no doubt is left")
    stage.heading("The provider's books agree")
    stage.say(
        "binds", f"{stage.received('bind')} received, {refused} answered with {statuses.IN_USE} (phone in use)"
    )
    stage.say("bindings", f"{len(stage.simulator.ledger)} made, all known here; open doubts: 0")
    stage.say("time", f"{seconds:.1f} s")


def _known(stage: DemoContext, bind_id: str) -> bool:
    return bool(stage.service.search(bind_id=bind_id).data)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the story."""

    heading: str
    play: Callable[[DemoContext], None]


STEPS = (
    Step("Bind: one middle number for both phones (AXB), or one each (AXXB)", _bind),
    Step("A conflict is stopped before the call", _conflict),
    Step("A lost reply becomes a doubt, and the doubt is adopted", _doubt),
    Step("The scheduler ends what is over", _expiry),
    Step('"This number called me just now: who was it?"', _trace),
    Step("The history of the binding that was in doubt", _history),
)
