"""`edgellama eval`: perplexity of a text, and how far models have moved from a reference."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from edgellama.backends import Backend, load_backend
from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest
from edgellama.evaluate import Divergence, Estimate, Losses, evaluate
from edgellama.gguf import GGUFFile
from edgellama.text_chunks import cut_text
from edgellama.tokenizer import load_tokenizer
from edgellama.weights import load_weights

from .scatter import Point, write_scatter
from .terminal import note
from .text_files import read_text_file

HELP = "measure what a model has lost: perplexity, distance from a reference"
EXAMPLES = """\
The text is cut into chunks of --ctx tokens, and the second half of each is predicted, as
llama-perplexity does, so that figures compare. With --reference, usually the same model in F16, the
table shows how far predictions are from it: Kullback-Leibler divergence in nats (mean, percentiles,
maximum), ln of the ratio of the perplexities, and how often the likeliest token is the same. All
models run side by side on a few rows at a time; no logits are kept.

examples:
  edgellama eval llama-q4_0.gguf --text wiki.test.raw
  edgellama eval llama-q4_0.gguf --text wiki.test.raw --reference llama-f16.gguf --chunks 20
  edgellama eval q4.gguf q6.gguf q8.gguf --text t.txt --reference f16.gguf --plot loss.svg
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What is told of one model."""

    model: str  # the path, as it was given
    n_bytes: int  # of all tensors
    bits_per_weight: float
    perplexity: Estimate
    divergence: Divergence | None  # of the reference itself, or without one: None


@dataclass(frozen=True, slots=True)
class Result:
    """All that was measured."""

    text: str
    n_chunks: int
    n_ctx: int
    n_predictions: int
    reference: Row | None
    models: list[Row]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("models", nargs="+", metavar="MODEL", help="GGUF file")
    parser.add_argument("--text", required=True, metavar="FILE", help="the text to predict, UTF-8")
    parser.add_argument("--reference", metavar="F16.gguf", help="the model as it was, to measure"
                        " the distance from")  # fmt: skip
    parser.add_argument("--ctx", type=int, default=512, metavar="N",
                        help="tokens of a chunk (default: %(default)s)")  # fmt: skip
    parser.add_argument("--chunks", type=int, metavar="N", help="take only the first N chunks")
    parser.add_argument("--threads", type=int, metavar="N", help="default: what suits the machine")
    parser.add_argument("--backend", default="cpu", metavar="NAME", help="cpu, or reference: plain"
                        " numpy in float32, slow (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--plot", metavar="OUT.svg", help="draw loss against bits per weight")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    _check(args)
    paths = [*args.models, *([] if args.reference is None else [args.reference])]
    with ExitStack() as stack:
        files = {path: stack.enter_context(GGUFFile(path)) for path in paths}
        configs = {path: ModelConfig.from_gguf(file) for path, file in files.items()}
        _check_fit(files, configs, args.ctx)
        tokenizer = load_tokenizer(files[paths[0]].metadata)
        chunks = cut_text(tokenizer, read_text_file(args.text), args.ctx, args.chunks)

        def load(path: str) -> Backend:
            backend = load_backend(
                args.backend,
                configs[path],
                load_weights(files[path], configs[path]),
                n_ctx=args.ctx,
                n_threads=args.threads,
                progress=note if sys.stderr.isatty() else None,
            )
            stack.callback(backend.close)
            return backend

        models = {path: load(path) for path in args.models}
        reference = None if args.reference is None else load(args.reference)
        with _progress_bar(len(chunks), quiet=args.quiet) as progress:
            losses, expected = evaluate(models, chunks, reference, progress)
    result = Result(
        text=args.text,
        n_chunks=len(chunks),
        n_ctx=args.ctx,
        n_predictions=len(losses[args.models[0]].nll),
        reference=None if expected is None else _row(args.reference, files, expected, None),
        models=[_row(path, files, losses[path], expected) for path in args.models],
    )
    if args.plot is not None:
        _plot(Path(args.plot), result)
    if args.json:
        print(json.dumps(asdict(result), ensure_ascii=False, indent=1))
    else:
        _show(result)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what would only fail after hours."""
    if len({os.path.realpath(path) for path in args.models}) < len(args.models):
        raise InvalidRequest("a model is named twice; name each file once")
    if args.threads is not None and args.threads < 1:
        raise InvalidRequest(f"--threads is {args.threads}, it must be 1 or more")
    if args.plot is not None:
        if Path(args.plot).suffix != ".svg":
            raise InvalidRequest(f"--plot draws SVG: {args.plot} must end with .svg")
        if not Path(args.plot).parent.is_dir():
            raise InvalidRequest(f"{args.plot}: the folder {Path(args.plot).parent} does not exist")


def _check_fit(
    files: Mapping[str, GGUFFile], configs: Mapping[str, ModelConfig], n_ctx: int
) -> None:
    """Refuse models that cannot read the chunks, or not the same ones."""
    first, *_ = files
    keys = ("tokens", "bos_token_id", "add_bos_token")
    for path, file in files.items():
        longest = configs[path].context_length
        if n_ctx > longest:
            raise InvalidRequest(
                f"{path}: reads at most {longest:,} tokens, a chunk has {n_ctx:,}; take shorter"
                f" chunks with --ctx {longest}"
            )
        mine, other = (
            [_comparable(f.metadata.get(f"tokenizer.ggml.{key}")) for key in keys]
            for f in (file, files[first])
        )
        if mine != other or configs[path].vocab_size != configs[first].vocab_size:
            raise InvalidRequest(
                f"{path}: has another vocabulary than {first}; their figures do not compare,"
                " measure one at a time"
            )


def _comparable(value: object) -> object:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _row(path: str, files: Mapping[str, GGUFFile], losses: Losses, reference: Losses | None) -> Row:
    tensors = files[path].tensors.values()
    n_bytes = sum(tensor.n_bytes for tensor in tensors)
    return Row(
        model=path,
        n_bytes=n_bytes,
        bits_per_weight=8 * n_bytes / sum(math.prod(tensor.shape) for tensor in tensors),
        perplexity=losses.perplexity,
        divergence=None if reference is None else losses.divergence(reference),
    )


_HEADER = ("model", "bits/weight", "perplexity", "ln ratio", "mean KL", "90 %", "99 %", "99.9 %",
           "max", "same top")  # fmt: skip


def _show(result: Result) -> None:
    """A table for people."""
    print(
        f"{result.text}: {result.n_chunks:,} chunks of {result.n_ctx:,} tokens,"
        f" {result.n_predictions:,} predictions\n"
    )
    told = [*([] if result.reference is None else [result.reference]), *result.models]
    rows = [_HEADER, *(_cells(row) for row in told)]
    shown = _HEADER if result.reference is not None else _HEADER[:3]
    widths = [max(len(row[i]) for row in rows) for i in range(len(shown))]
    for name, *figures in rows:
        padded = (f"{cell:>{w}}" for cell, w in zip(figures, widths[1:], strict=False))
        print("  ".join((f"{name:{widths[0]}}", *padded)).rstrip())


def _cells(row: Row) -> tuple[str, ...]:
    start = (row.model, f"{row.bits_per_weight:.3f}", _figure(row.perplexity, 4))
    d = row.divergence
    if d is None:
        return (*start, *[""] * (len(_HEADER) - len(start)))
    tail = (d.percentile_90, d.percentile_99, d.percentile_99_9, d.maximum)
    top = Estimate(100 * d.same_top.value, 100 * d.same_top.error)
    return (
        *start,
        _figure(d.log_ratio, 6),
        _figure(d.mean, 6),
        *(f"{value:.6f}" for value in tail),
        f"{_figure(top, 2)} %",
    )


def _figure(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ± {estimate.error:.{digits}f}"


def _plot(path: Path, result: Result) -> None:
    """KL divergence, or without a reference perplexity, of each model by its size."""
    compared = result.reference is not None
    points = []
    for row in result.models:
        loss = row.perplexity if row.divergence is None else row.divergence.mean
        points.append(Point(row.bits_per_weight, loss.value, loss.error, Path(row.model).stem))
    write_scatter(
        path,
        points,
        title=f"{Path(result.text).name}, {result.n_predictions:,} predictions",
        x_label="bits per weight",
        y_label="mean KL divergence, nats" if compared else "perplexity",
        log_y=compared,
    )


@contextmanager
def _progress_bar(
    n_chunks: int, *, quiet: bool
) -> Iterator[Callable[[Mapping[str, Losses]], object]]:
    """A bar with the time left and a perplexity, of the first model, where stderr is a terminal."""
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(total=n_chunks, unit="chunk", disable=hidden, leave=False) as bar:

        def advance(losses: Mapping[str, Losses]) -> None:
            if not hidden:
                bar.set_postfix(perplexity=f"{next(iter(losses.values())).perplexity.value:.4f}")
            bar.update()

        yield advance
