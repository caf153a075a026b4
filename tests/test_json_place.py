"""Where a JSON text stands: strings hide what looks like a number, and numbers have three parts."""

import json

import pytest

from edgellama.grammar.json_place import MOST_DIGITS, JsonPlace


@pytest.mark.parametrize(
    ("text", "part", "n_digits"),
    [
        ("", "", 0),
        ("12", "integer", 2),
        ("[-0", "integer", 1),
        ('{"a": 12.', "fraction", 0),
        ('{"a": 12.0345', "fraction", 4),
        ("1e", "exponent", 0),
        ("1.5E-", "exponent", 0),
        ("1.5E-07", "exponent", 2),
        ("[1.5E-07, ", "", 0),
        ("[true, false", "", 0),
        ("[12 ", "", 0),
    ],
)
def test_a_number_is_told_by_its_parts(text: str, part: str, n_digits: int) -> None:
    place = JsonPlace().after(text.encode())
    assert (place.in_string, place.part, place.n_digits) == (False, part, n_digits)


@pytest.mark.parametrize("text", ['"12', '{"a 1', '"\\"12', '["\\\\", "\\\\\\"', '"é'])
def test_a_string_goes_on_until_a_quote_that_is_not_escaped(text: str) -> None:
    assert JsonPlace().after(text.encode()).in_string
    assert not JsonPlace().after(text.encode() + b'"').in_string


def test_digits_are_left_until_there_are_too_many() -> None:
    assert JsonPlace().digits_left == MOST_DIGITS
    assert JsonPlace().after(b"1234.56").digits_left == MOST_DIGITS - 2
    assert JsonPlace().after(b"9" * MOST_DIGITS).digits_left == 0
    assert JsonPlace().after(b"9" * 99).digits_left == 0
    assert JsonPlace().after(b"1e+4").digits_left == 1


def test_all_numbers_of_so_many_digits_are_finite() -> None:
    nines = "9" * MOST_DIGITS
    assert json.loads(f"{nines}.{nines}e99") < 1e125


def test_bytes_one_by_one_lead_to_the_same_place() -> None:
    data = '{"a\\"1": [-1.5e+10, {"é": "2"}], "b": 17'.encode()
    place = JsonPlace()
    for i in range(len(data)):
        place = place.after(data[i : i + 1])
        assert place == JsonPlace().after(data[: i + 1])
