"""The check that says how phones are stored, and what to do next to encrypt them or to rotate their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.domain.text import first_names
from bindings.errors import InvalidRequest
from bindings.jobs.phone_sealing import next_step
from bindings.monitoring.check import Check, Level
from bindings.store import account, phone_sealing, replicas

if TYPE_CHECKING:
    from bindings.store.read_once import Reads


def of_phones(database: Reads) -> Check:
    """Return how phones are stored; a warning while an encryption or a rotation is not complete."""
    name, keys = "phones", database.phone_keys
    status = database.read(phone_sealing.status)
    if status.numbers.index is None:
        observed = "phones are stored in digits"
    else:
        observed = f"phones are encrypted with {status.numbers.description}"
        if status.sealed_at is None:
            left = phone_sealing.left_to_convert(database)
            observed += ", and rows from before are not all converted yet"
            observed += f" ({left} left, as last counted)" if left else ""
    try:
        account.require_phone_keys(database)
    except InvalidRequest as refused:
        todo = "give each process these keys: without them none starts"
        return Check(name=name, level=Level.RED, seen=str(refused), todo=todo)
    if keys is None:
        return Check(name=name, level=Level.OK, seen=observed)
    target = keys.newest if status.numbers.index is None else status.numbers
    unfit = []
    if keys.has(target):
        since = database.clock() - replicas.RECENT
        unfit = database.read(phone_sealing.replicas_without, keys, target, since)
    if unfit:
        observed += f"; processes that lack the keys: {first_names(unfit)}"
        todo = "restart them with the keys of this process; one that has stopped counts for three minutes"
        return Check(name=name, level=Level.WARN, seen=observed, todo=todo)
    todo_next = next_step(status, keys, [], is_left=False)
    level = Level.OK if todo_next is None else Level.WARN
    return Check(name=name, level=level, seen=observed, todo=todo_next)
