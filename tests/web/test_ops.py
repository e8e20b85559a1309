"""Liveness, readiness, metrics and the OpenAPI document."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from litestar.handlers import HTTPRouteHandler
from psycopg import sql

from bindings import errors
from bindings.clock import MAX_SKEW_S
from bindings.domain import binding
from bindings.jobs.job import Job
from bindings.jobs.registry import EXPIRE
from bindings.jobs.runner import JobRunner
from bindings.lifecycle.clock_monitor import RECHECK_S
from bindings.monitoring import health
from bindings.monitoring.check import Check, Level
from bindings.provider.circuit import CALLS
from bindings.provider.simulator import Call, Fault, FaultKind
from bindings.scheduler import Scheduler
from bindings.service import BindingService
from bindings.store import schema
from bindings.store.temporary_database import name_of
from bindings.web import api, app, problems
from bindings.web.api import openapi
from tests.service.harness import A, B, C, D, wait_for
from tests.web.conftest import run

if TYPE_CHECKING:
    from bindings.provider.simulator import Simulator
    from tests.store.databases import Server
    from tests.web.conftest import Running

DOCS = Path(str(files("bindings.web"))) / "docs"


def test_livez_does_not_need_the_database(running: Running) -> None:
    running.service.runtime.database.close()
    assert running.get("/livez").json() == {"status": "ok"}


def red(running: Running) -> list[str]:
    """Return the names of the checks that make the replica not ready."""
    running.app_state.readiness = (float("-inf"), ())
    answer = running.get("/readyz")
    names = [check["name"] for check in answer.json()["checks"] if check["level"] == "red"]
    assert answer.status_code == (503 if names else 200)
    assert ("Retry-After" in answer.headers) == bool(names)
    return names


def test_replica_is_ready_after_a_sweep_and_red_while_a_check_fails(running: Running) -> None:
    assert red(running) == ["sweep"]
    JobRunner(running.service.runtime).run(EXPIRE)
    assert red(running) == []
    running.service.mark_restored()
    assert red(running) == ["restore"]
    running.service.reconcile()
    assert red(running) == []


def test_readiness_without_a_key_that_reads_tells_only_the_names_of_failing_checks(running: Running) -> None:
    app, auditor = running.key("app"), running.key("auditor")
    for ready in (False, True):
        if ready:
            JobRunner(running.service.runtime).run(EXPIRE)
        running.app_state.readiness = (float("-inf"), ())
        for headers in (None, app, {"Authorization": "Bearer x"}):
            answer = running.get("/readyz", headers)
            assert answer.status_code == (200 if ready else 503)
            assert answer.json()["checks"] == ([] if ready else [{"name": "sweep", "level": "red"}])
            assert ready or answer.json()["detail"] == "not ready: sweep"
        checks = running.get("/readyz", auditor).json()["checks"]
        assert {"database", "schema", "scope"} <= {check["name"] for check in checks if check["seen"]}


def test_wrong_clock_and_another_account_make_replica_not_ready(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    JobRunner(running.service.runtime).run(EXPIRE)
    clock = SimpleNamespace(wall=lambda: time.time() - MAX_SKEW_S - 1, monotonic=time.monotonic)
    with monkeypatch.context() as wrong_clock:
        wrong_clock.setattr(running.service.runtime.clocks, "_clock", clock)
        assert red(running) == ["clocks"]
        clock.wall = time.time
        assert red(running) == ["clocks"], "one reading that agrees ends no doubt"
        clock.monotonic = lambda: time.monotonic() + RECHECK_S
        assert red(running) == [], "a corrected clock is noticed without a bind"
    running.service.runtime.database.write(
        lambda tx: tx.connection.execute(schema.account.update().values(scope="another"))
    )
    assert red(running) == ["scope"]


def test_other_schema_version_makes_replica_not_ready(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bindings.store.schema_version.HEAD", "9999")
    assert "schema" in red(running)


def levels(running: Running) -> dict[str, str]:
    """Return the level of each check of the service."""
    answer = running.get("/v1/health").json()
    named = {check["name"]: check["level"] for check in answer["checks"]}
    assert all(check.keys() == {"name", "level", "message", "action"} for check in answer["checks"])
    return named


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, "ok"),
        ({"doubts": "warn", "account": "warn"}, "ok"),
        ({"binds": "warn"}, "degraded"),
        ({"sweep": "red", "doubts": "warn"}, "degraded"),
        ({"reconciliation": "red"}, "degraded"),
        ({"binds": "red"}, "failing"),
        ({"account": "red", "sweep": "red"}, "failing"),
        ({"clocks": "red"}, "failing"),
        ({"restore": "red"}, "failing"),
    ],
)
def test_level_of_the_service_is_failing_only_if_binds_fail(named: dict[str, str], expected: str) -> None:
    checks = [Check(name=name, level=Level(level), seen="") for name, level in named.items()]
    assert health.service_level(checks) == expected


def test_refused_account_takes_no_replica_out_of_service(running: Running, simulator: Simulator) -> None:
    JobRunner(running.service.runtime).run(EXPIRE)
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-30"))
    assert running.bind().status_code == 503
    assert (red(running), levels(running)["account"]) == ([], "red")
    assert running.get("/v1/health").json()["level"] == "failing"
    assert "Problems found" in running.get("/overview", {"Accept": "text/html"}).text
    assert running.service.runtime.client is not None
    running.service.runtime.client.circuits.bind._next_trial = 0.0  # half a minute later
    assert levels(running)["account"] == "warn", "the next bind tries"
    assert running.bind().status_code == 201
    assert levels(running)["account"] == "ok"
    assert running.service.runtime.client.circuits.bind.cause is None


def test_refused_list_warns_and_takes_no_replica_out_of_service(running: Running, simulator: Simulator) -> None:
    JobRunner(running.service.runtime).run(EXPIRE)
    simulator.script(Fault(kind=FaultKind.REFUSE, rate=1.0, status="-1", on=Call.PAGE))
    running.service.reconcile()
    assert red(running) == []
    assert running.bind().status_code == 201
    assert [levels(running)[name] for name in ("account", "unbinds", "list")] == ["ok", "ok", "warn"]
    assert levels(running)["reconciliation"] == "warn"
    values = samples(running)
    assert {call: values[f'bindings_circuit_open{{call="{call}"}}'] for call in CALLS} == {
        "bind": 0,
        "unbind": 0,
        "page": 1,
        "pools": 0,
    }


def test_binds_that_wait_for_an_undocumented_status_are_refused_as_busy(
    running: Running, simulator: Simulator
) -> None:
    JobRunner(running.service.runtime).run(EXPIRE)
    simulator.script(Fault(kind=FaultKind.REFUSE, rate=1.0, status="-99", on=Call.BIND))
    assert [running.bind(phone_b=phone).status_code for phone in (C, D)] == [202, 409]
    assert running.bind(phone_a=B, phone_b=D).status_code == 202
    waiting = running.bind(phone_a="9188067711", phone_b="9188067712")
    assert (waiting.status_code, waiting.json()["code"], waiting.json()["safe_to_retry"]) == (503, "busy", True)
    assert int(waiting.headers["Retry-After"]) in range(1, 31)
    assert "status -99" in waiting.json()["detail"]
    assert (red(running), levels(running)["account"]) == ([], "red")
    assert running.post("/v1/lookup", {"phone": A}).status_code == 200
    assert samples(running)['bindings_circuit_open{call="bind"}'] == 1


def checks(running: Running) -> dict[str, Any]:
    """Return the checks of readiness by name."""
    return {check["name"]: check for check in running.get("/readyz").json()["checks"]}


def test_wrong_provider_clock_is_measured_again_by_the_next_bind(running: Running, simulator: Simulator) -> None:
    JobRunner(running.service.runtime).run(EXPIRE)
    simulator.change(clock_offset_s=2 * MAX_SKEW_S, timestamp_tolerance_s=MAX_SKEW_S)
    assert running.bind(phone_a=A, phone_b=B).json()["provider_status"] == "-16"
    assert running.bind(phone_a=C, phone_b=D).json()["code"] == "busy"
    assert red(running) == ["clocks"]
    simulator.change(clock_offset_s=0)
    running.service.runtime.clocks._rechecked_at = float("-inf")  # a while later
    assert red(running) == [], "without traffic no bind would measure"
    assert running.bind(phone_a=C, phone_b=D).status_code == 201


def test_stalled_job_makes_replica_not_ready_until_it_ends(running: Running) -> None:
    go_on = threading.Event()
    stuck = Job(name="stuck", interval_s=1.0, run=lambda: go_on.wait(300))
    running.app_state.scheduler = Scheduler(running.service, [stuck])
    with running.app_state.scheduler:
        wait_for(lambda: red(running) == [])
        assert checks(running)["scheduler"]["seen"] == "no job is stalled"
        assert "process" not in checks(running)
        wait_for(lambda: red(running) == ["scheduler"])
        assert "stalled: stuck" in running.get("/readyz").json()["detail"]
        todo = "the log names the cause if a run has failed; the watchdog starts the job again"
        assert checks(running)["scheduler"]["todo"] == todo
        running.app_state.notifier.stopping = True
        assert checks(running)["process"]["seen"] == "is stopping"
        running.app_state.notifier.stopping = False
        go_on.set()
        wait_for(lambda: red(running) == [])


def test_unreachable_database_makes_replica_not_ready(
    postgres_url: str, postgres_server: Server, simulator: Simulator
) -> None:
    name = sql.Identifier(name_of(postgres_url))
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    with (
        BindingService.open(database_url=postgres_url, provider_url=simulator.url) as service,
        contextmanager(run)(service) as running,
        psycopg.connect(postgres_server.url, autocommit=True) as admin,
    ):
        JobRunner(service.runtime).run(EXPIRE)
        assert red(running) == []
        try:
            admin.execute(allow.format(name, sql.SQL("false")))
            admin.execute(end, [name_of(postgres_url)])
            assert red(running) == ["database"]
            assert running.post("/v1/lookup", {"phone": A}).status_code == 503
        finally:
            admin.execute(allow.format(name, sql.SQL("true")))
        assert red(running) == []
        assert running.post("/v1/lookup", {"phone": A}).status_code == 200


def samples(running: Running) -> dict[str, float]:
    """The metrics, freshly read."""
    running.app_state.metrics._refreshed_at = float("-inf")
    text = running.get("/metrics").text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_metrics_count_binds_conflicts_and_calls(running: Running, simulator: Simulator) -> None:
    running.bind()
    running.bind(phone_b=C)
    simulator.script(Fault(kind=FaultKind.LOST_REPLY, times=1))
    running.bind(phone_a=C, phone_b=D)
    values = samples(running)
    assert values['bindings_binds_total{outcome="bound",provider_status="0"}'] == 1
    assert values['bindings_binds_total{outcome="phone-in-use",provider_status="none"}'] == 1
    assert values['bindings_binds_total{outcome="outcome-unknown",provider_status="none"}'] == 1
    assert values["bindings_conflicts_avoided_total"] == 1
    assert values['bindings_provider_call_seconds_count{call="bind",outcome="made"}'] == 1
    assert values['bindings_provider_call_seconds_count{call="bind",outcome="unknown"}'] == 1
    assert values["bindings_doubts_open"] == 1
    assert values["bindings_sweep_age_seconds"] == float("inf")
    created = 'bindings_http_request_seconds_count{method="POST",route="/v1/bindings",status="201"}'
    assert values[created] == 1
    JobRunner(running.service.runtime).run(EXPIRE)
    assert samples(running)["bindings_sweep_age_seconds"] < 60


def test_phone_in_use_at_provider_is_counted_by_status_and_not_as_avoided(
    running: Running, simulator: Simulator
) -> None:
    simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status="-35"))
    sent = running.bind(headers={"Idempotency-Key": "one"})
    again = running.bind(headers={"Idempotency-Key": "one"})  # the key was given back, the phones are held
    held = running.bind(phone_b=C)
    assert [response.json()["code"] for response in (sent, again, held)] == ["phone-in-use-at-provider"] * 3
    assert [response.json().get("provider_status") for response in (sent, again, held)] == ["-35", None, None]
    values = samples(running)
    assert values['bindings_binds_total{outcome="phone-in-use-at-provider",provider_status="-35"}'] == 1
    assert values['bindings_binds_total{outcome="phone-in-use-at-provider",provider_status="none"}'] == 2
    assert values["bindings_conflicts_avoided_total"] == 2


def test_unknown_outcome_is_counted_once_and_then_as_replayed(running: Running, simulator: Simulator) -> None:
    simulator.script(Fault(kind=FaultKind.ANOMALY_AFTER, times=1))
    for _ in range(3):
        assert running.bind(headers={"Idempotency-Key": "one"}).status_code == 202
    values = samples(running)
    assert values['bindings_binds_total{outcome="outcome-unknown",provider_status="-18"}'] == 1
    assert values['bindings_binds_total{outcome="replayed",provider_status="-18"}'] == 2


def test_metrics_carry_no_phone_and_no_id(running: Running) -> None:
    created = running.bind(reference="order-42").json()
    running.get(f"/v1/bindings/{A}")
    running.get(f"/v1/bindings?phone={B}")
    running.session.request("BREW", f"{running.url}/v1/{A}", timeout=300)
    text = running.get("/metrics").text
    for secret in (A, B, created["id"], created["middle_number_a"], "order-42", "BREW", "local"):
        assert secret not in text


def test_slow_read_is_busy(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bindings.web.executors.READ_DEADLINE_S", 0.05)
    ended = threading.Event()
    monkeypatch.setattr(type(running.service), "search", lambda *_, **__: ended.wait(300))
    answer = running.get("/v1/bindings")
    ended.set()
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")


def test_unexpected_exception_returns_a_problem_without_its_text(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"phone {A} is broken")

    monkeypatch.setattr(type(running.service), "search", broken)
    answer = running.get("/v1/bindings")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert A not in answer.text + caplog.text
    assert "RuntimeError" in caplog.text


def test_document_describes_exactly_the_routes(running: Running) -> None:
    inner = app.framework(running.app_state)
    routes = {
        (method.lower(), route.path_format)
        for route in inner.routes
        for handler in route.route_handlers  # type: ignore[union-attr]
        if isinstance(handler, HTTPRouteHandler) and handler.fn.__module__.startswith(api.__name__)
        for method in handler.http_methods
        if method != "OPTIONS"
    }
    assert routes == set(openapi.operations())
    assert running.get("/openapi.json").json() == openapi.document()


@pytest.mark.parametrize("name", ["Binding", "Event", "Holder", "TraceHolder", "NearMiss"])
def test_document_lists_all_fields_of_a_model(name: str) -> None:
    schema, model = openapi.document()["components"]["schemas"][name], getattr(binding, name)
    assert list(schema["properties"]) == schema["required"] == list(model.__dataclass_fields__)


def test_document_describes_every_error() -> None:
    documented = {kind for operation in openapi.operations().values() for kind in operation.problems}
    classes = {kind for module in (errors, problems) for kind in vars(module).values() if isinstance(kind, type)}
    real = {kind for kind in classes if issubclass(kind, errors.BindingsError)}
    elsewhere = {
        errors.BindingsError,
        errors.OutcomeUnknown,  # the answer 202
        errors.ClockInDoubt,  # it is a Busy, and documented as one
        errors.SchemaOutOfDate,  # readiness tells of it
        problems.NoSuchPath,  # of no path
        problems.MethodNotAllowed,
        problems.InternalError,
    }
    assert real - documented == elsewhere


def test_every_refusal_that_may_pass_says_when_to_try_again() -> None:
    for kind in {kind for operation in openapi.operations().values() for kind in operation.problems}:
        if kind.http_status in (408, 429, 503) or issubclass(kind, errors.PhoneInUse):
            assert int(problems.headers(openapi._sample_error(kind))["Retry-After"]) > 0, kind


def test_options_lists_every_method_of_a_path(running: Running) -> None:
    for path in {path for _, path in openapi.operations()}:
        methods = {method.upper() for method, documented_path in openapi.operations() if documented_path == path}
        answer = running.session.options(running.url + path, timeout=300)
        head = {"HEAD"} if "GET" in methods else set()
        assert set(answer.headers["Allow"].split(", ")) == methods | {"OPTIONS"} | head, path


def test_examples_of_refusals_show_the_provider_status() -> None:
    answers = openapi.document()["paths"]["/v1/bindings"]["post"]["responses"]
    examples = {
        code: example["value"]
        for status in ("409", "502", "503")
        for code, example in answers[status]["content"][problems.MEDIA_TYPE]["examples"].items()
    }
    status_by_code = {code: example.get("provider_status") for code, example in examples.items()}
    assert status_by_code == {
        "phone-in-use": None,
        "phone-in-use-at-provider": "-35",
        "provider-refused": "-22",
        "provider-account": "-1",
        "no-middle-number": "-41",
        "provider-unreachable": None,
        "busy": None,
    }


def test_docs_page_loads_nothing_from_other_hosts(running: Running) -> None:
    page = running.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert not re.search(r"https?://|//[a-z]", page.text)
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert running.get(address).status_code == 200, address
    assert "http" not in (DOCS / "static" / "start.js").read_text()


def test_vendored_files_match_their_checksums() -> None:
    checksums = re.findall(
        r"^ {4}([0-9a-f]{64})  (\S+)$", (DOCS / "static" / "README.md").read_text(), re.MULTILINE
    )
    assert {name for _, name in checksums} == {"swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"}
    for digest, name in checksums:
        assert hashlib.sha256((DOCS / "static" / name).read_bytes()).hexdigest() == digest, name
