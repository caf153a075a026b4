"""`edgellama convert`: an official checkpoint, or another GGUF file, into a GGUF file."""

import argparse

from edgellama.errors import InvalidRequest

from .making import ABOUT_TYPES, add_type_options, make, type_options

HELP = "make a GGUF file from an official checkpoint"
EXAMPLES = f"""\
SOURCE is a folder as Meta publishes it (params.json, consolidated.00.pth, tokenizer.model), as
Hugging Face does (config.json, model.safetensors, tokenizer), or a GGUF file.

{ABOUT_TYPES}
examples:
  edgellama convert Llama3.2-1B-Instruct -o llama-1b.gguf --type Q4_0
  edgellama convert Llama3.2-1B-Instruct -o llama-1b.gguf --type Q4_K_M --output-type Q8_0
  edgellama convert Llama3.1-70B --type Q8_0 --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="SOURCE", help="folder of a checkpoint, or a GGUF file")
    parser.add_argument("-o", "--output", metavar="OUT.gguf", help="the file to make")
    add_type_options(parser, default="Q8_0")
    group = parser.add_argument_group("against the checkpoint, or where it is silent")
    group.add_argument("--name", help="general.name (default: what was recognised)")
    group.add_argument("--chat-template", metavar="NAME|FILE", help="llama2, codellama-70b, llama3,"
                       " llama3.1, llama3.2, alpaca, vicuna, none, or a Jinja file (default: what"
                       " the checkpoint has or its name calls for)")  # fmt: skip
    group.add_argument("--context-length", type=int, metavar="N", help="tokens it was trained for")
    group.add_argument("--rope-theta", type=float, metavar="X", help="base of the rope frequencies")
    group.add_argument("--rope-factor", type=float, metavar="X", help="scaling of Llama 3.1 and"
                       " later: 8, for 3.2 1B and 3B 32; 1: none")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from edgellama.converters import Overrides, drop_repeated_output, make_plan, open_source

    from .inspect import describe, show

    if args.output is None and not args.dry_run:
        raise InvalidRequest("name the file to make with -o OUT.gguf, or ask for --dry-run")
    for name in ("context_length", "rope_theta", "rope_factor"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1e12:
            raise InvalidRequest(f"--{name.replace('_', '-')} is {value}, it must be positive")
    overrides = Overrides(
        name=args.name,
        chat_template=args.chat_template,
        context_length=args.context_length,
        rope_theta=args.rope_theta,
        rope_factor=args.rope_factor,
    )
    source = open_source(args.source, overrides)
    options = type_options(args)
    plan = make_plan(source, args.type, **options)
    if args.dry_run:
        show(describe(source, plan), as_json=args.json)
        return 0
    make(make_plan(drop_repeated_output(source), args.type, **options), args.output, args)
    return 0
