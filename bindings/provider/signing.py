"""The signature of a call, and the headers that carry it.

Here live the names of the headers and nothing else; the stamp is chosen by the client. MD5 is what the
provider asks for.
"""

from __future__ import annotations

import hashlib

CONTENT_TYPE_HEADER = "Content-Type"
KEY_HEADER = "Api-Key"
TIMESTAMP_HEADER = "Timestamp"
SIGN_HEADER = "Sign"

CONTENT_TYPE = "application/json;charset=UTF-8"


def signature(*, api_key: str, api_secret: str, timestamp: int) -> str:
    """Hex MD5, in lower case, of key, secret and `timestamp` (Unix seconds), joined without a separator."""
    return hashlib.md5(f"{api_key}{api_secret}{timestamp}".encode(), usedforsecurity=False).hexdigest()


def headers(*, api_key: str, api_secret: str, timestamp: int) -> dict[str, str]:
    """The documented headers of a call signed at `timestamp` (Unix seconds). Never log them."""
    return {
        CONTENT_TYPE_HEADER: CONTENT_TYPE,
        KEY_HEADER: api_key,
        TIMESTAMP_HEADER: str(timestamp),
        SIGN_HEADER: signature(api_key=api_key, api_secret=api_secret, timestamp=timestamp),
    }
