"""Options that several commands share, and what they become."""

import argparse
import os
import secrets
import sys
from dataclasses import fields
from pathlib import Path

from edgellama.errors import InvalidRequest
from edgellama.generate import Timings
from edgellama.llama import Llama
from edgellama.sampling import SamplingOptions, SamplingParams

# flag, field of SamplingParams, type, help
_SAMPLING = (
    ("--temp", "temperature", float, "0 always takes the most likely token"),
    ("--top-k", "top_k", int, "choose among the K most likely tokens; 0: among all"),
    ("--top-p", "top_p", float, "choose among the fewest that hold this probability; 1: all"),
    ("--min-p", "min_p", float, "drop tokens less likely than this times the likeliest; 0: none"),
    ("--repeat-penalty", "repeat_penalty", float, "make tokens seen lately less likely; 1: do not"),
    ("--repeat-last-n", "repeat_last_n", int, "how many tokens back that looks; -1: all"),
)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """MODEL and how it is loaded."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="GGUF file (default: the small model that ships with edgellama)",
    )
    group = parser.add_argument_group("model")
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
    group.add_argument(
        "--backend",
        default="cpu",
        metavar="NAME",
        help="cpu, or reference: plain numpy, slow, for comparisons (default: %(default)s)",
    )


def open_llama(args: argparse.Namespace, chat_format: str | None = None) -> Llama:
    """The model that `add_model_options` describes."""
    return Llama(
        args.model,
        n_ctx=args.ctx or None,
        n_threads=args.threads,
        kv_type=args.kv_type,
        backend=args.backend,
        chat_format=chat_format,
        progress=note if sys.stderr.isatty() else None,
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen and when an answer ends."""
    defaults = {field.name: field.default for field in fields(SamplingParams)}
    group = parser.add_argument_group("sampling")
    for flag, name, kind, words in _SAMPLING:
        group.add_argument(
            flag,
            dest=name,
            type=kind,
            default=defaults[name],
            metavar="X",
            help=f"{words} (default: %(default)s)",
        )
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="the same seed gives the same text (default: another one each time)",
    )
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer before this text; may be given several times",
    )


def sampling_options(args: argparse.Namespace) -> SamplingOptions:
    """What `add_sampling_options` read, with a seed in any case, so that it can be told."""
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    return SamplingOptions(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repeat_penalty=args.repeat_penalty,
        repeat_last_n=args.repeat_last_n,
        seed=seed,
    )


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Where a text comes from: -p, -f or standard input."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT", help="the text; - reads standard input")
    source.add_argument("-f", "--file", metavar="FILE", help="read the text from a file")


def read_text(args: argparse.Namespace) -> str:
    """The text that `add_text_options` describes; standard input if none was named."""
    if args.file is not None:
        return read_text_file(args.file)
    if args.prompt not in (None, "-"):
        return str(args.prompt)
    if sys.stdin.isatty() and args.prompt is None:
        raise InvalidRequest("no text: give it with -p TEXT, -f FILE or on standard input")
    return _decode(sys.stdin.buffer.read(), "standard input")


def read_text_file(path: str) -> str:
    """The text of a UTF-8 file, line ends as they are."""
    return _decode(Path(path).read_bytes(), path)


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{source} is not UTF-8 text: byte {error.start} is wrong") from None


def describe(timings: Timings) -> str:
    """One line for people."""
    cached = f" (+ {timings.cache_n:,} cached)" if timings.cache_n else ""
    return (
        f"prompt {timings.prompt_n:,} tokens{cached} in {timings.prompt_s:.2f} s,"
        f" {timings.prompt_per_second:.1f} tok/s | answer {timings.predicted_n:,} tokens,"
        f" {timings.predicted_per_second:.1f} tok/s | first token after"
        f" {timings.first_token_s:.2f} s"
    )


# Control characters steer a terminal: what a model says must not clear it, colour it or retitle it.
_CONTROLS = {c: "\ufffd" for c in (*range(0x20), *range(0x7F, 0xA0)) if chr(c) not in "\t\n"}


def show(text: str) -> None:
    """A piece of an answer, at once: as it is into a file or pipe, harmless on a terminal."""
    print(text.translate(_CONTROLS) if sys.stdout.isatty() else text, end="", flush=True)


def dim(text: str) -> str:
    """Fainter, where stderr is a terminal that may be coloured (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty():
        return text
    return f"\x1b[2m{text}\x1b[0m"


def note(text: str) -> None:
    """A remark beside the answer: on stderr, in brackets."""
    sys.stdout.flush()
    print(dim(f"[{text}]"), file=sys.stderr, flush=True)
