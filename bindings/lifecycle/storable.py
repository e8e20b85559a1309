"""Texts that the encoding of the database lacks characters for: refused in a request, replaced in an answer.

A database in UTF-8 stores every text that the other checks let pass. An old one in another encoding must lose
neither a refusal of the provider because of its words, nor a caller's reference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from bindings.errors import FieldError, InvalidRequest
from bindings.http_transport import NotSent, Unknown
from bindings.provider.outcome import Refused

if TYPE_CHECKING:
    from bindings.domain.binding import BindRequest
    from bindings.store.database import Database

Outcome = TypeVar("Outcome")


def require_storable(database: Database, request: BindRequest) -> None:
    """Raise `InvalidRequest` with each field that the database cannot store."""
    texts = {
        "app_id": request.app_id,
        "reference": request.reference or "",
        "idempotency_key": request.idempotency_key or "",
    }
    if "".join(texts.values()).isascii():
        return
    wrong = [name for name, text in texts.items() if database.storable(text) != text]
    if wrong:
        message = f"has a character that the database cannot store: its encoding is {database.encoding}, not UTF8"
        raise InvalidRequest([FieldError(name, message) for name in wrong])


def storable_outcome(database: Database, outcome: Outcome) -> Outcome:
    """Return the outcome with a `?` for each character of its words that the database cannot store."""
    match outcome:
        case Refused():
            return replace(outcome, reason=database.storable(outcome.reason))
        case NotSent():
            return replace(outcome, reason=database.storable(outcome.reason))
        case Unknown(status=status):
            stored_status = None if status is None else database.storable(status)
            return replace(outcome, reason=database.storable(outcome.reason), status=stored_status)
        case _:
            return outcome
