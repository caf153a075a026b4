"""Options of how models are loaded: for every command that answers. Imports nothing heavy."""

import argparse

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add_loading_options(group: argparse._ArgumentGroup) -> None:
    """How any command that answers loads its models."""
    group.add_argument(
        "--ctx",
        type=int,
        default=4096,
        metavar="N",
        help="tokens of context; 0: as many as the model was trained for (default: %(default)s)",
    )
    group.add_argument("--threads", type=int, metavar="N", help="default: what suits the machine")
    group.add_argument(
        "--kv-type",
        default="f16",
        metavar="TYPE",
        help="keys and values as f16 or q8_0, half the memory (default: %(default)s)",
    )


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """What saves time."""
    speed = parser.add_argument_group("what saves time; no answer depends on it")
    speed.add_argument(
        "--prefix-cache",
        type=read_size,
        default="4G",
        metavar="SIZE",
        help="keep what was read on disk for the next start, at most so much; 0: do not"
        " (default: %(default)s)",
    )
    speed.add_argument(
        "--draft",
        metavar="MODEL",
        help="GGUF file of a small model of the same vocabulary, which guesses ahead",
    )
    speed.add_argument(
        "--no-speculation",
        action="store_true",
        help="do not guess ahead from the text either",
    )


def read_size(text: str) -> int:
    """Bytes, from a number with or without a unit of 1,024: 500M, 4G, 1.5G."""
    number = text.upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        size = float(number.removesuffix(unit)) * _UNITS[unit]
        return int(size) if size >= 0 else int("")
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write it as 500M or 4G, or 0"
        ) from None
