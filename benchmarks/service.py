"""P7 and P8: lookups over HTTP against a minimal route with the same query, and lookups while binds hang.

The client is one thread on plain sockets, so that it takes little of the CPU that all processes share.
"""

from __future__ import annotations

import json
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

from benchmarks import data, servers
from benchmarks.measure import Result, Sample, Target, interleave, per_second, typical
from bindings.provider.simulator import API_KEY, API_SECRET, Simulator
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import Sizes

CALLERS = 16
FEW_CALLERS = 4  # measures the latency of a lookup without contention
LEAST_LOOKUPS = 20  # of each round, however long they take: a percentile needs several
HANGING_BINDS = 100
BIND_LIMIT = 115  # seven eighths of it are the share of one key
EXCESS_BINDS = 40
MAX_P99_S = 0.05
HANG_S = 60.0
RESPONSE_TIMEOUT_S = 120.0


def measure(context: BenchContext) -> list[Result]:
    """Return P7 and P8."""
    bench_db, sizes = context.postgres(), context.sizes
    with BindingService.open(database_url=bench_db.url) as service:
        key = service.api_keys.create(name="bench", role="router", rate_limit=100_000).key
        binder = service.api_keys.create(name="bench-binder", role="app", rate_limit=100_000).key
    phones = [data.phone(1, number) for number in random.sample(range(bench_db.live // 6), 200)]
    throughput = []
    for protocol in ("prepared", "extended"):
        with product_server(bench_db.url) as product, _baseline_server(bench_db.url, protocol) as baseline:
            title = f"raw query {protocol}"
            throughput += _throughput(title, product, baseline, (key, phones), sizes)
    with Simulator() as simulator, product_server(bench_db.url, simulator) as server:
        url = server.url
        stalled = _during_hanging_binds(Client(url, key), Client(url, binder), simulator, phones, sizes)
    return [*throughput, stalled]


def _throughput(
    baseline_title: str,
    product: ServingProcess,
    baseline: ServingProcess,
    key_and_phones: tuple[str, list[str]],
    sizes: Sizes,
) -> list[Result]:
    """Return both lines of P7: lookups per second, and CPU time of the serving process for each."""
    key, phones = key_and_phones
    clients = {process.pid: Client(process.url, key) for process in (product, baseline)}

    def run(process: ServingProcess) -> Sample:
        before = servers.cpu_s(process.pid)
        count = len(clients[process.pid].lookups(phones, callers=CALLERS, seconds=sizes.bind_s))
        return Sample(figure=count / sizes.bind_s, cpu_s=(servers.cpu_s(process.pid) - before) / count)

    for process in (product, baseline):
        run(process)
    rounds = interleave(sizes.bind_rounds, lambda _: run(product), lambda _: run(baseline))
    title = f"HTTP lookup, {CALLERS} callers, {baseline_title}"
    rate = Target(id="P7", title=title, bound=0.75, at_most=False)
    cpu = Target(id="P7", title=f"CPU of the serving process, {baseline_title}", bound=1.33)
    cpu_rounds = tuple(
        (Sample(figure=ours.cpu_s, cpu_s=ours.cpu_s), Sample(figure=raw.cpu_s, cpu_s=raw.cpu_s))
        for ours, raw in rounds
    )
    ours, raw = typical(cpu_rounds)
    note = f"{ours.cpu_s * 1e6:,.0f} us each against {raw.cpu_s * 1e6:,.0f}"
    return [
        Result(target=rate, rounds=rounds, note=per_second(rounds, "lookups")),
        Result(target=cpu, rounds=cpu_rounds, note=note),
    ]


def _during_hanging_binds(
    reader: Client, binder: Client, simulator: Simulator, phones: list[str], sizes: Sizes
) -> Result:
    """Return P8: the p99 of lookups while binds hang, and how fast further binds are rejected."""
    before = _p99(reader.lookups(phones, callers=FEW_CALLERS, seconds=sizes.bind_s))
    simulator.script("delay_before", rate=1.0, on="bind", seconds=HANG_S)
    hanging = [binder.send("/v1/bindings", _bind(number)) for number in range(HANGING_BINDS)]
    while simulator.counts.received.get("bind", 0) < HANGING_BINDS:
        time.sleep(0.01)
    rounds = tuple(
        (Sample(figure=_p99(durations), cpu_s=0.0), Sample(figure=MAX_P99_S, cpu_s=0.0))
        for _ in range(sizes.bind_rounds)
        if (durations := reader.lookups(phones, callers=FEW_CALLERS, seconds=sizes.bind_s))
    )
    rejected = [binder.post("/v1/bindings", _bind(HANGING_BINDS + number)) for number in range(EXCESS_BINDS)]
    for connection in hanging:
        connection.close()
    refused = all(head.startswith(b"HTTP/1.1 429") and b"retry-after" in head.lower() for head, _ in rejected)
    target = Target(
        id="P8",
        title=f"lookups' p99 beside {HANGING_BINDS} binds that hang, of {MAX_P99_S * 1e3:.0f} ms",
        bound=1.0,
    )
    slowest = max(seconds for _, seconds in rejected)
    number_429 = "all" if refused else "NOT all"
    rejection_note = f"{EXCESS_BINDS} more binds {number_429} 429, the slowest after {slowest * 1e3:.0f} ms"
    note = f"calm {before * 1e3:.1f} ms; {rejection_note}"
    return Result(target=target, rounds=rounds, note=note, conditions_met=refused)


def _bind(number: int) -> dict[str, object]:
    pair = {"phone_a": f"8613{number:08}", "phone_b": f"8614{number:08}"}
    return pair | {"pool_number": "918806", "expire_s": 600, "mode": "AXB"}


def _p99(durations: list[float]) -> float:
    return quantiles(durations, n=100)[-1]


class Client:
    """An HTTP client with an API key."""

    def __init__(self, url: str, key: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._address = (host, int(port))
        self._head = f"Host: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"

    def lookups(
        self,
        phones: list[str],
        *,
        callers: int,
        seconds: float = 0.0,
        count: int = LEAST_LOOKUPS,
        is_enough: Callable[[], bool] = lambda: True,
    ) -> list[float]:
        """Keep `callers` lookups in flight for `seconds`, until `count` have ended and `is_enough` returns True.

        Return the seconds of each.
        """
        requests = [self._request("/v1/lookup", {"phone": phone}) for phone in phones]
        durations: list[float] = []
        with selectors.DefaultSelector() as selector:
            sent_at: dict[socket.socket, float] = {}
            for _ in range(callers):
                connection = self._connect()
                selector.register(connection, selectors.EVENT_READ)
                sent_at[connection] = time.perf_counter()
                connection.sendall(random.choice(requests))
            until = time.perf_counter() + seconds
            while time.perf_counter() < until or len(durations) < count or not is_enough():
                for ready, _ in selector.select(1.0):
                    connection = ready.fileobj  # type: ignore[assignment]
                    _read_response(connection)
                    now = time.perf_counter()
                    durations.append(now - sent_at[connection])
                    sent_at[connection] = now
                    connection.sendall(random.choice(requests))
            for connection in sent_at:
                connection.close()
        return durations

    def send(self, path: str, body: dict[str, object]) -> socket.socket:
        """Send a request; return its connection without waiting for the response."""
        connection = self._connect()
        connection.sendall(self._request(path, body))
        return connection

    def post(self, path: str, body: dict[str, object]) -> tuple[bytes, float]:
        """Send a request; return the head of the response and the seconds it took."""
        sent_at = time.perf_counter()
        with self.send(path, body) as connection:
            return _read_response(connection), time.perf_counter() - sent_at

    def _request(self, path: str, body: dict[str, object]) -> bytes:
        content = json.dumps(body).encode()
        return f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=RESPONSE_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _read_response(connection: socket.socket) -> bytes:
    """Read a complete response; return its head."""
    received = connection.recv(65_536)
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _receive(connection)
    head = received[:end]
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(received) < end + 4 + length:
        received += _receive(connection)
    return head


def _receive(connection: socket.socket) -> bytes:
    part = connection.recv(65_536)
    if not part:
        raise ConnectionError("the server closed the connection")
    return part


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingProcess:
    """A process that answers lookups at `url`."""

    url: str
    pid: int


@contextmanager
def product_server(
    url: str, simulator: Simulator | None = None, *, scheduler: bool = False, **settings: str
) -> Iterator[ServingProcess]:
    """Run a replica in a separate process, with or without a scheduler inside."""
    environment = {"BINDINGS_DATABASE_URL": url, "BINDINGS_BIND_LIMIT": str(BIND_LIMIT)} | settings
    if simulator is not None:
        environment |= {
            "BINDINGS_PROVIDER_URL": simulator.url,
            "BINDINGS_PROVIDER_API_KEY": API_KEY,
            "BINDINGS_PROVIDER_API_SECRET": API_SECRET,
            "BINDINGS_PROVIDER_APP_ID": "bench",
            "BINDINGS_PROVIDER_TIMEOUT_S": "120",
        }
    command = ["-m", "bindings", "serve", "--local-admin", "--port", "0", "--json"]
    if not scheduler:
        command.append("--no-scheduler")
    with _process(command, environment) as (line, pid):
        yield ServingProcess(url=json.loads(line)["url"], pid=pid)


@contextmanager
def _baseline_server(url: str, protocol: str) -> Iterator[ServingProcess]:
    with _process(["-m", "benchmarks.baseline_http", url, protocol], {}) as (line, pid):
        yield ServingProcess(url=line.strip(), pid=pid)


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Run Python; yield the first line that it prints, and its process id. Its log goes to a temporary file."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=root,
            env=servers.product_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        try:
            yield process.stdout.readline(), process.pid
        finally:
            process.send_signal(signal.SIGKILL)  # a graceful stop would wait for the hanging binds
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.stdout.close()
