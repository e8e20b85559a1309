"""A day of bindings in every state, for browser tests and screenshots, created on a simulated clock.

The day ends now, so a console on the machine's own clock shows some of the bindings as active.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bindings.domain.phone import Phone
from bindings.errors import BindingsError
from bindings.jobs.registry import EXPIRE
from bindings.jobs.runner import JobRunner
from bindings.provider.simulator import Fault, FaultKind, Simulator
from bindings.store import holds
from bindings.store.deliveries import Result
from tests import deliveries
from tests.service.harness import POOL, Clock, ServiceHarness, feed_has_caught_up

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from bindings.store.database import Transaction
    from bindings.store.webhooks import Webhook

RIDER, DRIVER, COOK, COURIER = "9188067701", "9188067799", "9188067702", "9188067788"
DAY_LENGTH = timedelta(hours=26)


@dataclass(kw_only=True)
class Day:
    """The bindings that tests refer to."""

    ride: Binding  # ended early; its middle number was soon used again
    reuse: Binding  # has that middle number, with other parties
    live: Binding  # active now
    failed: Binding
    doubt: Binding


def create(url: str, *, now: datetime | None = None) -> Day:
    """Create a day of bindings in an empty database, up to `now`. Not safe to repeat on the same database."""
    end = now or datetime.now(UTC)
    clock = Clock(end - DAY_LENGTH)
    with Simulator(clock=clock.unix, pool_size=4) as simulator:
        harness = ServiceHarness(url=url, clock=clock, simulator=simulator)
        try:
            return _create(harness, end)
        finally:
            harness.close()


def _create(harness: ServiceHarness, end: datetime) -> Day:
    clock, simulator = harness.clock, harness.simulator

    def bind(phone_a: str, phone_b: str, reference: str, **fields: Any) -> Binding:
        service = harness.service.as_caller(actor=fields.pop("actor", "key:rides"), request_id=f"req-{reference}")
        options: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600, "mode": "AXB"} | fields
        return service.bind(phone_a=phone_a, phone_b=phone_b, reference=reference, **options)

    def set_clock_before_end(**before: float) -> None:
        clock.at = end - timedelta(**before)

    bind(RIDER, "9188067711", "order-1001", expire_s=1_800)
    set_clock_before_end(hours=22)
    harness.service.expire_due()
    bind(RIDER, "9188067712", "order-1002", mode="AXXB", expire_s=7_200)
    bind(COOK, COURIER, "meal-77", actor="key:food", expire_s=5_400)
    set_clock_before_end(hours=8)
    harness.service.expire_due()
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-41"))
    with suppress(BindingsError):
        bind(COOK, COURIER, "meal-78", actor="key:food")
    set_clock_before_end(hours=6)
    ride = bind(RIDER, DRIVER, "order-1003")
    clock.advance(1_300)
    with suppress(BindingsError):
        bind(DRIVER, "9188067713", "order-1004")  # the driver's phone is in use: refused before the call
    clock.advance(80)
    ride = harness.service.as_caller(actor="key:rides", request_id="req-ended").unbind(
        ride.id, reason="trip ended"
    )
    harness.service.as_caller(actor="key:eve", request_id="req-118").reveal([ride.id], reason="complaint 118")
    _record_export(harness, "key:eve", "number history", "complaint 118")
    clock.advance(120)
    reuse = _bind_until_reuse(harness, bind, str(ride.middle_number_a))
    set_clock_before_end(minutes=40)
    harness.service.expire_due()
    bind("9188067731", "9188067732", "order-1008", mode="AXXB", expire_s=5_400)
    set_clock_before_end(minutes=12)
    live = bind(RIDER, DRIVER, "order-1009", mode="AXXB")
    bind(RIDER, COURIER, "order-1010", mode="AXXB", expire_s=1_200)
    set_clock_before_end(minutes=9)
    _record_export(harness, "key:ada", "events", None)
    set_clock_before_end(minutes=7)
    simulator.script(Fault(kind=FaultKind.LOST_REPLY, times=1))
    with suppress(BindingsError):
        bind("9188067741", "9188067742", "order-1011")
    set_clock_before_end(seconds=20)
    harness.service.recover()
    harness.service.reconcile(dry_run=True, reason="complaint 118")
    harness.service.count_pools()
    JobRunner(harness.service.runtime).run(EXPIRE)
    harness.service.update_statistics()
    service = harness.service
    return Day(
        ride=service.get(ride.id),
        reuse=reuse,
        live=live,
        failed=service.search(state="failed").data[0],
        doubt=service.search(state="in_doubt").data[0],
    )


def add_webhook(service: BindingService) -> Webhook:
    """Add a webhook with a delivered, a pending and a dead delivery."""
    webhook = service.webhooks.add(url="https://receiver.example/events").webhook
    errors = [None, "the receiver answered 500", "connect: connection refused"]
    feed_has_caught_up(service)
    bound = service.bind(phone_a="9188067751", phone_b="9188067752", pool_number=POOL, expire_s=3_600, mode="AXB")
    service.unbind(bound.id, reason="order cancelled")
    feed_has_caught_up(service)
    deliveries.fan_out(service, webhook.id)
    batch = deliveries.lease(service, webhook.id, limit=3)
    assert batch is not None
    results = [
        Result(
            delivery=delivery,
            status=None if index == 2 else 500 if error else 204,
            error=error,
            retry_s=None if index == 2 else 300.0,
        )
        for index, (delivery, error) in enumerate(zip(batch.deliveries, errors, strict=True))
    ]
    deliveries.record(service, results)
    return webhook


def add_holds(service: BindingService, day: Day) -> None:
    """Put a hold for each cause that a page explains."""
    now = service.runtime.database.clock()
    caller = service.runtime.caller

    def work(tx: Transaction) -> None:
        phones = (Phone("9188067761"), Phone("9188067762"))
        holds.hold_orphan(
            tx,
            caller,
            phones=phones,
            scope="default",
            app_id=day.ride.app_id,
            bind_id="4711",
            origin_id=None,
            held_until=now + timedelta(hours=2),
        )
        holds.hold_refused(tx, day.failed, caller, now, just_unbound=False)

    service.runtime.database.write(work)


def _record_export(harness: ServiceHarness, actor: str, view: str, reason: str | None) -> None:
    """Record an export in the access log, without a file."""
    log = harness.service.as_caller(actor=actor, request_id="req-119").access_log
    export_id = log.start_export(view=view, filters={}, format="csv", reason=reason)
    log.finish_export(
        export_id, row_count=42, sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    )


def _bind_until_reuse(harness: ServiceHarness, bind: Any, number: str) -> Binding:
    """Bind other pairs until one gets the middle number, and return that binding."""
    for index in range(8):
        binding: Binding = bind(
            f"91880678{index:02}", f"91880679{index:02}", f"order-{1_020 + index}", expire_s=2_400
        )
        if binding.middle_number_a == number:
            return binding
        harness.clock.advance(15)
    raise AssertionError("the simulator did not use the number again")
