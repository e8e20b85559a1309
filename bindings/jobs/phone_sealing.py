"""Encrypt the stored phones, or move them to newer keys, while the service runs; and report how they are stored.

First every process is made to write with the new keys, then the rows are converted in batches. Each step is safe
to repeat and to stop at any point: the same call goes on with what is left. Only the owner of the tables may.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bindings.access.access_log import AccessLog
from bindings.domain.phone import Phone
from bindings.domain.text import first_names
from bindings.errors import Busy, InvalidRequest
from bindings.failpoints import hit
from bindings.store import phone_sealing as store
from bindings.store import protection, replicas
from bindings.store.phone_keys import VARIABLES
from bindings.store.phone_sealing import ReplicasWithoutKeys
from bindings.store.schema import SEALED_PHONES
from bindings.validation import fields
from bindings.validation.requests import FieldErrors

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.lifecycle.runtime import Runtime
    from bindings.store.database import Transaction
    from bindings.store.phone_keys import KeyNumbers, PhoneKeys
    from bindings.store.phone_sealing import PhoneStatus

    Progress = Callable[[int, int], None]  # rows converted, and of how many

SWITCH_BUDGET_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SealingResult:
    """What a call converted, by table, and what is left. `removable` are keys of the ring that no row needs."""

    index_key: int
    data_key: int
    converted: dict[str, int]
    remaining: dict[str, int]
    complete: bool
    dry_run: bool
    removable: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class PhonesReport:
    """How phones are stored: the keys that are written with, the rows by form, and what to do next, if anything.

    `rows` has by table the rows with phones in `digits`, and those of each key. `replicas_without_keys` are the
    processes at work that could not write with the keys that are to be written with.
    """

    index_key: int | None
    data_key: int | None
    sealed_at: str | None
    rows: dict[str, dict[str, int]]
    remaining: dict[str, int]
    replicas_without_keys: list[str] = field(default_factory=list)
    next_step: str | None


def seal(runtime: Runtime, *, dry_run: bool = False, on_progress: Progress | None = None) -> SealingResult:
    """Encrypt every stored phone with the newest keys of the ring, or go on with what is left to convert.

    With `dry_run` only count. Raises `InvalidRequest` without keys or unless the role owns the tables, and `Busy`
    while a process at work could not read the result.
    """
    keys = _require_keys(runtime)
    current = runtime.database.read(store.status)
    numbers = keys.newest if current.numbers.index is None else current.numbers
    is_switch = numbers != current.numbers
    return _convert(runtime, keys, numbers, is_switch=is_switch, dry_run=dry_run, on_progress=on_progress)


def rotate(runtime: Runtime, *, dry_run: bool = False, on_progress: Progress | None = None) -> SealingResult:
    """Move every stored phone to the newest keys of the ring: a newer index key or a newer data key, not both.

    Raises as `seal`, and `InvalidRequest` if phones are not encrypted, if an earlier conversion is not complete,
    or if the ring has no newer key.
    """
    keys = _require_keys(runtime)
    current = runtime.database.read(store.status)
    if current.numbers.index is None:
        raise _wrong("phones", "are stored in digits: run `bindings phones seal` first")
    if current.sealed_at is None:
        raise _wrong("phones", "are not all converted yet: run `bindings phones seal`, which goes on, first")
    changes = len(set(keys.newest.names) - set(current.numbers.names))
    if changes == 0:
        raise _wrong(VARIABLES, f"has no newer key than {current.numbers.description}")
    if changes > 1:
        raise _wrong(VARIABLES, "has a newer index key and a newer data key: add one, rotate, then the other")
    return _convert(runtime, keys, keys.newest, is_switch=True, dry_run=dry_run, on_progress=on_progress)


def report(runtime: Runtime) -> PhonesReport:
    """Return how phones are stored and what to do next. Reads every row."""
    database = runtime.database
    current, keys = database.read(store.status), database.phone_keys
    names = sorted({*current.checks, *(keys.checks if keys else ())}, key=lambda name: name.split(":"))
    counts = database.read(store.counts, names)
    target = current.numbers if keys is None or current.numbers.index is not None else keys.newest
    unfit = []
    if keys is not None and target.index is not None and keys.has(target):
        unfit = database.read(store.replicas_without, keys, target, database.clock() - replicas.RECENT)
    remaining = {} if current.numbers.index is None else database.read(store.remaining, current.numbers)
    return PhonesReport(
        index_key=current.numbers.index,
        data_key=current.numbers.data,
        sealed_at=None if current.sealed_at is None else current.sealed_at.isoformat(),
        rows={table: {"digits": count.digits} | count.by_key for table, count in counts.items()},
        remaining=remaining,
        replicas_without_keys=unfit,
        next_step=next_step(current, keys, unfit, is_left=any(remaining.values())),
    )


def blind_indexes(runtime: Runtime, phone: object, *, reason: object) -> dict[str, str]:
    """Return the blind index of a phone by index key, and record that it was asked for, by whom and why.

    `InvalidRequest` for a wrong phone or reason, or without keys. Not safe to repeat: each call is recorded.
    """
    errors = FieldErrors()
    checked_phone = errors.check("phone", fields.phone, phone)
    checked_reason = errors.check("reason", fields.single_line("reason"), reason)
    errors.raise_if_any()
    keys = _require_keys(runtime)
    AccessLog(runtime).record_reveal([], reason=checked_reason or "", subject="blind index of a phone")
    return keys.blind_indexes(Phone(checked_phone or ""))


def next_step(current: PhoneStatus, keys: PhoneKeys | None, unfit: list[str], *, is_left: bool) -> str | None:
    """Return what to do next to encrypt the phones or to end a rotation, or None if there is nothing to do."""
    if keys is None:
        return f"set {VARIABLES} for every process: `bindings phones new-keys FILE` makes the keys"
    if current.numbers.index is None:
        if unfit:
            return f"restart the processes that lack the keys: {first_names(unfit)}"
        return "run `bindings phones seal`"
    if is_left or current.sealed_at is None:
        return "run `bindings phones seal`: it goes on with what is left to convert"
    if set(keys.newest.names) - set(current.numbers.names):
        return "run `bindings phones rotate`: the keys have a newer one than the phones"
    removable = _removable(current, keys)
    return f"remove from the keys what no row needs: {', '.join(removable)}" if removable else None


def _convert(
    runtime: Runtime,
    keys: PhoneKeys,
    numbers: KeyNumbers,
    *,
    is_switch: bool,
    dry_run: bool,
    on_progress: Progress | None,
) -> SealingResult:
    database = runtime.database
    remaining = database.read(store.remaining, numbers)
    converted = dict.fromkeys(remaining, 0)
    complete = False
    if not dry_run:
        _require_owner(runtime)
        if is_switch:
            _switch(runtime, keys, numbers, rows_left=sum(remaining.values()))
            remaining = database.read(store.remaining, numbers)  # with the rows that were written until then
        total = sum(remaining.values())
        _record_rows_left(runtime, total)
        for table in remaining:
            after = None
            while True:
                rows_left = total - sum(converted.values())
                count, after = _convert_batch(runtime, table, numbers, after, rows_left)
                converted[table] += count
                if on_progress is not None:
                    on_progress(sum(converted.values()), total)
                if after is None:
                    break
        complete = database.write(lambda tx: store.finish(tx, runtime.caller))
        remaining = database.read(store.remaining, numbers)
        _record_rows_left(runtime, sum(remaining.values()))
    current = database.read(store.status)
    return SealingResult(
        index_key=numbers.index or 0,
        data_key=numbers.data or 0,
        converted=converted,
        remaining=remaining,
        complete=complete,
        dry_run=dry_run,
        removable=_removable(current, keys) if complete else [],
    )


def _convert_batch(
    runtime: Runtime, table: str, numbers: KeyNumbers, after: str | None, rows_left: int
) -> tuple[int, str | None]:
    """Convert a batch of a table and record how many of the `rows_left` of all tables then remain."""

    def work(tx: Transaction) -> tuple[int, str | None]:
        result = store.convert_batch(tx, table, numbers, after, runtime.caller)
        store.record_rows_left(tx, max(0, rows_left - result[0]), runtime.replica)
        hit("phones.batch_in_transaction")
        return result

    result = runtime.database.write(work, budget_s=SWITCH_BUDGET_S)
    hit("phones.after_batch")
    return result


def _record_rows_left(runtime: Runtime, rows: int) -> None:
    runtime.database.write(lambda tx: store.record_rows_left(tx, rows, runtime.replica))


def _switch(runtime: Runtime, keys: PhoneKeys, numbers: KeyNumbers, *, rows_left: int) -> None:
    """Let every process write with these keys, and record the rows left. `Busy` while one at work cannot.

    The rows are counted before: while they would be counted here, every bind would wait.
    """

    def work(tx: Transaction) -> None:
        store.switch(tx, keys, numbers, runtime.caller)
        store.record_rows_left(tx, rows_left, runtime.replica)

    try:
        runtime.database.write(work, budget_s=SWITCH_BUDGET_S)
    except ReplicasWithoutKeys as unfit:
        raise Busy(
            f"processes that use the database could not read the result ({first_names(unfit.names)}): they lack"
            f" {numbers.description}, have other keys under these numbers, or know only a schema"
            f" before {SEALED_PHONES}; nothing was changed",
            retry_after_s=round(replicas.RECENT.total_seconds()),
            todo="restart them with the same keys; one that has stopped counts for three minutes",
        ) from None
    hit("phones.after_switch")


def _removable(current: PhoneStatus, keys: PhoneKeys) -> list[str]:
    return [] if current.sealed_at is None else [name for name in keys.checks if name not in current.checks]


def _require_keys(runtime: Runtime) -> PhoneKeys:
    if runtime.database.phone_keys is None:
        raise _wrong(VARIABLES, "is needed: `bindings phones new-keys FILE` makes the keys")
    runtime.database.run_deferred_check()
    return runtime.database.phone_keys


def _require_owner(runtime: Runtime) -> None:
    database = runtime.database
    if database.postgres and not database.read(protection.role).owner:
        raise _wrong("BINDINGS_DATABASE_URL", "must have the role that owns the tables; nothing was changed")


def _wrong(name: str, message: str) -> InvalidRequest:
    return InvalidRequest.of_field(name, message)
