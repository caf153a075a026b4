"""Text <-> token ids, rebuilt from a GGUF file's own vocabulary.

Two families, one interface:
    tokenizer.ggml.model "llama"   SentencePiece BPE: pieces, scores, bytes    tokenizer_spm.py
    tokenizer.ggml.model "gpt2"    byte-level BPE, as tiktoken does it         tokenizer_bpe.py

Every token has a type. A control token (<s>, <|eot_id|>) steers the model and is no text: it
decodes to nothing, and text never encodes to it unless the caller says `special=True`.
"""

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest, ModelFormatError
from .gguf import StringArray

# Token types, as GGUF and SentencePiece number them.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# The ids that end an answer, by their key and, for files without the key, by their text.
_STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_STOP_TEXTS = ("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")
_FIM_KEYS = ("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id")
_CONTROL_KEYS = (*_STOP_KEYS, "bos_token_id", "padding_token_id", *_FIM_KEYS)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a file says of its tokens, checked; a token's id is its place in `texts`."""

    texts: Sequence[str]
    types: npt.NDArray[np.int32]  # (vocab_size,)
    named: dict[str, int]  # the tokenizer.ggml.*_token_id keys that are there: "bos_token_id": 1
    metadata: Mapping[str, Any]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Vocabulary":
        """Raises ModelFormatError naming the key that is missing or cannot be right."""
        tokens = _get(metadata, "tokens", Sequence)
        if tokens is None or len(tokens) == 0 or isinstance(tokens, str):
            raise ModelFormatError("tokenizer.ggml.tokens: the file holds no vocabulary")
        texts = tokens if isinstance(tokens, StringArray) else list(tokens)
        if isinstance(texts, list) and set(map(type, texts)) != {str}:
            raise ModelFormatError("tokenizer.ggml.tokens: expected an array of strings")
        types = np.array(numbers(metadata, "token_type", len(texts)), np.int32)
        if ((types < NORMAL) | (types > BYTE)).any():
            bad = int(np.flatnonzero((types < NORMAL) | (types > BYTE))[0])
            raise ModelFormatError(
                f"tokenizer.ggml.token_type: token {bad} is of type {types[bad]}, expected 1 to 6"
            )
        named = {
            key: _token_id(metadata, key, len(texts))
            for key in _CONTROL_KEYS
            if metadata.get(f"tokenizer.ggml.{key}") is not None
        }
        # Some vocabularies type these as text (Code Llama's ▁<EOT>), but they steer the model.
        for key in _CONTROL_KEYS:
            id = named.get(key)
            if id is None:
                continue
            if types[id] in (NORMAL, USER_DEFINED) and re.fullmatch("▁?<.+>", texts[id]):
                types[id] = CONTROL
        return cls(texts, types, named, metadata)

    def joined(self) -> tuple[str, npt.NDArray[np.int64]]:
        """All texts as one, and where in it each of them ends."""
        if isinstance(self.texts, StringArray):
            return self.texts.joined()
        return "".join(self.texts), np.cumsum([len(text) for text in self.texts])

    def ids_of_type(self, *types: int) -> list[int]:
        ids: list[int] = np.flatnonzero(np.isin(self.types, types)).tolist()
        return ids

    def flag(self, key: str, default: bool) -> bool:
        """The truth of tokenizer.ggml.{key}."""
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        return default if value is None else bool(value)


class Tokenizer(ABC):
    """Encodes and decodes with one vocabulary. Safe to share between threads."""

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    stop_ids: frozenset[int]  # an answer ends at any of them
    add_bos: bool  # whether the file wants a prompt to begin with bos_id
    chat_template: str | None  # Jinja source, as the file brings it

    # How bytes that are not UTF-8 become U+FFFD; see StreamDecoder.
    decode_errors = "replace"

    def __init__(self, vocabulary: Vocabulary, defaults: Mapping[str, int], add_bos: bool) -> None:
        """defaults: the family's ids for the keys that the file leaves out."""
        control = {vocabulary.texts[id]: id for id in reversed(vocabulary.ids_of_type(CONTROL))}
        # One of a single character could not be told from text, so it cannot be written in one.
        self._control = {text: id for text, id in control.items() if len(text) > 1}
        self._control_ids = frozenset(vocabulary.ids_of_type(CONTROL))
        self.vocab_size = len(vocabulary.texts)
        named = {**defaults, **vocabulary.named}
        self.bos_id = named.get("bos_token_id")
        self.eos_id = named.get("eos_token_id")
        stops = {named[key] for key in _STOP_KEYS if key in named}
        stops.update(self._control[text] for text in _STOP_TEXTS if text in self._control)
        self.stop_ids = frozenset(stops)
        self.add_bos = self.bos_id is not None and vocabulary.flag("add_bos_token", add_bos)
        template = vocabulary.metadata.get("tokenizer.chat_template")
        self.chat_template = template if isinstance(template, str) and template.strip() else None

    def encode(self, text: str, *, bos: bool = False, special: bool = False) -> list[int]:
        """The token ids of `text`, with bos_id in front if `bos`.

        Control tokens written in the text are parsed only if `special`; otherwise `<|eot_id|>` is
        nine characters like any others. Raises InvalidRequest for a str with lone surrogates, which
        no bytes can spell, and for `bos` where the vocabulary has none.
        """
        check_text(text)
        ids: list[int] = []
        if bos:
            if self.bos_id is None:
                raise InvalidRequest("this vocabulary has no beginning-of-sequence token")
            ids.append(self.bos_id)
        for run in self.split(text) if special else [text]:
            if isinstance(run, int):
                ids.append(run)
            else:
                ids.extend(self._encode_text(run))
        return ids

    def split(self, text: str) -> list[str | int]:
        """`text` cut at the control tokens written in it: runs of text, and ids between them."""
        if self._control_pattern is None:
            return [text]
        runs = self._control_pattern.split(text)
        return [self._control[run] if i % 2 else run for i, run in enumerate(runs) if run]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`. Control tokens decode to "", bytes that are not UTF-8 to U+FFFD.

        Raises InvalidRequest for an id outside the vocabulary.
        """
        stream = self.stream()
        return "".join([stream.push(id) for id in ids]) + stream.flush()

    def stream(self) -> "StreamDecoder":
        """A decoder for tokens that arrive one by one."""
        return StreamDecoder(self)

    def is_control(self, id: int) -> bool:
        return id in self._control_ids

    def piece(self, id: int) -> bytes:
        """The bytes that token `id` stands for; of a control token, its name.

        Raises InvalidRequest for an id outside the vocabulary.
        """
        if not 0 <= id < self.vocab_size:
            raise InvalidRequest(f"token id {id}: the vocabulary holds 0 to {self.vocab_size - 1}")
        return self._piece(id)

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Ids by text of the control tokens that `special` and `split` find."""
        return self._control

    @abstractmethod
    def token_id(self, text: str) -> int | None:
        """The id of the token that the vocabulary writes as `text`: "▁the", "<0x0A>", "<s>"."""

    @abstractmethod
    def _encode_text(self, text: str) -> list[int]:
        """The ids of a text that holds no control token, whatever it looks like."""

    @abstractmethod
    def _piece(self, id: int) -> bytes: ...

    def _first_piece(self, id: int) -> bytes:
        """The bytes of `id` where it is the first text of a sequence."""
        return self._piece(id)

    @cached_property
    def _control_pattern(self) -> re.Pattern[str] | None:
        # Longest first, so that a token is never taken for a shorter one that it begins with.
        texts = sorted(self._control, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None


class StreamDecoder:
    """Turns ids into text as they come, holding back the bytes of a character until it is whole.

    The pushes and the flush joined are what Tokenizer.decode says of all ids together.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(tokenizer.decode_errors)
        self._at_start = True

    def push(self, id: int) -> str:
        """The text that `id` completes, often "" inside a character that takes several tokens."""
        data = self._tokenizer.piece(id)
        if self._tokenizer.is_control(id):
            return self.flush()  # the text before it has ended, whole or not
        if self._at_start and data:
            data = self._tokenizer._first_piece(id)
            self._at_start = False
        return self._utf8.decode(data)

    def flush(self) -> str:
        """What is still held back: "" or, for a character that never became whole, U+FFFD."""
        return self._utf8.decode(b"", final=True)


def load_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes.

    Raises ModelFormatError if the vocabulary is damaged or of a kind that edgellama does not know.
    """
    model = metadata.get("tokenizer.ggml.model")
    vocabulary = Vocabulary.from_metadata(metadata)
    if model == "llama":
        from .tokenizer_spm import SentencePieceTokenizer

        return SentencePieceTokenizer(vocabulary)
    if model == "gpt2":
        from .tokenizer_bpe import BPETokenizer

        return BPETokenizer(vocabulary)
    raise ModelFormatError(
        f"tokenizer.ggml.model: {model!r} is not known; "
        'expected "llama" (SentencePiece) or "gpt2" (byte-level BPE)'
    )


def check_text(text: str) -> None:
    """Raises InvalidRequest for what is not a str, or not encodable as UTF-8."""
    if not isinstance(text, str):
        raise InvalidRequest(f"expected text (str), found {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"character {error.start} is the lone surrogate {text[error.start]!a}; "
            "the text was damaged where it was decoded"
        ) from None


def numbers(metadata: Mapping[str, Any], key: str, count: int) -> npt.NDArray[Any]:
    """tokenizer.ggml.{key}: one number for each token."""
    values = metadata.get(f"tokenizer.ggml.{key}")
    array = np.asarray(values if values is not None else [])
    if array.dtype.kind not in "iuf" or array.shape != (count,):
        found = f"{len(array):,}" if array.ndim == 1 else "something else"
        raise ModelFormatError(f"tokenizer.ggml.{key}: expected {count:,} numbers, found {found}")
    return array


def _get(metadata: Mapping[str, Any], key: str, kind: type) -> Any:
    value = metadata.get(f"tokenizer.ggml.{key}")
    return value if isinstance(value, kind) else None


def _token_id(metadata: Mapping[str, Any], key: str, vocab_size: int) -> int:
    id = metadata[f"tokenizer.ggml.{key}"]
    if not isinstance(id, int | np.integer) or not 0 <= id < vocab_size:
        raise ModelFormatError(
            f"tokenizer.ggml.{key}: {id!r} is not an id of this vocabulary (0 to {vocab_size - 1})"
        )
    return int(id)
