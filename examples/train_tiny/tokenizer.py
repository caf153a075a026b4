"""The tiny model's tokenizer: SentencePiece BPE with byte fallback, and chats as token ids.

A chat is Llama 3's: each turn is a header with the role, two newlines, the content, <|eot_id|>.
Every segment of text is encoded on its own, in training as at inference.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece
from chats import Message, make_chat, make_document

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
START_HEADER, END_HEADER, END_OF_TURN = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
VOCAB_SIZE = 1536


def train_tokenizer(path: Path, *, seed: int, n_texts: int = 20_000) -> None:
    """Learn the pieces from generated text, and write `path` (tokenizer.model)."""
    rng = random.Random(seed)
    texts = (m["content"] for _ in range(n_texts) for m in make_chat(rng, train=True))
    # A newline is no piece: it falls back to its byte, as in the official vocabularies.
    lines = (line for text in texts for line in text.split("\n") if line)
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=file,
            model_type="bpe",
            vocab_size=VOCAB_SIZE,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            character_coverage=1.0,
            required_chars="".join(map(chr, range(33, 127))),
            bos_piece=BOS,
            eos_piece=EOS,
            control_symbols=[START_HEADER, END_HEADER, END_OF_TURN],
            num_threads=1,
            minloglevel=2,
        )


class TinyTokenizer:
    """Text, stories and chats to token ids."""

    def __init__(self, path: Path) -> None:
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        control = (BOS, EOS, START_HEADER, END_HEADER, END_OF_TURN)
        self.bos, self.eos, self.start_header, self.end_header, self.end_of_turn = (
            self.processor.piece_to_id(piece) for piece in control
        )

    def encode(self, text: str) -> list[int]:
        return self.processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.processor.decode(list(ids))

    def header(self, role: str) -> list[int]:
        """The ids with which a turn of this role opens."""
        head = [self.start_header, *self.encode(role), self.end_header]
        return head + self.encode("\n\n")

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """A whole chat, from the beginning of text to the last end of turn."""
        ids = [self.bos]
        for message in messages:
            ids += [*self.header(message["role"]), *self.encode(message["content"])]
            ids.append(self.end_of_turn)
        return ids

    def document(self, document: str | Sequence[Message]) -> list[int]:
        """A chat, or a plain text between begin and end of text."""
        if isinstance(document, str):
            return [self.bos, *self.encode(document), self.eos]
        return self.chat(document)


def documents(tokenizer: TinyTokenizer, seed: int, *, train: bool) -> Iterator[list[int]]:
    """Endless fresh documents of one split."""
    rng = random.Random(seed)
    while True:
        yield tokenizer.document(make_document(rng, train=train))
