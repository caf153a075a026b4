"""What flows into the matrices of a model while it reads a text.

The text passes the model layer by layer: all chunks go through one layer before any enters the
next. So each matrix is dequantized once, one layer at a time is in memory in float32, and whoever
quantizes may go on with a layer as changed. The forward is the reference's, in float32.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from .backends.reference import Floats, attend, dequantize_layer, rms_norm, run_layer
from .config import ModelConfig
from .errors import ModelFormatError
from .gguf_imatrix import ImportanceMatrix
from .weights import ModelWeights, rope_frequencies

# Is called with the names of the matrices that multiply x, all of them, and x (n, cols): the inputs
# of neighbouring tokens of one chunk. x must not be changed.
Observer = Callable[[tuple[str, ...], Floats], object]

VALUES_AT_ONCE = 1 << 27  # of x, in all chunks that are on their way: 512 MiB


class Reading:
    """Chunks of a text on their way through the layers; `x` is where they are.

    x: (n_chunks, n_ctx, dim) float32, at first the embeddings.
    """

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, chunks: npt.NDArray[np.int32]
    ) -> None:
        """chunks: (n_chunks, n_ctx) ids; each chunk is a sequence of its own."""
        self.config, self._weights = config, weights
        embedding = weights.token_embd
        ids, places = np.unique(chunks, return_inverse=True)
        rows = embedding.format.dequantize(embedding.data[ids])
        self.x: Floats = rows[places.reshape(chunks.shape)]
        n_ctx = chunks.shape[1]
        frequencies = rope_frequencies(config, weights.rope_factors)
        self._angles = np.arange(n_ctx, dtype=np.float32)[:, None] * frequencies
        self._visible = np.tri(n_ctx, dtype=np.bool_)  # (row, key): everything up to itself

    def pass_layer(
        self,
        layer: int,
        w: Mapping[str, Floats],
        observe: Observer,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Take all chunks through a layer, w its tensors by name (see `dequantize_layer`).

        progress is called with 1 for each chunk.
        """
        matrices = self._weights.layers[layer]

        def attention(q: Floats, k: Floats, v: Floats) -> Floats:
            return attend(q, k, v, self._visible)

        def named(names: tuple[str, ...], x: Floats) -> None:
            observe(tuple(getattr(matrices, name).name for name in names), x)

        for chunk in self.x:
            chunk[:] = run_layer(self.config, w, chunk, self._angles, attention, named)
            if progress is not None:
                progress(1)

    def pass_output(self, observe: Observer) -> None:
        """Show what goes into the output matrix, which behind the last layer is the last one."""
        for chunk in self.x:
            normed = rms_norm(chunk, self._weights.output_norm, self.config.norm_eps)
            observe((self._weights.output.name,), normed)


class SquareSums:
    """An observer that adds up the squares of each input channel."""

    def __init__(self) -> None:
        self.sums: dict[str, npt.NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}

    def __call__(self, names: tuple[str, ...], x: Floats) -> None:
        squares = np.square(x).sum(axis=0, dtype=np.float64)
        if not np.isfinite(squares).all():
            raise ModelFormatError(
                f"the inputs of {names[0]} are not numbers; the model file is damaged"
            )
        for name in names:
            self.sums[name] = self.sums.get(name, 0.0) + squares
            self.counts[name] = self.counts.get(name, 0) + len(x)


def collect_imatrix(
    config: ModelConfig,
    weights: ModelWeights,
    chunks: npt.NDArray[np.int32],
    *,
    dataset: str,
    output: bool = False,
    progress: Callable[[int], object] | None = None,
) -> ImportanceMatrix:
    """The importance of every input channel of the layers' matrices, over chunks (n, n_ctx) of ids.

    output: of the output matrix, too. progress is called with 1 for each chunk behind each layer.
    Raises ModelFormatError when the model computes something that is not a number.
    """
    collected = SquareSums()
    n_ctx = chunks.shape[1]
    n_together = max(1, VALUES_AT_ONCE // (n_ctx * config.dim))
    for start in range(0, len(chunks), n_together):
        reading = Reading(config, weights, chunks[start : start + n_together])
        for i, layer in enumerate(weights.layers):
            reading.pass_layer(i, dequantize_layer(layer), collected, progress)
        if output:
            reading.pass_output(collected)
    return ImportanceMatrix(
        sums={name: sums.astype(np.float32) for name, sums in collected.sums.items()},
        counts=collected.counts,
        datasets=(dataset,),
        n_chunks=len(chunks),
        chunk_size=n_ctx,
    )
