"""What rounding each matrix to each type would cost: the KL divergence, to second order.

A model that says p, changed a little, is at a KL divergence of half the square of what the change
does to ln p(t), averaged over the text and over tokens t drawn from p (its Fisher information). So
one pass backward, from tokens drawn, prices every matrix: with inputs x and the gradient g of the
drawn tokens' ln p by the outputs,

    KL(W + dW) ~ 1/2 mean (g . dW x)²  ~  1/2 sum over rows r of mean(g_r²) (dW C dW^T)_rr

C = mean x x^T. The second step takes outputs as independent of each other and of the inputs, as
K-FAC does (Martens and Grosse 2015, https://arxiv.org/abs/1503.05671). An embedding that is looked
up, and not multiplied with, has mean(g²) dE² over the tokens that came.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .backends.reference import Floats, dequantize_layer, rms_norm, rope, silu, softmax
from .calibration import Reading
from .config import ModelConfig
from .quant import Format
from .weights import Matrix, ModelWeights, rope_frequencies

Costs = dict[str, dict[str, float]]  # by matrix, then by type: nats a token
Gradients = dict[str, Floats]  # by part of a layer: by its outputs, (n, rows)

MAX_ROWS = 1024  # of a matrix, evenly spaced, stand for all of them
SEED = 0


def measure_costs(
    config: ModelConfig,
    weights: ModelWeights,
    chunks: npt.NDArray[np.int32],
    types: Mapping[str, Sequence[Format]],
    progress: Callable[[int], object] | None = None,
) -> Costs:
    """The cost of each type that a matrix may have, `types` by its name, on chunks (n, n_ctx).

    The inputs of all layers are kept: n_layers * dim float32 a token. progress is called with 1
    behind each layer.
    """
    reading = Reading(config, weights, chunks)
    entering = []
    for i, layer in enumerate(weights.layers):
        entering.append(reading.x.copy())
        reading.pass_layer(i, dequantize_layer(layer), lambda names, x: None)
    costs: Costs = {}
    gradient = _output_costs(config, weights, reading.x, types, costs)
    backward = _Backward(config, weights, chunks.shape[1])
    for i in reversed(range(config.n_layers)):
        layer = weights.layers[i]
        w = dequantize_layer(layer)
        prices = {name: _Price(w[name]) for name in backward.parts}
        for x, g in zip(entering.pop(), gradient, strict=True):
            inputs, gradients = backward.layer(w, x, g)
            for name, price in prices.items():
                price.add(inputs[name], gradients[name])
        for name, price in prices.items():
            matrix: Matrix = getattr(layer, name)
            costs[matrix.name] = {f.name: price.of(f) for f in types[matrix.name]}
        if progress is not None:
            progress(1)
    _lookup_costs(weights.token_embd, chunks, gradient, types, costs)
    return costs


class _Price:
    """What errors of a matrix w (rows, cols) cost, by the inputs and gradients added to it."""

    def __init__(self, w: Floats) -> None:
        self._rows = slice(None, None, -(-len(w) // MAX_ROWS))
        self._share = len(w) / len(w[self._rows])
        self._w, self._n = w[self._rows], 0
        self._inputs = np.zeros((w.shape[1], w.shape[1]), np.float32)  # sum of x x^T
        self._squares = np.zeros(len(self._w), np.float64)  # sum of g²

    def add(self, x: Floats, g: Floats) -> None:
        """x (n, cols), g (n, rows)."""
        self._inputs += x.T @ x
        self._squares += np.square(g[:, self._rows]).sum(axis=0, dtype=np.float64)
        self._n += len(x)

    def of(self, format: Format) -> float:
        """Nats a token that the model moves by."""
        packed = (
            format.quantize(self._w, np.diag(self._inputs))
            if format.layout
            else (format.quantize(self._w))
        )
        error = format.dequantize(packed) - self._w
        moved = ((error @ self._inputs) * error).sum(axis=1, dtype=np.float64)
        return float(self._share * 0.5 * (moved * self._squares).sum() / self._n**2)


def _output_costs(
    config: ModelConfig,
    weights: ModelWeights,
    xs: Floats,
    types: Mapping[str, Sequence[Format]],
    costs: Costs,
) -> Floats:
    """Price the output matrix; (n_chunks, n_ctx, dim), the gradient by what the layers give."""
    output = weights.output.dequantize()
    price = _Price(output)
    rng = np.random.default_rng(SEED)
    gradient = np.empty_like(xs)
    for x, g in zip(xs, gradient, strict=True):
        normed = rms_norm(x, weights.output_norm, config.norm_eps)
        drawn = -softmax(normed @ output.T)
        ends = np.cumsum(-drawn, axis=1)
        tokens = (ends < rng.random((len(x), 1)) * ends[:, -1:]).sum(axis=1)
        drawn[np.arange(len(x)), tokens] += 1
        price.add(normed, drawn)
        g[:] = _rms_norm_backward(x, weights.output_norm, config.norm_eps, drawn @ output)
    name = weights.output.name
    costs[name] = {format.name: price.of(format) for format in types[name]}
    return gradient


def _lookup_costs(
    embedding: Matrix,
    chunks: npt.NDArray[np.int32],
    gradient: Floats,
    types: Mapping[str, Sequence[Format]],
    costs: Costs,
) -> None:
    """Price the embedding, on top of what it costs as a tied output matrix."""
    ids, counts = np.unique(chunks, return_counts=True)
    rows = embedding.format.dequantize(embedding.data[ids])
    squares = np.square(gradient, dtype=np.float64).mean(axis=(0, 1))
    found = costs.setdefault(embedding.name, {})
    for format in types[embedding.name]:
        error = np.square(format.dequantize(format.quantize(rows)) - rows, dtype=np.float64)
        cost = 0.5 * float((counts[:, None] * error * squares).sum()) / chunks.size
        found[format.name] = found.get(format.name, 0.0) + cost


class _Backward:
    """Gradients through a layer, by hand; forward it is the reference's `run_layer`."""

    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

    def __init__(self, config: ModelConfig, weights: ModelWeights, n_ctx: int) -> None:
        self.config = config
        frequencies = rope_frequencies(config, weights.rope_factors)
        self._angles = np.arange(n_ctx, dtype=np.float32)[:, None] * frequencies
        self._visible = np.tri(n_ctx, dtype=np.bool_)

    def layer(
        self, w: Mapping[str, Floats], x: Floats, gradient: Floats
    ) -> tuple[Gradients, Gradients]:
        """Inputs of each matrix, and gradients by its outputs; `gradient` becomes that by x.

        x (n, dim) enters the layer; gradient (n, dim) is by what leaves it.
        """
        eps = self.config.norm_eps
        h = rms_norm(x, w["attn_norm"], eps)
        heads, attention_backward = self._attention(w, h)
        between = x + heads @ w["attn_output"].T
        y = rms_norm(between, w["ffn_norm"], eps)
        gate, up = y @ w["ffn_gate"].T, y @ w["ffn_up"].T
        open_ = silu(gate)
        sigmoid = np.divide(open_, gate, out=np.full_like(gate, 0.5), where=gate != 0)
        found: Gradients = {"ffn_down": gradient.copy()}
        hidden = gradient @ w["ffn_down"]
        found["ffn_up"] = hidden * open_
        found["ffn_gate"] = hidden * up * (sigmoid + open_ * (1 - sigmoid))
        by_y = found["ffn_gate"] @ w["ffn_gate"] + found["ffn_up"] @ w["ffn_up"]
        gradient += _rms_norm_backward(between, w["ffn_norm"], eps, by_y)
        found["attn_output"] = gradient.copy()
        found |= attention_backward(gradient @ w["attn_output"])
        by_h = sum((found[name] @ w[name] for name in self.parts[:3]), np.zeros_like(x))
        gradient += _rms_norm_backward(x, w["attn_norm"], eps, by_h)
        inputs = dict.fromkeys(self.parts[:3], h) | dict.fromkeys(("ffn_gate", "ffn_up"), y)
        return inputs | {"attn_output": heads, "ffn_down": open_ * up}, found

    def _attention(
        self, w: Mapping[str, Floats], h: Floats
    ) -> tuple[Floats, Callable[[Floats], Gradients]]:
        """(n, heads_dim), and the function from the gradient by it to those by q, k and v."""
        c, n = self.config, len(h)
        group = c.n_heads // c.n_kv_heads

        def split(name: str) -> Floats:
            return (h @ w[name].T).reshape(n, -1, c.head_dim)

        def by_query(x: Floats) -> Floats:  # (n_heads, n, head_dim)
            return np.repeat(x, group, axis=1).transpose(1, 0, 2)

        q = rope(split("attn_q"), self._angles).transpose(1, 0, 2)
        k = by_query(rope(split("attn_k"), self._angles))
        v = by_query(split("attn_v"))
        scale = np.float32(c.head_dim**-0.5)
        hidden = np.float32(-np.inf)
        p = softmax(np.where(self._visible, q @ k.transpose(0, 2, 1) * scale, hidden))

        def of_group(x: Floats) -> Floats:
            grouped = x.transpose(1, 0, 2).reshape(n, c.n_kv_heads, group, c.head_dim)
            summed: Floats = grouped.sum(axis=2)
            return summed

        def backward(by_heads: Floats) -> Gradients:
            g = by_heads.reshape(n, c.n_heads, c.head_dim).transpose(1, 0, 2)
            by_p = g @ v.transpose(0, 2, 1)
            by_score = p * (by_p - (by_p * p).sum(axis=2, keepdims=True)) * scale
            by_q = (by_score @ k).transpose(1, 0, 2)
            by_k = of_group(by_score.transpose(0, 2, 1) @ q)
            by_v = of_group(p.transpose(0, 2, 1) @ g)
            turned_back = {"attn_q": rope(by_q, -self._angles), "attn_k": rope(by_k, -self._angles)}
            return {name: x.reshape(n, -1) for name, x in (turned_back | {"attn_v": by_v}).items()}

        return (p @ v).transpose(1, 0, 2).reshape(n, -1), backward


def _rms_norm_backward(x: Floats, weight: Floats, eps: float, gradient: Floats) -> Floats:
    """The gradient by x, of that by rms_norm(x, weight, eps)."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)
    g = gradient * weight
    along = np.mean(x * g, axis=-1, keepdims=True) / mean_square
    y: Floats = (g - x * along) / np.sqrt(mean_square)
    return y
