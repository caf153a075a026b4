"""An existing GGUF file as a source: the same tensors in other types, the same metadata."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellama.errors import CheckpointRefused, InvalidRequest
from edgellama.gguf import GGUFFile, StringArray, TensorInfo, WriteValue
from edgellama.quant.unpacking import unpack_rows

from .checkpoint import SourceFile
from .plan import as_matrix
from .source import Fingerprint, Overrides, Source, SourceTensor
from .templates import load_template

ARCHITECTURE = "llama"
_MAGIC = b"GGUF"
# Keys that describe the old file and not the model.
_OF_THE_FILE = ("split.", "general.alignment")


def claims(path: Path) -> bool:
    """Whether this is a GGUF file: by its content or, for a damaged one, by its name."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return path.suffix == ".gguf" or file.read(4) == _MAGIC


def open_source(path: Path, overrides: Overrides) -> Source:
    """Read the header; ModelFormatError for a damaged file, CheckpointRefused for no Llama."""
    with GGUFFile(path) as gguf:
        fingerprint = Fingerprint.of(gguf.paths)
        parts = [SourceFile(part) for part in gguf.paths]
        infos = list(gguf.tensors.values())
        metadata: dict[str, WriteValue] = {
            key: list(value) if isinstance(value, StringArray) else value
            for key, value in gguf.metadata.items()
            if not key.startswith(_OF_THE_FILE)
        }
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointRefused(
            f"{path}: holds a model of architecture {architecture!r}, supported is {ARCHITECTURE!r}"
        )
    if not infos:
        raise CheckpointRefused(f"{path}: holds a vocabulary and no tensors")
    for info in infos:
        if len(info.shape) > 2:
            raise CheckpointRefused(
                f"{path}: {info.name} has {len(info.shape)} dimensions, not 1 or 2"
            )
    _override(metadata, overrides)
    return Source(
        path=path,
        kind="GGUF file",
        family=str(metadata.get("general.name", path.stem)),
        recognised_by="its metadata",
        metadata=metadata,
        tensors=tuple(_source_tensor(info, parts[info.part]) for info in infos),
        fingerprint=fingerprint,
    )


def _override(metadata: dict[str, WriteValue], overrides: Overrides) -> None:
    """What the user says goes first; rope is in the tensors too and stays as it was made."""
    if overrides.rope_theta is not None or overrides.rope_factor is not None:
        raise InvalidRequest(
            "--rope-theta and --rope-factor apply to a checkpoint; a GGUF file keeps its rope"
        )
    if overrides.name is not None:
        metadata["general.name"] = overrides.name
    if overrides.context_length is not None:
        metadata["llama.context_length"] = overrides.context_length
    if overrides.chat_template is not None:
        metadata.pop("tokenizer.chat_template", None)
        if (template := load_template(overrides.chat_template)) is not None:
            metadata["tokenizer.chat_template"] = template


def _source_tensor(info: TensorInfo, file: SourceFile) -> SourceTensor:
    """A tensor read by position: mapped, a large file would fill the memory while it is copied."""
    rows, cols = as_matrix(info.shape)
    row_bytes = info.format.row_bytes(cols)

    def packed(start: int, stop: int) -> npt.NDArray[np.uint8]:
        data = np.empty((stop - start, row_bytes), np.uint8)
        file.read_into(info.offset + start * row_bytes, data.reshape(-1))
        return data

    def matrix_rows(start: int, stop: int) -> npt.NDArray[np.float32]:
        return unpack_rows(info.format, packed(start, stop))

    def vector_elements(start: int, stop: int) -> npt.NDArray[np.float32]:
        return info.format.dequantize(packed(0, 1))[0, start:stop]

    return SourceTensor(
        name=info.name,
        shape=info.shape,
        stored_as=info.name,
        dtype=info.format.name,
        n_bytes=rows * row_bytes,
        files=(str(file.path),),
        rows=vector_elements if len(info.shape) == 1 else matrix_rows,
        format=info.format,
        packed=packed,
    )
