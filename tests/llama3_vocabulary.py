"""The tokenizer of Meta's tokenizer.model of Llama 3, as a GGUF file would carry it."""

import base64
from pathlib import Path

from edgellama.tokenizer import Tokenizer, load_tokenizer

SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)


def llama3_tokenizer(model: Path, *more_specials: str) -> Tokenizer:
    """Ids 0 to 127,999 are the file's; SPECIALS and `more_specials` follow."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    lines = model.read_bytes().splitlines()
    tokens = ["".join(alphabet[b] for b in base64.b64decode(line.split()[0])) for line in lines]
    specials = (*SPECIALS, *more_specials)
    return load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.tokens": [*tokens, *specials],
            "tokenizer.ggml.token_type": [1] * len(tokens) + [3] * len(specials),
        }
    )
