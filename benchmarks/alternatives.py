"""Alternatives to the product: the same work written by hand, each with the care that is usual for its kind.

The work: never let a phone have two bindings, call the provider, record the outcome, find a binding by phone. Run
as a program (name, address, folder), an alternative binds until it is killed: the provider stub writes every
binding that it creates to `created`, and the alternative writes every bind that it acknowledged to `acknowledged`.
"""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import sys
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from unittest import mock

import psycopg
import redis
from sqlalchemy import DateTime, String, create_engine, or_, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks import bind as bind_bench
from bindings.errors import PhoneInUse
from bindings.provider.client import ProviderClient
from bindings.provider.outcome import BindSucceeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import BindRequest

    Provider = Callable[[str, str], tuple[str, str]]  # takes two phones, returns bind id and middle number

LIFE_S = 3_600
KILLED_THREADS = 8

TABLE = """
CREATE TABLE IF NOT EXISTS claims (
    id text PRIMARY KEY, phone_a text NOT NULL, phone_b text NOT NULL, state text NOT NULL, bind_id text,
    number text, held_until {instant} NOT NULL);
CREATE INDEX IF NOT EXISTS claims_a ON claims (phone_a, held_until);
CREATE INDEX IF NOT EXISTS claims_b ON claims (phone_b, held_until)
"""


class Alternative(Protocol):
    """One implementation of the work. Thread-safe."""

    def bind(self, phone_a: str, phone_b: str, provider: Provider) -> bool:
        """Bind two phones and return True; return False if a phone is already held."""

    def lookup(self, phone: str) -> int:
        """Return the number of bindings that a phone has."""

    def recorded_phones(self) -> set[str]:
        """Return phone_a of every binding that may exist according to the records of the alternative."""


class Product:
    """The product itself."""

    def __init__(self, address: str) -> None:
        self._service = bind_bench.open_service(address)
        self._service.lookup(phone="91")
        self._provider: Provider = instant_provider
        mock.patch.object(ProviderClient, "bind", self._call_provider).start()

    def _call_provider(self, request: BindRequest, *, send_before: float) -> BindSucceeded:  # noqa: ARG002 -- the signature of the client
        sent = time.monotonic()
        bind_id, number = self._provider(request.phone_a.digits, request.phone_b.digits)
        return BindSucceeded(
            bind_id=bind_id,
            middle_number_a=number,
            middle_number_b=number,
            sent=sent,
            answered=time.monotonic(),
        )

    def bind(self, phone_a: str, phone_b: str, provider: Provider) -> bool:
        self._provider = provider
        try:
            self._service.bind(phone_a=phone_a, phone_b=phone_b, pool_number="918806", expire_s=LIFE_S, mode="AXB")
        except PhoneInUse:
            return False
        return True

    def lookup(self, phone: str) -> int:
        return len(self._service.lookup(phone=phone))

    def recorded_phones(self) -> set[str]:
        return {binding.phone_a.digits for binding in self._service.export_bindings()}


class Psycopg:
    """psycopg with hand-written SQL: locks, check and intent in one transaction, then the outcome; no history."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._local = threading.local()
        with psycopg.connect(address) as connection:
            connection.execute(TABLE.format(instant="timestamptz"))

    @property
    def _connection(self) -> psycopg.Connection[Any]:
        if not hasattr(self._local, "connection"):
            self._local.connection = psycopg.connect(self._address, autocommit=True)
        connection: psycopg.Connection[Any] = self._local.connection
        return connection

    def bind(self, phone_a: str, phone_b: str, provider: Provider) -> bool:
        connection, key = self._connection, str(uuid.uuid4())
        low, high = sorted((phone_a, phone_b))
        with connection.transaction():
            connection.execute(
                "SELECT pg_advisory_xact_lock(%s), pg_advisory_xact_lock(%s)", (int(low), int(high))
            )
            holder = connection.execute(
                "SELECT 1 FROM claims WHERE (phone_a = ANY(%(both)s) OR phone_b = ANY(%(both)s))"
                " AND held_until > clock_timestamp() LIMIT 1",
                {"both": [phone_a, phone_b]},
            ).fetchone()
            if holder:
                return False
            connection.execute(
                "INSERT INTO claims (id, phone_a, phone_b, state, held_until)"
                " VALUES (%s, %s, %s, 'pending', clock_timestamp() + %s)",
                (key, phone_a, phone_b, timedelta(seconds=LIFE_S)),
            )
        bind_id, number = provider(phone_a, phone_b)
        connection.execute(
            "UPDATE claims SET state = 'active', bind_id = %s, number = %s WHERE id = %s", (bind_id, number, key)
        )
        return True

    def lookup(self, phone: str) -> int:
        query = (
            "SELECT * FROM claims WHERE (phone_a = %(phone)s OR phone_b = %(phone)s)"
            " AND state = 'active' AND held_until > clock_timestamp()"
        )
        return len(self._connection.execute(query, {"phone": phone}).fetchall())

    def recorded_phones(self) -> set[str]:
        return {row[0] for row in self._connection.execute("SELECT phone_a FROM claims")}


class Sqlite3:
    """sqlite3 with hand-written SQL: the same in one file, with the same durability."""

    def __init__(self, address: str) -> None:
        self._file = address
        self._local = threading.local()
        self._writer = threading.Lock()
        self._connection.executescript(TABLE.format(instant="text"))

    @property
    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = sqlite3.connect(self._file, isolation_level=None, timeout=20)
            self._local.connection.execute("PRAGMA journal_mode = WAL")
            self._local.connection.execute("PRAGMA synchronous = FULL")
        connection: sqlite3.Connection = self._local.connection
        return connection

    def bind(self, phone_a: str, phone_b: str, provider: Provider) -> bool:
        connection, key = self._connection, str(uuid.uuid4())
        with self._writer:
            connection.execute("BEGIN IMMEDIATE")
            holder = connection.execute(
                "SELECT 1 FROM claims WHERE (phone_a IN (:a, :b) OR phone_b IN (:a, :b)) AND held_until > :now",
                {"a": phone_a, "b": phone_b, "now": _instant_text(0)},
            ).fetchone()
            if not holder:
                connection.execute(
                    "INSERT INTO claims (id, phone_a, phone_b, state, held_until) VALUES (?, ?, ?, 'pending', ?)",
                    (key, phone_a, phone_b, _instant_text(LIFE_S)),
                )
            connection.execute("COMMIT")
        if holder:
            return False
        bind_id, number = provider(phone_a, phone_b)
        with self._writer:
            connection.execute(
                "UPDATE claims SET state = 'active', bind_id = ?, number = ? WHERE id = ?", (bind_id, number, key)
            )
        return True

    def lookup(self, phone: str) -> int:
        query = (
            "SELECT * FROM claims WHERE (phone_a = :phone OR phone_b = :phone)"
            " AND state = 'active' AND held_until > :now"
        )
        return len(self._connection.execute(query, {"phone": phone, "now": _instant_text(0)}).fetchall())

    def recorded_phones(self) -> set[str]:
        return {row[0] for row in self._connection.execute("SELECT phone_a FROM claims")}


class Redis:
    """Redis: one claim key per phone (SET NX PX), the binding as a hash, and expiry by the keys' time to live."""

    def __init__(self, address: str) -> None:
        self._redis: Any = redis.Redis.from_url(address, decode_responses=True)

    def bind(self, phone_a: str, phone_b: str, provider: Provider) -> bool:
        key, life_ms = str(uuid.uuid4()), LIFE_S * 1_000
        claims = [f"claim:{phone_a}", f"claim:{phone_b}"]
        with self._redis.pipeline() as pipeline:
            for claim in claims:
                pipeline.set(claim, key, nx=True, px=life_ms)
            was_set = pipeline.execute()
        if not all(was_set):
            set_claims = [claim for claim, success in zip(claims, was_set, strict=True) if success]
            if set_claims:
                self._redis.delete(*set_claims)
            return False
        bind_id, number = provider(phone_a, phone_b)
        binding = {"phone_a": phone_a, "phone_b": phone_b, "bind_id": bind_id, "number": number}
        with self._redis.pipeline() as pipeline:
            pipeline.hset(f"binding:{key}", mapping=binding)
            pipeline.pexpire(f"binding:{key}", life_ms)
            pipeline.execute()
        return True

    def lookup(self, phone: str) -> int:
        key = self._redis.get(f"claim:{phone}")
        return 1 if key is not None and self._redis.hgetall(f"binding:{key}") else 0

    def recorded_phones(self) -> set[str]:
        return {self._redis.hget(key, "phone_a") for key in self._redis.scan_iter("binding:*", count=1_000)}


class _Base(DeclarativeBase):
    pass


class _Row(_Base):
    __tablename__ = "orm_bindings"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    phone_a: Mapped[str] = mapped_column(String, index=True)
    phone_b: Mapped[str] = mapped_column(String, index=True)
    bind_id: Mapped[str] = mapped_column(String)
    number: Mapped[str] = mapped_column(String)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Orm:
    """SQLAlchemy's ORM on PostgreSQL: check whether a phone is held, call the provider, insert, commit."""

    def __init__(self, address: str) -> None:
        self._engine = create_engine(address.replace("postgresql:", "postgresql+psycopg:"), pool_size=16)
        _Base.metadata.create_all(self._engine)

    def bind(self, phone_a: str, phone_b: str, provider: Provider) -> bool:
        both, now = (phone_a, phone_b), datetime.now(UTC)
        with Session(self._engine) as session:
            holders = select(_Row).where(
                or_(_Row.phone_a.in_(both), _Row.phone_b.in_(both)), _Row.expires_at > now
            )
            if session.scalars(holders).first() is not None:
                return False
            bind_id, number = provider(phone_a, phone_b)
            session.add(
                _Row(
                    id=str(uuid.uuid4()),
                    phone_a=phone_a,
                    phone_b=phone_b,
                    bind_id=bind_id,
                    number=number,
                    expires_at=now + timedelta(seconds=LIFE_S),
                )
            )
            session.commit()
        return True

    def lookup(self, phone: str) -> int:
        with Session(self._engine) as session:
            bindings = select(_Row).where(
                or_(_Row.phone_a == phone, _Row.phone_b == phone), _Row.expires_at > datetime.now(UTC)
            )
            return len(session.scalars(bindings).all())

    def recorded_phones(self) -> set[str]:
        with Session(self._engine) as session:
            return set(session.scalars(select(_Row.phone_a)))


ALTERNATIVES: dict[str, Callable[[str], Alternative]] = {
    "bindings": Product,
    "bindings-sqlite": Product,
    "psycopg": Psycopg,
    "sqlite3": Sqlite3,
    "redis": Redis,
    "orm": Orm,
}


def instant_provider(phone_a: str, phone_b: str) -> tuple[str, str]:  # noqa: ARG001 -- the signature of a provider
    """Return a new bind id and middle number immediately, as a provider without latency would."""
    return str(uuid.uuid4()), str(1_000_000_000 + random.getrandbits(29))


_phones = itertools.count(time.time_ns() // 1_000)


def phone() -> str:
    """Return a phone that is not used anywhere else."""
    return f"917{next(_phones) % 10**11:011}"


def main(name: str, address: str, folder: Path) -> None:
    """Bind in threads until the process is killed."""
    alternative = ALTERNATIVES[name](address)
    created = os.open(folder / "created", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def provider(phone_a: str, phone_b: str) -> tuple[str, str]:
        response = instant_provider(phone_a, phone_b)
        os.write(created, f"{phone_a}\n".encode())
        time.sleep(0.001)
        return response

    def work() -> None:
        with suppress(Exception):  # the server is killed on purpose, and drivers report that in many ways
            while True:
                phone_a = phone()
                alternative.bind(phone_a, phone(), provider)
                os.write(acknowledged, f"{phone_a}\n".encode())

    workers = [threading.Thread(target=work) for _ in range(KILLED_THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _instant_text(after_s: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=after_s)).isoformat()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
