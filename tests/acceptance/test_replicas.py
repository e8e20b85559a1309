"""Three replicas and two schedulers under mixed load, some of them killed: nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import requests

from bindings.domain.binding import Caller
from bindings.lifecycle.runtime import new_runtime
from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.settings import load
from bindings.store import webhooks
from bindings.store.database import Database
from tests.acceptance.serving import Command, Replica
from tests.acceptance.test_processes import _settings_values, settings
from tests.faults import oracle
from tests.service.harness import wait_for
from tests.store.databases import free_port
from tests.web.receivers import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.processes, pytest.mark.postgres]

REPLICAS, SCHEDULERS = 3, 2
TOLERANCE_S, GUARD_S = 2.0, 0.5


@dataclass(kw_only=True)
class Load:
    """The calls of the clients of a run, and the responses. If a replica does not answer, another is called."""

    urls: list[str]
    seed: int
    confirmed: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    tags: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    def client(self, number: int) -> None:
        """Bind, look up, search and unbind at random until the run ends."""
        dice = random.Random(f"{self.seed}/{number}")
        with requests.Session() as session:
            session.trust_env = False
            while not self.over.is_set():
                try:
                    self._step(session, dice)
                except Exception as error:  # noqa: BLE001 -- the run must show every error
                    self.wrong.append(f"{type(error).__name__}: {error}")
                    return

    def _step(self, session: requests.Session, dice: random.Random) -> None:
        match dice.choices(("bind", "lookup", "search", "unbind"), (4, 5, 1, 2))[0]:
            case "bind":
                self._bind(session, dice)
            case "lookup":
                asked_at = datetime.now(UTC)
                answer = self.send(session, dice, "/v1/lookup", {"phone": _phone(dice)})
                for item in answer.json()["data"]:
                    if datetime.fromisoformat(item["expires_at"]) <= asked_at - timedelta(seconds=0.01):
                        self.wrong.append(f"{item['id']} was offered past its end")
            case "search":
                assert self.send(session, dice, "/v1/bindings/search", {"state": "active"}).status_code == 200
            case "unbind" if self.confirmed:
                ended = dice.choice(self.confirmed)["id"]
                answer = self.send(session, dice, f"/v1/bindings/{ended}/unbind", {"reason": "over"})
                if answer.status_code not in (200, 202):
                    self.wrong.append(f"unbind: {answer.status_code} {answer.text}")
            case _:
                pass

    def _bind(self, session: requests.Session, dice: random.Random) -> None:
        with self.lock:
            tag = next(self.tags)
        a, b = dice.sample(PHONES, 2)
        parameters = {
            "phone_a": a,
            "phone_b": b,
            "pool_number": f"9{tag:09}",  # unique: the oracle distinguishes binds by it
            "expire_s": dice.choice((2, 3, 600)),
            "mode": dice.choice(("AXB", "AXXB")),
            "warn_s": 1,
        }
        key = f"{self.seed}-{tag}"
        answer = self.send(session, dice, "/v1/bindings", parameters, {"Idempotency-Key": key})
        body = answer.json()
        self.counts[str(answer.status_code)] += 1
        if answer.status_code in (200, 201, 202):
            confirmed = {name: body[name] for name in ("id", "bind_id", "expires_at", "state")}
            self.confirmed.append(confirmed | {"what": "bound", "key": key})
        elif body.get("code") not in ("phone-in-use", "busy"):
            self.wrong.append(f"bind: {answer.status_code} {body}")

    def send(
        self,
        session: requests.Session,
        dice: random.Random,
        path: str,
        body: Any,
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        """Call one replica after another until one answers; safe for calls with a key and for reads."""
        for _ in range(200):
            with contextlib.suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                return session.post(dice.choice(self.urls) + path, json=body, headers=headers, timeout=300)
            self.counts["another replica"] += 1
            time.sleep(0.02)
        raise TimeoutError("no replica answers")

    def read_feed(self, feed_events: list[dict[str, Any]]) -> None:
        """Follow the change feed with cursors, from any replica that answers, until it ends after the run."""
        cursor, number = "0-0", 0
        with requests.Session() as session:
            session.trust_env = False
            while True:
                number += 1
                parameters = {"after": cursor, "limit": "200", "wait_s": "0.3"}
                try:
                    answer = session.get(
                        self.urls[number % REPLICAS] + "/v1/events", params=parameters, timeout=30
                    )
                    page = answer.json()
                except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                    time.sleep(0.05)
                    continue
                feed_events.extend(page["data"])
                if self.over.is_set() and not page["data"]:
                    return
                cursor = page["next_cursor"]


PHONES = [f"9188{number:06}" for number in range(60)]


def _phone(dice: random.Random) -> str:
    return dice.choice(PHONES)


def run_with_kills(
    url: str, folder: Path, *, clients: int, seconds: float, waits_for_leases: bool
) -> Counter[str]:
    """Run the load and return the counts of responses; fail if an event is lost, doubled or out of order."""
    seed = random.randrange(10**6)
    print("seed", seed)  # noqa: T201 -- a failure can be repeated
    with Simulator(pool_size=300, timestamp_tolerance_s=60) as simulator, Receiver() as receiver:
        environment = settings(
            url,
            simulator,
            guard_s=str(GUARD_S),
            sweep_interval_s="0.3",
            timestamp_tolerance_s=str(TOLERANCE_S),
            provider_timeout_s="2",
            phone_search_budget="10000",  # most lookups match nothing
        )
        with BindingService.open(**_settings_values(url, simulator)) as service:
            service.webhooks.add(url=receiver.url)
        load = Load(urls=[], seed=seed)
        feed_events: list[dict[str, Any]] = []
        with contextlib.ExitStack() as running:
            schedulers = _drive(running, folder, environment, load, feed_events, (clients, seconds))
            _finish(url, simulator)
            if not waits_for_leases:
                _let_leases_end(url)
            wait_for(lambda: _is_quiet(url) and len(_delivered(receiver)) == _written(url))
            for scheduler in schedulers:
                scheduler.kill()
            feed = _feed(load.urls[1])
        assert load.wrong == []
        _check_evidence(url, simulator, load, feed, feed_events, _delivered(receiver))
    return load.counts


def _drive(
    running: contextlib.ExitStack,
    folder: Path,
    environment: dict[str, str],
    load: Load,
    feed_events: list[dict[str, Any]],
    size: tuple[int, float],
) -> list[Command]:
    """Start everything, kill a replica and a scheduler in mid-load, restart the replica, and end the load.

    `size` is how many clients, for how many seconds. Returns the schedulers that are left.
    """
    client_count, seconds = size
    ports = [free_port() for _ in range(REPLICAS)]

    def serve(number: int) -> Replica:
        log = folder / f"serve-{number}.log"
        return running.enter_context(Replica(log, environment, "--no-scheduler", port=ports[number]))

    replicas = [serve(number) for number in range(REPLICAS)]
    schedulers = [
        running.enter_context(Command(folder / f"scheduler-{number}.log", environment, "scheduler"))
        for number in range(SCHEDULERS)
    ]
    load.urls[:] = [replica.started().url for replica in replicas]
    clients = [threading.Thread(target=load.client, args=(number,)) for number in range(client_count)]
    reader = threading.Thread(target=load.read_feed, args=(feed_events,))
    for thread in (*clients, reader):
        thread.start()
    try:
        time.sleep(seconds / 3)
        replicas[0].kill()
        schedulers[0].kill()
        replicas[0] = serve(0).started()
        time.sleep(2 * seconds / 3)
    finally:
        load.over.set()
        for thread in (*clients, reader):
            thread.join(300)
    assert not any(thread.is_alive() for thread in (*clients, reader))
    return schedulers[1:]


def _finish(url: str, simulator: Simulator) -> None:
    """Resolve what the killed replica left unsettled, with a clock 40 s ahead instead of a wait."""
    later = Database(url, read_clock=lambda: datetime.now(UTC) + timedelta(seconds=40))
    arguments = _settings_values(url, simulator, timestamp_tolerance_s=TOLERANCE_S, guard_s=GUARD_S)
    service = BindingService(new_runtime(load({}, **arguments), later, caller=Caller(actor="heir")))
    try:
        service.recover()
        service.reconcile()
    finally:
        service.close()


def _let_leases_end(url: str) -> None:
    """Make deliveries that the killed scheduler had leased due again, as they would be a minute later."""
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE deliveries SET next_at = clock_timestamp() WHERE state = 'pending'")


def _is_quiet(url: str) -> bool:
    """Return whether no binding ends, and no warning is due, in the next minute."""
    with psycopg.connect(url) as connection:
        soon = (
            "SELECT 1 FROM bindings WHERE state = 'active' AND expires_at < clock_timestamp() + interval '1 min'"
        )
        return connection.execute(soon).fetchone() is None


def _written(url: str) -> int:
    """Return the number of events that a receiver of all kinds gets."""
    return sum(webhooks.is_sent(event["kind"], None) for event in oracle.read_tables(url)["events"])


def _delivered(receiver: Receiver) -> set[str]:
    """Return the cursors of the events that reached the receiver."""
    return {str(json.loads(message.body)["data"]["cursor"]) for message in list(receiver.messages)}


def _feed(url: str) -> list[dict[str, Any]]:
    """Return the whole feed."""
    feed: list[dict[str, Any]] = []
    cursor = "0-0"
    while True:
        page = requests.get(url + "/v1/events", params={"after": cursor, "limit": "200"}, timeout=300).json()
        if not page["data"]:
            return feed
        feed += page["data"]
        cursor = page["next_cursor"]


def _check_evidence(
    url: str,
    simulator: Simulator,
    load: Load,
    feed: list[dict[str, Any]],
    feed_events: list[dict[str, Any]],
    delivered: set[str],
) -> None:
    rules = oracle.Rules(tolerance_s=TOLERANCE_S, guard_s=GUARD_S)
    evidence = oracle.gather(url, simulator, records=load.confirmed, rules=rules, settled=True)
    assert [str(violation) for violation in oracle.judge(evidence)] == []
    assert "-35" not in simulator.counts.decided["bind"]
    assert simulator.ledger.overlaps() == ()
    cursors = [event["cursor"] for event in feed]
    assert len(cursors) == len(set(cursors)) == len(evidence.events), "the feed is complete, without doubles"
    assert [event["cursor"] for event in feed_events] == cursors[: len(feed_events)], (
        "a reader along the way missed nothing"
    )
    sent = {event["cursor"] for event in feed if webhooks.is_sent(event["kind"], None)}
    assert sent == delivered, "every event reached the webhook"
    sequences: dict[str, list[int]] = {}
    for event in feed:
        if event["binding_id"] is not None:
            sequences.setdefault(event["binding_id"], []).append(event["sequence"])
    for binding_id, sequence in sequences.items():
        assert sequence == list(range(1, len(sequence) + 1)), f"{binding_id}: in order and without a gap"


def test_killed_replicas_and_schedulers_lose_nothing(postgres_url: str, tmp_path: Path) -> None:
    counts = run_with_kills(postgres_url, tmp_path, clients=3, seconds=2.5, waits_for_leases=False)
    assert counts["201"] > 5
    assert counts["another replica"] > 0, "the load met the killed replica"


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_killed_replicas_and_schedulers_lose_nothing_for_minutes(postgres_url: str, tmp_path: Path) -> None:
    counts = run_with_kills(postgres_url, tmp_path, clients=6, seconds=120.0, waits_for_leases=True)
    print(dict(counts))  # noqa: T201 -- the figures of a soak
    assert counts["201"] > 500
