"""How fast this machine reads memory: the ceiling of decoding, which reads all weights per token.

    python benchmarks/memory_bandwidth.py [--file MODEL.gguf] [--threads 1,2]

Each thread sums its share of the bytes as 64-bit integers, in several streams at once. Reported is
the best of several rounds: a ceiling is what the machine can do, not what it did beside others.
"""

import argparse
import threading
import time
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

DEFAULT_BYTES = 1 << 30  # many times any cache
ROUNDS = 7


@njit(nogil=True, cache=False)
def _sum_words(words: NDArray[np.uint64]) -> np.uint64:
    """Sum of `words` (n,), n a multiple of 4: four streams a quarter of the array apart."""
    quarter = words.size // 4
    a, b = words[:quarter], words[quarter : 2 * quarter]
    c, d = words[2 * quarter : 3 * quarter], words[3 * quarter :]
    total = np.uint64(0)
    for i in range(quarter):
        total += a[i] + b[i] + c[i] + d[i]
    return total


def read_bandwidth(data: NDArray[np.uint8], n_threads: int, rounds: int = ROUNDS) -> float:
    """Bytes a second that `n_threads` threads read from `data`; the best round."""
    words = data[: data.size // (32 * n_threads) * (32 * n_threads)].view(np.uint64)
    shares = np.split(words, n_threads)
    _sum_words(shares[0][:4])  # compiles
    best_s = float("inf")
    for _ in range(rounds):
        threads = [threading.Thread(target=_sum_words, args=(share,)) for share in shares]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best_s = min(best_s, time.perf_counter() - started)
    return words.nbytes / best_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="read this file's mapping, not plain memory")
    parser.add_argument("--threads", default="1,2")
    options = parser.parse_args()
    data = (
        np.memmap(options.file, np.uint8, "r")
        if options.file
        else np.ones(DEFAULT_BYTES, np.uint8)  # written, so that its pages exist
    )
    for n_threads in map(int, options.threads.split(",")):
        print(f"{n_threads} thread(s): {read_bandwidth(data, n_threads) / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
