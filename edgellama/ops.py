"""The phases of a step: what every thread runs between two barriers.

Each takes (s, ..., counter, ith): the context record, the address of the phase's shared counter,
and the number of the thread. Threads take work by adding to the counter, so that a fast core does
more.
"""

import math

import numpy as np

from .context import FEW, LANES, MAX_CHUNK, SHORTER, TILE_CHUNK
from .quant.activations import quantize_columns
from .quant.amx import TOKENS, narrow_columns, turn_columns
from .quant.jit import inlined, kernel
from .quant.kernels import BFLOAT, BLOCK, MANY
from .quant.records import address_of, call_entry
from .quant.simd.atomic import fetch_add
from .quant.simd.vector import (
    f32x16_to_i32,
    first_lanes,
    fma,
    larger,
    load_f32,
    load_f32x16,
    load_i64,
    power_of_two,
    round_even,
    splat_f32x16,
    store,
    sum_lanes,
)


@inlined
def exp(x):
    """e ** x of f32x16, within 2 units in the last place for -87 <= x <= 88, clamped outside.

    Range reduction and polynomial as in Cephes' expf.
    """
    x = larger(x, splat_f32x16(np.float32(-87)))
    x = splat_f32x16(np.float32(0)) - larger(
        splat_f32x16(np.float32(0)) - x, splat_f32x16(np.float32(-88))
    )
    n = round_even(x * splat_f32x16(np.float32(1.44269504088896341)))
    r = fma(n, splat_f32x16(np.float32(-0.693359375)), x)
    r = fma(n, splat_f32x16(np.float32(2.12194440e-4)), r)
    y = splat_f32x16(np.float32(1.9875691500e-4))
    y = fma(y, r, splat_f32x16(np.float32(1.3981999507e-3)))
    y = fma(y, r, splat_f32x16(np.float32(8.3334519073e-3)))
    y = fma(y, r, splat_f32x16(np.float32(4.1665795894e-2)))
    y = fma(y, r, splat_f32x16(np.float32(1.6666665459e-1)))
    y = fma(y, r, splat_f32x16(np.float32(5.0000001201e-1)))
    y = fma(y, r * r, r + splat_f32x16(np.float32(1)))
    return y * power_of_two(f32x16_to_i32(n))


@kernel
def scratch_of(s, ith):
    return s.scratch + ith * s.scratch_bytes


@kernel
def embed(s, counter):
    """x[t] = the embedding of token t."""
    while True:
        t = fetch_add(counter, 1)
        if t >= s.n:
            return
        to = s.x + t * s.x_stride * 4
        m = s.token_embd
        token = load_i64(s.tokens + t * 8)
        call_entry(m.unpack, (address_of(m), token, to, s.scratch))


@kernel
def rows_at_once(n):
    """Rows of a batch of n that a thread prepares together: those that share tiles."""
    return TOKENS if BFLOAT and n >= MANY else 1


@kernel
def prepare(s, x, t, first, last, n):
    """Values first..last of row t as the products of n tokens read them, beside the values."""
    if BFLOAT and n >= MANY:
        narrow_columns(x, t, first, last)
    elif s.quantized:
        quantize_columns(x, t, first, last)


@kernel
def complete(x, t, first, last, n):
    """The last of what `prepare` does, for the rows_at_once(n) rows from t on."""
    if BFLOAT and n >= MANY:
        turn_columns(x, t, first, last)


@kernel
def _norm_row(s, x, weight, t, n):
    """normed[t] = x / rms(x) * weight, as one of n rows.  RMSNorm: Zhang and Sennrich, 2019."""
    target = s.normed
    squares = splat_f32x16(np.float32(0))
    for i in range(0, s.x_stride * 4, LANES * 4):
        v = load_f32x16(x + i)
        squares = fma(v, v, squares)
    mean = sum_lanes(squares) / np.float32(s.dim)
    scale = splat_f32x16(np.float32(1) / np.float32(math.sqrt(mean + np.float32(s.norm_eps))))
    to = target.values + t * target.padded * 4
    for i in range(0, s.x_stride * 4, LANES * 4):
        store(to + i, load_f32x16(x + i) * scale * load_f32x16(weight + i))
    prepare(s, target, t, 0, target.padded, n)


@kernel
def norm(s, weight, counter):
    """normed[t] = RMSNorm of x[t]."""
    rows = rows_at_once(s.n)
    while True:
        first = fetch_add(counter, rows)
        if first >= s.n:
            return
        for t in range(first, min(first + rows, s.n)):
            _norm_row(s, s.x + t * s.x_stride * 4, weight, t, s.n)
        complete(s.normed, first, 0, s.normed.padded, s.n)


@kernel
def norm_wanted(s, counter):
    """normed[i] = RMSNorm of the i-th row whose logits are asked for."""
    rows = rows_at_once(s.n_wanted)
    while True:
        first = fetch_add(counter, rows)
        if first >= s.n_wanted:
            return
        for i in range(first, min(first + rows, s.n_wanted)):
            row = load_i64(s.wanted + i * 8)
            _norm_row(s, s.x + row * s.x_stride * 4, s.output_norm, i, s.n_wanted)
        complete(s.normed, first, 0, s.normed.padded, s.n_wanted)


@kernel
def chunk_of(rows, n, nth):
    """Rows to take at once: many for a long stream, few enough that all threads end together."""
    chunk = rows // (8 * nth) // BLOCK * BLOCK
    return max(BLOCK, min(chunk, MAX_CHUNK if n <= FEW else TILE_CHUNK))


@kernel
def take(counter, rows, n, nth):
    """First and last of the next rows of a matrix, or the end twice.

    The last rows go in shorter chunks, so that no thread waits long for another.
    """
    number, chunk = fetch_add(counter, 1), chunk_of(rows, n, nth)
    n_long = max(0, rows // chunk - nth)
    if number < n_long:
        return number * chunk, (number + 1) * chunk
    short = max(BLOCK, chunk // SHORTER // BLOCK * BLOCK)
    first = n_long * chunk + (number - n_long) * short
    return min(rows, first), min(rows, first + short)


@kernel
def multiply(m, x, first, last, n, out, out_stride, scratch):
    """out[t, r - first] = matrix row r . activations t."""
    by = m.dot if n <= FEW else m.tile if n < MANY else m.batch
    call_entry(by, (address_of(m), address_of(x), first, last, n, out, out_stride, scratch))


@kernel
def project(m, x, n, out, out_stride, counter, nth, scratch):
    """out[t] = matrix @ activations[t]."""
    while True:
        first, last = take(counter, m.rows, n, nth)
        if first == last:
            return
        multiply(m, x, first, last, n, out + first * 4, out_stride, scratch)


@kernel
def project_add(s, m, x, counter, nth, ith):
    """x[t] += matrix @ activations[t]: the way back into the residual stream."""
    chunk = chunk_of(m.rows, s.n, nth)
    part = scratch_of(s, ith)
    scratch = part + s.n * chunk * 4
    while True:
        first, last = take(counter, m.rows, s.n, nth)
        if first == last:
            return
        multiply(m, x, first, last, s.n, part, chunk * 4, scratch)
        for t in range(s.n):
            to = s.x + (t * s.x_stride + first) * 4
            for r in range(last - first):
                at = to + r * 4
                store(at, load_f32(at) + load_f32(part + (t * chunk + r) * 4))


@kernel
def project_qkv(s, layer, counter, nth, ith):
    """Queries, keys and values, one after the other without waiting."""
    x, scratch = s.normed, scratch_of(s, ith)
    line = 64
    project(layer.attn_q, x, s.n, s.q, s.n_heads * s.head_dim * 4, counter, nth, scratch)
    kv_stride = s.n_kv_heads * s.head_dim * 4
    project(layer.attn_k, x, s.n, s.k, kv_stride, counter + line, nth, scratch)
    project(layer.attn_v, x, s.n, s.v, kv_stride, counter + 2 * line, nth, scratch)


@kernel
def swiglu(s, layer, counter, nth, ith):
    """hidden[t] = silu(gate @ normed[t]) * (up @ normed[t]).  Shazeer, 2020."""
    chunk = chunk_of(s.hidden_dim, s.n, nth)
    gate = scratch_of(s, ith)
    up = gate + s.n * chunk * 4
    scratch = up + s.n * chunk * 4
    one, zero = splat_f32x16(np.float32(1)), splat_f32x16(np.float32(0))
    h = s.hidden
    while True:
        first, last = take(counter, s.hidden_dim, s.n, nth)
        if first == last:
            return
        multiply(layer.ffn_gate, s.normed, first, last, s.n, gate, chunk * 4, scratch)
        multiply(layer.ffn_up, s.normed, first, last, s.n, up, chunk * 4, scratch)
        for t in range(s.n):
            for i in range(0, last - first, LANES):
                g = load_f32x16(gate + (t * chunk + i) * 4)
                u = load_f32x16(up + (t * chunk + i) * 4)
                value = g / (one + exp(zero - g)) * u
                value = first_lanes(value, last - first - i, np.float32(0))
                store(h.values + (t * h.padded + first + i) * 4, value)
            prepare(s, h, t, first, last, s.n)
        for t in range(0, s.n, TOKENS):
            complete(h, t, first, last, s.n)


@kernel
def prepare_attended(s, counter):
    """The attention's output as the products read it (its heads may be narrower than a block)."""
    rows = rows_at_once(s.n)
    while True:
        first = fetch_add(counter, rows)
        if first >= s.n:
            return
        for t in range(first, min(first + rows, s.n)):
            prepare(s, s.attended, t, 0, s.attended.padded, s.n)
        complete(s.attended, first, 0, s.attended.padded, s.n)
