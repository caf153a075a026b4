"""SentencePiece tokenizers: Llama 1 and 2, Code Llama, small byte-fallback vocabularies.

The `sentencepiece` library does the work; here the GGUF arrays become the ModelProto it loads:
    1  pieces, repeated     1 text, 2 score (float32), 3 type (GGUF's numbers are SentencePiece's)
    2  trainer              3 model type (2: BPE), 4 vocabulary size, 35 byte fallback
    3  normalizer           1 name, 3 add dummy prefix, 4 remove extra whitespace
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto

A space is written U+2581 in pieces, so U+2581 itself comes back as a space. With the dummy prefix
a text is encoded as if a space stood before it, and decoding drops one space at the beginning.
"""

import codecs
import re
import struct

import numpy as np

from .errors import ModelFormatError
from .tokenizer import BYTE, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Tokenizer, Vocabulary, numbers

_SPACE = "\u2581"
_BPE = 2
_BYTE_TEXT = re.compile(r"<0x([0-9A-F]{2})>")


class SentencePieceTokenizer(Tokenizer):
    """BPE by scores: of all adjacent pieces whose union is a piece, the best is joined first."""

    decode_errors = "edgellama.each_byte"

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises ModelFormatError if SentencePiece could not work with this vocabulary."""
        import sentencepiece

        defaults = {"bos_token_id": 1, "eos_token_id": 2}
        defaults = {key: id for key, id in defaults.items() if id < len(vocabulary.texts)}
        super().__init__(vocabulary, defaults, add_bos=True)
        self._dummy_prefix = vocabulary.flag("add_space_prefix", True)
        proto = _model_proto(vocabulary, self._dummy_prefix)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(proto)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())  # it may quote a piece that breaks the line
            raise ModelFormatError(
                f"tokenizer.ggml.tokens: SentencePiece refuses this vocabulary: {reason}"
            ) from None
        self._pieces = [text.replace(_SPACE, " ").encode() for text in vocabulary.texts]
        for id in vocabulary.ids_of_type(BYTE):
            self._pieces[id] = bytes.fromhex(vocabulary.texts[id][3:5])
        for id in vocabulary.ids_of_type(UNKNOWN):
            self._pieces[id] = " \u2047 ".encode()  # what SentencePiece shows for it
        texts = vocabulary.ids_of_type(NORMAL, USER_DEFINED, UNUSED)
        self._led_by_space = frozenset(id for id in texts if vocabulary.texts[id][0] == _SPACE)

    def token_id(self, text: str) -> int | None:
        id: int = self._processor.PieceToId(text)
        return id if self._processor.IdToPiece(id) == text else None

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = self._processor.EncodeAsIds(text)
        return ids

    def _piece(self, id: int) -> bytes:
        return self._pieces[id]

    def _first_piece(self, id: int) -> bytes:
        piece = self._pieces[id]
        return piece[1:] if self._dummy_prefix and id in self._led_by_space else piece


def _model_proto(vocabulary: Vocabulary, dummy_prefix: bool) -> bytes:
    """The serialized ModelProto. Raises ModelFormatError for what SentencePiece does not check."""
    texts = vocabulary.texts
    scores = np.asarray(numbers(vocabulary.metadata, "scores", len(texts)), np.float32)
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ModelFormatError(f"tokenizer.ggml.scores: the score of token {bad} is {scores[bad]}")
    for id, text in enumerate(texts):
        if "\0" in text or not text:
            raise ModelFormatError(
                f"tokenizer.ggml.tokens: token {id} is {text!r}, not a piece of text"
            )
    bytes_found = {texts[id] for id in vocabulary.ids_of_type(BYTE)}
    if bad_bytes := sorted(text for text in bytes_found if not _BYTE_TEXT.fullmatch(text)):
        raise ModelFormatError(
            f"tokenizer.ggml.tokens: {bad_bytes[0]!r} is typed as a byte (<0x00>)"
        )
    if len(bytes_found) not in (0, 256):
        raise ModelFormatError(
            f"tokenizer.ggml.tokens: {len(bytes_found)} byte tokens, expected all 256 or none"
        )
    out = bytearray()
    for text, score, type in zip(texts, scores.tolist(), vocabulary.types.tolist(), strict=True):
        piece = _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, type)
        out += _field(1, piece)
    trainer = _field(3, _BPE) + _field(4, len(texts)) + _field(35, len(bytes_found) == 256)
    normalizer = _field(1, b"identity") + _field(3, dummy_prefix) + _field(4, False)
    return bytes(out + _field(2, trainer) + _field(3, normalizer))


def _field(number: int, value: int | bytes) -> bytes:
    """One protobuf field: a varint, or bytes behind their length."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """SentencePiece shows one U+FFFD for every byte that is not UTF-8."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(SentencePieceTokenizer.decode_errors, _replace_each_byte)
