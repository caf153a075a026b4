"""Plan: which format every tensor of the new file gets, decided from shapes alone."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from edgellama.errors import InvalidRequest
from edgellama.gguf import WriteValue
from edgellama.quant import Format, find_format

from .importance import Importance
from .mixes import Model, find_mix, fitting_type, tensor_type
from .source import Fingerprint, Source, SourceTensor

QUANTIZATION_VERSION = 2  # of GGML's block layouts


class TypeOptions(TypedDict, total=False):
    """What the user may say of types beside the name of a mix; named ones go before its rules."""

    pure: bool  # no rules: one type for all matrices
    output_type: str | None  # of the matrix that makes the logits
    embedding_type: str | None  # of token_embd; goes before output_type where both are one
    tensor_types: Sequence[tuple[str, str]]  # pattern and type: the first found in a name counts
    allow_requantize: bool
    importance: Importance | None


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the checkpoint and the format it will have."""

    source: SourceTensor
    format: Format
    importance: npt.NDArray[np.float32] | None = None  # (cols,), weighs the squared errors

    @property
    def n_bytes(self) -> int:
        rows, cols = as_matrix(self.source.shape)
        return rows * self.format.row_bytes(cols)

    @property
    def rounds(self) -> bool:
        """Whether numbers are rounded to a quantized type, and not only copied or cast."""
        return self.format.block_size > 1 and self.format != self.source.format


@dataclass(frozen=True, slots=True)
class Plan:
    """The file to be made: metadata, and tensors in file order."""

    source: Source
    type: str  # the usual name of the mix
    metadata: dict[str, WriteValue]
    tensors: tuple[PlannedTensor, ...]
    notes: tuple[str, ...]  # one line each, for the user

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors, without the header."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        n_weights = sum(np.prod(as_matrix(tensor.source.shape)) for tensor in self.tensors)
        return float(8 * self.n_bytes / n_weights)

    @property
    def may_be_tied(self) -> bool:
        """Whether only the weights can tell if the output matrix repeats the embedding."""
        return any(
            tensor.source.name == "output.weight" and tensor.source.format is None
            for tensor in self.tensors
        )


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, cols), a vector being one row."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def make_plan(
    source: Source,
    type: str,
    *,
    pure: bool = False,
    output_type: str | None = None,
    embedding_type: str | None = None,
    tensor_types: Sequence[tuple[str, str]] = (),
    allow_requantize: bool = False,
    importance: Importance | None = None,
) -> Plan:
    """Decide the format of every tensor of a file of the mix `type`.

    Raises InvalidRequest for a type or pattern that is none, a type that this version cannot make
    or that loses twice, and an importance matrix of another model.
    """
    try:
        usual, mix = find_mix(type)
        patterns = [(re.compile(pattern), find_format(t).name) for pattern, t in tensor_types]
        named = {
            name: find_format(t).name
            for name, t in (
                (_output_name(source), output_type),
                ("token_embd.weight", embedding_type),
            )
            if t is not None
        }
    except re.error as error:
        raise InvalidRequest(f"{error.pattern!r} is not a regular expression: {error}") from error
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    model = _model(source, weighed=importance is not None)

    def wanted(name: str) -> str:
        if name in named:
            return named[name]
        by_pattern = (t for pattern, t in patterns if pattern.search(name))
        return next(by_pattern, mix.base if pure else tensor_type(mix, name, model))

    planned, unfit = [], Counter[tuple[str, int, str, str]]()
    for tensor in source.tensors:
        if len(tensor.shape) == 1:
            planned.append(PlannedTensor(tensor, find_format("F32")))
            continue
        cols = tensor.shape[-1]
        want = wanted(tensor.name)
        format = find_format(fitting_type(want, cols))
        if format.name != want:
            unfit[tensor.name.split(".")[-2], cols, want, format.name] += 1
        weights = importance.weights(tensor) if importance and format.block_size > 1 else None
        planned.append(PlannedTensor(tensor, format, weights))
    _refuse_what_cannot_be_made(planned)
    notes = [*source.notes, *map(_unfit_note, unfit.items())]
    metadata = source.metadata | {
        "general.file_type": mix.file_type,
        "general.quantization_version": QUANTIZATION_VERSION,
    }
    if allow_requantize:
        notes += _second_loss_notes(planned)
    else:
        _refuse_second_loss(planned)
    if importance is not None:
        importance.check(source.tensors)
        source = replace(source, fingerprint=source.fingerprint | Fingerprint.of([importance.path]))
        notes += _unweighed_notes(planned, importance)
        metadata |= importance.metadata()
    elif usual == "Q2_K_S" and any(t.format.name == "Q2_K" and t.rounds for t in planned):
        raise InvalidRequest(
            "Q2_K_S is of use only with an importance matrix: make one with `edgellama imatrix` and"
            " name it with --imatrix, or take Q2_K"
        )
    return Plan(source, usual, metadata, tuple(planned), tuple(notes))


def _output_name(source: Source) -> str:
    names = {tensor.name for tensor in source.tensors}
    return "output.weight" if "output.weight" in names else "token_embd.weight"


def _model(source: Source, *, weighed: bool) -> Model:
    def number(key: str, default: int) -> int:
        value = source.metadata.get(f"llama.{key}", default)
        return value if isinstance(value, int) and value > 0 else default

    heads = number("attention.head_count", 1)
    return Model(
        n_layers=number("block_count", 1),
        n_gqa=heads // number("attention.head_count_kv", heads),
        tied=_output_name(source) == "token_embd.weight",
        weighed=weighed,
    )


def _unfit_note(unfit: tuple[tuple[str, int, str, str], int]) -> str:
    (part, cols, want, instead), n = unfit
    return (
        f"{part}, {n} tensor{'s' * (n > 1)}: {cols:,} columns do not divide by the {want} block"
        f" size {find_format(want).block_size}; {instead} instead"
    )


def _unweighed_notes(planned: Iterable[PlannedTensor], importance: Importance) -> list[str]:
    """Warn of matrices whose errors cannot be weighed."""
    missing = importance.missing(tensor.source.name for tensor in planned if tensor.rounds)
    if not missing:
        return []
    return [
        f"{importance.path} lacks {len(missing)} matrices, whose columns count alike:"
        f" {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
    ]


def _refuse_what_cannot_be_made(planned: Iterable[PlannedTensor]) -> None:
    for tensor in planned:
        if tensor.format != tensor.source.format and not tensor.format.can_quantize:
            raise InvalidRequest(
                f"{tensor.source.name} would be {tensor.format.name}, which this version reads and"
                " cannot make; choose another type"
            )


def _loses_twice(tensor: PlannedTensor) -> bool:
    """A quantized tensor may be copied or widened to F32; anything else rounds it once more."""
    old = tensor.source.format
    if old is None or old.block_size == 1:
        return False
    return tensor.format not in (old, find_format("F32"))


def _refuse_second_loss(planned: Iterable[PlannedTensor]) -> None:
    for tensor in filter(_loses_twice, planned):
        raise InvalidRequest(
            f"{tensor.source.name} is {tensor.source.dtype} already, and {tensor.format.name} would"
            " round it a second time; convert the original checkpoint, or pass --allow-requantize"
        )


def _second_loss_notes(planned: Iterable[PlannedTensor]) -> list[str]:
    n = sum(map(_loses_twice, planned))
    if n == 0:
        return []
    return [f"{n} tensors are rounded a second time; a file made from the original loses less"]
