"""Erase one person's phone from the database, and repeat the erasures of the journal after a restore.

The journal has the erasure before the first row is changed, and the database an event when the last one is. An
erasure between the two, after a crash or a restore, is repeated by `replay`, or by the same erasure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from uuid_utils import uuid7

from bindings import errors
from bindings.access.erasure_journal import VARIABLE, ErasureJournal, JournalEntry
from bindings.domain.binding import Holder
from bindings.domain.text import FreeText, first_names
from bindings.errors import InvalidRequest
from bindings.failpoints import hit
from bindings.store import erasure, protection
from bindings.store.reserve import seconds_until
from bindings.validation import requests as validation

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.domain.binding import Caller
    from bindings.domain.phone import Phone
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.database import Transaction
    from bindings.store.erasure import OpenHolder

BATCH = 500
REPLAYED = "repeated from the journal of erasures"


@dataclass(frozen=True, kw_only=True, slots=True)
class ErasureResult:
    """What an erasure changed and deleted, or would (`dry_run`). `id` is the request id of its events.

    `old_events` are events of earlier versions that keep a reference or a reason in themselves: an event is never
    changed. `dry_run` has no `id`.
    """

    id: str | None
    bindings: int
    texts: int
    refusals: int
    holds: int
    searches: int
    old_events: int
    dry_run: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayResult:
    """What a replay did: `erased` again, `complete` before, and `open` that are to be repeated later."""

    entries: int
    complete: int
    erased: int
    open: int
    bindings: int


class Erasure:
    """The erasures of one database. Thread-safe; only the owner of the tables may erase."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._database = runtime.database

    def erase(
        self,
        *,
        phone: str | Phone,
        reason: str,
        ticket: str | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> ErasureResult:
        """Erase a phone from every binding that has ended, with what else may name the person.

        The other party of each binding stays, and so does the binding. With `dry_run` nothing is changed. The
        `reason` is recorded, and cannot be erased: it must not name the person. Safe to repeat, and to begin again
        after a crash. `on_progress` gets the number of bindings after each batch.

        Raises `PhoneInUse` while a binding or a hold of the phone is open, `InvalidRequest` without
        BINDINGS_ERASURE_JOURNAL or as another role than the owner of the tables, and `Busy`.
        """
        checked, checked_reason, checked_ticket = validation.erasure(phone=phone, reason=reason, ticket=ticket)
        journal = self._journal()
        if not dry_run:
            self._require_owner()
            journal.prepare()
        now = self._database.clock()
        self._require_ended(checked, now, until=None)
        counts = self._database.read(erasure.count, checked, now, until=None)
        old_events = self._database.read(erasure.count_old_events, checked, until=None)
        if dry_run:
            return ErasureResult(id=None, old_events=old_events, dry_run=True, **counts)
        entry = self._unfinished_entry(journal, checked)
        if entry is None:
            entry = JournalEntry(id=str(uuid7()), at=now, digest=journal.digest(checked), ticket=checked_ticket)
            journal.append(entry, counts)
        hit("erase.after_journal")
        counts = self._run(checked, entry, reason=checked_reason, until=None, on_progress=on_progress)
        return ErasureResult(id=entry.id, old_events=old_events, dry_run=False, **counts)

    def replay(self) -> ReplayResult:
        """Repeat the erasures of the journal that this database has not carried out, after a restore or a crash.

        Erased is what was there when the erasure was requested; what came later stays. Bindings that the restored
        database has as open are left: repeat the replay when they have ended. Safe to repeat. Raises
        `InvalidRequest` if the journal or its key is missing or does not fit, and `Busy`.
        """
        journal = self._journal()
        self._require_owner()
        entries = journal.entries()
        missing = [entry for entry in entries if not self._database.read(erasure.is_complete, entry.id)]
        phones = self._phones_of(journal, {entry.digest for entry in missing})
        erased = open_count = bindings = 0
        for entry in missing:
            phone = phones.get(entry.digest)
            now = self._database.clock()
            if phone is not None:
                is_open = self._database.read(erasure.open_holders, phone, now, until=entry.at)
                if is_open:
                    open_count += 1
                    continue
            counts = self._run(phone, entry, reason=REPLAYED, until=entry.at)
            erased, bindings = erased + 1, bindings + counts["bindings"]
        return ReplayResult(
            entries=len(entries),
            complete=len(entries) - len(missing),
            erased=erased,
            open=open_count,
            bindings=bindings,
        )

    def _unfinished_entry(self, journal: ErasureJournal, phone: Phone) -> JournalEntry | None:
        """Return the entry of an erasure of the phone that did not reach its end, or None."""
        digest = journal.digest(phone)
        entries = (entry for entry in journal.entries() if entry.digest == digest)
        return next((entry for entry in entries if not self._database.read(erasure.is_complete, entry.id)), None)

    def _journal(self) -> ErasureJournal:
        path = self._runtime.settings.erasure_journal
        if path is None:
            message = "is needed to erase: without the journal, a restore brings back what was erased"
            raise InvalidRequest.of_field(VARIABLE, message)
        return ErasureJournal(path)

    def _require_owner(self) -> None:
        if self._database.postgres and not self._database.read(protection.role).owner:
            message = "must name the role that owns the tables: only that one may erase"
            raise InvalidRequest.of_field("BINDINGS_DATABASE_URL", message)

    def _phones_of(self, journal: ErasureJournal, digests: set[str]) -> dict[str, Phone]:
        """Return the phones of the database that have one of these digests, by digest."""
        if not digests:
            return {}
        phones: dict[str, Phone] = {}
        for phone in self._database.stream(erasure.all_phones):
            digest = journal.digest(phone)
            if digest in digests:
                phones[digest] = phone
        return phones

    def _require_ended(self, phone: Phone, now: datetime, *, until: datetime | None) -> None:
        holders = self._database.read(erasure.open_holders, phone, now, until=until)
        if holders:
            raise _still_open(holders, now)

    def _run(
        self,
        phone: Phone | None,
        entry: JournalEntry,
        *,
        reason: str,
        until: datetime | None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> dict[str, int]:
        """Erase in batches, and record the end. Without a phone (the database has none) only record it."""
        caller = replace(self._runtime.caller, request_id=entry.id)
        counts: Counter[str] = Counter(dict.fromkeys(("bindings", "texts", "refusals", "holds", "searches"), 0))
        references: set[str] = set()
        while phone is not None:
            ended, refused = self._database.write(
                partial(self._erase_batch, phone=phone, ticket=entry.ticket, caller=caller, until=until)
            )
            counts.update(bindings=ended.bindings, texts=ended.texts, refusals=refused.refusals)
            references.update(ended.references, refused.references)
            on_progress(counts["bindings"])
            hit("erase.after_batch")
            if max(ended.bindings, refused.refusals) < BATCH:
                break
        detail: dict[str, Any] = {
            "ticket": entry.ticket,
            "reason": FreeText(reason),
            "bindings": counts["bindings"],
        }

        def end(tx: Transaction) -> tuple[int, int]:
            hold_ids: list[str] = []
            searches = 0
            if phone is not None:
                now = erasure.lock(tx, self._runtime.settings.scope, phone)
                hold_ids = erasure.erase_holds(tx, phone, now, until=until)
                searches = erasure.erase_searches(tx, phone, sorted(references))
            erasure.erase_examples(tx)
            # With the deletion itself: a hold that no event names as erased counts as lost.
            erasure.record_end(tx, caller, detail | {"hold_ids": hold_ids})
            hit("erase.end_in_transaction")
            return len(hold_ids), searches

        counts["holds"], counts["searches"] = self._database.write(end)
        return dict(counts)

    def _erase_batch(
        self, tx: Transaction, *, phone: Phone, ticket: str | None, caller: Caller, until: datetime | None
    ) -> tuple[erasure.ErasedBatch, erasure.ErasedBatch]:
        """Erase a batch of bindings and one of refusals, with the texts that name the person; return what it was.

        Raises `PhoneInUse` while a binding or a hold of the phone is open.
        """
        now = erasure.lock(tx, self._runtime.settings.scope, phone)
        holders = erasure.open_holders(tx.connection, phone, now, until=until)
        if holders:
            raise _still_open(holders, now)
        ended = erasure.erase_bindings(tx, phone, caller, ticket=ticket, until=until, limit=BATCH)
        refused = erasure.erase_refusals(tx, phone, until=until, limit=BATCH)
        names = (*ended.names, *refused.names)
        texts = erasure.erase_texts_that_name(tx, phone, names, caller, ticket=ticket, until=until)
        hit("erase.in_transaction")
        return replace(ended, texts=ended.texts + texts), refused


def _still_open(holders: list[OpenHolder], now: datetime) -> errors.PhoneInUse:
    """Return the error that names what still holds the phone, and how to end it."""
    first = max(holders, key=lambda holder: holder.held_until)
    holder = Holder(
        id=first.binding_id,
        actor=first.actor,
        reference=None,
        mode=None,
        state=first.state,
        held_until=first.held_until,
        retry_after_s=seconds_until(first.held_until, now),
        why=first.cause,
    )
    ids = [item.binding_id for item in holders if item.binding_id is not None]
    held = [f"{len(holders) - len(ids)} hold(s)"] if len(ids) < len(holders) else []
    names = first_names(held + [f"binding {binding_id}" for binding_id in ids])
    message = f"the phone is still in use: {names}; nothing more was erased"
    return (errors.PhoneInUseAtProvider if holder.foreign else errors.PhoneInUse)(message, holder=holder)
