"""One step of a Llama: a batch of rows through every layer, one call for each thread.

    x = embedding
    for each layer:
        x += output @ attention(rope(q), rope(k), v)      of norm(x)
        x += down @ (silu(gate @ norm(x)) * (up @ norm(x)))
    logits = output @ norm(x)

All threads run the same line at the same time; a barrier stands between lines.
"""

from .attention import attend, rope_and_cache
from .context import CACHE_LINE, CONTEXT, LAYER, PHASES_PER_LAYER
from .ops import (
    embed,
    norm,
    norm_wanted,
    prepare_attended,
    project,
    project_add,
    project_qkv,
    scratch_of,
    swiglu,
)
from .quant.jit import entry
from .quant.kernels import BFLOAT
from .quant.records import record_at
from .quant.simd.atomic import barrier

context_at = record_at(CONTEXT)
layer_at = record_at(LAYER)
LAYER_BYTES = LAYER.itemsize
LINE = CACHE_LINE


@entry
def step(context, ith, nth):
    """Run the batch that stands in the context record, as thread `ith` of `nth`."""
    s = context_at(context)
    wait = s.barrier
    c = s.counters  # each phase has its own counter, a cache line apart
    embed(s, c)
    barrier(wait, nth)
    c += LINE
    for i in range(s.n_layers):
        layer = layer_at(s.layers + i * LAYER_BYTES)
        norm(s, layer.attn_norm, c)
        barrier(wait, nth)
        project_qkv(s, layer, c + LINE, nth, ith)  # three counters
        barrier(wait, nth)
        rope_and_cache(s, i, c + 4 * LINE, ith)
        barrier(wait, nth)
        attend(s, i, c + 5 * LINE, ith)
        barrier(wait, nth)
        if s.quantized or BFLOAT:
            prepare_attended(s, c + 6 * LINE)
            barrier(wait, nth)
        project_add(s, layer.attn_output, s.attended, c + 7 * LINE, nth, ith)
        barrier(wait, nth)
        norm(s, layer.ffn_norm, c + 8 * LINE)
        barrier(wait, nth)
        swiglu(s, layer, c + 9 * LINE, nth, ith)
        barrier(wait, nth)
        project_add(s, layer.ffn_down, s.hidden, c + 10 * LINE, nth, ith)
        barrier(wait, nth)
        c += PHASES_PER_LAYER * LINE
    if s.n_wanted:
        norm_wanted(s, c)
        barrier(wait, nth)
        scratch = scratch_of(s, ith)
        project(s.output, s.normed, s.n_wanted, s.logits, s.output.rows * 4, c + LINE, nth, scratch)
