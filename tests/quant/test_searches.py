"""Formats whose scales are searched: what a search must keep, and what it must gain."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgellama.quant import FORMATS, Format, find_format
from edgellama.quant.search_kernels import SUBS

COLS = 512
SEARCHED = [fmt for fmt in FORMATS if fmt.can_quantize and fmt.quantize_blocks is None]
WEIGHED = [*SEARCHED, *map(find_format, ("Q5_1", "Q5_0", "Q4_1", "Q4_0"))]  # by importance alone
each = pytest.mark.parametrize("fmt", SEARCHED, ids=lambda f: f.name)
each_weighed = pytest.mark.parametrize("fmt", WEIGHED, ids=lambda f: f.name)


def restored(fmt: Format, x: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    return fmt.dequantize(fmt.quantize(x, importance))


def normal_weights(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, (rows, COLS)).astype(np.float32)


def uneven_importance(cols: int = COLS) -> np.ndarray:
    return np.exp(np.random.default_rng(1).normal(0, 1.5, cols))


def squared_error(x: np.ndarray, y: np.ndarray, importance: np.ndarray | float = 1.0) -> float:
    return float((importance * (x.astype(np.float64) - y) ** 2).sum())


def counted(fmt: Format, x: np.ndarray) -> np.ndarray:
    """What each weight's error counts in a search: sqrt(mean square of its run + weight ** 2)."""
    runs = x.reshape(-1, fmt.block_size // SUBS[fmt.name]).astype(np.float64)
    return np.sqrt((runs**2).mean(axis=1, keepdims=True) + runs**2).reshape(x.shape)


def plainly_rounded(fmt: Format, x: np.ndarray) -> np.ndarray:
    """Each run rounded between its own ends, with scales and minimums that need not be stored."""
    grid = fmt.grid(fmt.quantize(x))
    runs = x.reshape(*grid.scale.shape, -1)
    if grid.minimum.any():
        low = np.minimum(runs.min(axis=2, keepdims=True), 0)
        step = (runs.max(axis=2, keepdims=True) - low) / grid.highest
        return (np.rint((runs - low) / step) * step + low).reshape(x.shape)
    levels = np.array(grid.levels or range(grid.lowest, grid.highest + 1), np.float32)
    peak = np.take_along_axis(runs, np.abs(runs).argmax(axis=2, keepdims=True), axis=2)
    step = peak / levels[0]
    nearest = np.abs(runs[..., None] / step[..., None] - levels).argmin(axis=3)
    return (levels[nearest] * step).reshape(x.shape)


# Of the error of plain rounding, which stores its scales for nothing: measured, and 2 % added.
GAINS = {
    "Q6_K": 0.78, "Q5_K": 0.85, "Q4_K": 0.83, "Q3_K": 0.88, "Q2_K": 0.71, "IQ4_NL": 0.85,
    "IQ4_XS": 0.86,
}  # fmt: skip


@each
def test_a_search_gains_more_than_stored_scales_lose(fmt: Format) -> None:
    x = normal_weights(64)
    w = counted(fmt, x)
    gain = squared_error(x, restored(fmt, x), w) / squared_error(x, plainly_rounded(fmt, x), w)
    assert gain <= GAINS[fmt.name]


@each
def test_zeros_stay_zeros(fmt: Format) -> None:
    x = np.zeros((3, COLS), np.float32)
    x[1] = -0.0
    x[2, 256:] = 1  # beside others
    assert not restored(fmt, x)[:2].any()
    assert not restored(fmt, x)[2, :256].any()


@each
@pytest.mark.parametrize("value", [1.0, -3.0, 100.25, -65504.0])
def test_equal_weights_stay_as_they_are(fmt: Format, value: float) -> None:
    x = np.full((1, COLS), value, np.float32)
    # two float16 may stand behind it, each rounded to 11 bits
    assert np.allclose(restored(fmt, x), x, rtol=2**-10, atol=0)


@each
@pytest.mark.parametrize("value", [1.0, -2.5, 65504.0])
def test_one_spike_among_zeros_stays_alone(fmt: Format, value: float) -> None:
    x = np.zeros((1, COLS), np.float32)
    x[0, 77] = value
    y = restored(fmt, x)
    if fmt.name.startswith("IQ4"):  # no level at zero: the nearest one is 1, of 113
        spike, others = 2**-8, 1 / 113
    else:  # two float16 again, whose difference is to be zero
        spike, others = 2**-10, 2**-10
    assert y[0, 77] == pytest.approx(value, rel=spike)
    assert np.abs(np.delete(y, 77)).max() <= others * abs(value)


@each
def test_weights_that_float16_hardly_holds_are_off_by_its_least_at_most(fmt: Format) -> None:
    rng = np.random.default_rng(2)
    for size in (1e-41, 1e-12, 1e-8, 1e-7, 1e-6):
        x = (size * rng.standard_normal((4, COLS))).astype(np.float32)
        w = counted(fmt, x)
        assert squared_error(x, restored(fmt, x), w) <= squared_error(x, np.zeros_like(x), w)


@each
def test_weights_that_no_search_can_weigh_are_refused(fmt: Format) -> None:
    for bad in (np.nan, np.inf, -np.inf, 1e30, -2e6):
        x = normal_weights(2)
        x[1, 300] = bad
        with pytest.raises(
            ValueError, match=f"{fmt.name} holds weights up to 1.04858e\\+06; found"
        ):
            fmt.quantize(x)


@each_weighed
@pytest.mark.parametrize("weighted", [False, True])
def test_a_row_is_the_same_in_any_company(fmt: Format, weighted: bool) -> None:
    x = normal_weights(7)[:, :256]  # one super-block a row, so that they share vectors in any way
    importance = uneven_importance(256) if weighted else None
    whole = fmt.quantize(x, importance)
    parts = [fmt.quantize(x[a:b], importance) for a, b in ((0, 1), (1, 3), (3, 4), (4, 7))]
    assert np.array_equal(np.concatenate(parts), whole)


@each
def test_threads_do_not_disturb_each_other(fmt: Format) -> None:
    x = normal_weights(64)
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda i: fmt.quantize(x[i : i + 8]), range(0, 64, 8)))
    assert np.array_equal(np.concatenate(parts), fmt.quantize(x))


@each_weighed
def test_importance_makes_what_it_weighs_more_accurate(fmt: Format) -> None:
    x = normal_weights(64)
    importance = uneven_importance()
    even, weighted = restored(fmt, x), restored(fmt, x, importance)
    assert squared_error(x, weighted, importance) < 0.97 * squared_error(x, even, importance)
    few = importance > np.quantile(importance, 0.9)
    assert squared_error(x[:, few], weighted[:, few]) < squared_error(x[:, few], even[:, few])


@each
def test_without_importance_all_count_alike(fmt: Format) -> None:
    x = normal_weights(64)
    assert squared_error(x, restored(fmt, x)) < squared_error(
        x, restored(fmt, x, uneven_importance())
    )


@each
def test_only_the_ratios_of_importance_count(fmt: Format) -> None:
    x = normal_weights(4)
    importance = uneven_importance()
    packed = fmt.quantize(x, importance)
    assert np.array_equal(fmt.quantize(x, importance * 2.0**-40), packed)
    assert np.array_equal(fmt.quantize(x, importance * 2.0**40), packed)
    assert not np.array_equal(fmt.quantize(x), packed)
    for constant in (0.0, 2.0**-100, 7.0):
        assert np.array_equal(fmt.quantize(x, np.full(COLS, constant)), fmt.quantize(x))


def test_importance_that_is_none_is_refused() -> None:
    fmt, x = find_format("Q4_K"), normal_weights(2)
    with pytest.raises(ValueError, match=r"importance of 512 columns, found shape \(256,\)"):
        fmt.quantize(x, np.ones(256))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="numbers >= 0"):
            fmt.quantize(x, np.where(np.arange(COLS) == 9, bad, 1))


def test_without_a_compiler_a_search_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(ValueError, match="Q4_K weights are made by compiled code"):
        find_format("Q4_K").quantize(normal_weights(1))


def test_no_rows_are_no_bytes() -> None:
    assert find_format("Q4_K").quantize(np.zeros((0, COLS))).shape == (0, 288)
