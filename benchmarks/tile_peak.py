"""What this machine computes when nothing has to come from memory: the ceiling of prompts.

    python benchmarks/tile_peak.py [--formats q4_0,q8_0] [--threads 1,2]

For each format, the product of a matrix and a batch of tokens that both lie in the second cache, by
the kernel of prompts (tile, GFLOP/s: two a weight and token) and by that of decoding (dot, GB/s of
packed weights). For reference, the peak of float32 fused multiply-adds: integer tiles may exceed
it. Reported is the best of several rounds.
"""

import argparse
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgellama.quant import FORMATS, Format, find_format
from edgellama.quant.jit import Entry, entry
from edgellama.quant.kernels import ACTIVATIONS, MATRIX, PAD
from edgellama.quant.simd.cpu import current_tier
from edgellama.quant.simd.vector import fma, splat_f32x8, splat_f32x16, store
from edgellama.random_llama import random_rows

COLS, TOKENS = 2048, 64
MATRIX_BYTES = 1 << 17  # beside the activations and an unpacked tile in half a megabyte
ROUNDS, ROUND_S = 5, 0.1
CHAINS = 12  # of dependent operations: more than latency times units, and they fit 16 registers
FMA_STEPS = 1 << 20


class Product:
    """A matrix, activations and scratch for one thread."""

    def __init__(self, fmt: Format) -> None:
        rng = np.random.default_rng(0)
        self.format = fmt
        self.rows = max(64, MATRIX_BYTES // fmt.row_bytes(COLS) // 16 * 16)
        self.packed = random_rows(rng, self.rows, COLS, fmt)
        padded = -(-COLS // PAD) * PAD
        self.activations = np.zeros(1, ACTIVATIONS)
        self.buffers = {
            name: rng.standard_normal((TOKENS, padded), np.float32)  # codes: any bytes will do
            for name in ACTIVATIONS.names or ()
            if name != "padded"
        }
        for name, buffer in self.buffers.items():
            self.activations[name] = buffer.ctypes.data
        self.activations["padded"] = padded
        self.matrix = np.zeros(1, MATRIX)
        self.matrix["data"] = self.packed.ctypes.data
        self.matrix["rows"], self.matrix["cols"] = self.rows, COLS
        self.matrix["row_bytes"] = fmt.row_bytes(COLS)
        self.scratch = np.zeros(fmt.products.scratch_bytes(COLS), np.uint8)
        self.out = np.empty((TOKENS, self.rows), np.float32)

    def multiply(self, kernel: Entry, n: int) -> None:
        kernel.call(
            self.matrix.ctypes.data, self.activations.ctypes.data, 0, self.rows, n,
            self.out.ctypes.data, self.out.strides[0], self.scratch.ctypes.data,
        )  # fmt: skip


def _fma_chains(splat: Any) -> Entry:
    @entry
    def chains(n, out):  # type: ignore[no-untyped-def]
        m, a = splat(np.float32(0.5)), splat(np.float32(1))
        c0, c1, c2 = splat(np.float32(0)), splat(np.float32(1)), splat(np.float32(2))
        c3, c4, c5 = splat(np.float32(3)), splat(np.float32(4)), splat(np.float32(5))
        c6, c7, c8 = splat(np.float32(6)), splat(np.float32(7)), splat(np.float32(8))
        c9, c10, c11 = splat(np.float32(9)), splat(np.float32(10)), splat(np.float32(11))
        for _ in range(n):
            c0, c1, c2 = fma(c0, m, a), fma(c1, m, a), fma(c2, m, a)
            c3, c4, c5 = fma(c3, m, a), fma(c4, m, a), fma(c5, m, a)
            c6, c7, c8 = fma(c6, m, a), fma(c7, m, a), fma(c8, m, a)
            c9, c10, c11 = fma(c9, m, a), fma(c10, m, a), fma(c11, m, a)
        store(out, c0 + c1 + c2 + c3 + c4 + c5 + c6 + c7 + c8 + c9 + c10 + c11)

    return chains


def fma_peak(n_threads: int) -> float:
    """Float32 operations a second; of vectors of 8 or of 16, what the machine does faster."""
    return max(_fma_speed(splat_f32x8, 8, n_threads), _fma_speed(splat_f32x16, 16, n_threads))


def _fma_speed(splat: Any, lanes: int, n_threads: int) -> float:
    chains = _fma_chains(splat)

    def prepare() -> Callable[[], None]:
        out = np.empty(16, np.float32)
        return lambda: chains.call(FMA_STEPS, out.ctypes.data)

    return _best(prepare, n_threads) * 2 * lanes * CHAINS * FMA_STEPS


def tile_peak(fmt: Format, n_threads: int) -> float:
    """Operations a second of prompts."""

    def prepare() -> Callable[[], None]:
        product = Product(fmt)
        return lambda: product.multiply(fmt.products.tile, TOKENS)

    return _best(prepare, n_threads) * 2 * Product(fmt).rows * COLS * TOKENS


def dot_peak(fmt: Format, n_threads: int) -> float:
    """Packed bytes a second of decoding."""

    def prepare() -> Callable[[], None]:
        product = Product(fmt)
        return lambda: product.multiply(fmt.products.dot, 1)

    return _best(prepare, n_threads) * Product(fmt).packed.nbytes


def _best(prepare: Callable[[], Callable[[], None]], n_threads: int) -> float:
    """How often a second the threads together can do what `prepare` makes for each of them."""
    works = [prepare() for _ in range(n_threads)]
    works[0]()  # compiles
    started = time.perf_counter()
    works[0]()
    times = max(1, int(ROUND_S / (time.perf_counter() - started)))

    def repeat(work: Callable[[], None]) -> None:
        for _ in range(times):
            work()

    best_s = float("inf")
    for _ in range(ROUNDS):
        threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best_s = min(best_s, time.perf_counter() - started)
    return times * n_threads / best_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", default=",".join(fmt.name.lower() for fmt in FORMATS))
    parser.add_argument("--threads", default="1")
    options = parser.parse_args()
    for n_threads in map(int, options.threads.split(",")):
        peak = fma_peak(n_threads)
        print(f"\n{current_tier().name}, {n_threads} thread(s): {peak / 1e9:.0f} GFLOP/s of FMA\n")
        print("| format | tile | of the FMA peak | dot |\n|---|---|---|---|")
        for fmt in map(find_format, options.formats.split(",")):
            tile, dot = tile_peak(fmt, n_threads), dot_peak(fmt, n_threads)
            print(
                f"| {fmt.name} | {tile / 1e9:.0f} GFLOP/s | {tile / peak:.0%} |"
                f" {dot / 1e9:.1f} GB/s |"
            )


if __name__ == "__main__":
    main()
