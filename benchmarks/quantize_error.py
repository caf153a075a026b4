"""Squared error and time of our quantizers, as ratios to llama.cpp's on the same numbers.

    python quantize_error.py --ggml FOLDER/libggml-base.so [--types Q4_K,Q6_K] [--rows 64]

Three kinds of weights, each with and without the importance of the input channels: normal,
heavy-tailed (Student's t, 3 degrees of freedom), and normal with 1 % of the columns 20 times as
large. Error is sum(importance * (weight - dequantized) ** 2); below 1 ours is smaller. Times are
what one thread spends on the processor, the best of three.
"""

import argparse
import ctypes
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgellama.quant import Format, find_format

TYPES = "Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,IQ4_NL,IQ4_XS,Q4_0,Q4_1,Q5_0,Q5_1,Q8_0"
F32 = NDArray[np.float32]
Quantize = Callable[[Format, F32, F32 | None], NDArray[np.uint8]]


def tensors(rows: int, cols: int) -> dict[str, F32]:
    """Weights of a usual size, (rows, cols)."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((rows, cols))
    heavy = rng.standard_t(3, (rows, cols))
    columns = np.where(rng.random(cols) < 0.01, 20, 1)
    outliers = rng.standard_normal((rows, cols)) * columns
    kinds = {"normal": normal, "heavy": heavy, "outliers": outliers}
    return {name: (0.02 * x).astype(np.float32) for name, x in kinds.items()}


def channel_importance(cols: int) -> F32:
    """Mean squares of activations: log-normal, as those of trained models roughly are."""
    return np.exp(np.random.default_rng(1).normal(0, 1.5, cols)).astype(np.float32)


def load_llama_cpp(path: str) -> Quantize:
    library = ctypes.CDLL(path)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip

    def quantize(fmt: Format, x: F32, importance: F32 | None) -> NDArray[np.uint8]:
        rows, cols = x.shape
        packed = np.empty((rows, fmt.row_bytes(cols)), np.uint8)
        weights = None if importance is None else importance.ctypes.data
        library.ggml_quantize_chunk(
            fmt.ggml_type, x.ctypes.data, packed.ctypes.data, 0, rows, cols, weights
        )
        return packed

    return quantize


def quantize_ours(fmt: Format, x: F32, importance: F32 | None) -> NDArray[np.uint8]:
    return fmt.quantize(x, importance)


def measure(quantize: Quantize, fmt: Format, x: F32, importance: F32 | None) -> tuple[float, float]:
    """The weighted squared error, and nanoseconds a weight."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        packed = quantize(fmt, x, importance)
        times.append(time.thread_time() - start)
    weights = np.ones(x.shape[1]) if importance is None else importance.astype(np.float64)
    error = (weights * (x.astype(np.float64) - fmt.dequantize(packed)) ** 2).sum()
    return float(error), min(times) / x.size * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ggml", required=True, metavar="FILE", help="llama.cpp's libggml-base")
    parser.add_argument("--types", default=TYPES, help="separated by commas")
    parser.add_argument("--rows", type=int, default=64, help="of 2048 columns")
    options = parser.parse_args()
    theirs = load_llama_cpp(options.ggml)
    kinds = tensors(options.rows, 2048)
    importance = channel_importance(2048)
    heads = [*kinds, *(f"{name} *" for name in kinds)]
    print("| type |", " | ".join(heads), "| mean | ns a weight | llama.cpp's |")
    print("|---" * (len(heads) + 4) + "|")
    for name in options.types.split(","):
        fmt = find_format(name)
        ratios, times = [], []
        for weights in (None, importance):
            for x in kinds.values():
                ours, our_time = measure(quantize_ours, fmt, x, weights)
                base, base_time = measure(theirs, fmt, x, weights)
                ratios.append(ours / base)
                times.append((our_time, base_time))
        cells = [f"{ratio:.3f}" for ratio in [*ratios, float(np.mean(ratios))]]
        cells += [f"{time:.1f}" for time in np.mean(times, axis=0)]
        print("|", " | ".join([name, *cells]), "|", flush=True)
    print("\n\\* weighted by the importance of the channels")


if __name__ == "__main__":
    main()
