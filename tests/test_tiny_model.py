"""The model that ships: what it says, how well, and the grammar that it learned from."""

import hashlib
import importlib
import itertools
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgellama import Llama
from edgellama.llama import shipped_model

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "tiny_greedy.json").read_text(encoding="utf-8"))
CARD = (ROOT / "edgellama" / "models" / "tiny.md").read_text(encoding="utf-8")
HELD_OUT_SEED = 2026  # evaluate.py's
N_TEXTS = 12


@pytest.fixture(scope="module")
def world() -> Iterator[SimpleNamespace]:
    """The grammar of examples/train_tiny, whose files are scripts and not a package."""
    names = ("grammar", "stories", "chats")
    folder = str(ROOT / "examples" / "train_tiny")

    def take_out() -> dict[str, ModuleType]:
        loaded = [name for name in sys.modules if name.partition(".")[0] in names]
        return {name: sys.modules.pop(name) for name in loaded}

    before = take_out()
    sys.path.insert(0, folder)
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(folder)
        take_out()
        sys.modules.update(before)


@pytest.fixture(scope="module")
def tiny() -> Iterator[Llama]:
    with Llama() as llm:
        yield llm


@pytest.fixture(scope="module")
def held_out(world: SimpleNamespace, tiny: Llama) -> list[list[int]]:
    """The first texts that evaluate.py measures, as token ids."""
    rng = random.Random(HELD_OUT_SEED)
    return [encode(tiny, world.chats.make_document(rng, train=False)) for _ in range(N_TEXTS)]


def encode(llm: Llama, document: str | list[dict[str, str]]) -> list[int]:
    """A plain story or a whole chat, as in training."""
    if isinstance(document, str):
        ids = llm.tokenize(document, bos=True)
        end = "<|end_of_text|>"
    else:
        assert llm.chat_format is not None
        ids = llm.chat_format.prompt(llm.tokenizer, document[:-1])  # type: ignore[arg-type]
        ids += llm.tokenize(document[-1]["content"])
        end = "<|eot_id|>"
    return ids + llm.tokenize(end, special=True)


def perplexity(llm: Llama, texts: list[list[int]]) -> float:
    surprises = []
    for ids in texts:
        z = llm.logits(ids[:-1]).astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        surprises.append(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), ids[1:]])
    return float(np.exp(np.concatenate(surprises).mean()))


# Every token of these texts leads by 0.08 or more in the logits; on other machines only the order
# of float additions differs.
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_greedy_text_is_the_golden_text(tiny: Llama, case: dict[str, Any]) -> None:
    if "messages" in case:
        answer = tiny.chat(case["messages"], temperature=0.0)
    else:
        answer = tiny.generate(case["prompt"], temperature=0.0).read()
    assert answer.text == case["text"]
    assert answer.finish_reason == "stop"


def test_perplexity_is_that_of_the_card(tiny: Llama, held_out: list[list[int]]) -> None:
    found = re.search(r"first 12 documents.*?\| *([\d.]+) *\| *([\d.]+) *\|", CARD)
    assert found is not None
    as_shipped = float(found[2])
    # The card has three digits, and int8 activations round a little differently by machine.
    assert perplexity(tiny, held_out) == pytest.approx(as_shipped, rel=5e-3)


def test_int8_arithmetic_rarely_changes_the_best_token(
    tiny: Llama, held_out: list[list[int]]
) -> None:
    """Against the numpy reference, which runs the dequantized weights in float32."""
    with shipped_model() as path, Llama(path, backend="reference") as reference:
        same = np.concatenate(
            [
                tiny.logits(ids).argmax(axis=1) == reference.logits(ids).argmax(axis=1)
                for ids in held_out[:2]
            ]
        )
    assert same.mean() >= 0.98


def test_it_reads_the_story_that_it_is_asked_about(tiny: Llama, world: SimpleNamespace) -> None:
    """Whoever does not read guesses one name in a hundred; the card says how many are right."""
    rng = random.Random(1)
    right = 0
    for _ in range(20):
        story = world.grammar.make_story(rng, (world.stories.LOST,), train=False)
        question = f"{story.text}\n\nWho is the story about?"
        answer = tiny.chat([{"role": "user", "content": question}], max_tokens=32, temperature=0.0)
        right += answer.text == f"The story is about {story.facts['name']}."
    assert right >= 10


def test_the_file_is_small() -> None:
    with shipped_model() as path:
        assert path.stat().st_size <= 6_000_000


def test_one_seed_makes_one_text(world: SimpleNamespace) -> None:
    """On every Python: the card's figures are of these texts."""
    rng = random.Random(HELD_OUT_SEED)
    documents = [world.chats.make_document(rng, train=False) for _ in range(100)]
    digest = hashlib.sha256(json.dumps(documents).encode()).hexdigest()
    assert digest in CARD


def test_every_answer_is_told_in_its_story(world: SimpleNamespace) -> None:
    rng = random.Random(0)
    for skeleton in world.stories.SKELETONS:
        for _ in range(30):
            story = world.grammar.make_story(rng, (skeleton,), train=True)
            # "in the park" may be told as "to the park", "her" as "she"
            facts = story.facts | {"at_place": story.facts["place"], "them": "", "other_game": ""}
            answers = itertools.chain.from_iterable(say for _, say in skeleton.questions)
            for wording in (*answers, *skeleton.summary, *skeleton.about):
                assert world.chats.is_told(wording, story.text, facts), (wording, story.text)


def test_stories_are_plain_english(world: SimpleNamespace) -> None:
    rng = random.Random(0)
    for _ in range(300):
        story = world.grammar.make_story(rng, world.stories.SKELETONS, train=True)
        assert not re.search(r"[{}]|  |\ba [aeiou]|\ban [^aeiou]|[.!?] [a-z]", story.text), (
            story.text
        )
        assert story.text[-1] in '.!?"'


def test_the_splits_share_no_name_at_a_place(world: SimpleNamespace) -> None:
    def pairs(*, train: bool) -> set[tuple[str, str]]:
        rng = random.Random(0)
        stories = (
            world.grammar.make_story(rng, world.stories.SKELETONS, train=train) for _ in range(2000)
        )
        return {(story.facts["name"], story.facts["place"]) for story in stories}

    assert not pairs(train=True) & pairs(train=False)


def test_the_user_speaks_first_and_turns_alternate(world: SimpleNamespace) -> None:
    rng = random.Random(0)
    for _ in range(200):
        roles = [message["role"] for message in world.chats.make_chat(rng, train=True)]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
