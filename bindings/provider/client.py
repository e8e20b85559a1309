"""The provider's calls: sign, send once, and say what the answer means.

Here lives the reading of an answer (design: lifecycle, "What an answer means") and the measuring of the
provider's clock. Sockets are in `transport`, field names in `wire`, status codes in `statuses`. No phone, no
key and no secret gets into a log line, a reason or an exception.

Which answers are believed:

- Only HTTP 200 with an envelope can be a success.
- A definite refusal needs an envelope with a status of the table under HTTP 200, 400, 401 or 403. Other 4xx
  come from gateways, some of them after the request was passed on; under 5xx the provider itself does not
  know. Both are unknown, whatever the envelope says.
- Everything else that was answered is unknown too.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from bindings import http_transport
from bindings.failpoints import hit
from bindings.http_transport import NotSent, Reply, Unknown
from bindings.provider import signing, statuses, wire
from bindings.provider.circuit import AccountCircuitBreaker
from bindings.provider.outcome import BindSucceeded, Refused, UnbindNotFound, UnbindSucceeded

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from datetime import tzinfo

    from bindings.domain.binding import BindRequest
    from bindings.provider.outcome import BindOutcome, PageOutcome, PoolsOutcome, UnbindOutcome

    Answer = Reply | NotSent | Unknown
    Watch = Callable[[str, str, float], None]

_log = logging.getLogger(__name__)

_OK = 200
_DEFINITE_REFUSALS = frozenset({200, 400, 401, 403})
_SKEW_WORTH_CORRECTING_S = 2.0

Listed = TypeVar("Listed")
Outcome = TypeVar("Outcome", bound="BindOutcome | UnbindOutcome | PageOutcome")
OutcomeT = TypeVar("OutcomeT")


@dataclass(frozen=True, slots=True)
class _Skew:
    seconds: float
    error: float


class ProviderClient:
    """Calls one account of the provider; thread-safe, and safe across fork: calls share no connection.

    `timeout_s` bounds each call as a whole; `zone` is the one that the provider's times are written in.
    `tls` replaces the trusted certificate authorities (a private one, for instance). `wall` and `monotonic`
    are the clocks, in seconds. Making a client connects to nothing.

    Every call returns its outcome and raises nothing. `circuit` has seen the outcome of every call; whether
    to call while it is open is the caller's decision (`circuit.check()`).
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        api_secret: str,
        timeout_s: float,
        zone: tzinfo,
        tls: ssl.SSLContext | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.circuit = AccountCircuitBreaker(monotonic=monotonic)
        self.on_call: Watch | None = None  # told of every call: which, what came of it, and the seconds it took
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._api_secret = api_secret
        self._timeout_s = timeout_s
        self._zone = zone
        over_tls = self._base_url.lower().startswith("https:")
        self._tls = (tls or http_transport.tls_context()) if over_tls else None
        self._wall = wall
        self._monotonic = monotonic
        self._skew: _Skew | None = None  # replaced as a whole, so that it needs no lock
        self._closed = False

    @property
    def skew_s(self) -> float | None:
        """The provider's clock minus this host's, in seconds, from the newest answer; None before one.

        Good to half a second (the header has whole ones) plus half of the time that the answer took.
        """
        return None if self._skew is None else self._skew.seconds

    def bind(self, request: BindRequest, *, send_before: float) -> BindOutcome:
        """Ask for a binding, once. Never repeat this for the same intent: it may have been made.

        `send_before` is a reading of the monotonic clock, in seconds; past it nothing is sent. It is checked
        after signing: whatever pauses the process after the check then sends a stamp that the provider
        refuses as too old. `sent` and `answered` of the outcome are readings of the same clock.
        """
        began = self._monotonic()
        answer = self._post(wire.BIND_PATH, wire.bind_body(request), send_before=send_before)
        return self._conclude("bind", began, _bind_outcome(answer))

    def unbind(self, *, app_id: str, bind_id: str) -> UnbindOutcome:
        """End a binding. Safe to repeat: the second time it is `Missing`."""
        began = self._monotonic()
        asked = wire.UnbindRequest(app_id=app_id, bind_id=bind_id)
        answer = self._post(wire.UNBIND_PATH, wire.unbind_body(asked))
        return self._conclude("unbind", began, _unbind_outcome(answer))

    def page(self, *, app_id: str, current: int, size: int) -> PageOutcome:
        """Read one page of the provider's list; `current` counts from 1, `size` is at most 100.

        Safe to repeat, and not repeated here. A page with a single malformed row is `Unknown`.
        """
        began = self._monotonic()
        asked = wire.PageRequest(app_id=app_id, current=current, size=size)
        answer = self._post(wire.PAGE_PATH, wire.page_body(asked))
        return self._conclude("page", began, _read(answer, partial(wire.read_rows, zone=self._zone)))

    def pools(self, *, current: int, size: int) -> PoolsOutcome:
        """Read one page of the account's pools; `current` counts from 1. Safe to repeat.

        An account may lack this call, whatever it is then answered: the circuit is told of nothing.
        """
        began = self._monotonic()
        answer = self._post(wire.POOLS_PATH, wire.pools_body(wire.PoolsRequest(current=current, size=size)))
        return self._report("pools", began, _read(answer, wire.read_pool_list))

    def close(self) -> None:
        """Send nothing from now on; calls that are under way end by themselves. Safe to repeat."""
        self._closed = True

    def _post(self, path: str, body: bytes, *, send_before: float = math.inf) -> Answer:
        if self._closed:
            return NotSent(reason="the client is closed")
        deadline = self._monotonic() + self._timeout_s
        headers = signing.headers(api_key=self._api_key, api_secret=self._api_secret, timestamp=self._timestamp())
        # Sign, then check, in this order: a process that is paused between the two sends nothing, and one
        # that is paused after them sends a stamp made before `send_before`. Never sign again for this call.
        if self._monotonic() > send_before:
            return NotSent(reason="too late to send")
        if path == wire.BIND_PATH:
            hit("bind.before_send")
        answer = http_transport.post(
            self._base_url + path,
            headers=headers,
            body=body,
            deadline=deadline,
            monotonic=self._monotonic,
            tls=self._tls,
        )
        if isinstance(answer, Reply):
            self._measure(answer)
        return answer

    def _timestamp(self) -> int:
        """This host's time as the provider would tell it; a clock that is right is left alone."""
        skew = self._skew
        if skew is None or abs(skew.seconds) <= max(_SKEW_WORTH_CORRECTING_S, skew.error):
            return int(self._wall())
        return int(self._wall() + skew.seconds)

    def _measure(self, reply: Reply) -> None:
        stamped = _date(reply.date)
        if stamped is None:
            return
        half = (self._monotonic() - reply.sent) / 2
        # The header is cut to whole seconds: on average it lags by half of one.
        self._skew = _Skew(seconds=stamped + 0.5 - (self._wall() - half), error=0.5 + half)

    def _conclude(self, verb: str, began: float, outcome: Outcome) -> Outcome:
        self.circuit.record(outcome)
        return self._report(verb, began, outcome)

    def _report(self, verb: str, began: float, outcome: OutcomeT) -> OutcomeT:
        status = getattr(outcome, "status", None)
        said = type(outcome).__name__ if status is None else f"{type(outcome).__name__} {status}"
        took = self._monotonic() - began
        _log.info("%s: %s in %.3f s", verb, said, took)
        if self.on_call is not None:
            self.on_call(verb, type(outcome).__name__.lower(), took)
        return outcome


def _bind_outcome(answer: Answer) -> BindOutcome:
    if not isinstance(answer, Reply):
        return answer
    envelope = _envelope(answer)
    if isinstance(envelope, Unknown):
        return envelope
    if envelope.status != statuses.SUCCESS:
        return _refused_or_unknown(envelope, answer)
    try:
        bound = wire.read_bound(envelope.data)
    except wire.Malformed as fault:
        return _incomplete(fault, envelope, answer)
    # Equal or different middle numbers are taken as they come: a mode that contradicts them is drift, and
    # found by comparing, not a reason to forget a binding that was made.
    return BindSucceeded(
        bind_id=bound.bind_id,
        middle_number_a=bound.middle_number_a,
        middle_number_b=bound.middle_number_b,
        sent=answer.sent,
        answered=answer.answered,
    )


def _unbind_outcome(answer: Answer) -> UnbindOutcome:
    if not isinstance(answer, Reply):
        return answer
    envelope = _envelope(answer)
    if isinstance(envelope, Unknown):
        return envelope
    if envelope.status == statuses.SUCCESS:
        return UnbindSucceeded()
    if envelope.status == statuses.NOT_FOUND:
        return UnbindNotFound(status=envelope.status)
    return _refused_or_unknown(envelope, answer)


def _read(answer: Answer, read: Callable[[Any], Listed]) -> Listed | Refused | NotSent | Unknown:
    """What a query came to: its data, as `read` understands them."""
    if not isinstance(answer, Reply):
        return answer
    envelope = _envelope(answer)
    if isinstance(envelope, Unknown):
        return envelope
    if envelope.status != statuses.SUCCESS:
        return _refused_or_unknown(envelope, answer)
    try:
        return read(envelope.data)
    except wire.Malformed as fault:
        return _incomplete(fault, envelope, answer)


def _envelope(reply: Reply) -> wire.Envelope | Unknown:
    """The envelope, where its status may be believed under this HTTP status."""
    try:
        envelope = wire.read_envelope(reply.body)
    except wire.Malformed as fault:
        return Unknown(reason=f"HTTP {reply.http_status} without an envelope: {fault}", sent=reply.sent)
    refused = statuses.refusal(envelope.status) is not None
    if reply.http_status == _OK or (refused and reply.http_status in _DEFINITE_REFUSALS):
        return envelope
    return Unknown(reason=f"HTTP {reply.http_status}", status=envelope.status, sent=reply.sent)


def _refused_or_unknown(envelope: wire.Envelope, reply: Reply) -> Refused | Unknown:
    """What a status other than success comes to: only a documented refusal is one."""
    why = statuses.refusal(envelope.status)
    if why is None:
        return Unknown(reason=statuses.meaning(envelope.status), status=envelope.status, sent=reply.sent)
    return Refused(why=why, status=envelope.status, reason=envelope.reason)


def _incomplete(fault: wire.Malformed, envelope: wire.Envelope, reply: Reply) -> Unknown:
    return Unknown(reason=f"success without its data: {fault}", status=envelope.status, sent=reply.sent)


def _date(header: str | None) -> float | None:
    """The instant of a Date header in Unix seconds; None where there is none that can be read."""
    try:
        stamped = parsedate_to_datetime(header or "")
        # "-0000" gives a naive value; HTTP dates are always UTC.
        return (stamped.replace(tzinfo=UTC) if stamped.tzinfo is None else stamped).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
