"""`edgellama convert`: an official checkpoint, or another GGUF file, into a GGUF file."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellama.errors import InvalidRequest

HELP = "make a GGUF file from an official checkpoint"
TYPES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q4_0")
EXAMPLES = """\
SOURCE is a folder as Meta publishes it (params.json, consolidated.00.pth, tokenizer.model), as
Hugging Face does (config.json, model.safetensors, tokenizer), or a GGUF file.

examples:
  edgellama convert Llama3.2-1B-Instruct -o llama-1b.gguf --type q4_0
  edgellama convert Llama3.1-70B --type q8_0 --dry-run
  edgellama convert llama-1b-f16.gguf -o llama-1b-q8.gguf --type q8_0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="SOURCE", help="folder of a checkpoint, or a GGUF file")
    parser.add_argument("-o", "--output", metavar="OUT.gguf", help="the file to make")
    parser.add_argument("--type", choices=TYPES, default="q8_0", type=str.lower,
                        help="how weights are stored (default: %(default)s)")  # fmt: skip
    parser.add_argument("--pure", action="store_true", help="q4_0: the output matrix too, instead"
                        " of q8_0")  # fmt: skip
    parser.add_argument("--allow-requantize", action="store_true", help="round weights a second"
                        " time that SOURCE has rounded already")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be made; no weight"
                        " is read")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="of --dry-run: print it as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no remarks")
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
    from edgellama.converters import (
        Overrides,
        drop_repeated_output,
        make_plan,
        open_source,
        write_plan,
    )

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
    options = {"pure": args.pure, "allow_requantize": args.allow_requantize}
    plan = make_plan(source, args.type, **options)
    if args.dry_run:
        show(describe(source, plan), as_json=args.json)
        return 0
    start = time.perf_counter()
    plan = make_plan(drop_repeated_output(source), args.type, **options)
    with _progress_bar(plan.n_bytes, quiet=args.quiet) as progress:
        write_plan(plan, Path(args.output), progress)
    if not args.quiet:
        for note in plan.notes:
            print(f"note: {note}", file=sys.stderr)
        seconds = time.perf_counter() - start
        print(
            f"{args.output}: {source.family}, {plan.format.name}, {len(plan.tensors)} tensors,"
            f" {_size(plan.n_bytes)} in {seconds:.1f} s"
        )
    return 0


def _size(n_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.2f} {unit}"
    return f"{n_bytes} bytes"


@contextmanager
def _progress_bar(n_bytes: int, *, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A bar with bytes and the time left, where stderr is a terminal."""
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(total=n_bytes, unit="B", unit_scale=True, disable=hidden, leave=False) as bar:
        yield bar.update
