"""`edgellama doctor`: what edgellama finds on this machine."""

import argparse
import platform
from collections.abc import Callable
from importlib import metadata

import psutil

from edgellama import __version__

HELP = "show versions, the CPU and what edgellama makes of it"
EXAMPLES = """\
examples:
  edgellama doctor
  EDGELLAMA_CPU=generic edgellama doctor      as if the CPU had no vector instructions
"""
_PACKAGES = ("numpy", "numba", "llvmlite", "gguf", "sentencepiece", "tiktoken", "jinja2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Print every finding; 1 if one of them is a fault that keeps edgellama from working."""
    healthy = True
    for name, find in _FINDINGS.items():
        try:
            value = find()
        except Exception as error:  # a doctor reports what fails, whatever it is
            healthy, value = False, f"FAULT: {error}"
        print(f"{name:14} {value}")
    return 0 if healthy else 1


def _packages() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)


def _cpu() -> str:
    from edgellama.quant.simd.cpu import current_tier, supported_tiers

    names = ", ".join(tier.name for tier in supported_tiers())
    return f"kernels for {current_tier().name}; this CPU runs {names}"


def _cores() -> str:
    return f"{psutil.cpu_count(logical=False)} physical, {psutil.cpu_count()} logical"


def _threads() -> str:
    from edgellama.threads import default_threads

    return str(default_threads())


def _memory() -> str:
    memory = psutil.virtual_memory()
    return f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available"


def _cache() -> str:
    from edgellama.quant.cache_folder import CACHE_ENVIRONMENT, CACHE_FOLDER, CACHE_REFUSAL

    if CACHE_FOLDER is None:
        return (
            f"none, every start compiles: {CACHE_REFUSAL}; set {CACHE_ENVIRONMENT} to a folder of"
            " your own"
        )
    n_kernels = sum(1 for _ in CACHE_FOLDER.glob("*.code"))
    return f"{CACHE_FOLDER} ({n_kernels} kernels; `edgellama warmup` compiles all)"


def _shipped_model() -> str:
    from edgellama.llama import shipped_model

    with shipped_model() as path:
        return f"{path} ({path.stat().st_size / 2**20:.1f} MiB)"


_FINDINGS: dict[str, Callable[[], str]] = {
    "edgellama": lambda: __version__,
    "python": lambda: f"{platform.python_version()} ({platform.python_implementation()})",
    "system": lambda: f"{platform.system()} {platform.release()} on {platform.machine()}",
    "packages": _packages,
    "CPU": _cpu,
    "cores": _cores,
    "threads": _threads,
    "memory": _memory,
    "kernel cache": _cache,
    "shipped model": _shipped_model,
}
