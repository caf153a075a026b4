"""The codebooks of the IQ1, IQ2 and IQ3 formats, and the signs that are stored in seven bits.

A code of these formats is the number of an entry, which holds the magnitudes of four or eight
neighbouring weights. The books are GGML's; gguf-py carries them.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

# The signs of eight weights by the seven that are stored: a bit is set where a weight is negative,
# in the eighth such that their number is even.
_SEVEN = np.arange(128, dtype=np.uint8)
EVEN_SIGNS = _SEVEN | np.bitwise_count(_SEVEN) % np.uint8(2) << np.uint8(7)


@cache
def codebook(name: str) -> npt.NDArray[np.int8]:
    """(n, 4) or (n, 8) int8: the entries of the format of this name."""
    from gguf import quants  # heavy, and few models need it

    book = getattr(quants, name)
    book.init_grid()
    return book.grid.reshape(book.grid_shape).astype(np.int8)  # type: ignore[no-any-return]


def signs_of(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(...) bytes -> (..., 8) float32: -1 where a bit is set, else 1, the lowest bit first."""
    negative = np.unpackbits(bits[..., None], axis=-1, bitorder="little")
    return np.float32(1) - np.float32(2) * negative
