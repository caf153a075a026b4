"""Penalties: counts that follow the text, and DRY against a search by hand."""

from array import array
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.gguf import GGUFFile
from edgellama.sampling import Candidates, SamplingParams, penalize
from edgellama.sampling.dry import LONGEST, Breakers, dry, find_repeats
from edgellama.sampling.memory import Memory
from edgellama.sampling.penalties import Window
from edgellama.tokenizer import load_tokenizer

TINY = Path(__file__).parents[1] / "edgellama" / "models" / "tiny.gguf"

IDS = st.lists(st.integers(0, 3), max_size=30)
COMMON = settings(max_examples=100, deadline=None, derandomize=True)


def candidates_of(*logits: float) -> Candidates:
    return Candidates(np.arange(len(logits)), np.array(logits, np.float32))


def test_presence_is_taken_off_once_and_frequency_each_time() -> None:
    counts = {0: 3, 2: 1}
    once = penalize(candidates_of(5, 5, 5), counts, presence=0.5)
    assert once.logits.tolist() == [4.5, 5, 4.5]
    each = penalize(candidates_of(5, 5, 5), counts, frequency=0.5)
    assert each.logits.tolist() == [3.5, 5, 4.5]


def test_penalties_find_their_tokens_among_candidates_in_any_order() -> None:
    few = Candidates(np.array([9, 4, 7]), np.array([1, 2, 3], np.float32))
    after = penalize(few, {4: 1, 5: 1, 100: 1, 9: 2}, frequency=1.0)
    assert after.ids.tolist() == [9, 4, 7]
    assert after.logits.tolist() == [-1, 1, 3]


@COMMON
@given(IDS, st.integers(-1, 6), st.lists(st.sampled_from([0, 1, 2, 3, None]), max_size=30))
def test_a_window_counts_the_last_n_whatever_comes_and_goes(
    prompt: list[int], n: int, changes: list[int | None]
) -> None:
    seen = array("q", prompt)
    window = Window(seen, n)
    for change in changes:
        if change is not None:
            seen.append(change)
            window.grow()
        elif seen:
            window.shrink()
            seen.pop()
        expected = seen.tolist() if n < 0 else seen.tolist()[max(0, len(seen) - n) :]
        assert window.counts == Counter(expected)


def repeats_by_hand(seen: list[int], shortest: int) -> dict[int, int]:
    """For each earlier place: how much of the end stands before it, and what follows there."""
    found: dict[int, int] = {}
    for place in range(1, len(seen)):
        before = seen[:place]
        n = 0
        while n < len(before) and before[-1 - n] == seen[-1 - n]:
            n += 1
        if n >= shortest:
            found[seen[place]] = max(n, found.get(seen[place], 0))
    return found


@COMMON
@given(IDS, st.integers(1, 4))
def test_repeats_are_what_a_search_by_hand_finds(seen: list[int], shortest: int) -> None:
    assert find_repeats(np.array(seen, np.int64), shortest) == repeats_by_hand(seen, shortest)


def test_a_repeat_is_measured_up_to_a_limit() -> None:
    assert find_repeats(np.zeros(2000, np.int64), 2) == {0: LONGEST}


def test_dry_costs_more_the_longer_the_repeat() -> None:
    after = dry(candidates_of(0, 0, 0, 0), {1: 2, 3: 5}, 0.8, 1.75, 2)
    np.testing.assert_allclose(after.logits, [0, -0.8, 0, -0.8 * 1.75**3], rtol=1e-6)


def test_dry_stays_finite_for_the_longest_repeat() -> None:
    after = dry(candidates_of(0, 0), {1: LONGEST}, 100.0, 100.0, 1)
    assert after.logits.tolist() == [0, -1e6]


PIECES = [b"a", b"b", b": ", b"\n\n", b"t:", b" t", b"x<", b"br", b">y"]


@pytest.mark.parametrize(
    ("texts", "seen", "expected"),
    [
        ((":",), [0, 2, 0, 1], 2),  # inside a token
        ((":",), [0, 2], 0),
        ((":", "\n"), [3, 0, 2, 1, 0], 2),  # the last of several
        (("z",), [0, 1, 0], 3),  # none
        (("t: t",), [0, 4, 5, 1], 1),  # over two tokens: only what is behind both counts
        (("<br>",), [6, 7, 8, 0, 1], 2),  # over three
        (("<br>",), [6, 7, 0, 8], 4),  # interrupted
        (("<", "<br>"), [6, 7, 8, 0], 1),  # the longer of two that begin alike ends later
        ((), [0, 1], 2),
    ],
)
def test_a_breaker_is_found_wherever_tokens_end(
    texts: tuple[str, ...], seen: list[int], expected: int
) -> None:
    breakers = Breakers(texts, PIECES.__getitem__)
    assert breakers.tokens_since(seen) == expected


def test_a_breaker_that_begins_before_a_repeat_cuts_it() -> None:
    tokenizer = load_tokenizer(GGUFFile(TINY).metadata)
    begin = "One day, the cat sat. One night, the"
    seen = tokenizer.encode(begin + " cat sat")
    longest = {}
    for breaker in ("zebra", "night, the"):
        params = SamplingParams(dry_multiplier=1, dry_sequence_breakers=[breaker])
        longest[breaker] = max(Memory(params, seen, tokenizer).repeats().values())
    behind = len(seen) - len(tokenizer.encode(begin))
    assert longest["zebra"] > longest["night, the"] == behind
