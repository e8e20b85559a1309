"""Export of traces and metrics for `serve` and `scheduler`: OTLP over HTTP, by the standard OTEL_... variables.

Nothing is exported, and OpenTelemetry is not imported, unless a variable names a collector or the exporter `otlp`.
A host program configures the SDK itself.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bindings import __version__, telemetry
from bindings.distribution import install_hint
from bindings.errors import FieldError, InvalidRequest
from bindings.store.replicas import process_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

_log = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
HTTP = "http/protobuf"
LAST_EXPORT_S = 5.0


@contextmanager
def exporting() -> Iterator[bool]:
    """Export the traces and metrics of this process while the block runs; yield whether metrics are exported.

    What is left is sent at the end, for at most `LAST_EXPORT_S`: a collector that does not answer keeps no process
    from ending. Raises `InvalidRequest` that names the variables that are not valid.
    """
    exports_traces, exports_metrics = _exported_signals()
    if (exports_traces or exports_metrics) and not _is_installed():
        hint = install_hint("otel")
        _log.warning("no traces and metrics are exported, the extra `otel` is not installed: %s", hint)
        exports_traces = exports_metrics = False
    providers: list[TracerProvider | MeterProvider] = []
    try:
        if exports_traces:
            providers.append(_start_traces(_resource()))
        if exports_metrics:
            providers.append(_start_metrics(_resource()))
    except ValueError:  # without its text, which may repeat a value
        message = "are not valid: the SDK of OpenTelemetry refuses a value, such as an interval below 0"
        raise InvalidRequest.of_field("OTEL_... variables", message) from None
    try:
        with telemetry.only_configured():
            yield exports_metrics
    finally:
        _shut_down(providers)


def _shut_down(providers: list[TracerProvider | MeterProvider]) -> None:
    """Send what is left of all providers at the same time; what takes longer than `LAST_EXPORT_S` is lost."""
    threads = [threading.Thread(target=provider.shutdown, daemon=True) for provider in providers]
    for thread in threads:
        thread.start()
    give_up_at = time.monotonic() + LAST_EXPORT_S
    for thread in threads:
        thread.join(max(0.0, give_up_at - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        _log.warning("the collector did not answer in time: the last traces or metrics are lost")


def _exported_signals() -> tuple[bool, bool]:
    """Return whether traces, and whether metrics are exported."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False, False
    field_errors: list[FieldError] = []
    exported = []
    for signal in ("TRACES", "METRICS"):
        variable = f"OTEL_{signal}_EXPORTER"
        exporter = os.environ.get(variable, "").strip().lower()
        if exporter not in ("", "otlp", "none"):
            field_errors.append(FieldError(variable, "must be otlp or none"))
        protocol = _first_set(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        has_collector = _first_set(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", ENDPOINT) is not None
        is_exported = exporter == "otlp" or (not exporter and has_collector)
        if is_exported and protocol is not None and os.environ[protocol].strip() != HTTP:
            field_errors.append(FieldError(protocol, f"must be {HTTP}"))
        exported.append(is_exported)
    if field_errors:
        raise InvalidRequest(list(dict.fromkeys(field_errors)))
    traces, metrics = exported
    return traces, metrics


def _first_set(*variables: str) -> str | None:
    return next((variable for variable in variables if os.environ.get(variable, "").strip()), None)


def _resource() -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = {"service.name": "bindings", "service.version": __version__, "service.instance.id": process_name()}
    return Resource.create(own).merge(OTELResourceDetector().detect())


def _start_traces(resource: Resource) -> TracerProvider:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def _start_metrics(resource: Resource) -> MeterProvider:
    from opentelemetry import metrics
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return provider


def _is_installed() -> bool:
    """Return whether the SDK and the exporter are there; a host program may have the API only."""
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk  # noqa: F401 -- only whether it is there
    except ModuleNotFoundError:
        return False
    return True
