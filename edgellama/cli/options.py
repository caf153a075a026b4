"""Options that several commands share, and what they become."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from edgellama.answer import Timings
from edgellama.errors import InvalidRequest
from edgellama.llama import CONTEXT_POLICIES, Llama
from edgellama.prefix_store import PrefixStore
from edgellama.sampling import SamplingOptions, SamplingParams

from .loading import add_loading_options, add_speed_options
from .terminal import note
from .text_files import decode, read_text_file

if TYPE_CHECKING:
    from edgellama.grammar import Grammar

SAMPLING = {option.name: option for option in fields(SamplingParams)}
_OFTEN_USED = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "seed",
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
    add_loading_options(group)
    group.add_argument(
        "--backend",
        default="cpu",
        metavar="NAME",
        help="cpu, or reference: plain numpy, slow, for comparisons (default: %(default)s)",
    )
    add_speed_options(parser)


@contextmanager
def open_llama(args: argparse.Namespace, chat_format: str | None = None) -> Iterator[Llama]:
    """The model that `add_model_options` describes, while the context lasts."""
    with (
        open_prefix_store(args) as store,
        Llama(
            args.model,
            n_ctx=args.ctx or None,
            n_threads=args.threads,
            kv_type=args.kv_type,
            backend=args.backend,
            chat_format=chat_format,
            draft=args.draft,
            speculate=not args.no_speculation,
            prefix_store=store,
            progress=note if sys.stderr.isatty() else None,
        ) as llm,
    ):
        yield llm


@contextmanager
def open_prefix_store(args: argparse.Namespace) -> Iterator[PrefixStore | None]:
    """Where `--prefix-cache` keeps what was read, while the context lasts; None if nowhere."""
    if not args.prefix_cache:
        yield None
        return
    with closing(PrefixStore(max_bytes=args.prefix_cache, report=note)) as store:
        yield store


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen and when an answer ends: a flag for each field of SamplingParams."""
    group = parser.add_argument_group("sampling")
    for name in _OFTEN_USED:
        _add_sampling_option(group, name)
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer before this text; may be given several times",
    )
    rest = parser.add_argument_group("more sampling")
    for name in SAMPLING:
        if name not in _OFTEN_USED:
            _add_sampling_option(rest, name)


def _add_sampling_option(group: "argparse._ArgumentGroup", name: str) -> None:
    option = SAMPLING[name]
    words, default = option.metadata["help"], sampling_text(option.default)
    group.add_argument(
        "--temp" if name == "temperature" else f"--{name.replace('_', '-')}",
        dest=name,
        type=partial(_read_flag, name),
        default=option.default,
        metavar={float: "X", int: "N", dict: "ID=X,..."}.get(option.metadata["kind"], "LIST"),
        help=f"{words} (default: {default})".replace("%", "%%"),
    )


def sampling_options(args: argparse.Namespace) -> SamplingOptions:
    """What `add_sampling_options` read, checked."""
    options = {name: getattr(args, name) for name in SAMPLING}
    SamplingParams(**options)
    return cast(SamplingOptions, options)


def read_sampling(name: str, text: str) -> Any:
    """The value that a text gives a field of SamplingParams; raises InvalidRequest.

    A list is written as in JSON or, if it has but one entry, as this; samplers also with commas or
    semicolons between them. logit_bias: ID=X,ID=X, where X may be false.
    """
    kind = SAMPLING[name].metadata["kind"]
    try:
        if kind is dict:
            return _read_biases(text)
        if kind is tuple:
            return _read_list(name, text)
        return None if name == "seed" and text == "none" else kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number", dict: "ID=X,ID=X"}
        raise InvalidRequest(f"{name} takes {wanted.get(kind, 'a list')}, not {text!r}") from None


def _read_flag(name: str, text: str) -> Any:
    try:
        return read_sampling(name, text)
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _read_list(name: str, text: str) -> tuple[Any, ...]:
    if text.lstrip().startswith("["):
        return tuple(json.loads(text))
    if name == "samplers":
        return tuple(word.strip() for word in text.replace(";", ",").split(",") if word.strip())
    return (text,) if text else ()


def _read_biases(text: str) -> dict[int, float | bool]:
    pairs = (pair.split("=") for pair in text.split(",") if pair.strip())
    return {int(id): False if x.strip() == "false" else float(x) for id, x in pairs}


def sampling_text(value: object) -> str:
    """A value of a field of SamplingParams, for people."""
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple) and all(isinstance(entry, str) for entry in value):
        return ",".join(value) if value[0].isidentifier() else json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return ",".join(f"{id}={str(x).lower()}" for id, x in value.items())
    return str(value)


def add_grammar_options(parser: argparse.ArgumentParser) -> None:
    """What form the answer must have."""
    group = parser.add_argument_group("form of the answer, kept without fail")
    form = group.add_mutually_exclusive_group()
    form.add_argument(
        "--json-schema", metavar="FILE|TEXT", help="JSON that fits this schema, {} for any"
    )
    form.add_argument("--regex", metavar="TEXT", help="a text that this expression matches whole")
    form.add_argument(
        "--grammar", metavar="FILE", help="a grammar in GBNF or, if it is called *.lark, in Lark"
    )


def read_grammar(args: argparse.Namespace) -> "Grammar | None":
    """The grammar that `add_grammar_options` describes."""
    if args.regex is args.grammar is args.json_schema is None:
        return None
    from edgellama.grammar import Grammar

    if args.regex is not None:
        return Grammar.regex(args.regex)
    if args.grammar is not None:
        read = Grammar.lark if args.grammar.endswith(".lark") else Grammar.gbnf
        return read(read_text_file(args.grammar))
    text, source = args.json_schema, "--json-schema"
    if not text.lstrip().startswith(("{", "true", "false")):
        text, source = read_text_file(source := text), source
    try:
        return Grammar.json_schema(json.loads(text))
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"{source} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from None


def add_context_option(parser: argparse.ArgumentParser) -> None:
    """What happens when the context is full."""
    parser.add_argument(
        "--context-policy",
        choices=CONTEXT_POLICIES,
        default="error",
        help="when the context is full: say so and stop, forget the oldest half of the text while"
        " the answer goes on, or leave out the oldest messages; what was left out is told"
        " (default: %(default)s)",
    )


def context_limits(
    prompt_tokens: int, max_tokens: int | None, n_ctx: int, context_policy: str
) -> bool:
    """Whether the context allowed an answer fewer tokens than `max_tokens` (None: any number)."""
    if max_tokens is None:
        return True
    return context_policy != "shift" and prompt_tokens + max_tokens > n_ctx + 1


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
    return decode(sys.stdin.buffer.read(), "standard input")


def describe(timings: Timings) -> str:
    """One line for people."""
    cached = f" (+ {timings.cache_n:,} cached)" if timings.cache_n else ""
    guessed = ""
    if timings.draft_n:
        guessed = f" | {timings.draft_accepted_n:,} of {timings.draft_n:,} guesses right"
    return (
        f"prompt {timings.prompt_n:,} tokens{cached} in {timings.prompt_s:.2f} s,"
        f" {timings.prompt_per_second:.1f} tok/s | answer {timings.predicted_n:,} tokens,"
        f" {timings.predicted_per_second:.1f} tok/s | first token after"
        f" {timings.first_token_s:.2f} s{guessed}"
    )
