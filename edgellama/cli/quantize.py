"""`edgellama quantize`: a GGUF file into a smaller one."""

import argparse
import json
from itertools import groupby
from typing import TYPE_CHECKING

from edgellama.errors import InvalidRequest
from edgellama.gguf_writer import check_target

from .calibrating import ABOUT_TEXTS, add_text_options, calibrated
from .making import ABOUT_TYPES, add_type_options, make, type_options

if TYPE_CHECKING:
    from edgellama.converters import Plan

HELP = "make a smaller GGUF file of another"
EXAMPLES = f"""\
Take the file with the original weights (F16 or BF16): what was rounded once loses twice.

{ABOUT_TYPES}
{ABOUT_TEXTS}
examples:
  edgellama quantize llama-f16.gguf llama-q4.gguf --type Q4_K_M
  edgellama quantize llama-f16.gguf llama-q3.gguf --type Q3_K_M --imatrix llama.imatrix.gguf
  edgellama quantize llama-f16.gguf llama.gguf --type IQ4_XS --tensor-type attn_v=Q8_0 \\
      --tensor-type 'blk\\.[01]\\.ffn_down=Q6_K'
  edgellama quantize llama-f16.gguf llama-q4.gguf --type Q4_K_M --calibrate text.txt
  edgellama quantize llama-f16.gguf llama-2g.gguf --size 2.0G --calibrate text.txt
  edgellama quantize llama-f16.gguf --type Q5_K_M --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="IN.gguf", help="the file to read")
    parser.add_argument("output", metavar="OUT.gguf", nargs="?", help="the file to make")
    add_type_options(parser, default="Q4_K_M")
    add_text_options(parser)


def run(args: argparse.Namespace) -> int:
    from edgellama.converters import make_plan, open_source

    from .inspect import describe

    if args.output is None and not args.dry_run:
        raise InvalidRequest("name the file to make behind the one to read, or ask for --dry-run")
    source = open_source(args.source)
    if source.kind != "GGUF file":
        raise InvalidRequest(
            f"{args.source}: is a checkpoint; `edgellama convert` makes GGUF of it, of any --type"
        )
    if not args.dry_run:  # here, because a calibration takes long
        texts = [] if args.calibrate is None else [args.calibrate]
        check_target(args.output, [*source.fingerprint, *texts])
    options = type_options(args)
    plan = make_plan(source, args.type, **options)
    with calibrated(plan, args, options) as wished:
        if not args.dry_run:
            make(wished, args.output, args)
        elif args.json:
            print(json.dumps(describe(source, wished), ensure_ascii=False, indent=1))
        else:
            _show(wished)
    return 0


def _show(plan: "Plan") -> None:
    """The tensors in groups, what is remarkable, and the size of the file."""
    from edgellama.converters import file_size

    rows = [("part", "layers", "shape", "stored", "made", "bytes"), *_groups(plan)]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row[:5], widths, strict=False)]
        print("  ".join([*cells, row[5].rjust(widths[5])]))
    for note in plan.notes:
        print(f"note: {note}")
    print(
        f"{plan.type}: {len(plan.tensors)} tensors, {plan.bits_per_weight:.2f} bits a weight,"
        f" a file of {file_size(plan):,} bytes"
    )


def _groups(plan: "Plan") -> list[tuple[str, ...]]:
    """A row for all tensors that differ in their layer alone."""
    groups: dict[tuple[str, ...], list[int]] = {}
    n_bytes: dict[tuple[str, ...], int] = {}
    for tensor in plan.tensors:
        first, _, rest = tensor.source.name.partition(".")
        layer, _, part = rest.partition(".") if first == "blk" else ("", "", tensor.source.name)
        shape = " x ".join(f"{n}" for n in tensor.source.shape)
        key = (part.removesuffix(".weight"), shape, tensor.source.dtype, tensor.format.name)
        groups.setdefault(key, []).extend([int(layer)] if layer.isdecimal() else [])
        n_bytes[key] = n_bytes.get(key, 0) + tensor.n_bytes
    return [
        (key[0], _ranges(layers), *key[1:], f"{n_bytes[key]:,}") for key, layers in groups.items()
    ]


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] as "0-2 5"."""
    runs = (
        [n for _, n in run]
        for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    )
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
