"""`edgellama bench`: tokens a second of a model on this machine, in the manner of llama-bench."""

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter

import numpy as np
import numpy.typing as npt

from edgellama import __version__
from edgellama.backends import Backend, Batch, load_backend
from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest
from edgellama.gguf import GGUFFile
from edgellama.llama import shipped_model
from edgellama.random_llama import SHAPES, TYPES, write_random_llama
from edgellama.threads import default_threads
from edgellama.weights import ModelWeights, load_weights

from .terminal import note

HELP = "measure how fast a model runs here"
EXAMPLES = """\
pp512 is a prompt of 512 tokens, run at once; tg128 is 128 tokens, one after the other, nothing
sampled; "@ d8192" is the same behind 8192 tokens of context. Speed does not depend on what tokens
say, so they are random. Each test runs once unmeasured, then -r times; the table shows mean and
standard deviation in tokens a second, and the most memory that the process has held up to then,
with the part of the model's file that it has read.

examples:
  edgellama bench llama-3.2-1b.gguf
  edgellama bench llama-3.2-1b.gguf -t 1,2,4 -d 0,8192 -o csv > speed.csv
  edgellama bench --shape llama-3.2-1b --type q8_0        random weights, no file needed
  edgellama bench llama-3.2-1b.gguf -p 0 -n 32 -r 3       decode only
"""
Ids = npt.NDArray[np.int32]

FORMATS_OUT = ("md", "csv", "json", "jsonl")


@dataclass(frozen=True, slots=True)
class Test:
    """What is timed: a prompt at once or tokens one by one, behind `depth` others."""

    n_prompt: int
    n_gen: int
    depth: int

    @property
    def n_tokens(self) -> int:
        return self.n_prompt or self.n_gen

    def __str__(self) -> str:
        name = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return f"{name} @ d{self.depth}" if self.depth else name


@dataclass(frozen=True, slots=True)
class Model:
    """What stands in front of every row."""

    model_filename: str
    model_type: str  # its name, and the formats of its matrices, most bytes first
    model_size: int  # bytes of all tensors
    model_n_params: int


@dataclass(frozen=True, slots=True)
class Row:
    """One result; the fields of csv and json, named as llama-bench names them."""

    build: str
    model_filename: str
    model_type: str
    model_size: int
    model_n_params: int
    backend: str
    cpu_tier: str
    n_threads: int
    type_kv: str
    test: str
    n_prompt: int
    n_gen: int
    n_depth: int
    avg_ts: float  # tokens a second
    stddev_ts: float
    samples_ts: list[float]
    peak_rss: int  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="GGUF file (default: the small model that ships with edgellama)",
    )
    group = parser.add_argument_group("tests (several values by comma)")
    group.add_argument("-p", "--n-prompt", type=_numbers(0), default=[512], metavar="N",
                       help="tokens of the prompt; 0: none (default: 512)")  # fmt: skip
    group.add_argument("-n", "--n-gen", type=_numbers(0), default=[128], metavar="N",
                       help="tokens to decode; 0: none (default: 128)")  # fmt: skip
    group.add_argument("-d", "--n-depth", type=_numbers(0), default=[0], metavar="N",
                       help="tokens that stand in the context before (default: 0)")  # fmt: skip
    group.add_argument("-t", "--threads", type=_numbers(1), metavar="N",
                       help="threads (default: what suits the machine)")  # fmt: skip
    group.add_argument("-r", "--repetitions", type=_number(1), default=5, metavar="N",
                       help="how often each is measured (default: %(default)s)")  # fmt: skip
    parser.add_argument("-o", "--output", choices=FORMATS_OUT, default="md",
                        help="form of the result (default: %(default)s)")  # fmt: skip
    parser.add_argument("--shape", choices=SHAPES, help="random weights in this shape, in a"
                        " temporary file, instead of MODEL")  # fmt: skip
    types = [name.lower() for name in TYPES]
    parser.add_argument("--type", choices=types, default="q4_0", type=str.lower, metavar="TYPE",
                        help=f"of the random weights: {', '.join(types)}"
                        " (default: %(default)s)")  # fmt: skip
    parser.add_argument("--output-type", choices=types, type=str.lower, metavar="TYPE",
                        help="of the random matrix that makes the logits (default: as in usual"
                        " files, q6_k where the others have fewer bits)")  # fmt: skip
    parser.add_argument("--kv-type", default="f16", metavar="TYPE",
                        help="keys and values as f16 or q8_0 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--backend", default="cpu", metavar="NAME",
                        help="cpu or reference (default: %(default)s)")  # fmt: skip


def _number(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return number


def _numbers(least: int) -> Callable[[str], list[int]]:
    def numbers(text: str) -> list[int]:
        return [_number(least)(part) for part in text.split(",")]

    return numbers


def run(args: argparse.Namespace) -> int:
    if args.shape is not None and args.model is not None:
        raise InvalidRequest("name a MODEL or a --shape, not both")
    tests = [
        Test(n_prompt, n_gen, depth)
        for depth in args.n_depth
        for n_prompt, n_gen in [(p, 0) for p in args.n_prompt] + [(0, n) for n in args.n_gen]
        if n_prompt or n_gen
    ]
    if not tests:
        raise InvalidRequest("nothing to measure: -p and -n are both 0")
    with ExitStack() as stack:
        path = stack.enter_context(_model(args))
        file = stack.enter_context(GGUFFile(path))
        config = ModelConfig.from_gguf(file)
        weights = load_weights(file, config)
        rows = _measure_all(args, _describe(file, config), config, weights, tests)
        _WRITERS[args.output](rows)
    return 0


@contextmanager
def _model(args: argparse.Namespace) -> Iterator[Path]:
    """The file to measure, which exists while the context lasts."""
    if args.shape is None:
        if args.model is not None:
            yield Path(args.model)
            return
        with shipped_model() as path:
            yield path
        return
    from tqdm import tqdm

    with tempfile.TemporaryDirectory(prefix="edgellama-bench-") as folder:
        path = Path(folder) / f"{args.shape}-{args.type}.gguf"
        quiet = not sys.stderr.isatty()
        with tqdm(desc="random weights", unit="B", unit_scale=True, disable=quiet) as bar:
            name = f"{args.shape}, random"
            write_random_llama(
                path,
                SHAPES[args.shape],
                args.type,
                output_type=args.output_type,
                name=name,
                progress=bar.update,
            )
        yield path


def _describe(file: GGUFFile, config: ModelConfig) -> Model:
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        if len(tensor.shape) > 1:
            sizes[tensor.format.name] = sizes.get(tensor.format.name, 0) + tensor.n_bytes
    formats = "+".join(sorted(sizes, key=sizes.__getitem__, reverse=True))
    return Model(
        model_filename=file.path.name,
        model_type=f"{config.name} {formats}".strip(),
        model_size=sum(tensor.n_bytes for tensor in file.tensors.values()),
        model_n_params=sum(int(np.prod(tensor.shape)) for tensor in file.tensors.values()),
    )


def _measure_all(
    args: argparse.Namespace,
    model: Model,
    config: ModelConfig,
    weights: ModelWeights,
    tests: list[Test],
) -> Iterator[Row]:
    from edgellama.quant.simd.cpu import current_tier

    n_ctx = max(test.depth + test.n_tokens for test in tests)
    if n_ctx > config.context_length:
        raise InvalidRequest(
            f"{n_ctx:,} tokens are asked for; the model reads {config.context_length:,} at most"
        )
    say = note if sys.stderr.isatty() else None
    ids = np.random.default_rng(0).integers(0, config.vocab_size, n_ctx, np.int32)
    for n_threads in args.threads or [default_threads().count]:
        backend = load_backend(
            args.backend,
            config,
            weights,
            n_ctx=n_ctx,
            n_threads=n_threads,
            kv_type=args.kv_type,
            progress=say,
        )
        held = 0  # tokens in the context; they are always the first of `ids`
        try:
            for test in tests:
                if say is not None:
                    say(f"{test}, {n_threads} threads")
                held = min(held, test.depth)
                backend.rewind(0, held)
                if held < test.depth:
                    backend.forward(Batch.of(ids[held : test.depth], 0, held, "last"))
                    held = test.depth
                samples = _measure(backend, test, ids, args.repetitions)
                yield Row(
                    build=__version__,
                    **asdict(model),
                    backend=args.backend,
                    cpu_tier=current_tier().name,
                    n_threads=n_threads,
                    type_kv=args.kv_type,
                    test=str(test),
                    n_prompt=test.n_prompt,
                    n_gen=test.n_gen,
                    n_depth=test.depth,
                    avg_ts=mean(samples),
                    stddev_ts=stdev(samples) if len(samples) > 1 else 0.0,
                    samples_ts=samples,
                    peak_rss=_peak_rss(),
                )
        finally:
            backend.close()


def _measure(backend: Backend, test: Test, ids: Ids, repetitions: int) -> list[float]:
    """Tokens a second of each repetition, after one that is not measured; the depth is filled."""
    end = test.depth + test.n_tokens
    step = test.n_tokens if test.n_prompt else 1
    samples = []
    for _ in range(1 + repetitions):
        backend.rewind(0, test.depth)
        started = perf_counter()
        for start in range(test.depth, end, step):
            backend.forward(Batch.of(ids[start : start + step], 0, start, "last"))
        samples.append(test.n_tokens / (perf_counter() - started))
    return samples[1:]


def _peak_rss() -> int:
    """The most memory that this process has held at once, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "model": lambda row: row.model_type,
    "size": lambda row: f"{row.model_size / 2**20:,.2f} MiB",
    "params": lambda row: f"{row.model_n_params / 1e6:,.2f} M",
    "backend": lambda row: f"{row.backend} {row.cpu_tier}" if row.backend == "cpu" else row.backend,
    "threads": lambda row: str(row.n_threads),
    "test": lambda row: row.test,
    "t/s": lambda row: f"{row.avg_ts:.2f} ± {row.stddev_ts:.2f}",
    "peak RSS": lambda row: f"{row.peak_rss / 2**20:,.0f} MiB",
}


def _write_markdown(rows: Iterator[Row]) -> None:
    """A row as soon as it is measured."""
    for i, row in enumerate(rows):
        cells = {name: show(row).replace("|", "\\|") for name, show in _COLUMNS.items()}
        if i == 0:
            widths = {name: max(len(name), len(cell)) + 2 for name, cell in cells.items()}
            widths["test"] = max(widths["test"], len("pp512 @ d32768"))
            right = [name for name in cells if name not in ("model", "backend", "test")]
            print(_line({name: name for name in cells}, widths, right))
            ends = [f"{'-' * (w - 1)}{':' if n in right else '-'}" for n, w in widths.items()]
            print(f"|{'|'.join(ends)}|")
        print(_line(cells, widths, right), flush=True)


def _line(cells: dict[str, str], widths: dict[str, int], right: list[str]) -> str:
    padded = (
        f" {cell.rjust(widths[name] - 2) if name in right else cell.ljust(widths[name] - 2)} "
        for name, cell in cells.items()
    )
    return f"|{'|'.join(padded)}|"


def _write_csv(rows: Iterator[Row]) -> None:
    names = [field.name for field in fields(Row) if field.name != "samples_ts"]
    writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(asdict(row))
        sys.stdout.flush()


def _write_json(rows: Iterator[Row]) -> None:
    print(json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=1))


def _write_json_lines(rows: Iterator[Row]) -> None:
    for row in rows:
        print(json.dumps(asdict(row), ensure_ascii=False), flush=True)


_WRITERS: dict[str, Callable[[Iterator[Row]], None]] = {
    "md": _write_markdown,
    "csv": _write_csv,
    "json": _write_json,
    "jsonl": _write_json_lines,
}
