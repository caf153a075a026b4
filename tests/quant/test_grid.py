"""Grids of packed rows: what dequantize reads, and codes written back."""

import numpy as np
import pytest

from edgellama.quant import FORMATS, Format, find_format
from edgellama.quant.grid import Grid

COLS = 512
WITH_GRID = [fmt for fmt in FORMATS if fmt.layout is not None]


def rows_of_any_bytes(fmt: Format) -> np.ndarray:
    """(64, row_bytes) uint8 whose scales are finite: no byte has all of float16's exponent bits."""
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (64, fmt.row_bytes(COLS)), np.uint8) & np.uint8(0xFB)


def random_codes(grid: Grid) -> np.ndarray:
    rng = np.random.default_rng(8)
    return rng.integers(grid.lowest, grid.highest + 1, (len(grid.scale), COLS))


def weights_on(grid: Grid, codes: np.ndarray) -> np.ndarray:
    repeats = COLS // grid.scale.shape[1]
    values = codes if grid.levels is None else np.array(grid.levels)[codes]
    scale, minimum = (np.repeat(a, repeats, axis=1) for a in (grid.scale, grid.minimum))
    return scale * values.astype(np.float32) - minimum


@pytest.mark.parametrize("fmt", WITH_GRID, ids=lambda f: f.name)
def test_codes_written_on_a_grid_are_read_as_its_numbers(fmt: Format) -> None:
    packed = rows_of_any_bytes(fmt)
    grid = fmt.grid(packed)
    codes = random_codes(grid)
    changed = fmt.with_codes(packed, codes)
    assert np.array_equal(fmt.dequantize(changed), weights_on(grid, codes))


@pytest.mark.parametrize("fmt", WITH_GRID, ids=lambda f: f.name)
def test_other_codes_leave_the_scales_alone(fmt: Format) -> None:
    packed = rows_of_any_bytes(fmt)
    grid = fmt.grid(packed)
    after = fmt.grid(fmt.with_codes(packed, random_codes(grid)))
    assert np.array_equal(after.scale, grid.scale)
    assert np.array_equal(after.minimum, grid.minimum)


def test_codes_that_a_format_does_not_have_are_refused() -> None:
    q4_k = find_format("Q4_K")
    packed = np.zeros((2, 144), np.uint8)
    with pytest.raises(ValueError, match=r"expected codes 0\.\.15, found 0\.\.16"):
        q4_k.with_codes(packed, np.arange(512).reshape(2, 256) % 17)
    with pytest.raises(ValueError, match=r"expected codes \(2, 256\), found shape \(2, 32\)"):
        q4_k.with_codes(packed, np.zeros((2, 32)))
    with pytest.raises(ValueError, match="IQ2_S has no grid"):
        find_format("IQ2_S").grid(packed)
