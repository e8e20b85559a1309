"""Traces: spans of a whole lifecycle without a person in them; their context in events, webhooks and log lines."""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from bindings import __version__, errors, logs, telemetry
from bindings.domain.binding import Reason, State
from bindings.jobs.registry import JOBS
from bindings.jobs.runner import JobRunner
from bindings.provider import wire
from bindings.webhooks.sender import deliver_pending
from tests.service.harness import KEY, POOL, SECRET, A, B, C, D, ServiceHarness, feed_has_caught_up
from tests.web.conftest import alone
from tests.web.receivers import Receiver
from tests.web.wire import posted, speak

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from bindings.service import BindingService
    from tests.web.conftest import Running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HEADER = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans that end during the test, as a host program with the SDK would export them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("bindings", schema_url=telemetry.SCHEMA_URL)
    monkeypatch.setattr(telemetry, "_configured_tracer", lambda: tracer)
    yield exporter
    provider.shutdown()


@pytest.fixture(params=["with OpenTelemetry", "with its API only", "without OpenTelemetry"])
def _each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "with OpenTelemetry":
        request.getfixturevalue("spans")
    elif request.param == "without OpenTelemetry":
        monkeypatch.setattr(telemetry, "API", "a module that is not imported")


@pytest.fixture
def serving(sqlite_url: str) -> Iterator[Running]:
    with alone(sqlite_url) as running:
        yield running


def _named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    [span] = [span for span in exporter.get_finished_spans() if span.name == name]
    return span


def _exported_text(span: ReadableSpan) -> str:
    """Return what a span exports besides its ids and instants, which may have any digits."""
    return f"{span.name} {dict(span.attributes or {})} {span.status.description} {span.events} {span.links}"


def _live_a_whole_lifecycle(harness: ServiceHarness) -> None:
    """Bind, meet errors and doubts, replace, unbind, and run every job; phones and names are in all of it."""
    service = harness.service
    active = harness.bind(A, B, reference="order of Ada Lovelace", idempotency_key="lovelace/1")
    for fault in ("lost_reply", "refuse:-35", "refuse:-22", "garbage"):
        harness.simulator.script(fault, times=1, on="bind")
        with pytest.raises(errors.BindingsError):
            harness.bind(C, D)
        harness.clock.advance(10_000)
        service.recover()
        active = harness.bind(A, B)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    service.lookup(phone=A)
    service.lookup(middle_number=active.middle_number_a, party=B)
    successor = service.replace(active.id, phone_b=C, reference="order of Ada Lovelace")
    service.extend(successor.id, expire_s=60)
    service.unbind(successor.id, reason="Ada Lovelace asked for it")
    with pytest.raises(errors.NotFound):
        service.unbind("01890000-0000-7000-8000-000000000000")
    runner = JobRunner(service.runtime)
    for job in JOBS:
        if job.has_work(service.maintenance):
            runner.run(job)


def test_spans_of_a_lifecycle_are_complete_and_name_no_person(
    harness: ServiceHarness, spans: InMemorySpanExporter
) -> None:
    _live_a_whole_lifecycle(harness)
    finished = spans.get_finished_spans()
    names = {span.name for span in finished}
    jobs = {f"job {job.name}" for job in JOBS if job.has_work(harness.service.maintenance)}
    assert names >= {"bind", "lookup", "replace", "extend", "unbind", "provider bind", "provider unbind"} | jobs
    text = UUID.sub("", "".join(map(_exported_text, finished)))
    for secret in (A, B, C, D, "Lovelace", "lovelace", KEY, SECRET, harness.simulator.url, "'test'", POOL):
        assert secret not in text, secret
    assert all(not span.events for span in finished), "an event may have the text of an exception"


def test_bind_and_its_call_of_the_provider_are_one_trace(
    harness: ServiceHarness, spans: InMemorySpanExporter
) -> None:
    binding = harness.bind(A, B)
    bind, call = _named(spans, "bind"), _named(spans, "provider bind")
    assert call.parent is not None
    assert bind.context is not None
    assert call.parent.span_id == bind.context.span_id
    assert dict(bind.attributes or {}) == {
        "bindings.mode": "AXB",
        "bindings.binding_id": binding.id,
        "bindings.replayed": False,
    }
    assert call.kind is SpanKind.CLIENT
    port = int(harness.simulator.url.rpartition(":")[2])
    assert dict(call.attributes or {}) == {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.template": wire.BIND_PATH,
        "http.response.status_code": 200,
        "bindings.outcome": "made",
    }


@pytest.fixture
def _raising_observers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let log handlers, span processors and metrics of the program raise."""
    request.getfixturevalue("spans")
    log, handler = logging.getLogger("bindings"), logging.Handler()
    for target, name in ((handler, "emit"), (SimpleSpanProcessor, "on_end"), (telemetry, "record_seconds")):
        monkeypatch.setattr(target, name, Mock(side_effect=RuntimeError("of the program")))
    monkeypatch.setattr(log, "level", logging.DEBUG)
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


@pytest.mark.usefixtures("_raising_observers")
def test_answers_are_recorded_although_handlers_and_processors_of_the_program_raise(
    harness: ServiceHarness,
) -> None:
    with Receiver() as receiver:
        harness.service.webhooks.add(url=receiver.url)
        binding = harness.bind(A, B)
        assert binding.state is State.ACTIVE
        assert harness.service.unbind(binding.id).reason == Reason.ASKED
        feed_has_caught_up(harness.service)
        assert deliver_pending(harness.service.runtime).delivered == len(receiver.messages) > 0


def test_error_of_the_caller_does_not_fail_a_span_and_a_lost_reply_does(
    harness: ServiceHarness, spans: InMemorySpanExporter
) -> None:
    harness.bind(A, B)
    spans.clear()
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    conflict = _named(spans, "bind")
    assert conflict.status.status_code is StatusCode.UNSET
    assert (conflict.attributes or {})["error.type"] == "phone-in-use"
    spans.clear()
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.bind(C, D)
    call = _named(spans, "provider bind")
    assert (call.status.status_code, call.status.description) == (StatusCode.ERROR, None)
    assert (call.attributes or {})["error.type"] == "unknown"
    assert (_named(spans, "bind").attributes or {})["bindings.binding_id"] == unknown.value.binding.id


def test_event_has_the_trace_that_is_current_in_a_host_program(
    harness: ServiceHarness, spans: InMemorySpanExporter
) -> None:
    with telemetry.span("host") as _:
        outer = telemetry.traceparent()
        binding = harness.bind(A, B)
    assert outer is not None
    [requested, activated] = harness.service.history(binding.id)
    for event in (requested, activated):
        assert telemetry.trace_id(event.detail["traceparent"]) == telemetry.trace_id(outer)
    assert harness.service.traceparents([binding.id]) == {binding.id: requested.detail["traceparent"]}
    assert len(spans.get_finished_spans()) > 1


def test_event_of_a_host_program_without_a_trace_has_none(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    assert "traceparent" not in harness.service.history(binding.id)[0].detail
    assert harness.service.traceparents([binding.id]) == {}
    assert harness.service.traceparents([]) == {}


@pytest.mark.usefixtures("_each_way")
def test_trace_of_a_request_is_in_its_events_and_in_the_webhook(serving: Running) -> None:
    with Receiver() as receiver:
        serving.service.webhooks.add(url=receiver.url, kinds=["activated"])
        answer = serving.bind({"traceparent": HEADER})
        feed_has_caught_up(serving.service)
        assert deliver_pending(serving.service.runtime).delivered == 1
        [message] = receiver.messages
    history = serving.service.history(answer.json()["id"])
    assert {telemetry.trace_id(event.detail["traceparent"]) for event in history} == {TRACE}
    assert telemetry.trace_id(message.headers["traceparent"]) == TRACE
    assert history[1].detail["traceparent"] in message.body.decode()


@pytest.mark.usefixtures("_each_way")
@pytest.mark.parametrize("header", ["00-0-0-01", f"ff{HEADER[2:]}", f"{HEADER}, {HEADER}", A])
def test_invalid_header_of_a_request_is_ignored(serving: Running, header: str) -> None:
    answer = serving.bind({"traceparent": header})
    assert answer.status_code == 201
    traces = {
        telemetry.trace_id(event.detail.get("traceparent", "0-0"))
        for event in serving.service.history(answer.json()["id"])
    }
    assert TRACE not in traces


def test_program_with_the_api_only_pays_for_no_span() -> None:
    assert telemetry.API in sys.modules
    assert telemetry.span("lookup") is telemetry.NO_SPAN
    assert telemetry.client_span("webhook deliver", parent=HEADER) is telemetry.NO_SPAN
    assert telemetry.request_span("GET", []) is telemetry.NO_SPAN


@pytest.mark.parametrize("configured", ["nothing", "traces", "metrics"])
def test_process_that_configures_nothing_records_nothing(configured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In `serve` the web framework imports the API: without a provider it must cost a request no time."""
    if configured == "traces":
        monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", TracerProvider)
    if configured == "metrics":
        monkeypatch.setattr("opentelemetry.metrics.get_meter_provider", MeterProvider)
    with telemetry.only_configured():
        assert telemetry.is_recorded() is (configured != "nothing")
        with telemetry.request_span("GET", [(b"traceparent", HEADER.encode())]):
            assert (telemetry.traceparent() or "").startswith(f"00-{TRACE}-")
    assert telemetry.is_recorded()


def test_older_api_of_a_host_program_records_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments that the API had in 1.15: a call must not fail because of its duration."""
    recorded: list[tuple[str, float]] = []

    class Histogram:
        def __init__(self, name: str) -> None:
            self.name = name

        def record(self, seconds: float, _: object) -> None:
            recorded.append((self.name, seconds))

    class Meter:
        def create_histogram(self, name: str, unit: str = "", description: str = "") -> Histogram:
            assert (unit, description) == ("s", "")
            return Histogram(name)

    def get_meter(name: str, version: str = "", meter_provider: object = None) -> Meter:
        assert (name, version, meter_provider) == ("bindings", __version__, None)
        return Meter()

    monkeypatch.setattr("opentelemetry.metrics.get_meter", get_meter)
    for cached in (telemetry._meter, telemetry._histogram):
        cached.cache_clear()
    try:
        telemetry.record_seconds("bindings.job", 1.5, {"task": "expire"})
    finally:
        for cached in (telemetry._meter, telemetry._histogram):
            cached.cache_clear()
    assert recorded == [("bindings.job", 1.5)]


def test_request_is_a_server_span_named_by_its_route(serving: Running, spans: InMemorySpanExporter) -> None:
    state = {"traceparent": HEADER, "tracestate": "vendor=value"}
    serving.get(f"/v1/bindings/{A}?phone={A}", state)
    serving.get("/livez")
    [span] = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert span.name == "GET /v1/bindings/{binding_id}"
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", span.parent.is_remote) == (TRACE, True)
    assert span.parent.trace_state.get("vendor") == "value"
    attributes = dict(span.attributes or {})
    assert attributes.pop("bindings.request_id")
    assert attributes == {
        "http.request.method": "GET",
        "http.route": "/v1/bindings/{binding_id}",
        "url.path": "/v1/bindings/{binding_id}",
        "url.scheme": "http",
        "http.response.status_code": 422,
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.usefixtures("_each_way")
def test_pipelined_request_has_no_trace_of_the_one_before(
    serving: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers, traces = serving.key("app"), list[str | None]()
    lookup = type(serving.service).lookup

    def record(service: BindingService, **fields: Any) -> Any:
        header = telemetry.traceparent()
        traces.append(None if header is None else telemetry.trace_id(header))
        return lookup(service, **fields)

    monkeypatch.setattr(type(serving.service), "lookup", record)
    body = b'{"phone": "%s"}' % A.encode()
    authorization = f"Authorization: {headers['Authorization']}"
    last = posted(body, authorization, path="/v1/lookup")
    first = posted(body, authorization, f"traceparent: {HEADER}", path="/v1/lookup")
    answer = speak(serving, first.replace(b"Connection: close\r\n", b"") + last)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert traces[0] == TRACE
    assert traces[1] != TRACE


def test_answer_that_is_the_server_s_fault_fails_its_span(
    serving: Running, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(A)

    monkeypatch.setattr(type(serving.service), "lookup", fail)
    assert serving.post("/v1/lookup", {"phone": A}).status_code == 500
    span = _named(spans, "POST /v1/lookup")
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, "500")
    assert A not in span.to_json()


@pytest.mark.usefixtures("spans")
@pytest.mark.parametrize("line_format", logs.FORMATS)
def test_log_line_has_the_ids_of_the_current_span(line_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.configure(logs.LogConfig(level="warning", format=line_format))
    try:
        with telemetry.span("bind"):
            logging.getLogger("bindings.test").warning("inside")
            header = telemetry.traceparent()
        logging.getLogger("bindings.test").warning("outside")
    finally:
        logs.remove_handlers()
    assert header is not None
    inside, outside = stderr.getvalue().splitlines()
    _, trace_id, span_id, _ = header.split("-")
    assert re.search(rf"trace_id\W+{trace_id}\W.*span_id\W+{span_id}", inside)
    assert "trace_id" not in outside
