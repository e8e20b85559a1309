"""What a column may hold, where the two databases differ or a value must not be taken for another.

Every instant passes through `Instant` (aware UTC, naive values refused), every phone through `PhoneNumber` (one
place to encrypt or blind later), every id through `BindingId`. `Detail` is JSON, `Position` counts by itself.
The tables are in `schema`; nothing here knows one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

from bindings.domain.phone import Phone


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant: timestamptz on PostgreSQL, ISO 8601 text that sorts by time on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """SQLite has no instant type and would drop the zone silently."""
        return dialect.type_descriptor(String(27) if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Refuse naive values; on SQLite write microseconds always, so that text order is time order."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        if dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Give back aware UTC whatever zone the session has."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return datetime.fromisoformat(value)
        return value if value.tzinfo is UTC else value.astimezone(UTC)  # type: ignore[no-any-return]


class PhoneNumber(TypeDecorator[Phone]):
    """A phone's digits. Compared through `Phone.key`."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: Phone | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Store the digits."""
        return None if value is None else value.key

    def process_result_value(self, value: str | None, dialect: Dialect) -> Phone | None:  # noqa: ARG002
        """Wrap the digits so that they are masked from here on."""
        return None if value is None else Phone.stored(value)


class BindingId(TypeDecorator[str]):
    """A UUIDv7 in its canonical text: native on PostgreSQL, readable text on SQLite."""

    impl = String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Use the 16-byte type where there is one."""
        return dialect.type_descriptor(
            String(36) if dialect.name == "sqlite" else Uuid(as_uuid=False, native_uuid=True)
        )


Detail = JSON().with_variant(JSONB(), "postgresql")
Position = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER counts by itself on SQLite
