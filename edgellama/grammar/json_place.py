"""Where a JSON text stands, as far as its characters tell: in a string, or inside a number."""

from typing import NamedTuple

_DIGITS = b"0123456789"
_QUOTE, _BACKSLASH, _POINT = b'"\\.'

# Digits in a row. Python and JavaScript write every float64 with fewer, or with an exponent; all
# exponents of two digits are within float64.
MOST_DIGITS = 24
_MOST_OF_EXPONENT = 2


class JsonPlace(NamedTuple):
    """A place in a JSON text that was valid so far."""

    in_string: bool = False
    escaped: bool = False  # behind a backslash
    part: str = ""  # of a number: "integer", "fraction" or "exponent"; "" outside of numbers
    n_digits: int = 0  # of that part so far

    @property
    def digits_left(self) -> int:
        """How many digits may follow in a row, outside of strings."""
        most = _MOST_OF_EXPONENT if self.part == "exponent" else MOST_DIGITS
        return max(0, most - self.n_digits)

    def after(self, data: bytes) -> "JsonPlace":
        """The place behind some more bytes."""
        place = self
        for byte in data:
            place = place._after_byte(byte)
        return place

    def _after_byte(self, byte: int) -> "JsonPlace":
        if self.in_string:
            if self.escaped:
                return _IN_STRING
            if byte == _BACKSLASH:
                return _ESCAPED
            return _OUTSIDE if byte == _QUOTE else self
        if byte in _DIGITS:
            return JsonPlace(part=self.part or "integer", n_digits=self.n_digits + 1)
        if self.part and byte == _POINT:
            return JsonPlace(part="fraction")
        if self.part and byte in b"eE":
            return JsonPlace(part="exponent")
        if self.part == "exponent" and byte in b"+-":
            return self
        return _IN_STRING if byte == _QUOTE else _OUTSIDE


_OUTSIDE = JsonPlace()
_IN_STRING = JsonPlace(in_string=True)
_ESCAPED = JsonPlace(in_string=True, escaped=True)
