"""The signature of a call, and the headers that carry it.

The names of the headers belong here; the client chooses the timestamp. The provider requires MD5.
"""

from __future__ import annotations

import hashlib

CONTENT_TYPE_HEADER = "Content-Type"
KEY_HEADER = "Api-Key"
TIMESTAMP_HEADER = "Timestamp"
SIGN_HEADER = "Sign"

CONTENT_TYPE = "application/json;charset=UTF-8"


def signature(*, api_key: str, api_secret: str, timestamp: int) -> str:
    """Return the MD5, in lower-case hex, of key, secret and `timestamp` (Unix seconds) without separators."""
    return hashlib.md5(f"{api_key}{api_secret}{timestamp}".encode(), usedforsecurity=False).hexdigest()


def headers(*, api_key: str, api_secret: str, timestamp: int) -> dict[str, str]:
    """Return the documented headers of a call, signed at `timestamp` (Unix seconds). Never log them."""
    return {
        CONTENT_TYPE_HEADER: CONTENT_TYPE,
        KEY_HEADER: api_key,
        TIMESTAMP_HEADER: str(timestamp),
        SIGN_HEADER: signature(api_key=api_key, api_secret=api_secret, timestamp=timestamp),
    }
