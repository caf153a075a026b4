"""Vocabulary: the tokenizer of a checkpoint as the keys `tokenizer.*` of GGUF.

Two kinds exist, told apart by their content and never by their name:

    "llama"  SentencePiece BPE of Llama 1, 2 and Code Llama: a piece, a score and a type per id,
             spaces written as U+2581, bytes that no piece covers as <0x00>..<0xFF>
    "gpt2"   byte-level BPE of Llama 3: tokens spelled in GPT-2's alphabet of printable bytes, and
             the list of merges

tokenizer_model.py reads `tokenizer.model` of both kinds, tokenizer_json.py Hugging Face's files.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgellama.errors import CheckpointRefused
from edgellama.gguf import WriteValue

# tokenizer.ggml.token_type of GGUF; SentencePiece numbers its types alike.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

MAX_TOKENS = 1 << 20

# Ids that are found by the token's text, whatever file it came from. First match wins.
_IDS_BY_TEXT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("eot", ("<|eot_id|>", "<|im_end|>", "▁<EOT>")),
    ("eom", ("<|eom_id|>",)),
    ("padding", ("<|finetune_right_pad_id|>",)),
    ("fim_pre", ("▁<PRE>",)),
    ("fim_suf", ("▁<SUF>",)),
    ("fim_mid", ("▁<MID>",)),
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every token by id, and the ids with a meaning."""

    model: str  # "llama" or "gpt2", as in tokenizer.ggml.model
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None  # of "llama"
    merges: list[str] | None = None  # of "gpt2": "left right"
    ids: dict[str, int] = field(default_factory=dict)  # "bos", "eos", "unknown", ... -> id
    add_bos: bool = True
    add_eos: bool = False
    add_space_prefix: bool | None = None  # of "llama"
    chat_template: str | None = None
    notes: tuple[str, ...] = ()

    def id_of(self, text: str) -> int | None:
        """The id of the token spelled `text`."""
        try:
            return self.tokens.index(text)
        except ValueError:
            return None

    def named_ids(self) -> dict[str, int]:
        """Every id with a meaning: those the tokenizer names and those known by their text."""
        ids = dict(self.ids)
        for name, texts in _IDS_BY_TEXT:
            found = [id for id in map(self.id_of, texts) if id is not None]
            if found and name not in ids:
                ids[name] = found[0]
        return ids

    def with_template(self, template: str | None) -> "Vocabulary":
        """With a chat template, and the end of a turn that it writes as an id that stops."""
        ids, types = dict(self.ids), list(self.types)
        for name, text in (("eos", "<|eot_id|>"), ("eot", "<step>")):
            id = self.id_of(text)
            if template is not None and text in template and id is not None:
                ids[name] = id
                types[id] = CONTROL  # what people write must not end their turn
        return replace(self, chat_template=template, ids=ids, types=types)

    def resized(self, n: int, path: Path) -> "Vocabulary":
        """Padded with unused tokens to the embedding's rows, which must not be fewer."""
        have = len(self.tokens)
        if have > n:
            raise CheckpointRefused(
                f"{path}: the tokenizer has {have:,} tokens, the embedding {n:,} rows: it is"
                " another model's, or a shard of this one is missing"
            )
        scores = None if self.scores is None else self.scores + [-10000.0] * (n - have)
        return replace(
            self,
            tokens=self.tokens + [f"[PAD{i}]" for i in range(have, n)],
            types=self.types + [UNUSED] * (n - have),
            scores=scores,
        )

    def metadata(self) -> dict[str, WriteValue]:
        """The keys `tokenizer.*` of GGUF."""
        keys: dict[str, WriteValue] = {
            "tokenizer.ggml.model": self.model,
            "tokenizer.ggml.pre": "default" if self.model == "llama" else "llama-bpe",
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": np.array(self.types, np.int32),
        }
        if self.scores is not None:
            keys["tokenizer.ggml.scores"] = np.array(self.scores, np.float32)
        if self.merges is not None:
            keys["tokenizer.ggml.merges"] = self.merges
        for name, id in self.named_ids().items():
            keys[f"tokenizer.ggml.{name}_token_id"] = id
        keys["tokenizer.ggml.add_bos_token"] = self.add_bos
        if self.add_eos:
            keys["tokenizer.ggml.add_eos_token"] = True
        if self.add_space_prefix is not None:
            keys["tokenizer.ggml.add_space_prefix"] = self.add_space_prefix
        if self.chat_template is not None:
            keys["tokenizer.chat_template"] = self.chat_template
        return keys


def check_tokens(tokens: Sequence[str], path: Path) -> None:
    """CheckpointRefused unless there are tokens, not too many, and each is there once."""
    if not 1 <= len(tokens) <= MAX_TOKENS:
        raise CheckpointRefused(f"{path}: {len(tokens):,} tokens, expected 1..{MAX_TOKENS:,}")
    if not is_unicode("".join(tokens)):
        raise CheckpointRefused(f"{path}: a token is not Unicode text")
    if len(set(tokens)) < len(tokens):
        (twice, _), *_ = Counter(tokens).most_common(1)
        raise CheckpointRefused(f"{path}: token {twice!a} is there twice")


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text; JSON can hold half a surrogate pair, which it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def gpt2_alphabet() -> list[str]:
    """The printable character that stands for each byte, by byte: GPT-2's `bytes_to_unicode`.

    Printable Latin-1 bytes stand for themselves, the others are numbered from U+0100 on.
    """
    itself = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = [byte for byte in range(256) if byte not in itself]
    return [chr(b if b in itself else 256 + others.index(b)) for b in range(256)]
