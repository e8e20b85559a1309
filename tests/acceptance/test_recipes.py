"""The recipes of examples/, each in its own framework, over real sockets and processes."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django.conf
import pytest
import requests
import uvicorn
from django.core.wsgi import get_wsgi_application
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from bindings import errors
from bindings.domain.binding import EventKind, State
from bindings.jobs.registry import RECONCILE
from bindings.jobs.runner import JobRunner
from bindings.service import BindingService
from bindings.web import server
from tests.service.harness import account_variables, hold_answers, wait_for
from tests.web.conftest import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from bindings.provider.simulator import Simulator
    from tests.web.conftest import Running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TRIPS = 4


def phones(trip: int) -> dict[str, str]:
    return {"rider": f"91880600{trip:02}", "driver": f"91880601{trip:02}"}


def settings(url: str, simulator: Simulator, **others: str) -> dict[str, str]:
    return {
        "BINDINGS_DATABASE_URL": url,
        **account_variables(simulator.url),
        "BINDINGS_PROVIDER_TIMEOUT_S": "60",
    } | others


class Client:
    """Requests to a recipe; several threads may use it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def post(self, path: str, body: dict[str, str]) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.post(self._url + path, json=body, timeout=300)

    def bind(self, trip: int) -> requests.Response:
        return self.post(f"/trips/{trip}/number", phones(trip))

    def call(self, trip: int, dialled: str) -> Any:
        answer = self.post("/calls", {"caller": phones(trip)["rider"], "dialled": dialled})
        return answer.json() if answer.ok else answer.status_code


def assert_lends_and_routes(client: Client) -> None:
    """Bind each trip twice, ask for each call from several threads, and compare every answer."""
    lent = [client.bind(trip).json() for trip in range(TRIPS)]
    assert [client.bind(trip).json() for trip in range(TRIPS)] == lent, "a repeated request has the same answer"
    assert {number["state"] for number in lent} == {"active"}
    asked = [trip % TRIPS for trip in range(40)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda trip: client.call(trip, lent[trip]["rider_sees"]), asked))
    assert answers == [{"ring": phones(trip)["driver"], "show": lent[trip]["driver_sees"]} for trip in asked]
    assert client.call(TRIPS, lent[0]["rider_sees"]) == 404
    refused = client.post("/trips/other/number", phones(0) | {"driver": "9188069999"})
    assert (refused.status_code, refused.json()["code"]) == (409, "phone-in-use")
    assert int(refused.headers["Retry-After"]) > 0


def load_recipe(name: str) -> ModuleType:
    spec = spec_from_file_location(f"recipe_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def uvicorn_serves(app: Any) -> Iterator[Client]:
    listener = server.listen("127.0.0.1", 0)
    serving = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: serving.started)
        yield Client(server.address(listener))
    finally:
        serving.should_exit = True
        thread.join(300)
        listener.close()


def test_fastapi_answers_calls_while_twelve_binds_wait_for_the_provider(
    sqlite_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings(sqlite_url, simulator).items():
        monkeypatch.setenv(name, value)
    with uvicorn_serves(load_recipe("fastapi_app").app) as client, ThreadPoolExecutor(12) as threads:
        assert_lends_and_routes(client)
        lent = client.bind(0).json()
        answer = hold_answers(simulator, times=12)
        binds = [threads.submit(client.bind, trip) for trip in range(20, 32)]
        wait_for(lambda: simulator.counts.received["bind"] == TRIPS + 12)
        for _ in range(10):
            assert client.call(0, lent["rider_sees"])["ring"] == phones(0)["driver"]
        assert not any(bind.done() for bind in binds), "each call was answered before each bind"
        answer.set()
        assert {bind.result().json()["state"] for bind in binds} == {"active"}


@contextmanager
def gunicorn_serves(app: str, folder: Path, environment: dict[str, str], *options: str) -> Iterator[Client]:
    """Run gunicorn until the test ends; what it prints to standard output fails the test."""
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--no-control-socket", *options, app]
    path = os.pathsep.join(map(str, (ROOT, EXAMPLES, folder)))
    log, output = folder / "gunicorn.log", folder / "output.txt"
    with log.open("w") as errors, output.open("w") as printed:
        process = subprocess.Popen(
            command, env=os.environ | environment | {"PYTHONPATH": path}, stdout=printed, stderr=errors
        )
    try:
        wait_for(lambda: "Booting worker" in log.read_text() or process.poll() is not None)
        address = re.search(r"Listening at: (http://\S+)", log.read_text())
        assert address is not None, log.read_text()
        yield Client(address[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(300)
    assert process.returncode == 0, log.read_text()
    assert output.read_text() == ""
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.mark.processes
@pytest.mark.postgres
def test_flask_workers_forked_after_the_service_was_opened_answer_calls_while_the_provider_is_slow(
    postgres_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    """Without hooks at the fork two workers would use one connection, and get each other's answers."""
    environment = settings(postgres_url, simulator, BINDINGS_BIND_LIMIT="2")
    options = ("--preload", "--workers", "2", "--threads", "4")
    with (
        gunicorn_serves("flask_app:app", tmp_path, environment, *options) as client,
        ThreadPoolExecutor(4) as threads,
    ):
        assert_lends_and_routes(client)
        lent = client.bind(0).json()
        answer = hold_answers(simulator, times=4)

        def bind_on_either_worker(trip: int) -> Any:
            while (response := client.bind(trip)).status_code == 503:
                assert response.json()["code"] == "busy"
            return response.json()["state"]

        binds = [threads.submit(bind_on_either_worker, trip) for trip in range(20, 24)]
        wait_for(lambda: simulator.counts.received["bind"] == TRIPS + 4)
        assert client.bind(24).json()["code"] == "busy"
        for _ in range(10):
            assert client.call(0, lent["rider_sees"])["ring"] == phones(0)["driver"]
        assert not any(bind.done() for bind in binds), "each call was answered before each bind"
        answer.set()
        assert {bind.result() for bind in binds} == {"active"}


class ThreadingServer(ThreadingMixIn, WSGIServer):
    """A server of WSGI applications with a thread for each request."""


class SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name in the base class
        """Print no line for a request."""


@contextmanager
def threads_serve(app: Any) -> Iterator[Client]:
    with make_server("127.0.0.1", 0, app, ThreadingServer, SilentHandler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Client(f"http://127.0.0.1:{serving.server_port}")
        finally:
            serving.shutdown()
            thread.join(300)


def test_django_views_lend_and_route(
    sqlite_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings(sqlite_url, simulator).items():
        monkeypatch.setenv(name, value)
    recipe = load_recipe("django_views")
    monkeypatch.setitem(sys.modules, recipe.__name__, recipe)  # Django imports it by its name
    middleware = [f"{recipe.__name__}.BindingsErrors"]
    django.conf.settings.configure(ROOT_URLCONF=recipe.__name__, MIDDLEWARE=middleware, ALLOWED_HOSTS=["*"])
    with threads_serve(get_wsgi_application()) as client:
        assert_lends_and_routes(client)
    recipe.service.close()


@pytest.fixture
def served(sqlite_url: str, simulator: Simulator) -> Iterator[Running]:
    with BindingService.open(environment=settings(sqlite_url, simulator)) as service:
        yield from run(service)


def test_urllib3_waits_as_long_as_each_answer_says_and_binds_once(
    served: Running, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool is empty, then the response is lost; reconcile adopts the binding while the client waits."""
    JobRunner(served.service.runtime).run_once_per_period(RECONCILE, 300)  # so that a next scan is known
    simulator.script("refuse:-41", times=1, on="bind")
    simulator.script("lost_reply", times=1, on="bind")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        served.service.reconcile()

    monkeypatch.setattr("urllib3.util.retry.time.sleep", wait)
    key = served.key("app")["Authorization"].removeprefix("Bearer ")
    recipe = load_recipe("urllib3_client")
    binding = recipe.lend_number(served.url, key, "trip-7", *phones(0).values())
    recipe.http.clear()
    assert (binding["state"], binding["reference"]) == ("active", "trip-7")
    assert waits[0] == errors.POOL_RETRY_S
    assert 1 <= waits[1] <= served.service.settings.reconcile_interval_s, "the Retry-After of the 202"
    assert len(waits) == 2
    assert simulator.counts.received["bind"] == 2
    assert len(simulator.ledger) == 1


def test_urllib3_does_not_repeat_an_answer_that_names_no_time(
    served: Running, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No scheduler runs, so no attempt would find the outcome."""
    simulator.script("lost_reply", times=1, on="bind")
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    key = served.key("app")["Authorization"].removeprefix("Bearer ")
    recipe = load_recipe("urllib3_client")
    with pytest.raises(LookupError, match="outcome-unknown"):
        recipe.lend_number(served.url, key, "trip-7", *phones(0).values())
    recipe.http.clear()
    assert waits == []
    served.service.reconcile()
    assert recipe.lend_number(served.url, key, "trip-7", *phones(0).values())["state"] == "active"
    recipe.http.clear()
    assert simulator.counts.received["bind"] == 1


@pytest.fixture
def rides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Provide the application's own table, and a broker in a folder: it reads and writes messages in one place."""
    with sqlite3.connect(tmp_path / "rides.db") as connection:
        connection.execute("CREATE TABLE trips (id TEXT PRIMARY KEY, rider TEXT, driver TEXT)")
        rows = [(f"trip-{trip}", *phones(trip).values()) for trip in range(TRIPS)]
        connection.executemany("INSERT INTO trips VALUES (?, ?, ?)", rows)
    connection.close()
    (tmp_path / "data_in").mkdir()
    (tmp_path / "data_out").symlink_to("data_in")
    monkeypatch.chdir(tmp_path)
    return {"RIDES_BROKER": "filesystem://", "RIDES_DATABASE": str(tmp_path / "rides.db")}


@pytest.mark.soak  # its broker is read once a second
@pytest.mark.processes
@pytest.mark.postgres
def test_celery_workers_that_were_forked_after_the_service_was_opened_bind_each_trip_once(
    postgres_url: str, simulator: Simulator, rides: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = settings(postgres_url, simulator) | rides
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    recipe = load_recipe("celery_app")
    command = [sys.executable, "-m", "celery", "--app", "celery_app", "worker", "--concurrency", "2"]
    options = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO")
    path = os.pathsep.join(map(str, (ROOT, EXAMPLES)))
    with (tmp_path / "celery.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *options], env=os.environ | {"PYTHONPATH": path}, stdout=log, stderr=subprocess.STDOUT
        )
    service: BindingService = recipe.service
    try:
        for trip in (*range(TRIPS), *range(TRIPS)):
            recipe.app.send_task("celery_app.lend_number", [f"trip-{trip}"])
        wait_for(lambda: len(service.search(active=True).data) == TRIPS or process.poll() is not None)
        lent = {binding.reference: binding.phone_a.digits for binding in service.search(active=True).data}
        assert lent == {f"trip-{trip}": phones(trip)["rider"] for trip in range(TRIPS)}
        for trip in range(TRIPS):
            recipe.app.send_task("celery_app.end_trip", [f"trip-{trip}"])
        wait_for(lambda: not service.search(active=True).data or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(300)
        service.close()
    log_text = (tmp_path / "celery.log").read_text()
    assert process.returncode == 0, log_text
    assert simulator.counts.received["bind"] == TRIPS
    assert "Traceback" not in log_text, log_text
    assert not [phone for trip in range(TRIPS) for phone in phones(trip).values() if phone in log_text]


def test_celery_task_is_run_again_after_an_error_that_says_when_and_fails_after_any_other(
    sqlite_url: str, simulator: Simulator, rides: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (settings(sqlite_url, simulator) | rides).items():
        monkeypatch.setenv(name, value)
    recipe = load_recipe("celery_app")
    service: BindingService = recipe.service
    simulator.script("refuse:-41", times=1)
    assert recipe.lend_number.apply(["trip-0"]).state == "SUCCESS"
    [active] = service.lookup(reference="trip-0")
    kinds = [event.kind for event in service.events().data]
    assert (active.state, kinds.count(EventKind.FAILED)) == (State.ACTIVE, 1)
    simulator.script("refuse:-22", times=1)
    assert recipe.lend_number.apply(["trip-1"]).state == "FAILURE"
    assert simulator.counts.received["bind"] == 3
    service.close()


def test_temporal_is_told_when_another_attempt_makes_sense_and_every_attempt_returns_one_binding(
    sqlite_url: str, simulator: Simulator, rides: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (settings(sqlite_url, simulator) | rides).items():
        monkeypatch.setenv(name, value)
    recipe = load_recipe("temporal_activity")

    def attempt(trip: str) -> Any:
        return ActivityEnvironment().run(recipe.lend_number, trip)

    simulator.script("refuse:-41", times=1)
    with pytest.raises(ApplicationError) as refused:
        attempt("trip-0")
    assert (refused.value.type, refused.value.non_retryable) == ("no-middle-number", False)
    assert refused.value.next_retry_delay == timedelta(seconds=errors.POOL_RETRY_S)
    assert attempt("trip-0") == attempt("trip-0")
    simulator.script("refuse:-22", times=1)
    with pytest.raises(ApplicationError) as refused:
        attempt("trip-1")
    assert (refused.value.type, refused.value.non_retryable) == ("provider-refused", True)
    assert simulator.counts.received["bind"] == 3
    recipe.service.close()
