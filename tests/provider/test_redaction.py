"""What the provider says may repeat a phone or a secret, in any notation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bindings.domain.phone import mask
from bindings.provider.redaction import MAX_LENGTH, redact

if TYPE_CHECKING:
    from collections.abc import Callable

PHONE = "9188067701"
MASKED = "91******01"
ZEROS = {
    "Arabic-Indic": 0x660,
    "Devanagari": 0x966,
    "Bengali": 0x9E6,
    "full-width": 0xFF10,
    "mathematical": 0x1D7CE,
}
SCRIPTS = {
    "ASCII": "0123456789",
    "superscript": "⁰¹²³⁴⁵⁶⁷⁸⁹",
    "circled": "⓪①②③④⑤⑥⑦⑧⑨",
    "Chinese": "〇一二三四五六七八九",
} | {name: "".join(chr(zero + digit) for digit in range(10)) for name, zero in ZEROS.items()}
SEPARATORS = [
    "",
    " ",
    "-",
    ".",
    "/",
    "_",
    "(",
    ") ",
    "\N{NO-BREAK SPACE}",
    "\N{THIN SPACE}",
    "\N{EN DASH}",
    "\N{ZERO WIDTH SPACE}",
    "\N{ZERO WIDTH JOINER}",
    "\N{SOFT HYPHEN}",
    "\N{RIGHT-TO-LEFT MARK}",
    "\N{COMBINING ACUTE ACCENT}",
    "\N{COMBINING ENCLOSING KEYCAP}",
    "\0",
    "\n",
]
ENCODINGS: dict[str, Callable[[str], str]] = {
    "none": lambda char: char,
    "percent": quote,
    "percent, twice": lambda char: quote("".join(f"%{byte:02X}" for byte in char.encode())),
    "Unicode escape": lambda char: f"\\u{ord(char):04x}" if ord(char) < 0x10000 else char,
    "decimal HTML": lambda char: f"&#{ord(char)};",
    "hexadecimal HTML": lambda char: f"&amp;#x{ord(char):x};",
}


@st.composite
def notations(draw: st.DrawFn) -> tuple[str, str]:
    """A phone, and one way to write it: a script, a separator and an encoding for each digit."""
    phone = draw(st.text("0123456789", min_size=6, max_size=20))
    parts = [
        ENCODINGS[draw(st.sampled_from(list(ENCODINGS)))](
            SCRIPTS[draw(st.sampled_from(list(SCRIPTS)))][int(digit)]
        )
        + draw(st.sampled_from(SEPARATORS))
        for digit in phone[:-1]
    ]
    return phone, "".join(parts) + phone[-1]


@given(notations())
def test_phone_is_masked_in_every_notation(notation: tuple[str, str]) -> None:
    phone, text = notation
    assert redact(f"number {text} is bound") == f"number {mask(phone)} is bound"


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("separator", SEPARATORS, ids=ascii)
def test_phone_is_masked_in_every_script_with_every_separator(script: str, separator: str) -> None:
    assert redact(separator.join(SCRIPTS[script][int(digit)] for digit in PHONE)) == MASKED


@pytest.mark.parametrize("text", ["91-880-67701", "+91 (880) 677.01", "91\xa0880\xa067701", "9188 0677 01"])
def test_separators_go_with_the_digits(text: str) -> None:
    assert redact(f"<{text}>").strip("<+>") == mask(re.sub("[^0-9]", "", text))


@pytest.mark.parametrize(
    "text", ["status -35", "IP not in the whitelist", "账户不一致", "page 1 of 12 345", "Unzulässig: ½", "100 %"]
)
def test_text_without_a_long_number_stays_as_it_is(text: str) -> None:
    assert redact(text, secrets=["key-3f7a"]) == text


SECRETS = ("key-3f7a", "s3cret/9c2e+Q==", "05d7a50893e22a5c4bb3216ae3396c7c")


NOTATIONS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "percent": quote,
    "zero width": "\u200b".join,
    "repeated": lambda secret: secret * 40,
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("notation", NOTATIONS)
def test_secret_is_removed_in_every_notation(secret: str, notation: str) -> None:
    text = redact(f"bad <{NOTATIONS[notation](secret)}> given", secrets=SECRETS)
    assert text.startswith("bad <***")
    assert re.sub(r"[\W_]", "", secret).lower() not in re.sub(r"[\W_]", "", text).lower()


def test_secret_of_a_few_characters_changes_no_words() -> None:
    assert redact("the key is wrong", secrets=["key", "-", ""]) == "the key is wrong"


@given(st.text())
@example("%" + "25" * 5_000)
@example("&amp;" * 1_000)
@example("\\ud800\ud800%ff&#0;&#x110000;")
def test_any_text_becomes_short_and_printable(text: str) -> None:
    result = redact(text, secrets=SECRETS)
    assert len(result) <= MAX_LENGTH
    assert result.isprintable()
