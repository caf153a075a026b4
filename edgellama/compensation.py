"""Quantizing a model matrix by matrix, each making up for what those before it have lost.

A calibration text flows through the model twice, side by side: x with the weights as they were, y
with those quantized so far. A matrix W is rounded on the inputs b that it will have in the new
model, and towards the outputs that the old one had on its own inputs a:

    W + d, d b ~ W a - W b                     what reads the stream (attn_q, ffn_up, ...)
    W + d, d b ~ (x + W a) - (y + W b)         what writes to it (attn_output, ffn_down)

is the target: least squares over the text, damped like the Hessian that the rounding goes by (see
quant/compensated.py). So a writer mends all that was lost on the way to it. (For readers that is
Qronos' and GPTAQ's idea: https://arxiv.org/abs/2505.11695, https://arxiv.org/abs/2504.02692.)

How much of d holds on other text is measured, not believed: d is fitted to every other chunk and
scaled by what fits the rest best, between nothing and all of it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .backends.reference import (
    Floats,
    attend,
    attend_heads,
    dequantize_layer,
    rms_norm,
    swiglu,
)
from .calibration import Reading
from .config import ModelConfig
from .errors import InvalidRequest, ModelFormatError
from .quant import Format
from .quant.compensated import DAMPING, Hessian, quantize_compensated
from .weights import Matrix, ModelWeights, rope_frequencies

Packed = npt.NDArray[np.uint8]  # (rows, row_bytes)

ROWS_AT_ONCE = 4096  # of a matrix in float32: an output matrix has a hundred thousand
# Rows of a tied embedding are looked up, too, where every channel counts alike.
TIED_DAMPING = 1.0
DAMPED_NOISE = 0.03  # shrinking for less costs the shipped model a tenth more than it gains


class _Inputs:
    """What goes into matrices of the new model, and what it misses; of even and odd chunks.

    What a reader misses is told as inputs a - b, of a writer as outputs.
    """

    def __init__(self, name: str, cols: int, missing_outputs: int | None = None) -> None:
        """name: of the first matrix, for errors."""
        self._name, self.reads = name, missing_outputs is None
        n_missing = cols if missing_outputs is None else missing_outputs
        self.squares = np.zeros((2, cols, cols), np.float32)  # sums of b b^T
        self.cross = np.zeros((2, n_missing, cols), np.float32)  # sums of (missing) b^T

    def add(self, chunk: int, b: Floats, missing: Floats) -> None:
        """b (n, cols), missing (n, cols or missing_outputs)."""
        self.squares[chunk % 2] += b.T @ b
        self.cross[chunk % 2] += missing.T @ b

    @cached_property
    def hessians(self) -> tuple[Hessian, Hessian]:
        """Of all chunks, and of the even ones, to which corrections are fitted at first."""
        noise = _noise(self.squares)
        both = _shrunk(self.squares.sum(axis=0), noise)
        first = _shrunk(self.squares[0], min(2 * noise, 1.0))
        return _hessian(both, self._name), _hessian(first, self._name)

    def correction(self, w: Floats, rows: slice, block_size: int) -> Floats:
        """d with d b ~ what is missing of w, some rows, as far as it holds on other text.

        block_size: of the format that w + d is for.
        """
        cross = w @ self.cross if self.reads else self.cross[:, rows]
        both, first = self.hessians
        fitted = first.solve(cross[0], block_size)
        mended = float(((fitted @ self.squares[1]) * fitted).sum(dtype=np.float64))
        carried = float((fitted * cross[1]).sum(dtype=np.float64)) / mended if mended > 0 else 0.0
        found = both.solve(cross.sum(axis=0), block_size)
        return found * np.float32(min(max(carried, 0.0), 1.0))


class Compensation:
    """The packed matrices of a model that is being quantized, in the order of the forward."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        formats: Mapping[str, Format],
        chunks: npt.NDArray[np.int32],
        n_apart: int = 0,
    ) -> None:
        """formats: of every matrix, by its name; chunks: (n, n_ctx) ids of the calibration text.

        Formats without a scale and codes, such as F16, are rounded and not compensated. The last
        n_apart chunks flow along and are learned nothing from: on them `divergence` is measured.
        """
        self.config, self._weights, self._formats, self._chunks = config, weights, formats, chunks
        self._n_learned = len(chunks) - n_apart
        self._divergence = 0.0
        self._made: dict[str, Packed] = {}
        self._steps = self._run()

    def packed(self, name: str) -> Packed:
        """A matrix, once: it is forgotten then. Runs the model as far as it takes.

        Raises ModelFormatError when the model computes something that is not a number.
        """
        while name not in self._made:
            next(self._steps)
        return self._made.pop(name)

    def divergence(self) -> float:
        """Mean KL divergence from the old model, in nats a token, over the chunks kept apart."""
        for _ in self._steps:
            pass
        return self._divergence

    def _run(self) -> Iterator[None]:
        """Make all matrices; stops wherever some have been made."""
        config, weights = self.config, self._weights
        old = Reading(config, weights, self._chunks)
        new = Reading(config, weights, self._chunks)
        new.x = self._embed()
        output = weights.output
        packed = self._made[weights.token_embd.name]
        yield
        for i in range(config.n_layers):
            yield from self._run_layer(i, old.x, new.x)
        ends = [
            [rms_norm(z, weights.output_norm, config.norm_eps) for z in (x, y)]
            for x, y in zip(old.x, new.x, strict=True)
        ]
        if output is not weights.token_embd:
            inputs = _Inputs(output.name, config.dim)
            for chunk, (a, b) in enumerate(ends[: self._n_learned]):
                inputs.add(chunk, b, a - b)
            self._make(output, inputs)
            packed = self._made[output.name]
            yield
        apart = ends[self._n_learned :]
        if apart:
            was, becomes = output.dequantize(), self._formats[output.name].dequantize(packed)
            kl = [_divergence(a @ was.T, b @ becomes.T) for a, b in apart]
            self._divergence = float(np.mean(kl))

    def _embed(self) -> Floats:
        """Make token_embd; (n_chunks, n_ctx, dim), the stream of the new model as it begins."""
        embedding = self._weights.token_embd
        format = self._formats[embedding.name]
        tied = self._weights.output is embedding
        hessian = self._tied_hessian() if tied and format.layout is not None else None
        packed = np.empty((embedding.rows, format.row_bytes(embedding.cols)), np.uint8)
        for rows in _slices(embedding.rows):
            w = _numbers(embedding, rows)
            packed[rows] = (
                format.quantize(w) if hessian is None else quantize_compensated(format, w, hessian)
            )
        self._made[embedding.name] = packed
        ids, places = np.unique(self._chunks, return_inverse=True)
        return format.dequantize(packed[ids])[places.reshape(self._chunks.shape)]

    def _tied_hessian(self) -> Hessian:
        """Of the output matrix of the old model: the new one does not exist yet."""
        reading = Reading(self.config, self._weights, self._chunks[: self._n_learned])
        for i, layer in enumerate(self._weights.layers):
            reading.pass_layer(i, dequantize_layer(layer), lambda names, x: None)
        squares = np.zeros((self.config.dim, self.config.dim), np.float32)

        def add(names: tuple[str, ...], x: Floats) -> None:
            squares[:] += x.T @ x

        reading.pass_output(add)
        return _hessian(squares, self._weights.output.name, TIED_DAMPING)

    def _run_layer(self, layer: int, xs: Floats, ys: Floats) -> Iterator[None]:
        """Make the matrices of a layer, and take both streams (n_chunks, n_ctx, dim) through it."""
        matrices = self._weights.layers[layer]
        old = dequantize_layer(matrices)
        new = dict(old)
        for stage in self._stages():
            group: list[Matrix] = [getattr(matrices, name) for name in stage.names]
            first = group[0]
            inputs = _Inputs(first.name, first.cols, first.rows if stage.writes else None)
            for chunk, (x, y) in enumerate(zip(xs, ys, strict=True)):
                a, b = stage.inputs(old, x), stage.inputs(new, y)
                missing = a - b
                if stage.writes:
                    w = old[stage.names[0]]
                    x += a @ w.T
                    missing = x - y - b @ w.T
                if chunk < self._n_learned:
                    inputs.add(chunk, b, missing)
            for name, matrix in zip(stage.names, group, strict=True):
                new[name] = self._make(matrix, inputs)
            if stage.writes:
                for y in ys:
                    y += stage.inputs(new, y) @ new[stage.names[0]].T
            yield

    def _stages(self) -> tuple["_Stage", ...]:
        """Matrices with the same inputs, and how these come from the stream (n, dim)."""
        config = self.config
        frequencies = rope_frequencies(config, self._weights.rope_factors)
        n_ctx = self._chunks.shape[1]
        angles = np.arange(n_ctx, dtype=np.float32)[:, None] * frequencies
        visible = np.tri(n_ctx, dtype=np.bool_)

        def normed(w: Mapping[str, Floats], x: Floats) -> Floats:
            return rms_norm(x, w["attn_norm"], config.norm_eps)

        def heads(w: Mapping[str, Floats], x: Floats) -> Floats:
            return attend_heads(
                config, w, normed(w, x), angles, lambda q, k, v: attend(q, k, v, visible)
            )

        def ffn_normed(w: Mapping[str, Floats], x: Floats) -> Floats:
            return rms_norm(x, w["ffn_norm"], config.norm_eps)

        def hidden(w: Mapping[str, Floats], x: Floats) -> Floats:
            return swiglu(w, ffn_normed(w, x))

        return (
            _Stage(("attn_q", "attn_k", "attn_v"), normed, writes=False),
            _Stage(("attn_output",), heads, writes=True),
            _Stage(("ffn_gate", "ffn_up"), ffn_normed, writes=False),
            _Stage(("ffn_down",), hidden, writes=True),
        )

    def _make(self, matrix: Matrix, inputs: _Inputs) -> Floats:
        """Pack a matrix; (rows, cols), its weights in the new model."""
        format = self._formats[matrix.name]
        if format == matrix.format:
            self._made[matrix.name] = matrix.data
            return matrix.dequantize()
        packed = np.empty((matrix.rows, format.row_bytes(matrix.cols)), np.uint8)
        for rows in _slices(matrix.rows):
            w = _numbers(matrix, rows)
            if format.layout is None:
                packed[rows] = format.quantize(w)
                continue
            target = w + inputs.correction(w, rows, format.block_size)
            packed[rows] = quantize_compensated(format, target, inputs.hessians[0])
        self._made[matrix.name] = packed
        made = format.dequantize(packed)
        if not np.isfinite(made).all():
            raise InvalidRequest(
                f"{matrix.name}: holds more than {format.name} can; give it the type BF16"
            )
        return made


@dataclass(frozen=True, slots=True)
class _Stage:
    """Matrices of a layer, by their names in it, that are multiplied with the same."""

    names: tuple[str, ...]
    inputs: Callable[[Mapping[str, Floats], Floats], Floats]  # of the stream (n, dim)
    writes: bool  # what comes out is added to the stream


def _divergence(was: Floats, becomes: Floats) -> float:
    """Mean KL divergence of logits (n, vocab_size), in nats."""
    before, after = (
        z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        for z in (z.astype(np.float64) - z.max(axis=1, keepdims=True) for z in (was, becomes))
    )
    return float((np.exp(before) * (before - after)).sum(axis=1).mean())


def _noise(halves: Floats) -> float:
    """How much of what two channels seem to have in common is chance: 0 to 1.

    halves: (2, cols, cols) sums. Their mean is off by half their difference; the square of that
    against the square of the mean is the share by which shrinking pays (Ledoit and Wolf 2004). Of
    that, damping takes care of the first DAMPED_NOISE.
    """
    if not halves[1].any():  # a single chunk
        return 1.0
    total, apart = halves[0] + halves[1], halves[0] - halves[1]
    for h in (total, apart):
        np.fill_diagonal(h, 0)
    seen = float(np.square(total).sum(dtype=np.float64))
    found = float(np.square(apart).sum(dtype=np.float64)) / seen if seen > 0 else 1.0
    return min(max(found - DAMPED_NOISE, 0.0) / (1 - DAMPED_NOISE), 1.0)


def _shrunk(squares: Floats, noise: float) -> Floats:
    """Sums without the share of noise beside their diagonal."""
    shrunk = squares * np.float32(1 - noise)
    np.fill_diagonal(shrunk, np.diag(squares))
    return shrunk


def _hessian(squares: Floats, name: str, damping: float = DAMPING) -> Hessian:
    try:
        return Hessian(squares, damping)
    except ValueError as error:
        raise ModelFormatError(f"{name}: {error}; the model file is damaged") from error


def _numbers(matrix: Matrix, rows: slice) -> Floats:
    """Some rows in float32; ModelFormatError if they are not numbers."""
    w = matrix.format.dequantize(matrix.data[rows])
    if not np.isfinite(w).all():
        raise ModelFormatError(f"{matrix.name}: holds values that are not numbers")
    return w


def _slices(n: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, n, ROWS_AT_ONCE))
