"""Guessing ahead: it changes no answer, and it is given up where it does not pay."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from edgellama import InvalidRequest, Llama
from edgellama.speculation import Costs, PromptLookup, Speculation

ANIMALS = ("fox", "cat", "dog", "bear", "bird", "mouse", "frog", "hen", "cow", "pig")
THINGS = (
    "Tell me a story about a {}.",
    "Where did the {} go?",
    "Repeat after me: the {} ran, the {} ran, the {} ran, the {} ran,",
    "Who is the {}?",
)
PROMPTS = [
    f"{thing.format(*[animal] * 4)}{end}"
    for thing in THINGS
    for animal in ANIMALS
    for end in ("", " Be brief.", " Why?", " And then?", " Once more!")
]


@pytest.fixture(scope="module")
def plain() -> Iterator[Llama]:
    with Llama(speculate=False) as llm:
        yield llm


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guess whenever there is anything to guess from, whether it pays or not."""
    monkeypatch.setattr(Speculation, "_best_number", lambda self, most: most)


def answer(llm: Llama, prompt: str, **options: object):
    return llm.chat([{"role": "user", "content": prompt}], **({"max_tokens": 24} | options))


def test_greedy_text_is_the_same_with_guesses_on_200_prompts(plain: Llama, eager: None) -> None:
    assert len(PROMPTS) == 200
    n_guessed = n_right = 0
    with Llama() as guessing:
        for prompt in PROMPTS:
            ours = answer(guessing, prompt, temperature=0.0)
            assert ours.tokens == answer(plain, prompt, temperature=0.0).tokens
            n_guessed += ours.timings.draft_n
            n_right += ours.timings.draft_accepted_n
    assert 100 < n_right < n_guessed  # both cases were met often


def test_sampled_text_of_a_seed_is_the_same_with_guesses(plain: Llama, eager: None) -> None:
    with Llama() as guessing:
        for seed, prompt in enumerate(PROMPTS[::10]):
            for options in ({}, {"mirostat": 2}, {"repeat_penalty": 1.3}, {"stop": ["."]}):
                ours = answer(guessing, prompt, seed=seed, **options)
                theirs = answer(plain, prompt, seed=seed, **options)
                assert (ours.tokens, ours.text) == (theirs.tokens, theirs.text)


def test_a_draft_model_that_is_the_model_is_always_right(plain: Llama, eager: None) -> None:
    with Llama(draft=plain.path) as guessing:
        for prompt in PROMPTS[:10]:
            ours = answer(guessing, prompt, temperature=0.0)
            assert ours.tokens == answer(plain, prompt, temperature=0.0).tokens
            # The last guesses may lie behind the end of the answer.
            assert ours.timings.draft_n - ours.timings.draft_accepted_n <= 1
            assert ours.timings.draft_accepted_n >= 0.7 * (len(ours.tokens) - 1)


def test_a_draft_model_of_another_vocabulary_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(InvalidRequest, match="the same tokens"):
        Llama(draft=tiny_llama)


def test_guesses_end_with_the_context(write_tiny_llama: Callable[..., Path], eager: None) -> None:
    with Llama(n_ctx=64) as guessing, Llama(n_ctx=64, speculate=False) as plain:
        prompt = "one two one two one two"
        ours = guessing.generate(prompt, temperature=0.0, stop_ids=[]).read()
        assert ours.tokens == plain.generate(prompt, temperature=0.0, stop_ids=[]).read().tokens


def test_lookup_proposes_what_followed_before() -> None:
    lookup = PromptLookup()
    assert lookup.propose([1, 2, 3, 4, 5, 1, 2, 3], 3) == [4, 5, 1]
    assert lookup.propose([1, 2, 3, 4, 5, 1, 2, 3, 9], 3) == []
    assert lookup.propose([1, 2, 3, 4, 5, 1, 2, 3, 9, 1, 2, 3], 2) == [9, 1]  # the latest
    assert lookup.propose([7, 7, 7, 7], 2) == [7]  # something was taken back; it begins anew
    assert lookup.propose([7, 7], 2) == []


def in_turn(lookup: PromptLookup, tokens: Sequence[int]) -> list[list[int]]:
    return [lookup.propose(tokens[:n], 4) for n in range(1, len(tokens) + 1)]


def test_lookup_finds_the_same_token_by_token_and_at_once() -> None:
    tokens = [1, 2, 3, 1, 2, 3, 4, 1, 2, 3, 4, 4, 4, 4, 1, 2]
    for n, proposed in enumerate(in_turn(PromptLookup(), tokens), 1):
        assert proposed == PromptLookup().propose(tokens[:n], 4)


def costing(a_row: float) -> Costs:
    """Measured: a further row costs `a_row` of the first."""
    costs = Costs()
    for _ in range(30):
        for n in (1, 2, 4, 9):
            costs.note(n, 1e-2 * (1 + a_row * (n - 1)))
    return costs


class Script:
    """Proposes what will come, or never does."""

    def __init__(self, *, right: bool, free: bool) -> None:
        self.right, self.free, self.asked = right, free, 0

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        self.asked += 1
        return [len(tokens) + i if self.right else -1 for i in range(n)]


def say(
    speculation: Speculation, n: int, note: Callable[[int], None] = lambda n_rows: None
) -> list[int]:
    """Numbers of guesses that are made while n tokens are said: 0, 1, 2, ...

    note: told the rows of each step.
    """
    tokens, made = [0], []
    while len(tokens) < n:
        guesses = speculation.guess(tokens, 8)
        made.append(len(guesses))
        right = 0
        while right < len(guesses) and guesses[right] == len(tokens) + right:
            right += 1
        note(1 + len(guesses))
        if guesses:
            speculation.note(len(guesses), right)
        tokens += range(len(tokens), len(tokens) + right + 1)
    return made


def test_guesses_that_come_true_and_cost_little_grow() -> None:
    made = say(Speculation(Script(right=True, free=True), costing(0.1)), 200)
    assert made[-1] == 8


def test_guesses_that_fail_are_given_up_and_then_cost_nothing() -> None:
    script = Script(right=False, free=True)
    made = say(Speculation(script, costing(0.1)), 200)
    assert sum(map(bool, made)) <= 20
    assert not any(made[-100:])


def test_guesses_that_cost_as_much_as_they_save_are_not_made() -> None:
    assert not any(say(Speculation(Script(right=True, free=True), costing(1.2)), 100)[50:])


@pytest.mark.parametrize("free", [True, False])
def test_guesses_that_were_measured_too_costly_are_tried_again(free: bool) -> None:
    costs = costing(3.0)  # something else ran on the machine
    made = say(
        Speculation(Script(right=True, free=free), costs),
        1500,
        lambda n_rows: costs.note(n_rows, 1e-2 * (1 + 0.1 * (n_rows - 1))),
    )
    assert made[-1] == 8


def test_guesses_that_cost_too_much_are_seldom_tried() -> None:
    costs = costing(1.2)
    made = say(
        Speculation(Script(right=True, free=True), costs),
        1000,
        lambda n_rows: costs.note(n_rows, 1e-2 * (1 + 1.2 * (n_rows - 1))),
    )
    assert 0 < sum(map(bool, made)) <= 1000 / 64


def test_a_costly_drafter_that_fails_is_hardly_asked() -> None:
    script = Script(right=False, free=False)
    say(Speculation(script, costing(0.1)), 1000)
    assert script.asked <= 40


def test_a_pause_of_the_machine_does_not_spoil_the_measure() -> None:
    costs = costing(0.1)
    costs.note(4, 5.0)
    assert costs.ratio(4) < 1.3 * 1.35


def test_in_company_nobody_guesses(eager: None) -> None:
    with Llama(n_parallel=2) as llm:
        bans = dict.fromkeys(llm.tokenizer.stop_ids, float("-inf"))
        writers = [
            llm.generate("one two one two", context_policy="shift", logit_bias=bans)
            for _ in range(2)
        ]
        for writer in writers:
            next(writer)
        next(writers[0])  # a step in company lies behind both
        before = [writer.timings.draft_n for writer in writers]
        for _ in range(50):
            next(writers[0])
        assert [writer.timings.draft_n for writer in writers] == before
        for writer in writers:
            writer.close()
