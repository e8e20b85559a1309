"""A seal: the signed statement about a stretch of the feed, which names the hash of the seal before it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bindings.domain.acts import Act
from bindings.domain.binding import EventKind
from bindings.sealing.encoding import canonical, instant_text, sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

FORMAT = 1
BEGINNING = (0, 0)  # the position of the feed before the first event: (tx, position)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """A seal as stored: its `body` is canonical JSON, and `signature` the Ed25519 signature of it, in base64.

    `to_tx` and `to_position` are the position of its last event in the feed; they and `created_at` repeat what the
    body says.
    """

    number: int
    to_tx: int
    to_position: int
    body: str
    signature: str
    created_at: datetime

    @property
    def head(self) -> str:
        """Return the number and the hash of the body, `N:HASH`: to compare with a copy that is kept elsewhere."""
        return f"{self.number}:{self.hash}"

    @property
    def hash(self) -> str:
        """Return the SHA-256 of the body."""
        return sha256(self.body.encode())

    @property
    def end(self) -> tuple[int, int]:
        """Return the position of its last event in the feed."""
        return self.to_tx, self.to_position


@dataclass(frozen=True, kw_only=True, slots=True)
class SealBody:
    """What a seal states: `count` events, from the cursor `first` to the cursor `last`, have the Merkle `root`.

    `previous` is the hash of the body before it (None: it is the first one). `epoch` counts the restores of the
    database. `key_id` names the key that signed it.
    """

    number: int
    epoch: int
    first: str
    last: str
    count: int
    root: str
    previous: str | None
    at: str
    key_id: str

    def text(self) -> str:
        """Return the body: the text that is hashed and signed."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "number": self.number,
            "epoch": self.epoch,
            "from": self.first,
            "to": self.last,
            "count": self.count,
            "root": self.root,
            "previous": self.previous,
            "at": self.at,
            "key_id": self.key_id,
        }
        return canonical(values).decode()

    @classmethod
    def parse(cls, text: str) -> SealBody:
        """Return the body from its text. Raises `ValueError` unless it is the canonical text of a body."""
        try:
            values = json.loads(text)
            values["first"], values["last"] = values.pop("from"), values.pop("to")
            del values["format"]
            body = cls(**values)
            matches = body.text() == text
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError("not the body of a seal") from error
        if not matches:
            raise ValueError("not the canonical body of a seal")
        return body


def head_of(seal: Seal | None) -> str | None:
    """Return the head of a chain that ends with a seal, or None if there is none."""
    return None if seal is None else seal.head


def cursor(position: tuple[int, int]) -> str:
    """Return the cursor of a position of the feed, (tx, position)."""
    return f"{position[0]}-{position[1]}"


def is_restore(event: Mapping[str, Any]) -> bool:
    """Return whether an event says that the database was restored: the epoch after it is another one."""
    return bool(event["kind"] == EventKind.ADMINISTERED and event["detail"].get("act") == Act.DATABASE_RESTORED)


def next_body(
    previous: Seal | None,
    *,
    positions: tuple[tuple[int, int], tuple[int, int]],
    count: int,
    root: str,
    restores: int,
    at: datetime,
    key_id: str,
) -> SealBody:
    """Return the body of the seal after `previous` over `count` events between two positions, both included.

    `restores` of the events say that the database was restored.
    """
    return SealBody(
        number=1 if previous is None else previous.number + 1,
        epoch=restores + (1 if previous is None else SealBody.parse(previous.body).epoch),
        first=cursor(positions[0]),
        last=cursor(positions[1]),
        count=count,
        root=root,
        previous=None if previous is None else previous.hash,
        at=instant_text(at),
        key_id=key_id,
    )
