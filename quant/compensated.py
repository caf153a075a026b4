"""Codes that make up for each other's errors, on the inputs that a matrix was seen to have.

Rounding makes dW small; what counts is dW x over the inputs x of a text, whose squares add up to

    tr(dW H dW^T)        H = sum of x x^T, (cols, cols)

So columns are rounded one after the other, and the error of each is made up for by the columns not
yet rounded (GPTQ, Frantar et al. 2022, https://arxiv.org/abs/2210.17323): with U upper triangular
and inverse(H) = U^T U, column i that misses by e moves column j > i by -e * U[i, j] / U[i, i].
Three things differ from the paper, for blocks whose scales are stored:

- The search for scales sees a block as the earlier columns have left it, once it is its turn, and
  weighs its columns by what an error will still cost then, 1 / U[i, i]².
- Blocks are taken in the order of what they carry, and columns within a block, too: the largest
  first, so that many are left to make up for them. The file does not show the order.
- In the end each code is moved to the best one given all others, a few times over (coordinate
  descent; Behdin et al. 2023, https://arxiv.org/abs/2309.01885).
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from .format import Format

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Packed = npt.NDArray[np.uint8]  # (rows, row_bytes)

DAMPING = 0.01  # of the mean diagonal: what GPTQ takes
SWEEPS = 3  # of coordinate descent; a fourth gains a thousandth
AT_ONCE = 32  # columns whose corrections of all later ones are one product
ROWS_AT_ONCE = 1024  # they fit the cache with AT_ONCE columns; rows do not depend on each other
LARGEST = np.finfo(np.float32).max
SMALL = 64  # columns of a Hessian that is factored at once


class Hessian:
    """H of the inputs of a matrix, damped, and what solves it."""

    def __init__(self, sums: npt.ArrayLike, damping: float = DAMPING) -> None:
        """sums: (cols, cols), the sum of x x^T. Channels that are never used do no harm.

        Raises ValueError for sums that are not numbers.
        """
        h = np.array(sums, np.float32)
        mean = float(np.diag(h).mean(dtype=np.float64))
        if not np.isfinite(mean):
            raise ValueError("the inputs of this matrix are not numbers")
        h[np.diag_indices_from(h)] += damping * mean if mean > 0 else 1.0
        self.matrix = h
        self._factors: dict[int, tuple[npt.NDArray[np.intp], F32]] = {}

    def loss(self, error: npt.ArrayLike) -> float:
        """tr(E H E^T) of an error (rows, cols)."""
        e = np.asarray(error, np.float64)
        return float(((e @ self.matrix) * e).sum())

    def ordered_factor(self, block_size: int) -> tuple[npt.NDArray[np.intp], F32]:
        """Columns in the order of their turns, whole blocks, and U in that order."""
        if block_size not in self._factors:
            carried = np.diag(self.matrix).reshape(-1, block_size)
            within = np.argsort(-carried, axis=1, kind="stable")
            columns = within + np.arange(len(carried))[:, None] * block_size
            order = columns[np.argsort(-carried.mean(axis=1), kind="stable")].reshape(-1)
            factor = _inverse_factor(self.matrix[np.ix_(order, order)].astype(np.float64))
            self._factors[block_size] = order, factor.astype(np.float32)
        return self._factors[block_size]

    def solve(self, x: F32, block_size: int) -> F32:
        """x inverse(H) of x (rows, cols), by the factor for blocks of this size."""
        order, factor = self.ordered_factor(block_size)
        solved = np.empty_like(x)
        solved[:, order] = (x[:, order] @ factor.T) @ factor
        return solved


def _inverse_factor(h: F64) -> F64:
    """U, upper triangular, with inverse(h) = U^T U.

    By halves, so that all is products, a third of the time of an inverse and its Cholesky factor:
    of h = R R^T with R = inverse(U), the lower right quarter first.
    """
    n = len(h)
    if n <= SMALL:
        return np.linalg.cholesky(np.linalg.inv(h)).T
    half = n // 2
    u = np.zeros_like(h)
    u[half:, half:] = _inverse_factor(h[half:, half:])
    beside = h[:half, half:] @ u[half:, half:].T
    u[:half, :half] = _inverse_factor(h[:half, :half] - beside @ beside.T)
    u[:half, half:] = -u[:half, :half] @ (beside @ u[half:, half:])
    return u


def quantize_compensated(format: Format, weights: npt.ArrayLike, hessian: Hessian) -> Packed:
    """(rows, cols) -> (rows, row_bytes) with a small tr(dW H dW^T).

    Raises ValueError for a format without scales and codes, or shapes that do not fit.
    """
    w = np.asarray(weights, np.float32)
    if w.ndim != 2 or hessian.matrix.shape != (w.shape[1], w.shape[1]):
        raise ValueError(f"weights {w.shape} do not fit a Hessian {hessian.matrix.shape}")
    packed = np.empty((len(w), format.row_bytes(w.shape[1])), np.uint8)
    order, factor = hessian.ordered_factor(format.block_size)

    def quantize_rows(start: int) -> None:
        rows = slice(start, start + ROWS_AT_ONCE)
        compensated = _compensate(format, w[rows], order, factor)
        packed[rows] = _descend(format, w[rows], hessian.matrix, compensated)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(quantize_rows, range(0, len(w), ROWS_AT_ONCE)))
    return packed


class _Rounding:
    """Rounding on the grid of packed rows, column by column."""

    def __init__(self, format: Format, packed: Packed) -> None:
        grid = format.grid(packed)
        self._sub = packed.shape[1] // format.type_size * format.block_size // grid.scale.shape[1]
        self._scale = np.ascontiguousarray(grid.scale.T)  # (subs, rows)
        self._minimum = np.ascontiguousarray(grid.minimum.T)
        with np.errstate(divide="ignore"):
            inverse = np.where(self._scale == 0, np.float32(0), 1 / self._scale)
        self._inverse = np.clip(inverse, -LARGEST, LARGEST)  # so that no product is not a number
        self._lowest, self._highest = np.float32(grid.lowest), np.float32(grid.highest)
        self._levels = None if grid.levels is None else np.array(grid.levels, np.float32)

    def nearest(self, column: int, x: F32) -> tuple[F32, F32]:
        """The codes (rows,) whose weights are nearest to x (rows,), and these weights."""
        sub = column // self._sub
        scale, minimum = self._scale[sub], self._minimum[sub]
        # A product beyond float32 belongs to a scale that is next to nothing: it is clipped.
        with np.errstate(over="ignore"):
            value = (x + minimum) * self._inverse[sub]
        if self._levels is None:
            code = np.minimum(np.maximum(np.rint(value), self._lowest), self._highest)
            return code, scale * code - minimum
        between = (self._levels[1:] + self._levels[:-1]) / 2
        index = np.searchsorted(between, value)
        return index.astype(np.float32), scale * self._levels[index]


def _compensate(format: Format, w: F32, order: npt.NDArray[np.intp], factor: F32) -> Packed:
    """Rows (n, cols) block by block and column by column; the file's order is kept in the bytes."""
    n, cols = w.shape
    size = format.block_size
    packed = np.empty((n, cols // size, format.type_size), np.uint8)
    left = np.ascontiguousarray(w.T[order])  # (cols, n) in the order of the turns
    diagonal = np.diag(factor)
    for start in range(0, cols, size):
        columns = order[start : start + size] % size  # within the block
        block = np.empty((n, size), np.float32)
        block[:, columns] = left[start : start + size].T
        importance = np.empty(size, np.float32)
        importance[columns] = diagonal[start : start + size] ** np.float32(-2)
        found = format.quantize(block, importance)
        rounding = _Rounding(format, found)
        codes = np.empty((size, n), np.float32)
        for first in range(start, start + size, AT_ONCE):
            last = min(first + AT_ONCE, start + size)
            errors = np.empty((last - first, n), np.float32)
            for i in range(first, last):
                column = columns[i - start]
                codes[column], rounded = rounding.nearest(column, left[i])
                errors[i - first] = (left[i] - rounded) / diagonal[i]
                left[i + 1 : last] -= factor[i, i + 1 : last, None] * errors[i - first]
            left[last:] -= factor[first:last, last:].T @ errors
        packed[:, order[start] // size] = format.with_codes(found, codes.T.astype(np.int16))
    return packed.reshape(n, -1)


def _descend(format: Format, w: F32, h: F32, packed: Packed) -> Packed:
    """The same scales with codes none of which, changed alone, would make the loss smaller."""
    rounding = _Rounding(format, packed)
    target = np.ascontiguousarray(w.T)  # (cols, n)
    weights = np.ascontiguousarray(format.dequantize(packed).T)
    codes = np.empty_like(weights)
    diagonal = np.diag(h)
    for _ in range(SWEEPS):
        slope = h @ (weights - target)  # half the gradient, (cols, n)
        for first in range(0, len(weights), AT_ONCE):
            last = min(first + AT_ONCE, len(weights))
            moved = np.empty((last - first, weights.shape[1]), np.float32)
            for i in range(first, last):
                best = weights[i] - slope[i] / diagonal[i]
                codes[i], rounded = rounding.nearest(i, best)
                moved[i - first] = rounded - weights[i]
                weights[i] = rounded
                slope[i + 1 : last] += h[i + 1 : last, i, None] * moved[i - first]
            slope[last:] += h[last:, first:last] @ moved
    return format.with_codes(packed, codes.T.astype(np.int16))
