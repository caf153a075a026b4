"""`edgellama warmup`: compile now what would be compiled when a model first runs."""

import argparse
from time import perf_counter

from edgellama.errors import ResourceError
from edgellama.quant import FORMATS, find_format

from .terminal import note

HELP = "compile the kernels for this CPU, once and ahead of time"
EXAMPLES = """\
Kernels are compiled when a model first needs them, which takes some seconds, and kept. This
compiles them all, so that no start has to wait: after an installation, or into an image of a
container. What is there already is only checked.

examples:
  edgellama warmup
  edgellama warmup --formats q4_0 q8_0
  EDGELLAMA_CACHE_DIR=/opt/edgellama edgellama warmup      kept there; set it for later runs, too
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    names = [f.name.lower() for f in FORMATS]
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=names,
        default=names,
        type=str.lower,
        metavar="FORMAT",
        help=f"of: {', '.join(names)} (default: all)",
    )


def run(args: argparse.Namespace) -> int:
    from edgellama.backends.cpu import entries_for
    from edgellama.quant.cache_folder import CACHE_ENVIRONMENT, CACHE_FOLDER, CACHE_REFUSAL
    from edgellama.quant.entry import compile_entries
    from edgellama.quant.simd.cpu import current_tier

    if CACHE_FOLDER is None:
        raise ResourceError(
            f"nothing can be kept: {CACHE_REFUSAL}; set {CACHE_ENVIRONMENT} to a folder of your own"
        )
    formats = [find_format(name) for name in args.formats]
    packs = [f.pack_entry for f in formats]
    entries = dict.fromkeys(entries_for(formats) + [pack for pack in packs if pack is not None])
    started = perf_counter()
    n_compiled = compile_entries(entries, note)
    seconds = perf_counter() - started
    missing = [entry.name for entry in entries if not entry.is_cached(on_disk=True)]
    if missing:
        raise ResourceError(
            f"{len(missing)} of {len(entries)} kernels could not be kept in {CACHE_FOLDER}: is the"
            " disk full?"
        )
    print(
        f"{len(entries)} kernels for {current_tier().name}, {n_compiled} of them compiled in"
        f" {seconds:.1f} s: {CACHE_FOLDER}"
    )
    return 0
