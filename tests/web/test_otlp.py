"""Export of traces and metrics over OTLP: a collector on a real socket, and `bindings serve` as a process."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import requests
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bindings.errors import InvalidRequest
from bindings.monitoring import otlp
from bindings.web.metrics import Metrics
from tests.service.harness import A, B, account_variables, wait_for
from tests.web.conftest import BIND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.provider.simulator import Simulator


class Collector:
    """Receives OTLP over HTTP while its `with` block runs, and keeps what it receives."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.bodies.append((self.path, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def listening(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield
        self._server.shutdown()
        self._server.server_close()
        thread.join(300)

    @property
    def spans(self) -> list[Any]:
        requests = [
            ExportTraceServiceRequest.FromString(body) for path, body in self.bodies if path == "/v1/traces"
        ]
        resources = [resource for request in requests for resource in request.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    @property
    def metrics(self) -> dict[str, Any]:
        """The newest values by name of metric."""
        received = [
            ExportMetricsServiceRequest.FromString(body) for path, body in self.bodies if "metrics" in path
        ]
        resources = [resource for request in received for resource in request.resource_metrics]
        scopes = [scope for resource in resources for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}


@pytest.mark.processes
def test_serve_exports_its_traces_and_every_metric_once(sqlite_url: str, simulator: Simulator) -> None:
    collector = Collector()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("BINDINGS_", "OTEL_"))
    }
    environment |= {
        "BINDINGS_DATABASE_URL": sqlite_url,
        **account_variables(simulator.url),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "NO_PROXY": "127.0.0.1",
    }
    with collector.listening():
        process = subprocess.Popen(
            [sys.executable, "-m", "bindings", "serve", "--local-admin", "--port", "0", "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            assert requests.post(f"{url}/v1/bindings", json=BIND, timeout=300).status_code == 201
            assert requests.post(f"{url}/v1/lookup", json={"phone": A}, timeout=300).status_code == 200
            wait_for(lambda: {"bindings.sweep_age", "bindings.binds"} <= collector.metrics.keys())
        finally:
            process.terminate()
            _, log = process.communicate(timeout=300)
    assert process.returncode == 0
    names = {span.name for span in collector.spans}
    assert names >= {"POST /v1/bindings", "bind", "provider bind", "POST /v1/lookup", "lookup", "job expire"}
    served = {family.name for family in Metrics().registry.collect() if family.type != "histogram"}
    exported = {name.replace(".", "_") + _suffix(metric.unit) for name, metric in collector.metrics.items()}
    durations = {
        "bindings_provider_call_seconds",
        "bindings_job_seconds",
        "http_server_request_duration_seconds",
    }
    assert exported - durations <= served
    assert {"bindings_binds", "bindings_sweep_age_seconds", "bindings_pool_use_ratio"} | durations <= exported
    [point] = collector.metrics["bindings.binds"].sum.data_points
    assert (point.as_double, collector.metrics["bindings.binds"].sum.is_monotonic) == (1.0, True)
    for phone in (A, B):
        assert not any(phone.encode() in body for _, body in collector.bodies)
        assert phone not in log


def _suffix(unit: str) -> str:
    return {"s": "_seconds", "1": "_ratio"}.get(unit, "")


@pytest.fixture
def _no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("OTEL_"):
            monkeypatch.delenv(variable)


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
        {
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x",
        },
    ],
)
def test_nothing_is_exported_unless_a_collector_is_named(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(otlp, "_start_traces", None)
    monkeypatch.setattr(otlp, "_start_metrics", None)
    with otlp.exporting() as exports_metrics:
        assert not exports_metrics


@pytest.mark.usefixtures("_no_collector")
def test_wrong_variables_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(InvalidRequest) as refused, otlp.exporting():
        pass
    assert [error.field for error in refused.value.field_errors] == [
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ]


@pytest.mark.usefixtures("_no_collector")
def test_process_without_the_extra_says_that_nothing_is_exported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with otlp.exporting() as exports_metrics:
        assert not exports_metrics
    assert "the extra `otel` is not installed: run `pip install 'pns-bindings[otel]'`" in caplog.text


@pytest.mark.usefixtures("_no_collector")
def test_value_that_the_sdk_refuses_is_an_error_without_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "-77")
    with (
        pytest.raises(InvalidRequest, match="the SDK of OpenTelemetry refuses a value") as refused,
        otlp.exporting(),
    ):
        pass
    assert "77" not in str(refused.value)


def test_collector_that_does_not_answer_keeps_no_process_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    calls: list[int] = []

    class HangingProvider:
        def shutdown(self) -> None:
            calls.append(1)
            ended.wait()

    monkeypatch.setattr(otlp, "LAST_EXPORT_S", 0.1)
    otlp._shut_down([HangingProvider(), HangingProvider()])  # type: ignore[list-item]
    ended.set()
    assert len(calls) == 2  # side by side
    assert "the last traces or metrics are lost" in caplog.text
