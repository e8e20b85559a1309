"""Phone numbers: normalised, compared by their digits, and masked when converted to text.

Independent of bindings. Digits in international form are stored and sent; a leading "+" is removed and nothing
else is guessed. Invariant: only `.digits` returns the full number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.domain.calling_codes import CALLING_CODES

if TYPE_CHECKING:
    from collections.abc import Sequence

NATIONAL_DIGITS = (2, 17)  # the fewest and the most that can follow a country calling code
ERASED = "erased"  # what is shown of an erased phone
ERASED_MARK = "x"  # begins what is stored of one; no digits do
MAX_DIGITS = 20  # the provider's limit: docs/reference/provider-api.md#1-bind


class Phone:
    """A real phone number; `str()` and `repr()` are masked, `.digits` is the number.

    Equal to another Phone of the same digits, and to a str of them, with or without a leading "+". Immutable and
    hashable: in a dict or a set it is found by a Phone or by the digits. Text with a "+" has another hash: make a
    Phone of it before it is used as a key. Raises ValueError (whose text never repeats the value) for anything but
    1-20 ASCII digits with an optional leading "+".

    A phone that was erased from a row (`is_erased`) is shown as "erased", also by `.digits`. It equals no number
    and no other erased phone, and no call accepts it.
    """

    __slots__ = ("_digits",)
    _digits: str

    def __init__(self, number: str | Phone, *, min_digits: int = 1) -> None:
        if not isinstance(number, Phone):
            digits = _digits(number)
        elif number.is_erased:
            raise ValueError("must be a phone number: this one was erased")
        else:
            digits = number.digits
        if not min_digits <= len(digits) <= MAX_DIGITS:
            raise ValueError(f"must have {min_digits} to {MAX_DIGITS} digits")
        object.__setattr__(self, "_digits", digits)

    @classmethod
    def stored(cls, digits: str) -> Phone:
        """Return the phone of digits that were checked before they were stored."""
        phone = cls.__new__(cls)
        object.__setattr__(phone, "_digits", digits)
        return phone

    @property
    def digits(self) -> str:
        """Return the full number. Personal data: keep it out of logs, URLs and error texts."""
        return ERASED if self._digits.startswith(ERASED_MARK) else self._digits

    @property
    def is_erased(self) -> bool:
        """Return whether the number was erased."""
        return self._digits.startswith(ERASED_MARK)

    @property
    def key(self) -> str:
        """Return what equality and locks compare: the digits, also if they are stored encrypted."""
        return self._digits

    def country_code(self) -> int | None:
        """Return the country calling code, or None if the digits are not an international number."""
        # No calling code is a prefix of another: the prefix decides, in a fiftieth of the time that parsing takes.
        for length in range(1, 0 if self._digits.startswith(("0", ERASED_MARK)) else 4):
            code, national_digits = int(self._digits[:length]), len(self._digits) - length
            if code in CALLING_CODES and NATIONAL_DIGITS[0] <= national_digits <= NATIONAL_DIGITS[1]:
                return code
        return None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Phone is immutable")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Phone):
            return self.key == other.key
        return self._digits == other.removeprefix("+") if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._digits)

    def __str__(self) -> str:
        return _masked(self._digits)

    def __repr__(self) -> str:
        return f"Phone({self})"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Phone.stored, (self._digits,))


class PhoneColumn:
    """The phones of a column of rows, as they were stored. The repr has no digits."""

    __slots__ = ("_stored",)

    def __init__(self, stored: Sequence[str]) -> None:
        self._stored = stored

    def __repr__(self) -> str:
        return f"PhoneColumn({len(self._stored)})"

    def texts(self, *, revealed: Sequence[bool]) -> list[str]:
        """Return for each phone what `Phone` shows of it: masked, or its digits if it is revealed."""
        if any(revealed) or ERASED_MARK in "".join(self._stored):
            pairs = zip(self._stored, revealed, strict=True)
            return [_full(text) if full else _masked(text) for text, full in pairs]
        return _mask_all(self._stored)


def mask(digits: str) -> str:
    """Return the digits with at least half of them masked: a quarter, at most four, stay visible at either end."""
    visible, masked, end = _mask_of(len(digits))
    return digits[:visible] + masked + digits[end:]


def _mask_all(texts: Sequence[str]) -> list[str]:
    """Return `mask` of each text; what depends on the length alone is determined once."""
    masks = {length: _mask_of(length) for length in set(map(len, texts))}
    return [text[:visible] + masked + text[end:] for text in texts for visible, masked, end in (masks[len(text)],)]


def _mask_of(length: int) -> tuple[int, str, int]:
    """Return what `mask` leaves visible of digits of this length: up to where, what then, and from where on."""
    visible = min(4, length // 4)
    return visible, "*" * (length - 2 * visible), length - visible


def _masked(stored: str) -> str:
    return ERASED if stored.startswith(ERASED_MARK) else mask(stored)


def _full(stored: str) -> str:
    return ERASED if stored.startswith(ERASED_MARK) else stored


def _digits(number: object) -> str:
    if not isinstance(number, str):
        raise ValueError("must be a string of digits")  # noqa: TRY004 -- one error type for wrong input
    digits = number.removeprefix("+")
    if not digits.isprintable():
        raise ValueError("must be digits: it has invisible characters, which copying may add; type it")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("must be digits in international form, with at most a leading +")
    return digits
