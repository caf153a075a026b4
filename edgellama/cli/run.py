"""`edgellama run`: continue a text."""

import argparse
import json
import secrets

from edgellama.answer import Answer
from edgellama.generate import Generation

from .options import (
    add_context_option,
    add_grammar_options,
    add_model_options,
    add_sampling_options,
    add_text_options,
    context_limits,
    describe,
    open_llama,
    read_grammar,
    read_text,
    sampling_options,
)
from .terminal import note, show

HELP = "continue a text"
EXAMPLES = """\
examples:
  edgellama run -p "Once upon a time" -n 100
  edgellama run llama-2-7b.q4_0.gguf -f story.txt --temp 0 --stop "The end"
  echo "def fib(n):" | edgellama run codellama.gguf -n -1 --json
  edgellama run -p "A cat as JSON: " --json-schema '{"type": "object"}'
  edgellama run -p "The year was " --regex "[12][0-9]{3}"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [MODEL] [options]"
    parser.epilog = EXAMPLES
    add_model_options(parser)
    add_text_options(parser)
    parser.add_argument(
        "-n",
        "--max-tokens",
        type=int,
        default=256,
        metavar="N",
        help="most tokens to write; -1: until the context is full (default: %(default)s)",
    )
    parser.add_argument(
        "--special",
        action="store_true",
        help="read control tokens written in the text, such as <|eot_id|>, as control tokens",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object at the end:"
        " text, tokens, finish_reason, prompt_tokens, seed, timings",
    )
    parser.add_argument("--stats", action="store_true", help="print tokens per second to stderr")
    add_context_option(parser)
    add_grammar_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    text = read_text(args)
    sampling = sampling_options(args)
    if sampling["seed"] is None:
        sampling["seed"] = secrets.randbelow(2**32)  # so that --json can tell it
    grammar = read_grammar(args)
    max_tokens = None if args.max_tokens == -1 else args.max_tokens
    with open_llama(args) as llm:
        generation = llm.generate(
            llm.tokenize(text, bos=llm.tokenizer.add_bos, special=args.special),
            max_tokens=max_tokens,
            stop=args.stop,
            grammar=grammar,
            context_policy=args.context_policy,
            **sampling,
        )
        if not args.json:
            _print_as_it_comes(generation)
        answer = generation.read()
        if args.json:
            print(json.dumps(_as_dict(answer, sampling["seed"]), ensure_ascii=False))
        if answer.context.dropped_tokens:
            note(f"to make room, {answer.context.dropped_tokens:,} tokens were left out")
        if answer.finish_reason == "length":
            if context_limits(answer.prompt_tokens, max_tokens, llm.n_ctx, args.context_policy):
                note(f"stopped: the context of {llm.n_ctx:,} tokens is full")
            elif grammar is not None:
                whole = grammar.check(answer.text)
                what = "ended early, the form being whole" if whole else "before the form was whole"
                note(f"stopped after {len(answer.tokens):,} tokens, {what}; see -n")
        if args.stats:
            note(describe(answer.timings))
    return 0


def _print_as_it_comes(generation: Generation) -> None:
    try:
        for token in generation:
            show(token.text)
    finally:
        print(flush=True)


def _as_dict(answer: Answer, seed: int | None) -> dict[str, object]:
    return {
        "text": answer.text,
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "seed": seed,
        "timings": answer.timings.as_dict(),
    }
