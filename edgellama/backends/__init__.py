"""Machines that can run a model, found by name: `cpu` is the fast one, `reference` plain numpy."""

from collections.abc import Callable
from importlib import import_module

from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest
from edgellama.weights import ModelWeights

from .base import Backend, Batch, BlockBackend

__all__ = ["BACKENDS", "Backend", "Batch", "BlockBackend", "load_backend"]

BACKENDS = {"cpu": "CpuBackend", "reference": "ReferenceBackend"}  # module -> class


def load_backend(
    name: str,
    config: ModelConfig,
    weights: ModelWeights,
    *,
    n_ctx: int,
    n_sequences: int = 1,
    n_threads: int | None = None,
    kv_type: str = "f16",
    progress: Callable[[str], None] | None = None,
) -> Backend:
    """Make the backend called `name`; `n_ctx` tokens for each of `n_sequences` sequences.

    kv_type: "f16", "q8_0" or "f32", how keys and values are kept (the reference keeps float32).
    progress: told in words what is being waited for, such as the first compilation.
    """
    if name not in BACKENDS:
        raise InvalidRequest(f"backend {name!r} is unknown; known are {', '.join(BACKENDS)}")
    backend: type[Backend] = getattr(import_module(f".{name}", __name__), BACKENDS[name])
    return backend(  # type: ignore[call-arg]  # a Protocol says nothing of how to make one
        config,
        weights,
        n_ctx=n_ctx,
        n_sequences=n_sequences,
        n_threads=n_threads,
        kv_type=kv_type,
        progress=progress,
    )
