"""Answers as a model without taste would give them: any token that may follow, with a seed."""

import base64
from pathlib import Path

import numpy as np

from edgellama.grammar import Constraint, Grammar
from edgellama.tokenizer import Tokenizer, load_tokenizer

# What brings JSON to its end, the sooner the better; inside a string, a quote.
CLOSING = ("}", "]", ",", ":", '"', "0", "n", "[", "{")


def answer(
    grammar: Grammar,
    tokenizer: Tokenizer,
    seed: int,
    *,
    patience: int = 40,
    limit: int = 2000,
    continues: bool = False,
) -> list[int] | None:
    """The ids of an answer, without its stop id; None if it did not end within `limit` ids.

    After `patience` ids it ends as soon as it may, and says what closes rather than anything.
    """
    rng = np.random.default_rng(seed)
    constraint = grammar.start(tokenizer, tokenizer.stop_ids, continues=continues)
    stops = sorted(tokenizer.stop_ids)
    letter, quote = id_of(tokenizer, "x"), id_of(tokenizer, '"')
    closing = [id_of(tokenizer, text) for text in CLOSING]
    ids: list[int] = []
    while len(ids) < limit:
        allowed = may_follow(constraint, tokenizer)
        if allowed[stops].any() and (len(ids) >= patience or rng.random() < 0.2):
            constraint.accept(stops[0])
            return ids
        allowed[stops] = False
        if not allowed.any():
            constraint.accept(stops[0])
            return ids
        best: list[int] = []
        if len(ids) >= patience:
            best = [id for id in ([quote] if allowed[letter] else closing) if allowed[id]]
        # Not always, or a pattern might want something else for ever.
        id = best[0] if best and rng.random() < 0.9 else int(rng.choice(np.flatnonzero(allowed)))
        constraint.accept(id)
        ids.append(id)
    return None


def id_of(tokenizer: Tokenizer, text: str) -> int:
    """The token that says just `text`, one character."""
    for name in (text, f"<0x{ord(text):02X}>"):
        id = tokenizer.token_id(name)
        if id is not None and tokenizer.piece(id) == text.encode():
            return id
    raise AssertionError(text)


def may_follow(constraint: Constraint, tokenizer: Tokenizer) -> np.ndarray:
    """(vocab_size,) bool."""
    return constraint.mask(np.zeros(tokenizer.vocab_size, np.float32)) == 0


def llama3_tokenizer(path: Path, specials: tuple[str, ...]) -> Tokenizer:
    """The official vocabulary of Llama 3 with some control tokens behind it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    lines = path.read_bytes().splitlines()
    tokens = ["".join(alphabet[b] for b in base64.b64decode(line.split()[0])) for line in lines]
    return load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.tokens": [*tokens, *specials],
            "tokenizer.ggml.token_type": [1] * len(tokens) + [3] * len(specials),
        }
    )
