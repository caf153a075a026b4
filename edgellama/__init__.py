"""edgellama: Meta's Llama models, quantized to GGUF and run on your own CPU.

Names are resolved when first used, so that `import edgellama` costs milliseconds.
"""

from typing import TYPE_CHECKING, Any

from .errors import (
    CheckpointRefused,
    ContextFull,
    EdgellamaError,
    InvalidRequest,
    ModelChanged,
    ModelFormatError,
    Overloaded,
    ResourceError,
)

if TYPE_CHECKING:
    from .grammar import Grammar
    from .llama import Llama
    from .prefix_store import PrefixStore
    from .sampling import SamplingParams

__all__ = [
    "CheckpointRefused",
    "ContextFull",
    "EdgellamaError",
    "Grammar",
    "InvalidRequest",
    "Llama",
    "ModelChanged",
    "ModelFormatError",
    "Overloaded",
    "PrefixStore",
    "ResourceError",
    "SamplingParams",
]
__version__ = "0.1.0"

_HOMES = {
    "Grammar": ".grammar",
    "Llama": ".llama",
    "PrefixStore": ".prefix_store",
    "SamplingParams": ".sampling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgellama' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
