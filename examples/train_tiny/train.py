"""Train the tiny model: `python train.py OUT --minutes 45`.

Writes OUT/tokenizer.model, and OUT/checkpoint.pt every few minutes and at the end. The learning
rate follows the share of the time (or of --steps) that is used, so that the run ends by itself and
well. Run again to go on from the checkpoint. Text is never repeated: the grammar makes it as fast
as it is read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

# Threads that wait without spinning: on a busy machine training is several times as fast.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.nn.functional as F
from model import TinyConfig, TinyLlama
from muon import Muon
from tokenizer import TinyTokenizer, documents, train_tokenizer
from torch import Tensor

MUON_RATE, ADAM_RATE, WARMUP = 0.02, 3e-3, 0.02
# From this share of the time on, sequences are long: cheap lessons first, then whole chats.
LENGTHS = ((0.0, 8, 256), (0.55, 8, 512), (0.9, 4, 1024))  # share, batch, tokens
HELD_OUT_SEED = 1_000_003
SAVE_EVERY_S = 120.0
LONGEST_STEP_S = 30.0  # what is longer was a pause of the machine and does not count


def main() -> None:
    parser = argparse.ArgumentParser(description="train the tiny model that ships with edgellama")
    parser.add_argument("out", type=Path, help="folder of the tokenizer and the checkpoint")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--steps", type=int, help="end after so many steps, whatever the time")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    vocabulary = args.out / "tokenizer.model"
    if not vocabulary.exists():
        train_tokenizer(vocabulary, seed=args.seed)
    tokenizer = TinyTokenizer(vocabulary)
    model = TinyLlama(TinyConfig())
    train(model, tokenizer, args.out / "checkpoint.pt", args)


def train(
    model: TinyLlama, tokenizer: TinyTokenizer, checkpoint: Path, args: argparse.Namespace
) -> None:
    """Train from the checkpoint, or from the beginning, to the end of the time."""
    optimizers = make_optimizers(model)
    step, tokens_seen, spent_s, saved_s = 0, 0, 0.0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, tokens_seen, spent_s = state["step"], state["tokens_seen"], state["spent_s"]
        saved_s = spent_s
    stream = token_stream(tokenizer, args.seed + step)  # a resumed run reads other text
    done = False
    began = time.monotonic()
    while not done:
        used = step / args.steps if args.steps else spent_s / (args.minutes * 60)
        for optimizer, peak in zip(optimizers, (MUON_RATE, ADAM_RATE), strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate(used)
        ids = next_batch(stream, used)
        loss = language_loss(model, ids)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        tokens_seen += ids[:, 1:].numel()
        now = time.monotonic()
        spent_s += min(now - began, LONGEST_STEP_S)
        began = now
        done = step == args.steps if args.steps else spent_s >= args.minutes * 60
        if step % 25 == 0 or done:
            row = {"step": step, "tokens": tokens_seen, "minutes": round(spent_s / 60, 2)}
            print(json.dumps({**row, "loss": round(loss.item(), 4)}), flush=True)
        if done or spent_s - saved_s > SAVE_EVERY_S:
            saved_s = spent_s
            held_out_loss = evaluate(model, tokenizer)
            print(json.dumps({"step": step, "held_out_loss": round(held_out_loss, 4)}), flush=True)
            state = {"step": step, "tokens_seen": tokens_seen, "spent_s": spent_s}
            state |= {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
            }
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)


def make_optimizers(model: TinyLlama) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embedding and norms."""
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    others = [model.token_embd.weight, *(p for p in model.parameters() if p.ndim == 1)]
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [Muon(matrices, lr=MUON_RATE), adam]


def learning_rate(used: float) -> float:
    """Linear warm-up, then a cosine down to 3 %; `used` is the share of the run behind us."""
    if used < WARMUP:
        return (used + 1e-3) / (WARMUP + 1e-3)
    turn = math.pi * min(1.0, (used - WARMUP) / (1 - WARMUP))
    return 0.03 + 0.97 * (1 + math.cos(turn)) / 2


def token_stream(tokenizer: TinyTokenizer, seed: int, *, train: bool = True) -> Iterator[int]:
    """The documents' tokens, end to end."""
    for document in documents(tokenizer, seed, train=train):
        yield from document


def next_batch(stream: Iterator[int], used: float) -> Tensor:
    """(batch, n + 1) ids: the input and, one further, what to predict."""
    _, rows, n = max(length for length in LENGTHS if length[0] <= used)
    return torch.tensor([[next(stream) for _ in range(n + 1)] for _ in range(rows)])


def language_loss(model: TinyLlama, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats."""
    logits = model(ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: TinyLlama, tokenizer: TinyTokenizer) -> float:
    """Loss on 16 x 512 held-out tokens."""
    stream = token_stream(tokenizer, HELD_OUT_SEED, train=False)
    ids = torch.tensor([[next(stream) for _ in range(513)] for _ in range(16)])
    return language_loss(model, ids).item()


if __name__ == "__main__":
    main()
