"""The seam between the model and the machine: a backend runs a whole forward over a batch of rows.

A row is one token of one sequence: (token id, position, sequence). Prefill is many rows of one
sequence, decode is one, several chats are rows of several sequences: one function serves them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgellama.config import ModelConfig
from edgellama.errors import ContextFull, InvalidRequest


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to run. All four arrays have one entry a row.

    The rows of one sequence stand in the order of their positions and continue what the backend
    already holds of that sequence; rows of different sequences may be mixed in any way.
    """

    tokens: npt.NDArray[np.int32]  # (n,) ids, 0 <= id < vocab_size
    positions: npt.NDArray[np.int32]  # (n,) 0 <= position < n_ctx
    sequences: npt.NDArray[np.int32]  # (n,) 0 <= sequence < n_sequences
    wanted: npt.NDArray[np.bool_]  # (n,) True where logits are asked for

    @classmethod
    def of(
        cls,
        tokens: npt.ArrayLike,
        sequence: int = 0,
        start: int = 0,
        wanted: Literal["last", "all", "none"] = "last",
    ) -> "Batch":
        """Consecutive tokens of one sequence, the first of them at position `start`."""
        given = np.atleast_1d(np.asarray(tokens))
        ids = given.astype(np.int32)
        if (ids != given).any():
            raise InvalidRequest("token ids must be whole numbers of 32 bits")
        mask = np.full(ids.shape, wanted == "all")
        if wanted == "last" and ids.size:
            mask[-1] = True
        positions = np.arange(start, start + ids.size, dtype=np.int32)
        return cls(ids, positions, np.full(ids.shape, sequence, np.int32), mask)

    def __len__(self) -> int:
        return int(self.tokens.size)


class Backend(Protocol):
    """Runs one model and remembers, for each sequence, the keys and values of what it has seen.

    Not safe to call from two threads at once.
    """

    config: ModelConfig
    n_ctx: int  # tokens a sequence may hold
    n_sequences: int

    def forward(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Logits (wanted rows, vocab_size) in the order of the rows; any number of rows.

        Raises InvalidRequest for an id, position or sequence out of range and ContextFull for a
        position that the context cannot hold; nothing has been remembered then.
        """
        ...

    def hidden(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Every row (n, dim) behind the last norm, where the output matrix would be next.

        Remembers and raises as `forward`; `wanted` is of no account.
        """
        ...

    def rewind(self, sequence: int, n_tokens: int) -> None:
        """Forget everything of the sequence from position `n_tokens` on."""
        ...

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Make the first `n_tokens` of `source` the whole content of `target`."""
        ...

    def drop(self, sequence: int) -> None:
        """Forget the sequence."""
        ...

    def close(self) -> None:
        """Give back memory and threads; the backend cannot be used any more."""
        ...


@runtime_checkable
class BlockBackend(Backend, Protocol):
    """A backend that can also hand out what it remembers, in blocks of 64 tokens, for keeping.

    The CPU backend is one; the reference is not. `isinstance(backend, BlockBackend)` tells.
    """

    @property
    def kv_type(self) -> str:
        """How keys and values are kept; with `arithmetic` and the model, what a block depends on
        besides its tokens and those before them."""
        ...

    @property
    def arithmetic(self) -> str: ...

    def read_blocks(self, sequence: int, first: int, end: int) -> list[npt.NDArray[np.uint8]]:
        """Copies of the whole blocks `first` to `end` - 1 of the sequence: (block_bytes,) each.

        Raises InvalidRequest unless the sequence holds 64 * `end` tokens.
        """
        ...

    def restore(self, sequence: int, blocks: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Make such blocks, from the first on, the whole content of the sequence.

        Raises InvalidRequest for blocks of another size, ContextFull for too many.
        """
        ...


def check_batch(batch: Batch, config: ModelConfig, n_ctx: int, n_sequences: int) -> None:
    """Refuse rows that no kernel may see: shapes, ids, positions and sequences out of range."""
    arrays = (batch.tokens, batch.positions, batch.sequences, batch.wanted)
    if any(a.shape != (len(batch),) for a in arrays):
        raise InvalidRequest(
            f"a batch needs four equally long arrays, got {[a.shape for a in arrays]}"
        )
    if not len(batch):
        return
    _check_range("token id", batch.tokens, config.vocab_size)
    _check_range("sequence", batch.sequences, n_sequences)
    if batch.positions.max() >= n_ctx:
        raise ContextFull(
            f"position {batch.positions.max():,} does not fit the context of {n_ctx:,}"
        )
    _check_range("position", batch.positions, n_ctx)


def _check_range(what: str, values: npt.NDArray[np.int32], end: int) -> None:
    for value in (values.min(), values.max()):
        if not 0 <= value < end:
            raise InvalidRequest(f"{what} {value} is outside 0..{end - 1}")
