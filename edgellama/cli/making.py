"""Making a GGUF file: what `convert` and `quantize` share, from the options to the last line."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.errors import InvalidRequest

if TYPE_CHECKING:
    from edgellama.converters import Plan, TypeOptions

ABOUT_TYPES = """\
A type is the name of a mix: most matrices are of that type, those that are worth more bits of
another, as llama.cpp has it. Usual are Q8_0, Q6_K, Q5_K_M, Q4_K_M, IQ4_XS, Q3_K_M; exact, F16 or
BF16. --tensor-type, --output-type and --embedding-type name plain types: Q4_K, Q6_K, Q8_0, F16 ...
Where rows do not divide into blocks of 256, a type with blocks of 32 serves instead: Q8_0 for Q6_K,
Q5_1 for Q5_K, Q5_0 for Q4_K, Q4_0 for Q3_K and Q2_K, IQ4_NL for IQ4_XS; F16 where those do not
divide either.
"""


def add_type_options(parser: argparse.ArgumentParser, default: str) -> None:
    """How the weights of the new file are stored, and how it is made."""
    from edgellama.converters import ALIASES, MIXES

    names = [*MIXES, *ALIASES]
    group = parser.add_argument_group("types")
    group.add_argument("--type", choices=names, default=default, type=str.upper, metavar="TYPE",
                       help=f"one of {', '.join(names)} (default: %(default)s)")  # fmt: skip
    group.add_argument("--tensor-type", action="append", default=[], type=_pattern_and_type,
                       metavar="PATTERN=TYPE", help="tensors in whose name this regular expression"
                       " is found; repeatable, the first that fits counts")  # fmt: skip
    group.add_argument("--output-type", metavar="TYPE", help="of the matrix that makes the logits:"
                       " output.weight, or token_embd.weight where they are one")  # fmt: skip
    group.add_argument("--embedding-type", metavar="TYPE", help="of token_embd.weight")
    group.add_argument("--pure", action="store_true", help="one type for all matrices, no mix")
    group.add_argument("--imatrix", metavar="FILE", help="weigh errors by what each channel"
                       " carries, as `edgellama imatrix` or llama.cpp collected it")  # fmt: skip
    group.add_argument("--allow-requantize", action="store_true", help="round weights a second"
                       " time that have been rounded already")  # fmt: skip
    group = parser.add_argument_group("making")
    group.add_argument("--dry-run", action="store_true", help="print what would be made and how"
                       " many bytes it would have; no weight is read")  # fmt: skip
    group.add_argument("--json", action="store_true", help="of --dry-run: print it as JSON")
    group.add_argument("--threads", type=int, metavar="N", help="default: all cores")
    group.add_argument("--quiet", action="store_true", help="no progress bar, no remarks")


def type_options(args: argparse.Namespace) -> "TypeOptions":
    """What `add_type_options` read beside --type; raises what reading an imatrix raises."""
    from edgellama.converters import Importance

    if args.threads is not None and args.threads < 1:
        raise InvalidRequest(f"--threads is {args.threads}, it must be at least 1")
    return {
        "pure": args.pure,
        "output_type": args.output_type,
        "embedding_type": args.embedding_type,
        "tensor_types": args.tensor_type,
        "allow_requantize": args.allow_requantize,
        "importance": None if args.imatrix is None else Importance.read(args.imatrix),
    }


def make(plan: "Plan", path: str, args: argparse.Namespace) -> None:
    """Write the planned file, with a progress bar, and tell of it unless --quiet."""
    from edgellama.converters import write_plan

    start = time.perf_counter()
    with _progress_bar(plan.n_bytes, quiet=args.quiet) as progress:
        write_plan(plan, Path(path), progress, n_threads=args.threads)
    if not args.quiet:
        for note in plan.notes:
            print(f"note: {note}", file=sys.stderr)
        print(
            f"{path}: {plan.source.family}, {plan.type}, {len(plan.tensors)} tensors,"
            f" {_size(plan.n_bytes)}, {plan.bits_per_weight:.2f} bits a weight, in"
            f" {time.perf_counter() - start:.1f} s"
        )


def _pattern_and_type(text: str) -> tuple[str, str]:
    pattern, equals, type = text.rpartition("=")
    if not (equals and pattern and type):
        raise argparse.ArgumentTypeError(f"{text!r} is not PATTERN=TYPE, such as attn_v=Q8_0")
    return pattern, type


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
