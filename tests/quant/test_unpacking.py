"""Unpacking many rows at once: the bits of Format.dequantize, for every format."""

import numpy as np
import pytest

from edgellama.quant import FORMATS
from edgellama.quant.format import MANY
from edgellama.quant.unpacking import unpack_rows


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("rows", [3, MANY // 768 + 1])
def test_rows_are_those_of_dequantize(fmt, rows):
    packed = np.random.default_rng(0).integers(0, 256, (rows, fmt.row_bytes(768)), np.uint8)
    with np.errstate(all="ignore"):
        expected = fmt.dequantize(packed)
        assert np.array_equal(unpack_rows(fmt, packed), expected, equal_nan=True)


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.block_size == 1], ids=lambda f: f.name)
def test_numbers_that_fill_no_vector_are_unpacked_as_well(fmt):
    packed = np.random.default_rng(0).integers(0, 60, (MANY // 7 + 1, 7 * fmt.type_size), np.uint8)
    assert np.array_equal(unpack_rows(fmt, packed), fmt.dequantize(packed))


def test_a_row_that_is_not_whole_is_refused():
    with pytest.raises(ValueError, match="do not divide by the Q4_0 block of 18 bytes"):
        unpack_rows(
            FORMATS[[f.name for f in FORMATS].index("Q4_0")], np.zeros((MANY, 17), np.uint8)
        )
