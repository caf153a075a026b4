"""The living definition of the model: plain numpy, float32, slow; fast paths are compared with it.

Meta's Llama (https://arxiv.org/abs/2307.09288): RMSNorm before each half of a block, rotary
position embedding on adjacent pairs, grouped-query attention, SwiGLU. Weights are dequantized once
and take 4 bytes each.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest
from edgellama.weights import LayerWeights, Matrix, ModelWeights, rope_frequencies

from .base import Batch, check_batch

Floats = npt.NDArray[np.float32]
# q (n, n_heads, head_dim), k and v (n, n_kv_heads, head_dim) -> (n, n_heads, head_dim)
Attention = Callable[[Floats, Floats, Floats], Floats]
# Is shown what goes into matrices: their names in the layer, and x (n, cols), not to be changed.
Observer = Callable[[tuple[str, ...], Floats], object]
CHUNK_ROWS = 256  # rows run at a time, which bounds the score matrices


@dataclass(frozen=True, slots=True)
class _Memory:
    """What one sequence has left behind, oldest first."""

    positions: npt.NDArray[np.int32]  # (n,) ascending
    keys: Floats  # (n_layers, n, n_kv_heads, head_dim), rotated
    values: Floats  # (n_layers, n, n_kv_heads, head_dim)

    def before(self, position: int) -> "_Memory":
        """The part that lies before a position."""
        keep = self.positions < position
        return _Memory(self.positions[keep], self.keys[:, keep], self.values[:, keep])


class ReferenceBackend:
    """Runs the model as the paper reads. Keys and values are kept in float32 whatever `kv_type` is.

    Unlike faster backends it takes positions with gaps, as long as they ascend, so that far
    positions can be tried without everything before them.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        *,
        n_ctx: int,
        n_sequences: int = 1,
        n_threads: int | None = None,
        kv_type: str = "f16",
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.config, self.n_ctx, self.n_sequences = config, n_ctx, n_sequences
        self._embedding = weights.token_embd.dequantize()
        tied = weights.output is weights.token_embd
        self._output = self._embedding if tied else weights.output.dequantize()
        self._output_norm = weights.output_norm
        self._layers = [dequantize_layer(layer) for layer in weights.layers]
        self._frequencies = rope_frequencies(config, weights.rope_factors)
        nothing = np.zeros((config.n_layers, 0, config.n_kv_heads, config.head_dim), np.float32)
        self._empty = _Memory(np.zeros(0, np.int32), nothing, nothing)
        self._memories = [self._empty] * n_sequences

    def forward(self, batch: Batch) -> Floats:
        logits = [normed[wanted] @ self._output.T for normed, wanted in self._chunks(batch)]
        return np.concatenate([np.zeros((0, self.config.vocab_size), np.float32), *logits])

    def hidden(self, batch: Batch) -> Floats:
        states = [normed for normed, _ in self._chunks(batch)]
        return np.concatenate([np.zeros((0, self.config.dim), np.float32), *states])

    def _chunks(self, batch: Batch) -> Iterator[tuple[Floats, npt.NDArray[np.bool_]]]:
        """(normed rows (n, dim), which of them are wanted) of each chunk."""
        check_batch(batch, self.config, self.n_ctx, self.n_sequences)
        for sequence in np.unique(batch.sequences):
            new = batch.positions[batch.sequences == sequence]
            if (np.diff(np.concatenate([self._memories[sequence].positions[-1:], new])) < 1).any():
                raise InvalidRequest(
                    f"the positions of sequence {sequence} do not ascend; rewind it"
                )
        for i in range(0, len(batch), CHUNK_ROWS):
            part = slice(i, i + CHUNK_ROWS)
            rows = Batch(
                batch.tokens[part], batch.positions[part], batch.sequences[part], batch.wanted[part]
            )
            yield self._run_chunk(rows), rows.wanted

    def rewind(self, sequence: int, n_tokens: int) -> None:
        self._memories[sequence] = self._memories[sequence].before(n_tokens)

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self._memories[target] = self._memories[source].before(n_tokens)

    def drop(self, sequence: int) -> None:
        self._memories[sequence] = self._empty

    def close(self) -> None:
        self._memories = []

    def _run_chunk(self, batch: Batch) -> Floats:
        """Rows (n, dim) behind the last norm."""
        config = self.config
        angles = batch.positions[:, None].astype(np.float32) * self._frequencies  # (n, rope_dim/2)
        new = {s: np.flatnonzero(batch.sequences == s) for s in np.unique(batch.sequences).tolist()}
        grown = {s: self._grow(s, batch.positions[rows]) for s, rows in new.items()}

        x = self._embedding[batch.tokens]  # (n, dim)
        for i, w in enumerate(self._layers):

            def attention(q: Floats, k: Floats, v: Floats, i: int = i) -> Floats:
                heads = np.empty_like(q)
                for s, rows in new.items():
                    memory = grown[s]
                    memory.keys[i, -len(rows) :] = k[rows]
                    memory.values[i, -len(rows) :] = v[rows]
                    visible = memory.positions <= batch.positions[rows, None]  # (rows, n_keys)
                    heads[rows] = attend(q[rows], memory.keys[i], memory.values[i], visible)
                return heads

            x = run_layer(config, w, x, angles, attention)

        for s, memory in grown.items():  # only now: an interrupted chunk has not happened
            self._memories[s] = memory
        return rms_norm(x, self._output_norm, config.norm_eps)

    def _grow(self, sequence: int, positions: npt.NDArray[np.int32]) -> _Memory:
        """The sequence's memory with room for more positions at its end."""
        old, room = self._memories[sequence], ((0, 0), (0, len(positions)), (0, 0), (0, 0))
        positions = np.concatenate([old.positions, positions])
        return _Memory(positions, np.pad(old.keys, room), np.pad(old.values, room))


def run_layer(
    config: ModelConfig,
    w: Mapping[str, Floats],
    x: Floats,
    angles: Floats,
    attention: Attention,
    observe: Observer = lambda names, x: None,
) -> Floats:
    """x (n, dim) behind one transformer block; w as of `dequantize_layer`, angles (n, rope_dim/2).

    `attention` remembers keys and values as it likes. `observe` sees every input of a matrix once.
    """
    h = rms_norm(x, w["attn_norm"], config.norm_eps)
    observe(("attn_q", "attn_k", "attn_v"), h)
    heads = attend_heads(config, w, h, angles, attention)
    observe(("attn_output",), heads)
    x = x + heads @ w["attn_output"].T
    h = rms_norm(x, w["ffn_norm"], config.norm_eps)
    observe(("ffn_gate", "ffn_up"), h)
    hidden = swiglu(w, h)
    observe(("ffn_down",), hidden)
    return x + hidden @ w["ffn_down"].T


def attend_heads(
    config: ModelConfig, w: Mapping[str, Floats], h: Floats, angles: Floats, attention: Attention
) -> Floats:
    """Normed h (n, dim) -> (n, heads_dim), what all heads have read, side by side."""
    n = len(h)
    q = (h @ w["attn_q"].T).reshape(n, config.n_heads, config.head_dim)
    k = (h @ w["attn_k"].T).reshape(n, config.n_kv_heads, config.head_dim)
    v = (h @ w["attn_v"].T).reshape(n, config.n_kv_heads, config.head_dim)
    return attention(rope(q, angles), rope(k, angles), v).reshape(n, -1)


def swiglu(w: Mapping[str, Floats], h: Floats) -> Floats:
    """Normed h (n, dim) -> (n, hidden_dim), the inputs of ffn_down."""
    hidden: Floats = silu(h @ w["ffn_gate"].T) * (h @ w["ffn_up"].T)
    return hidden


def dequantize_layer(layer: LayerWeights) -> dict[str, Floats]:
    """Every tensor of a layer as float32, by its name."""
    tensors = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return {name: t.dequantize() if isinstance(t, Matrix) else t for name, t in tensors.items()}


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x: (n, dim) -> (n, dim): every row scaled to a root mean square of one, then by weight."""
    mean_square: Floats = np.mean(x * x, axis=-1, keepdims=True)
    y: Floats = x / np.sqrt(mean_square + np.float32(eps)) * weight
    return y


def rope(x: Floats, angles: Floats) -> Floats:
    """x: (n, heads, head_dim): rotate the pairs (0, 1), (2, 3), ... of each head.

    angles: (n, rope_dim / 2) radians; values from rope_dim on stay as they are.
    """
    rope_dim = 2 * angles.shape[1]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    even, odd = x[..., 0:rope_dim:2], x[..., 1:rope_dim:2]
    rotated = x.copy()
    rotated[..., 0:rope_dim:2] = even * cos - odd * sin
    rotated[..., 1:rope_dim:2] = even * sin + odd * cos
    return rotated


def attend(q: Floats, keys: Floats, values: Floats, visible: npt.NDArray[np.bool_]) -> Floats:
    """Softmax of q k^T / sqrt(head_dim) over the visible keys, times the values.

    q: (m, n_heads, head_dim); keys, values: (n, n_kv_heads, head_dim); visible: (m, n).
    Query head h reads key-value head h // (n_heads / n_kv_heads). Gives (m, n_heads, head_dim).
    """
    group = q.shape[1] // keys.shape[1]
    keys, values = np.repeat(keys, group, axis=1), np.repeat(values, group, axis=1)
    scores = q.transpose(1, 0, 2) @ keys.transpose(1, 2, 0) / np.float32(np.sqrt(q.shape[2]))
    weights = softmax(np.where(visible, scores, np.float32(-np.inf)))  # (n_heads, m, n)
    return (weights @ values.transpose(1, 0, 2)).transpose(1, 0, 2)


def softmax(x: Floats) -> Floats:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y: Floats = e / e.sum(axis=-1, keepdims=True)
    return y


def silu(x: Floats) -> Floats:
    """x * sigmoid(x), elementwise."""
    with np.errstate(over="ignore"):  # exp of a large number is inf, and x / inf the 0 it should be
        y: Floats = x / (1 + np.exp(-x))
    return y
