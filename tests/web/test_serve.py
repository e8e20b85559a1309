"""`bindings serve` as a real process: replicas, a generated client, shutdown, and the output of all commands."""

from __future__ import annotations

import http.client
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import requests
from click.testing import CliRunner

from bindings.access import api_keys
from bindings.cli.root import root
from bindings.provider.simulator import Call, Fault, FaultKind
from bindings.web.api import openapi
from tests.service.harness import (
    KEY,
    POOL,
    SECRET,
    C,
    D,
    account_variables,
    hold_answers,
    in_threads,
    wait_for,
)
from tests.web.conftest import BIND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from bindings.provider.simulator import Simulator

pytestmark = pytest.mark.processes


@dataclass(kw_only=True)
class Host:
    """A host with these settings: it starts processes of the product and keeps all of their output."""

    environment: dict[str, str]
    folder: Path
    printed: list[str] = field(default_factory=list)

    def bindings(self, *arguments: str) -> str:
        """Run a command in this process, which is quick, and return its standard output."""
        completed = CliRunner(env=self.environment).invoke(root, arguments)
        self.printed += [completed.stdout, completed.stderr]
        return completed.stdout

    def key(self, role: str, name: str) -> str:
        """Return a new key. It is printed only here, and this output is not kept."""
        created = json.loads(self.bindings("keys", "create", "--name", name, "--role", role, "--json"))
        del self.printed[-2:]
        return str(created["key"])

    @contextmanager
    def serving(self, *options: str) -> Iterator[Replica]:
        """Start a replica that listens; it is killed at the end in every case."""
        log = self.folder / f"{uuid4()}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "bindings", "serve", "--local-admin", "--port", "0", "--json", *options],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield Replica(process=process, url=json.loads(line)["url"], log=log)
        finally:
            process.kill()
            self.printed += [process.communicate()[0], log.read_text()]


@dataclass(kw_only=True)
class Replica:
    """A process that serves."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, json=body, headers=named, timeout=300)

    def bind(self, **fields: Any) -> requests.Response:
        headers = {name: fields.pop(name) for name in ("Authorization", "Idempotency_Key") if name in fields}
        return self.call("POST", "/v1/bindings", BIND | fields, **headers)


def a_host(database_url: str, simulator: Simulator, folder: Path) -> Host:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("BINDINGS_")}
    settings = {
        "BINDINGS_DATABASE_URL": database_url,
        **account_variables(simulator.url),
        "BINDINGS_PROVIDER_TIMEOUT_S": "20",
        "BINDINGS_SCAN_CALLS_PER_S": "1000",
    }
    return Host(environment=plain | settings, folder=folder)


@pytest.fixture
def host(sqlite_url: str, simulator: Simulator, tmp_path: Path) -> Host:
    """Return a host with a fresh SQLite file and the simulated provider."""
    return a_host(sqlite_url, simulator, tmp_path)


@pytest.fixture
def either_host(database_url: str, simulator: Simulator, tmp_path: Path) -> Host:
    """Return a host with a fresh database of either kind."""
    return a_host(database_url, simulator, tmp_path)


# One idempotency key, many clients, several replicas.


def twenty(replicas: list[Replica], key: str, fields: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Bind from twenty clients at the same time, spread over the replicas: (status, id, replayed) of each."""
    answers: list[tuple[int, str, str]] = []

    def caller(replica: Replica) -> Callable[[], None]:
        def call() -> None:
            answer = replica.bind(**fields, Idempotency_Key=key)
            replayed = answer.headers.get("Idempotent-Replayed", "")
            answers.append((answer.status_code, answer.json()["id"], replayed))

        return call

    callers = [caller(replicas[number % len(replicas)]) for number in range(20)]
    assert in_threads(*callers) == []
    return answers


def test_R5_twenty_callers_with_one_key_at_two_replicas_make_one_call(
    either_host: Host, simulator: Simulator, database_kind: str
) -> None:
    """On SQLite there is one host, and one process serves."""
    with ExitStack() as stack:
        count = 1 if database_kind == "sqlite" else 2
        replicas = [stack.enter_context(either_host.serving("--no-scheduler")) for _ in range(count)]
        simulator.script(Fault(kind=FaultKind.DELAY, times=1, seconds=1.0, on=Call.BIND))
        bound = twenty(replicas, "order-42/1", BIND)
        simulator.script(Fault(kind=FaultKind.LOST_REPLY, times=1, on=Call.BIND))
        in_doubt = twenty(replicas, "order-43/1", BIND | {"phone_a": C, "phone_b": D})
    assert statuses(bound) == sorted([(201, ""), *[(200, "true")] * 19])
    assert statuses(in_doubt) == sorted([(202, ""), *[(202, "true")] * 19])
    assert simulator.counts.received["bind"] == 2


def statuses(answers: list[tuple[int, str, str]]) -> list[tuple[int, str]]:
    """Return the sorted statuses of twenty responses about one binding, and whether each was a replay."""
    assert len({binding_id for _, binding_id, _ in answers}) == 1
    return sorted((status, replayed) for status, _, replayed in answers)


@pytest.mark.soak
def test_bind_of_a_killed_process_is_awaited_until_settle_by_and_not_resent(
    either_host: Host, simulator: Simulator
) -> None:
    with either_host.serving("--no-scheduler") as killed:
        simulator.script(Fault(kind=FaultKind.DELAY, times=1, seconds=30.0, on=Call.BIND))

        def cut_off() -> None:
            with pytest.raises(requests.ConnectionError):
                killed.bind(Idempotency_Key="1")

        first = threading.Thread(target=cut_off)
        first.start()
        wait_for(lambda: simulator.counts.received.get("bind", 0) == 1)
        killed.process.kill()
        first.join()
    with either_host.serving("--no-scheduler") as two:
        answer = two.bind(Idempotency_Key="1")
        (left,) = two.call("GET", "/v1/bindings").json()["data"]
    assert (answer.status_code, answer.json()["id"], answer.json()["state"]) == (202, left["id"], "pending")
    assert datetime.now(UTC) >= datetime.fromisoformat(left["settle_by"])
    assert simulator.counts.received["bind"] == 1


# A client generated from the document.


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Return the package that openapi-python-client generates without a warning."""
    folder = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    document.write_bytes(openapi.document_bytes())
    tools = Path(sys.executable).parent
    subprocess.run(
        [
            *(str(tools / "openapi-python-client"), "generate", "--path", str(document), "--fail-on-warning"),
            *("--meta", "none", "--output-path", str(folder / "bindings_client")),
        ],
        env=os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("bindings_client")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "bindings_client"]:
            del sys.modules[name]


def test_generated_client_can_use_the_api(host: Host, generated: ModuleType) -> None:
    def call(name: str) -> Any:
        return importlib.import_module(f"bindings_client.api.bindings.{name}")

    models: Any = importlib.import_module("bindings_client.models")
    key = host.key("app", "generated")
    with (
        host.serving("--no-scheduler") as replica,
        generated.AuthenticatedClient(base_url=replica.url, token=key) as client,
    ):
        fields = models.Bind.from_dict(BIND | {"reference": "order-42"})
        created = call("bind").sync_detailed(client=client, body=fields, idempotency_key="order-42/1")
        assert (created.status_code, created.parsed.state) == (201, models.State.ACTIVE)
        replay = call("bind").sync_detailed(client=client, body=fields, idempotency_key="order-42/1")
        assert (replay.status_code, replay.parsed) == (200, created.parsed)
        sought = models.Lookup.from_dict(
            {"middle_number": created.parsed.middle_number_b, "party": BIND["phone_b"]}
        )
        [sought_binding] = call("lookup").sync(client=client, body=sought).data
        assert (sought_binding.id, sought_binding.version) == (created.parsed.id, created.parsed.version)
        refused = call("bind").sync_detailed(client=client, body=models.Bind.from_dict(BIND))
        assert (refused.status_code, refused.parsed.code) == (409, "phone-in-use")
        assert refused.parsed.holder.id == created.parsed.id
        wrong = call("bind").sync(
            client=client, body=models.Bind.from_dict(BIND | {"expire_s": 0, "phone_b": "1"})
        )
        assert sorted(fault.field for fault in wrong.errors) == ["expire_s", "phone_b"]
        reason = models.Unbind(reason="trip ended")
        ended = call("unbind").sync(client=client, binding_id=created.parsed.id, body=reason)
        assert ended.state == models.State.UNBOUND
        page = call("events").sync(client=client, limit=2)
        second_page = call("events").sync(client=client, after=page.next_cursor)
        kinds = [str(event.kind) for event in (*page.data, *second_page.data)]
        assert kinds == ["requested", "activated", "unbind_requested", "unbound"]
        assert call("get").sync(client=client, binding_id=str(uuid4())).code == "not-found"


# Shutdown.


def in_flight(
    replica: Replica, simulator: Simulator
) -> tuple[list[tuple[str, int]], list[threading.Thread], threading.Event]:
    """Start a bind that hangs at the provider and a request that waits for events.

    Returns the list to which each adds its name and status at its end, their threads, and an event to set when
    the provider shall answer.
    """
    ended: list[tuple[str, int]] = []

    def run(name: str, call: Callable[[], requests.Response]) -> None:
        try:
            ended.append((name, call().status_code))
        except requests.ConnectionError:
            ended.append((name, 0))

    provider_answer = hold_answers(simulator)
    threads = [threading.Thread(target=run, args=("bind", replica.bind))]
    threads[0].start()
    wait_for(lambda: simulator.counts.received.get("bind", 0) == 1)
    end = replica.call("GET", "/v1/events").json()["next_cursor"]
    address = urlsplit(replica.url)
    waiting = http.client.HTTPConnection(str(address.hostname), address.port, timeout=300)
    waiting.request("GET", f"/v1/events?after={end}&wait_s=30")
    assert replica.call("GET", "/livez").status_code == 200  # earlier connections have been accepted

    def wait() -> None:
        with closing(waiting), waiting.getresponse() as answer:
            ended.append(("events", answer.status))

    threads.append(threading.Thread(target=wait))
    threads[1].start()
    return ended, threads, provider_answer


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_sigterm_settles_sent_binds_and_answers_waiting_requests(
    host: Host, simulator: Simulator, ending: signal.Signals
) -> None:
    with host.serving() as replica:
        ended, threads, provider_answer = in_flight(replica, simulator)
        replica.process.send_signal(ending)
        wait_for(lambda: ended == [("events", 200)])
        provider_answer.set()
        for thread in threads:
            thread.join(300)
        assert ended == [("events", 200), ("bind", 201)]
        assert replica.process.wait(300) == 0
    assert "serve: stopped" in host.printed[-1]


def test_second_signal_ends_the_process_and_recover_settles_the_bind(host: Host, simulator: Simulator) -> None:
    with host.serving("--no-scheduler") as replica:
        ended, threads, _ = in_flight(replica, simulator)
        replica.process.send_signal(signal.SIGTERM)
        wait_for(lambda: ended == [("events", 200)])
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(300) == -signal.SIGTERM
        for thread in threads:
            thread.join(300)
    assert ended == [("events", 200), ("bind", 0)]
    (left,) = json.loads(host.bindings("list", "--json"))["data"]
    assert left["state"] == "pending"


# Output.

PHONES = [f"9198123{number:05}" for number in range(10, 40)]
ONLY_IN_FIELDS = "919812399001"  # a phone in a free text field is kept as sent: only logs must not hold it
LOST = [
    Fault(kind=FaultKind.LOST_REPLY, times=1, on=Call.BIND),
    Fault(kind=FaultKind.ANOMALY_AFTER, times=1, on=Call.BIND),
]


def careless(replica: Replica, headers: dict[str, str], phone: str) -> list[requests.Response]:
    """Send requests with a phone in a place where none belongs."""
    carried = dict.fromkeys(("X_Request_ID", "User_Agent", "Referer", "X_Forwarded_For", "Cookie"), phone)
    call = replica.call
    return [
        call("GET", f"/v1/bindings/{phone}", **headers),
        call("GET", f"/v1/{phone}", **headers),
        call("GET", f"/{phone}?{phone}={phone}", **headers),
        call("GET", f"/v1/bindings?phone={phone}", **headers),
        call("GET", f"/v1/bindings?{phone}=1&{phone}=2", **headers),
        call("GET", f"/v1/events?after={phone}-{phone}&wait_s={phone}", **headers),
        call("GET", f"/docs/static/{phone}", **headers),
        call("POST", "/v1/lookup", {"phone": phone, phone: phone}, **headers),
        call("POST", "/v1/lookup", {"phone": [phone]}, **headers),
        call("POST", "/v1/lookup", {"phone": f"{phone}x"}, **headers),
        call("POST", "/v1/lookup", phone, **headers),
        call("POST", "/v1/trace", {"middle_number": phone, "at": phone, "party": f"+{phone}+"}, **headers),
        call("POST", "/v1/bindings", BIND | {"phone_a": phone, "phone_b": phone}, **headers),
        call("POST", "/v1/bindings", BIND | {"mode": phone, "expire_s": int(phone)}, **headers),
        call("POST", f"/v1/bindings/{phone}/unbind", {"reason": phone}, **headers),
        call("GET", "/v1/events", **headers | carried | {"X_Request_ID": f"call-{phone}"}),
        call("GET", "/v1/events", **headers | carried),
        call("GET", "/v1/events", Authorization=f"Bearer {phone}"),
        call("PUT", f"/v1/bindings/{phone}", {phone: phone}, **headers),
    ]


def typical_day(
    host: Host, replica: Replica, simulator: Simulator, keys: dict[str, str]
) -> list[requests.Response]:
    """Make all calls of a typical day; return the responses that must not hold a phone."""
    as_app, as_eve = ({"Authorization": f"Bearer {keys[name]}"} for name in ("app", "investigator"))
    pairs = iter(zip(PHONES[::2], PHONES[1::2], strict=True))
    a, b = next(pairs)
    created = replica.bind(**as_app, phone_a=a, phone_b=b, reference="order-1", Idempotency_Key="order-1/1")
    replica.bind(**as_app, phone_a=a, phone_b=b, reference="order-1", Idempotency_Key="order-1/1")
    masked = [
        replica.bind(**as_app, phone_a=a, phone_b=PHONES[-1]),
        replica.bind(**as_app, phone_a=a, phone_b=PHONES[-1], Idempotency_Key="order-1/1"),
        replica.call("POST", "/v1/lookup", {"phone": a}, **as_eve),
        replica.call("POST", "/v1/bindings/search", {"phone": b}, **as_eve),
        replica.call("GET", "/v1/events", **as_eve),
    ]
    for fault in LOST:
        simulator.script(fault)
        a, b = next(pairs)
        assert replica.bind(**as_app, phone_a=a, phone_b=b).status_code == 202
    for status in ("-22", "-41", "-35", "-16"):
        simulator.script(Fault(kind=FaultKind.REFUSE, times=1, status=status, on=Call.BIND))
        a, b = next(pairs)
        masked.append(replica.bind(**as_app, phone_a=a, phone_b=b))
    for phone in PHONES[2:4]:
        masked += careless(replica, as_app, phone)
    only_in_fields = {"reference": ONLY_IN_FIELDS, "Idempotency_Key": ONLY_IN_FIELDS}
    a, b = next(pairs)
    replica.bind(**as_app, phone_a=a, phone_b=b, **only_in_fields)
    path = created.headers["Location"]
    revealed = replica.call("POST", f"{path}/reveal", {"reason": "complaint 118"}, **as_eve)
    assert revealed.json()["phone_a"] == PHONES[0]
    commands(host, created.json())
    masked.append(replica.call("GET", "/metrics", **as_eve))
    assert replica.call("POST", f"{path}/unbind", {"reason": "trip ended"}, **as_app).json()["state"] == "unbound"
    return masked


def commands(host: Host, created: dict[str, Any]) -> None:
    a, b = PHONES[20], PHONES[21]
    fields = ("--phone-a", a, "--phone-b", b, "--mode", "AXB")
    bind = ("bind", *fields, "--pool-number", POOL, "--expire-s", "60")
    at = ("trace", created["middle_number_a"], "--at", created["answered_at"], "--party", PHONES[0])
    for command in (
        bind,
        ("bind", a),
        ("bind", "--phone-a", a, "--phone-b", a, "--mode", b),
        ("check", *fields),
        ("lookup", "--phone", a),
        at,
        ("history", created["id"]),
        ("get", a),
        ("reconcile",),
        ("doubts",),
        ("stats",),
        ("config",),
        ("doctor",),
        ("keys", "list"),
    ):
        host.bindings(*command)
        host.bindings(*command, "--json")
    host.bindings("export", "events")


def test_R9_output_of_a_full_run_holds_no_phone_and_no_secret(either_host: Host, simulator: Simulator) -> None:
    host = either_host
    keys = {role: host.key(role, f"a key for {role}") for role in ("app", "investigator")}
    host.environment["BINDINGS_RECONCILE_INTERVAL_S"] = "1"
    with host.serving() as replica:
        masked = typical_day(host, replica, simulator, keys)
        replica.process.terminate()
        assert replica.process.wait(300) == 0
    logs = host.printed[-1]
    printed = "".join(host.printed) + "".join(f"{answer.headers}{answer.text}" for answer in masked)
    lines = [json.loads(line) for line in logs.splitlines() if line.startswith("{")]
    assert sum(line["event"] == "request" for line in lines) > 40
    assert {answer.status_code for answer in masked} >= {200, 401, 404, 405, 409, 422, 502, 503}
    for secret in (*PHONES, *keys.values(), KEY, SECRET, "postgres@"):
        assert secret not in printed, secret
    assert ONLY_IN_FIELDS not in logs


# The first key.


@pytest.mark.postgres
def test_replicas_that_start_with_one_key_file_record_its_key_once(
    postgres_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    host = a_host(postgres_url, simulator, tmp_path)
    key = api_keys.generate()
    file = tmp_path / "admin.key"
    file.touch(mode=0o600)
    file.write_text(key)
    host.environment["BINDINGS_BOOTSTRAP_KEY_FILE"] = str(file)
    with host.serving("--host", "127.0.0.1") as first, host.serving("--no-scheduler") as second:
        for replica in (first, second):
            assert replica.call("GET", "/v1/bindings").status_code == 401
            assert replica.call("GET", "/v1/bindings", Authorization=f"Bearer {key}").status_code == 200
        recorded = [replica.log.read_text().count("as admin key") for replica in (first, second)]
    assert recorded == [1, 0]
    [record] = json.loads(host.bindings("keys", "list", "--json"))["data"]
    assert (record["name"], record["role"]) == ("bootstrap", "admin")
    assert not [text for text in host.printed if key in text]
