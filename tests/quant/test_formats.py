"""Every format against gguf-py, and against bytes that were typed by hand."""

import subprocess
import sys

import gguf
import numpy as np
import pytest

from edgellama.quant import FORMATS, Format, dequantize, find_format, quantize
from edgellama.quant.format import MANY

COLS = 256
ROUNDED = [fmt for fmt in FORMATS if fmt.quantize_blocks is not None]  # others: test_searches.py


def hard_blocks(n: int = 1000) -> np.ndarray:
    """(n, 256) float32: ordinary rows of all sizes, and the awkward ones."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, COLS)) * 10.0 ** rng.uniform(-12, 4, (n, 1))
    x = x.astype(np.float32)
    x[0] = 0
    x[1] = -0.0
    x[2, 7] = 1  # after zeros: one spike a row
    x[2, 40] = -65504
    x[3] = np.where(np.arange(COLS) % 2, 3, -3)  # the same magnitude with either sign
    x[4] = np.where(np.arange(COLS) % 2, -3, 3)
    x[5] = np.float32(1e-41)  # denormal
    x[6] = rng.integers(-127, 128, COLS)  # whole codes and halves between them
    x[7] = rng.integers(-255, 256, COLS) / 2
    x[8] = 65504
    x[9] = np.float32(6e-8) * rng.integers(-8, 8, COLS)
    x[10] = 1e30
    return x


@pytest.mark.parametrize("fmt", ROUNDED, ids=lambda f: f.name)
def test_quantized_bytes_are_those_of_gguf_py(fmt: Format) -> None:
    x = hard_blocks()
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(x, gguf.GGMLQuantizationType(fmt.ggml_type))
    assert np.array_equal(fmt.quantize(x), np.ascontiguousarray(expected).view(np.uint8))


@pytest.mark.parametrize("fmt", ROUNDED, ids=lambda f: f.name)
def test_the_compiled_quantizer_gives_the_bytes_of_numpy(fmt: Format) -> None:
    x = hard_blocks(MANY // COLS)
    with np.errstate(all="ignore"):
        expected = fmt.quantize_blocks(x.reshape(-1, fmt.block_size)).reshape(len(x), -1)
    assert x.size >= MANY
    assert np.array_equal(fmt.quantize(x), expected)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_dequantized_values_are_those_of_gguf_py(fmt: Format) -> None:
    rng = np.random.default_rng(1)
    packed = rng.integers(0, 256, (1000, fmt.row_bytes(COLS)), dtype=np.uint8)
    packed[0], packed[1], packed[2] = 0x00, 0xFF, 0x80
    # as float16, wherever a scale may stand: denormals, +-65504, infinities, NaN
    pairs = packed[3:].view(np.uint16) if packed.shape[1] % 2 == 0 else packed[3:]
    for row, special in enumerate((0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00)):
        places = rng.random(pairs.shape[1]) < 0.5
        pairs[row, places] = special & np.iinfo(pairs.dtype).max
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(fmt.ggml_type))
        found = fmt.dequantize(packed)
    same_bits = found.view(np.uint32) == expected.view(np.uint32)
    assert (same_bits | np.isnan(found) & np.isnan(expected)).all()


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_sizes_are_those_of_ggml(fmt: Format) -> None:
    kind = gguf.GGMLQuantizationType(fmt.ggml_type)
    assert kind.name == fmt.name
    assert gguf.GGML_QUANT_SIZES[kind] == (fmt.block_size, fmt.type_size)


def test_a_q4_0_block_typed_by_hand() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :4] = [-8, 7, 1, 0]
    x[0, 16:18] = [-2, 3]
    packed = quantize(x, "q4_0")
    # scale 1.0 is 0x3c00; codes are value + 8, weight j low and weight j + 16 high
    assert packed[0].tolist() == [0x00, 0x3C, 0x60, 0xBF, 0x89, 0x88] + [0x88] * 12
    assert np.array_equal(dequantize(packed, "Q4_0"), x)


def test_a_q4_1_block_typed_by_hand() -> None:
    x = np.full((1, 32), 2, np.float32)
    x[0, :3] = [-13, 1, 0]
    packed = quantize(x, "Q4_1")
    # scale 1.0 is 0x3c00, minimum -13.0 is 0xca80; codes are value + 13
    assert packed[0].tolist() == [0x00, 0x3C, 0x80, 0xCA, 0xF0, 0xFE, 0xFD] + [0xFF] * 13
    assert np.array_equal(dequantize(packed, "Q4_1"), x)


def test_a_q5_0_block_typed_by_hand() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :4] = [-16, 15, 1, -1]
    x[0, 31] = -9
    packed = quantize(x, "Q5_0")
    # codes are value + 16: 0, 31, 17, 15, then 16; and 7 at the end
    assert packed[0, :6].tolist() == [0x00, 0x3C, 0b11110110, 0xFF, 0xFF, 0b01111111]
    assert packed[0, 6:].tolist() == [0x00, 0x0F, 0x01, 0x0F] + [0x00] * 11 + [0x70]
    assert np.array_equal(dequantize(packed, "Q5_0"), x)


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1"])
@pytest.mark.parametrize("rows", [1, MANY // 32])
def test_of_zeros_with_either_sign_the_first_is_the_minimum(name: str, rows: int) -> None:
    x = np.zeros((rows, 32), np.float32)
    x[:, 5:] = 1
    x[:, 2:4] = -0.0
    assert quantize(x, name)[-1, :4].tolist() == quantize(np.abs(x[-1:]), name)[0, :4].tolist()
    x[:, :2] = -0.0
    x[:, 2:4] = 0.0
    assert quantize(x, name)[-1, 2:4].tolist() == [0x00, 0x80]


def test_a_q8_0_block_typed_by_hand() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :3] = [127, -2, 0.5]
    packed = quantize(x, "Q8_0")
    assert packed[0].tolist() == [0x00, 0x3C, 127, 254, 1] + [0] * 29


def test_a_q6_k_super_block_typed_by_hand() -> None:
    packed = np.zeros((1, 210), np.uint8)
    packed[0, :2], packed[0, 128:130] = [0, 15], [0b10101000, 0b10101011]
    packed[0, 2:128], packed[0, 130:192] = 0, 0b10101010
    packed[0, 191] = 0b00101010
    packed[0, 192], packed[0, 207] = 112, 256 - 5  # sub-scales
    packed[0, 208:] = [0x00, 0x3C]  # scale 1
    # codes 0, 63, then 32, which is 2 in the high bits, and 0 at the end
    values = dequantize(packed, "Q6_K")
    assert values[0, :2].tolist() == [-32 * 112, 31 * 112]
    assert values[0, 255] == 32 * 5
    assert not values[0, 2:255].any()


BOUNDS = {  # of the mean squared error of normal weights: llama.cpp's and 10 %
    "Q8_0": 3e-5, "Q5_1": 1.55e-3, "Q5_0": 1.95e-3, "Q4_1": 6.5e-3, "Q4_0": 7.9e-3,
    "F16": 6e-8,
}  # fmt: skip


@pytest.mark.parametrize(("name", "bound"), BOUNDS.items())
def test_the_mean_squared_error_is_that_of_the_format(name: str, bound: float) -> None:
    x = np.random.default_rng(2).standard_normal((64, 1024)).astype(np.float32)
    error = dequantize(quantize(x, name), name) - x
    assert (error**2).mean() / (x**2).mean() <= bound


def test_what_only_some_formats_need_is_imported_when_they_need_it() -> None:
    program = "import sys, edgellama.quant; print({'gguf', 'numba'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"set()"]


def test_a_format_that_is_only_read_says_so() -> None:
    with pytest.raises(ValueError, match="IQ2_S weights can be read but not made"):
        quantize(np.zeros((1, 256)), "IQ2_S")


def test_an_iq4_nl_block_typed_by_hand() -> None:
    packed = np.array([[0x00, 0x40, 0xF0, 0x87] + [0x88] * 14], np.uint8)
    # scale 2.0 is 0x4000; codes 0, 7 and 8 stand for -127, -10 and 1, code 15 for 113
    values = dequantize(packed, "IQ4_NL")
    assert values[0, :3].tolist() == [-254, -20, 2]
    assert values[0, 16:19].tolist() == [226, 2, 2]


def test_columns_that_do_not_fill_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="40 columns do not divide by the Q4_0 block size 32"):
        quantize(np.zeros((2, 40)), "Q4_0")
    with pytest.raises(ValueError, match="35 bytes do not divide"):
        dequantize(np.zeros((2, 35), np.uint8), "Q8_0")
    with pytest.raises(ValueError, match="rows, cols"):
        quantize(np.zeros(32), "Q4_0")


def test_formats_are_found_by_name_in_any_case_and_by_number() -> None:
    assert find_format("q4_0") is find_format(2) is find_format("Q4_0")
    with pytest.raises(ValueError, match="known are F32"):
        find_format("Q9_9")
