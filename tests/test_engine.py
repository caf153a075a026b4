"""Several requests on one model: no answer changes, nobody starves, nothing is left behind."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellama import ContextFull, InvalidRequest, Llama, ModelFormatError, Overloaded
from edgellama import engine as module
from edgellama.backends import Batch
from edgellama.prefix_store import PrefixStore
from edgellama.schedule import share_rows
from edgellama.stream import Bell, Stream

STORY = [{"role": "user", "content": "Tell me a story about a fox."}]


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    """The model that ships, four requests at a time; the same text in any company on AMX, too."""
    with Llama(n_parallel=4, n_threads=2, deterministic=True) as llm:
        yield llm


def asks(llm: Llama, animal: str, **options: object):
    messages = [{"role": "user", "content": f"Tell me a story about a {animal}."}]
    return llm.stream_chat(messages, **({"seed": 7, "max_tokens": 40} | options))


def endless(llm: Llama, prompt: str = "Once upon a time"):
    """An answer that goes on until it is closed."""
    bans = dict.fromkeys(llm.tokenizer.stop_ids, -np.inf)
    return llm.generate(prompt, context_policy="shift", logit_bias=bans, seed=1)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_company_changes_no_answer(llm: Llama, temperature: float) -> None:
    animals = ["fox", "cat", "dog", "bear", "bird", "mouse"]
    alone = [asks(llm, animal, temperature=temperature).read().tokens for animal in animals]
    together = [asks(llm, animal, temperature=temperature) for animal in animals]
    assert [generation.read().tokens for generation in together] == alone


def test_logits_that_are_no_numbers_harm_no_company(
    llm: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = asks(llm, "cat").read().tokens
    backend = llm._engine._backend
    forward = backend.forward

    def damaged(batch: Batch) -> np.ndarray:
        logits = forward(batch)
        if len(logits) == 2:  # the row of the second
            logits[1, 9] = np.nan
        return logits

    monkeypatch.setattr(backend, "forward", damaged)
    good, bad = asks(llm, "cat"), asks(llm, "dog")
    with pytest.raises(ModelFormatError, match="1 logits of"):
        bad.read()
    assert good.read().tokens == alone


def test_an_event_loop_reads_many_at_once(llm: Llama) -> None:
    expected = asks(llm, "cat").read()

    async def text() -> str:
        return "".join([token.text async for token in asks(llm, "cat")])

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*[text() for _ in range(6)])

    assert asyncio.run(all_of_them()) == [expected.text] * 6
    assert asyncio.run(asks(llm, "cat").aread()).text == expected.text


def test_those_who_write_go_on_while_a_long_prompt_is_read(llm: Llama) -> None:
    order: list[str] = []  # of those who had a token

    def noting(who: str) -> dict[str, object]:
        def note(ids: Any, logits: NDArray[np.float32]) -> NDArray[np.float32]:
            order.append(who)
            return logits

        return {"samplers": (note, "temperature"), "seed": 1}

    writer = llm.generate("Once", context_policy="shift", stop_ids=[], **noting("writer"))
    next(writer)
    n_before = len(order)
    reader = llm.generate("the cat was here. " * 150, max_tokens=1, **noting("reader"))
    reader.read()
    writer.close()
    n_steps = reader.timings.prompt_n / module.CHUNK_ROWS[1]
    assert n_steps > 2
    assert order.index("reader") - n_before >= n_steps - 1  # the last of them is the reader's own


@pytest.mark.parametrize(
    ("pending", "n_rows", "expected"),
    [
        ([1, 1, 1], 32, [1, 1, 1]),
        ([100, 1, 1], 32, [30, 1, 1]),
        ([100, 100, 1], 33, [16, 16, 1]),
        ([5, 100, 100], 45, [5, 20, 20]),
        ([7], 4, [4]),
        ([9, 9, 9], 2, [1, 1, 0]),
        ([], 8, []),
    ],
)
def test_rows_are_shared_out_fairly(pending: list[int], n_rows: int, expected: list[int]) -> None:
    assert share_rows(pending, n_rows) == expected


def test_clients_get_equal_shares(llm: Llama) -> None:
    order: list[int] = []  # of those who had a token

    def noting(client: int) -> Callable[[Any, NDArray[np.float32]], NDArray[np.float32]]:
        def note(ids: Any, logits: NDArray[np.float32]) -> NDArray[np.float32]:
            order.append(client)
            return logits

        return note

    bans = dict.fromkeys(llm.tokenizer.stop_ids, -np.inf)
    writers = [
        llm.generate(
            f"Once upon a time {i}",
            max_tokens=40,
            samplers=(noting(i), "temperature"),
            logit_bias=bans,
        )
        for i in range(4)
    ]
    for writer in writers:
        writer.read()
    all_began = max(order.index(i) for i in range(4))
    one_ended = min(len(order) - 1 - order[::-1].index(i) for i in range(4))
    shares = [order[all_began : one_ended + 1].count(i) for i in range(4)]
    assert min(shares) > 20
    assert max(shares) - min(shares) <= 1


def test_a_closed_answer_frees_its_place(llm: Llama) -> None:
    writers = [endless(llm) for _ in range(4)]
    for writer in writers:
        next(writer)
    waiting = asks(llm, "dog")
    assert llm.status().queued == 1
    writers[0].close()
    assert waiting.read().finish_reason is not None
    for writer in writers:
        writer.close()
    assert until(lambda: llm.status().active == 0)


def test_a_dropped_answer_ends(llm: Llama) -> None:
    for _ in endless(llm):
        break
    gc.collect()
    assert until(lambda: llm.status().active == 0)


def test_a_cancelled_task_leaves_nothing_behind(llm: Llama) -> None:
    async def read() -> None:
        async for _ in endless(llm):
            pass

    async def run() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    gc.collect()
    assert until(lambda: llm.status().active == 0)


def test_a_full_queue_refuses_with_a_time_to_come_again(tiny_llama: Path) -> None:
    with Llama(tiny_llama, queue_limit=1) as llm:
        first, second = endless(llm, "hello"), None
        next(first)
        second = llm.generate("world", max_tokens=2, stop_ids=[])
        with pytest.raises(Overloaded, match="1 requests wait already") as refusal:
            llm.generate("the", max_tokens=2)
        assert refusal.value.retry_after >= 1
        first.close()
        assert len(second.read().tokens) == 2


def test_a_common_beginning_is_computed_once(llm: Llama) -> None:
    system = {"role": "system", "content": "You tell stories about animals. " * 90}
    before = llm.status().prompt_tokens_total
    generations = [
        llm.stream_chat([system, {"role": "user", "content": name}], max_tokens=3)
        for name in ("fox", "cat", "dog", "bear")
    ]
    answers = [generation.read() for generation in generations]
    until(lambda: llm.status().active == 0)
    run = llm.status().prompt_tokens_total - before
    # Where a step takes few rows, each of the others reads up to 32 and what is its own.
    assert run < 1.3 * answers[0].prompt_tokens
    assert sum(answer.timings.cache_n > 0 for answer in answers) >= 3


def test_a_place_that_is_busy_shares_what_it_holds(llm: Llama) -> None:
    prompt = llm.tokenize("Once upon a time there was a little fox. " * 12)
    writer = llm.generate(prompt, context_policy="shift", max_tokens=10_000)
    next(writer)
    other = llm.generate([*prompt, *llm.tokenize(" The end.")], max_tokens=4).read()
    writer.close()
    assert other.timings.cache_n >= len(prompt) - 1


def test_shift_goes_on_beyond_the_context(tiny_llama: Path) -> None:
    with Llama(tiny_llama, n_ctx=64) as llm:
        generation = endless(llm, "hello world")
        tokens = [next(generation) for _ in range(200)]
        generation.close()
        assert len(tokens) == 200
        assert generation.context.dropped_tokens >= 200 - 64


def test_shift_is_as_if_the_text_had_begun_later(tiny_llama: Path) -> None:
    """The keys and values behind the gap are computed anew, so a fresh start agrees."""
    bans = {"logit_bias": {2: -np.inf}, "temperature": 0.0}
    with Llama(tiny_llama, n_ctx=32, speculate=False) as llm:
        prompt = llm.tokenize("hello", bos=True)
        ids = llm.generate(prompt, context_policy="shift", max_tokens=60, **bans).read().tokens
        read = [*prompt, *ids[: 32 - len(prompt) + 1]]  # one more than fits
        shorter = [read[0], *read[1 + (len(read) - 1) // 2 :]]
        rest = llm.generate(shorter, max_tokens=5, **bans).read().tokens
        assert ids[len(read) - len(prompt) :][:5] == rest


def test_the_oldest_turns_give_way_when_asked(llm: Llama) -> None:
    turns = [{"role": "system", "content": "Be kind."}]
    for i in range(40):
        turns += [
            {"role": "user", "content": f"What did the fox do on day {i}?"},
            {"role": "assistant", "content": "It ran and played with the cat in the garden."},
        ]
    turns.append({"role": "user", "content": "And then?"})
    with pytest.raises(ContextFull):
        llm.chat(turns, max_tokens=20)
    answer = llm.chat(turns, max_tokens=20, context_policy="truncate-oldest")
    kept = [turns[0], *turns[1 + answer.context.dropped_messages :]]
    assert answer.context.dropped_messages % 2 == 0
    assert answer.prompt_tokens == llm.count_tokens(kept) <= llm.n_ctx - 20
    one_more = [turns[0], *turns[answer.context.dropped_messages - 1 :]]
    assert llm.count_tokens(one_more) > llm.n_ctx - 20


def test_an_unknown_policy_is_refused(llm: Llama) -> None:
    with pytest.raises(InvalidRequest, match="context_policy 'drop' is unknown"):
        llm.generate("hello", context_policy="drop")


def test_top_logprobs_are_the_models_own(llm: Llama) -> None:
    tokens = list(llm.generate("Once upon", max_tokens=3, top_logprobs=5, temperature=1.5, seed=2))
    ids = llm.tokenize("Once upon", bos=llm.tokenizer.add_bos) + [token.id for token in tokens]
    rows = llm.logits(ids)[-4:-1].astype(np.float64)
    for token, row in zip(tokens, rows, strict=True):
        logprobs = row - np.log(np.exp(row).sum())
        best = np.argsort(-logprobs, kind="stable")[:5]
        assert [id for id, _ in token.top_logprobs] == best.tolist()
        assert [p for _, p in token.top_logprobs] == pytest.approx(logprobs[best], abs=1e-4)


def test_a_wrong_request_harms_no_other(llm: Llama) -> None:
    writer = endless(llm)
    next(writer)
    bans = dict.fromkeys(range(1024), -np.inf)
    nothing_left = llm.generate("the", logit_bias=bans, grammar=None, max_tokens=3)
    nothing_left.read()
    with pytest.raises(InvalidRequest):
        llm.generate("the", logit_bias={10**6: 1.0}).read()
    assert next(writer).finish_reason is None
    writer.close()


def test_a_step_that_fails_fails_everyone_and_the_engine_goes_on(tiny_llama: Path) -> None:
    with Llama(tiny_llama, n_parallel=2) as llm:
        expected = llm.generate("hello", max_tokens=5, temperature=0.0).read().tokens
        backend = llm._engine._backend
        forward = backend.forward

        def fail(batch: Batch) -> None:
            backend.forward = forward
            raise MemoryError

        backend.forward = fail
        with pytest.raises(Exception, match="memory gave out"):
            llm.generate("hello", max_tokens=5).read()
        assert llm.generate("hello", max_tokens=5, temperature=0.0).read().tokens == expected


def test_a_sampler_must_not_wait_for_its_own_model(llm: Llama) -> None:
    def ask(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        llm.generate("hello", max_tokens=1).read()
        return logits

    with pytest.raises(InvalidRequest, match="must not ask the model it serves"):
        llm.generate("the", samplers=(ask, "temperature"), max_tokens=3).read()


def test_an_idle_engine_has_no_thread(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.05)

    def n_running() -> int:
        return sum(thread.name == "edgellama" for thread in threading.enumerate())

    others = n_running()
    with Llama(tiny_llama) as llm:
        first = llm.generate("hello", max_tokens=3, seed=1).read().tokens
        assert until(lambda: n_running() <= others)
        assert llm.generate("hello", max_tokens=3, seed=1).read().tokens == first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_an_engine_of_its_own(tiny_llama: Path) -> None:
    with Llama(tiny_llama) as llm:
        expected = llm.generate("hello", max_tokens=5, temperature=0.0).read().tokens
        until(lambda: llm.status().active == 0)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                begun = llm.generate("hello", max_tokens=5, temperature=0.0)
                tokens = asyncio.run(asyncio.wait_for(begun.aread(), 60)).tokens
                again = llm.generate("hello", max_tokens=5, temperature=0.0).read().tokens
                os.write(write, b"same" if tokens == again == expected else b"other")
            finally:
                os._exit(0)
        os.close(write)
        assert os.read(read, 10) == b"same"
        os.waitpid(child, 0)
        assert llm.generate("hello", max_tokens=5, temperature=0.0).read().tokens == expected


def test_a_stored_prefix_serves_the_next_start(tmp_path: Path, tiny_llama: Path) -> None:
    prompt = [1, *np.random.default_rng(0).integers(10, 300, 399).tolist()]
    tokens, cached = [], []
    for _ in range(2):
        store = PrefixStore(tmp_path / "store")
        with Llama(tiny_llama, prefix_store=store) as llm:
            answer = llm.generate(prompt, max_tokens=8, temperature=0.0).read()
        store.close()
        tokens.append(answer.tokens)
        cached.append(answer.timings.cache_n)
    assert tokens[0] == tokens[1]
    assert cached == [0, 384]


def test_a_stream_hands_over_all_and_then_its_error() -> None:
    stream: Stream[int] = Stream()
    writer = threading.Thread(target=lambda: [stream.put(i) for i in range(100)])
    writer.start()
    writer.join()
    stream.end(InvalidRequest("that was all"))
    assert [stream.get() for _ in range(100)] == list(range(100))
    with pytest.raises(InvalidRequest, match="that was all"):
        stream.get()


def test_a_bell_wakes_all_who_wait_in_a_loop_with_one_call() -> None:
    async def read() -> tuple[int, list[int | None]]:
        loop, bell = asyncio.get_running_loop(), Bell()
        calls = []
        call = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args: calls.append(call(*args))  # type: ignore
        streams: list[Stream[int]] = [Stream(bell) for _ in range(5)]
        readers = [asyncio.ensure_future(stream.aget()) for stream in streams]
        await asyncio.sleep(0)  # now they wait
        for i, stream in enumerate(streams):
            stream.put(i)
        bell.ring()
        values = await asyncio.gather(*readers)
        bell.ring()  # for nobody
        return len(calls), values

    assert asyncio.run(read()) == (1, [0, 1, 2, 3, 4])


def test_a_writer_in_another_thread_wakes_the_loop() -> None:
    async def read() -> list[int]:
        stream: Stream[int] = Stream()

        def write() -> None:
            for i in range(50):
                time.sleep(0.0005)
                stream.put(i)
            stream.end()

        threading.Thread(target=write).start()
        values = []
        while batch := await stream.aget_all():
            values += batch
        return values

    assert asyncio.run(read()) == list(range(50))
