"""What callers may offer and choose, and answers that are made to be calls."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgellama import Llama
from edgellama.errors import InvalidRequest
from edgellama.grammar import Grammar
from edgellama.tools import check_tools, parse_calls, shown_tools, tool_grammar


def function(name: str, *, strict: bool | None = None, **properties: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    flag = {} if strict is None else {"strict": strict}
    return {"type": "function", "function": {"name": name, "parameters": schema, **flag}}


LAMP = function("lamp", on={"type": "boolean"})
DOOR = function("open-door", which={"enum": ["front", "back"]})
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [LAMP, DOOR, CLOCK]
LAMP_CALL = '{"name": "lamp", "parameters": {"on": true}}'
DOOR_CALL = '{"name": "open-door", "parameters": {"which": "back"}}'
CLOCK_CALL = '{"name": "clock", "parameters": {}}'


def deep(n: int) -> dict[str, Any]:
    return {"not": deep(n - 1)} if n else {}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def grammar(tools: Any, choice: Any = "auto", *, parallel: bool = True) -> Grammar:
    made = tool_grammar(tools, choice, None, parallel)
    assert made is not None
    return made


def test_required_admits_one_call_or_several_and_nothing_else() -> None:
    required = grammar(TOOLS, "required")
    for answer in (LAMP_CALL, DOOR_CALL, CLOCK_CALL, f"{LAMP_CALL}; {DOOR_CALL}; {LAMP_CALL}"):
        assert required.check(answer)
        assert parse_calls(answer, TOOLS)[0] == ""
        assert len(parse_calls(answer, TOOLS)[1]) == answer.count("name")
    for answer in ("", "Hello", f"{LAMP_CALL};", f"Yes: {LAMP_CALL}", LAMP_CALL[:-1]):
        assert not required.check(answer)


def test_arguments_follow_the_schema() -> None:
    required = grammar(TOOLS, "required")
    assert not required.check(LAMP_CALL.replace("true", "1"))
    assert not required.check(DOOR_CALL.replace("back", "side"))
    assert not required.check(CLOCK_CALL.replace("{}", '{"a": 1}'))
    assert not required.check('{"name": "lamp", "parameters": {}}')
    assert not required.check(LAMP_CALL.replace("lamp", "lamps"))


def test_without_parallel_calls_one_is_all() -> None:
    assert grammar(TOOLS, "required", parallel=False).check(LAMP_CALL)
    assert not grammar(TOOLS, "required", parallel=False).check(f"{LAMP_CALL}; {LAMP_CALL}")


def test_a_named_function_is_the_one_that_is_called_once() -> None:
    door = grammar(TOOLS, named("open-door"))
    assert door.check(DOOR_CALL)
    assert not door.check(LAMP_CALL)
    assert not door.check(f"{DOOR_CALL}; {DOOR_CALL}")


def test_references_inside_a_schema_stay_inside() -> None:
    defs = {"$defs": {"side": {"enum": ["front", "back"]}}}
    tool = function("open", which={"$ref": "#/$defs/side"})
    tool["function"]["parameters"].update(defs)
    opening = grammar([tool, LAMP], "required")
    assert opening.check('{"name": "open", "parameters": {"which": "front"}}')
    assert not opening.check('{"name": "open", "parameters": {"which": "side"}}')


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_free_choice_needs_no_grammar(choice: str) -> None:
    assert tool_grammar(TOOLS, choice, None) is None
    assert tool_grammar([], choice, None) is None


STRICT = [function("lamp", strict=True, on={"type": "boolean"}), DOOR]


@pytest.mark.parametrize(
    "answer",
    ["", "Hello", "The lamp(s): [1]", f"{LAMP_CALL}; {DOOR_CALL}", '{"name": "Ada"}', "a\n[b](c)"],
)
def test_with_strict_tools_text_and_calls_by_the_schema_are_free(answer: str) -> None:
    assert grammar(STRICT).check(answer)


@pytest.mark.parametrize(
    "answer",
    [
        LAMP_CALL.replace("true", "1"),
        '{"name":"lamp", "parameters": {"on": 1}}',
        'Well.\n{"name": "lamp", "parameters": {}}',
        '{"type": "function", "function": {"name" :\n"lamp", "parameters": {}}}',
        "<function=lamp>{}</function>",
        "[lamp(on=1)]",
        "[open-door(which='back'), lamp(on=1)]",
        "lamp.call(on=1)",
    ],
)
def test_no_other_form_gets_round_a_strict_schema(answer: str) -> None:
    assert not grammar(STRICT).check(answer)


def test_calls_of_tools_that_are_not_strict_are_as_free_as_ever() -> None:
    assert grammar(STRICT).check('{"name": "open-door", "parameters": {"which": "side"}}')


def test_what_cannot_be_enforced_names_the_tool_and_the_place() -> None:
    tools = [LAMP, function("mail", to={"type": "string", "format": "pigeon"})]
    with pytest.raises(InvalidRequest, match=r"tool mail: parameters: .*properties/to.*pigeon"):
        tool_grammar(tools, "required", None)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("maybe", "tool_choice 'maybe': expected one of none, auto, required"),
        (None, "tool_choice None"),
        (named("nobody"), "no tool is named 'nobody'"),
        ({"type": "function"}, "expected .*function.*name"),
        ({"function": {"name": "lamp"}}, "expected .*function.*name"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        tool_grammar(TOOLS, choice, None)


def test_required_needs_something_to_choose_from() -> None:
    with pytest.raises(InvalidRequest, match="no tools to choose from"):
        tool_grammar([], "required", None)


def test_only_the_choice_none_hides_the_tools() -> None:
    assert shown_tools(TOOLS, "none") == ()
    for choice in ("auto", "required", named("lamp")):
        assert [tool.name for tool in shown_tools(TOOLS, choice)] == ["lamp", "open-door", "clock"]


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ("lamp", "tool 0: expected"),
        ({"type": "function"}, "tool 0: expected"),
        ({"type": "web_search", "function": {}}, "tool 0: type 'web_search'"),
        ({**LAMP, "cache": 1}, "tool 0: the field 'cache' is not known"),
        (
            {"type": "function", "function": {"name": "a", "returns": {}}},
            "function: the field 'returns'",
        ),
        ({"type": "function", "function": {}}, "the name None must be 1 to 64"),
        ({"type": "function", "function": {"name": "a b"}}, "the name 'a b' must be 1 to 64"),
        ({"type": "function", "function": {"name": "a" * 65}}, "must be 1 to 64"),
        ({"type": "function", "function": {"name": "a\n"}}, "must be 1 to 64"),
        ({"type": "function", "function": {"name": "a", "description": 1}}, "description"),
        ({"type": "function", "function": {"name": "a", "strict": 1}}, "strict: expected true"),
        ({"type": "function", "function": {"name": "a", "parameters": []}}, "parameters"),
        (
            {"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}},
            r"tool 0 \(a\): parameters: expected the JSON schema of an object",
        ),
        ({"type": "function", "function": {"name": "a", "parameters": {"x": {1}}}}, "as JSON"),
        ({"type": "function", "function": {"name": "a", "parameters": deep(99)}}, "64 levels"),
        (
            {"type": "function", "function": {"name": "a", "description": "\ud800"}},
            "lone surrogate",
        ),
    ],
)
def test_a_tool_that_cannot_be_is_refused_by_place(tool: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check_tools([tool])


def test_a_name_is_taken_once_and_there_is_an_end_to_tools() -> None:
    with pytest.raises(InvalidRequest, match="tool 2: the name 'lamp' is taken by tool 0"):
        check_tools([LAMP, DOOR, LAMP])
    with pytest.raises(InvalidRequest, match="129 tools, at most 128"):
        check_tools([function(f"f{i}") for i in range(129)])
    with pytest.raises(InvalidRequest, match="expected a list"):
        check_tools(LAMP)  # type: ignore[arg-type]


def test_fields_that_are_none_are_absent_and_strict_is_not_shown() -> None:
    given = {"name": "lamp", "description": None, "strict": True}
    (tool,) = check_tools([{"type": "function", "function": given}])
    assert tool.strict
    assert tool.shown == {"type": "function", "function": {"name": "lamp"}}


def test_a_built_in_tool_brings_its_parameters() -> None:
    (search,) = check_tools([{"type": "function", "function": {"name": "brave_search"}}])
    assert search.built_in
    assert grammar([search.shown], "required").check(
        '{"name": "brave_search", "parameters": {"query": "who"}}'
    )
    (own,) = check_tools([function("brave_search", query={}, count={})])
    assert not own.built_in


def test_a_model_that_knows_nothing_of_tools_makes_a_valid_call(
    write_tiny_llama: Any, tmp_path: Path
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", tokenizer="bpe", context_length=2048)
    with Llama(path, chat_format="llama3", n_ctx=2048) as llm:
        for seed in range(2):
            answer = llm.chat(
                [{"role": "user", "content": "hello"}],
                tools=[LAMP],
                tool_choice=named("lamp"),
                seed=seed,
                temperature=1.5,
                max_tokens=200,
            )
            (call,) = answer.tool_calls
            assert (answer.text, answer.finish_reason, call.name) == ("", "tool_calls", "lamp")
            assert json.loads(call.arguments) in ({"on": True}, {"on": False})
