"""Messages in OpenAI's shape: what is accepted, and what a refusal names."""

from typing import Any

import pytest

from edgellama.chat_messages import check_conversation
from edgellama.errors import InvalidRequest


def call(name: str = "lamp", arguments: Any = '{"on": true}', **fields: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function, **fields}


def checked(message: dict[str, Any]) -> Any:
    (said,) = check_conversation([message]).messages  # type: ignore[list-item]
    return said


@pytest.mark.parametrize(
    ("given", "role"),
    [
        *((role, role) for role in ("system", "user", "assistant", "tool")),
        ("developer", "system"),
        ("ipython", "tool"),
    ],
)
def test_every_role_has_its_place(given: str, role: str) -> None:
    assert checked({"role": given, "content": "a"}).role == role


def test_texts_in_parts_become_lines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b\n"}]
    assert checked({"role": "user", "content": parts}).text == "a\nb\n"
    assert checked({"role": "user", "content": []}).text == ""


def test_calls_carry_their_arguments_as_values() -> None:
    said = checked({"role": "assistant", "content": None, "tool_calls": [call()]})
    assert said.text == ""
    assert [(c.id, c.name, c.arguments) for c in said.calls] == [("call_1", "lamp", {"on": True})]
    assert said.as_message() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [call(arguments={"on": True})],
    }
    assert (
        checked({"role": "assistant", "tool_calls": [call(arguments="")]}).calls[0].arguments == {}
    )


def test_what_is_none_is_absent() -> None:
    fields = {"tool_calls": None, "refusal": None, "audio": None, "function_call": None}
    assert checked({"role": "assistant", "content": "a", **fields}).as_message() == {
        "role": "assistant",
        "content": "a",
    }


def test_a_result_names_its_call_and_a_speaker_has_a_name() -> None:
    result = {"role": "tool", "content": "a", "tool_call_id": "call_1", "name": "lamp"}
    assert checked(result).as_message() == result


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        ({"role": "user", "content": "a", "mood": "sad"}, "expected no field 'mood'"),
        ({"role": "user", "content": "a", "tool_calls": [call()]}, "no field 'tool_calls'"),
        ({"role": "assistant", "content": "a", "tool_call_id": "1"}, "no field 'tool_call_id'"),
        ({"role": "assistant", "content": None}, "expected text"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "expected text"),
        ({"role": "tool", "tool_call_id": "1"}, "expected text"),
        ({"role": ["user"], "content": "a"}, "role"),
        ({"role": "user", "content": 1}, "content: expected text"),
        ({"role": "user", "content": {"type": "text", "text": "a"}}, "content: expected text"),
        ({"role": "user", "content": ["a"]}, r"content\[0\]: expected"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            r"content\[0\]: type 'image_url' cannot be read, only \"text\"",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, r"content\[0\].text: expected text"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a", "cache": 1}]},
            r"content\[0\]: expected no field 'cache'",
        ),
        ({"role": "user", "content": [{"type": "text", "text": "\ud800"}]}, "lone surrogate"),
        ({"role": "tool", "content": "a", "tool_call_id": 7}, "tool_call_id: expected text"),
        ({"role": "user", "content": "a", "name": 7}, "name: expected text"),
        ({"role": "assistant", "tool_calls": "x"}, "tool_calls: expected a list"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, r"tool_calls\[0\]: expected"),
        ({"role": "assistant", "tool_calls": [call(x=1)]}, r"tool_calls\[0\]: .*field 'x'"),
        ({"role": "assistant", "tool_calls": [call(type="code")]}, "type 'code'"),
        ({"role": "assistant", "tool_calls": [call(name="a b")]}, "the name 'a b'"),
        ({"role": "assistant", "tool_calls": [call(arguments={})]}, "arguments: expected text"),
        ({"role": "assistant", "tool_calls": [call(arguments="[1]")]}, "a JSON object as text"),
        ({"role": "assistant", "tool_calls": [call(arguments='{"a": NaN}')]}, "a JSON object"),
        ({"role": "assistant", "tool_calls": [call(arguments='{"a')]}, "a JSON object"),
        ({"role": "assistant", "tool_calls": [call(arguments='{"a":' * 9999)]}, "a JSON object"),
        (
            {"role": "assistant", "tool_calls": [call(arguments='{"a":' * 99 + "1" + "}" * 99)]},
            "a JSON object",
        ),
        ({"role": "assistant", "tool_calls": [call(arguments=r'{"a":"\ud800"}')]}, "a JSON object"),
    ],
)
def test_a_refusal_names_the_message_and_the_field(message: Any, refusal: str) -> None:
    with pytest.raises(InvalidRequest, match=f"message 1: .*{refusal}"):
        check_conversation([{"role": "user", "content": "a"}, message])


@pytest.mark.parametrize("messages", ["hello", {"role": "user", "content": "a"}, None])
def test_what_is_no_list_of_messages_is_named(messages: Any) -> None:
    found = f"at least one message, .*, found {type(messages).__name__}"
    with pytest.raises(InvalidRequest, match=found):
        check_conversation(messages)


def test_no_message_is_no_conversation() -> None:
    with pytest.raises(InvalidRequest, match="at least one message"):
        check_conversation([])
