"""What is written to a terminal, and what never is."""

import os
import sys

# Control characters steer a terminal: what a model says must not clear it, colour it or retitle it.
_CONTROLS = {c: "\ufffd" for c in (*range(0x20), *range(0x7F, 0xA0)) if chr(c) not in "\t\n"}


def harmless(text: str) -> str:
    """The text without what steers a terminal."""
    return text.translate(_CONTROLS)


def show(text: str) -> None:
    """A piece of an answer, at once: as it is into a file or pipe, harmless on a terminal."""
    print(harmless(text) if sys.stdout.isatty() else text, end="", flush=True)


def is_plain() -> bool:
    """Whether the terminal, or who sits before it, wants text without colours and cursor."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def dim(text: str) -> str:
    """Fainter, where stderr is a terminal that may be coloured (https://no-color.org)."""
    return text if is_plain() or not sys.stderr.isatty() else f"\x1b[2m{text}\x1b[0m"


def note(text: str) -> None:
    """A remark beside the answer: on stderr, in brackets."""
    sys.stdout.flush()
    print(dim(f"[{text}]"), file=sys.stderr, flush=True)
