"""Llama 3's tokenizer: byte-level BPE over chunks of text, done by the `tiktoken` library.

A pattern cuts the text into chunks (a word with the space before it, up to three digits, ...). A
chunk that is a token as a whole is that token; otherwise adjacent parts are joined, the union with
the lowest rank first. In this family a token's rank is its id, so the merges that GGUF files carry
for other programs are not needed.

GGUF writes a token's bytes with GPT-2's alphabet, in which each byte is a printable character.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelFormatError
from .tokenizer import NORMAL, USER_DEFINED, Tokenizer, Vocabulary

if TYPE_CHECKING:
    import tiktoken

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

SHORT_TEXT = 200  # bytes
SHORT_TEXTS = 16  # that are encoded before all tokens are taken in


class BPETokenizer(Tokenizer):
    """BPE by ranks, where ranks are token ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises ModelFormatError if the tokens are not Llama 3's kind or cannot spell all text."""
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
        # Words that a fine-tune added to the vocabulary: text, but never cut into chunks.
        self._added = {vocabulary.texts[id]: id for id in vocabulary.ids_of_type(USER_DEFINED)}
        self._pieces = _spelled(vocabulary)
        self._ranks = _ranks(self._pieces, vocabulary.ids_of_type(NORMAL))
        for id, text in literals.items():
            self._pieces[id] = text.encode()
        self._n_short = 0

    def token_id(self, text: str) -> int | None:
        if text in self._ids:
            return self._ids[text]
        values = [_ALPHABET.get(ord(letter), _NO_BYTE) for letter in text]
        return None if _NO_BYTE in values else self._ranks.get(bytes(values))

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = []
        if not text:
            return ids
        encoding = self._short_encoding(text) or self._encoding
        for part in _parts(text):
            ids += encoding.encode(part, allowed_special="all", disallowed_special=())
        return ids

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        return self._encoding_of(self._ranks)

    def _short_encoding(self, text: str) -> "tiktoken.Encoding | None":
        """Encodes this text alone, by the tokens that stand in it: no others can come of it.

        A whole vocabulary takes 0.1 s to build, which a start with a short prompt is spared. None
        where it is there already, or worth it.
        """
        data = text.encode()
        n = len(data)
        if "_encoding" in self.__dict__ or n > SHORT_TEXT or self._n_short == SHORT_TEXTS:
            return None
        self._n_short += 1
        parts = {data[i:j] for i in range(n) for j in range(i + 1, n + 1)}
        return self._encoding_of({part: self._ranks[part] for part in parts if part in self._ranks})

    def _encoding_of(self, ranks: dict[bytes, int]) -> "tiktoken.Encoding":
        import tiktoken

        return tiktoken.Encoding(
            "gguf", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=self._added
        )

    def _piece(self, id: int) -> bytes:
        return self._pieces[id]


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


def _spelled(vocabulary: Vocabulary) -> list[bytes]:
    """The bytes of every token; those of a token that is not in GPT-2's alphabet are b""."""
    text, ends = vocabulary.joined()
    code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    values = np.take(_BYTES, code_points, mode="clip")
    data = values.astype(np.uint8).tobytes()
    starts = np.append(0, ends)[:-1]
    pieces = [data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    wrong = np.searchsorted(ends, np.flatnonzero(values == _NO_BYTE), side="right")
    for id in np.unique(wrong).tolist():
        pieces[id] = b""
    return pieces


def _ranks(pieces: Sequence[bytes], ids: Sequence[int]) -> dict[bytes, int]:
    """The bytes of every normal token -> its id, which is its rank."""
    ranks = dict(zip([pieces[id] for id in ids], ids, strict=True))
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
    return {byte: byte for byte in printable} | {0x100 + i: byte for i, byte in enumerate(others)}


_NO_BYTE = 0x100
_ALPHABET = _byte_alphabet()
_BYTES = np.full(max(_ALPHABET) + 2, _NO_BYTE, np.uint16)  # by code point; the last is no letter
_BYTES[list(_ALPHABET)] = list(_ALPHABET.values())
