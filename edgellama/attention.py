"""Rotary positions, the cache, and attention: the phases of a step that look at other tokens.

Attention streams over the cache block by block with an online softmax (Milakov and Gimelshein,
2018), so no row of scores is ever longer than a block. Blocks begin at fixed positions: a row's
result does not depend on what it was computed together with.
"""

from typing import Any

import numpy as np

from .context import LANES
from .kv_cache import BLOCK_TOKENS, F16, Q8_0
from .ops import exp, scratch_of
from .quant.activations import largest_magnitude
from .quant.jit import kernel
from .quant.kernels import BLOCK
from .quant.memory import zero_bytes
from .quant.simd.atomic import fetch_add
from .quant.simd.half import load_f16, load_f16x16, store_f16
from .quant.simd.vector import (
    f32x16_to_i32,
    first_lanes,
    fma,
    i8x16_to_f32,
    i32x16_to_i8,
    larger,
    load_f32,
    load_f32x16,
    load_i8,
    load_i8x16,
    load_i64,
    max_lanes,
    prefetch,
    round_even,
    splat_f32x16,
    store,
    sum_lanes,
)

ROW = BLOCK_TOKENS * 4  # bytes of the scores of a row
NEVER = np.float32(-1e30)  # the score of a key that is not to be seen


@kernel
def padded_head(head_dim):
    """Values of a head, padded to whole vectors."""
    return (head_dim + LANES - 1) // LANES * LANES


@kernel
def _rotate(head, cos, sin, half):
    """Neighbouring pairs as complex numbers, turned by the position's angle.  Su et al., 2021."""
    for i in range(half):
        at = head + i * 8
        a, b, c, s = load_f32(at), load_f32(at + 4), load_f32(cos + i * 4), load_f32(sin + i * 4)
        store(at, a * c - b * s)
        store(at + 4, a * s + b * c)


@kernel
def _write_f16(keys, values, token, k, v, head_dim):
    for i in range(head_dim):
        store_f16(keys + (i * BLOCK_TOKENS + token) * 2, load_f32(k + i * 4))
        store_f16(values + (token * padded_head(head_dim) + i) * 2, load_f32(v + i * 4))


@kernel
def _write_f32(keys, values, token, k, v, head_dim):
    for i in range(head_dim):
        store(keys + (i * BLOCK_TOKENS + token) * 4, load_f32(k + i * 4))
        store(values + (token * padded_head(head_dim) + i) * 4, load_f32(v + i * 4))


@kernel
def _scale_of(values):
    """float16 scale of 32 values, and what to multiply them with to get codes up to 127."""
    peak = largest_magnitude(load_f32x16(values), load_f32x16(values + 64))
    return peak / np.float32(127), np.float32(127) / peak if peak > 0 else np.float32(0)


@kernel
def _write_key_q8_0(to, token, k, head_dim, line):
    """Codes scattered over the rows of the block, scales behind; `line`: 32 bytes of scratch."""
    scales = to + head_dim * BLOCK_TOKENS
    for b in range(head_dim // BLOCK):
        scale, inverse = _scale_of(k + b * BLOCK * 4)
        store_f16(scales + (b * BLOCK_TOKENS + token) * 2, scale)
        _encode(k + b * BLOCK * 4, inverse, line)
        for i in range(BLOCK):
            at = to + (b * BLOCK + i) * BLOCK_TOKENS + token
            store(at, load_i8(line + i))


@kernel
def _write_value_q8_0(to, token, v, head_dim):
    scales = to + head_dim * BLOCK_TOKENS
    for b in range(head_dim // BLOCK):
        scale, inverse = _scale_of(v + b * BLOCK * 4)
        store_f16(scales + (token * (head_dim // BLOCK) + b) * 2, scale)
        _encode(v + b * BLOCK * 4, inverse, to + token * head_dim + b * BLOCK)


@kernel
def _encode(values, inverse, codes):
    """32 values as int8 codes."""
    by = splat_f32x16(inverse)
    for i in range(0, BLOCK, LANES):
        store(codes + i, i32x16_to_i8(f32x16_to_i32(round_even(load_f32x16(values + i * 4) * by))))


@kernel
def rope_and_cache(s, layer, counter, ith):
    """Turn queries and keys by their positions; put keys and values into the cache."""
    half, hd = s.rope_dim // 2, s.head_dim
    group = s.n_heads // s.n_kv_heads
    line = scratch_of(s, ith)
    while True:
        item = fetch_add(counter, 1)
        if item >= s.n * s.n_kv_heads:
            return
        t, head = item // s.n_kv_heads, item % s.n_kv_heads
        cos, sin = s.cos + t * half * 4, s.sin + t * half * 4
        for h in range(head * group, (head + 1) * group):
            _rotate(s.q + (t * s.n_heads + h) * hd * 4, cos, sin, half)
        k = s.k + item * hd * 4
        v = s.v + item * hd * 4
        _rotate(k, cos, sin, half)
        position = load_i64(s.positions + t * 8)
        keys = _keys_at(s, layer, t, position // BLOCK_TOKENS, head)
        values = keys + s.n_kv_heads * s.head_bytes
        token = position % BLOCK_TOKENS
        if s.kv_kind == F16:
            _write_f16(keys, values, token, k, v, hd)
        elif s.kv_kind == Q8_0:
            _write_key_q8_0(keys, token, k, hd, line)
            _write_value_q8_0(values, token, v, hd)
        else:
            _write_f32(keys, values, token, k, v, hd)


@kernel
def _keys_at(s, layer, t, block, head):
    """Where the keys of a head stand in a block of the sequence of row t."""
    number = load_i64(load_i64(s.tables + t * 8) + block * 8)
    return s.cache + number * s.block_bytes + layer * s.layer_bytes + head * s.head_bytes


@kernel
def _prefetch_block(s, layer, t, block, head):
    """Ask for the keys and values of a head that are looked at next."""
    keys = _keys_at(s, layer, t, block, head)
    values = keys + s.n_kv_heads * s.head_bytes
    for i in range(0, s.head_bytes, 64):
        prefetch(keys + i)
        prefetch(values + i)


@kernel
def _widen_keys_q8_0(keys, head_dim, to):
    scales = keys + head_dim * BLOCK_TOKENS
    for i in range(head_dim):
        for j in range(0, BLOCK_TOKENS, LANES):
            codes = i8x16_to_f32(load_i8x16(keys + i * BLOCK_TOKENS + j))
            scale = load_f16x16(scales + (i // BLOCK * BLOCK_TOKENS + j) * 2)
            store(to + (i * BLOCK_TOKENS + j) * 4, codes * scale)


@kernel
def _widen_values_q8_0(values, head_dim, n, to):
    scales = values + head_dim * BLOCK_TOKENS
    for t in range(n):
        for i in range(0, head_dim, LANES):
            codes = i8x16_to_f32(load_i8x16(values + t * head_dim + i))
            scale = splat_f32x16(load_f16(scales + (t * (head_dim // BLOCK) + i // BLOCK) * 2))
            store(to + (t * head_dim + i) * 4, codes * scale)


def _products(load: Any, size: int) -> tuple[Any, Any]:
    """Products of a few rows with a (depth, width) matrix of numbers of `size` bytes.

        out = keep * out + a @ b          a (depth,), out (width,) float32, width a multiple of 16

    Eight registers of AVX2 are summed into at once, as many as keep its two units busy.
    """

    @kernel
    def four_rows(a0, a1, a2, a3, depth, b, width, keep0, keep1, keep2, keep3, out, out_bytes):
        for j in range(0, width, LANES):
            to0, to1 = out + j * 4, out + j * 4 + out_bytes
            to2, to3 = to0 + 2 * out_bytes, to1 + 2 * out_bytes
            c0, c1 = load_f32x16(to0) * splat_f32x16(keep0), load_f32x16(to1) * splat_f32x16(keep1)
            c2, c3 = load_f32x16(to2) * splat_f32x16(keep2), load_f32x16(to3) * splat_f32x16(keep3)
            at = b + j * size
            for k in range(depth):
                x = load(at)
                c0 = fma(x, splat_f32x16(load_f32(a0 + k * 4)), c0)
                c1 = fma(x, splat_f32x16(load_f32(a1 + k * 4)), c1)
                c2 = fma(x, splat_f32x16(load_f32(a2 + k * 4)), c2)
                c3 = fma(x, splat_f32x16(load_f32(a3 + k * 4)), c3)
                at += width * size
            store(to0, c0)
            store(to1, c1)
            store(to2, c2)
            store(to3, c3)

    @kernel
    def one_row(a, depth, b, width, keep, out):
        by = splat_f32x16(keep)
        j = 0
        while j + 4 * LANES <= width:
            at, to = b + j * size, out + j * 4
            c0, c1 = load_f32x16(to) * by, load_f32x16(to + 64) * by
            c2, c3 = load_f32x16(to + 128) * by, load_f32x16(to + 192) * by
            for k in range(depth):
                x = splat_f32x16(load_f32(a + k * 4))
                c0, c1 = fma(load(at), x, c0), fma(load(at + LANES * size), x, c1)
                c2 = fma(load(at + 2 * LANES * size), x, c2)
                c3 = fma(load(at + 3 * LANES * size), x, c3)
                at += width * size
            store(to, c0)
            store(to + 64, c1)
            store(to + 128, c2)
            store(to + 192, c3)
            j += 4 * LANES
        while j < width:
            c = load_f32x16(out + j * 4) * by
            for k in range(depth):
                x = splat_f32x16(load_f32(a + k * 4))
                c = fma(load(b + (k * width + j) * size), x, c)
            store(out + j * 4, c)
            j += LANES

    return four_rows, one_row


_four_rows_f16, _one_row_f16 = _products(load_f16x16, 2)
_four_rows_f32, _one_row_f32 = _products(load_f32x16, 4)


@kernel
def _four_rows(half, a0, a1, a2, a3, depth, b, width, keeps, out, out_bytes):
    k0, k1 = load_f32(keeps), load_f32(keeps + 4)
    k2, k3 = load_f32(keeps + 8), load_f32(keeps + 12)
    if half:
        _four_rows_f16(a0, a1, a2, a3, depth, b, width, k0, k1, k2, k3, out, out_bytes)
    else:
        _four_rows_f32(a0, a1, a2, a3, depth, b, width, k0, k1, k2, k3, out, out_bytes)


@kernel
def _one_row(half, a, depth, b, width, keep, out):
    if half:
        _one_row_f16(a, depth, b, width, keep, out)
    else:
        _one_row_f32(a, depth, b, width, keep, out)


@kernel
def _weigh(scores, scale, visible, peaks, totals, keeps, i):
    """Turn the scores of row i into weights, e ** (scale * score - peak), 0 from `visible` on.

    The largest score so far is the peak; keeps[i] is what the sums before are to be multiplied
    with, when a block has raised it.
    """
    by, top = splat_f32x16(scale), splat_f32x16(NEVER)
    for j in range(0, BLOCK_TOKENS, LANES):
        score = load_f32x16(scores + j * 4) * by
        if visible < BLOCK_TOKENS:
            score = first_lanes(score, visible - j, NEVER)
        store(scores + j * 4, score)
        top = larger(top, score)
    old, keep = load_f32(peaks + i * 4), np.float32(1)
    peak = max(old, max_lanes(top))
    if peak > old:
        keep = _exp_one(old - peak) if old > NEVER else np.float32(0)
    total, by = splat_f32x16(np.float32(0)), splat_f32x16(peak)
    for j in range(0, BLOCK_TOKENS, LANES):
        weight = exp(load_f32x16(scores + j * 4) - by)
        if visible < BLOCK_TOKENS:
            weight = first_lanes(weight, visible - j, np.float32(0))
        store(scores + j * 4, weight)
        total = total + weight
    store(peaks + i * 4, peak)
    store(keeps + i * 4, keep)
    store(totals + i * 4, load_f32(totals + i * 4) * keep + sum_lanes(total))


@kernel
def _attend_group(s, layer, first, rows, head, scratch):
    """Rows first .. first + rows of one sequence, all query heads of one kv head."""
    hd, width = s.head_dim, padded_head(s.head_dim)
    group = s.n_heads // s.n_kv_heads
    n = rows * group  # query rows: all heads of the first, of the second, ...
    scale = np.float32(1) / np.sqrt(np.float32(hd))
    wide_keys = scratch
    wide_values = wide_keys + hd * BLOCK_TOKENS * 4
    scores = wide_values + BLOCK_TOKENS * width * 4
    outs = scores + n * BLOCK_TOKENS * 4
    peaks = outs + n * width * 4
    totals, keeps = peaks + n * 4, peaks + n * 8
    zero_bytes(outs, n * width * 4)
    zero_bytes(totals, n * 4)
    for i in range(n):
        store(peaks + i * 4, NEVER)
    end = np.int64(0)
    for t in range(first, first + rows):
        end = max(end, load_i64(s.positions + t * 8) + 1)
    for start in range(0, end, BLOCK_TOKENS):
        keys = _keys_at(s, layer, first, start // BLOCK_TOKENS, head)
        values = keys + s.n_kv_heads * s.head_bytes
        if start + BLOCK_TOKENS < end:
            _prefetch_block(s, layer, first, start // BLOCK_TOKENS + 1, head)
        if s.kv_kind == Q8_0:
            _widen_keys_q8_0(keys, hd, wide_keys)
            _widen_values_q8_0(values, hd, min(end - start, BLOCK_TOKENS), wide_values)
            keys, values = wide_keys, wide_values
        _score_rows(s, first, n, group, head, keys, keeps, scores)
        for i in range(n):
            visible = _visible(s, first + i // group, start)
            if visible > 0:
                _weigh(scores + i * ROW, scale, visible, peaks, totals, keeps, i)
        _mix_rows(s, first, n, group, start, scores, values, width, keeps, outs)
    for i in range(n):
        t, h = first + i // group, head * group + i % group
        share = np.float32(1) / load_f32(totals + i * 4)
        to = s.attended.values + (t * s.attended.padded + h * hd) * 4
        for j in range(hd):
            store(to + j * 4, load_f32(outs + (i * width + j) * 4) * share)


@kernel
def _visible(s, t, start):
    """How many of the 64 tokens from position `start` on row t may look at; 0 or less: none."""
    return min(load_i64(s.positions + t * 8) + 1 - start, BLOCK_TOKENS)


@kernel
def _query(s, first, group, head, i):
    """Where query row i of a group begins."""
    t, h = first + i // group, head * group + i % group
    return s.q + (t * s.n_heads + h) * s.head_dim * 4


@kernel
def _score_rows(s, first, n, group, head, keys, keeps, scores):
    """scores[i] = query row i times 64 keys."""
    hd, half = s.head_dim, s.kv_kind == F16
    zero_bytes(scores, n * ROW)
    zero_bytes(keeps, n * 4)
    i = 0
    while i + 4 <= n:
        q0, q1 = _query(s, first, group, head, i), _query(s, first, group, head, i + 1)
        q2, q3 = _query(s, first, group, head, i + 2), _query(s, first, group, head, i + 3)
        to, keep = scores + i * ROW, keeps + i * 4
        _four_rows(half, q0, q1, q2, q3, hd, keys, BLOCK_TOKENS, keep, to, ROW)
        i += 4
    while i < n:
        q = _query(s, first, group, head, i)
        _one_row(half, q, hd, keys, BLOCK_TOKENS, np.float32(0), scores + i * ROW)
        i += 1


@kernel
def _mix_rows(s, first, n, group, start, weights, values, width, keeps, outs):
    """outs[i] = keeps[i] * outs[i] + weights[i] @ values, over the tokens that row i may see."""
    half = s.kv_kind == F16
    i = 0
    while i < n:
        a, out, keep = weights + i * ROW, outs + i * width * 4, keeps + i * 4
        visible = _visible(s, first + i // group, start)
        # later rows of a sequence see no fewer tokens
        if i + 4 <= n and visible == _visible(s, first + (i + 3) // group, start) and visible > 0:
            a1, a2, a3 = a + ROW, a + 2 * ROW, a + 3 * ROW
            _four_rows(half, a, a1, a2, a3, visible, values, width, keep, out, width * 4)
            i += 4
            continue
        if visible > 0:
            _one_row(half, a, visible, values, width, load_f32(keep), out)
        i += 1


@kernel
def _exp_one(x):
    return max_lanes(exp(splat_f32x16(x)))


@kernel
def attend(s, layer, counter, ith):
    """attended[t] = softmax(q . keys / sqrt(head_dim)) . values, for each head of each row."""
    items = s.n_groups * s.n_kv_heads
    while True:
        item = fetch_add(counter, 1)
        if item >= items:
            return
        number = s.n_groups - 1 - item // s.n_kv_heads  # the later rows look at more: they go first
        group = s.groups + number * 16
        first, rows = load_i64(group), load_i64(group + 8)
        _attend_group(s, layer, first, rows, item % s.n_kv_heads, scratch_of(s, ith))
