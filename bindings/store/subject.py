"""What is stored of one phone outside of its bindings and refused binds, for an access request."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select

from bindings.store import phones
from bindings.store.schema import bindings, searches

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from bindings.domain.phone import Phone
    from bindings.store.access_log import Export

VIEW = "records of a person"  # in the access log
OTHER_VIEWS = ("access log", "events", VIEW)  # not lists of bindings


def searches_of(connection: Connection, phone: Phone) -> list[dict[str, Any]]:
    """Return the searches of the console for the phone, in plain values and without the phone."""
    forms = phones.forms(connection.dialect, phone)
    columns = searches.c.id, searches.c.words, searches.c.at, searches.c.expires_at
    is_searched = (phones.is_any_of(column, forms) for column in (searches.c.number, searches.c.party))
    rows = connection.execute(select(*columns).where(or_(*is_searched)))
    return [dict(row._asdict()) for row in rows]


def may_be_in_export(connection: Connection, phone: Phone, export: Export) -> bool:
    """Return whether an export names a binding of the phone, or has a period in which one was requested.

    What else its list was narrowed to is not compared.
    """
    if export.view in OTHER_VIEWS:
        return False
    forms = phones.forms(connection.dialect, phone)
    conditions = [
        or_(*(phones.is_any_of(column, forms) for column in (bindings.c.phone_a, bindings.c.phone_b))),
        bindings.c.requested_at <= export.began_at,
    ]
    binding_id, start, end = (export.filter.get(name) for name in ("binding_id", "from", "to"))
    if binding_id is not None:
        conditions.append(bindings.c.id == binding_id)
    if start is not None:
        conditions.append(bindings.c.requested_at >= datetime.fromisoformat(start))
    if end is not None:
        conditions.append(bindings.c.requested_at < datetime.fromisoformat(end))
    return connection.execute(select(bindings.c.id).where(*conditions).limit(1)).first() is not None
