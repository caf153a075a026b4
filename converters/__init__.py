"""Official checkpoints -> GGUF. A new kind of checkpoint is a new file and a line in CONVERTERS.

open_source           looks at a path and says what it is: metadata, tensors, still on disk
make_plan             decides the type of every tensor; only headers have been read so far
file_size             tells how large the file will be, to the byte
drop_repeated_output  looks into the weights, whether the output is the embedding once more
write_plan            streams the weights into the new file
convert               does all of this
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from edgellama.errors import CheckpointRefused

from . import huggingface, meta, requantize
from .importance import Importance
from .mixes import ALIASES, MIXES
from .pipeline import equal_rows, file_size, write_plan
from .plan import Plan, PlannedTensor, TypeOptions, make_plan
from .source import Overrides, Source, SourceTensor

__all__ = [
    "ALIASES",
    "CONVERTERS",
    "MIXES",
    "Converter",
    "Importance",
    "Overrides",
    "Plan",
    "PlannedTensor",
    "Source",
    "SourceTensor",
    "TypeOptions",
    "convert",
    "drop_repeated_output",
    "file_size",
    "make_plan",
    "open_source",
    "write_plan",
]


@dataclass(frozen=True, slots=True)
class Converter:
    """One kind of checkpoint: how it is known, how it is opened."""

    name: str
    claims: Callable[[Path], bool]
    open_source: Callable[[Path, Overrides], Source]


# The first that claims a path gets it. A repository of Hugging Face's may hold Meta's files too,
# in original/, and is then read as the former.
CONVERTERS: tuple[Converter, ...] = (
    Converter("GGUF file", requantize.claims, requantize.open_source),
    Converter("Hugging Face folder", huggingface.claims, huggingface.open_source),
    Converter("Meta folder", meta.claims, meta.open_source),
)


def open_source(path: str | os.PathLike[str], overrides: Overrides | None = None) -> Source:
    """The checkpoint at this path, found by looking; CheckpointRefused if there is none."""
    path = Path(path)
    for converter in CONVERTERS:
        if converter.claims(path):
            return _open(converter, path, overrides or Overrides())
    if not path.exists():
        raise CheckpointRefused(f"{path}: does not exist")
    if not path.is_dir():
        raise CheckpointRefused(f"{path}: is no GGUF file; of a checkpoint, name its folder")
    raise CheckpointRefused(
        f"{path}: neither params.json and consolidated.00.pth (Meta) nor config.json and"
        " model.safetensors (Hugging Face) are here"
    )


def _open(converter: Converter, path: Path, overrides: Overrides) -> Source:
    """The source, or a refusal that names the path if it does not name a file of it."""
    try:
        return converter.open_source(path, overrides)
    except CheckpointRefused as refused:
        if str(path) in str(refused):
            raise
        raise CheckpointRefused(f"{path}: {refused}") from refused


def convert(
    source: Source,
    out: str | os.PathLike[str],
    type: str = "q8_0",
    *,
    progress: Callable[[int], object] | None = None,
    n_threads: int | None = None,
    **options: Unpack[TypeOptions],
) -> Plan:
    """Write `source` as a GGUF file of the mix `type` and return what was made.

    `out` appears when it is whole. Raises CheckpointRefused for damaged weights, InvalidRequest for
    a type that loses twice or cannot hold a weight, ResourceError for a full disk.
    """
    plan = make_plan(drop_repeated_output(source), type, **options)
    write_plan(plan, Path(out), progress, n_threads=n_threads)
    return plan


def drop_repeated_output(source: Source) -> Source:
    """The source without an output matrix that repeats the embedding, as Meta's small ones have."""
    by_name = {tensor.name: tensor for tensor in source.tensors}
    output = by_name.get("output.weight")
    if output is None or not equal_rows(output, by_name["token_embd.weight"]):
        return source
    return replace(
        source,
        tensors=tuple(tensor for tensor in source.tensors if tensor is not output),
        notes=(*source.notes, "output.weight equals token_embd.weight and is left out"),
    )
