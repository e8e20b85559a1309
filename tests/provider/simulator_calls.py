"""Calls over a real socket, as the simulator's tests make them."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bindings.domain.binding import BindRequest, Mode
from bindings.domain.phone import Phone
from bindings.provider import signing, wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bindings.provider.simulator import Simulator

APP_ID = "4luaKsL2"
KEY = "bDqJFiq9"
SECRET = "7bz1lzh9"
A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"


class Clock:
    """Unix seconds that move only when a test says so."""

    def __init__(self, now: float = 1_700_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP reply; `status` and `data` unwrap the envelope."""

    code: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def status(self) -> Any:
        return self.json[wire.STATUS]

    @property
    def data(self) -> Any:
        return self.json[wire.DATA]


def connect(simulator: Simulator, *, timeout: float = 10) -> http.client.HTTPConnection:
    host, port = simulator.url.removeprefix("http://").split(":")
    return http.client.HTTPConnection(host, int(port), timeout=timeout)


def signed(stamp: float, *, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    return signing.headers(api_key=key, api_secret=secret, timestamp=int(stamp))


def prefixed(path: str) -> str:
    """Return the path of a call as it is documented, for one of the paths of `wire`; any other path as it is."""
    return wire.PATH_PREFIX + path if path.startswith("/number/") else path


def send(
    simulator: Simulator,
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    timeout: float = 10,
) -> Answer:
    connection = connect(simulator, timeout=timeout)
    try:
        connection.request(method, prefixed(path), body, signed(simulator.now()) if headers is None else headers)
        reply = connection.getresponse()
        return Answer(code=reply.status, headers=dict(reply.getheaders()), body=reply.read())
    finally:
        connection.close()


def bind_body(
    a: str, b: str, *, mode: str = "AXB", expire_s: int = 60, pool: str = "918806", app_id: str = APP_ID
) -> bytes:
    return wire.bind_body(
        BindRequest(
            phone_a=Phone(a),
            phone_b=Phone(b),
            pool_number=pool,
            expire_s=expire_s,
            mode=Mode(mode),
            app_id=app_id,
        )
    )


def bind(simulator: Simulator, a: str, b: str, *, timeout: float = 10, **options: Any) -> Answer:
    return send(simulator, wire.BIND_PATH, bind_body(a, b, **options), timeout=timeout)


def unbind(simulator: Simulator, bind_id: Any, *, app_id: str = APP_ID) -> Answer:
    body = json.dumps({wire.BIND_ID: bind_id, wire.APP_ID: app_id}).encode()
    return send(simulator, wire.UNBIND_PATH, body)


def page(simulator: Simulator, *, current: int = 1, size: int = 100, app_id: str | None = APP_ID) -> Answer:
    body = wire.page_body(wire.PageRequest(app_id=app_id, current=current, size=size))
    return send(simulator, wire.PAGE_PATH, body)


def listed(answer: Answer) -> list[int]:
    """The ids on a page."""
    return [int(record[wire.BIND_ID]) for record in answer.data[wire.RECORDS]]


def control(simulator: Simulator, method: str, name: str, fields: Any = None) -> Answer:
    body = b"" if fields is None else json.dumps(fields).encode()
    return send(simulator, "/_simulator/" + name, body, method=method, headers={})
