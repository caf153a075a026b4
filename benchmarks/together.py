"""What a step costs when several sequences decode together, each behind 64 tokens.

    python benchmarks/together.py MODEL.gguf [--rows 1,2,4,8] [--threads 2] [--prompt 512]

A step reads the weights once, whatever the number of rows. Reported are medians over rounds in
which the numbers of rows take turns: milliseconds, and how many times a step of one row; and
tokens a second of a prompt.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np

from edgellama.backends import Backend, Batch, load_backend
from edgellama.config import ModelConfig
from edgellama.gguf import GGUFFile
from edgellama.weights import load_weights

DEPTH, STEPS = 64, 5


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def seconds_of_step(backend: Backend, rows: int) -> float:
    """The median of some steps of one token for each of `rows` sequences."""
    times = []
    for _ in range(STEPS):
        for sequence in range(rows):
            backend.rewind(sequence, DEPTH)
        each = np.arange(rows, dtype=np.int32)
        batch = Batch(np.full(rows, 5, np.int32), np.full_like(each, DEPTH), each, each >= 0)
        started = time.perf_counter()
        backend.forward(batch)
        times.append(time.perf_counter() - started)
    return median(times)


def seconds_of_prompt(backend: Backend, sequence: int, n: int) -> float:
    backend.rewind(sequence, 0)
    started = time.perf_counter()
    backend.forward(Batch.of(list(range(n)), sequence, 0, "last"))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=numbers, default="1,2,4,8", metavar="N,...")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=0, metavar="TOKENS")
    options = parser.parse_args()
    most = max(options.rows)
    file = GGUFFile(options.model)
    config = ModelConfig.from_gguf(file)
    backend = load_backend(
        "cpu",
        config,
        load_weights(file, config),
        n_ctx=max(DEPTH + 1, options.prompt),
        n_sequences=most + 1,
        n_threads=options.threads,
    )
    for sequence in range(most):
        backend.forward(Batch.of(list(range(DEPTH)), sequence, 0, "none"))
    times: dict[int, list[float]] = {rows: [] for rows in options.rows}
    prompts = []
    for _ in range(options.rounds):
        for rows, seconds in times.items():
            seconds.append(seconds_of_step(backend, rows))
        if options.prompt:
            prompts.append(options.prompt / seconds_of_prompt(backend, most, options.prompt))
    one = median(times[options.rows[0]])
    print(f"{options.model.name}, {options.rounds} rounds\n")
    print(f"| rows | ms | times {options.rows[0]} |\n|---|---|---|")
    for rows, seconds in times.items():
        print(f"| {rows} | {median(seconds) * 1e3:.1f} | {median(seconds) / one:.2f} |")
    if options.prompt:
        print(f"\nprompt {options.prompt}: {median(prompts):.1f} tok/s")


if __name__ == "__main__":
    main()
