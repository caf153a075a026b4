"""What guessing ahead gains and costs: decoding with and without it, in turns.

    python speculation.py [MODEL.gguf] [--tokens 96] [--rounds 5] [--draft SMALL.gguf]

Two texts. In the one the model is made to say what stands in its prompt, by a link in the sampling
chain that likes those ids: every guess can come true. The other is what the model says freely:
what guesses gain there depends on the model, what they may cost does not.
"""

import argparse
import statistics

import numpy as np
from numpy.typing import NDArray

from edgellama import Llama
from edgellama.generate import Generation

TEXT = (
    "One warm morning a fox went to the meadow, and there it met a bird that had lost its nest. "
    "They looked under every tree, behind the school and at the beach, where an old turtle lay in "
    "the sun. 'High up,' said the turtle, 'where the wind sings.' So they climbed the hill. "
)


class Repeat:
    """A link of the chain that makes the model say these ids, one after the other."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids
        self._n = 0

    def __call__(self, ids: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        logits[ids == self._ids[self._n % len(self._ids)]] = 1e4
        self._n += 1
        return logits


def decode(llm: Llama, n: int, *, repeats: bool) -> Generation:
    """The tokens of one answer, of n tokens."""
    ids = llm.tokenize(TEXT, bos=llm.tokenizer.add_bos)
    bans = dict.fromkeys(llm.tokenizer.stop_ids, -np.inf)
    chain = (Repeat(ids[1:]), "temperature") if repeats else ("top_k", "temperature")
    generation = llm.generate(ids, max_tokens=n, samplers=chain, logit_bias=bans, seed=1)
    generation.read()
    return generation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="default: the one that ships")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draft", help="a smaller model of the same vocabulary")
    args = parser.parse_args()
    with (
        Llama(args.model, speculate=False, n_ctx=1024) as plain,
        Llama(args.model, draft=args.draft, n_ctx=1024) as guessing,
    ):
        for repeats, name in ((True, "repeats its prompt"), (False, "says what it likes")):
            ratios, rates = [], []
            for i in range(args.rounds + 1):  # who begins changes from round to round
                first, second = (guessing, plain) if i % 2 else (plain, guessing)
                one = decode(first, args.tokens, repeats=repeats)
                other = decode(second, args.tokens, repeats=repeats)
                ours, theirs = (one, other) if i % 2 else (other, one)
                pair = ours.timings.predicted_per_second, theirs.timings.predicted_per_second
                rates.append(pair)
                ratios.append(pair[0] / pair[1])
            timings = ours.timings
            with_, without = (statistics.median(r) for r in zip(*rates[1:], strict=True))
            print(
                f"{name}: {with_:.1f} / {without:.1f} tok/s, {statistics.median(ratios[1:]):.2f} x"
                f" (rounds {', '.join(f'{r:.2f}' for r in ratios[1:])});"
                f" {timings.draft_accepted_n} of {timings.draft_n} guesses came true"
            )


if __name__ == "__main__":
    main()
