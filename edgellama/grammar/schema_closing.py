"""Objects that name their properties and say nothing of others get none, as from llama.cpp.

JSON schema would allow any others, and a small model goes on inventing them; a function that is
called with them fails. Objects that are put together of several schemas stay as they are, since
each part would exclude the properties of the rest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_TOGETHER = ("$ref", "allOf", "anyOf")
_NAMED = ("$defs", "definitions")
_MAPS = ("patternProperties", "properties")
_LISTS = ("allOf", "anyOf", "prefixItems")
_SINGLE = ("additionalProperties", "items")

_Schema = dict[str, Any]


def close_objects(root: _Schema, targets: Mapping[str, Any]) -> None:
    """Write additionalProperties: false where it belongs. targets: what each $ref names."""
    schemas: dict[int, _Schema] = {}
    parts: set[int] = set()  # of these, those that hold together with others
    pending: list[tuple[Any, bool]] = [(root, False)]
    while pending:
        schema, is_part = pending.pop()
        if not isinstance(schema, dict):
            continue
        key = id(schema)
        if key in schemas and (not is_part or key in parts):
            continue
        schemas[key] = schema
        is_part |= _is_put_together(schema)
        if is_part:
            parts.add(key)
        pending += ((inner, is_part) for inner in _inner(schema))
        for keyword in _NAMED:
            pending += ((named, False) for named in schema.get(keyword, {}).values())
        if "$ref" in schema:
            pending.append((targets[schema["$ref"]], is_part))
    for key, schema in schemas.items():
        if key not in parts and _names_all(schema):
            schema["additionalProperties"] = False


def _is_put_together(schema: _Schema) -> bool:
    """Whether what its parts say holds together with something else."""
    together = [keyword for keyword in _TOGETHER if keyword in schema]
    beside = schema.keys() - {*_NAMED, *together}
    return len(together) > 1 or bool(together and beside) or len(schema.get("allOf", ())) > 1


def _inner(schema: _Schema) -> Iterator[Any]:
    for keyword in _MAPS:
        yield from schema.get(keyword, {}).values()
    for keyword in _LISTS:
        yield from schema.get(keyword, ())
    for keyword in _SINGLE:
        yield schema.get(keyword)


def _names_all(schema: _Schema) -> bool:
    """Whether it names properties, and needs no others."""
    says_more = schema.keys() & {"additionalProperties", "patternProperties", "minProperties"}
    return (
        "properties" in schema
        and not says_more
        and schema["properties"].keys() >= set(schema.get("required", ()))
    )
