"""Sending events to webhooks: signed, at least once, and no receiver waits for another.

Each webhook with work has a worker: it turns new events into deliveries, leases what is due, sends a few at a
time, and records what came of it. A delivery is recorded only after the receiver answered, so that a sender
which dies sends again and never forgets. A worker stops at the first failure, and a receiver that took nothing is
left alone for a moment; one that hangs keeps its own worker busy, not the pass, which goes on with the others.

What is sent is thin: no phone and no middle number, and nothing else that a receiver could not ask for.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from standardwebhooks.webhooks import Webhook as Signer
from uuid_utils import uuid7

from bindings import http_transport
from bindings.domain.binding import EventKind
from bindings.http_transport import Reply
from bindings.webhooks.endpoints import LEASE_S, Result

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from typing import Self

    from bindings.domain.binding import Event
    from bindings.jobs.job import Job
    from bindings.service import BindingService
    from bindings.webhooks.endpoints import Batch, Delivery, Target

_log = logging.getLogger(__name__)

RETRIES_S = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
JITTER = 0.15  # of a wait, so that what failed together does not come back together
LONGEST_WAIT_S = 86_400.0  # whatever a receiver's Retry-After says
ATTEMPT_S = 10.0  # one try, from the lookup of the name to the last byte
MAX_RESPONSE_BYTES = 4_096  # bytes of an answer's body; the status tells it all
WORKERS = 8  # webhooks at a time
REQUESTS_PER_WEBHOOK = 4  # requests at a time to one webhook
BATCH = 4 * REQUESTS_PER_WEBHOOK
WORK_S = 5.0  # a worker begins no request after this
PASS_S = 0.5  # a pass waits no longer for its workers, or the watchdog would take it for stalled
BACKOFF_AFTER_FAILURE_S = 5.0  # a receiver that has just taken nothing
PRUNE_EVERY_S = 3_600.0
RESULTS = ("delivered", "failed", "dead")

_NAMES = {
    EventKind.HELD: "hold.began",
    EventKind.HOLD_ENDED: "hold.ended",
    EventKind.POOL_LOW: "pool.low",
}
_TOLD_OF_POOLS = ("app_id", "pool_number", "why", "live", "capacity")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliverResult:
    """What one pass did; `finished` is False where a worker ran out of time with more to send."""

    fanned_out: int = 0
    delivered: int = 0
    failed: int = 0
    dead: int = 0
    finished: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookResponse:
    """What a receiver answered to one request: a status, or why there was none; `error` None means it took it."""

    status: int | None
    error: str | None
    retry_after_s: float | None
    elapsed_s: float


def deliver_pending(service: BindingService, *, lease_s: float = LEASE_S) -> DeliverResult:
    """One whole pass: send everything that is due, wait for every answer, and tell what was done."""
    with WebhookSender(service, lease_s=lease_s) as sender:
        return sender.run(wait_s=None)


def job(service: BindingService, *, count: Callable[[str, int], None] | None = None) -> Job:
    """The pass for the scheduler; `count` is told each result and how often. Every replica may have one."""
    from bindings.jobs.job import Job

    sender = WebhookSender(service)

    def run() -> DeliverResult:
        done = sender.run()
        if count is not None:
            for result in RESULTS:
                count(result, getattr(done, result))
        return done

    interval_s = max(service.settings.sweep_interval_s, 1.0)
    return Job(name="deliver", interval_s=interval_s, run=run, stop=sender.stop)


def send_test(service: BindingService, webhook_id: str) -> WebhookResponse:
    """Send a signed `{"type": "test"}` now, once, and tell the answer; to a disabled webhook too."""
    target = service.webhooks.target(webhook_id)
    body = _json({"type": "test", "timestamp": _instant(datetime.now(UTC)), "data": {}})
    return post(target, str(uuid7()), body, http_transport.tls_context())


class WebhookSender:
    """Sends what is due, pass by pass. A context manager; `stop` ends it within one try's time.

    Only one pass may run at a time. What a pass did not wait for goes on behind it, and is counted by a later
    one.
    """

    def __init__(self, service: BindingService, *, lease_s: float = LEASE_S) -> None:
        self._hooks = service.webhooks
        self._lease_s = lease_s
        self._tls = http_transport.tls_context()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="bindings-deliver")
        self._running: dict[str, Future[Counter[str]]] = {}
        self._left_alone_until: dict[str, float] = {}
        self._prune_at = float("-inf")
        self._stopping = threading.Event()

    def run(self, *, wait_s: float | None = PASS_S) -> DeliverResult:
        """One pass: a worker for each webhook with work that has none; waits up to `wait_s` (None: for all)."""
        now = time.monotonic()
        if now >= self._prune_at:
            self._hooks.prune()
            self._prune_at = now + PRUNE_EVERY_S
        for webhook_id in self._hooks.with_work():
            alone = self._left_alone_until.get(webhook_id, now) > now
            if webhook_id not in self._running and not alone and not self._stopping.is_set():
                self._running[webhook_id] = self._pool.submit(self._work, webhook_id)
        wait(self._running.values(), wait_s)
        return self._collect()

    def stop(self) -> None:
        """Begin no request from now on and wait for those that are under way. Safe to repeat."""
        self._stopping.set()
        self._pool.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _collect(self) -> DeliverResult:
        total: Counter[str] = Counter()
        for webhook_id, worker in list(self._running.items()):
            if not worker.done():
                continue
            del self._running[webhook_id]
            error = worker.exception()
            counts = Counter[str]() if error is not None else worker.result()
            total.update(counts)
            if error is not None:  # the text of an exception may carry a value
                _log.error("webhook %s: the sender failed with %s", webhook_id, type(error).__name__)
            if error is not None or (not counts["delivered"] and (counts["failed"] or counts["dead"])):
                self._left_alone_until[webhook_id] = time.monotonic() + BACKOFF_AFTER_FAILURE_S
        unfinished = total.pop("unfinished", 0)
        return DeliverResult(**total, finished=not unfinished)

    def _work(self, webhook_id: str) -> Counter[str]:
        """Bring one webhook up to date, for as long as it takes what it is sent and there is time."""
        counts: Counter[str] = Counter()
        until = time.monotonic() + WORK_S
        with ThreadPoolExecutor(REQUESTS_PER_WEBHOOK, thread_name_prefix="bindings-deliver-lane") as lanes:
            while not self._out_of_time(until):
                fanned_out, more = self._hooks.fan_out(webhook_id)
                counts["fanned_out"] += fanned_out
                batch = self._hooks.take(webhook_id, limit=BATCH, lease_s=self._lease_s)
                if batch is None and not more:
                    return counts
                if batch is not None and not self._send(batch, lanes, until, counts):
                    return counts
        counts["unfinished"] += 1
        return counts

    def _send(self, batch: Batch, lanes: ThreadPoolExecutor, until: float, counts: Counter[str]) -> bool:
        """Send a batch, a few at a time; after a failure, or out of time, the rest is given back. False: stop."""
        for begin in range(0, len(batch.deliveries), REQUESTS_PER_WEBHOOK):
            if self._out_of_time(until):
                self._hooks.give_back(batch.deliveries[begin:])
                return True
            some = batch.deliveries[begin : begin + REQUESTS_PER_WEBHOOK]
            results = list(lanes.map(lambda each: self._attempt(batch.target, each), some))
            self._hooks.record(results)
            counts.update(map(_outcome, results))
            if any(result.error is not None for result in results):
                self._hooks.give_back(batch.deliveries[begin + REQUESTS_PER_WEBHOOK :])
                return False
        return True

    def _out_of_time(self, until: float) -> bool:
        return self._stopping.is_set() or time.monotonic() >= until

    def _attempt(self, target: Target, delivery: Delivery) -> Result:
        answer = post(target, delivery.id, body_of(delivery.event), self._tls)
        again_s = None if answer.error is None else _again_s(delivery.attempts, answer.retry_after_s)
        result = Result(delivery=delivery, status=answer.status, error=answer.error, again_s=again_s)
        outcome = _outcome(result)
        _log.log(
            logging.DEBUG if outcome == "delivered" else logging.WARNING,
            "delivery %s: %s (%s) in %.3f s, try %d",
            delivery.id,
            outcome,
            answer.error or answer.status,
            answer.elapsed_s,
            delivery.attempts,
        )
        if result.gone:
            _log.warning("webhook %s: disabled, the receiver answered 410", target.webhook_id)
        return result


def _outcome(result: Result) -> str:
    if result.error is None:
        return "delivered"
    return "dead" if result.again_s is None else "failed"


def _again_s(attempts: int, retry_after_s: float | None) -> float | None:
    """Seconds to the next try after this many, not sooner than the receiver asks for; None: give up."""
    if attempts > len(RETRIES_S):
        return None
    planned = RETRIES_S[attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- to keep out of step
    return max(planned, retry_after_s or 0.0)


def post(target: Target, message_id: str, body: bytes, tls: ssl.SSLContext) -> WebhookResponse:
    """Sign and send one message; never raises, never tries again. Only a 2xx means that it was taken."""
    began = time.monotonic()
    reply = http_transport.post(
        target.url,
        headers=_headers(target.secrets, message_id, body),
        body=body,
        deadline=began + ATTEMPT_S,
        monotonic=time.monotonic,
        tls=tls,
        max_body_bytes=MAX_RESPONSE_BYTES,
    )
    elapsed_s = time.monotonic() - began
    if not isinstance(reply, Reply):
        return WebhookResponse(status=None, error=reply.reason, retry_after_s=None, elapsed_s=elapsed_s)
    status = reply.http_status
    error = None if 200 <= status < 300 else f"the receiver answered {status}"  # noqa: PLR2004 -- what success is
    waits = _retry_after_s(reply.retry_after)
    return WebhookResponse(status=status, error=error, retry_after_s=waits, elapsed_s=elapsed_s)


def _headers(secrets: Sequence[str], message_id: str, body: bytes) -> dict[str, str]:
    now = datetime.now(UTC)
    signatures = (Signer(secret).sign(message_id, now, body.decode()) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
        "Content-Type": "application/json",
        "User-Agent": "bindings",
    }


def _retry_after_s(header: str | None) -> float | None:
    """The seconds that a receiver asks for, as a number or as a date; None where it asks for nothing sensible."""
    if header is None:
        return None
    try:
        seconds = float(header) if header.isdecimal() else parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


def type_of(kind: EventKind) -> str:
    """The `type` under which a kind of event is sent."""
    return _NAMES.get(kind, f"binding.{kind}")


def body_of(event: Event) -> bytes:
    """What is sent for an event: the same bytes on every try, and no phone or middle number."""
    data: dict[str, Any] = {
        "binding_id": event.binding_id,
        "sequence": event.sequence,
        "kind": event.kind,
        "at": _instant(event.at),
        "cursor": event.cursor,
    }
    if event.kind is EventKind.POOL_LOW:
        data |= {name: event.detail[name] for name in _TOLD_OF_POOLS if name in event.detail}
    if event.kind is EventKind.EXPIRES_SOON and "expires_at" in event.detail:  # not in those of earlier versions
        data["expires_at"] = _instant(datetime.fromisoformat(event.detail["expires_at"]))
    return _json({"type": type_of(event.kind), "timestamp": data["at"], "data": data})


def _json(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
