"""Lines as people type them -> a message, which may have several.

A message goes on after a backslash at the end of a line, or between triple quotes.
"""

import contextlib
from collections.abc import Callable

_QUOTES = '"""'


def goes_on(text: str) -> bool:
    """Whether what was typed so far has more lines to come."""
    if text.lstrip().startswith(_QUOTES):
        return text.count(_QUOTES) < 2
    return text.endswith("\\")


def unfold(text: str) -> str:
    """The message in what was typed: without the quotes around it or the backslashes."""
    if text.lstrip().startswith(_QUOTES):
        return text.lstrip().removeprefix(_QUOTES).partition(_QUOTES)[0].strip("\n")
    return text.replace("\\\n", "\n").removesuffix("\\")


def read_message(read_line: Callable[[str], str]) -> str:
    """A message, line by line; read_line(prompt) is a line without its end.

    Raises EOFError at the end of input; input that ends inside a message ends the message.
    """
    text = read_line(">>> ")
    with contextlib.suppress(EOFError):
        while goes_on(text):
            text += "\n" + read_line("... ")
    return unfold(text)
