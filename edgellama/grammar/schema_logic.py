"""What follows from a schema as a whole: does it end, and can a value satisfy two schemas?"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any] | bool

TYPES = frozenset(("null", "boolean", "number", "string", "array", "object"))
_NESTED_TYPES = frozenset(("array", "object"))
_MAX_ROUNDS = 20  # two do where loops are not in each other
_MAX_STEPS = 20_000
_MAX_DEPTH = 12


class SchemaLogic:
    """Questions to the parts of one schema.

    targets: what its $refs name, by the ref's text; what others refer to first, where it can be.
    """

    def __init__(self, targets: Mapping[str, Schema]) -> None:
        self._targets = targets
        self._steps = 0

    def endless(self, root: Schema) -> str | None:
        """A $ref that no finite value satisfies, "#" for the root itself; None if all end.

        Never-ending are a required property of the schema's own kind, and a $ref that leads back
        to itself without a property or item between.
        """
        for holds in (_is_grounded, _ends):
            proven = self._proven(holds)
            for ref in self._targets:
                if ref not in proven:
                    return ref
            if not holds(root, proven):
                return "#"
        return None

    def overlap(self, schemas: list[Schema]) -> bool:
        """Whether one value might satisfy two of the schemas. May err to True."""
        self._steps = 0
        return not all(
            self._disjoint(one, other, 0)
            for i, one in enumerate(schemas)
            for other in schemas[i + 1 :]
        )

    def _proven(self, holds: Callable[[Schema, set[str]], bool]) -> set[str]:
        """The refs for which a property holds, from those that need no other to those that do."""
        proven: set[str] = set()
        for _ in range(_MAX_ROUNDS):
            found = len(proven)
            for ref, schema in self._targets.items():
                if ref not in proven and holds(schema, proven):
                    proven.add(ref)
            if len(proven) == found:
                break
        return proven

    def _disjoint(self, one: Schema, other: Schema, depth: int) -> bool:
        self._steps += 1
        if depth > _MAX_DEPTH or self._steps > _MAX_STEPS:
            return False
        for this, that in ((one, other), (other, one)):
            if any(self._disjoint(part, that, depth + 1) for part in self._conjuncts(this)):
                return True
            for key in ("anyOf", "oneOf"):
                options = this.get(key) if isinstance(this, Mapping) else None
                if options and all(self._disjoint(part, that, depth + 1) for part in options):
                    return True
        types = _types(one) & _types(other)
        if not types:
            return True
        values, others = _values(one), _values(other)
        if values is not None and others is not None:
            return not values & others
        return types == {"object"} and any(
            self._disjoint(_property(one, name), _property(other, name), depth + 1)
            for name in {**dict.fromkeys(_required(one)), **dict.fromkeys(_required(other))}
        )

    def _conjuncts(self, schema: Schema) -> Iterator[Schema]:
        """Schemas that hold together with the keywords beside them."""
        if isinstance(schema, Mapping):
            if "$ref" in schema:
                yield self._targets[schema["$ref"]]
            yield from schema.get("allOf", ())


def _is_grounded(schema: Schema, proven: set[str]) -> bool:
    """Whether following what applies to the same value comes to an end."""
    if isinstance(schema, bool):
        return True
    if schema.get("$ref", None) is not None and schema["$ref"] not in proven:
        return False
    parts = (part for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, ()))
    return all(_is_grounded(part, proven) for part in parts)


def _ends(schema: Schema, proven: set[str]) -> bool:
    """Whether some finite value can satisfy the schema, as far as its recursion goes."""
    if isinstance(schema, bool):
        return True
    if "$ref" in schema and schema["$ref"] not in proven:
        return False
    if not all(_ends(part, proven) for part in schema.get("allOf", ())):
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(_ends(part, proven) for part in schema[key]):
            return False
    types = _types(schema)
    if types - _NESTED_TYPES or _values(schema) is not None:
        return True
    array = "array" in types and all(_ends(item, proven) for item in _first_items(schema))
    return array or (
        "object" in types
        and all(_ends(_property(schema, name), proven) for name in _required(schema))
    )


def _first_items(schema: Mapping[str, Any]) -> Iterable[Schema]:
    """The schemas of the items that an array must have."""
    n = schema.get("minItems", 0)
    prefix = schema.get("prefixItems", [])
    return prefix[:n] if n <= len(prefix) else [*prefix, schema.get("items", True)]


def _types(schema: Schema) -> frozenset[str]:
    if isinstance(schema, bool):
        return TYPES if schema else frozenset()
    declared = schema.get("type", TYPES)
    names = {declared} if isinstance(declared, str) else declared
    types = frozenset("number" if name == "integer" else name for name in names)
    values = _listed(schema)
    return types if values is None else types & {_type_of(value) for value in values}


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    kinds = ((bool, "boolean"), (int | float, "number"), (str, "string"), (list, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def _listed(schema: Schema) -> list[Any] | None:
    """The only values that `const` or `enum` allow, None without them."""
    if isinstance(schema, bool):
        return None
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _values(schema: Schema) -> set[tuple[str, str]] | None:
    """The same, hashable: 1 is 1.0 and no true."""
    values = _listed(schema)
    return None if values is None else {(_type_of(v), _key(v)) for v in values}


def _key(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        if isinstance(value, list):
            return "[" + ",".join(map(_key, value)) + "]"
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{k!r}:{_key(v)}" for k, v in sorted(value.items())) + "}"
        return repr(value)
    return repr(int(value)) if value == int(value) else repr(value)


def _required(schema: Schema) -> list[str]:
    return [] if isinstance(schema, bool) else schema.get("required", [])


def _property(schema: Schema, name: str) -> Schema:
    """What a property must be; True where patterns may have a say."""
    if isinstance(schema, bool):
        return schema
    if name in schema.get("properties", {}):
        named: Schema = schema["properties"][name]
        return named
    other: Schema = schema.get("additionalProperties", True)
    return True if "patternProperties" in schema else other
