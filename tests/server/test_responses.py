"""The responses API, asked with OpenAI's own client."""

import json
from typing import Any

import openai
import pytest

STORY = "Tell me a story about a cat."
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"town": {"enum": ["Oslo", "Rome"]}},
        "required": ["town"],
        "additionalProperties": False,
    },
}


def test_a_response_says_what_a_chat_says(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "temperature": 0}
    response = client.responses.create(
        input=STORY, instructions="Be kind.", max_output_tokens=12, **asked
    )
    chat = client.chat.completions.create(
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": STORY},
        ],
        max_tokens=12,
        **asked,
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 12


def test_a_stream_of_events_builds_the_response(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "input": STORY, "seed": 3}
    asked = {"model": "tiny", "input": STORY, "max_output_tokens": 12, "temperature": 0}
    whole = client.responses.create(**asked)
    events: list[Any] = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text == events[-1].response.output_text
    assert events[-4].text == whole.output_text


def test_a_conversation_goes_on_with_its_output(client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input="Hello", max_output_tokens=8, temperature=0)
    items: Any = [
        {"role": "user", "content": "Hello"},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"role": "user", "content": [{"type": "input_text", "text": "And then?"}]},
    ]
    second = client.responses.create(model="tiny", input=items, max_output_tokens=8)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + 8


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_must_be_made_is_made(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": "tiny", "input": "Hello", "tools": [WEATHER], "tool_choice": "required"}
    asked["parallel_tool_calls"] = False
    if stream:
        events: list[Any] = list(client.responses.create(**asked, stream=True))
        (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
        deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
        assert "".join(deltas) == done.arguments
        response = events[-1].response
    else:
        response = client.responses.create(**asked)
    (call,) = response.output
    assert call.type == "function_call"
    assert call.name == "weather"
    assert json.loads(call.arguments)["town"] in ("Oslo", "Rome")
    items: Any = [
        {"role": "user", "content": "Hello"},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "Rain"},
    ]
    after = client.responses.create(model="tiny", input=items, tools=[WEATHER], max_output_tokens=4)
    assert after.status in ("completed", "incomplete")


def test_a_format_is_followed(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    format: Any = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    response = client.responses.create(model="tiny", input="Hello", text={"format": format})
    assert isinstance(json.loads(response.output_text)["ok"], bool)


def test_log_probabilities_can_be_included(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model="tiny",
        input="Hello",
        max_output_tokens=4,
        temperature=0,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    part: Any = response.output[0]
    logprobs = part.content[0].logprobs
    assert "".join(entry.token for entry in logprobs) == response.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("store", True, "no answer is stored"),
        ("previous_response_id", "resp_1", "no answer is stored"),
        ("background", True, "while you wait"),
        ("tools", [{"type": "web_search"}], "function"),
        ("input", [{"type": "reasoning", "summary": []}], "must be a message"),
        (
            "input",
            [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}],
            "text",
        ),
        ("truncation", "middle", "truncation"),
        ("include", ["file_search_call.results"], "include"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    client: openai.OpenAI, field: str, value: Any, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.responses.create(**{"model": "tiny", "input": "Hello", field: value})
