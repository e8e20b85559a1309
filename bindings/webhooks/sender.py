"""Sends events to webhooks: signed, at least once, and no receiver waits for another.

Each webhook with work has a worker: it turns new events into deliveries, leases those that are due, sends a few at
a time, and records the results. A result is recorded only after the receiver answered, so that a sender that is
killed sends again and loses nothing. A worker stops at the first failure, and a receiver that accepted nothing is
not tried again for a few seconds. Which worker may start is decided in `lanes`, what is sent in `messages`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from uuid_utils import uuid7

from bindings import errors, http_transport, telemetry
from bindings.domain.addresses import is_public
from bindings.extras import require_extra
from bindings.fork_safety import ProcessMark
from bindings.http_transport import Reply
from bindings.jobs.failure_log import FailureLog
from bindings.jobs.job import Job
from bindings.store import deliveries, webhooks
from bindings.store.deliveries import Result
from bindings.store.events import TRACEPARENT
from bindings.validation import requests as validation
from bindings.webhooks import lanes, messages
from bindings.webhooks.lanes import Lanes, Pace

with require_extra("server"):
    from standardwebhooks.webhooks import Webhook as Signer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from typing import Self

    from bindings.lifecycle.clock_monitor import ClockMonitor
    from bindings.lifecycle.runtime import Runtime
    from bindings.settings import Network
    from bindings.store.database import Database, Transaction
    from bindings.store.deliveries import Batch, Delivery
    from bindings.store.webhooks import Target

_log = logging.getLogger(__name__)

RETRIES_S = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
JITTER = 0.15  # of a wait, so that deliveries that failed together are not retried together
MAX_WAIT_S = 86_400.0  # also if a receiver's Retry-After is longer
ATTEMPT_TIMEOUT_S = 10.0  # one attempt, from name resolution to the last byte
MAX_RESPONSE_BYTES = 4_096  # of the body; only the status matters
REQUESTS_PER_WEBHOOK = 4  # at a time
BATCH = 4 * REQUESTS_PER_WEBHOOK
WORKER_BUDGET_S = 5.0  # a worker starts no request after this
RUN_WAIT_S = 0.5  # a run waits no longer for its workers, or the watchdog would take the job for stalled
BACKOFF_AFTER_FAILURE_S = 5.0  # for a receiver that has just accepted nothing
LONGEST_BACKOFF_S = 300.0  # if the receiver names a time for all messages
OVERLOAD_STATUSES = frozenset({429, 503})  # a Retry-After with one of these is for every message
LEASE_S = 60.0  # longer than a sender works on a batch
FAN_OUT = 500  # events in one transaction
PRUNE_INTERVAL_S = 3_600.0
PRUNED = 1_000  # deliveries in one transaction
DELIVERED_KEPT_S = 7 * 86_400.0
DEAD_KEPT_S = 30 * 86_400.0
RESULTS = ("delivered", "failed", "dead")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliverResult:
    """What one run did; `finished` is False if a worker ran out of time with more to send."""

    fanned_out: int = 0
    delivered: int = 0
    failed: int = 0
    dead: int = 0
    finished: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookResponse:
    """A receiver's response: its status, or the error; `error` is None if it accepted the message."""

    status: int | None
    error: str | None
    retry_after_s: float | None
    elapsed_s: float


def deliver_pending(runtime: Runtime, *, lease_s: float = LEASE_S) -> DeliverResult:
    """Send everything that is due, wait for every response, and return the counts."""
    with WebhookSender(runtime, lease_s=lease_s) as sender:
        return sender.run(wait_s=None)


def job(runtime: Runtime, *, on_results: Callable[[str, int], None] | None = None) -> Job:
    """Return the job `deliver` for the scheduler; every replica may have it.

    `on_results` is called with each result (delivered, failed, dead) and its count after each run.
    """
    sender = WebhookSender(runtime)

    def run() -> DeliverResult:
        with telemetry.job_span("deliver"):
            counts = sender.run()
        if on_results is not None:
            for result in RESULTS:
                on_results(result, getattr(counts, result))
        return counts

    interval_s = max(runtime.settings.sweep_interval_s, 1.0)
    return Job(name="deliver", interval_s=interval_s, run=run, stop=sender.stop)


def send_test(runtime: Runtime, webhook_id: str) -> WebhookResponse:
    """Send a signed `{"type": "test"}` once, also to a disabled webhook, and return the response."""
    checked_id = validation.identifier(webhook_id, "webhook")
    now = runtime.clocks.trusted_instant(runtime.database.clock())
    target = runtime.database.read(webhooks.target, checked_id, now)
    if target is None:
        raise errors.NotFound("there is no such webhook")
    signed_at = _signing_time(runtime.database, runtime.clocks)
    return post(
        target,
        str(uuid7()),
        messages.of_test(signed_at),
        http_transport.tls_context(),
        signed_at=signed_at,
        networks=runtime.settings.webhook_networks,
    )


def _signing_time(database: Database, clocks: ClockMonitor) -> datetime:
    """Return the time of a signature by the server's clock, as last read; without a server by this host's.

    A receiver refuses a signature that is minutes off. The clock that a test moves is not used on SQLite: a
    receiver compares with the clock of its host.
    """
    return clocks.estimated_instant() if database.dialect.server_clock else datetime.now(UTC)


def prune(database: Database) -> int:
    """Delete up to `PRUNED` deliveries that were delivered 7 days ago or given up 30 days ago; return how many."""
    return database.write(
        lambda tx: deliveries.prune(tx, delivered_s=DELIVERED_KEPT_S, dead_s=DEAD_KEPT_S, limit=PRUNED)
    )


class WebhookSender:
    """Sends what is due, run by run. A context manager; `stop` ends it within the time of one attempt.

    Only one run at a time. A worker that a run did not wait for continues, and a later run counts its results.
    """

    def __init__(self, runtime: Runtime, *, lease_s: float = LEASE_S) -> None:
        self._process = ProcessMark()
        self._database = runtime.database
        self._caller = runtime.caller
        self._networks = runtime.settings.webhook_networks
        self._clocks = runtime.clocks
        self._lease_s = lease_s
        self._tls = http_transport.tls_context()
        self._lanes = Lanes(self._work)
        self._backoff_until: dict[str, float] = {}
        self._failures = FailureLog(_log, by_subject=True)
        self._prune_at = float("-inf")
        self._stopping = threading.Event()

    def run(self, *, wait_s: float | None = RUN_WAIT_S) -> DeliverResult:
        """Offer each webhook with work to the lanes; wait up to `wait_s` (None: until all of it is done).

        Returns the counts of the workers that have ended. Raises `ForkedProcessError` in a forked child.
        """
        self._process.check("this webhook sender", "make a new one in this process")
        now = time.monotonic()
        # One batch in a run: nothing is sent meanwhile. While a batch is full, the next run deletes another.
        if now >= self._prune_at and prune(self._database) < PRUNED:
            self._prune_at = now + PRUNE_INTERVAL_S
        due_at = self._due_at(self._database.clock())
        with_work = self._database.read(
            deliveries.webhooks_with_work, self._database.now if due_at is None else due_at
        )
        if not self._stopping.is_set():
            self._lanes.offer(id_ for id_ in with_work if self._backoff_until.get(id_, now) <= now)
        self._lanes.wait(wait_s)
        return self._collect()

    def stop(self) -> None:
        """Start no more requests, and wait for those under way. Safe to repeat; without effect in a child."""
        if not self._process.is_this_process:
            return
        self._stopping.set()
        self._lanes.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _collect(self) -> DeliverResult:
        total: Counter[str] = Counter()
        for webhook_id, ended in self._lanes.take_ended():
            failed = isinstance(ended, Exception)
            if isinstance(ended, Exception):
                self._failures.failed(f"webhook {webhook_id}", ended)
            else:
                total.update(ended)
                failed = not ended["delivered"] and bool(ended["failed"] or ended["dead"])
            if failed:
                self._back_off(webhook_id, BACKOFF_AFTER_FAILURE_S)
        unfinished = total.pop("unfinished", 0)
        return DeliverResult(**total, finished=not unfinished)

    def _back_off(self, webhook_id: str, seconds: float) -> None:
        """Send nothing to this receiver for so long, or for longer if it was to wait already."""
        until = time.monotonic() + seconds
        self._backoff_until[webhook_id] = max(until, self._backoff_until.get(webhook_id, until))

    def _work(self, webhook_id: str) -> Counter[str]:
        """Send to one webhook what is due, until nothing is, it fails, or time is up."""
        counts: Counter[str] = Counter()
        until = time.monotonic() + WORKER_BUDGET_S
        with ThreadPoolExecutor(REQUESTS_PER_WEBHOOK, thread_name_prefix="bindings-request") as requests:
            while not self._out_of_time(until):
                fanned_out, more = self._fan_out(webhook_id)
                counts["fanned_out"] += fanned_out
                batch = self._lease(webhook_id)
                if batch is None and not more:
                    return counts
                if batch is not None and not self._send(batch, requests, until, counts):
                    return counts
        counts["unfinished"] += 1
        return counts

    def _send(self, batch: Batch, requests: ThreadPoolExecutor, until: float, counts: Counter[str]) -> bool:
        """Send a batch, a few at a time; release the unsent after a failure. Return False to stop."""
        unsent = batch.deliveries
        while unsent:
            if self._out_of_time(until):
                break
            silent = self._lanes.pace(batch.target.webhook_id) is Pace.SILENT
            size = 1 if silent else REQUESTS_PER_WEBHOOK
            results = self._attempt_all(batch.target, unsent[:size], requests)
            unsent = unsent[size:]
            self._record(results)
            counts.update(map(_outcome, results))
            if any(result.error is not None for result in results):
                self._release(unsent)
                return False
        self._release(unsent)
        return True

    def _attempt_all(
        self, target: Target, chunk: Sequence[Delivery], requests: ThreadPoolExecutor
    ) -> list[Result]:
        """Send these at the same time, and tell the lanes how the receiver answers."""
        attempts = [requests.submit(self._attempt, target, delivery) for delivery in chunk]
        late = wait(attempts, lanes.PROMPT_S).not_done
        if late:
            self._lanes.record(target.webhook_id, Pace.SLOW)
        results = [attempt.result() for attempt in attempts]
        answered = all(result.status is not None for result in results)
        self._lanes.record(target.webhook_id, Pace.PROMPT if not late else Pace.SLOW if answered else Pace.SILENT)
        return results

    def _fan_out(self, webhook_id: str) -> tuple[int, bool]:
        """Create deliveries of the next events; return how many, and True if there may be more events."""
        trusted = self._clocks.trusted_instant
        return self._database.write(
            lambda tx: deliveries.fan_out(tx, webhook_id, _new_id, limit=FAN_OUT, trusted=trusted)
        )

    def _lease(self, webhook_id: str) -> Batch | None:
        """Lease a batch that is due to this sender; None if nothing is."""

        def work(tx: Transaction) -> Batch | None:
            return deliveries.lease(
                tx,
                webhook_id,
                limit=BATCH,
                lease_s=self._lease_s,
                due_at=None if self._clocks.database_error is None else self._due_at(tx.instant()),
                trusted=self._clocks.trusted_instant,
            )

        return self._database.write(work)

    def _due_at(self, database_time: datetime) -> datetime | None:
        """Return the instant that stands for the database's clock while that is in doubt; None if it is not."""
        trusted = self._clocks.trusted_instant(database_time)
        return None if self._clocks.database_error is None else trusted

    def _release(self, unsent: Sequence[Delivery]) -> None:
        if unsent:
            self._database.write(lambda tx: deliveries.release(tx, unsent))

    def _record(self, results: Sequence[Result]) -> None:
        self._database.write(
            lambda tx: deliveries.record(tx, results, self._caller, trusted=self._clocks.trusted_instant)
        )

    def _out_of_time(self, until: float) -> bool:
        return self._stopping.is_set() or time.monotonic() >= until

    def _attempt(self, target: Target, delivery: Delivery) -> Result:
        event_trace = delivery.event.detail.get(TRACEPARENT)
        with telemetry.client_span("webhook deliver", parent=event_trace) as span:
            response = post(
                target,
                delivery.id,
                messages.body_of(delivery.event),
                self._tls,
                signed_at=_signing_time(self._database, self._clocks),
                networks=self._networks,
                traceparent=telemetry.traceparent() or event_trace,
            )
            span.set_standard({"http.request.method": "POST", "http.response.status_code": response.status})
            span.set(webhook_id=target.webhook_id, binding_id=delivery.event.binding_id, kind=delivery.event.kind)
            if response.error is not None:
                span.fail("no_answer" if response.status is None else str(response.status))
        retry_s = None if response.error is None else _retry_s(delivery.attempts, response.retry_after_s)
        result = Result(delivery=delivery, status=response.status, error=response.error, retry_s=retry_s)
        if response.status in OVERLOAD_STATUSES and response.retry_after_s is not None:
            self._back_off(target.webhook_id, min(response.retry_after_s, LONGEST_BACKOFF_S))
        with suppress(Exception):  # of a log handler of the host program: the result must not be lost
            self._report(result, response)
        return result

    def _report(self, result: Result, response: WebhookResponse) -> None:
        delivery, name = result.delivery, f"webhook {result.delivery.webhook_id}"
        _log.debug(
            "delivery %s: %s (%s) in %.3f s, attempt %d",
            delivery.id,
            _outcome(result),
            response.error or response.status,
            response.elapsed_s,
            delivery.attempts,
        )
        if response.error is None:
            self._failures.succeeded(name)
        else:
            self._failures.failed(name, response.error)
        if result.receiver_is_gone:
            _log.warning("%s: disabled, the receiver answered 410", name)


def _outcome(result: Result) -> str:
    if result.error is None:
        return "delivered"
    return "dead" if result.retry_s is None else "failed"


def _retry_s(attempts: int, retry_after_s: float | None) -> float | None:
    """Return the seconds to the next attempt, at least the receiver's Retry-After; None: give up."""
    if attempts > len(RETRIES_S):
        return None
    planned = RETRIES_S[attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- not for security
    return max(planned, retry_after_s or 0.0)


def post(
    target: Target,
    message_id: str,
    body: bytes,
    tls: ssl.SSLContext,
    *,
    signed_at: datetime,
    networks: Sequence[Network],
    traceparent: str | None = None,
) -> WebhookResponse:
    """Sign and send one message, once, and return the response; never raise. Only a 2xx means accepted.

    Connects to public addresses and to those of `networks` only, so that no URL leads to other hosts.
    """
    start = time.monotonic()
    headers = _headers(target.secrets, message_id, body, signed_at)
    reply = http_transport.post(
        target.url,
        headers=headers | ({TRACEPARENT: traceparent} if traceparent else {}),
        body=body,
        deadline=start + ATTEMPT_TIMEOUT_S,
        monotonic=time.monotonic,
        tls=tls,
        max_body_bytes=MAX_RESPONSE_BYTES,
        truncate=True,
        accepts=lambda address: is_public(address, networks),
    )
    elapsed_s = time.monotonic() - start
    if not isinstance(reply, Reply):
        return WebhookResponse(status=None, error=reply.reason, retry_after_s=None, elapsed_s=elapsed_s)
    status = reply.http_status
    error = None if 200 <= status < 300 else f"the receiver answered {status}"  # noqa: PLR2004 -- what success is
    retry_after_s = None if reply.retry_after_s is None else min(reply.retry_after_s, MAX_WAIT_S)
    return WebhookResponse(status=status, error=error, retry_after_s=retry_after_s, elapsed_s=elapsed_s)


def _headers(secrets: Sequence[str], message_id: str, body: bytes, signed_at: datetime) -> dict[str, str]:
    signatures = (Signer(secret).sign(message_id, signed_at, body.decode()) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(signed_at.timestamp())),
        "webhook-signature": " ".join(signatures),
        "Content-Type": "application/json",
        "User-Agent": "bindings",
    }


def _new_id() -> str:
    return str(uuid7())
