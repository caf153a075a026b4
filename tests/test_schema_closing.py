"""Objects have the properties that their schema names; others only where it speaks of others."""

from typing import Any

import pytest

from edgellama.grammar import Grammar
from edgellama.tools import tool_grammar

A = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}
OPEN = {"additionalProperties": True}
FULL, MORE = '{"a":1}', '{"a":1,"x":2}'


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        (A, [FULL], [MORE]),
        (A | OPEN, [FULL, MORE], []),
        (A | {"patternProperties": {"^x": {}}}, [FULL, MORE], ['{"a":1,"x":"', '{"a":1,"y']),
        ({"type": "object"}, ["{}", MORE], []),
        ({"type": "object", "properties": {}}, ["{}"], [MORE]),
        ({"properties": {"a": {}}}, ["{}", FULL, "[]", "3"], [MORE]),
        (A | {"required": ["a", "x"]}, [MORE], [FULL]),
        ({"type": "object", "properties": {"a": A}}, ['{"a":{"a":1}}'], ['{"a":{"a":1,"x":2}}']),
        ({"type": "array", "items": A}, [f"[{FULL}]"], [f"[{MORE}]"]),
        ({"anyOf": [A, B]}, [FULL, '{"b":1}'], [MORE, '{"a":1,"b":1}']),
        ({"oneOf": [A, {"type": "null"}]}, [FULL, "null"], [MORE]),
        ({"additionalProperties": A}, [f'{{"k":{FULL}}}'], [f'{{"k":{MORE}}}']),
    ],
)
def test_who_names_properties_means_these(
    schema: dict[str, Any], yes: list[str], no: list[str]
) -> None:
    grammar = Grammar.json_schema(schema)
    assert [text for text in yes if not grammar.check(text)] == []
    assert [text for text in no if grammar.check(text)] == []


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [A, B]},
        {**A, "allOf": [B]},
        {**A, "anyOf": [B, {"type": "null"}]},
        {**A, "oneOf": [B, {"type": "null"}]},
        {**A, "$ref": "#/$defs/b", "$defs": {"b": B}},
        {"allOf": [A, {"$ref": "#/$defs/c"}], "$defs": {"c": {"$ref": "#/$defs/b"}, "b": B}},
        {"anyOf": [{"allOf": [A, {"anyOf": [B]}]}]},
    ],
)
def test_parts_of_one_object_do_not_exclude_each_other(schema: dict[str, Any]) -> None:
    grammar = Grammar.json_schema(schema)
    assert grammar.check('{"a":1,"b":2}')
    assert grammar.check('{"a":1,"b":2,"x":3}')


def test_properties_that_two_parts_name_stay_open() -> None:
    parts = [{"properties": {"in": A}, "required": ["in"]}, {"properties": {"in": B}}]
    assert Grammar.json_schema({"type": "object", "allOf": parts}).check('{"in":{"a":1,"b":2}}')


def test_one_part_alone_is_the_whole() -> None:
    """As pydantic writes a field that has a description."""
    schema = {"allOf": [{"$ref": "#/$defs/a"}], "description": "some words", "$defs": {"a": A}}
    assert Grammar.json_schema(schema).check(FULL)
    assert not Grammar.json_schema(schema).check(MORE)


def test_a_schema_that_is_a_part_somewhere_is_open_everywhere() -> None:
    schema = {
        "type": "object",
        "properties": {
            "alone": {"$ref": "#/$defs/a"},
            "both": {"allOf": [{"$ref": "#/$defs/a"}, B]},
        },
        "$defs": {"a": A},
    }
    grammar = Grammar.json_schema(schema)
    assert grammar.check('{"alone":{"a":1},"both":{"a":1,"b":2}}')
    assert grammar.check('{"alone":{"a":1,"x":2}}')
    assert not grammar.check('{"x":2}')


def test_a_schema_of_its_own_kind_is_closed_at_all_depths() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert Grammar.json_schema(tree).check('{"next":{"next":{}}}')
    assert not Grammar.json_schema(tree).check('{"next":{"next":{"x":1}}}')


def test_a_call_has_the_arguments_of_its_function() -> None:
    for parameters in ({}, {"type": "object", "properties": {}}):
        tool = {"type": "function", "function": {"name": "now", "parameters": parameters}}
        grammar = tool_grammar([tool], "required")
        assert grammar is not None
        assert grammar.check('{"name": "now", "parameters": {}}')
        closed = not grammar.check('{"name": "now", "parameters": {"zone":1}}')
        assert closed == bool(parameters)
