"""A phone is its digits, compared by them and never text in full."""

from __future__ import annotations

import pickle

import pytest

from bindings.domain.calling_codes import CALLING_CODES
from bindings.domain.phone import Phone, mask

SAMPLE = "9188067701"


@pytest.mark.parametrize("number", [SAMPLE, "+" + SAMPLE])
def test_leading_plus_is_removed(number: str) -> None:
    assert Phone(number).digits == SAMPLE


def test_leading_zeros_are_kept() -> None:
    assert Phone("0012345").digits == "0012345"
    assert Phone("0012345") != Phone("12345")


@pytest.mark.parametrize(
    "invalid",
    [
        "",
        "+",
        "++918806",
        "91 8806",
        " 918806",
        "918806\n",
        "91-8806",
        "\uff19\uff11\uff18\uff18",
        "\u0661\u0662\u0663\u0664",
        "918\x008806",
        "\u202e918806",
        "\U0001f600",
        "\u00b2\u00b3",
        "1" * 21,
        "12e4",
    ],
)
def test_text_that_is_not_1_to_20_ascii_digits_is_refused_and_not_repeated(invalid: str) -> None:
    with pytest.raises(ValueError, match="must") as refused:
        Phone(invalid)
    assert not invalid.strip("+ \n") or invalid not in str(refused.value)


@pytest.mark.parametrize("copied", ["\u202a9188067701\u202c", "+91\u00a08806", "918806\u200b"])
def test_invisible_characters_are_named_as_the_cause(copied: str) -> None:
    with pytest.raises(ValueError, match="it has invisible characters, which copying may add"):
        Phone(copied)


@pytest.mark.parametrize("invalid", [None, 918806, 9.1, b"918806", ["918806"], True])
def test_only_text_is_a_phone(invalid: object) -> None:
    with pytest.raises(ValueError, match="string of digits"):
        Phone(invalid)  # type: ignore[arg-type]


def test_twenty_digits_are_valid_and_a_minimum_can_be_set() -> None:
    assert Phone("1" * 20).digits == "1" * 20
    with pytest.raises(ValueError, match="4 to 20"):
        Phone("123", min_digits=4)


def test_a_phone_equals_the_same_digits_as_phone_and_as_text() -> None:
    assert Phone("+" + SAMPLE) == Phone(SAMPLE) == SAMPLE
    assert Phone(SAMPLE) == "+" + SAMPLE
    assert Phone(SAMPLE) != "++" + SAMPLE
    assert hash(Phone(SAMPLE)) == hash(SAMPLE)
    assert Phone(SAMPLE) != "9188067702"
    assert Phone(SAMPLE) != 9188067701


def test_a_dict_finds_a_phone_by_its_digits_as_text() -> None:
    names = {Phone(SAMPLE): "A"}
    assert (names[Phone("+" + SAMPLE)], names[SAMPLE]) == ("A", "A")  # type: ignore[index]
    assert {SAMPLE: "A"}[Phone(SAMPLE)] == "A"  # type: ignore[index]
    assert len({Phone(SAMPLE), Phone("+" + SAMPLE), SAMPLE}) == 1


def test_str_and_repr_mask_at_least_half_of_the_digits() -> None:
    for length in range(1, 21):
        digits = "123456789012345678901234567890"[:length]
        for text in (str(Phone(digits)), repr(Phone(digits)), f"{Phone(digits)}", mask(digits)):
            assert digits not in text
            assert text.count("*") * 2 >= length


def test_phone_is_immutable_and_can_be_pickled() -> None:
    phone = Phone(SAMPLE)
    with pytest.raises(AttributeError):
        phone._digits = "1"
    assert pickle.loads(pickle.dumps(phone)) == phone
    assert Phone(phone) == phone


def test_country_code_is_none_unless_the_digits_are_international() -> None:
    assert Phone("919812345678").country_code() == 91
    assert Phone("12025550123").country_code() == 1
    assert Phone("0").country_code() is None


def test_calling_codes_are_those_of_the_library_for_phone_numbers() -> None:
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

    assert set(COUNTRY_CODE_TO_REGION_CODE) == CALLING_CODES


def test_no_calling_code_is_the_prefix_of_another() -> None:
    codes = {str(code) for code in CALLING_CODES}
    assert {code[:length] for code in codes for length in range(1, len(code))} & codes == set()
