"""tokenizer.model: the vocabulary as Meta ships it, a SentencePiece model or a tiktoken file.

SentencePiece  a protobuf message: pieces (text, score, type), trainer and normalizer settings
               https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
tiktoken       a line "base64 rank" for each token; the special tokens that follow are not in it
"""

import base64
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from edgellama.errors import CheckpointRefused

from .vocabulary import BYTE, CONTROL, MAX_TOKENS, NORMAL, Vocabulary, check_tokens, gpt2_alphabet

MAX_BYTES = 64 << 20  # the largest official one has 2.2 MB

# Field numbers of sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3  # of a piece
_MODEL_TYPE, _UNK_ID, _BOS_ID, _EOS_ID, _PAD_ID = 3, 40, 41, 42, 43  # of the trainer
_RULE_NAME, _ADD_DUMMY_PREFIX, _REMOVE_EXTRA_WHITESPACES = 1, 3, 4  # of the normalizer
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}

_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")


def read_tokenizer_model(path: Path, special_tokens: Sequence[str]) -> Vocabulary:
    """The vocabulary of a `tokenizer.model` of either kind, told apart by its content.

    `special_tokens` take the ids behind a tiktoken file's ranks. Raises CheckpointRefused for a
    file that is neither, or damaged.
    """
    data = _read(path)
    try:
        if _TIKTOKEN_LINE.match(data):
            return _read_tiktoken(data, special_tokens, path)
        return _read_sentencepiece(data, path)
    except (ValueError, struct.error) as error:
        raise CheckpointRefused(f"{path}: not a tokenizer, or damaged: {error}") from error


def is_tiktoken(path: Path) -> bool:
    """Whether a `tokenizer.model` is Llama 3's kind."""
    return _TIKTOKEN_LINE.match(_read(path)) is not None


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointRefused(f"{path}: {path.stat().st_size:,} bytes are no tokenizer")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointRefused(f"{path}: cannot be read: {error.strerror}") from error


def _read_tiktoken(data: bytes, special_tokens: Sequence[str], path: Path) -> Vocabulary:
    """Ids are ranks; <|begin_of_text|> and <|end_of_text|> are the first specials."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        match line.split():
            case [text, rank] if rank.isdigit():
                token = base64.b64decode(text, validate=True)
                if not token or token in ranks or int(rank) != len(ranks):
                    raise ValueError(f"line {number}: token {token!r} or rank {int(rank)} is wrong")
                ranks[token] = len(ranks)
            case []:
                continue
            case _:
                raise ValueError(f"line {number} is not 'base64 rank'")
    alphabet = gpt2_alphabet()
    spelled = ["".join(alphabet[byte] for byte in token) for token in ranks]
    tokens = spelled + list(special_tokens)
    check_tokens(tokens, path)
    merges = [
        f"{spelled[left]} {spelled[right]}"
        for token in ranks
        for left, right in sorted(_splits(token, ranks))
    ]
    return Vocabulary(
        model="gpt2",
        tokens=tokens,
        types=[NORMAL] * len(ranks) + [CONTROL] * len(special_tokens),
        merges=merges,
        ids={"bos": len(ranks), "eos": len(ranks) + 1},
    )


def _splits(token: bytes, ranks: dict[bytes, int]) -> list[tuple[int, int]]:
    """Every pair of tokens, as ranks, that makes this one: what `merges` lists for it."""
    pairs = ((ranks.get(token[:i]), ranks.get(token[i:])) for i in range(1, len(token)))
    return [(left, right) for left, right in pairs if left is not None and right is not None]


def _read_sentencepiece(data: bytes, path: Path) -> Vocabulary:
    model = _fields(data)
    pieces = [_piece(piece) for piece in _messages(model, _PIECES)]
    trainer = _fields(_bytes(model, _TRAINER, b""))
    normalizer = _fields(_bytes(model, _NORMALIZER, b""))
    tokens = [text for text, _, _ in pieces]
    check_tokens(tokens, path)
    kind = _int(trainer, _MODEL_TYPE, 1)
    if kind != 2:
        raise CheckpointRefused(
            f"{path}: a SentencePiece model of type {_MODEL_TYPES.get(kind, kind)}; Llama's are bpe"
        )
    ids = {
        "bos": _int(trainer, _BOS_ID, 1),
        "eos": _int(trainer, _EOS_ID, 2),
        "unknown": _int(trainer, _UNK_ID, 0),
        "padding": _int(trainer, _PAD_ID, -1),
    }
    if any(id >= len(tokens) for id in ids.values()):
        raise ValueError(f"a special id of {ids} is outside its {len(tokens):,} pieces")
    return Vocabulary(
        model="llama",
        tokens=tokens,
        types=[type for _, _, type in pieces],
        scores=[score for _, score, _ in pieces],
        ids={name: id for name, id in ids.items() if id >= 0},
        add_space_prefix=bool(_int(normalizer, _ADD_DUMMY_PREFIX, 1)),
        notes=_normalizer_note(normalizer, path),
    )


def _normalizer_note(normalizer: "_Message", path: Path) -> tuple[str, ...]:
    """A line for the user when the model rewrites text before cutting it, as no Llama's does."""
    rule = _bytes(normalizer, _RULE_NAME, b"identity").decode()
    trims = bool(_int(normalizer, _REMOVE_EXTRA_WHITESPACES, 1))
    if rule == "identity" and not trims:
        return ()
    return (
        f"{path.name} rewrites text before cutting it (rule {rule!r}, extra spaces"
        f" {'removed' if trims else 'kept'}), which GGUF cannot say: such text gets other tokens",
    )


# Protobuf's wire format: https://protobuf.dev/programming-guides/encoding

_Message = dict[int, list[int | bytes]]  # field number -> its values in order


def _piece(data: bytes) -> tuple[str, float, int]:
    """(text, score, type) of one piece."""
    fields = _fields(data)
    text = _bytes(fields, _TEXT, b"").decode()
    (score,) = struct.unpack("<f", _bytes(fields, _SCORE, bytes(4)))
    type = _int(fields, _TYPE, NORMAL)
    if not text or not math.isfinite(score) or not NORMAL <= type <= BYTE:
        raise ValueError(f"piece {text!a} has score {score} and type {type}")
    return text, score, type


def _fields(data: bytes) -> _Message:
    """The fields of a message: varints as int, everything else as its bytes."""
    fields: _Message = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        else:
            if wire == 2:
                size, at = _varint(data, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f"byte {at}: wire type {wire} does not exist")
            value = data[at : at + size]
            at += size
            if at > len(data):
                raise ValueError("it ends in the middle of a field")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, position behind it) of a base-128 number, two's complement in 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value - (1 << 64) if value >> 63 else value, at
    raise ValueError(f"byte {at}: a number of more than 10 bytes")


def _messages(message: _Message, number: int) -> list[bytes]:
    values = [value for value in message.get(number, []) if isinstance(value, bytes)]
    if len(values) != len(message.get(number, [])) or len(values) > MAX_TOKENS:
        raise ValueError(f"field {number} is not a list of messages")
    return values


def _bytes(message: _Message, number: int, default: bytes) -> bytes:
    """The last value of a field, which the format says counts."""
    value = message.get(number, [default])[-1]
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is a number, expected bytes")
    return value


def _int(message: _Message, number: int, default: int) -> int:
    value = message.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is of bytes, expected a number")
    return value
