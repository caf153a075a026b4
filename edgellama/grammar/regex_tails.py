"""Texts that end as the regular expressions of a grammar do: "a@a.com", "a.com" of \\S+@\\S+\\.com.

Behind the first character of such an expression any place looks like any other, and only the right
characters in a row lead to its end. Read is what a sequence of characters may be; of groups only
that they are there, so that not every text fits: who uses one tries it first.
"""

import json
import re
from functools import lru_cache

# In Lark: the patterns of schemas, and regular expressions; other strings may hold a slash.
_STRING = r'"(?:\\.|[^"\\])*"'
_REGEX = re.compile(rf'"pattern": (?P<quoted>{_STRING})|{_STRING}|/(?P<bare>(?:\\.|[^/\\\n])+)/')
_PART = re.compile(
    r"(?:(?P<mark>\(\?[^:)]*[:)]|[()^$])|(?P<bar>\|)"
    r"|\[(?P<not>\^?)(?P<among>(?:\\.|[^\]\\])*)\]|\\(?P<escaped>.)|(?P<plain>.))"
    r"(?:\{(?P<n>\d+)[^}]*\}|[*+?]+)?",
    re.DOTALL,
)
_EXAMPLES = {"d": "0", "D": "a", "w": "a", "W": "-", "s": " ", "S": "a", "n": "\n", "t": "\t"}
_MOST_TAILS = 200
_MOST_CHARS = 200  # at the end of an expression, which are read
_MOST_TIMES = 20  # that a character is repeated


@lru_cache(maxsize=32)
def regex_tails(grammar: str) -> list[bytes]:
    """For all expressions of a grammar in Lark; those of schemas as JSON strings hold them."""
    tails: dict[bytes, None] = {}
    for found in _REGEX.finditer(grammar):
        quoted = found["quoted"]
        for run in _examples(json.loads(quoted) if quoted else found["bare"] or ""):
            for i in range(len(run)):
                text = "".join(run[i:])
                if quoted:
                    text = json.dumps(text, ensure_ascii=False)[1:-1]
                tails[text.encode(errors="ignore")] = None
        if len(tails) >= _MOST_TAILS:
            break
    return list(tails)[:_MOST_TAILS]


def _examples(regex: str) -> list[list[str]]:
    """Of each run between bars, an example of each of its characters."""
    runs: list[list[str]] = [[]]
    for part in _PART.finditer(regex[-_MOST_CHARS:]):
        if part["bar"]:
            runs.append([])
        elif not part["mark"]:
            times = min(int(part["n"] or 1), _MOST_TIMES)
            runs[-1].append(_example(part) * times)
    return runs


def _example(part: re.Match[str]) -> str:
    if part["escaped"]:
        return _EXAMPLES.get(part["escaped"], part["escaped"])
    if part["plain"]:
        return "a" if part["plain"] == "." else part["plain"]
    among = part["among"] or ""
    if part["not"]:
        return next((char for char in "a0 -" if char not in among), "é")
    return _EXAMPLES.get(among[1:2], among[1:2]) if among.startswith("\\") else among[:1]
