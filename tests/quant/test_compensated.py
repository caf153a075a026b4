"""Compensated quantizing: against plain rounding, against exhaustive search, and algebra."""

import itertools

import numpy as np
import pytest

from edgellama.quant import FORMATS, Format, find_format
from edgellama.quant.compensated import Hessian, quantize_compensated

WITH_GRID = [f for f in FORMATS if f.layout is not None]


def inputs(cols: int, n: int = 4096) -> np.ndarray:
    """(n, cols) of channels that go together, as hidden states do, some of them strong."""
    rng = np.random.default_rng(3)
    mixed = rng.normal(size=(n, cols // 4)) @ rng.normal(size=(cols // 4, cols))
    x = mixed / np.sqrt(cols / 4) + 0.3 * rng.normal(size=(n, cols))
    return x * np.exp(rng.normal(size=cols))


def matrix(rows: int, cols: int) -> np.ndarray:
    return np.random.default_rng(4).standard_t(4, (rows, cols)).astype(np.float32)


@pytest.mark.parametrize("cols", [32, 160, 352])
def test_a_hessian_is_solved_by_its_factor(cols: int) -> None:
    x, y = inputs(cols), matrix(3, cols)
    hessian = Hessian(x.T @ x)
    exact = np.linalg.solve(hessian.matrix.astype(np.float64), y.T.astype(np.float64)).T
    # the factor is float32, and so are two products of up to 352 terms: some roundings of 6e-8
    error = np.linalg.norm(hessian.solve(y, 32) - exact)
    assert error <= 2e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("fmt", WITH_GRID, ids=lambda f: f.name)
def test_it_loses_less_than_the_search_that_weighs_columns(fmt: Format) -> None:
    cols = 512
    w, x = matrix(64, cols), inputs(cols)
    hessian = Hessian(x.T @ x)
    rounded = fmt.dequantize(fmt.quantize(w, np.square(x).mean(axis=0)))
    found = fmt.dequantize(quantize_compensated(fmt, w, hessian))
    # of correlated inputs a third to a half is left; the bound leaves room for another search
    assert hessian.loss(found - w) < 0.6 * hessian.loss(rounded - w)


def test_no_single_code_would_do_better() -> None:
    fmt = find_format("Q4_0")
    w, x = matrix(4, 64), inputs(64)
    hessian = Hessian(x.T @ x)
    packed = quantize_compensated(fmt, w, hessian)
    grid = fmt.grid(packed)
    scale = np.repeat(grid.scale, 32, axis=1)
    weights = fmt.dequantize(packed)
    codes = np.rint(weights / scale)
    for row in range(len(w)):
        least = hessian.loss(weights[row] - w[row])
        for column, step in itertools.product(range(64), (-1, 1)):
            if grid.lowest <= codes[row, column] + step <= grid.highest:
                other = weights[row].copy()
                other[column] += step * scale[row, column]
                # sweeps end before the last flip of all rows is found; what is left is small
                assert hessian.loss(other - w[row]) > 0.99 * least


def test_inputs_that_do_not_go_together_leave_nothing_to_compensate() -> None:
    """With a diagonal H each weight is rounded by itself, to the nearest on its grid."""
    fmt = find_format("Q8_0")
    w = matrix(8, 64)
    packed = quantize_compensated(fmt, w, Hessian(np.diag(np.arange(1.0, 65))))
    grid = fmt.grid(packed)
    scale = np.repeat(grid.scale, 32, axis=1)
    nearest = np.clip(np.rint(w / scale), grid.lowest, grid.highest)
    np.testing.assert_array_equal(fmt.dequantize(packed), nearest.astype(np.float32) * scale)


def test_rows_are_made_each_by_itself() -> None:
    fmt = find_format("Q4_0")
    w, x = matrix(1100, 64), inputs(64)  # more than are taken at once
    hessian = Hessian(x.T @ x)
    together = quantize_compensated(fmt, w, hessian)
    for rows in (slice(0, 5), slice(-5, None)):
        alone = quantize_compensated(fmt, w[rows], hessian)
        # a BLAS may add in another order for fewer rows, which moves a code that is on the edge
        assert (alone == together[rows]).mean() > 0.97


@pytest.mark.parametrize("fmt", WITH_GRID, ids=lambda f: f.name)
def test_channels_that_never_carry_anything_do_no_harm(fmt: Format) -> None:
    w, x = matrix(8, 512), inputs(512)
    x[:, 100:356] = 0
    packed = quantize_compensated(fmt, w, Hessian(x.T @ x))
    error = fmt.dequantize(packed) - w
    assert np.square(error).sum() < np.square(w).sum()
    silent = quantize_compensated(fmt, w, Hessian(np.zeros((512, 512))))
    assert np.isfinite(fmt.dequantize(silent)).all()


def test_zeros_stay_zeros() -> None:
    x = inputs(256)
    for fmt in WITH_GRID:
        packed = quantize_compensated(fmt, np.zeros((2, 256)), Hessian(x.T @ x))
        assert not fmt.dequantize(packed).any(), fmt.name


def test_what_does_not_fit_is_refused() -> None:
    hessian = Hessian(np.eye(64))
    with pytest.raises(ValueError, match=r"weights \(2, 32\) do not fit a Hessian \(64, 64\)"):
        quantize_compensated(find_format("Q4_0"), np.zeros((2, 32)), hessian)
    with pytest.raises(ValueError, match="do not divide by the Q4_K block size"):
        quantize_compensated(find_format("Q4_K"), np.zeros((2, 64)), hessian)
    with pytest.raises(ValueError, match="inputs of this matrix are not numbers"):
        Hessian(np.full((4, 4), np.nan))
