"""P7 and P8: lookups over HTTP against a bare route with the raw query, and beside binds that hang.

The caller is one thread over raw sockets, so that it takes little of the machine that all sides share.
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
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

from benchmarks import data, servers
from benchmarks.measure import Result, Sample, Target, interleave, per_second
from bindings.provider.simulator import API_KEY, API_SECRET, Simulator
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench_context import Place
    from benchmarks.data import Sizes

CALLERS = 16
QUIET_CALLERS = 4  # what a lookup takes, not what it takes when everybody asks at once
HANGING = 100
EXCESS = 40
LIMIT_S = 0.05
HANG_S = 60.0


def measure(place: Place) -> list[Result]:
    """P7 and P8."""
    filled, sizes = place.postgres(), place.sizes
    with BindingService.open(database_url=filled.url) as service:
        key = service.keys.create(name="bench", role="auditor", rate_limit=100_000).key
        binder = service.keys.create(name="bench-binder", role="app", rate_limit=100_000).key
    phones = [data.phone(1, number) for number in random.sample(range(filled.live // 6), 200)]
    throughput = []
    for protocol in ("prepared", "extended"):
        with _serving(filled.url) as ours, _bare(filled.url, protocol) as raw:
            throughput.append(_throughput(_Caller(ours, key), _Caller(raw, key), phones, sizes, protocol))
    with Simulator() as simulator, _serving(filled.url, simulator) as url:
        stalled = _stalled(_Caller(url, key), _Caller(url, binder), simulator, phones, sizes)
    return [*throughput, stalled]


def _throughput(ours: _Caller, raw: _Caller, phones: list[str], sizes: Sizes, protocol: str) -> Result:
    for side in (ours, raw):
        side.lookups(phones, callers=CALLERS, seconds=sizes.bind_s)
    rounds = interleave(
        sizes.bind_rounds,
        lambda _: _rate(ours.lookups(phones, callers=CALLERS, seconds=sizes.bind_s), sizes.bind_s),
        lambda _: _rate(raw.lookups(phones, callers=CALLERS, seconds=sizes.bind_s), sizes.bind_s),
    )
    what = f"HTTP lookup, {CALLERS} callers, raw query {protocol}"
    target = Target(id="P7", what=what, bound=0.6, at_most=False)
    return Result(target=target, rounds=rounds, note=per_second(rounds, "lookups"))


def _stalled(asker: _Caller, binder: _Caller, simulator: Simulator, phones: list[str], sizes: Sizes) -> Result:
    """Lookups' p99 while binds hang, against the limit; and how soon further binds are turned away."""
    calm = _p99(asker.lookups(phones, callers=QUIET_CALLERS, seconds=sizes.bind_s))
    simulator.script("delay_before", rate=1.0, on="bind", seconds=HANG_S)
    hanging = [binder.begin("/v1/bindings", _bind(number)) for number in range(HANGING)]
    while simulator.counts.received.get("bind", 0) < HANGING:
        time.sleep(0.01)
    rounds = tuple(
        (Sample(figure=_p99(took), cpu_s=0.0), Sample(figure=LIMIT_S, cpu_s=0.0))
        for _ in range(sizes.bind_rounds)
        if (took := asker.lookups(phones, callers=QUIET_CALLERS, seconds=sizes.bind_s))
    )
    turned_away = [binder.ask("/v1/bindings", _bind(HANGING + number)) for number in range(EXCESS)]
    for connection in hanging:
        connection.close()
    busy = all(head.startswith(b"HTTP/1.1 503") and b"retry-after" in head.lower() for head, _ in turned_away)
    target = Target(
        id="P8", what=f"lookups' p99 beside {HANGING} binds that hang, of {LIMIT_S * 1e3:.0f} ms", bound=1.0
    )
    slowest = max(seconds for _, seconds in turned_away)
    away = f"{EXCESS} more binds {'all' if busy else 'NOT all'} 503, the slowest after {slowest * 1e3:.0f} ms"
    note = f"calm {calm * 1e3:.1f} ms; {away}"
    return Result(target=target, rounds=rounds, note=note, holds=busy)


def _bind(number: int) -> dict[str, object]:
    pair = {"phone_a": f"8613{number:08}", "phone_b": f"8614{number:08}"}
    return pair | {"pool_number": "918806", "expire_s": 600, "mode": "AXB"}


def _rate(took: list[float], seconds: float) -> Sample:
    return Sample(figure=len(took) / seconds, cpu_s=sum(took) / len(took))


def _p99(took: list[float]) -> float:
    return quantiles(took, n=100)[-1]


class _Caller:
    """Asks over kept connections, with a key."""

    def __init__(self, url: str, key: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._address = (host, int(port))
        self._head = f"Host: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"

    def lookups(self, phones: list[str], *, callers: int, seconds: float) -> list[float]:
        """Keep this many lookups under way; the seconds that each took."""
        asked = [self._request("/v1/lookup", {"phone": phone}) for phone in phones]
        took: list[float] = []
        with selectors.DefaultSelector() as selector:
            began: dict[socket.socket, float] = {}
            for _ in range(callers):
                connection = self._connected()
                selector.register(connection, selectors.EVENT_READ)
                began[connection] = time.perf_counter()
                connection.sendall(random.choice(asked))
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                for ready, _ in selector.select(1.0):
                    connection = ready.fileobj  # type: ignore[assignment]
                    _whole_answer(connection)
                    now = time.perf_counter()
                    took.append(now - began[connection])
                    began[connection] = now
                    connection.sendall(random.choice(asked))
            for connection in began:
                connection.close()
        return took

    def begin(self, path: str, body: dict[str, object]) -> socket.socket:
        """Ask, and wait for nothing."""
        connection = self._connected()
        connection.sendall(self._request(path, body))
        return connection

    def ask(self, path: str, body: dict[str, object]) -> tuple[bytes, float]:
        """The head of the answer, and the seconds it took."""
        began = time.perf_counter()
        with self.begin(path, body) as connection:
            return _whole_answer(connection), time.perf_counter() - began

    def _request(self, path: str, body: dict[str, object]) -> bytes:
        content = json.dumps(body).encode()
        return f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def _connected(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _whole_answer(connection: socket.socket) -> bytes:
    """Read an answer to its end; its head."""
    received = connection.recv(65_536)
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _more(connection)
    head = received[:end]
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(received) < end + 4 + length:
        received += _more(connection)
    return head


def _more(connection: socket.socket) -> bytes:
    part = connection.recv(65_536)
    if not part:
        raise ConnectionError("the server closed the connection")
    return part


@contextmanager
def _serving(url: str, simulator: Simulator | None = None) -> Iterator[str]:
    """A replica in a process of its own."""
    environment = {"BINDINGS_DATABASE_URL": url, "BINDINGS_BIND_LIMIT": str(HANGING)}
    if simulator is not None:
        environment |= {
            "BINDINGS_PROVIDER_URL": simulator.url,
            "BINDINGS_PROVIDER_API_KEY": API_KEY,
            "BINDINGS_PROVIDER_API_SECRET": API_SECRET,
            "BINDINGS_PROVIDER_APP_ID": "bench",
            "BINDINGS_PROVIDER_TIMEOUT_S": "120",
        }
    command = ["-m", "bindings", "serve", "--port", "0", "--no-scheduler", "--json"]
    with _process(command, environment) as line:
        yield json.loads(line)["url"]


@contextmanager
def _bare(url: str, protocol: str) -> Iterator[str]:
    with _process(["-m", "benchmarks.baseline_http", url, protocol], {}) as line:
        yield line.strip()


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Run Python; the first line that it prints. Its log is thrown away, as a service writes it to a file."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(
            [sys.executable, *command],
            cwd=root,
            env=servers.variables(**environment),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert started.stdout is not None
        try:
            yield started.stdout.readline()
        finally:
            started.send_signal(signal.SIGKILL)  # its binds hang: a drain would wait for them
            with suppress(subprocess.TimeoutExpired):
                started.wait(10)
            started.stdout.close()
