"""A phone number: normalised, compared by its digits, and masked wherever it is shown.

Knows nothing of bindings. Digits in international form are stored and sent; a leading "+" is stripped and
nothing else is guessed. The full number leaves only through `.digits`.
"""

from __future__ import annotations

NATIONAL_DIGITS = (2, 17)  # the fewest and the most that can follow a country calling code
MAX_DIGITS = 20  # the provider's limit (design: provider-api section 1)


class Phone:
    """A real phone number; `str()` and `repr()` are masked, `.digits` is the number.

    Equal to another Phone, or to a str, of the same digits. Immutable and hashable. Raises ValueError
    (whose text never repeats the value) for anything but 1-20 ASCII digits with an optional leading "+".
    """

    __slots__ = ("_digits",)
    _digits: str

    def __init__(self, number: str | Phone, *, min_digits: int = 1) -> None:
        digits = number.digits if isinstance(number, Phone) else _digits(number)
        if not min_digits <= len(digits) <= MAX_DIGITS:
            raise ValueError(f"must have {min_digits} to {MAX_DIGITS} digits")
        object.__setattr__(self, "_digits", digits)

    @classmethod
    def stored(cls, digits: str) -> Phone:
        """Wrap digits that were checked before they were stored."""
        phone = cls.__new__(cls)
        object.__setattr__(phone, "_digits", digits)
        return phone

    @property
    def digits(self) -> str:
        """The full number. Personal data: keep it out of logs, addresses and error texts."""
        return self._digits

    @property
    def key(self) -> str:
        """What equality, locks and indexes compare; the one place to change when phones get blinded."""
        return self._digits

    def country_code(self) -> int | None:
        """The country calling code, or None where the digits do not parse as an international number."""
        from phonenumbers import COUNTRY_CODE_TO_REGION_CODE as CALLING_CODES

        # No calling code begins another: the prefix alone decides, at a fiftieth of what parsing takes.
        for length in range(1, 0 if self._digits.startswith("0") else 4):
            code, rest = int(self._digits[:length]), len(self._digits) - length
            if code in CALLING_CODES and NATIONAL_DIGITS[0] <= rest <= NATIONAL_DIGITS[1]:
                return code
        return None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Phone does not change")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Phone):
            return self.key == other.key
        return self._digits == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._digits)

    def __str__(self) -> str:
        return mask(self._digits)

    def __repr__(self) -> str:
        return f"Phone({mask(self._digits)})"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Phone.stored, (self._digits,))


def mask(digits: str) -> str:
    """Hide at least half of the digits: at most a quarter, and at most four, show at either end."""
    shown = min(4, len(digits) // 4)
    hidden = "*" * (len(digits) - 2 * shown)
    return digits[:shown] + hidden + digits[len(digits) - shown :]


def _digits(number: object) -> str:
    if not isinstance(number, str):
        raise ValueError("must be a string of digits")  # noqa: TRY004 -- one error type for bad input
    digits = number.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("must be digits in international form, with at most a leading +")
    return digits
