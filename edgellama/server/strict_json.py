"""JSON of requests, read strictly, and of answers.

Python's own reader takes more than JSON allows: NaN, numbers beyond float, a key twice, of which
the last wins. What two readers of one request would understand differently is refused here.
"""

import json
from collections.abc import Iterator
from typing import Any

from edgellama.errors import InvalidRequest

MAX_DEPTH = 128  # lists and objects inside each other


def parse(data: bytes) -> Any:
    """The value of a JSON text in UTF-8; raises InvalidRequest in words."""
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: byte {error.start} is wrong") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    except InvalidRequest:
        raise
    except ValueError:  # int() of more digits than Python reads
        raise InvalidRequest("the body has a number of too many digits") from None
    except RecursionError:
        raise _too_deep() from None
    # Fewer brackets than that cannot be deeper: ordinary bodies are not walked.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def dump(value: object) -> bytes:
    """Compact JSON in UTF-8; a lone surrogate, which UTF-8 cannot spell, as its escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"the body has the key {twice!r} twice in one object")
    return made


def _refuse_constant(text: str) -> float:
    raise InvalidRequest(f"the body is not JSON: {text} is no number there")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise InvalidRequest(f"the number {text[:20]} is too large")
    return number


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return
    raise _too_deep()


def _containers(value: Any) -> Iterator[Any]:
    members = value.values() if isinstance(value, dict) else value
    return (member for member in members if isinstance(member, dict | list))


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body nests deeper than {MAX_DEPTH} levels")
