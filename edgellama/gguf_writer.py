"""Writing GGUF: header by the gguf package, tensors streamed, the file whole or not at all.

A file is written as NAME.partial-PID beside its target, flushed to the disk and then renamed, so
that whatever happens, the name holds what it held before or the new file entire. What a killed
process left behind is swept away by the next writer of that name.
"""

import io
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest, ResourceError
from .quant import Format

if TYPE_CHECKING:
    from gguf import GGUFWriter

# An int is written as u32 where it fits, else i32, u64 or i64; a float as f32; a numpy scalar or
# array in its own type; a sequence as an array of strings. Empty arrays are left out: the gguf
# package cannot write them.
WriteValue: TypeAlias = (
    int | float | bool | str | np.generic | npt.NDArray[Any] | Sequence[str] | Sequence[bytes]
)


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor whose bytes are made while the file is written."""

    name: str
    shape: tuple[int, ...]  # numpy order: (rows, cols) or (n,)
    format: Format
    blocks: Callable[[], Iterator[npt.NDArray[np.uint8]]]  # packed rows in order, any at a time

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.format.row_bytes(self.shape[-1])


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, WriteValue],
    tensors: Sequence[TensorToWrite],
    *,
    inputs: Sequence[str | os.PathLike[str]] = (),
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write a GGUF v3 file with tensors in the given order; a model's `metadata` says its kind.

    inputs: files that the blocks are read from, which `path` must not be one of. progress is
    called with the number of bytes that have just been written. Raises InvalidRequest for a path
    that cannot be a target, ResourceError when the disk is full or fails, ValueError for a tensor
    whose blocks do not make up its shape, and whatever `blocks` raises; in all these cases `path`
    is left as it was.
    """
    target = check_target(path, inputs)
    alignment = int(metadata.get("general.alignment", 32))  # type: ignore[arg-type]
    n_bytes = sum(tensor.n_bytes + alignment for tensor in tensors)
    with _atomic(target, n_bytes) as partial:
        with _disk_errors(target):
            _write_header(partial, metadata, tensors, alignment)
            # Unbuffered: a close after a failed write must not try to write again.
            file = open(partial, "ab", buffering=0)  # noqa: SIM115
        with file:
            _pad(file, alignment, target)
            for tensor in tensors:
                _write_tensor(file, tensor, target, progress)
                _pad(file, alignment, target)
            with _disk_errors(target):
                os.fsync(file.fileno())


def gguf_size(metadata: Mapping[str, WriteValue], tensors: Sequence[TensorToWrite]) -> int:
    """Bytes of the file that write_gguf makes of the same; no block is asked for."""
    alignment = int(metadata.get("general.alignment", 32))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        header = Path(folder) / "header"
        _write_header(header, metadata, tensors, alignment)
        sizes = [header.stat().st_size, *(tensor.n_bytes for tensor in tensors)]
    return sum(-(-size // alignment) * alignment for size in sizes)


def check_target(
    path: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]] = ()
) -> Path:
    """Where a file will really lie (links followed), if it may be put there.

    Raises InvalidRequest for a folder that does not exist, what is no file, or one of the inputs;
    ResourceError for a folder that may not be written to.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise InvalidRequest(f"{path}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise ResourceError(f"{path}: the folder {target.parent} may not be written to")
    if not target.exists():
        return target
    if not target.is_file():
        raise InvalidRequest(f"{path}: is a directory or device; name a file to write")
    for source in inputs:
        if os.path.exists(source) and os.path.samefile(source, target):
            raise InvalidRequest(f"{path}: is what is being read; write to another name")
    return target


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Report as ResourceError what the disk refuses; a source's own errors stay what they are."""
    try:
        yield
    except OSError as error:
        words = os.strerror(error.errno) if error.errno else str(error)
        raise ResourceError(f"{target}: cannot be written: {words}") from error


@contextmanager
def _atomic(target: Path, n_bytes: int) -> Iterator[Path]:
    """A new file beside the target, which takes the target's name if the body ends well."""
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    with _disk_errors(target):
        _sweep_partials(target)
        free = shutil.disk_usage(target.parent).free
        if n_bytes > free:
            raise ResourceError(
                f"{target}: about {n_bytes:,} bytes are needed, {free:,} are free on its disk"
            )
        open(partial, "xb").close()
    try:
        yield partial
        with _disk_errors(target):
            os.replace(partial, target)
            _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sweep_partials(target: Path) -> None:
    """Remove what killed writers of this target left; refuse if one is still at work."""
    prefix = f"{target.name}.partial-"
    for path in target.parent.iterdir():
        pid = path.name.removeprefix(prefix)
        if path.name.startswith(prefix) and pid.isdecimal():
            if _is_writing(int(pid), path):
                raise ResourceError(
                    f"{target}: is being written by process {pid}; let it end first"
                )
            path.unlink(missing_ok=True)


def _is_writing(pid: int, partial: Path) -> bool:
    """Whether the process that made the file lives; one that started later only has its number."""
    import psutil

    try:
        return bool(psutil.Process(pid).create_time() <= partial.stat().st_mtime)
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:
        return True


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where folders can be opened (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_header(
    path: Path,
    metadata: Mapping[str, WriteValue],
    tensors: Sequence[TensorToWrite],
    alignment: int,
) -> None:
    """Magic, counts, metadata and tensor table, which the gguf package knows how to lay out."""
    from gguf import GGMLQuantizationType, GGUFWriter

    architecture = metadata.get("general.architecture")
    writer = GGUFWriter(path, arch=str(architecture))
    if architecture is None:  # not a model, such as an importance matrix
        del writer.kv_data[0]["general.architecture"]
    writer.data_alignment = alignment
    for key, value in metadata.items():
        if key != "general.architecture":  # GGUFWriter has written it, as the first key
            _add_value(writer, key, value)
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name,
            tensor.shape,
            np.dtype(np.float32),  # anything but uint8, which would have the shape taken as bytes
            tensor.n_bytes,
            raw_dtype=GGMLQuantizationType(tensor.format.ggml_type),
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _add_value(writer: "GGUFWriter", key: str, value: WriteValue) -> None:
    """Add one metadata value in the GGUF type that WriteValue promises."""
    from gguf import GGUFValueType as Kind

    if isinstance(value, str):
        writer.add_key_value(key, value, Kind.STRING)
    elif isinstance(value, np.generic):  # before float, which np.float64 is as well
        writer.add_key_value(key, value.item(), Kind[value.dtype.name.upper()])
    elif isinstance(value, bool):
        writer.add_key_value(key, value, Kind.BOOL)
    elif isinstance(value, int):
        writer.add_key_value(key, value, Kind[_narrowest(value)])
    elif isinstance(value, float):
        writer.add_key_value(key, value, Kind.FLOAT32)
    elif len(value) == 0:
        return
    elif isinstance(value, np.ndarray):
        kind = Kind[value.dtype.name.upper()]
        writer.add_key_value(key, value.tolist(), Kind.ARRAY, sub_type=kind)
    else:
        writer.add_key_value(key, list(value), Kind.ARRAY, sub_type=Kind.STRING)


def _narrowest(value: int) -> str:
    """The GGUF type of an int: 32 bits where they suffice, unsigned unless negative."""
    if value >= 0:
        return "UINT32" if value < 1 << 32 else "UINT64"
    return "INT32" if value >= -(1 << 31) else "INT64"


def _write_tensor(
    file: io.FileIO,
    tensor: TensorToWrite,
    target: Path,
    progress: Callable[[int], object] | None,
) -> None:
    """Stream the blocks of one tensor, which must be exactly its bytes."""
    left = tensor.n_bytes
    for block in tensor.blocks():
        left -= block.nbytes
        if left < 0:
            break
        _write(file, np.ascontiguousarray(block).data.cast("B"), target)
        if progress is not None:
            progress(block.nbytes)
    if left:
        raise ValueError(
            f"{tensor.name}: the blocks do not make up its {tensor.n_bytes:,} bytes,"
            f" off by {-left:,}"
        )


def _pad(file: io.FileIO, alignment: int, target: Path) -> None:
    _write(file, memoryview(bytes(-file.tell() % alignment)), target)


def _write(file: io.FileIO, data: memoryview, target: Path) -> None:
    """Write all of data; the system may take it in pieces."""
    with _disk_errors(target):
        while data:
            data = data[file.write(data) :]
