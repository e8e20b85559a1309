from __future__ import annotations

from bindings.provider import signing


def test_signature_of_the_documented_vector_is_the_documented_one() -> None:
    signed = signing.signature(api_key="bDqJFiq9", api_secret="7bz1lzh9", timestamp=1630468800)
    assert signed == "05d7a50893e22a5c4bb3216ae3396c7c"


def test_headers_are_exactly_the_documented_ones() -> None:
    assert signing.headers(api_key="bDqJFiq9", api_secret="7bz1lzh9", timestamp=1630468800) == {
        "Content-Type": "application/json;charset=UTF-8",
        "Api-Key": "bDqJFiq9",
        "Timestamp": "1630468800",
        "Sign": "05d7a50893e22a5c4bb3216ae3396c7c",
    }


def test_secret_is_in_no_header() -> None:
    headers = signing.headers(api_key="bDqJFiq9", api_secret="7bz1lzh9", timestamp=1630468800)
    assert "7bz1lzh9" not in str(headers)
