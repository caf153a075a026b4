"""Sequences of a backend as places for requests: who sits where, and what each still remembers.

A place that became free keeps its keys and values until someone else needs it. A new request takes
over the longest beginning that it shares with any place, or with the store of prefixes on disk;
only the rest is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .backends import Backend
from .backends.base import BlockBackend
from .kv_cache import BLOCK_TOKENS
from .prefix_store import PrefixStore

# A beginning that is shorter than this is computed again rather than shared or stored.
WORTH_SHARING = 64
WORTH_STORING = 256


@dataclass(slots=True)
class _Place:
    tokens: list[int] = field(default_factory=list)  # ids whose keys and values are held
    busy: bool = False
    last_used: int = 0


class Slots:
    """The sequences of one backend. Used by the engine's thread alone."""

    def __init__(
        self, backend: Backend, store: PrefixStore | None = None, store_key: str = ""
    ) -> None:
        """store: for a BlockBackend; store_key: what prefix_store.key_of says of the model."""
        self._backend = backend
        self._store = store
        self._store_key = store_key
        self._places = [_Place() for _ in range(backend.n_sequences)]
        self._clock = 0

    @property
    def n_free(self) -> int:
        return sum(not place.busy for place in self._places)

    @property
    def n_held(self) -> int:
        """Tokens whose keys and values are held, those of free places included."""
        return sum(len(place.tokens) for place in self._places)

    def take(self, prompt: Sequence[int]) -> tuple[int, int]:
        """(a free sequence, how many ids of the prompt it holds): all but the last at most."""
        shared = [common_prefix(place.tokens, prompt) for place in self._places]
        best = max(range(len(shared)), key=lambda i: (shared[i], not self._places[i].busy))
        free = [i for i, place in enumerate(self._places) if not place.busy]
        # What is mostly this prompt goes on where it is; a mere beginning is copied from there.
        if best in free and 2 * shared[best] >= len(self._places[best].tokens):
            sequence = best
        else:
            others = [i for i in free if i != best] or free
            sequence = min(others, key=lambda i: self._places[i].last_used)
        place = self._places[sequence]
        kept = min(shared[sequence], len(prompt) - 1)
        source = min(shared[best], len(prompt) - 1)
        if sequence != best and source >= max(WORTH_SHARING, kept + 1):
            kept = source
            self.forget(sequence, 0)
            self._backend.copy(best, sequence, kept)
            place.tokens = list(prompt[:kept])
        else:
            self.forget(sequence, kept)
        kept = self._restore(sequence, prompt, kept)
        place.busy = True
        return sequence, kept

    def take_empty(self) -> int:
        """A free sequence that holds nothing: the one that was used longest ago."""
        free = [i for i, place in enumerate(self._places) if not place.busy]
        sequence = min(free, key=lambda i: self._places[i].last_used)
        self.forget(sequence, 0)
        self._places[sequence].busy = True
        return sequence

    def add(self, sequence: int, ids: Sequence[int]) -> None:
        """Note that a step has read these ids into the sequence."""
        self._places[sequence].tokens.extend(ids)

    def forget(self, sequence: int, n_kept: int) -> None:
        """Keep the first `n_kept` ids of the sequence only."""
        # The list first: interrupted in between, it may be shorter than the cache, never longer.
        if len(self._places[sequence].tokens) > n_kept:
            del self._places[sequence].tokens[n_kept:]
            self._backend.rewind(sequence, n_kept)

    def release(self, sequence: int) -> None:
        """Let others have the sequence; what it holds stays until then."""
        self._clock += 1
        place = self._places[sequence]
        place.busy, place.last_used = False, self._clock

    def reset(self) -> None:
        """Forget everything, as after a step that failed half-way."""
        for sequence, place in enumerate(self._places):
            place.tokens.clear()
            self._backend.drop(sequence)

    def save(self, sequence: int) -> None:
        """Hand what the sequence holds to the store on disk, if it is long enough."""
        tokens = self._places[sequence].tokens
        whole = len(tokens) // BLOCK_TOKENS * BLOCK_TOKENS
        if self._store is None or whole < WORTH_STORING:
            return
        assert isinstance(self._backend, BlockBackend)
        stored = self._store.longest(self._store_key, tokens[:whole])
        if stored < whole:
            first, end = stored // BLOCK_TOKENS, whole // BLOCK_TOKENS
            blocks = self._backend.read_blocks(sequence, first, end)
            self._store.save(self._store_key, tokens[:whole], blocks, first)

    def _restore(self, sequence: int, prompt: Sequence[int], kept: int) -> int:
        """Take from the store what it has beyond `kept`; how many ids are held then."""
        # The last id is run in any case: its logits are wanted.
        usable = (len(prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        if self._store is None or usable < WORTH_STORING:
            return kept
        blocks = self._store.load(self._store_key, prompt[:usable], beyond=kept)
        if not blocks:
            return kept
        held = len(blocks) * BLOCK_TOKENS
        assert isinstance(self._backend, BlockBackend)
        self.forget(sequence, 0)
        self._backend.restore(sequence, blocks)
        self._places[sequence].tokens = list(prompt[:held])
        return held


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two lists have in common at their beginning."""
    if not a or not b or a[0] != b[0]:
        return 0
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
