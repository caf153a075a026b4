"""Everything a step needs, as one flat record of sizes and addresses that C could fill as well."""

import numpy as np

from .kv_cache import BLOCK_TOKENS
from .quant.kernels import ACTIVATIONS, BFLOAT, MATRIX

LAYER = np.dtype(
    [
        ("attn_norm", np.int64),  # address of (dim padded to 16) float32
        ("attn_q", MATRIX),
        ("attn_k", MATRIX),
        ("attn_v", MATRIX),
        ("attn_output", MATRIX),
        ("ffn_norm", np.int64),
        ("ffn_gate", MATRIX),
        ("ffn_up", MATRIX),
        ("ffn_down", MATRIX),
    ]
)

CONTEXT = np.dtype(
    [
        # the model
        ("n_layers", np.int64),
        ("dim", np.int64),
        ("n_heads", np.int64),
        ("n_kv_heads", np.int64),
        ("head_dim", np.int64),
        ("hidden_dim", np.int64),
        ("rope_dim", np.int64),
        ("norm_eps", np.float64),
        ("quantized", np.int64),  # 1 when a matrix wants int8 activations
        ("layers", np.int64),  # address of n_layers LAYER records
        ("token_embd", MATRIX),
        ("output_norm", np.int64),
        ("output", MATRIX),
        # the batch: n rows, each a token of a sequence
        ("n", np.int64),
        ("tokens", np.int64),  # (n,) int64
        ("positions", np.int64),  # (n,) int64
        ("tables", np.int64),  # (n,) int64: address of the block table of the row's sequence, int64
        ("cos", np.int64),  # (n, rope_dim / 2) float32
        ("sin", np.int64),
        ("n_groups", np.int64),  # runs of neighbouring rows of one sequence
        ("groups", np.int64),  # (n_groups, 2) int64: first row, number of rows
        ("n_wanted", np.int64),
        ("wanted", np.int64),  # (n_wanted,) int64: rows whose logits are asked for
        ("logits", np.int64),  # (n_wanted, vocab_size) float32
        # values on their way, a row each
        ("x", np.int64),  # (n, x_stride) float32: the residual stream
        ("x_stride", np.int64),  # dim padded to 16
        ("q", np.int64),  # (n, n_heads * head_dim) float32
        ("k", np.int64),  # (n, n_kv_heads * head_dim) float32
        ("v", np.int64),
        ("normed", ACTIVATIONS),  # dim
        ("attended", ACTIVATIONS),  # n_heads * head_dim
        ("hidden", ACTIVATIONS),  # hidden_dim
        # the key and value cache (layout in kv_cache.py)
        ("cache", np.int64),  # address of block 0
        ("block_bytes", np.int64),  # all layers of one block
        ("layer_bytes", np.int64),
        ("head_bytes", np.int64),  # keys, or values, of one head
        ("kv_kind", np.int64),  # place of the cache's type in kv_cache.KV_TYPES
        # threads
        ("barrier", np.int64),  # arrivals, int64, zero before a step
        ("counters", np.int64),  # a cache line for each phase, zero before a step
        ("scratch", np.int64),  # private memory of the threads
        ("scratch_bytes", np.int64),  # of one thread
    ]
)

LANES = 16  # of the vectors that kernels read whole
FEW = 8  # up to so many tokens, streaming rows is quicker than unpacking them
MAX_CHUNK = 256  # rows taken at once for few tokens: long runs suit the memory
# Rows taken at once for many tokens: their outputs, or AMX's widened weights, stay in the cache.
TILE_CHUNK = 128 if BFLOAT else 64
SHORTER = 8  # so many times shorter are the last chunks of a matrix
# Rows of a batch that one step takes: on AMX, widening the weights costs as much as 96 of them.
LARGEST_BATCH = 512 if BFLOAT else 256
GROUP_ROWS = 16  # rows of one sequence that share a look at a block of the cache
CACHE_LINE = 64
PHASES_PER_LAYER = 12
PHASES_OUTSIDE = 3


def n_counters(n_layers: int) -> int:
    return n_layers * PHASES_PER_LAYER + PHASES_OUTSIDE


def attention_scratch_bytes(head_dim: int, group: int) -> int:
    """What attention needs for GROUP_ROWS rows, each with `group` heads that share keys."""
    width = -(-head_dim // LANES) * LANES
    heads = GROUP_ROWS * group
    return 4 * (BLOCK_TOKENS * (head_dim + width) + heads * (BLOCK_TOKENS + width + 3))
