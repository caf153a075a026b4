"""The importance matrix: what each input channel of each matrix carried while a model read a text.

llama.cpp's imatrix file, a GGUF of its own kind, written and read here:

    general.type "imatrix", imatrix.datasets strings, imatrix.chunk_count and .chunk_size u32
    NAME.in_sum2   (cols,) F32   for the matrix NAME: the sum over all tokens of x², x its input
    NAME.counts    (1,)    F32   the number of tokens

in_sum2 / counts weighs the squared error of a column when the matrix is quantized. The older .dat
is read as well: i32 n_entries; per entry i32 and name, i32 calls, i32 cols, cols f32 (x² averaged
over a chunk, summed over calls); then i32 calls, i32 and dataset. (llama.cpp, tools/imatrix)
"""

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ModelFormatError, ResourceError
from .gguf import GGUFFile
from .gguf_writer import TensorToWrite, WriteValue, write_gguf
from .quant import find_format

SUMS, COUNTS = ".in_sum2", ".counts"
MAX_DAT_BYTES = 1 << 30  # of the largest model it is some 50 MB

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImportanceMatrix:
    """Sums of squared inputs by the name of the matrix, and what they were collected from."""

    sums: Mapping[str, Floats]  # (cols,) each, finite and not negative
    counts: Mapping[str, float]  # tokens (of a .dat file: chunks) that each sum is over
    datasets: tuple[str, ...] = ()
    n_chunks: int = 0
    chunk_size: int = 0  # tokens; 0 when the file does not say

    def weights(self, name: str, cols: int) -> Floats | None:
        """(cols,) mean of the squared inputs of a matrix; None if none were collected.

        Raises ModelFormatError when they were collected from a matrix of another width.
        """
        if name not in self.sums or self.counts[name] == 0:
            return None
        if len(self.sums[name]) != cols:
            raise ModelFormatError(
                f"the importance matrix has {len(self.sums[name]):,} channels for {name}, which"
                f" has {cols:,} columns; it was made from another model"
            )
        mean: Floats = self.sums[name] / np.float32(self.counts[name])
        return mean


def write_imatrix(
    path: str | os.PathLike[str],
    matrix: ImportanceMatrix,
    *,
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> None:
    """Write the GGUF form, in the order of the names; raises what `write_gguf` raises."""
    f32 = find_format("F32")

    def tensor(name: str, values: npt.ArrayLike) -> TensorToWrite:
        packed = f32.quantize(np.atleast_2d(np.asarray(values, np.float32)))
        return TensorToWrite(name, (packed.shape[1] // 4,), f32, lambda: iter([packed]))

    tensors = []
    for name in sorted(matrix.sums):
        tensors.append(tensor(f"{name}{SUMS}", matrix.sums[name]))
        tensors.append(tensor(f"{name}{COUNTS}", matrix.counts[name]))
    metadata: dict[str, WriteValue] = {
        "general.type": "imatrix",
        "imatrix.datasets": list(matrix.datasets),
        "imatrix.chunk_count": np.uint32(matrix.n_chunks),
        "imatrix.chunk_size": np.uint32(matrix.chunk_size),
    }
    write_gguf(path, metadata, tensors, inputs=inputs)


def read_imatrix(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """Read either form.

    Raises ResourceError if the file cannot be read, ModelFormatError if it is no importance matrix
    or what it holds cannot be right.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(4)
            data = b"" if head == b"GGUF" else head + file.read(MAX_DAT_BYTES)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be opened: {error.strerror or error}") from error
    matrix = _read_gguf(path) if head == b"GGUF" else _read_dat(path, data)
    for name, sums in matrix.sums.items():
        if not (np.isfinite(sums).all() and (sums >= 0).all()):
            raise ModelFormatError(f"{path}: {name} holds values that no sum of squares has")
        if not 0 <= matrix.counts[name] < np.inf:
            raise ModelFormatError(f"{path}: {name} has a count of {matrix.counts[name]}")
    return matrix


def _read_gguf(path: Path) -> ImportanceMatrix:
    with GGUFFile(path) as file:
        names = [name.removesuffix(SUMS) for name in file.tensors if name.endswith(SUMS)]
        if not names:
            raise ModelFormatError(
                f"{path}: holds no sums of squared inputs, it is not an importance matrix; make"
                " one with `edgellama imatrix`"
            )
        values = {}
        for name, info in file.tensors.items():
            if name.endswith((SUMS, COUNTS)):
                values[name] = info.format.dequantize(file.data(name)).reshape(-1)
        for name in names:
            if f"{name}{COUNTS}" not in values:
                raise ModelFormatError(f"{path}: {name} has sums, but no counts")
            if len(values[f"{name}{COUNTS}"]) != 1:
                raise ModelFormatError(f"{path}: {name} is of a mixture of experts, not of a Llama")
        numbers = [file.metadata.get(f"imatrix.chunk_{key}", 0) for key in ("count", "size")]
        datasets = file.metadata.get("imatrix.datasets", ())
        return ImportanceMatrix(
            sums={name: values[f"{name}{SUMS}"] for name in names},
            counts={name: float(values[f"{name}{COUNTS}"][0]) for name in names},
            datasets=tuple(datasets) if isinstance(datasets, Sequence) else (),
            n_chunks=numbers[0] if isinstance(numbers[0], int) else 0,
            chunk_size=numbers[1] if isinstance(numbers[1], int) else 0,
        )


def _read_dat(path: Path, data: bytes) -> ImportanceMatrix:
    sums: dict[str, Floats] = {}
    counts: dict[str, float] = {}
    at = 0

    def take(n_bytes: int) -> bytes:
        nonlocal at
        if not 0 <= n_bytes <= len(data) - at:
            raise ModelFormatError(
                f"{path}: is no importance matrix, neither GGUF nor the older .dat, or its end is"
                " missing"
            )
        at += n_bytes
        return data[at - n_bytes : at]

    def integer() -> int:
        value: int = struct.unpack("<i", take(4))[0]
        return value

    for _ in range(integer()):
        name = take(integer()).decode("utf-8", "replace")
        counts[name] = integer()
        sums[name] = np.frombuffer(take(4 * integer()), "<f4").astype(np.float32)
    if not sums:
        raise ModelFormatError(f"{path}: is an importance matrix without entries")
    n_chunks = integer() if at < len(data) else 0
    datasets = (take(integer()).decode("utf-8", "replace"),) if at < len(data) else ()
    return ImportanceMatrix(sums, counts, datasets, n_chunks)
