"""The CPU backend: fills the context record for a batch and runs the step on a team of threads."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.backends.base import Batch, check_batch
from edgellama.backends.reference import rms_norm
from edgellama.config import ModelConfig
from edgellama.context import (
    CACHE_LINE,
    CONTEXT,
    GROUP_ROWS,
    LANES,
    LARGEST_BATCH,
    LAYER,
    MAX_CHUNK,
    TILE_CHUNK,
    attention_scratch_bytes,
    n_counters,
)
from edgellama.draw import draw
from edgellama.errors import InvalidRequest
from edgellama.kv_cache import KVCache
from edgellama.quant import Format
from edgellama.quant.entry import Entry, compile_entries
from edgellama.quant.kernels import BFLOAT, MANY, MATRIX, new_activations
from edgellama.quant.simd.cpu import current_tier
from edgellama.team import ENTRIES, Team
from edgellama.weights import Matrix, ModelWeights, rope_frequencies

Record = npt.NDArray[Any]  # a structured array of one element

# By name: its module imports numba, which a start does without once the step is compiled.
step = Entry("edgellama.step", "step")


class CpuBackend:
    """Runs a model on the CPU, on the packed weights where they are mapped."""

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
        """kv_type "f16" becomes "f32" where all weights are F32: nothing is rounded below the file.

        `progress` is told, in words, of each kernel that has to be compiled first.
        """
        if kv_type == "f16" and all(m.format.name == "F32" for m in _matrices(weights)):
            kv_type = "f32"
        compile_entries(entries_for(m.format for m in _matrices(weights)), progress)
        self.config = config
        self.n_ctx = n_ctx
        self.n_sequences = n_sequences
        self.cache = KVCache(config, n_ctx=n_ctx, n_sequences=n_sequences, kv_type=kv_type)
        self._frequencies = rope_frequencies(config, weights.rope_factors)
        self._kept: list[npt.NDArray[Any]] = []  # every array whose address stands in the record
        self._layers = np.zeros(config.n_layers, LAYER)
        self._context = np.zeros(1, CONTEXT)
        self._output_norm = weights.output_norm
        self._fill_model(weights)
        self._team = Team(n_threads)
        self._allocate(weights)
        self._address = self._context.ctypes.data

    @property
    def exact_rows(self) -> int:
        """Rows a step may have so that each is computed as if it were alone, to the last bit."""
        return min(LARGEST_BATCH, MANY - 1) if BFLOAT else LARGEST_BATCH

    @property
    def n_threads(self) -> int:
        return self._team.n

    def forward(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Logits (wanted rows, vocab_size) float32; see Backend.forward."""
        self._make_room(batch)
        logits = np.empty((int(batch.wanted.sum()), self.config.vocab_size), np.float32)
        done = 0
        for start in range(0, len(batch), LARGEST_BATCH):
            part = slice(start, start + LARGEST_BATCH)
            wanted = np.flatnonzero(batch.wanted[part])
            self._run(batch, part, wanted, logits[done : done + len(wanted)])
            done += len(wanted)
        return logits

    def hidden(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Rows (n, dim) float32 behind the last norm; see Backend.hidden."""
        self._make_room(batch)
        nothing = np.zeros(0, np.int64)
        hidden = np.empty((len(batch), self.config.dim), np.float32)
        for start in range(0, len(batch), LARGEST_BATCH):
            part = slice(start, start + LARGEST_BATCH)
            self._run(batch, part, nothing, hidden)
            x = self._x[: len(hidden[part]), : self.config.dim]
            hidden[part] = rms_norm(x, self._output_norm, self.config.norm_eps)
        return hidden

    def rewind(self, sequence: int, n_tokens: int) -> None:
        self.cache.rewind(sequence, n_tokens)

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self.cache.copy(source, target, n_tokens)

    def drop(self, sequence: int) -> None:
        self.cache.rewind(sequence, 0)

    @property
    def kv_type(self) -> str:
        """How keys and values are really kept: "f16", "q8_0" or "f32"."""
        return self.cache.kv_type

    @property
    def arithmetic(self) -> str:
        """What may differ in the last bits between machines: all tiers agree but the one of AMX."""
        return "amx" if current_tier().tiles else "f32"

    def read_blocks(self, sequence: int, first: int, end: int) -> list[npt.NDArray[np.uint8]]:
        return self.cache.read_blocks(sequence, first, end)

    def restore(self, sequence: int, blocks: Sequence[npt.NDArray[np.uint8]]) -> None:
        self.cache.restore(sequence, blocks)

    def close(self) -> None:
        """End the threads and let go of the weights and the cache."""
        self._team.close()
        self._kept.clear()

    def _make_room(self, batch: Batch) -> None:
        """Check the batch and let the cache grow by it."""
        check_batch(batch, self.config, self.n_ctx, self.n_sequences)
        for sequence, length in self._lengths_after(batch).items():
            self.cache.extend(sequence, length)

    def _lengths_after(self, batch: Batch) -> dict[int, int]:
        """How long each sequence will be; refuses rows that do not continue it."""
        lengths: dict[int, int] = {}
        rows = zip(batch.sequences.tolist(), batch.positions.tolist(), strict=True)
        for sequence, position in rows:
            held = lengths.get(sequence)
            if held is None:
                held = self.cache.length(sequence)
            if position != held:
                raise InvalidRequest(
                    f"sequence {sequence} holds {held} tokens; its rows must continue there, one "
                    f"position after the other, but one has position {position}"
                )
            lengths[sequence] = held + 1
        return lengths

    def _run(
        self, batch: Batch, part: slice, wanted: npt.NDArray[np.int64], logits: npt.NDArray[Any]
    ) -> None:
        """One step on at most LARGEST_BATCH rows."""
        positions, sequences = batch.positions[part], batch.sequences[part]
        n = len(positions)
        self._tokens[:n] = batch.tokens[part]
        self._positions[:n] = positions
        table = self.cache.tables
        self._tables[:n] = table.ctypes.data + sequences.astype(np.int64) * table.strides[0]
        angles = positions.astype(np.float32)[:, None] * self._frequencies
        np.cos(angles, out=self._cos[:n])
        np.sin(angles, out=self._sin[:n])
        groups = _groups(sequences)
        self._groups[: len(groups)] = groups
        self._wanted[: len(wanted)] = wanted
        s = self._context
        s["n"], s["n_groups"], s["n_wanted"] = n, len(groups), len(wanted)
        s["logits"] = logits.ctypes.data
        self._counters.fill(0)
        self._team.run(step.address, self._address)

    def _fill_model(self, weights: ModelWeights) -> None:
        config, s = self.config, self._context
        for name in (
            "n_layers", "dim", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "rope_dim",
            "norm_eps",
        ):  # fmt: skip
            s[name] = getattr(config, name)
        for i, layer in enumerate(weights.layers):
            record = self._layers[i : i + 1]
            for name in LAYER.names or ():
                value = getattr(layer, name)
                record[name] = (
                    self._matrix(value) if isinstance(value, Matrix) else self._padded(value)
                )
        s["layers"] = self._layers.ctypes.data
        s["token_embd"] = self._matrix(weights.token_embd)
        s["output"] = self._matrix(weights.output)
        s["output_norm"] = self._padded(weights.output_norm)
        s["quantized"] = int(any(m.format.products.quantized for m in _matrices(weights)))

    def _matrix(self, matrix: Matrix) -> Record:
        """The matrix record: where the packed rows are and what multiplies them."""
        products = matrix.format.products
        record = np.zeros((), MATRIX)
        record["data"] = matrix.data.ctypes.data
        record["rows"], record["cols"] = matrix.rows, matrix.cols
        record["row_bytes"] = matrix.format.row_bytes(matrix.cols)
        for name, entry in products.entries.items():
            record[name] = entry.address
        record["quantized"] = int(products.quantized)
        self._kept.append(matrix.data)
        return record

    def _padded(self, vector: npt.NDArray[np.float32]) -> int:
        """Address of a copy that ends with zeros, so that whole vectors can be read."""
        copy = self._zeros(-(-len(vector) // LANES) * LANES, np.float32)
        copy[: len(vector)] = vector
        return copy.ctypes.data

    def _allocate(self, weights: ModelWeights) -> None:
        """Every buffer of a step, for LARGEST_BATCH rows."""
        config, s, rows = self.config, self._context, LARGEST_BATCH
        heads, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        s["x_stride"] = stride = -(-config.dim // LANES) * LANES
        self._x = self._zeros((rows, stride), np.float32)
        s["x"] = self._x.ctypes.data
        for name, width in (("q", heads), ("k", kv), ("v", kv)):
            s[name] = self._zeros((rows, width), np.float32).ctypes.data
        for name, width in (
            ("normed", config.dim),
            ("attended", heads),
            ("hidden", config.hidden_dim),
        ):
            s[name] = self._activations(rows, width)
        self._tokens = self._zeros(rows, np.int64)
        self._positions = self._zeros(rows, np.int64)
        self._tables = self._zeros(rows, np.int64)
        self._wanted = self._zeros(rows, np.int64)
        self._groups = self._zeros((rows, 2), np.int64)
        for name in ("tokens", "positions", "tables", "wanted", "groups"):
            s[name] = getattr(self, f"_{name}").ctypes.data
        self._cos = self._zeros((rows, config.rope_dim // 2), np.float32)
        self._sin = self._zeros((rows, config.rope_dim // 2), np.float32)
        s["cos"], s["sin"] = self._cos.ctypes.data, self._sin.ctypes.data
        s["cache"] = self.cache.blocks.ctypes.data
        s["block_bytes"], s["layer_bytes"] = self.cache.block_bytes, self.cache.layer_bytes
        s["head_bytes"] = self.cache.head_bytes
        s["kv_kind"] = self.cache.kind
        line = CACHE_LINE // 8
        self._counters = self._zeros((n_counters(config.n_layers) + 1) * line, np.int64)
        s["barrier"] = self._counters.ctypes.data
        s["counters"] = self._counters.ctypes.data + CACHE_LINE
        per_thread = self._scratch_bytes(weights)
        s["scratch_bytes"] = per_thread
        s["scratch"] = self._cache_lines(per_thread * self._team.n)

    def _scratch_bytes(self, weights: ModelWeights) -> int:
        """Private memory of a thread: outputs of a chunk (gate and up), and an unpacked tile."""
        products = max(m.format.products.scratch_bytes(m.cols) for m in _matrices(weights))
        outputs = 2 * LARGEST_BATCH * TILE_CHUNK * 4 + 2 * MAX_CHUNK * 4 * 4
        group = self.config.n_heads // self.config.n_kv_heads
        attention = attention_scratch_bytes(self.config.head_dim, group)
        largest = max(products + outputs, attention)
        return -(-largest // 4096) * 4096 + CACHE_LINE  # threads must not meet on one cache set

    def _activations(self, rows: int, width: int) -> Record:
        record, arrays = new_activations(rows, width)
        self._kept += arrays.values()
        return record

    def _cache_lines(self, n_bytes: int) -> int:
        """Address of zeros that begin with a cache line."""
        start = self._zeros(n_bytes + CACHE_LINE, np.uint8).ctypes.data
        return -(-start // CACHE_LINE) * CACHE_LINE

    def _zeros(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A zeroed array that lives as long as the backend."""
        array = np.zeros(shape, dtype)
        self._kept.append(array)
        return array


def entries_for(formats: Iterable[Format]) -> list[Entry]:
    """All that is compiled to run models whose matrices have these formats."""
    # first what takes longest, as the second compiler begins at the other end
    entries: list[Entry] = [step, *ENTRIES, draw]
    for products in (format.products for format in formats):
        entries += products.entries.values()
    return entries


def _matrices(weights: ModelWeights) -> list[Matrix]:
    found = [weights.token_embd, weights.output]
    for layer in weights.layers:
        values = (getattr(layer, name) for name in LAYER.names or ())
        found += [value for value in values if isinstance(value, Matrix)]
    return found


def _groups(sequences: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Runs of equal sequence, none longer than GROUP_ROWS: (first row, number of rows)."""
    runs = []
    first = 0
    for i in range(1, len(sequences) + 1):
        if i == len(sequences) or sequences[i] != sequences[first] or i - first == GROUP_ROWS:
            runs.append((first, i - first))
            first = i
    return np.array(runs, np.int64)
