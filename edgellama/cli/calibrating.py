"""What `quantize` does with a text: matrices that make up for each other, types by their worth."""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellama.choice import Candidate, choose_by_cost, choose_by_size
from edgellama.compensation import Compensation
from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest
from edgellama.gguf import GGUFFile
from edgellama.quant import find_format
from edgellama.sensitivity import Costs, measure_costs
from edgellama.text_chunks import cut_text
from edgellama.tokenizer import load_tokenizer
from edgellama.weights import ModelWeights, load_weights

from .text_files import read_text_file

if TYPE_CHECKING:
    from edgellama.converters import Plan, PlannedTensor, TypeOptions

Chunks = npt.NDArray[np.int32]
Packed = npt.NDArray[np.uint8]

ABOUT_TEXTS = """\
With --calibrate, the model reads a text while it is quantized, and each matrix makes up for what
it and those before it have lost. It takes about as long as reading the text six times, and loses
less than half of what --imatrix does. Some 100 kB of text of the kind that the model is used for
are enough; measure with other text. --size and --max-kl choose each tensor's type by what rounding
it costs on that text, and print their choice.
"""

TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16")  # to choose among
COST_CHUNKS = 8  # of the text: that prices are right to a tenth
APART = 8  # every eighth chunk is kept apart to measure on, if there are so many
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
# The loss behind compensation, of what rounding alone would lose: to begin the search with.
FIRST_GUESS = 0.4
MAX_TRIES = 4


def add_text_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("by a text")
    group.add_argument("--calibrate", metavar="TEXT", help="file with a text, UTF-8: matrices make"
                       " up for each other's errors on it")  # fmt: skip
    group.add_argument("--ctx", type=int, default=512, metavar="N",
                       help="tokens of a chunk of it (default: %(default)s)")  # fmt: skip
    group.add_argument("--chunks", type=int, default=64, metavar="N",
                       help="take the first N chunks (default: %(default)s)")  # fmt: skip
    group.add_argument("--size", type=_size, metavar="SIZE", help="choose types for the least loss"
                       " in a file of at most so many bytes, such as 700M or 2.0G")  # fmt: skip
    group.add_argument("--max-kl", type=float, metavar="X", help="choose types for the smallest"
                       " file that is at most so far from the original: mean KL divergence in"
                       " nats, measured on a part of the text kept apart")  # fmt: skip


@contextmanager
def calibrated(plan: "Plan", args: argparse.Namespace, options: "TypeOptions") -> Iterator["Plan"]:
    """The plan with types as wished and matrices from a calibration; as it was without a text.

    What the plan reads is open inside the with.
    """
    if args.calibrate is None:
        if args.size is not None or args.max_kl is not None:
            raise InvalidRequest("--size and --max-kl measure on a text; name it with --calibrate")
        yield plan
        return
    _check(args)
    with GGUFFile(args.source) as file:
        config = ModelConfig.from_gguf(file)
        if args.ctx > config.context_length:
            raise InvalidRequest(
                f"{args.source}: reads at most {config.context_length:,} tokens, a chunk has"
                f" {args.ctx:,}; take shorter chunks with --ctx {config.context_length}"
            )
        text = read_text_file(args.calibrate)
        chunks = cut_text(load_tokenizer(file.metadata), text, args.ctx, args.chunks)
        work = _Work(plan, args, options, config, load_weights(file, config), chunks)
        if args.max_kl is not None:
            yield work.as_exact_as(args.max_kl)
        elif args.size is not None:
            yield work.as_large_as(args.size)
        else:
            yield plan if args.dry_run else work.compensated(plan)


def _check(args: argparse.Namespace) -> None:
    if args.imatrix is not None:
        raise InvalidRequest("--calibrate measures what --imatrix would tell; leave out one")
    if args.size is not None and args.max_kl is not None:
        raise InvalidRequest("--size and --max-kl are two wishes; leave out one")
    if args.max_kl is not None and not 0 < args.max_kl < np.inf:
        raise InvalidRequest(f"--max-kl is {args.max_kl}, it must be positive")


class _Work:
    """A plan, and the model and the text by which it is improved."""

    def __init__(
        self,
        plan: "Plan",
        args: argparse.Namespace,
        options: "TypeOptions",
        config: ModelConfig,
        weights: ModelWeights,
        chunks: Chunks,
    ) -> None:
        self._plan, self._args, self._options = plan, args, options
        self._config, self._weights, self._chunks = config, weights, chunks

    def compensated(self, plan: "Plan") -> "Plan":
        """The plan with each matrix made when it is asked for."""
        return _with_matrices(plan, self._compensation(plan).packed)

    def as_large_as(self, n_bytes: int) -> "Plan":
        """The least loss in a file of at most n_bytes; prints what was chosen."""
        from edgellama.converters import file_size

        fixed = file_size(self._plan) - sum(t.n_bytes for t in self._matrices())
        candidates = self._candidates(self._costs())
        choice = choose_by_size(candidates, n_bytes - fixed)
        plan = self._with_types(choice)
        self._show(plan, choice)
        return plan if self._args.dry_run else self.compensated(plan)

    def as_exact_as(self, max_kl: float) -> "Plan":
        """The smallest file found whose loss, measured, is at most max_kl; prints it.

        It is made in memory, if need be a few times.
        """
        candidates = self._candidates(self._costs())
        share = FIRST_GUESS
        for _ in range(MAX_TRIES):
            choice = choose_by_cost(candidates, max_kl / share)
            plan = self._with_types(choice)
            if self._args.dry_run:
                self._show(plan, choice)
                return plan
            compensation = self._compensation(plan)
            made = {t.source.name: compensation.packed(t.source.name) for t in _rounded(plan)}
            measured = compensation.divergence()
            if measured <= max_kl:
                self._show(plan, choice)
                self._say(f"measured on text kept apart: a mean KL divergence of {measured:.3g}")
                return _with_matrices(plan, made.__getitem__)
            share = 1.1 * measured / sum(c.cost for c in choice.values())
        raise InvalidRequest(
            f"a KL divergence of {max_kl:g} was not reached, the last try had {measured:.3g}; allow"
            " more, or take a longer text"
        )

    def _compensation(self, plan: "Plan") -> Compensation:
        formats = {tensor.source.name: tensor.format for tensor in _rounded(plan)}
        n_apart = len(self._chunks) // APART if self._args.max_kl is not None else 0
        if self._args.max_kl is not None and not n_apart:
            raise InvalidRequest(
                f"{self._args.calibrate}: has {len(self._chunks)} chunks of {self._args.ctx}"
                f" tokens, --max-kl needs {APART}; take a longer text, or shorter chunks with --ctx"
            )
        return Compensation(self._config, self._weights, formats, self._chunks, n_apart)

    def _matrices(self) -> list["PlannedTensor"]:
        return _rounded(self._plan)

    def _costs(self) -> Costs:
        types = {
            t.source.name: [find_format(name) for name in self._types(t)] for t in self._matrices()
        }
        return measure_costs(self._config, self._weights, self._chunks[:COST_CHUNKS], types)

    def _types(self, tensor: "PlannedTensor") -> list[str]:
        """What a matrix may be: what the user named, or all that fits its columns."""
        from edgellama.converters.mixes import fitting_type

        name, args = tensor.source.name, self._args
        named = any(re.search(pattern, name) for pattern, _ in args.tensor_type)
        if named or (
            (args.output_type is not None and name == self._weights.output.name)
            or (args.embedding_type is not None and name == self._weights.token_embd.name)
        ):
            return [tensor.format.name]
        cols = tensor.source.shape[-1]
        return list(dict.fromkeys(fitting_type(type, cols) for type in TYPES))

    def _candidates(self, costs: Costs) -> dict[str, list[Candidate]]:
        found = {}
        for tensor in self._matrices():
            rows, cols = tensor.source.shape
            found[tensor.source.name] = [
                Candidate(type, rows * find_format(type).row_bytes(cols), cost)
                for type, cost in costs[tensor.source.name].items()
            ]
        return found

    def _with_types(self, choice: dict[str, Candidate]) -> "Plan":
        """A plan of the chosen types; it goes by the name of the one that most bytes have."""
        from edgellama.converters import ALIASES, MIXES, make_plan

        n_bytes = Counter[str]()
        for c in choice.values():
            n_bytes[c.type] += c.n_bytes
        [(most, _), *_] = n_bytes.most_common()
        usual = most if most in {*MIXES, *ALIASES} else self._plan.type
        exact = [(f"^{re.escape(name)}$", c.type) for name, c in choice.items()]
        named = {"output_type": None, "embedding_type": None, "tensor_types": exact}
        options: TypeOptions = {**self._options, **named}  # type: ignore[typeddict-item]
        return make_plan(self._plan.source, usual, **options)

    def _show(self, plan: "Plan", choice: dict[str, Candidate]) -> None:
        """A row for each tensor, what it is expected to lose, and the sums."""
        from edgellama.converters import file_size

        if self._args.quiet or self._args.json:
            return
        width = max(map(len, choice))
        print(f"{'tensor':{width}}  {'type':6}  {'bytes':>13}  loss by rounding alone")
        for name, c in choice.items():
            print(f"{name:{width}}  {c.type:6}  {c.n_bytes:13,}  {c.cost:.2e}")
        total = sum(c.cost for c in choice.values())
        print(
            f"{plan.bits_per_weight:.2f} bits a weight, a file of {file_size(plan):,} bytes;"
            f" rounding alone would lose {total:.2e} nats a token"
        )

    def _say(self, text: str) -> None:
        if not self._args.quiet:
            print(text)


def _rounded(plan: "Plan") -> list["PlannedTensor"]:
    """The matrices that a forward multiplies with."""
    return [
        t for t in plan.tensors if len(t.source.shape) == 2 and "attn_rot_embd" not in t.source.name
    ]


class _Matrix:
    """The packed rows of a matrix, made when the first are asked for and dropped with the last."""

    def __init__(self, n_rows: int, make: Callable[[], Packed], lock: Lock) -> None:
        self._left, self._make, self._lock = n_rows, make, lock
        self._packed: Packed | None = None

    def __call__(self, start: int, stop: int) -> Packed:
        with self._lock:
            if self._packed is None:
                self._packed = self._make()
            rows = self._packed[start:stop]
            self._left -= stop - start
            if not self._left:
                self._packed = None
            return rows


def _with_matrices(plan: "Plan", packed: Callable[[str], Packed]) -> "Plan":
    """A plan that copies matrices that `packed` gives by their names."""
    lock = Lock()  # of all: they are made in the order of the forward
    names = {tensor.source.name for tensor in _rounded(plan)}

    def made(tensor: "PlannedTensor") -> "PlannedTensor":
        source = tensor.source
        if source.name not in names:
            return tensor
        rows = _Matrix(source.shape[0], partial(packed, source.name), lock)
        return replace(tensor, source=replace(source, format=tensor.format, packed=rows))

    return replace(plan, tensors=tuple(made(tensor) for tensor in plan.tensors))


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)B?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 2.0G, 700M or 650000000")
    return int(float(found[1]) * UNITS[found[2]])
