"""Llama 3's tokenizer: byte-level BPE over chunks of text, done by the `tiktoken` library.

A pattern cuts the text into chunks (a word with the space before it, up to three digits, ...). A
chunk that is a token as a whole is that token; otherwise adjacent parts are joined, the union with
the lowest rank first. In this family a token's rank is its id, so the merges that GGUF files carry
for other programs are not needed.

GGUF writes a token's bytes with GPT-2's alphabet, in which each byte is a printable character.
"""

import re
from collections.abc import Iterator

import numpy as np

from .errors import ModelFormatError
from .tokenizer import NORMAL, USER_DEFINED, Tokenizer, Vocabulary

# How Llama 3 cuts a text into chunks: https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
_PRE_NAMES = ("llama-bpe", "llama3", "llama-v3")

# Meta's encoder cuts long texts before it encodes them; the same cuts give the same ids.
_MAX_CHARS = 400_000
_MAX_RUN = 25_000  # of consecutive whitespace, or of anything else
_RUNS = re.compile(r"\s+|\S+")


class BPETokenizer(Tokenizer):
    """BPE by ranks, where ranks are token ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises ModelFormatError if the tokens are not Llama 3's kind or cannot spell all text."""
        import tiktoken

        _check_family(vocabulary)
        literals = {
            id: vocabulary.texts[id] for id in np.flatnonzero(vocabulary.types != NORMAL).tolist()
        }
        self._ids = {text: id for id, text in reversed(literals.items())}
        defaults = {
            key: self._ids[text]
            for key, text in (
                ("bos_token_id", "<|begin_of_text|>"),
                ("eos_token_id", "<|end_of_text|>"),
            )
            if text in self._ids
        }
        super().__init__(vocabulary, defaults, add_bos=True)
        self._literals = {id: text.encode() for id, text in literals.items()}
        self._ranks = _ranks(vocabulary)
        self._encoding = tiktoken.Encoding(
            "gguf",
            pat_str=LLAMA3_PATTERN,
            mergeable_ranks=self._ranks,
            # Words that a fine-tune added to the vocabulary: text, but never cut into chunks.
            special_tokens={
                vocabulary.texts[id]: id for id in vocabulary.ids_of_type(USER_DEFINED)
            },
        )

    def token_id(self, text: str) -> int | None:
        if text in self._ids:
            return self._ids[text]
        try:
            return self._ranks.get(text.translate(_TO_BYTE).encode("latin-1"))
        except UnicodeEncodeError:
            return None

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in _parts(text):
            ids += self._encoding.encode(part, allowed_special="all", disallowed_special=())
        return ids

    def _piece(self, id: int) -> bytes:
        literal = self._literals.get(id)
        return self._encoding.decode_single_token_bytes(id) if literal is None else literal


def _check_family(vocabulary: Vocabulary) -> None:
    """Raises ModelFormatError unless the file names Llama 3's chunks, or predates the key."""
    pre = vocabulary.metadata.get("tokenizer.ggml.pre")
    if pre in _PRE_NAMES:
        return
    if pre in (None, "default") and "<|begin_of_text|>" in vocabulary.texts:
        return  # the first Llama 3 files named none
    raise ModelFormatError(
        f"tokenizer.ggml.pre: {pre!r} is not known; of byte-level BPE only Llama 3's is: "
        + ", ".join(_PRE_NAMES)
    )


def _ranks(vocabulary: Vocabulary) -> dict[bytes, int]:
    """The bytes of every normal token -> its id, which is its rank."""
    ids = vocabulary.ids_of_type(NORMAL)
    # One translation of all tokens takes a tenth of the time of one for each. What parts them is
    # in neither alphabet.
    texts = "\n".join([vocabulary.texts[id] for id in ids]).translate({**_TO_BYTE, 10: 0x100})
    try:
        ranks = dict(
            zip([part.encode("latin-1") for part in texts.split("\u0100")], ids, strict=True)
        )
    except (UnicodeEncodeError, ValueError):
        ranks = {}
    if len(ranks) != len(ids) or b"" in ranks:
        raise ModelFormatError(
            "tokenizer.ggml.tokens: some token is empty, doubled or not in GPT-2's byte alphabet"
        )
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ModelFormatError(
            f"tokenizer.ggml.tokens: {len(missing)} of the 256 single bytes are no token "
            f"(the first is 0x{missing[0]:02X}), so not all text could be encoded"
        )
    return ranks


def _parts(text: str) -> Iterator[str]:
    """`text` cut to Meta's limits: _MAX_CHARS in a part, _MAX_RUN in a row of one kind."""
    for begin in range(0, len(text), _MAX_CHARS):
        part = text[begin : begin + _MAX_CHARS]
        start = 0
        if len(part) > _MAX_RUN:
            for run in _RUNS.finditer(part):
                for cut in range(run.start() + _MAX_RUN, run.end(), _MAX_RUN):
                    yield part[start:cut]
                    start = cut
        yield part[start:]


def _byte_alphabet() -> dict[int, int]:
    """GPT-2's code points -> bytes: printable Latin-1 is itself, the rest follows from U+0100 on.

    https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = dict.fromkeys(others, 0x200)  # no byte: a token may not hold these as they are
    alphabet |= {byte: byte for byte in printable}
    return alphabet | {0x100 + i: byte for i, byte in enumerate(others)}


_TO_BYTE = _byte_alphabet()
