"""The arguments of a call in Python, f(a=1, b='x'), as JSON."""

import ast
import json
import re

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_JSON_WORDS = {"true": True, "false": False, "null": None}


def literal_arguments(source: str) -> str | None:
    """The arguments of a Python call as JSON; None unless each is a literal, by name.

    JSON's own true, false and null pass for literals, since models mix the two.
    """
    try:
        call = ast.parse(f"f({_valid_escapes(source)}\n)", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            return None
        values = {
            word.arg: ast.literal_eval(_Literals().visit(word.value)) for word in call.keywords
        }
        if None in values or len(values) < len(call.keywords):  # **more, or a name twice
            return None
        arguments = json.dumps(values, ensure_ascii=False, allow_nan=False)
        arguments.encode()
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return arguments


class _Literals(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_JSON_WORDS[node.id]) if node.id in _JSON_WORDS else node


def _valid_escapes(source: str) -> str:
    r"""`source` with \d and the like as \\d, which is what Python takes them for under protest."""
    return _ESCAPE.sub(
        lambda match: match[0] if match[1] in "\\'\"abfnrtvxuU0123\n" else "\\" + match[0], source
    )
