"""llguidance's messages, which quote the whole grammar with a caret below, in one line."""

import re

_QUOTED_LINES = re.compile(r"\n\s+\d+ \| .*", re.DOTALL)
_PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")
_NESTED = re.compile(r"failed to compile JSON schema: |Parser Error: ")
_MAX_CHARS = 300

# What llguidance calls a state from which nothing can follow, right at the beginning.
_NOTHING = "NoExtension"


def reason(message: str) -> str:
    """What is wrong, with its line and column where it is known; the last line is not quoted."""
    if not message or message.startswith(_NOTHING):
        return "no text at all matches it"
    text = _NESTED.sub("", _QUOTED_LINES.sub("", message).split("\n<state>")[0])
    place = _PLACE.match(text)
    if place:
        text = f"line {place[1]}, column {place[2]}: {text[place.end() :]}"
    text = " ".join(text.split())
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "..."


def without_place(text: str) -> str:
    """The same for a grammar that was not written by the caller, so that lines say nothing."""
    return re.sub(r"^line \d+, column \d+: ", "", text)
