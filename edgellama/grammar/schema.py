"""A JSON schema, read so that nothing of it is ignored, and written as llguidance takes it.

Every keyword is enforced, an annotation, or refused by name and place (a JSON pointer, #/...).
What llguidance takes loosely is written tighter, so that each text it allows also validates:

    bounds                   the nearest number inside that has 15 digits: see bounds.py
    integers, multipleOf     within +-(2**53 - 1), which every reader of JSON holds exactly
    date, date-time, time    29 February is in no year, second 60 in no minute
    oneOf                    anyOf, where no value can satisfy two of its schemas; else refused
    further properties       none where some are named: see schema_closing.py
    white space              at most one space behind a colon or comma: no model gets lost in it
"""

import json
import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NoReturn
from urllib.parse import unquote

from edgellama.errors import InvalidRequest

from .bounds import (
    LARGEST_INTEGER,
    Unenforceable,
    check_constant,
    check_states,
    coefficient_of_multiples,
    inner_bound,
    inner_multiple,
)
from .schema_closing import close_objects
from .schema_logic import TYPES, SchemaLogic

_WHITE_SPACE = {"whitespace_flexible": False, "key_separator": ": ?", "item_separator": ", ?"}

_MAX_DEPTH = 100  # of JSON in JSON; llguidance reads 127
_MAX_VALUES = 5_000
_MAX_PROPERTIES = 400  # of one object: llguidance follows 2,000 ways at once, optional ones take 4
_MAX_OPTIONS = 200  # of one oneOf: each is compared with each

_ANNOTATIONS = frozenset(
    (
        "$anchor",
        "$comment",
        "$id",
        "$schema",
        "$vocabulary",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "externalDocs",
        "id",
        "readOnly",
        "title",
        "writeOnly",
        "xml",
    )
)

# Keywords that are known and cannot be enforced, with what to do instead where there is something.
_REFUSED = {
    "$dynamicAnchor": "",
    "$dynamicRef": "write a $ref",
    "$recursiveAnchor": "",
    "$recursiveRef": "write a $ref",
    "additionalItems": "write prefixItems and items",
    "contains": "",
    "dependencies": "write anyOf with two objects",
    "dependentRequired": "write anyOf with two objects",
    "dependentSchemas": "write anyOf with two objects",
    "else": "write anyOf with two schemas",
    "if": "write anyOf with two schemas",
    "maxContains": "",
    "minContains": "",
    "not": "say what is allowed instead",
    "nullable": 'write "type": [..., "null"]',
    "propertyNames": "write patternProperties and additionalProperties: false",
    "then": "write anyOf with two schemas",
    "unevaluatedItems": "write items",
    "unevaluatedProperties": "write additionalProperties",
}
_OLD_DRAFTS = ("draft-04", "draft-06", "draft-07", "2019-09")

_YEAR, _TIME = "[1-9][0-9]{3}", "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_DATE = (
    f"{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_CLOCK = rf"{_TIME}(?:\.[0-9]{{1,6}})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_STRICT_FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_CLOCK}$",
    "date-time": f"^{_DATE}T{_CLOCK}$",
}
_FORMATS = (*_STRICT_FORMATS, "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")


class SchemaReader:
    """Reads one schema; `text` is what llguidance takes.

    Raises InvalidRequest for what is no schema, what cannot be enforced, what no finite value
    satisfies, and what is too large.
    """

    def __init__(self, schema: Any) -> None:
        if schema is False:
            raise InvalidRequest("the JSON schema is false, which no text satisfies")
        self._root = schema
        self._n_values = 0
        self._schemas: dict[str, Any] = {}  # by place: only these may be the targets of a $ref
        self._written: dict[str, Any] = {}  # those that are objects, as llguidance takes them
        self._refs: list[tuple[str, str]] = []  # place and text of each $ref
        self._choices: dict[str, list[Any]] = {}  # the lists of oneOf by place
        self._multiples = 1
        self.patterns: dict[str, str] = {}  # by place
        written = self._schema(schema, "#", 1)
        assert isinstance(written, dict)
        self._check_whole()
        close_objects(written, {ref: self._written.get(unquote(ref)) for _, ref in self._refs})
        self.text = json.dumps({**written, "x-guidance": _WHITE_SPACE})

    def _check_whole(self) -> None:
        """What can be said only when all of it was read."""
        for place, ref in self._refs:
            self._check_ref(ref, place)
        logic = SchemaLogic({ref: self._schemas[unquote(ref)] for ref in self._inner_refs_first()})
        endless = logic.endless(self._root)
        if endless is not None:
            place = next((place for place, ref in self._refs if ref == endless), "#")
            self._fail(place, f"{endless} never ends: each value of it holds another of its kind")
        for place, schemas in self._choices.items():
            if logic.overlap(schemas):
                self._fail(
                    place,
                    '"oneOf" is supported only where no value can satisfy two of its schemas, as by'
                    " their types or the const of a required property; write anyOf",
                )

    def _schema(self, schema: object, place: str, depth: int) -> dict[str, Any] | bool:
        """The schema as it is written for llguidance; the order of its keywords stays."""
        self._count(place, depth)
        self._schemas[place] = schema
        if isinstance(schema, bool):
            return {} if schema else False
        if not isinstance(schema, dict):
            self._fail(place, f"expected a schema, an object or boolean, found {_shown(schema)}")
        out: dict[str, Any] = {}
        for keyword, value in schema.items():
            here = f"{place}/{_escaped(keyword)}" if isinstance(keyword, str) else place
            read = _READERS.get(keyword)
            if read is not None:
                try:
                    out[keyword] = read(self, value, here, depth + 1)
                except Unenforceable as error:
                    self._fail(here, f'"{keyword}" {error}')
            elif keyword in _REFUSED:
                hint = f"; {_REFUSED[keyword]}" if _REFUSED[keyword] else ""
                self._fail(here, f'"{keyword}" is not supported{hint}')
            elif keyword == "uniqueItems":
                if value is not False:
                    self._fail(here, '"uniqueItems" is not supported')
            elif keyword in ("$id", "id") and place != "#":
                self._fail(here, f'"{keyword}" is supported only at the beginning of a schema')
            elif keyword not in _ANNOTATIONS and not str(keyword).startswith("x-"):
                self._fail(here, f'"{_shown(keyword)}" is not a known keyword')
        self._tighten(schema, out, place)
        self._written[place] = out
        return out

    def _tighten(self, schema: dict[str, Any], out: dict[str, Any], place: str) -> None:
        """Rewrite in `out` what llguidance would take too loosely."""
        types = out.get("type", ())
        types = {types} if isinstance(types, str) else set(types)
        for name, lower in (("minimum", True), ("maximum", False)):
            bounds = [out.pop(key) for key in (name, f"exclusive{name.title()}") if key in out]
            if "multipleOf" in out or ("integer" in types and "number" not in types):
                bounds.append(-LARGEST_INTEGER if lower else LARGEST_INTEGER)
            if bounds:
                out[name] = max(bounds) if lower else min(bounds)
            if "multipleOf" in out:
                out[name] = inner_multiple(out[name], out["multipleOf"], lower=lower)
        if out.get("format") in _STRICT_FORMATS:
            pattern = _STRICT_FORMATS[out.pop("format")]
            out["allOf"] = [*out.get("allOf", ()), {"pattern": pattern}]
        if "oneOf" in out:
            choice = {"anyOf": out.pop("oneOf")}
            if "anyOf" in out:
                choice = {"allOf": [*out.get("allOf", ()), choice]}
            out |= choice
        self._tighten_sizes(out, place)
        if schema.get("$schema") is not None:
            self._check_draft(schema["$schema"], place)

    def _tighten_sizes(self, out: dict[str, Any], place: str) -> None:
        """minProperties and maxProperties: llguidance counts only properties that are not named."""
        required = set(out.get("required", ()))
        if out.get("minProperties", 0) <= len(required):
            out.pop("minProperties", None)
        # A key may come twice where its name is free, and counts once for who reads the object.
        if out.get("minProperties", 0) > 1:
            what = '"minProperties" above 1 is supported up to the number of required properties'
            self._fail(f"{place}/minProperties", what)
        optional = out.get("properties", {}).keys() - required
        is_open = out.get("additionalProperties") is not False or "patternProperties" in out
        for keyword in ("minProperties", "maxProperties"):
            if optional and out.get(keyword, 0) > (0 if is_open else 1):
                what = "is supported with optional properties only as 1 and without further ones"
                self._fail(f"{place}/{keyword}", f'"{keyword}" {what}')

    def _check_draft(self, draft: object, place: str) -> None:
        known = ("2020-12", *_OLD_DRAFTS)
        if not isinstance(draft, str) or not any(name in draft for name in known):
            self._fail(f"{place}/$schema", f"{_shown(draft)} is no draft of JSON schema")
        if any(name in draft for name in _OLD_DRAFTS):
            for other, schema in self._schemas.items():
                if isinstance(schema, dict) and "prefixItems" in schema:
                    self._fail(f"{other}/prefixItems", f'"prefixItems" is no keyword of {draft}')

    def _inner_refs_first(self) -> list[str]:
        """Each $ref once, behind those that its target holds, except in loops."""
        by_place = sorted(self._refs)
        order: list[str] = []
        seen: set[str] = set()
        pending = [(ref, False) for _, ref in by_place]
        while pending:
            ref, inner_done = pending.pop()
            if inner_done:
                order.append(ref)
            elif ref not in seen:
                seen.add(ref)
                pending.append((ref, True))
                inside = f"{unquote(ref)}/"
                for place, inner in by_place[bisect_left(by_place, (inside, "")) :]:
                    if not place.startswith(inside):
                        break
                    pending.append((inner, False))
        return order

    def _check_ref(self, ref: str, place: str) -> None:
        name = unquote(ref)
        if not name.startswith("#/") and name != "#":
            self._fail(place, f"$ref {_shown(ref)}: only #/... is followed, and nothing is fetched")
        if name not in self._schemas:
            self._fail(place, f"$ref {_shown(ref)}: there is no schema")

    def _count(self, place: str, depth: int) -> None:
        self._n_values += 1
        if depth > _MAX_DEPTH:
            short = place if len(place) < 40 else place[:40] + "..."
            self._fail(short, f"the schema is nested more than {_MAX_DEPTH} deep")
        if self._n_values > _MAX_VALUES:
            raise InvalidRequest(f"the JSON schema has more than {_MAX_VALUES:,} values")

    # The keywords: each takes the value, checks it, and gives what is written for it.

    def _map(self, value: object, place: str, depth: int) -> dict[str, Any]:
        _expect(value, dict, "an object of schemas")
        assert isinstance(value, dict)
        for name in value:
            _expect(name, str, "names that are strings")
        return {
            name: self._schema(schema, f"{place}/{_escaped(name)}", depth + 1)
            for name, schema in value.items()
        }

    def _properties(self, value: object, place: str, depth: int) -> dict[str, Any]:
        if isinstance(value, dict) and len(value) > _MAX_PROPERTIES:
            raise Unenforceable(f"has {len(value)} properties, more than {_MAX_PROPERTIES}")
        return self._map(value, place, depth)

    def _pattern_properties(self, value: object, place: str, depth: int) -> dict[str, Any]:
        written = self._map(value, place, depth)
        self.patterns |= {f"{place}/{_escaped(name)}": name for name in written}
        return written

    def _list(self, value: object, place: str, depth: int) -> list[Any]:
        _expect(value, list, "an array of schemas")
        assert isinstance(value, list)
        if not value:
            raise Unenforceable("is empty, expected an array of schemas")
        return [self._schema(part, f"{place}/{i}", depth + 1) for i, part in enumerate(value)]

    def _one_of(self, value: object, place: str, depth: int) -> list[Any]:
        written = self._list(value, place, depth)
        if len(written) > _MAX_OPTIONS:
            raise Unenforceable(f"has {len(written)} schemas; up to {_MAX_OPTIONS} are supported")
        assert isinstance(value, list)
        self._choices[place] = value
        return written

    def _items(self, value: object, place: str, depth: int) -> dict[str, Any] | bool:
        if isinstance(value, list):
            raise Unenforceable("is an array, as in drafts before 2020-12; write prefixItems")
        return self._schema(value, place, depth)

    def _type(self, value: object, place: str, depth: int) -> object:
        names = value if isinstance(value, list) else [value]
        for name in names or [None]:
            if not isinstance(name, str) or name not in (*TYPES, "integer"):
                raise Unenforceable(f"is {_shown(value)}, expected names of JSON's types")
        return value

    def _enum(self, value: object, place: str, depth: int) -> object:
        _expect(value, list, "an array of values")
        if not value:
            raise Unenforceable("is empty: no value satisfies it")
        return self._value(value, place, depth)

    def _value(self, value: object, place: str, depth: int) -> object:
        """A JSON value that can be written exactly."""
        self._count(place, depth)
        if isinstance(value, list):
            for part in value:
                self._value(part, place, depth + 1)
        elif isinstance(value, dict):
            for name, part in value.items():
                _expect(name, str, "names that are strings")
                self._value(part, place, depth + 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            check_constant(value)
        elif value is not None and not isinstance(value, str | bool):
            raise Unenforceable(f"holds {_shown(value)}, which is not JSON")
        return value

    def _size(self, value: object, place: str, depth: int) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
            raise Unenforceable(f"is {_shown(value)}, expected a whole number below 2**32")
        return value

    def _multiple_of(self, value: Any, place: str, depth: int) -> object:
        self._multiples = math.lcm(self._multiples, coefficient_of_multiples(value))
        check_states(self._multiples)
        return value

    def _required(self, value: object, place: str, depth: int) -> list[str]:
        _expect(value, list, "an array of names")
        assert isinstance(value, list)
        for name in value:
            _expect(name, str, "names that are strings")
        self._n_values += len(value)
        return value

    def _pattern(self, value: object, place: str, depth: int) -> str:
        _expect(value, str, "a regular expression")
        assert isinstance(value, str)
        self.patterns[place] = value
        return value

    def _format(self, value: object, place: str, depth: int) -> str:
        if not isinstance(value, str) or value not in _FORMATS:
            raise Unenforceable(f"is {_shown(value)}; supported are {', '.join(sorted(_FORMATS))}")
        return value

    def _ref(self, value: object, place: str, depth: int) -> str:
        _expect(value, str, "#/ and the place of a schema")
        assert isinstance(value, str)
        self._refs.append((place, value))
        return value

    def _fail(self, place: str, what: str) -> NoReturn:
        raise InvalidRequest(f"the JSON schema, {place}: {what}")


def _expect(value: object, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise Unenforceable(f"is {_shown(value)}, expected {what}")


def _bound(*, lower: bool, exclusive: bool) -> "_Reader":
    def read(reader: SchemaReader, value: Any, place: str, depth: int) -> object:
        return inner_bound(value, lower=lower, exclusive=exclusive)

    return read


def _escaped(name: str) -> str:
    """One step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    return value if isinstance(value, str) and len(value) <= 80 else f"{value!r:.80}"


_Reader = Callable[[SchemaReader, Any, str, int], object]
_READERS: dict[object, _Reader] = {
    "$defs": SchemaReader._map,
    "$ref": SchemaReader._ref,
    "additionalProperties": SchemaReader._schema,
    "allOf": SchemaReader._list,
    "anyOf": SchemaReader._list,
    "const": SchemaReader._value,
    "definitions": SchemaReader._map,
    "enum": SchemaReader._enum,
    "exclusiveMaximum": _bound(lower=False, exclusive=True),
    "exclusiveMinimum": _bound(lower=True, exclusive=True),
    "format": SchemaReader._format,
    "items": SchemaReader._items,
    "maxItems": SchemaReader._size,
    "maxLength": SchemaReader._size,
    "maxProperties": SchemaReader._size,
    "maximum": _bound(lower=False, exclusive=False),
    "minItems": SchemaReader._size,
    "minLength": SchemaReader._size,
    "minProperties": SchemaReader._size,
    "minimum": _bound(lower=True, exclusive=False),
    "multipleOf": SchemaReader._multiple_of,
    "oneOf": SchemaReader._one_of,
    "pattern": SchemaReader._pattern,
    "patternProperties": SchemaReader._pattern_properties,
    "prefixItems": SchemaReader._list,
    "properties": SchemaReader._properties,
    "required": SchemaReader._required,
    "type": SchemaReader._type,
}
