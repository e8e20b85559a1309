"""The client of the provider's API: sign a call, send it once, and classify the response.

The classification of responses (docs/reference/provider-api.md#5-how-an-answer-is-classified) belongs here. The
provider's clock is in `clock`, sockets are in `http_transport`, field names in `wire`, status codes in `statuses`.
Invariant: no phone, key or secret appears in a log line, a reason or an exception.

Which responses are believed:

- Only HTTP 200 with an envelope can be a success.
- A definite refusal needs an envelope with a documented status under HTTP 200, 400, 401 or 403. Other 4xx come
  from gateways, some of them after the request was passed on; under 5xx the provider itself does not know. Both
  are unknown, with any status in the envelope.
- Every other response is unknown too.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from bindings import http_transport, telemetry
from bindings.failpoints import hit
from bindings.http_transport import NotSent, Reply, Unknown
from bindings.provider import signing, statuses, wire
from bindings.provider.circuit import CircuitBreaker, Circuits, describe
from bindings.provider.clock import ProviderClock
from bindings.provider.outcome import BindSucceeded, Refused, UnbindNotFound, UnbindSucceeded

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from datetime import tzinfo

    from bindings.domain.binding import BindRequest
    from bindings.provider.outcome import BindOutcome, PageOutcome, PoolsOutcome, UnbindOutcome

    CallObserver = Callable[[str, str, float], None]

_log = logging.getLogger(__name__)

TOO_LATE = "too late to send: this process was paused, or its database was slow; the provider was not called"
_OK = 200
_DEFINITE_REFUSALS = frozenset({200, 400, 401, 403})

Data = TypeVar("Data")
Outcome = TypeVar("Outcome", bound="BindOutcome | UnbindOutcome | PageOutcome | PoolsOutcome")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """An answer of the provider: its envelope, and the HTTP response that carried it."""

    envelope: wire.Envelope
    reply: Reply


class ProviderClient:
    """Calls the provider with one account. Thread-safe, and safe across fork: calls share no connection.

    `path_prefix` stands between `base_url` and the path of each call. `timeout_s` bounds each call as a whole;
    `zone` is the time zone of the provider's times. `tls` replaces the trusted certificate authorities (with a
    private one, for instance). `wall` and `monotonic` are the clocks, in seconds. Creating a client opens no
    connection.

    Every call returns its outcome and raises nothing. Each call records its outcome in its own one of `circuits`;
    the caller decides whether to call while that circuit is open. `clock` decides what Date headers mean for the
    timestamps; with `ignore_date`, nothing.
    """

    def __init__(
        self,
        *,
        base_url: str,
        path_prefix: str,
        api_key: str,
        api_secret: str,
        timeout_s: float,
        zone: tzinfo,
        tls: ssl.SSLContext | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        ignore_date: bool = False,
    ) -> None:
        self.circuits = Circuits(monotonic=monotonic)
        self.on_call: CallObserver | None = None  # called after every call: its name, outcome label, seconds
        self._base_url = base_url.rstrip("/") + path_prefix
        self._address = _server_attributes(base_url)
        self._api_key = api_key
        self._api_secret = api_secret
        self._timeout_s = timeout_s
        self._zone = zone
        uses_tls = self._base_url.lower().startswith("https:")
        self._tls = (tls or http_transport.tls_context()) if uses_tls else None
        self.clock = ProviderClock(wall=wall, monotonic=monotonic, ignore_date=ignore_date)
        self._monotonic = monotonic
        self._closed = False

    def bind(self, request: BindRequest, *, send_before: float) -> BindOutcome:
        """Request a binding, once. Not safe to repeat for the same intent: the binding may have been created.

        `send_before` is a reading of the monotonic clock, in seconds; after it nothing is sent. It is checked
        after signing: if the process is paused after the check, it sends a timestamp that the provider refuses as
        too old. `sent` and `answered` of the outcome are readings of the same clock.
        """
        body = wire.bind_body(request)
        return self._call("bind", self.circuits.bind, wire.BIND_PATH, body, _bind_outcome, send_before=send_before)

    def unbind(self, *, app_id: str, bind_id: str) -> UnbindOutcome:
        """End a binding. Safe to repeat: the second time the outcome is `UnbindNotFound`."""
        body = wire.unbind_body(wire.UnbindRequest(app_id=app_id, bind_id=bind_id))
        return self._call("unbind", self.circuits.unbind, wire.UNBIND_PATH, body, _unbind_outcome)

    def page(self, *, app_id: str | None, current: int, size: int) -> PageOutcome:
        """Read one page of the list of an application, or of the account (None); `current` counts from 1.

        `size` is at most 100. Safe to repeat; not retried here. Rows that do not match the documents are the odd
        rows of the page.
        """
        body = wire.page_body(wire.PageRequest(app_id=app_id, current=current, size=size))
        outcome_of = partial(_query_outcome, read=partial(wire.read_rows, zone=self._zone, current=current))
        return self._call("page", self.circuits.page, wire.PAGE_PATH, body, outcome_of, rows=size)

    def pools(self, *, current: int, size: int) -> PoolsOutcome:
        """Read one page of the account's pools; `current` counts from 1. Safe to repeat. Some accounts lack it."""
        body = wire.pools_body(wire.PoolsRequest(current=current, size=size))
        outcome_of = partial(_query_outcome, read=wire.read_pool_list)
        return self._call("pools", self.circuits.pools, wire.POOLS_PATH, body, outcome_of, rows=size)

    def close(self) -> None:
        """Send nothing from now on; calls in progress end by themselves. Safe to repeat."""
        self._closed = True

    def _call(
        self,
        name: str,
        circuit: CircuitBreaker,
        path: str,
        body: bytes,
        outcome_of: Callable[[_Answer | NotSent | Unknown], Outcome],
        *,
        rows: int = 0,
        send_before: float = math.inf,
    ) -> Outcome:
        """Send one request, and return its outcome, which is recorded under the name of the call."""
        started_at = self._monotonic()
        with telemetry.client_span(f"provider {name}") as span:
            response = self._post(path, body, rows=rows, send_before=send_before)
            outcome = outcome_of(response)
            http_status = (
                response.reply.http_status
                if isinstance(response, _Answer)
                else getattr(response, "http_status", None)
            )
            span.set_standard(self._address | {"url.template": path, "http.response.status_code": http_status})
            span.set(outcome=outcome.label, provider_status=getattr(outcome, "status", None))
            if isinstance(outcome, NotSent | Unknown):
                span.fail(outcome.label)
            return self._record(name, circuit, started_at, outcome)

    def _post(
        self, path: str, body: bytes, *, rows: int = 0, send_before: float = math.inf
    ) -> _Answer | NotSent | Unknown:
        if self._closed:
            return NotSent(reason="the client is closed")
        deadline = self._monotonic() + self._timeout_s
        stamp = self.clock.timestamp()
        headers = signing.headers(api_key=self._api_key, api_secret=self._api_secret, timestamp=stamp.seconds)
        # Sign, then check, in this order: a process that is paused between the two sends nothing, and one that is
        # paused after them sends a timestamp taken before `send_before`. Never sign again for this call.
        if self._monotonic() > send_before:
            return NotSent(reason=TOO_LATE)
        if path == wire.BIND_PATH:
            hit("bind.before_send")
        response = http_transport.post(
            self._base_url + path,
            headers=headers,
            body=body,
            deadline=deadline,
            monotonic=self._monotonic,
            tls=self._tls,
            max_body_bytes=wire.max_reply_bytes(rows),
        )
        if not isinstance(response, Reply):
            return response
        secrets = (self._api_key, self._api_secret, headers[signing.SIGN_HEADER])
        envelope = _envelope(response, secrets)
        if isinstance(envelope, Unknown):
            return envelope
        self.clock.observe(response, envelope.status, stamp)
        return _Answer(envelope=envelope, reply=response)

    def _record(self, call: str, circuit: CircuitBreaker, started_at: float, outcome: Outcome) -> Outcome:
        was_closed = circuit.cause is None
        circuit.record(outcome)
        with suppress(Exception):  # of a log handler or exporter of the host program: the outcome must not be lost
            self._report(call, outcome, self._monotonic() - started_at, circuit.cause if was_closed else None)
        return outcome

    def _report(self, call: str, outcome: Outcome, duration_s: float, opened_by: Refused | Unknown | None) -> None:
        if opened_by is not None:
            _log.warning("the circuit of the call %s opens: %s", call, describe(opened_by))
        status = getattr(outcome, "status", None)
        result = outcome.label if status is None else f"{outcome.label} {status}"
        _log.info("%s: %s in %.3f s", call, result, duration_s)
        telemetry.record_seconds("bindings.provider_call", duration_s, {"call": call, "outcome": outcome.label})
        if self.on_call is not None:
            self.on_call(call, outcome.label, duration_s)


def _bind_outcome(answer: _Answer | NotSent | Unknown) -> BindOutcome:
    if not isinstance(answer, _Answer):
        return answer
    if answer.envelope.status != statuses.SUCCESS:
        return _refused_or_unknown(answer)
    try:
        bound = wire.read_bound(answer.envelope.data)
    except wire.Malformed as error:
        return _incomplete(error, answer)
    # Whether the middle numbers fit the requested mode is not checked: a contradiction is drift, found by
    # comparing with the provider's list, and no reason to lose a binding that was created.
    return BindSucceeded(
        bind_id=bound.bind_id,
        middle_number_a=bound.middle_number_a,
        middle_number_b=bound.middle_number_b,
        sent=answer.reply.sent,
        answered=answer.reply.answered,
    )


def _unbind_outcome(answer: _Answer | NotSent | Unknown) -> UnbindOutcome:
    if not isinstance(answer, _Answer):
        return answer
    if answer.envelope.status == statuses.SUCCESS:
        return UnbindSucceeded()
    if answer.envelope.status == statuses.NOT_FOUND:
        return UnbindNotFound(status=answer.envelope.status)
    return _refused_or_unknown(answer)


def _query_outcome(
    answer: _Answer | NotSent | Unknown, read: Callable[[Any], Data]
) -> Data | Refused | NotSent | Unknown:
    """Return the outcome of a query; that of a success is its data, parsed by `read`."""
    if not isinstance(answer, _Answer):
        return answer
    if answer.envelope.status != statuses.SUCCESS:
        return _refused_or_unknown(answer)
    try:
        return read(answer.envelope.data)
    except wire.Malformed as error:
        return _incomplete(error, answer)


def _envelope(reply: Reply, secrets: Iterable[str]) -> wire.Envelope | Unknown:
    """Return the envelope, or `Unknown` if its status cannot be believed under this HTTP status."""
    try:
        envelope = wire.read_envelope(reply.body, secrets=secrets)
    except wire.Malformed as error:
        reason = f"HTTP {reply.http_status} without an envelope: {error}"
        return Unknown(
            reason=reason, http_status=reply.http_status, sent=reply.sent, retry_after_s=reply.retry_after_s
        )
    is_refusal = statuses.refusal(envelope.status) is not None
    if reply.http_status == _OK or (is_refusal and reply.http_status in _DEFINITE_REFUSALS):
        return envelope
    return Unknown(
        reason=f"HTTP {reply.http_status}",
        status=envelope.status,
        http_status=reply.http_status,
        sent=reply.sent,
        retry_after_s=reply.retry_after_s,
    )


def _refused_or_unknown(answer: _Answer) -> Refused | Unknown:
    """Return the outcome of a status other than success: `Refused` only for a documented refusal."""
    status = answer.envelope.status
    refusal = statuses.refusal(status)
    if refusal is None:
        return Unknown(reason=statuses.meaning(status), status=status, sent=answer.reply.sent)
    return Refused(refusal=refusal, status=status, reason=answer.envelope.reason)


def _incomplete(error: wire.Malformed, answer: _Answer) -> Unknown:
    reason = f"success without its data: {error}"
    return Unknown(reason=reason, status=answer.envelope.status, sent=answer.reply.sent)


def _server_attributes(base_url: str) -> dict[str, str | int | None]:
    """Return what a trace says of the server; without its address if the URL names none, which is not called."""
    method: dict[str, str | int | None] = {"http.request.method": "POST"}
    try:
        address = urlsplit(base_url)
        port = address.port or {"http": 80, "https": 443}[address.scheme.lower()]
    except (ValueError, KeyError):
        return method
    return method | {"server.address": address.hostname, "server.port": port}
