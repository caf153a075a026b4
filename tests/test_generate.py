"""Generation: what is chosen, what text comes out of it, when it ends, and what the cache keeps."""

import gc
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama import ContextFull, InvalidRequest, ModelFormatError
from edgellama import engine as module
from edgellama.answer import Token
from edgellama.backends import Batch, load_backend
from edgellama.config import ModelConfig
from edgellama.engine import Engine
from edgellama.generate import Generation
from edgellama.gguf import GGUFFile
from edgellama.requests import Request
from edgellama.sampling import SamplingParams
from edgellama.stop_strings import BannedStrings, StopStrings
from edgellama.tokenizer import Tokenizer, load_tokenizer
from edgellama.weights import load_weights

GREEDY = SamplingParams(temperature=0.0)


class Model:
    """A tiny random model on the reference backend; every engine of it is a fresh one."""

    def __init__(self, path: Path) -> None:
        with GGUFFile(path) as file:
            self.config = ModelConfig.from_gguf(file)
            self.tokenizer = load_tokenizer(file.metadata)
            weights = load_weights(file, self.config)
            self._load = lambda n_ctx: load_backend(
                "reference",
                self.config,
                weights,
                n_ctx=n_ctx,
                n_sequences=1,
                n_threads=1,
                kv_type="f16",
            )
            self.backend = self._load(64)

    def engine(self, *, n_ctx: int = 64) -> Engine:
        return Engine(self._load(n_ctx), self.tokenizer)

    def ask(self, engine: Engine, prompt: Sequence[int], **options: object) -> Generation:
        return engine.submit(Request(prompt, **({"params": GREEDY} | options)))

    def answer(self, engine: Engine, prompt: Sequence[int], n: int = 8) -> list[int]:
        return self.ask(engine, prompt, max_tokens=n).read().tokens


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Iterator[Model]:
    model = Model(tiny_llama)
    yield model
    model.backend.close()


class Scripted:
    """A backend that wants to say one thing: after the prompt, the ids of its script in turn."""

    def __init__(self, config: ModelConfig, n_prompt: int, script: Sequence[int]) -> None:
        self.config, self.n_ctx, self.n_sequences = config, 64, 1
        self._n_prompt, self._script = n_prompt, script

    def forward(self, batch: Batch) -> np.ndarray:
        logits = np.zeros((int(batch.wanted.sum()), self.config.vocab_size), np.float32)
        for row, position in zip(logits, batch.positions[batch.wanted], strict=True):
            row[self._script[position - self._n_prompt + 1]] = 9
        return logits

    def rewind(self, sequence: int, n_tokens: int) -> None: ...
    def copy(self, source: int, target: int, n_tokens: int) -> None: ...
    def drop(self, sequence: int) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def say(model: Model) -> Callable[..., Generation]:
    """say(ids, stop_strings=[...], ...) -> the Generation of a model that says these ids."""

    def say(ids: Sequence[int], prompt: Sequence[int] = (1,), **options: object) -> Generation:
        script = [*ids, model.tokenizer.eos_id]
        engine = Engine(Scripted(model.config, len(prompt), script), model.tokenizer)
        options = {"stop_ids": model.tokenizer.stop_ids, "params": GREEDY} | options
        return engine.submit(Request(prompt, **options))

    return say


def plain_greedy(model: Model, prompt: Sequence[int], n: int) -> list[int]:
    """Greedy decoding by its definition: the whole text again for every token."""
    ids = list(prompt)
    for _ in range(n):
        model.backend.drop(0)
        ids.append(int(model.backend.forward(Batch.of(ids))[0].argmax()))
    return ids[len(prompt) :]


def test_greedy_is_the_argmax_of_every_prefix(model: Model) -> None:
    expected = plain_greedy(model, [1, 70, 80, 300], 12)
    assert model.answer(model.engine(), [1, 70, 80, 300], 12) == expected


def test_logprob_is_the_models_own(model: Model) -> None:
    warm = SamplingParams(temperature=2.0, top_k=5, seed=3)
    engine = model.engine()
    tokens = list(model.ask(engine, [1, 70], params=warm, max_tokens=5))
    model.backend.drop(0)
    ids = [1, 70, *(token.id for token in tokens)]
    logits = model.backend.forward(Batch.of(ids, wanted="all")).astype(np.float64)
    for token, row in zip(tokens, logits[1:], strict=False):
        expected = row[token.id] - math.log(np.exp(row).sum())
        assert token.logprob == pytest.approx(expected, abs=1e-5)  # float32 logits up to about 4


def test_chunks_of_a_prefill_do_not_show(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [1, *range(60, 90)]
    expected = plain_greedy(model, prompt, 4)
    for rows in (1, 7, 31):
        monkeypatch.setattr(module, "CHUNK_ROWS", (rows, rows))
        assert model.answer(model.engine(), prompt, 4) == expected


def test_a_prompt_costs_only_what_differs_from_the_last(model: Model) -> None:
    engine = model.engine()
    first = model.ask(engine, [1, 70, 80], max_tokens=4).read()
    assert (first.timings.cache_n, first.timings.prompt_n) == (0, 3)

    longer = [1, 70, 80, *first.tokens[:3], 90, 91]
    turn = model.ask(engine, longer, max_tokens=6).read()
    assert (turn.timings.cache_n, turn.timings.prompt_n) == (6, 2)
    assert turn.tokens == plain_greedy(model, longer, 6)

    other = [1, 70, 81, 82]
    engine = model.engine()
    model.answer(engine, longer)
    turn = model.ask(engine, other, max_tokens=6).read()
    assert (turn.timings.cache_n, turn.timings.prompt_n) == (2, 2)
    assert turn.tokens == plain_greedy(model, other, 6)


def test_the_same_prompt_again_runs_one_token(model: Model) -> None:
    engine = model.engine()
    first = model.answer(engine, [1, 70, 80])
    again = model.ask(engine, [1, 70, 80], max_tokens=8).read()
    assert again.timings.prompt_n == 1
    assert again.tokens == first


@pytest.mark.parametrize(("n_prompt", "n_answer"), [(1, 64), (62, 3), (63, 2), (64, 1)])
def test_a_full_context_ends_the_answer(model: Model, n_prompt: int, n_answer: int) -> None:
    generation = model.ask(model.engine(), [70] * n_prompt)
    answer = generation.read()
    assert (len(answer.tokens), answer.finish_reason) == (n_answer, "length")


def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(model: Model) -> None:
    engine = model.engine()
    with pytest.raises(
        ContextFull, match=r"prompt has 65 tokens, the context holds 64; .*n_ctx=65"
    ) as refusal:
        model.ask(engine, [70] * 65)
    assert (refusal.value.n_prompt, refusal.value.n_ctx) == (65, 64)
    assert engine.status().requests_total == 0
    with pytest.raises(ContextFull, match="the model reads at most 512"):
        model.ask(engine, [70] * 600)


def test_max_tokens_ends_the_answer(model: Model) -> None:
    generation = model.ask(model.engine(), [1, 70], max_tokens=5)
    reasons = [token.finish_reason for token in generation]
    assert reasons == [None, None, None, None, "length"]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids that say the text letter by letter, so that nothing comes in convenient portions."""
    return [tokenizer.token_id(letter) for letter in text]


def test_a_stop_id_ends_the_answer_and_has_no_text(model: Model, say: Callable) -> None:
    tokens = list(say(ids_of(model.tokenizer, "hi")))
    assert [token.text for token in tokens] == ["h", "i", ""]
    assert [token.finish_reason for token in tokens] == [None, None, "stop"]
    assert tokens[-1].id == model.tokenizer.eos_id


def test_a_stop_string_that_spans_tokens_never_shows(model: Model, say: Callable) -> None:
    tokens = list(say(ids_of(model.tokenizer, "one<end>two"), stop_strings=["<end>", "zzz"]))
    assert "".join(token.text for token in tokens) == "one"
    assert tokens[-1].finish_reason == "stop"
    assert len(tokens) == len("one<end>")


def test_what_only_looked_like_a_stop_string_is_given_back(model: Model, say: Callable) -> None:
    answer = say(ids_of(model.tokenizer, "a<en<end"), stop_strings=["<end>"]).read()
    assert answer.text == "a<en<end"
    assert answer.finish_reason == "stop"  # by the stop id that follows
    cut = say(ids_of(model.tokenizer, "a<en"), stop_strings=["<end>"], max_tokens=3).read()
    assert (cut.text, cut.finish_reason) == ("a<e", "length")


def test_a_character_of_several_tokens_comes_whole(model: Model, say: Callable) -> None:
    ids = [model.tokenizer.token_id(f"<0x{byte:02X}>") for byte in "a🦙b".encode()]
    assert [token.text for token in say(ids)] == ["a", "", "", "", "🦙", "b", ""]
    assert say(ids, max_tokens=3).read().text == "a\ufffd\ufffd"  # two bytes of four, cut off


def test_a_continuation_keeps_its_space_and_a_reply_does_not(model: Model, say: Callable) -> None:
    ids = model.tokenizer.encode("hello world")
    prompt = model.tokenizer.encode("the cat", bos=True)
    assert say(ids, prompt).read().text == " hello world"
    assert say(ids, prompt, continues=False).read().text == "hello world"


def through(stops: list[str], text: str, portion: int) -> tuple[str, bool]:
    """What a reader sees of a text that comes in portions, and whether it was stopped."""
    gate, shown = StopStrings(stops), ""
    for i in range(0, len(text), portion):
        new, stopped = gate.push(text[i : i + portion])
        shown += new
        if stopped:
            return shown, True
    return shown + gate.flush(), False


@pytest.mark.parametrize("portion", [1, 2, 5])
@pytest.mark.parametrize("stop", ["a", "ab", "aab", "aaab", "abba"])
def test_a_stop_string_cuts_every_text_however_it_comes(stop: str, portion: int) -> None:
    for letters in itertools.product("ab", repeat=7):
        text = "".join(letters)
        assert through([stop], text, portion) == (text.partition(stop)[0], stop in text)


@pytest.mark.parametrize("stops", [["aab", "b"], ["ba", "abba"], ["bab", "abb"]])
def test_of_several_stop_strings_the_first_to_be_whole_cuts(stops: list[str]) -> None:
    for letters in itertools.product("ab", repeat=7):
        text = "".join(letters)
        heads = (text[:n] for n in range(len(text) + 1))
        whole = [(head, stop) for head in heads for stop in stops if head.endswith(stop)]
        longest = max((stop for head, stop in whole if head == whole[0][0]), key=len, default="")
        expected = whole[0][0].removesuffix(longest) if whole else text
        assert through(stops, text, 1) == (expected, bool(whole))


def test_banned_text_is_taken_back_and_written_otherwise(model: Model) -> None:
    engine = model.engine()
    plain = model.ask(engine, [1, 70], max_tokens=12).read()
    banned = plain.text[5:8]
    params = SamplingParams(temperature=0.0, banned_strings=(banned,))
    other = model.ask(engine, [1, 70], params=params, max_tokens=12).read()
    assert banned in plain.text
    assert banned not in other.text
    assert len(other.tokens) == 12
    # What stands before it is as it was; behind it the model goes on from the other choice.
    n_same = next(
        i for i, (a, b) in enumerate(zip(plain.tokens, other.tokens, strict=True)) if a != b
    )
    assert other.tokens[n_same + 1 :] == plain_greedy(
        model, [1, 70, *other.tokens[: n_same + 1]], 11 - n_same
    )


def test_a_ban_that_nothing_can_keep_is_an_error(model: Model, say: Callable) -> None:
    h, i = ids_of(model.tokenizer, "hi")
    others = {id: -math.inf for id in range(model.config.vocab_size) if id not in (h, i)}
    params = SamplingParams(temperature=0.0, banned_strings=("h", "i"), logit_bias=others)
    with pytest.raises(InvalidRequest, match="no token is left"):
        say([h, i], params=params).read()


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=8), st.sampled_from(["ab", "aba"]))
def test_text_without_what_is_banned_comes_out_whole(portions: list[str], banned: str) -> None:
    gate, out, n_back = BannedStrings([banned]), [], 0
    for i, portion in enumerate(portions):
        settled, n_back = gate.push(Token(portion, i, 0.0))
        out += settled
        if n_back:
            portions = portions[: i + 1]
            break
    text = "".join(token.text for token in out + gate.flush())
    whole = "".join(portions)
    assert bool(n_back) == (banned in whole)
    if n_back:  # the tokens before the one in which it begins
        assert whole.startswith(text)
        assert len(text) <= whole.index(banned) < len(text) + len(portions[len(out)])
    else:
        assert text == whole


def test_logits_that_are_not_numbers_end_in_an_error(model: Model) -> None:
    backend = Scripted(model.config, 1, [5, 5])
    backend.forward = lambda batch: np.full((1, model.config.vocab_size), np.nan, np.float32)
    with pytest.raises(ModelFormatError, match="not finite"):
        next(model.ask(Engine(backend, model.tokenizer), [1]))


def test_an_unfinished_answer_does_not_keep_the_next_from_coming(model: Model) -> None:
    engine = model.engine()
    first = model.ask(engine, [1, 70])
    next(first)
    assert model.answer(engine, [1, 71]) == plain_greedy(model, [1, 71], 8)
    assert len(first.read().tokens) == 63


def test_a_dropped_answer_ends_at_once(model: Model) -> None:
    engine = model.engine()
    gc.disable()  # it is the last reference that counts, not the collector
    try:
        for _ in model.ask(engine, [1, 70], max_tokens=10**6, shift_keep=1):  # without end
            break
        assert len(model.answer(engine, [1, 71])) == 8
    finally:
        gc.enable()


def test_threads_share_an_engine(model: Model) -> None:
    prompts = [[1, 70 + i, 80] for i in range(4)]
    expected = [plain_greedy(model, prompt, 8) for prompt in prompts]
    engine = model.engine()
    answers: dict[int, list[int]] = {}

    def work(i: int) -> None:
        answers[i] = model.answer(engine, prompts[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [answers[i] for i in range(4)] == expected


def test_a_closed_engine_ends_what_it_was_doing(model: Model) -> None:
    engine = model.engine()
    generation = model.ask(engine, [1, 70], max_tokens=10**6, shift_keep=1)
    next(generation)
    engine.close()
    with pytest.raises(InvalidRequest, match="closed"):
        generation.read()
    with pytest.raises(InvalidRequest, match="closed"):
        model.ask(engine, [1])


def test_timings_count_what_happened(model: Model) -> None:
    generation = model.ask(model.engine(), [1, 70, 80], max_tokens=6)
    timings = generation.read().timings
    assert (timings.prompt_n, timings.cache_n, timings.predicted_n) == (3, 0, 6)
    assert 0 < timings.prompt_s <= timings.first_token_s
    assert timings.predicted_per_second == pytest.approx(5 / timings.predicted_s)
    assert timings.prompt_per_second == pytest.approx(3 / timings.prompt_s)
