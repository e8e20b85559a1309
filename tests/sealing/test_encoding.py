"""The bytes that are hashed and signed: the encoding, the tree of RFC 6962, and the body of a seal."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindings.domain.binding import State
from bindings.sealing.encoding import canonical, event_bytes, instant_text, parse_json
from bindings.sealing.merkle import MerkleTree
from bindings.sealing.seals import SealBody

AT = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
EVENT = {
    "position": 7,
    "tx": 0,
    "binding_id": None,
    "sequence": 0,
    "kind": "held",
    "at": AT,
    "actor": "key:a",
    "request_id": None,
    "detail": {"z": [1, None, True], "a": 'é"\n\x1f\U0001f600'},
}


def test_event_has_the_documented_bytes() -> None:
    assert (
        event_bytes(EVENT)
        == (
            '{"actor":"key:a","at":"2026-03-01T12:00:00.000005Z",'
            '"detail":{"a":"é\\"\\n\\u001f\U0001f600","z":[1,null,true]},'
            '"kind":"held","position":7,"sequence":0,"tx":0}'
        ).encode()
    )


def test_column_of_a_later_schema_does_not_change_the_bytes_of_an_event_without_it() -> None:
    assert event_bytes(EVENT | {"key_id": None}) == event_bytes(EVENT)
    assert event_bytes(EVENT | {"key_id": "x"}) != event_bytes(EVENT)


def test_fraction_is_written_as_text_and_an_instant_in_utc() -> None:
    assert canonical({"share": [0.9, {"x": 1.0}]}) == b'{"share":["0.9",{"x":"1.0"}]}'
    deep = {"a": None, "b": [True, 1, {"c": ["x", [0.5]]}], "d": State.ACTIVE}
    assert canonical(deep) == b'{"a":null,"b":[true,1,{"c":["x",["0.5"]]}],"d":"active"}'
    assert canonical(0.5) == b'"0.5"'
    assert instant_text(datetime(2026, 3, 1, 12, 0, 0, 5, UTC)) == "2026-03-01T12:00:00.000005Z"
    assert (
        instant_text(datetime(2026, 3, 1, 20, tzinfo=timezone(timedelta(hours=8))))
        == "2026-03-01T12:00:00.000000Z"
    )


_names = st.text(st.characters(exclude_categories=()), max_size=8)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=9,
)


@given(st.dictionaries(_names, _values, max_size=5))
def test_every_value_is_encoded_by_the_rules_and_read_back(value: dict[str, Any]) -> None:
    def by_the_rules(inner: Any) -> str:
        if isinstance(inner, dict):
            members = (f"{by_the_rules(name)}:{by_the_rules(inner[name])}" for name in sorted(inner))
            return f"{{{','.join(members)}}}"
        if isinstance(inner, list):
            return f"[{','.join(map(by_the_rules, inner))}]"
        return json.dumps(repr(inner) if isinstance(inner, float) else inner, ensure_ascii=False)

    encoded = by_the_rules(value).encode("utf-8", "surrogatepass")
    assert canonical(value) == encoded
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert canonical(parse_json(text)) == encoded


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"\\u0061":1}',
        '{"b":[{"a":1,"a":{}}]}',
        '{"a":"\\u003a","a":":"}',
        '{"a":"\\u003A","a":1,"c":"\\u003A"}',
    ],
)
def test_name_that_is_there_twice_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match="a name is there twice"):
        parse_json(text)


def test_value_that_is_not_of_json_is_not_encoded() -> None:
    """A blob must not pass for the text that is its base64."""
    for column in ("actor", "kind", "tx"):
        with pytest.raises(TypeError):
            event_bytes(EVENT | {column: b"x"})
    with pytest.raises(TypeError):
        canonical({"a": [b"x"]})


# RFC 6962, computed by the definition: the left part of a tree is the largest power of two below its size.
def _root(entries: list[bytes]) -> bytes:
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    left = 1
    while left * 2 < len(entries):
        left *= 2
    return hashlib.sha256(b"\x01" + _root(entries[:left]) + _root(entries[left:])).digest()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 100])
def test_tree_is_that_of_rfc_6962(count: int) -> None:
    entries = [str(number).encode() for number in range(count)]
    tree = MerkleTree()
    for entry in entries:
        tree.add(entry)
    assert (tree.count, tree.root()) == (count, _root(entries).hex())


def test_empty_tree_has_the_hash_of_no_bytes() -> None:
    assert MerkleTree().root() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


BODY = SealBody(
    number=2, epoch=1, first="0-1", last="0-9", count=9, root="ab", previous="cd", at=instant_text(AT), key_id="ef"
)


def test_body_has_the_documented_text_and_is_read_back() -> None:
    assert BODY.text() == (
        '{"at":"2026-03-01T12:00:00.000005Z","count":9,"epoch":1,"format":1,"from":"0-1","key_id":"ef","number":2,'
        '"previous":"cd","root":"ab","to":"0-9"}'
    )
    assert SealBody.parse(BODY.text()) == BODY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        BODY.text() + " ",
        BODY.text().replace(',"to":"0-9"', ""),
        BODY.text().replace('"format":1', '"format":2'),
    ],
)
def test_other_text_is_no_body(text: str) -> None:
    with pytest.raises(ValueError, match="body of a seal"):
        SealBody.parse(text)
