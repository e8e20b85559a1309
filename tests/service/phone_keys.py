"""Rings of keys for phones, and databases whose phones are written in digits, encrypted, or in turn."""

from __future__ import annotations

import itertools
import json
from base64 import b64encode
from hashlib import shake_256
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from bindings.domain.acts import Act
from bindings.domain.binding import Caller
from bindings.store import account as account_rows
from bindings.store import events, reserve
from bindings.store.phone_key_source import SIZES
from bindings.store.phone_keys import KeyNumbers, PhoneKeys
from bindings.store.reserve_call import ReserveCall
from bindings.store.schema import account

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from bindings.store.database import Database, Transaction

PLAIN, MIXED, SEALED = "plain", "mixed", "sealed"


def key(kind: str, number: int, *, variant: str = "") -> bytes:
    """Return a key that is the same in every test; another one for another `variant`."""
    return shake_256(f"{kind}:{number}{variant}".encode()).digest(SIZES[kind])


def ring(*, index: tuple[int, ...] = (1,), data: tuple[int, ...] = (1,), variant: str = "") -> dict[str, Any]:
    """Return a ring with the keys of these numbers, as its file has it."""
    numbers = {"index": index, "data": data}
    return {
        kind: {str(number): b64encode(key(kind, number, variant=variant)).decode() for number in numbers[kind]}
        for kind in SIZES
    }


def write_ring(
    path: Path, *, index: tuple[int, ...] = (1,), data: tuple[int, ...] = (1,), variant: str = ""
) -> Path:
    """Write a ring to a file that only its owner may read; return its path."""
    path.write_text(json.dumps(ring(index=index, data=data, variant=variant)), encoding="ascii")
    path.chmod(0o600)
    return path


def phone_keys(*, index: tuple[int, ...] = (1,), data: tuple[int, ...] = (1,)) -> PhoneKeys:
    """Return the keys of `ring`, for the scope "default"."""
    return PhoneKeys(
        "default",
        index={number: key("index", number) for number in index},
        data={number: key("data", number) for number in data},
    )


def write_sealed(database: Database, *, index: int | None = 1, data: int | None = 1) -> None:
    """Let phones be written with these keys from now on; None: as digits. Rows stay as they are."""
    account_rows.register_scope(database, "default")
    values = {"phone_index_key": index, "phone_data_key": data}

    def work(tx: Transaction) -> None:
        tx.connection.execute(update(account).values(values))
        facts = {"index_key": index, "data_key": data, "phone_key_checks": None}
        events.append_act(tx, Act.PHONES_KEYS_CHANGED, Caller(actor="test"), facts)

    database.write(work)


def alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let phones be written encrypted and in digits in turn, whatever `account` says."""
    numbers = itertools.cycle([KeyNumbers(1, 1), KeyNumbers(None, None)])
    monkeypatch.setattr(reserve, "KeyNumbers", lambda _index, _data: next(numbers))
    monkeypatch.setattr(account_rows, "key_numbers", lambda _connection: next(numbers))
    monkeypatch.setattr(ReserveCall, "reserve", lambda *_args, **_values: None)  # it goes by `account`
