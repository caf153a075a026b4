"""Keys and values of what has been read, in blocks of 64 tokens.

A sequence is a table of block numbers, so that sequences share the blocks of a common prefix, and
only blocks in use take memory. One block holds, for each layer and each of its kv heads:

    keys     f16, f32  (head_dim, 64)            transposed: a value of the query meets 64
             q8_0      codes (head_dim, 64) int8, then scales (head_dim / 32, 64) f16
    values   f16, f32  (64, width)               width: head_dim padded to 16
             q8_0      codes (64, head_dim) int8, then scales (64, head_dim / 32) f16

    [block][layer][keys | values][kv head][head_bytes]
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .config import ModelConfig
from .errors import ContextFull, InvalidRequest, ResourceError

BLOCK_TOKENS = 64
KV_TYPES = ("f16", "q8_0", "f32")  # a step knows them by their place here
F16, Q8_0, F32 = range(3)


def head_bytes(head_dim: int, kv_type: str) -> int:
    """Bytes of the keys (or the values) of one head in one block."""
    if kv_type == "q8_0":
        return BLOCK_TOKENS * (head_dim + head_dim // 32 * 2)
    return BLOCK_TOKENS * (-(-head_dim // 16) * 16) * (4 if kv_type == "f32" else 2)


class KVCache:
    """Blocks, their owners, and the table of each sequence."""

    def __init__(
        self, config: ModelConfig, *, n_ctx: int, n_sequences: int = 1, kv_type: str = "f16"
    ) -> None:
        """Room for `n_sequences` sequences of `n_ctx` tokens; memory is taken as it is used."""
        if kv_type not in KV_TYPES:
            raise InvalidRequest(f"kv_type {kv_type!r} is unknown; known are {', '.join(KV_TYPES)}")
        if kv_type == "q8_0" and config.head_dim % 32:
            raise InvalidRequest(
                f"kv_type q8_0 needs heads of a multiple of 32 values, these have "
                f"{config.head_dim}; use f16"
            )
        self.n_ctx = n_ctx
        self.kv_type = kv_type
        self.head_bytes = head_bytes(config.head_dim, kv_type)
        self.layer_bytes = 2 * config.n_kv_heads * self.head_bytes
        self.block_bytes = config.n_layers * self.layer_bytes
        per_sequence = -(-n_ctx // BLOCK_TOKENS)
        n_blocks = per_sequence * n_sequences
        try:
            # zeroed pages come from the system when they are first touched
            self.blocks = np.zeros((n_blocks, self.block_bytes), np.uint8)
        except MemoryError:
            raise ResourceError(
                f"the cache of {n_sequences} x {n_ctx:,} tokens needs "
                f"{n_blocks * self.block_bytes / 1e9:.1f} GB; ask for a smaller n_ctx or for"
                " kv_type q8_0"
            ) from None
        self.tables: npt.NDArray[np.int64] = np.zeros((n_sequences, per_sequence), np.int64)
        self._lengths = [0] * n_sequences
        self._owners: npt.NDArray[np.int64] = np.zeros(n_blocks, np.int64)
        self._free = list(range(n_blocks - 1, -1, -1))

    @property
    def kind(self) -> int:
        """The number by which a step knows kv_type."""
        return KV_TYPES.index(self.kv_type)

    def length(self, sequence: int) -> int:
        """Tokens held of the sequence."""
        return self._lengths[sequence]

    def extend(self, sequence: int, n_tokens: int) -> None:
        """Make the sequence `n_tokens` long; the caller writes what is new.

        Raises ContextFull, and changes nothing, when that is more than n_ctx.
        """
        self._check_fits(n_tokens)
        held = self._lengths[sequence]
        if held % BLOCK_TOKENS and n_tokens > held:
            self._make_private(sequence, held // BLOCK_TOKENS)
        for i in range(_blocks(held), _blocks(n_tokens)):
            self.tables[sequence, i] = self._take()
        self._lengths[sequence] = max(held, n_tokens)

    def rewind(self, sequence: int, n_tokens: int) -> None:
        """Forget everything of the sequence from position `n_tokens` on."""
        held = self._lengths[sequence]
        if not 0 <= n_tokens <= held:
            raise InvalidRequest(f"cannot rewind {held} tokens to {n_tokens}")
        for i in range(_blocks(n_tokens), _blocks(held)):
            self._release(int(self.tables[sequence, i]))
        self._lengths[sequence] = n_tokens

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Make the first `n_tokens` of `source` the content of `target`; blocks are shared."""
        if not 0 <= n_tokens <= self._lengths[source]:
            raise InvalidRequest(
                f"cannot copy {n_tokens} tokens of a sequence of {self._lengths[source]}"
            )
        if source == target:
            self.rewind(target, n_tokens)
            return
        self.rewind(target, 0)
        for i in range(_blocks(n_tokens)):
            block = self.tables[source, i]
            self.tables[target, i] = block
            self._owners[block] += 1
        self._lengths[target] = n_tokens

    def read_blocks(self, sequence: int, first: int, end: int) -> list[npt.NDArray[np.uint8]]:
        """Copies of blocks `first` to `end` - 1 of the sequence, each (block_bytes,) uint8.

        Raises InvalidRequest unless 64 * `end` tokens are held: a block that still grows is no one
        else's to keep.
        """
        whole = self._lengths[sequence] // BLOCK_TOKENS
        if not 0 <= first <= end <= whole:
            raise InvalidRequest(
                f"cannot read blocks {first} to {end} of a sequence that holds {whole} whole ones"
            )
        return [self.blocks[block].copy() for block in self.tables[sequence, first:end]]

    def restore(self, sequence: int, blocks: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Make blocks from `read_blocks` of a cache like this one the content of the sequence.

        It holds 64 * len(blocks) tokens then. Raises InvalidRequest for a block of another size,
        ContextFull for more blocks than n_ctx has; nothing has changed then.
        """
        for block in blocks:
            if block.dtype != np.uint8 or block.shape != (self.block_bytes,):
                raise InvalidRequest(
                    f"a block of this cache is {self.block_bytes:,} bytes, got {block.dtype}"
                    f" {block.shape}; it is of another model or kv_type"
                )
        n_tokens = BLOCK_TOKENS * len(blocks)
        self._check_fits(n_tokens)
        self.rewind(sequence, 0)
        self.extend(sequence, n_tokens)
        for own, block in zip(self.tables[sequence, : len(blocks)], blocks, strict=True):
            self.blocks[own] = block

    def _check_fits(self, n_tokens: int) -> None:
        if n_tokens > self.n_ctx:
            raise ContextFull(
                f"{n_tokens:,} tokens do not fit the context of {self.n_ctx:,}; "
                f"start with a larger n_ctx or shorten the conversation"
            )

    def _take(self) -> int:
        block = self._free.pop()
        self._owners[block] = 1
        return block

    def _release(self, block: int) -> None:
        self._owners[block] -= 1
        if not self._owners[block]:
            self._free.append(block)

    def _make_private(self, sequence: int, i: int) -> None:
        """Copy a block that is about to be written if another sequence reads it too."""
        shared = int(self.tables[sequence, i])
        if self._owners[shared] == 1:
            return
        own = self._take()
        self.blocks[own] = self.blocks[shared]
        self._release(shared)
        self.tables[sequence, i] = own


def _blocks(n_tokens: int) -> int:
    return -(-n_tokens // BLOCK_TOKENS)
