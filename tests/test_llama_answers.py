"""Several answers to one question: different, reproducible, and the question is read once."""

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest

from edgellama import InvalidRequest, Llama, Overloaded
from edgellama.engine import CHUNK_ROWS

STORY = [{"role": "user", "content": "Tell me a story about a fox and a cat. " * 10}]
PARAMETERS = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2, 3]}},
    "required": ["n"],
    "additionalProperties": False,
}
COUNT = {"type": "function", "function": {"name": "count", "parameters": PARAMETERS}}


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama(n_parallel=3, n_threads=2, queue_limit=8, deterministic=True) as llm:
        yield llm


def test_each_answer_is_what_its_own_seed_gives(llm: Llama) -> None:
    options = {"max_tokens": 12, "temperature": 1.0}
    answers = llm.answers("Once upon a time", 3, seed=7, **options)
    alone = [llm.generate("Once upon a time", seed=7 + i, **options).read() for i in range(3)]
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in alone]
    assert len({answer.text for answer in answers}) == 3


def test_in_a_conversation_too(llm: Llama) -> None:
    options = {"max_tokens": 12, "temperature": 1.0}
    answers = llm.answers(STORY, 2, seed=7, **options)
    alone = [llm.chat(STORY, seed=7 + i, **options) for i in range(2)]
    assert [answer.text for answer in answers] == [answer.text for answer in alone]


def test_without_a_seed_answers_differ(llm: Llama) -> None:
    any_token = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    answers = llm.answers("Once upon a time", 3, max_tokens=24, stop_ids=[], **any_token)
    assert len({answer.text for answer in answers}) == 3


def test_behind_the_last_seed_comes_the_first(llm: Llama) -> None:
    options = {"max_tokens": 8, "temperature": 1.0}
    last = llm.answers("Once", 2, seed=2**64 - 1, **options)[1]
    assert last.tokens == llm.generate("Once", seed=0, **options).read().tokens


@pytest.mark.parametrize("seed", [np.int64(2**62), np.uint64(2**64 - 1)])
def test_a_seed_may_be_an_integer_of_numpy(llm: Llama, seed: np.integer) -> None:
    options = {"tools": [COUNT], "tool_choice": "required", "max_tokens": 60}
    answers = llm.answers(STORY, 2, seed=seed, **options)
    seeds = int(seed), (int(seed) + 1) % 2**64
    alone = [llm.chat(STORY, seed=each, **options).tool_calls for each in seeds]
    assert [answer.tool_calls for answer in answers] == alone


def test_the_prompt_is_read_once(llm: Llama) -> None:
    system = {"role": "system", "content": "Be kind. " * 80}
    answers = llm.answers([system, *STORY], 6, max_tokens=4)
    n = answers[0].prompt_tokens
    assert len(answers) == 6  # of which three were written at a time
    assert n > 300
    assert sum(answer.timings.prompt_n for answer in answers) < 1.5 * n
    # Where a step takes few rows, another begins when no more than so many are unread.
    assert all(answer.timings.cache_n > n - 1 - CHUNK_ROWS[0] for answer in answers[1:])


def test_each_answer_may_call_tools(llm: Llama) -> None:
    options = {"tools": [COUNT], "tool_choice": "required", "max_tokens": 60}
    answers = llm.answers(STORY, 2, seed=1, **options)
    for i, answer in enumerate(answers):
        assert answer.finish_reason == "tool_calls"
        assert json.loads(answer.tool_calls[0].arguments)["n"] in (1, 2, 3)
        assert answer.tool_calls == llm.chat(STORY, seed=1 + i, **options).tool_calls


@pytest.mark.parametrize(
    ("n", "options", "words"),
    [
        (0, {}, "n must be a whole number, 1 or more"),
        (2.5, {}, "n must be a whole number, 1 or more"),
        (2, {"seed": -1}, "seed must be a whole number"),
        (2, {"seed": "x"}, "seed must be a whole number"),
        (2, {"temperature": -1}, "temperature must be"),
    ],
)
def test_what_cannot_be_is_refused(
    llm: Llama, n: int, options: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        llm.answers("Once", n, **options)


def test_nothing_of_an_empty_question_is_answered(llm: Llama) -> None:
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        llm.answers([], 2)


def test_more_than_the_queue_holds_ends_all_of_them(llm: Llama) -> None:
    bans = dict.fromkeys(llm.tokenizer.stop_ids, False)
    with pytest.raises(Overloaded, match="8 may"):
        llm.answers("Once upon a time", 64, context_policy="shift", logit_bias=bans)
    # Those that had begun go at the next step, though they would never have ended.
    end = time.monotonic() + 60
    while llm.status().active + llm.status().queued and time.monotonic() < end:
        time.sleep(0.005)
    assert len(llm.answers("Once", 5, max_tokens=2)) == 5
