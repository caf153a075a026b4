"""Chat completions, asked with OpenAI's own client."""

import json
import re
from typing import Any

import openai
import pytest
from running_server import Running

from edgellama import Llama

HELLO: Any = [{"role": "user", "content": "Hello"}]
STORY: Any = [{"role": "user", "content": "Tell me a story about a cat."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["Oslo", "Rome"]}, "days": {"enum": [1, 2]}},
            "required": ["town", "days"],
            "additionalProperties": False,
        },
    },
}


def test_an_answer_is_what_the_library_says(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=STORY, temperature=0, max_tokens=40
    )
    with Llama(n_ctx=1024, deterministic=True) as llm:
        expected = llm.chat(STORY, temperature=0, max_tokens=40)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content == expected.text
    assert choice.finish_reason == expected.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == 40
    assert answer.usage.total_tokens == expected.prompt_tokens + 40
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"


def test_a_stream_says_the_same_piece_by_piece(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": STORY, "seed": 7, "max_tokens": 30}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 10
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_is_a_chunk_of_its_own_only_where_asked_for(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3, stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_timings_have_the_names_of_llama_server(server: Running) -> None:
    body = {"messages": HELLO, "max_tokens": 5}
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200
    names = "cache_n prompt_n prompt_ms prompt_per_second predicted_n predicted_ms"
    assert set(names.split()) < set(answer["timings"])
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert answer["timings"]["cache_n"] == cached
    assert answer["timings"]["prompt_n"] + cached == answer["usage"]["prompt_tokens"]
    assert answer["timings"]["predicted_n"] == answer["usage"]["completion_tokens"] > 0


def test_a_prompt_that_was_read_before_is_cached(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "A prompt that nobody has sent so far. " * 8}]
    for _ in range(2):
        answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens - 1


def test_several_answers_have_neighbouring_seeds(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": STORY, "max_tokens": 12}
    three = client.chat.completions.create(**asked, n=3, seed=40)
    alone = [client.chat.completions.create(**asked, seed=seed) for seed in (40, 41, 42)]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in three.choices]
    assert texts == [answer.choices[0].message.content for answer in alone]
    assert len(set(texts)) == 3
    assert three.usage is not None
    assert three.usage.completion_tokens == 36


def test_several_answers_stream_side_by_side(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": STORY, "max_tokens": 12, "n": 2, "seed": 40}
    whole = client.chat.completions.create(**asked)
    texts = ["", ""]
    ends = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.finish_reason] if choice.finish_reason else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == ["length", "length"]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_the_model(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": "tiny", "messages": STORY, "temperature": 0, "max_tokens": 8}
    asked |= {"logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = client.chat.completions.create(**asked, stream=True)
        told = [c.choices[0].logprobs for c in chunks]
        content = [entry for logprobs in told if logprobs for entry in logprobs.content or []]
    else:
        logprobs = client.chat.completions.create(**asked).choices[0].logprobs
        assert logprobs is not None
        content = logprobs.content or []
    with Llama(n_ctx=1024, deterministic=True) as llm:
        tokens = list(llm.stream_chat(STORY, temperature=0, max_tokens=8))
        pieces = [llm.tokenizer.piece(token.id) for token in tokens]
    assert [bytes(entry.bytes or ()) for entry in content] == pieces
    # float32 of rows that were computed in another company: equal but for the order of sums
    assert [entry.logprob for entry in content] == pytest.approx(
        [token.logprob for token in tokens], abs=1e-4
    )
    for entry in content:
        best = [other.logprob for other in entry.top_logprobs]
        assert len(best) == 3
        assert best == sorted(best, reverse=True)
        assert entry.top_logprobs[0].token == entry.token  # greedy


def test_an_answer_ends_before_a_stop_string(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": STORY, "temperature": 0, "max_tokens": 60}
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = whole[20:27]
    choice = client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert choice.message.content == whole[: whole.index(stop)]
    assert choice.finish_reason == "stop"


def test_logit_bias_bans_a_token_in_each_of_its_forms(
    client: openai.OpenAI, server: Running
) -> None:
    asked: Any = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 1}
    first = client.chat.completions.create(**asked).choices[0].message.content or ""
    _, ids = server.post("/tokenize", {"content": first})
    (id,) = ids["tokens"]
    forms: list[Any] = [{str(id): -100}, [[id, -100]], [[first, False]]]
    for form in forms:
        status, answer = server.post("/v1/chat/completions", {**asked, "logit_bias": form})
        assert status == 200
        assert answer["choices"][0]["message"]["content"] != first


def test_a_json_schema_is_followed(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ada", "Bo"]}, "age": {"enum": [1, 2, 3]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        seed=3,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "strict": True, "schema": schema},
        },
    )
    choice = answer.choices[0]
    person = json.loads(choice.message.content or "")
    assert person["name"] in ("Ada", "Bo")
    assert person["age"] in (1, 2, 3)
    assert choice.finish_reason == "stop"


def test_a_json_object_is_one(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        seed=5,
        max_tokens=200,
        response_format={"type": "json_object"},
    )
    choice = answer.choices[0]
    assert (choice.message.content or "").startswith("{")
    if choice.finish_reason == "stop":  # else it was cut off
        assert isinstance(json.loads(choice.message.content or ""), dict)


@pytest.mark.parametrize(
    ("field", "value", "pattern"),
    [
        ("regex", "[0-9]{3}-[ab]{2}", r"[0-9]{3}-[ab]{2}"),
        ("grammar", 'root ::= "yes" | "no"', "yes|no"),
        ("lark", 'start: "yes" | "no"', "yes|no"),
    ],
)
def test_grammars_of_every_kind_are_followed(
    client: openai.OpenAI, field: str, value: str, pattern: str
) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, seed=1, extra_body={field: value}
    )
    assert re.fullmatch(pattern, answer.choices[0].message.content or "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_call_that_must_be_made_is_made(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    asked: Any = {
        "model": "tiny",
        "messages": HELLO,
        "tools": [WEATHER],
        "tool_choice": choice,
        "seed": 1,
        "parallel_tool_calls": False,
    }
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        deltas = [d for c in chunks for d in c.choices[0].delta.tool_calls or []]
        functions = [delta.function for delta in deltas if delta.function]
        name = "".join(function.name or "" for function in functions)
        arguments = "".join(function.arguments or "" for function in functions)
        assert deltas[0].id is not None
        finish = chunks[-1].choices[0].finish_reason
    else:
        answered = client.chat.completions.create(**asked).choices[0]
        (call,) = answered.message.tool_calls or []
        assert call.type == "function"
        name, arguments = call.function.name, call.function.arguments
        finish = answered.finish_reason
    assert name == "weather"
    assert json.loads(arguments)["town"] in ("Oslo", "Rome")
    assert json.loads(arguments)["days"] in (1, 2)
    assert finish == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_was_cut_off_says_so(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": "tiny", "messages": HELLO, "tools": [WEATHER], "max_tokens": 12}
    asked["tool_choice"] = "required"
    if stream:
        choice: Any = list(client.chat.completions.create(**asked, stream=True))[-1].choices[0]
    else:
        choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "length"


def test_of_calls_side_by_side_one_is_left_where_only_one_may_be(client: openai.OpenAI) -> None:
    tools = [WEATHER]
    asked: Any = {"model": "tiny", "messages": HELLO, "tools": tools, "tool_choice": "required"}
    for seed in range(3):
        answer = client.chat.completions.create(**asked, seed=seed, parallel_tool_calls=False)
        assert len(answer.choices[0].message.tool_calls or ()) == 1


def test_the_answer_of_a_tool_can_be_sent_back(client: openai.OpenAI) -> None:
    call = {"name": "weather", "arguments": '{"town": "Oslo", "days": 1}'}
    messages: Any = [
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain"},
    ]
    answer = client.chat.completions.create(
        model="tiny", messages=messages, tools=[WEATHER], max_tokens=5, temperature=0
    )
    assert answer.choices[0].message.content is not None


def test_content_can_be_a_list_of_texts(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    assert (
        client.chat.completions.create(**asked, messages=parts).choices[0].message.content
        == client.chat.completions.create(**asked, messages=HELLO).choices[0].message.content
    )


def test_a_context_policy_is_reported(server: Running) -> None:
    turns = [
        {"role": role, "content": "A long sentence about a cat and a dog. " * 8}
        for role in ("user", "assistant") * 8
    ]
    body = {"messages": [*turns, *HELLO], "max_tokens": 4}
    status, refused = server.post("/v1/chat/completions", body)
    assert status == 400
    assert refused["error"]["code"] == "context_length_exceeded"
    body["context_policy"] = "truncate-oldest"
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200
    assert answer["context"]["policy"] == "truncate-oldest"
    assert answer["context"]["dropped_messages"] > 0
