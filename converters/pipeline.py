"""The pipeline: rows of a checkpoint -> float32 -> packed rows -> file, on all cores.

Memory is bounded by the blocks in flight, however large the checkpoint: every worker holds one
block of rows, a few wait for the writer, which takes them in order.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellama.errors import CheckpointRefused, InvalidRequest
from edgellama.gguf import TensorToWrite, gguf_size, write_gguf

from .plan import Plan, PlannedTensor, as_matrix
from .source import SourceTensor

MAX_WORKERS = 32
IN_FLIGHT_BYTES = 64 << 20  # of float32, over all workers
MAX_BLOCK_BYTES = 2 << 20

Packed = npt.NDArray[np.uint8]  # (rows, row_bytes)

# What every format holds, whatever the block: those of float16 scales hold more, BF16 and F32 much.
_ALWAYS_HELD = 65504.0


def write_plan(
    plan: Plan,
    path: Path,
    progress: Callable[[int], object] | None = None,
    *,
    n_threads: int | None = None,
) -> None:
    """Make the planned file; it appears under its name when whole.

    `progress` is told the bytes of each block as it is written. n_threads: None takes all cores;
    the file is the same with any number. Raises CheckpointRefused for weights that are not numbers
    or a source that changed meanwhile, InvalidRequest for a type that cannot hold them or a path
    that cannot be a target, ResourceError for a full disk.
    """
    workers = min(n_threads or _usable_cores(), MAX_WORKERS)
    block_bytes = min(MAX_BLOCK_BYTES, IN_FLIGHT_BYTES // (2 * workers))
    with ThreadPoolExecutor(workers, thread_name_prefix="quantize") as pool:
        tensors = [
            _to_write(planned, partial(_packed_blocks, pool, 2 * workers, planned, block_bytes))
            for planned in plan.tensors
        ]
        tensors[-1] = _checked_at_the_end(tensors[-1], plan.source.fingerprint.check)
        write_gguf(
            path, plan.metadata, tensors, inputs=list(plan.source.fingerprint), progress=progress
        )


def file_size(plan: Plan) -> int:
    """Bytes of the file that write_plan makes."""
    return gguf_size(plan.metadata, [_to_write(planned, _nothing) for planned in plan.tensors])


def equal_rows(a: SourceTensor, b: SourceTensor) -> bool:
    """Whether two tensors hold the same numbers; stops at the first block that differs."""
    if a.shape != b.shape:
        return False
    n = 1  # most pairs differ in their first row already
    start = 0
    while start < a.shape[0]:
        stop = min(start + n, a.shape[0])
        if not np.array_equal(a.rows(start, stop), b.rows(start, stop)):
            return False
        start, n = stop, max(1, MAX_BLOCK_BYTES // (4 * a.shape[-1]))
    return True


def _to_write(planned: PlannedTensor, blocks: Callable[[], Iterator[Packed]]) -> TensorToWrite:
    return TensorToWrite(planned.source.name, planned.source.shape, planned.format, blocks)


def _nothing() -> Iterator[Packed]:
    return iter(())


def _packed_blocks(
    pool: ThreadPoolExecutor, depth: int, planned: PlannedTensor, block_bytes: int
) -> Iterator[Packed]:
    """Yield the packed rows in order, while `depth` blocks ahead are being made.

    The first of those that need no packing is read on the calling thread: a calibration makes the
    matrix then, which takes long, and only that thread hears of Ctrl-C.
    """
    n_rows, cols = as_matrix(planned.source.shape)
    step = max(1, block_bytes // (4 * cols))
    pending: deque[Future[Packed]] = deque()
    begun = 0
    if _is_packed(planned):
        begun = min(step, n_rows)
        yield _pack(planned, 0, begun)
    try:
        for start in range(begun, n_rows, step):
            if len(pending) == depth:
                yield pending.popleft().result()
            pending.append(pool.submit(_pack, planned, start, min(start + step, n_rows)))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _is_packed(planned: PlannedTensor) -> bool:
    return planned.source.packed is not None and planned.source.format == planned.format


def _pack(planned: PlannedTensor, start: int, stop: int) -> Packed:
    """Rows [start, stop) in their new format."""
    tensor = planned.source
    if tensor.packed is not None and _is_packed(planned):
        return tensor.packed(start, stop)
    if len(tensor.shape) == 1:
        x = tensor.rows(0, tensor.shape[0])[None, :]
    else:
        x = tensor.rows(start, stop)
    largest = _largest(x, tensor.name)
    format = planned.format
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            packed = format.quantize(x, planned.importance)
            held = largest <= _ALWAYS_HELD or np.isfinite(format.dequantize(packed)).all()
    except ValueError as error:  # of its own limits
        raise InvalidRequest(f"{tensor.name}: {error}") from error
    if not held:
        raise InvalidRequest(
            f"{tensor.name}: holds {largest:g}, more than {format.name} can; use bf16 or f32"
        )
    return packed


def _largest(x: npt.NDArray[np.float32], name: str) -> float:
    """The largest magnitude; CheckpointRefused for what no format holds."""
    largest = max(float(x.max()), -float(x.min()))  # NaN in any element makes both of them NaN
    if not np.isfinite(largest):
        bad = "NaN" if np.isnan(largest) else "infinity"
        raise CheckpointRefused(f"{name}: holds {bad}; the checkpoint is damaged")
    return largest


def _checked_at_the_end(tensor: TensorToWrite, check: Callable[[], None]) -> TensorToWrite:
    """The same tensor, with a check behind its last block: before the file gets its name."""

    def blocks() -> Iterator[Packed]:
        yield from tensor.blocks()
        check()

    return TensorToWrite(tensor.name, tensor.shape, tensor.format, blocks)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
