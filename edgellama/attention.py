"""Rotary positions, the cache, and attention: the phases of a step that look at other tokens.

Attention streams over the cache block by block with an online softmax (Milakov and Gimelshein,
2018), so no row of scores is ever longer than a block. Blocks begin at fixed positions: a row's
result does not depend on what it was computed together with.
"""

import numpy as np

from .kv_cache import BLOCK_TOKENS, F16, F32, Q8_0
from .ops import LANES, exp, scratch_of
from .quant.activations import largest_magnitude
from .quant.jit import kernel
from .quant.kernels import BLOCK
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
    round_even,
    splat_f32x16,
    store,
    sum_lanes,
)

GROUP_ROWS = 16  # rows of one sequence that share a look at a block
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
def _widen_f16(source, n, to):
    for i in range(0, n, LANES):
        store(to + i * 4, load_f16x16(source + i * 2))


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


@kernel
def _score(q, keys, head_dim, scale, visible, scores):
    """scores[j] = scale * q . keys[j] of 64 keys, NEVER where j >= visible; the largest."""
    a = b = c = d = splat_f32x16(np.float32(0))
    for i in range(head_dim):
        x, at = splat_f32x16(load_f32(q + i * 4)), keys + i * BLOCK_TOKENS * 4
        a, b = fma(load_f32x16(at), x, a), fma(load_f32x16(at + 64), x, b)
        c, d = fma(load_f32x16(at + 128), x, c), fma(load_f32x16(at + 192), x, d)
    by = splat_f32x16(scale)
    a = first_lanes(a * by, visible, NEVER)
    b = first_lanes(b * by, visible - 16, NEVER)
    c = first_lanes(c * by, visible - 32, NEVER)
    d = first_lanes(d * by, visible - 48, NEVER)
    store(scores, a)
    store(scores + 64, b)
    store(scores + 128, c)
    store(scores + 192, d)
    return max_lanes(larger(larger(a, b), larger(c, d)))


@kernel
def _exponentiate(scores, peak, visible):
    """scores[j] = e ** (scores[j] - peak), 0 where j >= visible; their sum."""
    total, by = splat_f32x16(np.float32(0)), splat_f32x16(peak)
    for j in range(0, BLOCK_TOKENS, LANES):
        weight = first_lanes(exp(load_f32x16(scores + j * 4) - by), visible - j, np.float32(0))
        store(scores + j * 4, weight)
        total = total + weight
    return sum_lanes(total)


@kernel
def _mix_64(weights, n, values, width, keep, out):
    """out[0:64] = keep * out + sum of weights[j] * values[j]."""
    by = splat_f32x16(keep)
    a, b = load_f32x16(out) * by, load_f32x16(out + 64) * by
    c, d = load_f32x16(out + 128) * by, load_f32x16(out + 192) * by
    for j in range(n):
        w, at = splat_f32x16(load_f32(weights + j * 4)), values + j * width * 4
        a, b = fma(load_f32x16(at), w, a), fma(load_f32x16(at + 64), w, b)
        c, d = fma(load_f32x16(at + 128), w, c), fma(load_f32x16(at + 192), w, d)
    store(out, a)
    store(out + 64, b)
    store(out + 128, c)
    store(out + 192, d)


@kernel
def _mix_16(weights, n, values, width, keep, out):
    a = load_f32x16(out) * splat_f32x16(keep)
    for j in range(n):
        w = splat_f32x16(load_f32(weights + j * 4))
        a = fma(load_f32x16(values + j * width * 4), w, a)
    store(out, a)


@kernel
def _mix(weights, n, values, width, keep, out):
    """out = keep * out + weights @ values, over the width of a head."""
    i = 0
    while i + 64 <= width:
        _mix_64(weights, n, values + i * 4, width, keep, out + i * 4)
        i += 64
    while i < width:
        _mix_16(weights, n, values + i * 4, width, keep, out + i * 4)
        i += LANES


@kernel
def _attend_group(s, layer, first, rows, head, scratch):
    """Rows first .. first + rows of one sequence, all query heads of one kv head."""
    hd, width = s.head_dim, padded_head(s.head_dim)
    group = s.n_heads // s.n_kv_heads
    scale = np.float32(1) / np.sqrt(np.float32(hd))
    wide_keys = scratch
    wide_values = wide_keys + hd * BLOCK_TOKENS * 4
    scores = wide_values + BLOCK_TOKENS * width * 4
    peaks = scores + BLOCK_TOKENS * 4
    totals = peaks + rows * group * 4
    outs = totals + rows * group * 4
    for i in range(rows * group):
        store(peaks + i * 4, NEVER)
        store(totals + i * 4, np.float32(0))
        for j in range(0, width, LANES):
            store(outs + (i * width + j) * 4, splat_f32x16(np.float32(0)))
    end = np.int64(0)
    for t in range(first, first + rows):
        end = max(end, load_i64(s.positions + t * 8) + 1)
    for start in range(0, end, BLOCK_TOKENS):
        keys = _keys_at(s, layer, first, start // BLOCK_TOKENS, head)
        values = keys + s.n_kv_heads * s.head_bytes
        held = min(end - start, BLOCK_TOKENS)
        if s.kv_kind == F16:
            _widen_f16(keys, hd * BLOCK_TOKENS, wide_keys)
            _widen_f16(values, held * width, wide_values)
        elif s.kv_kind == Q8_0:
            _widen_keys_q8_0(keys, hd, wide_keys)
            _widen_values_q8_0(values, hd, held, wide_values)
        if s.kv_kind != F32:
            keys, values = wide_keys, wide_values
        for t in range(first, first + rows):
            visible = min(load_i64(s.positions + t * 8) + 1 - start, BLOCK_TOKENS)
            if visible <= 0:
                continue
            for g in range(group):
                i = (t - first) * group + g
                q = s.q + (t * s.n_heads + head * group + g) * hd * 4
                old = load_f32(peaks + i * 4)
                peak = max(old, _score(q, keys, hd, scale, visible, scores))
                total = _exponentiate(scores, peak, visible)
                keep = np.float32(0)
                if old > NEVER:
                    keep = _exp_one(old - peak)
                store(peaks + i * 4, peak)
                store(totals + i * 4, load_f32(totals + i * 4) * keep + total)
                _mix(scores, visible, values, width, keep, outs + i * width * 4)
    for i in range(rows * group):
        t, h = first + i // group, head * group + i % group
        share = np.float32(1) / load_f32(totals + i * 4)
        to = s.attended.values + (t * s.attended.padded + h * hd) * 4
        for j in range(hd):
            store(to + j * 4, load_f32(outs + (i * width + j) * 4) * share)


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


def attention_scratch_bytes(head_dim: int, group: int) -> int:
    """What _attend_group needs for GROUP_ROWS rows."""
    width = -(-head_dim // LANES) * LANES
    heads = GROUP_ROWS * group
    return 4 * (BLOCK_TOKENS * (head_dim + width + 1) + heads * (width + 2))
