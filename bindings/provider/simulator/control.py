"""The control plane under /_simulator: for tests in other processes, and for use with curl.

It uses the product's names, never the provider's field names: JSON in, JSON out, 400 with a sentence for a wrong
request. It shows full phones, so the simulator listens on loopback by default.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from bindings.domain.binding import BindRequest, Mode
from bindings.domain.phone import Phone
from bindings.provider.simulator.faults import FaultScript, fault
from bindings.provider.simulator.rules import MAX_EXPIRE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.provider.simulator.journal import RequestLog
    from bindings.provider.simulator.rules import Rules

PREFIX = "/_simulator/"
_BINDINGS = PREFIX + "bindings/"


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatorState:
    """The parts of one simulator that outlive its connections."""

    rules: Rules
    faults: FaultScript
    journal: RequestLog


@dataclass(frozen=True, kw_only=True, slots=True)
class _ControlRequest:
    """A parsed control call."""

    state: SimulatorState
    query: dict[str, str]
    fields: dict[str, Any]


class _NotFoundError(Exception):
    """No such route, or no such binding."""


def answer(state: SimulatorState, method: str, path: str, body: bytes) -> tuple[HTTPStatus, bytes]:
    """Answer a control call. Safe to repeat, except for POST to faults, foreign and restored."""
    try:
        return HTTPStatus.OK, _json(_answer(state, method, path, body))
    except _NotFoundError as error:
        return HTTPStatus.NOT_FOUND, _json({"error": str(error)})
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        return HTTPStatus.BAD_REQUEST, _json({"error": f"{type(error).__name__}: {error}"})


def _answer(state: SimulatorState, method: str, path: str, body: bytes) -> Any:
    parts = urlsplit(path)
    if method == "DELETE" and parts.path.startswith(_BINDINGS):
        return _remove_binding(state, parts.path.removeprefix(_BINDINGS))
    fields = json.loads(body or b"{}")
    if not isinstance(fields, dict):
        raise TypeError("the body must be an object")
    if method == "POST" and parts.path.startswith(_BINDINGS):
        return _list_as(state, parts.path.removeprefix(_BINDINGS), fields)
    route = _ROUTES.get((method, parts.path.removeprefix(PREFIX)))
    if route is None:
        raise _NotFoundError("the calls are: " + ", ".join(f"{verb} {PREFIX}{name}" for verb, name in _ROUTES))
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return route(_ControlRequest(state=state, query=query, fields=fields))


def _ledger(request: _ControlRequest) -> Any:
    return {"data": [asdict(entry) for entry in request.state.rules.ledger.entries()]}


def _requests(request: _ControlRequest) -> Any:
    return {"data": [asdict(recorded) for recorded in request.state.journal.requests()]}


def _counts(request: _ControlRequest) -> Any:
    return asdict(request.state.journal.counts(request.state.faults.fired()))


def _overlaps(request: _ControlRequest) -> Any:
    policy = request.query.get("policy", request.state.rules.behaviour.policy)
    return {"data": [asdict(pair) for pair in request.state.rules.ledger.overlaps(policy)]}


def _list_faults(request: _ControlRequest) -> Any:
    return {"data": [asdict(scripted) for scripted in request.state.faults.scripted()]}


def _script(request: _ControlRequest) -> Any:
    scripted = fault(**request.fields)
    request.state.faults.add(scripted)
    return asdict(scripted)


def _clear(request: _ControlRequest) -> Any:
    request.state.faults.clear()
    return {}


def _show_behaviour(request: _ControlRequest) -> Any:
    return asdict(request.state.rules.behaviour)


def _change_behaviour(request: _ControlRequest) -> Any:
    return asdict(request.state.rules.change(request.fields))


def _add_foreign_binding(request: _ControlRequest) -> Any:
    return asdict(request.state.rules.add_foreign_binding(foreign_request(**request.fields)))


def _restore_binding(request: _ControlRequest) -> Any:
    entry = request.state.rules.restore_binding(int(request.fields["bind_id"]))
    if entry is None:
        raise _NotFoundError("no binding with that id has ended before its expiry")
    return asdict(entry)


def _remove_binding(state: SimulatorState, bind_id: str) -> Any:
    entry = state.rules.remove_binding(int(bind_id))
    if entry is None:
        raise _NotFoundError("no live binding has that id")
    return asdict(entry)


def _list_as(state: SimulatorState, bind_id: str, fields: dict[str, Any]) -> Any:
    replaced = {name: value for name, value in fields.items() if name != "hidden"}
    state.rules.list_as(int(bind_id), hidden=fields.get("hidden") is True, replaced=replaced)
    return fields


def foreign_request(
    *, phone_a: str, phone_b: str, app_id: str, pool_number: str, expire_s: Any = 3_600, mode: str = "AXB"
) -> BindRequest:
    """Return the request of a foreign binding. Raises ValueError for a value that no binding can have."""
    if isinstance(expire_s, bool) or not isinstance(expire_s, int) or not 1 <= expire_s <= MAX_EXPIRE_S:
        raise ValueError(f"expire_s must be a whole number of seconds from 1 to {MAX_EXPIRE_S}")
    return BindRequest(
        phone_a=Phone(phone_a),
        phone_b=Phone(phone_b),
        pool_number=str(pool_number),
        expire_s=expire_s,
        mode=Mode(mode),
        app_id=str(app_id),
    )


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


_ROUTES: dict[tuple[str, str], Callable[[_ControlRequest], Any]] = {
    ("GET", "ledger"): _ledger,
    ("GET", "requests"): _requests,
    ("GET", "counts"): _counts,
    ("GET", "overlaps"): _overlaps,
    ("GET", "faults"): _list_faults,
    ("POST", "faults"): _script,
    ("DELETE", "faults"): _clear,
    ("GET", "settings"): _show_behaviour,
    ("POST", "settings"): _change_behaviour,
    ("POST", "foreign"): _add_foreign_binding,
    ("POST", "restored"): _restore_binding,
}
