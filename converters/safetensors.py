"""Safetensors: one file, or a folder of shards under `model.safetensors.index.json`.

A file is
    8 bytes   uint64 little-endian, length of the header
    header    JSON: {name: {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end]}},
              maybe with "__metadata__": {str: str}; it begins with "{" and may end in spaces
    data      the tensors, packed, without holes; offsets count from here
The index is JSON: {"weight_map": {name of a tensor: file name of its shard}}.
Source: https://github.com/huggingface/safetensors, section "Format".
"""

import math
import os
import re
from pathlib import Path
from typing import Any

from edgellama.errors import CheckpointRefused

from .checkpoint import (
    DTYPES,
    MAX_DIMS,
    MAX_ELEMENTS,
    LazyTensor,
    SourceFile,
    looks_like,
    parse_json,
    quoted,
    row_major,
)

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000  # as the format's own library has it
_MAX_INDEX_BYTES = 16 << 20
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")  # no folder, drive or NUL


def open_safetensors(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """The tensors by name of a .safetensors file, of an index, or of a folder with either in it.

    Of a shard only the tensors are taken that the index places there.

    Raises:
        CheckpointRefused: not such a file, damaged, incomplete, or an index that leads elsewhere.
    """
    path = Path(path)
    if path.is_dir():
        path = path / (SINGLE_NAME if (path / SINGLE_NAME).exists() else INDEX_NAME)
        if not path.exists():
            raise CheckpointRefused(f"{path.parent}: has neither {SINGLE_NAME} nor {INDEX_NAME}")
    return _open_index(path) if path.suffix == ".json" else _open_file(path)


def _open_file(path: Path) -> dict[str, LazyTensor]:
    file = SourceFile(path)
    head = file.read(0, min(file.size, 512))
    n_header = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or n_header > MAX_HEADER_BYTES:
        raise file.refused(f"is not a safetensors file but {looks_like(head)}")
    header = parse_json(file.read(8, n_header), path)
    assert isinstance(header, dict)  # it begins with "{"
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise file.refused("its __metadata__ is not a table of texts")
    start = 8 + n_header
    tensors: dict[str, LazyTensor] = {}
    regions: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(entry, name, file)
        tensors[name] = LazyTensor(name, shape, dtype, file, start + begin, row_major(shape))
        regions.append((begin, end, name))
    expected = 0
    for begin, end, name in sorted(regions):
        if begin != expected:
            what = "a hole before" if begin > expected else "an overlap at"
            raise file.refused(f"has {what} tensor {quoted(name)} at byte {begin:,} of its data")
        expected = end
    if start + expected != file.size:
        raise file.refused(
            f"{start + expected:,} bytes announced, {file.size:,} present; the download is "
            "incomplete or damaged"
        )
    return tensors


def _entry(entry: Any, name: str, file: SourceFile) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of a tensor, as the header has them."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest}:
            if rest or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise file.refused(f"the header entry of tensor {quoted(name)} is malformed")
        case _:
            raise file.refused(f"the header entry of tensor {quoted(name)} is malformed")
    if dtype not in DTYPES:
        raise file.refused(
            f"tensor {quoted(name)} has the dtype {quoted(dtype)}; known are {', '.join(DTYPES)}"
        )
    if len(shape) > MAX_DIMS or math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        raise file.refused(f"tensor {quoted(name)} has an impossible shape")
    n_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != n_bytes:
        raise file.refused(
            f"tensor {quoted(name)} of shape {shape} and dtype {dtype} takes {n_bytes:,} bytes, "
            f"its data_offsets span {end - begin:,}"
        )
    return dtype, tuple(shape), begin, end


def _open_index(path: Path) -> dict[str, LazyTensor]:
    file = SourceFile(path)
    if file.size > _MAX_INDEX_BYTES:
        raise file.refused(f"has {file.size:,} bytes, at most {_MAX_INDEX_BYTES:,} are read")
    index = parse_json(file.read(0, file.size), path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise file.refused('has no "weight_map" from tensors to files')
    # Every name is checked before any shard is opened.
    shards: dict[str, Path] = {}
    for name in weight_map.values():
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            raise file.refused(f"names the shard {quoted(str(name))}, which is no plain file name")
        if name not in shards:
            shards[name] = _shard_path(name, file)
    missing = [name for name, shard in shards.items() if not shard.exists()]
    if missing:
        raise file.refused(
            f"{len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:5])}; "
            "download them into the same folder"
        )
    opened = {name: _open_file(shard) for name, shard in shards.items()}
    tensors: dict[str, LazyTensor] = {}
    for name, shard_name in weight_map.items():
        if name not in opened[shard_name]:
            raise file.refused(f"places tensor {quoted(name)} in {shard_name}, which has no such")
        tensors[name] = opened[shard_name][name]
    return tensors


def _shard_path(name: str, index: SourceFile) -> Path:
    """The file of a shard beside the index, unless it is a link to somewhere else."""
    folder = index.path.parent
    # Hugging Face's cache keeps index and shards as links into one folder of blobs.
    allowed = (folder.resolve(), index.path.resolve().parent)
    try:
        target = (folder / name).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise index.refused(f"names the shard {name}, which cannot be followed") from error
    if target.parent not in allowed:
        raise index.refused(f"names the shard {name}, a link to outside the folder: {target}")
    return folder / name
