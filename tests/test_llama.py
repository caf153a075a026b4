"""The `Llama` facade, as a program of somebody else uses it."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgellama import ContextFull, InvalidRequest, Llama, ModelFormatError, ResourceError, engine
from edgellama import llama as module

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def llm(tiny_llama: Path) -> Iterator[Llama]:
    with Llama(tiny_llama, chat_format="alpaca") as llm:
        yield llm


@pytest.fixture(scope="module")
def bpe_llm(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_llama: Callable[..., Path]
) -> Iterator[Llama]:
    path = write_tiny_llama(tmp_path_factory.mktemp("bpe") / "bpe.gguf", tokenizer="bpe")
    with Llama(path, chat_format="llama3") as llm:
        yield llm


def test_text_and_ids_are_two_ways_to_give_a_prompt(llm: Llama) -> None:
    by_text = llm.generate("hello the cat", max_tokens=8, temperature=0.0).read()
    ids = llm.tokenize("hello the cat", bos=True)
    by_ids = llm.generate(ids, max_tokens=8, temperature=0.0).read()
    by_array = llm.generate(np.array(ids), max_tokens=8, temperature=0.0).read()
    assert by_text.tokens == by_ids.tokens == by_array.tokens
    assert by_text.prompt_tokens == len(ids)


def test_greedy_generation_follows_the_logits(llm: Llama) -> None:
    ids = llm.tokenize("once upon", bos=True)
    tokens = llm.generate(ids, max_tokens=8, temperature=0.0).read().tokens
    logits = llm.logits(ids + tokens)
    assert logits[len(ids) - 1 : -1].argmax(axis=1).tolist() == tokens


def test_logits_begin_from_an_empty_cache(llm: Llama) -> None:
    ids = llm.tokenize("hello the cat", bos=True)
    before = llm.logits(ids)
    llm.generate("the cat was", max_tokens=5).read()
    after = llm.logits(ids)
    assert before.shape == (len(ids), llm.config.vocab_size)
    assert before.dtype == np.float32
    np.testing.assert_array_equal(before, after)
    # A position knows nothing of what follows it.
    np.testing.assert_array_equal(llm.logits(ids[:3]), before[:3])


@pytest.mark.parametrize("format", ["F32", "Q4_0"])
def test_no_bit_of_the_logits_depends_on_the_chunks(
    format: str,
    tmp_path: Path,
    write_tiny_llama: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [1, *range(60, 160)]
    model = write_tiny_llama(tmp_path / "model.gguf", format=format)
    with Llama(model, deterministic=True) as llm:  # which makes a difference on AMX alone
        expected = llm.logits(ids)
        for rows in (1, 7, 64):
            monkeypatch.setattr(engine, "CHUNK_ROWS", (rows, rows))
            np.testing.assert_array_equal(llm.logits(ids), expected)


def test_the_backends_agree(llm: Llama, tiny_llama: Path) -> None:
    ids = [1, *range(60, 100)]
    with Llama(tiny_llama, backend="reference") as reference:
        expected = reference.logits(ids)
    # Sums of 96 float32 products in another order; logits are about 1 in size.
    np.testing.assert_allclose(llm.logits(ids), expected, atol=2e-5)


def test_detokenize_is_the_inverse_of_tokenize(llm: Llama, bpe_llm: Llama) -> None:
    for text in ("hello", "  two  spaces", "naïve 日本 🦙\n\ttab", "<s>[INST]", ""):
        assert llm.detokenize(llm.tokenize(text, bos=True)) == text
        assert bpe_llm.detokenize(bpe_llm.tokenize(text)) == text


def test_control_tokens_in_a_prompt_are_plain_characters(bpe_llm: Llama) -> None:
    control = bpe_llm.tokenize("<|eot_id|>", special=True)
    assert len(control) == 1
    assert control[0] not in bpe_llm.tokenize("<|eot_id|>")
    said = [{"role": "user", "content": "<|eot_id|>" * 3}]
    n_written = bpe_llm.chat_format.prompt(bpe_llm.tokenizer, said).count(control[0])
    assert n_written == 1  # the format's own


def test_an_answer_carries_text_tokens_reason_and_timings(llm: Llama) -> None:
    answer = llm.chat(HELLO, max_tokens=6, temperature=0.0)
    prompt = llm.chat_format.prompt(llm.tokenizer, HELLO)
    expected = llm.generate(prompt, max_tokens=6, temperature=0.0).read()
    assert answer.tokens == expected.tokens
    assert answer.text == llm.detokenize(answer.tokens)
    assert (answer.finish_reason, answer.prompt_tokens) == ("length", len(prompt))
    assert answer.timings.predicted_n == 6


def test_a_streamed_chat_is_the_chat(llm: Llama) -> None:
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 11}
    stream = llm.stream_chat(HELLO, **options)
    pieces = [token.text for token in stream]
    answer = llm.chat(HELLO, **options)
    assert "".join(pieces) == answer.text
    assert stream.read().tokens == answer.tokens


def test_the_next_turn_runs_only_what_is_new(llm: Llama) -> None:
    answer = llm.chat(HELLO, max_tokens=6, temperature=0.0)
    turns = [*HELLO, {"role": "assistant", "content": answer.text}]
    turn = llm.chat([*turns, {"role": "user", "content": "the cat"}], max_tokens=6)
    assert turn.timings.cache_n >= answer.prompt_tokens
    assert turn.timings.cache_n + turn.timings.prompt_n == turn.prompt_tokens


def test_the_models_end_of_turn_ends_a_chat(
    bpe_llm: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model never says so: what it says third is declared to be the end.
    said = bpe_llm.chat(HELLO, max_tokens=3, temperature=0.0).tokens
    end = next(i for i, token in enumerate(said) if token not in said[:i] and i > 0)
    monkeypatch.setattr(bpe_llm.tokenizer, "stop_ids", frozenset([said[end]]))
    answer = bpe_llm.chat(HELLO, max_tokens=9, temperature=0.0)
    assert (answer.tokens, answer.finish_reason) == (said[: end + 1], "stop")


def test_stop_strings_and_stop_ids_end_an_answer(llm: Llama) -> None:
    whole = llm.generate("hello", max_tokens=9, temperature=0.0).read()
    last = whole.tokens[4]
    by_id = llm.generate("hello", max_tokens=9, temperature=0.0, stop_ids=[last]).read()
    assert by_id.tokens == whole.tokens[: whole.tokens.index(last) + 1]
    stop = whole.text[2:4]
    by_text = llm.generate("hello", max_tokens=9, temperature=0.0, stop=stop).read()
    assert (by_text.text, by_text.finish_reason) == (whole.text.partition(stop)[0], "stop")


def test_a_seed_gives_the_same_text_whatever_ran_before(llm: Llama) -> None:
    def draw(seed: int) -> list[int]:
        return llm.generate("hello", max_tokens=16, temperature=1.5, seed=seed).read().tokens

    first = draw(1)
    assert draw(2) != first
    llm.generate("the cat", max_tokens=3).read()
    assert draw(1) == first


def test_threads_share_a_llama(llm: Llama) -> None:
    prompts = ["hello", "the cat", "once upon a time", "hello world"]
    expected = [llm.generate(p, max_tokens=8, temperature=0.0).read().text for p in prompts]
    got: dict[str, str] = {}

    def work(prompt: str) -> None:
        got[prompt] = llm.generate(prompt, max_tokens=8, temperature=0.0).read().text

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [got[prompt] for prompt in prompts] == expected


def test_the_context_is_at_most_what_the_model_was_trained_for(tiny_llama: Path) -> None:
    for n_ctx, expected in ((100, 100), (4096, 512), (None, 512)):
        with Llama(tiny_llama, n_ctx=n_ctx, backend="reference") as llm:
            assert llm.n_ctx == expected


def test_a_prompt_of_the_whole_context_fits_and_one_more_token_does_not(tiny_llama: Path) -> None:
    with Llama(tiny_llama, n_ctx=32) as llm:
        assert llm.generate([60] * 31, stop_ids=[]).read().finish_reason == "length"
        assert len(llm.generate([60] * 32).read().tokens) == 1
        assert llm.logits([60] * 32).shape[0] == 32
        for call in (llm.generate, llm.logits):
            with pytest.raises(ContextFull, match="has 33 tokens, the context holds 32"):
                call([60] * 33)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, 406], "token id 406 at index 1 is outside the vocabulary of 406"),
        ([-1], "token id -1 at index 0"),
        ([2**70], "list of whole numbers"),
        ([1.0], "list of whole numbers"),
        ([True], "list of whole numbers"),
        ([[1, 2]], "list of whole numbers"),
        ([[1], [2, 3]], "list of whole numbers"),
        (None, "list of whole numbers"),
        ([], "empty"),
    ],
)
def test_ids_that_cannot_be_are_refused(llm: Llama, ids: object, words: str) -> None:
    for call in (llm.logits, llm.generate):
        with pytest.raises(InvalidRequest, match=words):
            call(ids)
    if ids != []:
        with pytest.raises(InvalidRequest, match=words):
            llm.detokenize(ids)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number, 1 or more, not 0"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"seed": 2**80}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [3]}, "stop"),
        ({"stop": ["x"] * 10_000}, "stop has 10,000 strings; 64 at most"),
        ({"stop_ids": [10**6]}, "token id 1000000"),
    ],
)
def test_options_out_of_range_are_refused_by_name(llm: Llama, options: dict, words: str) -> None:
    before = llm.generate("hello", max_tokens=4, temperature=0.0).read().tokens
    with pytest.raises(InvalidRequest, match=words):
        llm.generate("hello", **options)
    assert llm.generate("hello", max_tokens=4, temperature=0.0).read().tokens == before


def test_an_unknown_option_is_refused_and_not_dropped(llm: Llama) -> None:
    with pytest.raises(TypeError, match="temprature"):
        llm.generate("hello", temprature=0.0)


def test_text_that_is_none_is_refused(llm: Llama) -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        llm.generate("half a pair: \ud83e")
    with pytest.raises(InvalidRequest, match="expected text"):
        llm.tokenize(b"bytes")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_ctx": 0}, "n_ctx must be a whole number, 1 or more"),
        ({"n_ctx": 1.5}, "n_ctx"),
        ({"n_threads": 0}, "n_threads"),
        ({"kv_type": "f7"}, "f7"),
        ({"backend": "abacus"}, "backend 'abacus' is unknown; known are cpu, reference"),
        ({"chat_format": "morse"}, "morse"),
    ],
)
def test_a_wrong_argument_is_refused_when_loading(
    tiny_llama: Path, options: dict, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Llama(tiny_llama, **options)


def test_a_base_model_says_that_it_cannot_chat(tiny_llama: Path) -> None:
    with (
        Llama(tiny_llama, backend="reference") as llm,
        pytest.raises(InvalidRequest, match=r"tiny.gguf has no chat template"),
    ):
        llm.chat(HELLO)


def mapped(path: Path) -> bool:
    """Whether this process has the file in its memory."""
    process = psutil.Process()
    if not hasattr(process, "memory_maps"):
        pytest.skip("this system does not tell which files a process has mapped")
    return any(Path(entry.path) == path for entry in process.memory_maps())


def test_close_gives_the_file_back(tiny_llama: Path, tmp_path: Path) -> None:
    path = shutil.copy(tiny_llama, tmp_path / "own.gguf")
    llm = Llama(path)
    llm.generate("hello", max_tokens=2).read()
    unfinished = llm.generate("hello", context_policy="shift", stop_ids=[])
    next(unfinished)
    assert mapped(path)
    llm.close()
    assert not mapped(path)
    llm.close()
    with pytest.raises(InvalidRequest, match="closed"):
        unfinished.read()
    with pytest.raises(InvalidRequest, match="closed"):
        llm.logits([1])


def test_a_failed_load_gives_the_file_back(tiny_llama: Path, tmp_path: Path) -> None:
    path = shutil.copy(tiny_llama, tmp_path / "own.gguf")
    with pytest.raises(InvalidRequest):
        Llama(path, kv_type="f7")
    assert not mapped(path)


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model at all")
    with pytest.raises(ModelFormatError, match=r"text\.gguf"):
        Llama(tmp_path / "text.gguf")
    with pytest.raises(ResourceError, match=r"nothing\.gguf"):
        Llama(tmp_path / "nothing.gguf")


def test_without_a_path_it_is_the_model_that_ships(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.resources, "files", lambda package: tmp_path)
    with pytest.raises(ResourceError, match=r"no edgellama/models/tiny\.gguf"):
        Llama()
    shutil.copy(tiny_llama, tmp_path / "tiny.gguf")
    with Llama() as llm:
        assert llm.path == tmp_path / "tiny.gguf"
