"""Every compiled product against float64 over the dequantized weights and the same activations."""

import mmap
import os
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from random_rows import random_rows

from edgellama.quant import FORMATS, Format, find_format
from edgellama.quant.activations import quantize_row
from edgellama.quant.amx import TOKENS, narrow_columns, turn_columns
from edgellama.quant.jit import entry
from edgellama.quant.kernels import BFLOAT, BLOCK, MANY, MATRIX, new_activations
from edgellama.quant.records import activations_at
from edgellama.quant.simd.cpu import current_tier

# columns: one block, a rest, whole groups, groups and a rest; dense formats take any width
COLUMNS = (32, 96, 256, 512, 736, 1280)
DENSE_COLUMNS = (1, 7, 16, 40, 250, 300)


@entry
def quantize_rows(activations, n):
    for t in range(n):
        quantize_row(activations_at(activations), t)


@entry
def fill_tiles(activations, n):
    x = activations_at(activations)
    for t in range(n):
        narrow_columns(x, t, 0, x.padded)
    for t in range(0, n, TOKENS):
        turn_columns(x, t, 0, x.padded)


def rounded_to_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


class Product:
    """A random matrix and random activations, and the kernels of their format on them."""

    def __init__(self, fmt: Format, rows: int, cols: int, n: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.format, self.rows, self.n = fmt, rows, n
        self.packed = random_rows(rng, rows, cols, fmt, 1)
        self.activations, self.arrays = new_activations(n, cols)
        arrays = self.arrays  # kept: their addresses stand in the record
        self.values, self.codes, self.scales = arrays["values"], arrays["codes"], arrays["scales"]
        self.sums, self.half_sums, self.pairs = arrays["sums"], arrays["half_sums"], arrays["pairs"]
        self.values[:, :cols] = rng.standard_normal((n, cols)) * rng.exponential(size=(n, 1))
        quantize_rows.call(self.activations.ctypes.data, n)
        if BFLOAT:
            fill_tiles.call(self.activations.ctypes.data, n)
        self.matrix = np.zeros(1, MATRIX)
        self.matrix["data"] = self.packed.ctypes.data
        self.matrix["rows"], self.matrix["cols"] = rows, cols
        self.matrix["row_bytes"] = fmt.row_bytes(cols)
        for name, kernel in fmt.products.entries.items():
            self.matrix[name] = kernel.address
        self.scratch = np.empty(fmt.products.scratch_bytes(cols) + 64, np.uint8)
        self.scratch[-64:] = 77

    def run(self, name: str, first: int = 0, last: int | None = None) -> np.ndarray:
        last = self.rows if last is None else last
        out = np.full((self.n, last - first + 2), 7, np.float32)
        self.format.products.entries[name].call(
            self.matrix.ctypes.data, self.activations.ctypes.data, first, last, self.n,
            out.ctypes.data, out.strides[0], self.scratch.ctypes.data,
        )  # fmt: skip
        assert (out[:, -2:] == 7).all(), "wrote past its rows"
        assert (self.scratch[-64:] == 77).all(), "wrote past its scratch"
        return out[:, :-2]

    def exact(self) -> np.ndarray:
        weights = self.format.dequantize(self.packed).astype(np.float64)
        x = self.values.astype(np.float64)
        if self.format.products.quantized:
            x = self.codes.astype(np.float64) * np.repeat(self.scales, BLOCK, axis=1)
        return x[:, : weights.shape[1]] @ weights.T

    def exact_in_bfloat16(self) -> np.ndarray:
        weights = rounded_to_bfloat16(self.format.dequantize(self.packed)).astype(np.float64)
        return rounded_to_bfloat16(self.values)[:, : weights.shape[1]] @ weights.T


def columns_of(fmt: Format) -> tuple[int, ...]:
    widths = COLUMNS if fmt.products.quantized else COLUMNS + DENSE_COLUMNS
    return tuple(cols for cols in widths if cols % fmt.block_size == 0)


def width(fmt: Format, least: int) -> int:
    """The first number of columns that blocks divide."""
    return -(-least // fmt.block_size) * fmt.block_size


CASES = [(fmt, cols) for fmt in FORMATS for cols in columns_of(fmt)]


@pytest.mark.parametrize(("fmt", "cols"), CASES, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("kind", ["dot", "tile"])
def test_a_product_equals_float64_over_the_same_numbers(fmt, cols, kind):
    product = Product(fmt, rows=37, cols=cols, n=9)
    exact = product.exact()
    # float32 sums of `cols` terms in lanes: a few roundings of 6e-8 of the largest partial sum
    assert np.abs(product.run(kind) - exact).max() <= 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize(("fmt", "cols"), CASES, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9])
def test_dot_and_tile_agree_to_the_last_bit(fmt, cols, n):
    product = Product(fmt, rows=35, cols=cols, n=n)
    assert np.array_equal(product.run("dot"), product.run("tile"))


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("kind", ["dot", "tile"])
def test_rows_do_not_depend_on_where_a_chunk_starts(fmt, kind):
    product = Product(fmt, rows=50, cols=width(fmt, 320), n=3)
    assert np.array_equal(product.run(kind)[:, 5:41], product.run(kind, 5, 41))


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_one_token_takes_chunks_of_any_number_of_rows(fmt):
    product = Product(fmt, rows=6, cols=width(fmt, 320), n=1)
    whole = product.run("dot")
    for first, last in combinations(range(7), 2):
        assert np.array_equal(product.run("dot", first, last), whole[:, first:last])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cuts off no file that is mapped")
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize(("kind", "n"), [("dot", 1), ("dot", 3), ("tile", 3)])
def test_nothing_behind_the_last_row_is_read(fmt, kind, n, tmp_path: Path):
    product = Product(fmt, rows=5, cols=width(fmt, 96), n=n)
    expected = product.run(kind)
    end = -(-product.packed.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    path = tmp_path / "matrix"
    path.write_bytes(bytes(end - product.packed.nbytes) + product.packed.tobytes() + bytes(end))
    with path.open("r+b") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)
    os.truncate(path, end)  # from here on a load behind the end ends the process
    product.matrix["data"] = mapped.ctypes.data + end - product.packed.nbytes
    assert np.array_equal(product.run(kind), expected)


@pytest.mark.parametrize("kind", ["dot", "tile"])
def test_the_largest_numbers_of_q6_k_are_exact(kind):
    product = Product(find_format("Q6_K"), rows=16, cols=256, n=8)
    rng = np.random.default_rng(4)
    product.packed[:] = rng.choice([0x00, 0xFF], product.packed.shape)  # codes 0, 15, 48 and 63
    product.packed[:2] = [[0x00], [0xFF]]
    product.packed[:, 192:208] = rng.choice([0x80, 0x7F], (16, 16))  # sub-scales
    product.packed[:2, 192:208] = 0x80
    product.packed[:, 208:] = [0x00, 0x3C]  # scale 1
    product.values[:] = 0
    for t in range(8):  # one block each: its integer is the result
        product.values[t, t * BLOCK : (t + 1) * BLOCK] = rng.choice([127, -127], BLOCK)
    product.values[:4] = 127 * np.abs(np.sign(product.values[:4]))
    quantize_rows.call(product.activations.ctypes.data, 8)
    exact = product.exact()
    assert np.abs(exact).max() == 32 * 32 * 127 * 128
    assert np.array_equal(product.run(kind), exact)


SCALES_AT = {  # where the float16 numbers of a block stand
    "Q5_K": (0, 2), "Q5_1": (0, 2), "Q5_0": (0,), "Q4_K": (0, 2), "Q4_1": (0, 2),
    "Q3_K": (108,), "Q2_K": (80, 82),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALES_AT)
@pytest.mark.parametrize("kind", ["dot", "tile"])
def test_the_largest_codes_and_sub_scales_are_exact(name, kind):
    product = Product(find_format(name), rows=16, cols=256, n=8)
    rng = np.random.default_rng(4)
    product.packed[:] = rng.choice([0x00, 0xFF], product.packed.shape)
    product.packed[:2] = [[0x00], [0xFF]]
    blocks = product.packed.reshape(-1, product.format.type_size)
    for at in SCALES_AT[name]:
        blocks[:, at : at + 2] = [0x00, 0x3C]  # 1
    product.values[:] = 0
    for t in range(8):  # one block each: its integers are the result
        product.values[t, t * BLOCK : (t + 1) * BLOCK] = rng.choice([127, -127], BLOCK)
    product.values[:4] = 127 * np.abs(np.sign(product.values[:4]))
    quantize_rows.call(product.activations.ctypes.data, 8)
    assert np.array_equal(product.run(kind), product.exact())


needs_tiles = pytest.mark.skipif(not BFLOAT, reason="a matter of the amx tier")
ON_TILES = [fmt for fmt in FORMATS if "widen" in fmt.products.entries]


@needs_tiles
@pytest.mark.parametrize("fmt", ON_TILES, ids=lambda f: f.name)
@pytest.mark.parametrize(("rows", "n"), [(16, MANY), (37, 33), (133, 71)])
def test_a_batch_on_tiles_is_the_product_of_bfloat16(fmt, rows, n):
    product = Product(fmt, rows=rows, cols=width(fmt, 2100), n=n)
    exact = product.exact_in_bfloat16()
    # float32 sums of `cols` terms, one after the other: half a rounding of 6e-8 for each, at random
    assert np.abs(product.run("batch") - exact).max() <= 2e-6 * np.abs(exact).max()


@needs_tiles
@pytest.mark.parametrize(("fmt", "cols"), CASES, ids=lambda v: getattr(v, "name", v))
def test_a_batch_on_tiles_takes_any_width(fmt, cols):
    product = Product(fmt, rows=20, cols=cols, n=20)
    product.scratch[:-64] = 0xFF  # NaN
    exact = product.exact_in_bfloat16() if fmt in ON_TILES else product.exact()
    assert np.abs(product.run("batch") - exact).max() <= 2e-6 * np.abs(exact).max()


@needs_tiles
@pytest.mark.parametrize("fmt", ON_TILES, ids=lambda f: f.name)
def test_a_row_and_a_token_on_tiles_do_not_depend_on_the_others(fmt):
    product = Product(fmt, rows=50, cols=width(fmt, 320), n=40)
    whole = product.run("batch")
    assert np.array_equal(whole[:, 5:41], product.run("batch", 5, 41))
    product.n = 17
    assert np.array_equal(whole[:17], product.run("batch"))


@needs_tiles
@pytest.mark.parametrize("fmt", ON_TILES, ids=lambda f: f.name)
def test_bfloat16_is_closer_to_float32_than_int8_activations(fmt):
    product = Product(fmt, rows=64, cols=width(fmt, 512), n=32)
    exact = product.values[:, : width(fmt, 512)] @ fmt.dequantize(product.packed).T

    def error(kind: str) -> float:
        return float(np.linalg.norm(product.run(kind) - exact) / np.linalg.norm(exact))

    # a weight and a value are off by at most 2 ** -9 each, all weights of a scale perhaps alike
    assert error("batch") < 0.003
    assert error("tile") < (0.01 if fmt.products.quantized else 1e-6)
    assert error("batch") < error("tile") or not fmt.products.quantized


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_unpack_is_dequantize(fmt):
    cols = width(fmt, 96)
    product = Product(fmt, rows=300, cols=cols, n=1)
    rng = np.random.default_rng(5)
    product.packed[10:] = rng.integers(0, 256, product.packed[10:].shape)  # scales of all kinds
    product.packed[8], product.packed[9] = 0x00, 0xFF
    with np.errstate(all="ignore"):
        expected = fmt.dequantize(product.packed)
    for row in range(product.rows):
        out = np.empty(cols, np.float32)
        fmt.products.unpack.call(
            product.matrix.ctypes.data, row, out.ctypes.data, product.scratch.ctypes.data
        )
        assert np.array_equal(out, expected[row], equal_nan=True)


WITH_WIDEN = [fmt for fmt in FORMATS if fmt.products.widen is not None]


@pytest.mark.skipif(current_tier().name == "generic", reason="compiles long, and only AMX widens")
@pytest.mark.parametrize("fmt", WITH_WIDEN, ids=lambda f: f.name)
def test_widen_is_dequantize_rounded_to_bfloat16(fmt):
    for cols in columns_of(fmt):
        product = Product(fmt, rows=9, cols=cols, n=1)
        product.scratch[:-64] = 0xFF  # NaN
        padded = -(-cols // BLOCK) * BLOCK
        out = np.full((8, padded + 8), 7, np.uint16)
        fmt.products.widen.call(
            product.matrix.ctypes.data, 1, 9, out.ctypes.data, out.strides[0],
            product.scratch.ctypes.data,
        )  # fmt: skip
        found = (out.astype(np.uint32) << 16).view(np.float32)[:, :cols]
        weights = fmt.dequantize(product.packed)[1:]
        # a fused multiply-add rounds once where numpy rounds twice: a tie may fall the other way
        assert (found == rounded_to_bfloat16(weights)).mean() > 0.999
        np.testing.assert_allclose(found, weights, rtol=2**-8, atol=1e-6 * np.abs(weights).max())
        assert not out[:, cols:padded].any()
        assert (out[:, padded:] == 7).all(), "wrote past its rows"
        assert (product.scratch[-64:] == 77).all(), "wrote past its scratch"


def test_activations_are_quantized_to_the_nearest_code():
    product = Product(FORMATS[0], rows=1, cols=256, n=4)
    blocks = product.values.reshape(4, -1, BLOCK)
    peak = np.abs(blocks).max(axis=2)
    assert np.array_equal(product.scales, peak / np.float32(127))
    inverse = (np.float32(127) / peak)[..., None]
    assert np.array_equal(product.codes.reshape(blocks.shape), np.rint(blocks * inverse))
    assert np.array_equal(product.sums, product.codes.reshape(blocks.shape).sum(axis=2))
    totals = product.scales * product.sums.astype(np.float32)
    assert np.array_equal(product.arrays["totals"], totals)
    halves = product.codes.reshape((*product.half_sums.shape, BLOCK // 2))
    assert np.array_equal(product.half_sums, halves.sum(axis=3))
    eight_blocks = halves.reshape(4, -1, 2, 4, 2, BLOCK // 2)  # far or near, which four, which half
    assert np.array_equal(product.pairs.ravel(), eight_blocks.transpose(0, 1, 3, 4, 2, 5).ravel())


def test_a_zero_row_has_zero_codes_and_a_nan_is_not_lost():
    product = Product(FORMATS[0], rows=1, cols=256, n=2)
    product.values[0] = 0
    product.values[1, 40] = np.nan
    quantize_rows.call(product.activations.ctypes.data, 2)
    assert not product.codes[0].any()
    assert not product.scales[0].any()
    assert np.isnan(product.scales[1, 1])
    assert np.isfinite(product.scales[1, [0, 2, 3]]).all()
