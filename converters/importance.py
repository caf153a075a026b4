"""Importance: how much each column of each matrix counts, by an importance matrix of the model."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellama.errors import InvalidRequest, ModelFormatError
from edgellama.gguf import WriteValue
from edgellama.gguf_imatrix import ImportanceMatrix, read_imatrix

from .source import SourceTensor

Floats = npt.NDArray[np.float32]

# Its rows are looked up and not multiplied, unless it is the output matrix as well.
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class Importance:
    """An importance matrix, and the file that it came from."""

    path: Path
    matrix: ImportanceMatrix

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Importance":
        """Raises ResourceError or ModelFormatError, as `read_imatrix` does."""
        return cls(Path(path), read_imatrix(path))

    def check(self, tensors: Iterable[SourceTensor]) -> None:
        """InvalidRequest if it was collected from a model with other matrices than these."""
        cols = {tensor.name: tensor.shape[-1] for tensor in tensors if len(tensor.shape) == 2}
        for name, sums in self.matrix.sums.items():
            if name == _OUTPUT and name not in cols:
                continue  # collected before the output was found to repeat the embedding
            if name not in cols:
                raise InvalidRequest(
                    f"{self.path}: is of another model, it has {name}, which this one has not"
                )
            if len(sums) != cols[name] and name != _EMBEDDING:
                raise InvalidRequest(
                    f"{self.path}: is of another model, its {name} has {len(sums):,} channels, this"
                    f" one's has {cols[name]:,} columns"
                )

    def weights(self, tensor: SourceTensor) -> Floats | None:
        """(cols,) mean squares of what a matrix is multiplied with; None where it is not known."""
        try:
            return self.matrix.weights(tensor.name, tensor.shape[-1])
        except ModelFormatError:  # of another width, which `check` lets only the embedding have
            return None

    def missing(self, names: Iterable[str]) -> list[str]:
        """Of these matrices those that it should know and does not."""
        counts = self.matrix.counts
        return [n for n in names if n not in (_EMBEDDING, _OUTPUT) and not counts.get(n)]

    def metadata(self) -> dict[str, WriteValue]:
        """What llama.cpp records of it in the file that it served for."""
        keys: dict[str, WriteValue] = {"quantize.imatrix.file": self.path.name}
        if self.matrix.datasets:
            keys["quantize.imatrix.dataset"] = self.matrix.datasets[0]
        keys["quantize.imatrix.entries_count"] = len(self.matrix.sums)
        keys["quantize.imatrix.chunks_count"] = self.matrix.n_chunks
        return keys
