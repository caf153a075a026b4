"""Tool calls read out of answers, however the answers are cut into tokens."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama3_vocabulary import llama3_tokenizer

from edgellama.tokenizer import Tokenizer
from edgellama.tools import (
    CallArguments,
    CallStart,
    Delta,
    TextDelta,
    ToolReader,
    parse_calls,
    text_of,
)

PYTHON_TAG = "<|python_tag|>"


def function(name: str, *properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {} for name in properties}}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER = function("get_weather", "city", "days")
CLOCK = function("clock")
BUILT_IN = [
    {"type": "function", "function": {"name": name}}
    for name in ("brave_search", "code_interpreter")
]
TOOLS = [WEATHER, CLOCK, function("clock-utc"), *BUILT_IN]


@dataclass(frozen=True)
class Token:
    text: str
    id: int = 0


def outcome(deltas: Iterable[Delta]) -> tuple[str, list[tuple[str, str]]]:
    """(text, [(name, arguments), ...]) of a stream, after a check that it is well formed."""
    text, calls = "", list[tuple[str, str]]()
    for delta in deltas:
        if isinstance(delta, TextDelta):
            assert delta.text
            text += delta.text
        elif isinstance(delta, CallStart):
            assert delta.index == len(calls)
            calls.append((delta.name, ""))
        else:
            assert delta.index == len(calls) - 1
            name, arguments = calls[-1]
            calls[-1] = (name, arguments + delta.fragment)
    return text, calls


def read(chunks: Iterable[str], tools: Any = TOOLS) -> tuple[str, list[tuple[str, str]]]:
    reader = ToolReader(None, tools)
    deltas = [delta for chunk in chunks for delta in reader.push(Token(chunk))]
    read = outcome(deltas + reader.finish())
    assert read[1] == [(call.name, call.arguments) for call in reader.calls]
    return read


PARIS = ("get_weather", '{"city": "Paris", "days": 2}')
CALL = '{"name": "get_weather", "parameters": {"city": "Paris", "days": 2}}'
FORMS = [
    (CALL, "", [PARIS]),
    (f"  \n{CALL}\n", "", [PARIS]),
    (CALL.replace("parameters", "arguments"), "", [PARIS]),
    ('{"type": "function", ' + CALL[1:], "", [PARIS]),
    (CALL[:-1] + ', "type": "function", "id": "7"}', "", [PARIS]),
    (f'{{"type": "function", "function": {CALL}}}', "", [PARIS]),
    ('{"function": "clock", "parameters": {}}', "", [("clock", "{}")]),
    ('{"parameters": {"city": "Paris", "days": 2}, "name": "get_weather"}', "", [PARIS]),
    ('{"name": "clock", "parameters": null}', "", [("clock", "{}")]),
    (r'{"name": "clock", "arguments": "{\"a\": 1}"}', "", [("clock", '{"a": 1}')]),
    (f"{CALL}; {CALL}", "", [PARIS, PARIS]),
    (f"{CALL}\n{CALL}\n", "", [PARIS, PARIS]),
    (f"{CALL}, {CALL}", "", [PARIS, PARIS]),
    (f"[{CALL}, {CALL}]", "", [PARIS, PARIS]),
    (f"[\n  {CALL}\n]", "", [PARIS]),
    (f"I will ask.\n\n{CALL}\n\nDone.", "I will ask.\n\n\n\nDone.", [PARIS]),
    (CALL[:-1], "", [PARIS]),  # small models forget the last brace
    (f"{PYTHON_TAG}{CALL}", "", [PARIS]),
    ('<function=get_weather>{"city": "Paris", "days": 2}</function>', "", [PARIS]),
    ("Hm <function=clock></function> ok", "Hm  ok", [("clock", "{}")]),
    ('<function=clock>{"a": 1}', "", [("clock", '{"a": 1}')]),
    (f"<tool_call>\n{CALL}\n</tool_call>", "", [PARIS]),
    ("[get_weather(city='Paris', days=2)]", "", [PARIS]),
    ('[get_weather(city="Paris", days=2), clock()]', "", [PARIS, ("clock", "{}")]),
    ("[clock-utc(), clock()]", "", [("clock-utc", "{}"), ("clock", "{}")]),
    (f"{PYTHON_TAG}[clock()]", "", [("clock", "{}")]),
    (
        "[get_weather(city='a)]\\'', days=[1, -2.5, {'x': (None, True, false)}])]",
        "",
        [("get_weather", '{"city": "a)]\'", "days": [1, -2.5, {"x": [null, true, false]}]}')],
    ),
    (
        "[clock(a='''it's''', b='', c='\\d')]",
        "",
        [("clock", '{"a": "it\'s", "b": "", "c": "\\\\d"}')],
    ),
    (f'{PYTHON_TAG}brave_search.call(query="who?")', "", [("brave_search", '{"query": "who?"}')]),
    (
        f'{PYTHON_TAG}brave_search.call(query="say "hi" (now)")',
        "",
        [("brave_search", '{"query": "say \\"hi\\" (now)"}')],
    ),
    ('brave_search.call(query="who?")', "", [("brave_search", '{"query": "who?"}')]),
    (f'{PYTHON_TAG}get_weather.call(city="Paris", days=2)', "", [PARIS]),
    (f'{PYTHON_TAG}get_weather(city="Paris", days=2)\n', "", [PARIS]),
    (f"{PYTHON_TAG}clock().now", "", [("code_interpreter", '{"code": "clock().now"}')]),
    (
        f"{PYTHON_TAG}clock(a=1); clock(a=2)",
        "",
        [("code_interpreter", '{"code": "clock(a=1); clock(a=2)"}')],
    ),
    (
        f'{PYTHON_TAG}import math\nprint("π", {{1: [2]}})',
        "",
        [("code_interpreter", '{"code": "import math\\nprint(\\"π\\", {1: [2]})"}')],
    ),
    (f"{PYTHON_TAG}[x for x in y]", "", [("code_interpreter", '{"code": "[x for x in y]"}')]),
    (
        '{"name": "clock", "parameters": {"a": "one\ntwo", "b": "\\u00e9 \\" }", "c": [{}, -1e3]}}',
        "",
        [("clock", '{"a": "one\\ntwo", "b": "\\u00e9 \\" }", "c": [{}, -1e3]}')],
    ),
]


@pytest.mark.parametrize(("answer", "text", "calls"), FORMS)
def test_a_form_is_read_however_it_is_cut_in_two(
    answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    for i in range(len(answer)):
        assert read([answer[:i], answer[i:]]) == (text, calls)


@pytest.mark.parametrize(("answer", "text", "calls"), FORMS)
def test_a_form_is_read_character_by_character(
    answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    assert read(answer) == (text, calls)
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)


@pytest.fixture(scope="module")
def llama3(llama3_tokenizer_model: Path) -> Tokenizer:
    return llama3_tokenizer(llama3_tokenizer_model, PYTHON_TAG)


@pytest.mark.parametrize(("answer", "text", "calls"), FORMS)
def test_a_form_is_read_token_by_token_with_the_tag_by_its_id(
    llama3: Tokenizer, answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    reader, stream = ToolReader(llama3, TOOLS), llama3.stream()
    ids = llama3.encode(answer, special=True)
    assert (llama3.token_id(PYTHON_TAG) in ids) == (PYTHON_TAG in answer)
    deltas = [d for id in ids for d in reader.push(Token(stream.push(id), id))]
    assert outcome(deltas + reader.finish()) == (text, calls)


NO_CALLS = [
    "",
    " \n ",
    "Hello [1, 2] {x}",
    '{"name": "Ada", "parameters": {}}',
    '{"name": "get_weather"}',
    '{"name": "get_weather", "city": "Paris"}',
    '{"name": "get_weather", "parameters": "Paris"}',
    '{"name": "get_weather", "parameters": [1]}',
    '{"parameters": {"city": "Paris"}, "name": "get_weath',
    '{"type": "object", "name": "get_weather", "parameters": {}}',
    '{"parameters": {"a": 01}, "name": "clock"}',
    '{"function": {"function": {"name": "clock", "parameters": {}}}}',
    '[{"name": "Ada", "parameters": {}}]',
    "[]",
    "[link](https://example.com)",
    "[get_weather(city='Paris'",
    "[get_weather('Paris')]",
    "[get_weather(city=paris)]",
    "[get_weather(city=f('x'))]",
    "[get_weather(city='a', city='b')]",
    "[get_weather(**{'city': 'a'})]",
    "[get_weather(city=b'a')]",
    "[get_weather(city=1e999)]",
    "[get_weather(city='\\ud800')]",
    "[get_weather(city='a') for _ in x]",
    "[other(city='Paris')]",
    "get_weather(city='Paris')",
    "<function=other>{}</function>",
    "<function=get_weather {}",
    "<<function=",
    "1 < 2 <tool_call>\n{}",
    f"See {CALL}",
    f"```json\n{CALL}\n```\n",
    "<|python",
    "brave_search.call(1)",
    "brave_search is good",
]


@pytest.mark.parametrize("answer", NO_CALLS)
def test_what_is_no_call_of_a_known_tool_comes_out_as_it_went_in(answer: str) -> None:
    for i in range(len(answer) + 1):
        assert read([answer[:i], answer[i:]]) == (answer, [])


PIECES = [
    *('{"name": "', "clock", "Ada", '"', ', "parameters": ', "{", "}", '"a": 1', "null"),
    *("[", "]", "clock(", "clock()", "a=1", "'", ")", ", ", ";", "\n", " ", "```", "x", "\\"),
    *("<function=", "clock>", "</function>", "<tool_call>", PYTHON_TAG, "brave_search.call("),
]


@settings(max_examples=150)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_nothing_is_lost_of_a_text_without_calls(answer: str) -> None:
    text, calls = read(answer, [function("other")])
    assert (text, calls) == (answer, [])


@settings(max_examples=150)
@given(st.lists(st.sampled_from(PIECES), max_size=25), st.integers(1, 9))
def test_what_is_read_does_not_depend_on_the_cuts(pieces: list[str], n: int) -> None:
    answer = "".join(pieces)
    text, calls = read(answer)
    assert read(pieces) == (text, calls)
    assert read([answer[i : i + n] for i in range(0, len(answer), n)]) == (text, calls)
    if not calls:
        assert text == answer


@given(st.text(max_size=40))
def test_any_text_passes_through_a_reader_without_tools(answer: str) -> None:
    assert read(answer, []) == (answer, [])


def test_text_that_cannot_become_a_call_is_let_through_at_once() -> None:
    reader = ToolReader(None, TOOLS)
    for char in "Hello {x} [clock()] brave_search.call(\n- [1] ":
        assert reader.push(Token(char)) == [TextDelta(char)]


def test_what_may_become_a_call_is_held_only_until_it_cannot() -> None:
    reader = ToolReader(None, TOOLS)
    assert reader.push(Token('{"name": "')) == []
    assert reader.push(Token("A")) == [TextDelta('{"name": "A')]
    assert reader.push(Token("da")) == [TextDelta("da")]


def test_arguments_in_json_stream_as_they_are_written() -> None:
    reader = ToolReader(None, TOOLS, seed=1)
    assert reader.push(Token('{"name": "clock", "parameters": ')) == []
    start, opening = reader.push(Token('{"a'))
    assert isinstance(start, CallStart)
    assert (start.index, start.name) == (0, "clock")
    assert opening == CallArguments(0, '{"a')
    assert reader.push(Token('": 1')) == [CallArguments(0, '": 1')]
    assert reader.calls[0].arguments == '{"a": 1'
    assert reader.push(Token("}}")) == [CallArguments(0, "}")]
    assert reader.finish() == []
    assert reader.finish() == []
    assert reader.calls[0].as_openai() == {
        "id": start.id,
        "type": "function",
        "function": {"name": "clock", "arguments": '{"a": 1}'},
    }


def test_a_call_that_breaks_off_keeps_what_there_is() -> None:
    assert read(CALL[:-7]) == ("", [("get_weather", '{"city": "Paris", "day')])


def test_what_goes_astray_inside_a_call_is_text_from_there_on() -> None:
    answer = '{"name": "clock", "parameters": {"a": 1]} or so'
    assert read(answer) == ("]} or so", [("clock", '{"a": 1')])


def test_an_unknown_function_beside_a_known_one_stays_text() -> None:
    other = '{"name": "other", "parameters": {}}'
    assert read(f"[{CALL}, {other}]") == (f", {other}]", [PARIS])
    assert read("[clock(), other()]") == (", other()]", [("clock", "{}")])


def test_code_behind_the_tag_is_text_where_no_tool_takes_code(llama3: Tokenizer) -> None:
    reader, tag = ToolReader(llama3, [CLOCK]), llama3.token_id(PYTHON_TAG)
    assert tag is not None
    deltas = [*reader.push(Token("", tag)), *reader.push(Token("print(1)")), *reader.finish()]
    assert outcome(deltas) == ("print(1)", [])


def test_ids_differ_and_follow_from_the_seed() -> None:
    two = f"{CALL}; {CALL}"
    ids = [[call.id for call in parse_calls(two, TOOLS, seed)[1]] for seed in (1, 1, 2, None)]
    assert ids[0] == ids[1]
    flat = {id for group in ids[1:] for id in group}
    assert len(flat) == 6
    assert all(id.startswith("call_") for id in flat)


def test_a_whole_text_is_parsed_at_once() -> None:
    text, calls = parse_calls(f"Let me see.\n{CALL}", TOOLS)
    assert text == "Let me see.\n"
    assert [(call.name, call.arguments) for call in calls] == [PARIS]
    assert text_of([TextDelta("a"), CallStart(0, "1", "f"), TextDelta("b")]) == "ab"


@pytest.mark.parametrize(
    "hostile",
    [
        '{"name": "clock", "parameters": ' + '{"a": ' * 3000,
        '{"parameters": ' + "[" * 3000,
        '{"parameters": ' + "1" * 5000 + "}",
        '{"function": ' * 3000,
        "[clock(a=" + "-" * 20_000 + "1)]",
        "[clock(a=" + "[" * 3000 + "]" * 3000 + ")]",
        "[clock(a=" + "x." * 20_000 + "y)]",
        "[clock(a='" + "\\" * 3001,
        "[" * 20_000,
        "{" * 20_000,
        "<function=" * 2000,
        "brave_search.call(" * 2000,
    ],
)
def test_hostile_answers_are_read_to_their_end_in_time(hostile: str) -> None:
    text, calls = read([hostile])
    assert len(text) + sum(len(arguments) for _, arguments in calls) > len(hostile) - 40
