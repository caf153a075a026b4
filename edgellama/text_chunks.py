"""A text as chunks of tokens, cut as llama.cpp's perplexity and imatrix tools cut it.

The text is encoded whole, with the token that begins a text where the model wants one, and cut into
chunks of n_ctx ids; what is left over is dropped. Each chunk is a text of its own to the model: its
first id gives way to the beginning token. (llama.cpp, tools/perplexity/perplexity.cpp)
"""

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest
from .tokenizer import Tokenizer

LEAST_CONTEXT = 8


def cut_text(
    tokenizer: Tokenizer, text: str, n_ctx: int, n_chunks: int | None = None
) -> npt.NDArray[np.int32]:
    """(n_chunks, n_ctx) ids: the first `n_chunks` chunks of the text, or all of them.

    One newline at the end of the text does not count, as llama.cpp reads files without it. Raises
    InvalidRequest for a text shorter than one chunk, or for sizes out of range.
    """
    if n_ctx < LEAST_CONTEXT:
        raise InvalidRequest(f"a context of {n_ctx} tokens is too short, {LEAST_CONTEXT} at least")
    if n_chunks is not None and n_chunks < 1:
        raise InvalidRequest(f"the number of chunks is {n_chunks}, it must be 1 or more")
    ids = np.array(tokenizer.encode(text.removesuffix("\n"), bos=tokenizer.add_bos), np.int32)
    found = len(ids) // n_ctx
    if not found:
        raise InvalidRequest(
            f"the text is {len(ids):,} tokens long, a chunk is {n_ctx:,}; take a longer text, or"
            " shorter chunks with --ctx"
        )
    if n_chunks is not None and n_chunks < found:
        found = n_chunks
    chunks = ids[: found * n_ctx].reshape(found, n_ctx)
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        chunks[:, 0] = tokenizer.bos_id
    return chunks
