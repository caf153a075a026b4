"""Which instruction set the kernels are compiled for: the best tier of this CPU, or a forced one.

    tier           needs                                     products of
    generic        nothing                                   portable vectors
    avx2           AVX2, FMA, F16C                           vpmaddubsw
    avx_vnni       the same and AVX-VNNI                     vpdpbusd on 256 bits
    avx512_vnni    AVX-512 F, BW, DQ, VL and VNNI            vpdpbusd, 512-bit floats

`EDGELLAMA_CPU=<tier>` forces one; a tier that this CPU lacks is refused, never tried. A forced tier
also bounds what LLVM may use on its own, so it shows how an older machine computes.
"""

import os
import platform
from dataclasses import dataclass
from functools import cache

ENVIRONMENT = "EDGELLAMA_CPU"


@dataclass(frozen=True)
class Tier:
    name: str
    needs: frozenset[str]  # LLVM's names of the features
    cpu: str  # LLVM's name of the least CPU of this tier
    features: str  # what the tier needs beyond that CPU
    fma: bool = True
    f16c: bool = True
    vnni: bool = False


_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}

GENERIC = Tier("generic", frozenset(), "generic", "", fma=False, f16c=False)
X86_TIERS = (  # best last
    GENERIC,
    Tier("avx2", _AVX2, "x86-64-v3", ""),
    Tier("avx_vnni", _AVX2 | {"avxvnni"}, "x86-64-v3", "+avxvnni", vnni=True),
    Tier("avx512_vnni", _AVX512 | {"avx512vnni"}, "x86-64-v4", "+avx512vnni", vnni=True),
)
# Every ARM64 core has fused multiply-add and float16 conversion.
ARM_TIERS = (Tier("generic", frozenset(), "generic", "+neon"),)


@cache
def host_features() -> frozenset[str]:
    """LLVM's names of what this CPU and its operating system offer."""
    from llvmlite import binding

    return frozenset(name for name, present in binding.get_host_cpu_features().items() if present)


def supported_tiers() -> tuple[Tier, ...]:
    """The tiers that run on this machine, best last."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return tuple(tier for tier in X86_TIERS if tier.needs <= host_features())
    if machine in ("aarch64", "arm64"):
        return ARM_TIERS
    return (GENERIC,)


def forced() -> bool:
    return bool(os.environ.get(ENVIRONMENT))


@cache
def current_tier() -> Tier:
    """The tier of this process; ValueError when the forced one is unknown or not supported here."""
    tiers = supported_tiers()
    wanted = os.environ.get(ENVIRONMENT)
    if not wanted:
        return tiers[-1]
    for tier in tiers:
        if tier.name == wanted:
            return tier
    names = ", ".join(tier.name for tier in tiers)
    raise ValueError(f"{ENVIRONMENT}={wanted}: this CPU supports {names}")
