"""`edgellama imatrix`: what each input channel of a model carries, for quantizing by importance."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellama.calibration import collect_imatrix
from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest
from edgellama.gguf import GGUFFile
from edgellama.gguf_imatrix import write_imatrix
from edgellama.gguf_writer import check_target
from edgellama.text_chunks import cut_text
from edgellama.tokenizer import load_tokenizer
from edgellama.weights import load_weights

from .text_files import read_text_file

HELP = "collect what each input channel carries, to quantize by it"
EXAMPLES = """\
The model reads the text in chunks of --ctx tokens, in float32; the squares of all that goes into
its matrices are added up, channel by channel. The file is llama.cpp's imatrix in GGUF, and serves
there as well. Take the model as it was (F16 or BF16), and some 50 to 200 kB of text of the kind
that it will be used for, other than the text it is later measured with.

examples:
  edgellama imatrix llama-f16.gguf calibration.txt
  edgellama imatrix llama-f16.gguf calibration.txt --chunks 100 -o llama.imatrix.gguf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("model", metavar="MODEL", help="GGUF file")
    parser.add_argument("text", metavar="TEXT", help="file with the text to read, UTF-8")
    parser.add_argument("-o", "--output", metavar="FILE",
                        help="the file to make (default: MODEL's name, .imatrix.gguf)")  # fmt: skip
    parser.add_argument("--ctx", type=int, default=512, metavar="N",
                        help="tokens of a chunk (default: %(default)s)")  # fmt: skip
    parser.add_argument("--chunks", type=int, metavar="N", help="take only the first N chunks")
    parser.add_argument("--process-output", action="store_true", help="of the output matrix, too;"
                        " it is rarely rounded so far that this helps")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no remarks")


def run(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    target = Path(args.output or f"{Path(args.model).stem}.imatrix.gguf")
    check_target(target, [args.model, args.text])  # here, because reading a text takes long
    with GGUFFile(args.model) as file:
        config = ModelConfig.from_gguf(file)
        if args.ctx > config.context_length:
            raise InvalidRequest(
                f"{args.model}: reads at most {config.context_length:,} tokens, a chunk has"
                f" {args.ctx:,}; take shorter chunks with --ctx {config.context_length}"
            )
        tokenizer = load_tokenizer(file.metadata)
        chunks = cut_text(tokenizer, read_text_file(args.text), args.ctx, args.chunks)
        with _progress_bar(len(chunks) * config.n_layers, quiet=args.quiet) as progress:
            matrix = collect_imatrix(
                config,
                load_weights(file, config),
                chunks,
                dataset=args.text,
                output=args.process_output,
                progress=progress,
            )
        write_imatrix(target, matrix, inputs=[args.model, args.text])
    if not args.quiet:
        print(
            f"{target}: {len(matrix.sums)} matrices over {len(chunks):,} chunks of"
            f" {args.ctx:,} tokens, in {time.perf_counter() - start:.1f} s"
        )
    return 0


@contextmanager
def _progress_bar(n_steps: int, *, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A bar with the time left, where stderr is a terminal; a step is a chunk through a layer."""
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(total=n_steps, unit="step", disable=hidden, leave=False) as bar:
        yield bar.update
