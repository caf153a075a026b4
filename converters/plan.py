"""Plan: which format every tensor of the new file gets, decided from shapes alone."""

from collections.abc import Iterable
from dataclasses import dataclass

from edgellama.errors import InvalidRequest
from edgellama.gguf import WriteValue
from edgellama.quant import Format, find_format

from .source import Source, SourceTensor

# general.file_type of GGUF, which loaders only show.
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q6_K": 18, "BF16": 32}
QUANTIZATION_VERSION = 2  # of GGML's block layouts


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the checkpoint and the format it will have."""

    source: SourceTensor
    format: Format

    @property
    def n_bytes(self) -> int:
        rows, cols = as_matrix(self.source.shape)
        return rows * self.format.row_bytes(cols)


@dataclass(frozen=True, slots=True)
class Plan:
    """The file to be made: metadata, and tensors in file order."""

    source: Source
    format: Format
    metadata: dict[str, WriteValue]
    tensors: tuple[PlannedTensor, ...]
    notes: tuple[str, ...]  # one line each, for the user

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors, without the header."""
        return sum(tensor.n_bytes for tensor in self.tensors)

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
    source: Source, type: str, *, pure: bool = False, allow_requantize: bool = False
) -> Plan:
    """Decide the format of every tensor; InvalidRequest for a type that is none or loses twice."""
    try:
        format = find_format(type)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    notes = list(source.notes)
    precise = None if pure else _output_matrix(source.tensors)
    planned = []
    for tensor in source.tensors:
        chosen = _choose(tensor, format, precise)
        if tensor.shape[-1] % chosen.block_size:
            notes.append(
                f"{tensor.name}: {tensor.shape[-1]} columns do not divide by the {chosen.name}"
                f" block size {chosen.block_size}; kept in F16"
            )
            chosen = find_format("F16")
        planned.append(PlannedTensor(tensor, chosen))
    if not allow_requantize:
        _refuse_second_loss(planned)
    metadata = source.metadata | {
        "general.file_type": FILE_TYPES[format.name],
        "general.quantization_version": QUANTIZATION_VERSION,
    }
    return Plan(source, format, metadata, tuple(planned), tuple(notes))


def _output_matrix(tensors: Iterable[SourceTensor]) -> str:
    """The matrix that makes the logits: output.weight, or the embedding when they are tied."""
    names = {tensor.name for tensor in tensors}
    return "output.weight" if "output.weight" in names else "token_embd.weight"


def _choose(tensor: SourceTensor, format: Format, precise: str | None) -> Format:
    if len(tensor.shape) == 1:
        return find_format("F32")
    # Four bits in the last product cost more quality than its few bytes are worth.
    if format.name == "Q4_0" and tensor.name == precise:
        return find_format("Q8_0")
    return format


def _refuse_second_loss(planned: Iterable[PlannedTensor]) -> None:
    """A quantized tensor may be copied or widened to F32; anything else rounds it once more."""
    for tensor in planned:
        old = tensor.source.format
        if old is None or old.block_size == 1 or tensor.format in (old, find_format("F32")):
            continue
        raise InvalidRequest(
            f"{tensor.source.name} is {old.name} already, and {tensor.format.name} would round it"
            " a second time; convert the original checkpoint, or pass --allow-requantize"
        )
