"""Spans, durations and the trace context, by the API of OpenTelemetry.

The program around this package configures the SDK: a host program its own, `monitoring.otlp` that of `serve` and
`scheduler`. This module never imports OpenTelemetry before that program has: until then a span is a look-up in a
dict. In `serve` the web framework imports the API if it is installed, so `only_configured` says there that nothing
is recorded. Without OpenTelemetry the trace context of a request is its header `traceparent` (W3C Trace Context).

Invariant: nothing here exports a phone, a person's name, a secret, the address of a call or the text of an
exception. Of an exception only its code or class is recorded.
"""

from __future__ import annotations

import re
import sys
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
    from contextvars import Token
    from types import TracebackType
    from typing import Any, Self

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span as ApiSpan
    from opentelemetry.trace import Tracer

    AttributeValue = str | int | float | bool | None

API = "opentelemetry.trace"
OWN_PROVIDERS = ("opentelemetry.trace", "opentelemetry.metrics")  # the modules of the API
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"  # the semantic conventions of the standard attributes
SERVER_ERROR = 500
BOUNDS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KNOWN_FLAGS = 0x03  # sampled, random trace id; the others are passed on as zero

_is_off = False
_of_request: ContextVar[str | None] = ContextVar("bindings_traceparent", default=None)


def parse_traceparent(header: str) -> str | None:
    """Return the header as version 00, or None if it is not valid and must be ignored."""
    match = _TRACEPARENT.fullmatch(header)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return f"00-{trace_id}-{span_id}-{int(flags, 16) & _KNOWN_FLAGS:02x}"


def is_recorded() -> bool:
    """Return whether the program has OpenTelemetry, which may export what is recorded here."""
    return not _is_off and API in sys.modules


@contextmanager
def only_configured() -> Iterator[None]:
    """Record nothing while the block runs, if no provider is configured when it begins."""
    global _is_off  # noqa: PLW0603 -- as the providers, it is of the whole process
    _is_off = not _is_configured()
    try:
        yield
    finally:
        _is_off = False


def _is_configured() -> bool:
    """Return whether a provider is configured. Those of the API itself record nothing."""
    if API not in sys.modules:
        return False
    from opentelemetry import metrics, trace

    providers = trace.get_tracer_provider(), metrics.get_meter_provider()
    return not all(type(provider).__module__.startswith(OWN_PROVIDERS) for provider in providers)


def traceparent() -> str | None:
    """Return the `traceparent` of the current span, or of the request; None if there is neither."""
    if is_recorded():
        from opentelemetry import trace

        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return _of_request.get()


def trace_id(header: str) -> str:
    """Return the trace id of a `traceparent`."""
    return header.split("-")[1]


def add_trace_ids(entry: MutableMapping[str, Any]) -> None:
    """Add the ids of the current trace and span to a log entry, if there is one."""
    header = traceparent()
    if header is not None:
        _, entry["trace_id"], entry["span_id"], _ = header.split("-")


def span(name: str, **attributes: AttributeValue) -> Span:
    """Return a span of an operation of this process, with attributes as of `Span.set`."""
    tracer = _configured_tracer()
    if tracer is None:
        return NO_SPAN
    started = _ApiSpan(tracer.start_span(name))
    started.set(**attributes)
    return started


def client_span(name: str, *, parent: str | None = None) -> Span:
    """Return a span of a call to another host. `parent` is a `traceparent` in place of the current span."""
    tracer = _configured_tracer()
    if tracer is None:
        return NO_SPAN
    from opentelemetry.trace import SpanKind

    context = None if parent is None else _remote_context(parent, ())
    return _ApiSpan(tracer.start_span(name, context, SpanKind.CLIENT))


def request_span(name: str, headers: Sequence[tuple[bytes, bytes]]) -> Span:
    """Return a span of an HTTP request, the child of its `traceparent` if that is valid and sent once."""
    sent = [value.decode("latin-1") for key, value in headers if key == b"traceparent"]
    parent = parse_traceparent(sent[0]) if len(sent) == 1 else None
    tracer = _configured_tracer()
    if tracer is None:
        return NO_SPAN if parent is None else _RequestContext(parent)
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind

    states = [value.decode("latin-1") for key, value in headers if key == b"tracestate"]
    context = Context() if parent is None else _remote_context(parent, states)
    return _ApiSpan(tracer.start_span(name, context, SpanKind.SERVER))


@contextmanager
def job_span(job: str) -> Iterator[None]:
    """Return a span of one run of a job, whose duration is recorded."""
    started_at, outcome = time.monotonic(), "failed"
    with span(f"job {job}", job=job):
        try:
            yield
            outcome = "completed"
        finally:
            labels = {"task": job, "outcome": outcome}
            record_seconds("bindings.job", time.monotonic() - started_at, labels)


def record_seconds(name: str, seconds: float, attributes: Mapping[str, str | int]) -> None:
    """Record the duration of an operation in the histogram of this name."""
    if is_recorded():
        _histogram(name).record(seconds, attributes)


def observe(
    name: str,
    description: str,
    read: Callable[[], Iterable[tuple[float, Mapping[str, str]]]],
    *,
    unit: str,
    grows: bool,
) -> None:
    """Export the values and labels that `read` returns, as a counter if the value only grows, else as a gauge."""
    from opentelemetry.metrics import CallbackOptions, Observation

    def observations(_: CallbackOptions) -> list[Observation]:
        return [Observation(value, labels) for value, labels in read()]

    create = _meter().create_observable_counter if grows else _meter().create_observable_gauge
    create(name, [observations], unit, description)


class Span:
    """A span that is the current one inside its `with` block. This one, without a tracer, does nothing."""

    def set(self, **attributes: AttributeValue) -> None:
        """Set attributes of this product, named `bindings.NAME`; None sets none."""

    def set_standard(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes of the semantic conventions; None sets none."""

    def rename(self, name: str) -> None:
        """Give the span its final name."""

    def fail(self, error_type: str) -> None:
        """Mark the span as failed, with an `error.type` of a small set."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class _RequestContext(Span):
    """The trace context of a request, without a tracer."""

    def __init__(self, header: str) -> None:
        self._header = header

    def __enter__(self) -> Self:
        self._token = _of_request.set(self._header)
        return self

    def __exit__(self, *_: object) -> None:
        _of_request.reset(self._token)


class _ApiSpan(Span):
    """A span of OpenTelemetry. An exception fails it, unless the caller is at fault, as for a phone in use."""

    _token: Token[Context]

    def __init__(self, api_span: ApiSpan) -> None:
        self._span = api_span

    def set(self, **attributes: AttributeValue) -> None:
        self.set_standard({f"bindings.{name}": value for name, value in attributes.items()})

    def set_standard(self, attributes: Mapping[str, AttributeValue]) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, error_type: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", error_type)
        self._span.set_status(StatusCode.ERROR)

    def __enter__(self) -> Self:
        from opentelemetry import context, trace

        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from opentelemetry import context

        if kind is not None:
            self.set(binding_id=getattr(error, "binding_id", None))
            has_code = kind.__module__.partition(".")[0] == "bindings"  # errors of SQLAlchemy have another `code`
            error_type = str(getattr(error, "code", kind.__name__)) if has_code else kind.__name__
            if getattr(error, "http_status", SERVER_ERROR) >= SERVER_ERROR:
                self.fail(error_type)
            else:
                self._span.set_attribute("error.type", error_type)
        context.detach(self._token)
        with suppress(Exception):  # of a processor of the host program: the result of the block must not be lost
            self._span.end()


NO_SPAN = Span()


def _configured_tracer() -> Tracer | None:
    """Return the tracer; None without OpenTelemetry, and if only its API is there: other libraries import that."""
    if not is_recorded():
        return None
    from opentelemetry import trace

    return None if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider) else _tracer()


@cache
def _tracer() -> Tracer:
    from opentelemetry import trace

    from bindings import __version__

    return trace.get_tracer("bindings", __version__, schema_url=SCHEMA_URL)


@cache
def _meter() -> Meter:
    from opentelemetry import metrics

    from bindings import __version__

    try:
        return metrics.get_meter("bindings", __version__, schema_url=SCHEMA_URL)
    except TypeError:  # an API before 1.21, installed by the host program
        return metrics.get_meter("bindings", __version__)


@cache
def _histogram(name: str) -> Histogram:
    try:
        return _meter().create_histogram(name, unit="s", explicit_bucket_boundaries_advisory=BOUNDS_S)
    except TypeError:  # an API before 1.30, installed by the host program
        return _meter().create_histogram(name, unit="s")


def _remote_context(header: str, states: Sequence[str]) -> Context:
    """Return the context of a `traceparent` and its `tracestate` headers."""
    from opentelemetry import trace

    _, trace_id, span_id, flags = header.split("-")
    remote = trace.SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(flags, 16)),
        trace_state=trace.TraceState.from_header(list(states)),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote))
