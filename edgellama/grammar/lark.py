"""A caller's Lark grammar: what llguidance would let pass unchecked is checked, or refused.

JSON schemas inside (`%json {...}`) are read as all schemas are. Options that count tokens or take
text back (`max_tokens`, `temperature`, `stop`) are refused: an answer is one text, and what was
accepted can be undone.
"""

import json
import re

from edgellama.errors import InvalidRequest

from .schema import SchemaReader

# What may hold the words that are looked for, as plain text; then the words.
_PARTS = re.compile(
    r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\\n])+/'
    r"|(?P<json>%json\b\s*)|(?P<nested>%lark\b)|(?P<option>\b(?:max_tokens|temperature|stop))\s*="
    r"|(?P<rule>:)"
)
# llguidance follows names by recursion; this many fit on any stack.
_MAX_RULES = 1000


def checked_lark(text: str) -> str:
    """The text with its schemas as llguidance takes them. Raises InvalidRequest."""
    out, done, n_rules = "", 0, 0
    while part := _PARTS.search(text, done):
        end = part.end()
        out += text[done:end]
        if part["option"] or part["nested"]:
            what = f"{part['option'] or part['nested']} is not supported"
            raise InvalidRequest(f"the Lark grammar, line {_line(text, end)}: {what}")
        n_rules += part["rule"] is not None
        if n_rules > _MAX_RULES:
            raise InvalidRequest(f"the Lark grammar has more than {_MAX_RULES} rules")
        if part["json"] is not None:
            try:
                schema, end = json.JSONDecoder().raw_decode(text, end)
            except (ValueError, RecursionError) as error:
                what = f"%json: {error}" if isinstance(error, ValueError) else "%json is too deep"
                raise InvalidRequest(f"the Lark grammar, line {_line(text, end)}: {what}") from None
            out += SchemaReader(schema).text
        done = end
    return out + text[done:]


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
