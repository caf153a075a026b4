"""Where the time of a decode step goes: what the same threads need for less and less of it.

    python benchmarks/decode_parts.py MODEL.gguf [--threads 1,2] [--rounds 40]

    step        one token through the model
    phases      all of that but the products: norms, rope, attention, barriers
    products    the products alone, chunk after chunk as in a step, without barriers between
    in cache    the same few rows of one matrix again and again: their arithmetic, with nothing from
                memory
    reading     the bytes of `products`, chunk after chunk, only loaded and summed

The five take turns. Shown are medians and the fastest tenth: milliseconds, and GB/s of weights.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from edgellama.attention import attend, rope_and_cache
from edgellama.backends.base import Batch
from edgellama.backends.cpu import CpuBackend
from edgellama.config import ModelConfig
from edgellama.context import LAYER, PHASES_PER_LAYER
from edgellama.gguf import GGUFFile
from edgellama.ops import embed, multiply, norm, prepare_attended, project, scratch_of, take
from edgellama.quant.jit import entry, kernel
from edgellama.quant.simd.atomic import barrier
from edgellama.quant.simd.cpu import current_tier
from edgellama.quant.simd.vector import load_f32x8, splat_f32x8, store
from edgellama.step import LAYER_BYTES, LINE, context_at, layer_at
from edgellama.weights import Matrix, ModelWeights, load_weights

PROMPT = [1, 2, 3]
FEW_ROWS = 64  # of attn_q: they fit the second cache, with the activations
REPEATS = 2000
OUTPUTS = 1 << 16  # bytes of the scratch in which products are left


@entry
def phases(context, ith, nth):
    """As step.step; where there is a product, nothing stands between two barriers."""
    s = context_at(context)
    c, wait = s.counters, s.barrier
    embed(s, c)
    barrier(wait, nth)
    c += LINE
    for i in range(s.n_layers):
        layer = layer_at(s.layers + i * LAYER_BYTES)
        norm(s, layer.attn_norm, c)
        barrier(wait, nth)
        barrier(wait, nth)
        rope_and_cache(s, i, c + 4 * LINE, ith)
        barrier(wait, nth)
        attend(s, i, c + 5 * LINE, ith)
        barrier(wait, nth)
        prepare_attended(s, c + 6 * LINE)
        barrier(wait, nth)
        barrier(wait, nth)
        norm(s, layer.ffn_norm, c + 8 * LINE)
        barrier(wait, nth)
        barrier(wait, nth)
        barrier(wait, nth)
        c += PHASES_PER_LAYER * LINE


@entry
def products(context, ith, nth):
    s = context_at(context)
    c, out = s.counters, scratch_of(s, ith)
    scratch = out + OUTPUTS
    for i in range(s.n_layers):
        layer = layer_at(s.layers + i * LAYER_BYTES)
        project(layer.attn_q, s.normed, 1, s.q, 0, c, nth, scratch)
        project(layer.attn_k, s.normed, 1, s.k, 0, c + LINE, nth, scratch)
        project(layer.attn_v, s.normed, 1, s.v, 0, c + 2 * LINE, nth, scratch)
        project(layer.attn_output, s.attended, 1, out, 0, c + 3 * LINE, nth, scratch)
        project(layer.ffn_gate, s.normed, 1, out, 0, c + 4 * LINE, nth, scratch)
        project(layer.ffn_up, s.normed, 1, out, 0, c + 5 * LINE, nth, scratch)
        project(layer.ffn_down, s.hidden, 1, out, 0, c + 6 * LINE, nth, scratch)
        c += PHASES_PER_LAYER * LINE
    project(s.output, s.normed, 1, s.logits, 0, c, nth, scratch)


@entry
def in_cache(context, ith, nth):
    s = context_at(context)
    m, out, first = layer_at(s.layers).attn_q, scratch_of(s, ith), ith * FEW_ROWS
    for _ in range(REPEATS):
        multiply(m, s.normed, first, first + FEW_ROWS, 1, out, 0, out + OUTPUTS)


@kernel
def read(m, counter, nth, out):
    """Sum the bytes of a matrix as float32: four streams in each chunk."""
    a = b = c = d = splat_f32x8(np.float32(0))
    while True:
        first, last = take(counter, m.rows, 1, nth)
        if first == last:
            store(out, a + b + c + d)
            return
        quarter = (last - first) * m.row_bytes // 256 * 64
        start = m.data + first * m.row_bytes
        for w in range(start, start + quarter, 64):
            a = a + load_f32x8(w) + load_f32x8(w + 32)
            b = b + load_f32x8(w + quarter) + load_f32x8(w + quarter + 32)
            c = c + load_f32x8(w + 2 * quarter) + load_f32x8(w + 2 * quarter + 32)
            d = d + load_f32x8(w + 3 * quarter) + load_f32x8(w + 3 * quarter + 32)


@entry
def reading(context, ith, nth):
    s = context_at(context)
    c, out = s.counters, scratch_of(s, ith)
    for i in range(s.n_layers):
        layer = layer_at(s.layers + i * LAYER_BYTES)
        read(layer.attn_q, c, nth, out)
        read(layer.attn_k, c + LINE, nth, out)
        read(layer.attn_v, c + 2 * LINE, nth, out)
        read(layer.attn_output, c + 3 * LINE, nth, out)
        read(layer.ffn_gate, c + 4 * LINE, nth, out)
        read(layer.ffn_up, c + 5 * LINE, nth, out)
        read(layer.ffn_down, c + 6 * LINE, nth, out)
        c += PHASES_PER_LAYER * LINE
    read(s.output, c, nth, out)


def bytes_of_step(backend: CpuBackend, weights: ModelWeights) -> dict[str, int]:
    """Bytes of weights that each part reads."""
    whole = weights.output.data.nbytes
    for layer in weights.layers:
        values = (getattr(layer, name) for name in LAYER.names or ())
        whole += sum(m.data.nbytes for m in values if isinstance(m, Matrix))
    row = weights.layers[0].attn_q.data.strides[0]
    again = REPEATS * FEW_ROWS * row * backend.n_threads
    return {"step": whole, "phases": 0, "products": whole, "in cache": again, "reading": whole}


def seconds_of_parts(backend: CpuBackend, rounds: int) -> dict[str, list[float]]:
    """How long each part took, in each round."""
    backend.forward(Batch.of(PROMPT))
    times: dict[str, list[float]] = {name: [] for name in ("step", *PARTS)}
    for _ in range(rounds):
        backend.rewind(0, len(PROMPT))
        started = time.perf_counter()
        logits = backend.forward(Batch.of([5], start=len(PROMPT)))
        times["step"].append(time.perf_counter() - started)
        backend._context["logits"] = logits.ctypes.data  # the products write there again
        for name, part in PARTS.items():
            backend._counters.fill(0)
            address = part.address  # the first time, this compiles
            started = time.perf_counter()
            backend._team.run(address, backend._address)
            times[name].append(time.perf_counter() - started)
    return times


PARTS = {"phases": phases, "products": products, "in cache": in_cache, "reading": reading}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    file = GGUFFile(options.model)
    config = ModelConfig.from_gguf(file)
    weights = load_weights(file, config)
    for n_threads in map(int, options.threads.split(",")):
        backend = CpuBackend(config, weights, n_ctx=64, n_threads=n_threads)
        sizes = bytes_of_step(backend, weights)
        print(f"\n{options.model.name}, {current_tier().name}, {n_threads} thread(s)\n")
        print("| part | median | GB/s | fastest tenth | GB/s |\n|---|---|---|---|---|")
        for name, seconds in seconds_of_parts(backend, options.rounds).items():
            median, fast = statistics.median(seconds), sorted(seconds)[options.rounds // 10]
            speeds = [f"{sizes[name] / s / 1e9:.1f}" if sizes[name] else "" for s in (median, fast)]
            print(
                f"| {name} | {median * 1e3:.2f} ms | {speeds[0]} |"
                f" {fast * 1e3:.2f} ms | {speeds[1]} |"
            )
        backend.close()


if __name__ == "__main__":
    main()
