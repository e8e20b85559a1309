"""The HTTP replies of the simulator: those of the rules, and those that an injected fault replaces them with.

Bytes only; no sockets and no rules. How a reply is sent (slowly, or only half of it) is in `server`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from bindings.provider import statuses, wire
from bindings.provider.simulator.faults import Fault, FaultKind

if TYPE_CHECKING:
    from bindings.provider.simulator.rules import Answer

REDIRECT_TARGET = "/elsewhere"  # a path that does not exist; a client that follows the redirect is recorded
WRONG_TOTAL = 1_000_000
JSON = "application/json;charset=UTF-8"
HTML = "text/html"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An HTTP reply; `answered` is the status of its envelope, or None if it has no envelope."""

    code: HTTPStatus
    body: bytes
    content_type: str = JSON
    location: str | None = None
    retry_after_s: float | None = None
    answered: str | None = None

    def head(self, *, date: str, close: bool) -> bytes:
        """Return the status line and the header fields, up to and including the empty line."""
        lines = [
            f"HTTP/1.1 {self.code.value} {self.code.phrase}",
            f"Date: {date}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
        ]
        if self.location is not None:
            lines.append(f"Location: {self.location}")
        if self.retry_after_s is not None:
            lines.append(f"Retry-After: {math.ceil(self.retry_after_s)}")
        if close:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _page(code: HTTPStatus, text: str) -> Reply:
    return Reply(code=code, body=f"<html><body>{text}</body></html>".encode(), content_type=HTML)


NOT_FOUND = _page(HTTPStatus.NOT_FOUND, "not found")
_BAD_GATEWAY = _page(HTTPStatus.BAD_GATEWAY, "bad gateway")
_TOO_MANY_REQUESTS = _page(HTTPStatus.TOO_MANY_REQUESTS, "too many requests")
_GARBAGE = _page(HTTPStatus.OK, "under maintenance")
_REDIRECT = Reply(code=HTTPStatus.FOUND, body=b"", content_type=HTML, location=REDIRECT_TARGET)


def reply_of(answer: Answer) -> Reply:
    """Return the reply with the decision of the rules."""
    body = wire.reply(status=answer.status, reason=answer.reason, data=answer.data)
    return Reply(code=HTTPStatus.OK, body=body, answered=answer.status)


def reply_without_data(status: str) -> Reply:
    """Return an envelope with a status and no data."""
    body = wire.reply(status=status, reason=statuses.meaning(status))
    return Reply(code=HTTPStatus.OK, body=body, answered=status)


def reply_without_action(fault: Fault) -> Reply | None:
    """Return the reply of a fault that is injected instead of the action; None if nothing is sent."""
    match fault.kind:
        case FaultKind.ANOMALY_BEFORE:
            return reply_without_data(statuses.ANOMALY)
        case FaultKind.BAD_GATEWAY:
            return _BAD_GATEWAY
        case FaultKind.REDIRECT:
            return _REDIRECT
        case FaultKind.RATE_LIMIT:
            return replace(_TOO_MANY_REQUESTS, retry_after_s=fault.pause_s)
        case FaultKind.REFUSE:
            return reply_without_data(str(fault.status))
        case _:
            return None


def reply_after_action(fault: Fault | None, answer: Answer) -> Reply | None:
    """Return the reply after the action, changed by the fault if there is one; None if nothing is sent."""
    kind = None if fault is None else fault.kind
    match kind:
        case FaultKind.LOST_REPLY | FaultKind.RESET_AFTER:
            return None
        case FaultKind.ANOMALY_AFTER:
            return reply_without_data(statuses.ANOMALY)
        case FaultKind.BAD_GATEWAY_AFTER:
            return _BAD_GATEWAY
        case FaultKind.GARBAGE:
            return _GARBAGE
        case FaultKind.TRUNCATED:
            return reply_without_data(answer.status)
        case _:
            return reply_of(_with_wrong_total(answer) if kind is FaultKind.WRONG_TOTAL else answer)


def _with_wrong_total(answer: Answer) -> Answer:
    """Return the answer of a page with a total that is far too large; any other answer as it is."""
    is_page = isinstance(answer.data, dict) and wire.TOTAL in answer.data
    return replace(answer, data=answer.data | {wire.TOTAL: WRONG_TOTAL}) if is_page else answer
