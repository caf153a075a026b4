"""Numbers of a schema, so that a number is inside for the grammar exactly if it is for any reader.

llguidance takes numbers of up to 15 digits exactly, and may err in the last digit of longer ones.
Readers of an answer round what is written to float64. A bound that is rounded inwards to 15 digits
is right for both, and float64 tells any two such numbers apart.
"""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

LARGEST_INTEGER = 2**53 - 1
_DIGITS = 15
_SMALLEST_STEP = -15  # powers of ten
_MAX_SHIFT = 22  # 10**22 is the largest power of ten that is a float64
_MAX_STATES = 10_000  # of the automaton that finds multiples of a number

Number = int | float


class Unenforceable(ValueError):
    """A value of a keyword, and why it cannot be enforced: "is 0.1, expected ..."."""


def inner_bound(bound: Number, *, lower: bool, exclusive: bool) -> Number:
    """The nearest number inside a bound that has 15 digits, or is an integer.

    Raises Unenforceable for a bound that leaves only numbers beyond +-LARGEST_INTEGER.
    """
    check_finite(bound)
    sign = 1 if lower else -1  # below, only lower bounds
    if sign * bound < -LARGEST_INTEGER:
        return -sign * LARGEST_INTEGER
    if sign * bound > LARGEST_INTEGER:
        raise Unenforceable(f"leaves only numbers beyond {sign * LARGEST_INTEGER}")
    exact = sign * Decimal(repr(bound))
    exponent = min(0, max(exact.adjusted() - _DIGITS + 1, _SMALLEST_STEP)) if exact else -_DIGITS
    step = Decimal(1).scaleb(exponent)
    inner = exact.quantize(step, ROUND_CEILING)
    if exclusive and inner == exact:
        inner += step
    if inner > LARGEST_INTEGER:
        raise Unenforceable(f"leaves only numbers beyond {sign * LARGEST_INTEGER}")
    inner *= sign
    return int(inner) if inner == inner.to_integral_value() else float(inner)


def check_constant(number: Number) -> None:
    """Raises Unenforceable for a number that could not be written exactly."""
    check_finite(number)
    exact = abs(number) <= LARGEST_INTEGER
    if isinstance(number, float):
        _, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
        assert isinstance(exponent, int)
        exact = len(digits) <= _DIGITS and abs(exponent) <= _MAX_SHIFT
    if not exact:
        raise Unenforceable(
            f"holds {_shown(number)}; only numbers of up to 15 digits are written exactly"
        )


def coefficient_of_multiples(number: Number) -> int:
    """The digits of a multipleOf without the zeros around them: how hard its multiples are to find.

    Raises Unenforceable unless it is positive, has few digits, and all readers agree on its
    multiples: of 0.1 they do not, since validators divide float64s, and 0.7 / 0.1 is no integer.
    """
    check_finite(number)
    if not 0 < number <= LARGEST_INTEGER:
        raise Unenforceable(f"is {_shown(number)}, expected a number from 0 to {LARGEST_INTEGER}")
    exact = Decimal(repr(number))
    if exact != Decimal(number):
        for multiple in (n * exact for n in range(1, 100)):
            if not (float(multiple) / number).is_integer():
                found = f"{multiple} / {number} is {float(multiple) / number} to validators"
                raise Unenforceable(f"is {number}, but {found}; write integers of a smaller unit")
        raise Unenforceable(
            f"is {number}, which validators round; write integers of a smaller unit"
        )
    digits = exact.normalize().as_tuple().digits
    coefficient = int("".join(map(str, digits)))
    return check_states(coefficient)


def inner_multiple(bound: Number, factor: Number, *, lower: bool) -> Number:
    """The nearest multiple inside a bound: llguidance may find none between 0.45 and 0.55."""
    exact = Decimal(repr(factor))
    n = (Decimal(repr(bound)) / exact).to_integral_value(ROUND_CEILING if lower else ROUND_FLOOR)
    multiple = n * exact
    return int(multiple) if multiple == multiple.to_integral_value() else float(multiple)


def check_states(coefficient: int) -> int:
    """Raises Unenforceable if multiples of this number take too many states."""
    if coefficient > _MAX_STATES:
        raise Unenforceable(
            f"needs multiples of {coefficient} to be told from others; up to {_MAX_STATES} can be"
        )
    return coefficient


def check_finite(number: object) -> None:
    """Raises Unenforceable for what is not a finite number."""
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or (isinstance(number, float) and not math.isfinite(number)):
        raise Unenforceable(f"is {number!r:.60}, expected a number")


def _shown(number: Number) -> str:
    return repr(number) if abs(number) < 10**30 else "a number of more than 30 digits"
