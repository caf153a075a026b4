"""Measure the tiny model on held-out text: `python evaluate.py OUT --gguf tiny.gguf`.

In float32 with torch from OUT/checkpoint.pt, and as shipped with edgellama: perplexity of whole
documents, and how many questions about unseen stories are answered word for word.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from chats import Message
from grammar import fill, make_story
from model import TinyConfig, TinyLlama
from numpy.typing import NDArray
from stories import SKELETONS
from tokenizer import TinyTokenizer, documents

from edgellama import Llama

HELD_OUT_SEED = 2026
Logits = Callable[[Sequence[int]], NDArray[np.float32]]  # ids (n,) to logits (n, vocab_size)


def main() -> None:
    parser = argparse.ArgumentParser(description="held-out figures of the tiny model")
    parser.add_argument("out", type=Path, help="folder with checkpoint.pt and tokenizer.model")
    parser.add_argument("--gguf", type=Path, help="the converted file, to measure as shipped")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--questions", type=int, default=200)
    args = parser.parse_args()
    tokenizer = TinyTokenizer(args.out / "tokenizer.model")
    texts = list(itertools.islice(documents(tokenizer, HELD_OUT_SEED, train=False), args.documents))
    print(f"{len(texts)} held-out documents, {sum(map(len, texts)):,} tokens")
    print(f"float32: perplexity {perplexity(torch_logits(args.out), texts):.4f}")
    if args.gguf:
        with Llama(args.gguf) as llm:
            print(f"{args.gguf.name}: perplexity {perplexity(llm.logits, texts):.4f}")
            right, wrong = ask(llm, args.questions)
        print(f"{args.gguf.name}: {right} of {args.questions} questions answered word for word")
        for question, expected, answered in wrong[:10]:
            print(f"  {question}\n    expected: {expected}\n    answered: {answered}")


def torch_logits(out: Path) -> Logits:
    """The trained model in float32."""
    model = TinyLlama(TinyConfig())
    model.load_state_dict(torch.load(out / "checkpoint.pt")["model"])

    @torch.no_grad()
    def logits(ids: Sequence[int]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = model(torch.tensor([ids]))[0].numpy()
        return result

    return logits


def perplexity(logits: Logits, texts: Sequence[Sequence[int]]) -> float:
    """exp of the mean surprise of every token but the first of each text."""
    surprise, n = 0.0, 0
    for ids in texts:
        z = logits(ids[:-1]).astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(z).sum(axis=1))
        surprise += float((log_sum - z[np.arange(len(z)), ids[1:]]).sum())
        n += len(z)
    return math.exp(surprise / n)


def ask(llm: Llama, n: int) -> tuple[int, list[tuple[str, str, str]]]:
    """Ask one question each about n held-out stories; right answers, and the wrong ones.

    Any of the wordings that the grammar has for the answer is right.
    """
    rng = random.Random(HELD_OUT_SEED)
    wrong = []
    for _ in range(n):
        story = make_story(rng, SKELETONS, train=False)
        ask, say = rng.choice(story.skeleton.questions)
        question = fill(rng, ask, story.facts)
        messages: list[Message] = [{"role": "user", "content": f"{story.text}\n\n{question}"}]
        answered = llm.chat(messages, max_tokens=64, temperature=0.0).text
        expected = {fill(rng, (wording,), story.facts) for wording in say}
        if answered not in expected:
            wrong.append((question, " / ".join(sorted(expected)), answered))
    return n - len(wrong), wrong


if __name__ == "__main__":
    main()
