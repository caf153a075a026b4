"""Random JSON schemas that some value satisfies, and whether a text validates."""

import json
import random
from typing import Any

import jsonschema

FORMATS = ("date", "time", "date-time", "duration", "email", "ipv4", "ipv6", "uuid", "uri")


class RandomSchema:
    """A schema that some value satisfies, of all supported keywords; refs may be recursive."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._n_defs = self._random.randrange(4)

    def schema(self) -> dict[str, Any]:
        defs = {f"d{i}": self._scalar() for i in range(self._n_defs)}
        root = self._any(0)
        if self._n_defs:
            tree = {"type": "object", "properties": {"v": self._scalar()}, "required": ["v"]}
            tree["properties"]["more"] = {"type": "array", "items": {"$ref": "#/$defs/tree"}}
            root["$defs"] = {**defs, "tree": tree | {"additionalProperties": False}}
        return root

    def _any(self, depth: int) -> dict[str, Any]:
        makers = [self._scalar, self._scalar]
        if depth < 4:
            makers += [lambda: self._object(depth), lambda: self._array(depth)] * 2
            makers += [lambda: self._choice(depth), lambda: self._all(depth)]
        if self._n_defs:
            name = self._random.choice(["tree", f"d{self._random.randrange(self._n_defs)}"])
            makers.append(lambda: {"$ref": f"#/$defs/{name}"})
        schema = self._random.choice(makers)()
        if self._random.random() < 0.2:
            schema["description"] = "some words"
        return schema

    def _scalar(self) -> dict[str, Any]:
        return self._random.choice(
            [
                lambda: {"type": "null"},
                lambda: {"type": "boolean"},
                self._integer,
                self._number,
                self._string,
                lambda: {"type": ["integer", "null"]},
                lambda: {"const": self._value()},
                lambda: {"enum": [self._value() for _ in range(self._random.randint(1, 5))]},
            ]
        )()

    def _integer(self) -> dict[str, Any]:
        low = self._random.randint(-1000, 1000)
        schema: dict[str, Any] = {"type": "integer"}
        if self._random.random() < 0.6:
            schema[self._random.choice(["minimum", "exclusiveMinimum"])] = low
        if self._random.random() < 0.6:
            high = low + self._random.randint(50, 5000)
            schema[self._random.choice(["maximum", "exclusiveMaximum"])] = high
        if self._random.random() < 0.3:
            schema["multipleOf"] = self._random.randint(1, 20)
        return schema

    def _number(self) -> dict[str, Any]:
        scale = 10.0 ** self._random.randint(-6, 6)
        low, width = self._random.uniform(-1, 1) * scale, self._random.uniform(0.1, 1) * scale
        schema: dict[str, Any] = {"type": "number"}
        if self._random.random() < 0.6:
            schema[self._random.choice(["minimum", "exclusiveMinimum"])] = low
        if self._random.random() < 0.6:
            schema[self._random.choice(["maximum", "exclusiveMaximum"])] = low + width
        return schema

    def _string(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        kind = self._random.randrange(4)
        if kind == 0:
            schema["minLength"] = self._random.randint(0, 5)
            schema["maxLength"] = schema["minLength"] + self._random.randint(0, 20)
        elif kind == 1:
            patterns = ("^[a-z]+$", r"^\d{3}-\d{4}$", "^(red|green|blue)$", "^[^x]{2,5}$", "^é+!?$")
            schema["pattern"] = self._random.choice(patterns)
        elif kind == 2:
            schema["format"] = self._random.choice(FORMATS)
        return schema

    def _value(self) -> object:
        pool = (None, True, False, 0, -17, 2.5, 1e-9, "", "a b", 'q"\\\n', "é", [1, [2]], {"k": {}})
        return self._random.choice(pool)

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._random.sample(["a", "b", "name", "x y", 'q"', "é", "0"], k=4)
        names = names[: self._random.randint(0, 4)]
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: self._any(depth + 1) for name in names},
            "required": [name for name in names if self._random.random() < 0.5],
        }
        more = self._random.random()
        if more < 0.5:
            schema["additionalProperties"] = False
        elif more < 0.7:
            schema["additionalProperties"] = self._scalar()
        elif more < 0.8:
            schema["patternProperties"] = {"^z": self._scalar()}
        if self._random.random() < 0.1:
            schema["minProperties"] = 1
            schema["additionalProperties"] = False
            schema["properties"]["a"] = {}
            schema.pop("patternProperties", None)
        return schema

    def _array(self, depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": self._any(depth + 1)}
        if self._random.random() < 0.3:
            schema["prefixItems"] = [self._any(depth + 1) for _ in range(2)]
        if self._random.random() < 0.5:
            schema["minItems"] = self._random.randint(0, 3)
            schema["maxItems"] = schema["minItems"] + self._random.randint(0, 3)
        return schema

    def _choice(self, depth: int) -> dict[str, Any]:
        if self._random.random() < 0.5:
            return {"anyOf": [self._any(depth + 1) for _ in range(self._random.randint(1, 3))]}
        tagged = [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "data": self._any(depth + 2)},
                "required": ["kind", "data"],
            }
            for kind in ("x", "y", 3)
        ]
        return {"oneOf": [{"type": "null"}, *tagged]}

    def _all(self, depth: int) -> dict[str, Any]:
        parts = [
            {"properties": {name: self._any(depth + 1)}, "required": [name]} for name in ("l", "m")
        ]
        return {"type": "object", "allOf": parts}


def validates(schema: dict[str, Any] | bool, text: str) -> bool:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    return validator.is_valid(json.loads(text))
