"""Control characters in text: found, replaced and escaped, each of them."""

from __future__ import annotations

import json

from bindings.domain import text

CONTROLS = [chr(code) for code in range(0x110000) if text._CONTROLS.match(chr(code))]


def test_no_control_character_is_printable() -> None:
    """A text that is printable is not searched for them."""
    assert len(CONTROLS) > 2_000
    assert not [character for character in CONTROLS if character.isprintable()]


def test_each_control_character_is_found_replaced_and_escaped_as_in_json() -> None:
    for character in CONTROLS:
        assert text.has_control_characters(f"a{character}b")
        assert text.replace_control_characters(f"a{character}b", "?") == "a?b"
        assert text.escape_control_characters(f"a{character}b") == json.dumps(f"a{character}b")[1:-1]


def test_spaces_joiners_and_marks_are_text() -> None:
    words = "\u00a0\u200c\u200d\ufe0f 订单 नमस्ते"  # not printable as a whole, and no control character
    assert not text.has_control_characters(words)
    assert text.replace_control_characters(words, "?") == text.escape_control_characters(words) == words
