"""The oracle: compares the provider's ledger with the database, invariant by invariant.

Shares no code with the product. It reads the tables with the plain drivers, folds the events with a table of its
own, and takes the simulator's ledger and request log as the truth. A verdict is a list of violations; an empty
list is good. Binds are identified by their pool number: it is the only field that both the request and the row
have, and only a repeated call has that of an earlier one.
"""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from bindings.provider.simulator import Entry, RecordedRequest, Simulator

SEND_WINDOW_S = 5.0
STUCK_S = 60.0
ROUNDING_S = 0.005  # two clocks are not read at the same time
READING_APART_S = 1.0  # between a row's instant and its event's `at`, two readings of the clock
OPEN = ("pending", "in_doubt", "active")
TERMINAL = ("failed", "expired", "unbound", "lapsed")
NEXT = {
    None: {"requested": "pending"},
    "pending": {"activated": "active", "failed": "failed", "in_doubt": "in_doubt"},
    "in_doubt": {"activated": "active", "adopted": "active", "failed": "failed", "lapsed": "lapsed"},
    "active": {"expired": "expired", "unbound": "unbound"},
    "failed": {},
    "expired": {},
    "unbound": {},
    "lapsed": {},
}
MOVES = {"requested", "activated", "adopted", "failed", "in_doubt", "expired", "unbound", "lapsed"}
INSTANTS = {
    "requested_at",
    "send_by",
    "settle_by",
    "sent_at",
    "answered_at",
    "expires_at",
    "provider_expires_at",
    "held_until",
    "unbind_requested_at",
    "ended_at",
    "warn_at",
    "created_at",
    "at",
}


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One broken invariant: its number, the binding or request concerned, and the problem."""

    invariant: str
    subject: str
    problem: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.subject}: {self.problem}"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The settings of the run that the verdict depends on; seconds."""

    tolerance_s: float = 300.0
    guard_s: float = 5.0
    reading_error_s: float = 4.0  # the largest error of an adopted row's times, both directions together


@dataclass(kw_only=True)
class Evidence:
    """The data for a verdict. Instants are Unix seconds on the run's clock.

    `records` are the workers' records of requests and responses. `settled`: recover and one reconcile have run
    since, so that nothing may be unknown any more. `over`: every binding has ended as well.
    """

    now: float
    entries: Sequence[Entry]
    requests: Sequence[RecordedRequest]
    rows: Sequence[Mapping[str, Any]]
    holds: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    records: Sequence[Mapping[str, Any]] = ()
    rules: Rules = field(default_factory=Rules)
    settled: bool = False
    over: bool = False


def gather(
    url: str,
    simulator: Simulator,
    *,
    records: Iterable[Mapping[str, Any]] = (),
    rules: Rules | None = None,
    settled: bool = False,
    over: bool = False,
) -> Evidence:
    """Read the database, without the product, and the simulator."""
    tables = read_tables(url)
    return Evidence(
        now=simulator.now(),
        entries=simulator.ledger.entries(),
        requests=simulator.requests,
        rows=tables["bindings"],
        holds=tables["holds"],
        events=tables["events"],
        records=list(records),
        rules=rules or Rules(),
        settled=settled,
        over=over,
    )


def read_tables(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row of the three tables, with instants as Unix seconds."""
    parsed = make_url(url)
    tables: dict[str, list[dict[str, Any]]] = {}
    order = {"bindings": "requested_at, id", "holds": "created_at, id", "events": "position"}
    if parsed.get_backend_name() == "sqlite":
        connection = sqlite3.connect(f"file:{parsed.database}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            for table, by in order.items():
                rows = connection.execute(f"SELECT * FROM {table} ORDER BY {by}")
                tables[table] = [_plain(dict(row)) for row in rows]
        finally:
            connection.close()
        return tables
    with psycopg.connect(url, row_factory=dict_row) as server:
        for table, by in order.items():
            query: Any = f"SELECT * FROM {table} ORDER BY {by}"
            tables[table] = [_plain(row) for row in server.execute(query)]
    return tables


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in INSTANTS:
        return seconds(value)
    if name in ("id", "binding_id", "origin_id", "replaces", "replaced_by", "waits_for"):
        return str(value)
    return json.loads(value) if name == "detail" and isinstance(value, str) else value


def seconds(value: Any) -> float:
    """Convert an instant, text or value, to Unix seconds."""
    return (value if isinstance(value, datetime) else datetime.fromisoformat(value)).astimezone(UTC).timestamp()


def judge(evidence: Evidence) -> list[Violation]:
    """Return every violation that the evidence shows."""
    case = _Case(evidence)
    return [violation for check in CHECKS for violation in check(case)]


def retained(evidence: Evidence, before: Evidence, keep_s: float) -> tuple[Evidence, list[Violation]]:
    """Return the evidence without what concerns deleted bindings, and the violations of retention since `before`.

    A binding may be deleted `keep_s` seconds after its end, an event at the same age if its binding is deleted.
    """
    deleted_before = evidence.now - keep_s
    remaining_ids = {row["id"] for row in evidence.rows}
    deleted_rows = {row["id"]: row for row in before.rows if row["id"] not in remaining_ids}
    positions = {event["position"] for event in evidence.events}
    violations = [
        Violation(invariant="retention", subject=row["id"], problem=f"{row['state']}, and deleted too soon")
        for row in deleted_rows.values()
        if row["state"] in OPEN or max(row["held_until"], row["ended_at"]) >= deleted_before
    ]
    violations += [
        Violation(
            invariant="retention", subject=str(event["position"]), problem=f"{event['kind']}: deleted too soon"
        )
        for event in before.events
        if event["position"] not in positions
        and (event["at"] >= deleted_before or event["binding_id"] in remaining_ids)
    ]
    tags = {row["pool_number"] for row in deleted_rows.values()}
    remaining = replace(
        evidence,
        entries=[entry for entry in evidence.entries if entry.pool_number not in tags],
        requests=[
            request
            for request in evidence.requests
            if request.call != "bind" or json.loads(request.body)["poolNumber"] not in tags
        ],
        events=[event for event in evidence.events if event["binding_id"] not in deleted_rows],
        records=[line for line in evidence.records if line.get("id") not in deleted_rows],
    )
    return remaining, violations


class _Case:
    """The evidence with indexes."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.rules = evidence.rules
        self.by_id = {row["id"]: row for row in evidence.rows}
        self.by_bind_id = {row["bind_id"]: row for row in evidence.rows if row["bind_id"] is not None}
        self.holds_of: dict[str, list[Mapping[str, Any]]] = {}
        for hold in evidence.holds:
            if hold["bind_id"] is not None:
                self.holds_of.setdefault(hold["bind_id"], []).append(hold)
        self.history: dict[str, list[Mapping[str, Any]]] = {row["id"]: [] for row in evidence.rows}
        for event in evidence.events:
            if event["binding_id"] is not None:
                self.history.setdefault(event["binding_id"], []).append(event)
        for events in self.history.values():
            events.sort(key=lambda event: int(event["sequence"]))
        self.reserved_at = {
            binding_id: events[0]["at"] if events else self.by_id[binding_id]["requested_at"]
            for binding_id, events in self.history.items()
            if binding_id in self.by_id
        }
        self.own_entries = [entry for entry in evidence.entries if not entry.foreign]
        self.rows_of_tag: dict[str, list[Mapping[str, Any]]] = {}
        for row in sorted(evidence.rows, key=self.sendable_at):
            self.rows_of_tag.setdefault(row["pool_number"], []).append(row)
        self.posts: dict[str, list[RecordedRequest]] = {}
        self.strays: list[str] = []  # the tags of requests without a row
        for request in evidence.requests:
            if request.call == "bind":
                tag = json.loads(request.body)["poolNumber"]
                sent = self.row_at(tag, request.at)
                if sent is None:
                    self.strays.append(tag)
                else:
                    self.posts.setdefault(sent["id"], []).append(request)

    def sendable_at(self, row: Mapping[str, Any]) -> float:
        """Return the instant from which the intent may be sent; infinity for a successor that was not cleared."""
        kinds = {event["kind"] for event in self.history[row["id"]]}
        waits = row["replaces"] is not None and "cleared" not in kinds
        return math.inf if waits else float(row["requested_at"])

    def row_at(self, tag: str, at: float) -> Mapping[str, Any] | None:
        """Return the row that a request with this tag was sent for: a repeated call has the tag of the first."""
        rows = self.rows_of_tag.get(tag, [])
        sendable = [row for row in rows if self.sendable_at(row) <= at + ROUNDING_S]
        return (sendable or rows)[-1] if rows else None

    def row_of_entry(self, entry: Entry) -> Mapping[str, Any] | None:
        """Return the row of what the provider made: with its bind_id, or sent at that time."""
        return self.by_bind_id.get(str(entry.bind_id)) or self.row_at(entry.pool_number, entry.accepted_at)


def _entries_overlap(case: _Case) -> Iterator[Violation]:
    """I1: no overlap in the ledger that one of our binds caused."""
    by_phone: dict[str, list[Entry]] = {}
    for entry in case.evidence.entries:
        for phone in (entry.phone_a, entry.phone_b):
            by_phone.setdefault(phone, []).append(entry)
    for group in by_phone.values():
        group.sort(key=lambda entry: (entry.accepted_at, entry.bind_id))
        for earlier, later in itertools.combinations(group, 2):
            if later.foreign:  # added without the provider's own check
                continue
            if (
                earlier.mode == "AXB"
                and later.accepted_at < earlier.ended_at
                and later.ended_at > later.accepted_at
            ):
                yield Violation(invariant="I1", subject=str(later.bind_id), problem=f"overlaps {earlier.bind_id}")


def _no_bind_is_refused_for_our_binding(case: _Case) -> Iterator[Violation]:
    """I1: no -35 because of our own binding."""
    for event in case.evidence.events:
        if event["kind"] == "failed" and event["detail"].get("own"):
            yield Violation(
                invariant="I1", subject=event["binding_id"], problem="-35 because of our own binding (own_35)"
            )
    for row_id, posts in case.posts.items():
        for post in posts:
            if post.decided == "-35" and (holder := _holder_at(case, case.by_id[row_id], post.at)) is not None:
                yield Violation(
                    invariant="I1", subject=row_id, problem=f"-35: {holder.bind_id} is our own and held a phone"
                )


def _holder_at(case: _Case, row: Mapping[str, Any], at: float) -> Entry | None:
    phones = {row["phone_a"], row["phone_b"]}
    for entry in case.own_entries:
        if (
            entry.mode == "AXB"
            and entry.accepted_at <= at < entry.ended_at
            and {entry.phone_a, entry.phone_b} & phones
        ):
            return entry
    return None


def _rows_overlap(case: _Case) -> Iterator[Violation]:
    """I1: no intent was reserved while our own row held the phone, except a successor beside its predecessor."""
    by_phone: dict[str, list[Mapping[str, Any]]] = {}
    for row in case.evidence.rows:
        for phone in (row["phone_a"], row["phone_b"]):
            by_phone.setdefault(phone, []).append(row)
    for group in by_phone.values():
        open_rows: list[Mapping[str, Any]] = []
        for later in sorted(group, key=lambda row: (case.reserved_at[row["id"]], row["id"])):
            reserved_at = case.reserved_at[later["id"]]
            open_rows = [row for row in open_rows if row["held_until"] > reserved_at + ROUNDING_S]
            for earlier in open_rows:
                same_pair = {earlier["phone_a"], earlier["phone_b"]} == {later["phone_a"], later["phone_b"]}
                if later["replaces"] != earlier["id"] and (earlier["mode"] == "AXB" or same_pair):
                    yield Violation(
                        invariant="I1",
                        subject=later["id"],
                        problem=f"reserved while {earlier['id']} held the phone",
                    )
            open_rows.append(later)


def _successors_take_over(case: _Case) -> Iterator[Violation]:
    """I1: one successor at a time, never at the provider beside its predecessor; no phone is free in between."""
    living: dict[str, list[str]] = {}
    entry_of = {row["id"]: entry for entry in case.own_entries if (row := case.row_of_entry(entry)) is not None}
    for row in case.evidence.rows:
        predecessor = case.by_id.get(row["replaces"] or "")
        if predecessor is None:
            continue
        history = case.history[row["id"]]
        cleared = next((event for event in history if event["kind"] == "cleared"), None)
        before, after = entry_of.get(predecessor["id"]), entry_of.get(row["id"])
        problems = {
            "sent before it was cleared": cleared is None and row["id"] in case.posts,
            "cleared after its own hold": cleared is not None
            and cleared["at"] > seconds(history[0]["detail"]["held_until"]) + ROUNDING_S,
            "recorded after the hold of its predecessor": row["state"] == "active"
            and predecessor["ended_at"] is not None
            and predecessor["state"] == "unbound"
            and case.reserved_at[row["id"]] > predecessor["ended_at"] + ROUNDING_S
            and not _was_replaced_before(case, row),
            "at the provider beside its predecessor": before is not None
            and after is not None
            and after.accepted_at < before.ended_at,
            "waits although it has ended": row["state"] in TERMINAL
            and row["state"] != "lapsed"
            and row["waits_for"] is not None,
        }
        for problem in (problem for problem, is_so in problems.items() if is_so):
            yield Violation(invariant="I1", subject=row["id"], problem=f"successor: {problem}")
        if row["state"] != "failed":
            living.setdefault(predecessor["id"], []).append(row["id"])
    for predecessor_id, successors in living.items():
        if len(successors) > 1:
            yield Violation(invariant="I1", subject=predecessor_id, problem=f"successors: {successors}")


def _was_replaced_before(case: _Case, successor: Mapping[str, Any]) -> bool:
    """Return whether an earlier successor of the same binding has failed: then that may have ended already."""
    return any(
        row["replaces"] == successor["replaces"]
        and row["id"] != successor["id"]
        and case.reserved_at[row["id"]] <= case.reserved_at[successor["id"]]
        for row in case.evidence.rows
    )


def _every_binding_of_the_provider_is_known(case: _Case) -> Iterator[Violation]:
    """I2: every entry has its row; if it is live and all jobs have run, its bind_id is known too."""
    for entry in case.own_entries:
        bind_id = str(entry.bind_id)
        if bind_id in case.by_bind_id or bind_id in case.holds_of:
            continue
        row = case.row_of_entry(entry)
        if row is None:
            yield Violation(invariant="I2", subject=bind_id, problem="made by the provider, and in no row")
        elif row["state"] == "failed":
            yield Violation(invariant="I2", subject=bind_id, problem=f"recorded as failed ({row['reason']})")
        elif row["state"] != "lapsed" and row["bind_id"] is not None:
            yield Violation(invariant="I2", subject=bind_id, problem=f"its row has {row['bind_id']}")
        elif case.evidence.settled and entry.ended_at > case.evidence.now:
            yield Violation(
                invariant="I2", subject=bind_id, problem=f"still live, {row['state']} after a reconcile"
            )


def _one_post_for_one_committed_intent(case: _Case) -> Iterator[Violation]:
    """I3: every POST has its row, made before it; no row has two."""
    for tag in case.strays:
        yield Violation(invariant="I3", subject=tag, problem="sent without a committed intent")
    for row_id, posts in case.posts.items():
        row = case.by_id[row_id]
        if len(posts) > 1:
            yield Violation(invariant="I3", subject=row["id"], problem=f"{len(posts)} POSTs")
        if posts[0].at < row["requested_at"] - ROUNDING_S:
            yield Violation(invariant="I3", subject=row["id"], problem="sent before its intent")
        if row["reason"] == "never_sent":
            yield Violation(invariant="I3", subject=row["id"], problem="recorded as never sent, but was sent")


def _phones_stay_held(case: _Case) -> Iterator[Violation]:
    """I4: our row or a hold covers the whole life of every entry."""
    for entry in case.own_entries:
        row = case.row_of_entry(entry)
        periods = [(row["requested_at"], row["held_until"])] if row is not None else []
        for phone in (entry.phone_a, entry.phone_b):
            held = [
                (hold["created_at"], hold["held_until"])
                for hold in case.holds_of.get(str(entry.bind_id), [])
                if hold["phone"] == phone
            ]
            reached = entry.accepted_at
            for since, until in sorted([*periods, *held]):
                if since <= reached + ROUNDING_S:
                    reached = max(reached, until)
            if reached < min(entry.ended_at, case.evidence.now) - ROUNDING_S:
                gap = min(entry.ended_at, case.evidence.now) - reached
                yield Violation(
                    invariant="I4", subject=str(entry.bind_id), problem=f"a phone was free {gap:.3f} s early"
                )


def _no_phone_is_held_too_long(case: _Case) -> Iterator[Violation]:
    """R1: no binding stays open after its time, and no hold is longer than the longest possible life."""
    rules = case.rules
    for row in case.evidence.rows:
        life_s = row["max_expire_s"] or row["expire_s"]
        longest = SEND_WINDOW_S + rules.tolerance_s + life_s + rules.guard_s + rules.reading_error_s
        if row["held_until"] > row["requested_at"] + longest:
            yield Violation(
                invariant="R1", subject=row["id"], problem="held longer than its longest possible life"
            )
        overdue_s = case.evidence.now - row["held_until"]
        if case.evidence.settled and row["state"] in OPEN and overdue_s > STUCK_S:
            yield Violation(
                invariant="R1", subject=row["id"], problem=f"{row['state']} {overdue_s:.0f} s past held_until"
            )
        if case.evidence.over and row["state"] in OPEN:
            yield Violation(
                invariant="R1", subject=row["id"], problem=f"{row['state']} although every binding has ended"
            )


def _states_only_move_forward(case: _Case) -> Iterator[Violation]:
    """I5: only allowed transitions; one terminal event if the row is terminal, else none."""
    for binding_id, history in case.history.items():
        state: str | None = None
        for event in history:
            if event["kind"] not in MOVES:
                continue
            following = NEXT[state].get(event["kind"])
            if following is None:
                yield Violation(invariant="I5", subject=binding_id, problem=f"{event['kind']} after {state}")
                break
            state = following
        endings = [event["kind"] for event in history if event["kind"] in TERMINAL]
        row = case.by_id.get(binding_id)
        expected = 1 if row is not None and row["state"] in TERMINAL else 0
        if len(endings) != expected:
            yield Violation(invariant="I5", subject=binding_id, problem=f"terminal events: {endings}")


def _no_end_is_reported_too_late(case: _Case) -> Iterator[Violation]:
    """I6: no end that was recorded or returned is later than the ledger's."""
    for entry in case.own_entries:
        row = case.by_bind_id.get(str(entry.bind_id))
        if row is None:
            continue
        reported = [row["expires_at"], row["provider_expires_at"] or row["expires_at"]]
        reported += [
            seconds(e["detail"]["expires_at"]) for e in case.history[row["id"]] if "expires_at" in e["detail"]
        ]
        reported += [
            seconds(line["expires_at"])
            for line in case.evidence.records
            if line.get("id") == row["id"] and line.get("expires_at")
        ]
        if max(reported) > entry.expires_at + ROUNDING_S:
            late = max(reported) - entry.expires_at
            yield Violation(invariant="I6", subject=row["id"], problem=f"reported {late:.3f} s too late")
        if entry.unbound_at is not None and not entry.vanished:
            begun_at = [row["unbind_requested_at"], row["ended_at"] if row["state"] == "expired" else None]
            if all(at is None or at > entry.unbound_at + ROUNDING_S for at in begun_at):
                yield Violation(
                    invariant="I6",
                    subject=row["id"],
                    problem="unbound at the provider before it was requested or expired here",
                )


def _every_promised_end_is_released(case: _Case) -> Iterator[Violation]:
    """R1: when all jobs have run, the provider holds no expired binding until an end of its own."""
    for row in case.evidence.rows if case.evidence.settled else ():
        provider_end = row["provider_expires_at"]
        if row["state"] == "expired" and provider_end is not None:
            left_s = provider_end - max(row["ended_at"], case.evidence.now)
            if left_s > ROUNDING_S:
                yield Violation(invariant="R1", subject=row["id"], problem=f"not released, {left_s:.0f} s left")


def _rows_replay(case: _Case) -> Iterator[Violation]:
    """I7: the row equals the replay of its events, and its version is their count."""
    for row in case.evidence.rows:
        history = case.history[row["id"]]
        if [event["sequence"] for event in history] != list(range(1, row["version"] + 1)):
            yield Violation(
                invariant="I7", subject=row["id"], problem=f"version {row['version']}, {len(history)} events"
            )
            continue
        replayed = replay(history)
        for name, value in replayed.items():
            if not _same(row[name], value):
                yield Violation(
                    invariant="I7", subject=row["id"], problem=f"{name} is {row[name]!r}, replayed {value!r}"
                )


def _same(actual: Any, replayed: Any) -> bool:
    if isinstance(actual, float) and isinstance(replayed, float):
        return abs(actual - replayed) < READING_APART_S
    return bool(actual == replayed)


def replay(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Replay the events of one binding; return the columns."""
    row: dict[str, Any] = dict.fromkeys(
        (
            *("state", "bind_id", "middle_number_a", "middle_number_b", "reason", "provider_status"),
            *("sent_at", "answered_at", "expires_at", "held_until", "unbind_requested_at", "ended_at"),
            *("warn_s", "warn_at", "max_expire_s", "provider_expires_at"),
            *("requested_at", "send_by", "settle_by", "replaces", "replaced_by", "waits_for"),
        )
    )
    for event in history:
        kind, detail = event["kind"], event["detail"]
        row["state"] = NEXT[row["state"]].get(kind, row["state"]) if kind in MOVES else row["state"]
        for name, value in ({} if kind == "late_success" else detail).items():
            if name in row:
                row[name] = seconds(value) if name in INSTANTS else value
        row |= _derived_columns(row, history, event)
    return row


def _derived_columns(  # noqa: C901, PLR0911, PLR0912 -- one case per kind
    row: Mapping[str, Any], history: Sequence[Mapping[str, Any]], event: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the columns that an event changes besides those in its detail."""
    detail = event["detail"]
    within_life = min(max(event["at"], row["requested_at"] or history[0]["at"]), row["held_until"])
    match event["kind"]:
        case "requested":
            return {"requested_at": event["at"]}
        case "cleared":
            return {"waits_for": None}
        case "replaced" if "unbind_requested" in detail:
            return {"unbind_requested_at": within_life}
        case "in_doubt":
            return {"provider_status": detail["status"]}
        case "failed":
            ended = {"held_until": within_life, "ended_at": within_life, "waits_for": None}
            return {"provider_status": detail["status"]} | ended
        case "activated":
            return {"provider_status": None, "reason": None} | _warning(row)
        case "adopted":
            return {"reason": "adopted"} | _warning(row)
        case "drifted" | "shortened" if row["warn_at"] is not None:
            return {"reason": _reason_before(history, event)} | _warning(row)
        case "drifted" | "shortened":
            return {"reason": _reason_before(history, event)}
        case "extended":
            return _warning(row)
        case "expires_soon":
            return {"warn_at": None}
        case "unbind_requested":
            return {"unbind_requested_at": within_life, "reason": _reason_before(history, event)}
        case "unbind_confirmed":
            return {"reason": _reason_before(history, event)}
        case "lapsed":
            return {"ended_at": row["held_until"]}
        case "expired":
            return {"ended_at": row["expires_at"]}
        case _:
            return {}


def _warning(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"warn_at": None if row["warn_s"] is None else row["expires_at"] - row["warn_s"]}


def _reason_before(history: Sequence[Mapping[str, Any]], event: Mapping[str, Any]) -> Any:
    """Return the row's reason before an event whose own reason is not the row's (unbind request, confirmation)."""
    before = [earlier for earlier in history if earlier["sequence"] < event["sequence"]]
    return replay(before)["reason"]


def _warnings_are_written_once_and_in_time(case: _Case) -> Iterator[Violation]:
    """I5: at most one warning of each end, only while active and not to be unbound, and not before it was due."""
    for binding_id, history in case.history.items():
        kinds = [event["kind"] for event in history]
        for at in (index for index, kind in enumerate(kinds) if kind == "expires_soon"):
            due = replay(history[:at])["warn_at"]
            if due is None or {"unbind_requested", "replaced", *TERMINAL} & set(kinds[:at]):
                yield Violation(invariant="I5", subject=binding_id, problem=f"warned wrongly: {kinds}")
            elif history[at]["at"] < due - ROUNDING_S:
                yield Violation(invariant="I5", subject=binding_id, problem="warned before it was due")


def _keys_and_responses_are_kept(case: _Case) -> Iterator[Violation]:
    """I8, and durability: one binding per key; every binding that was returned is in the database."""
    of_key: dict[str, set[str]] = {}
    for line in case.evidence.records:
        if line.get("id") is None:
            continue
        row = case.by_id.get(line["id"])
        if row is None:
            yield Violation(
                invariant="I3", subject=line["id"], problem="returned to a caller, and not in the database"
            )
            continue
        if line.get("key") and row["freed_key"] is None:
            of_key.setdefault(line["key"], set()).add(line["id"])
        if line.get("bind_id") and row["bind_id"] != line["bind_id"]:
            yield Violation(
                invariant="I7", subject=row["id"], problem=f"returned with {line['bind_id']}, has {row['bind_id']}"
            )
    for key, ids in of_key.items():
        if len(ids) > 1:
            yield Violation(invariant="I8", subject=key, problem=f"{len(ids)} bindings")


CHECKS = (
    _entries_overlap,
    _rows_overlap,
    _successors_take_over,
    _no_bind_is_refused_for_our_binding,
    _every_binding_of_the_provider_is_known,
    _one_post_for_one_committed_intent,
    _phones_stay_held,
    _no_phone_is_held_too_long,
    _states_only_move_forward,
    _no_end_is_reported_too_late,
    _every_promised_end_is_released,
    _rows_replay,
    _warnings_are_written_once_and_in_time,
    _keys_and_responses_are_kept,
)
