"""Which instruction set the kernels are compiled for: the best tier of this CPU, or a forced one.

    tier           needs                                     products of bytes by
    generic        nothing                                   portable vectors
    avx2           AVX2, FMA, F16C                           vpmaddubsw
    avx_vnni       the same and AVX-VNNI                     vpdpbusd on 256 bits
    avx512         AVX-512 F, BW, DQ and VL                  vpmaddubsw on 512 bits
    avx512_vnni    the same and AVX-512 VNNI                 vpdpbusd on 512 bits
    amx            the same, AVX-512 BF16, AMX TILE, BF16    that; of many tokens tdpbf16ps
    neon           any 64-bit ARM                            smull
    neon_dotprod   FEAT_DotProd (most since 2018)            sdot
    neon_i8mm      FEAT_I8MM, FEAT_DotProd (since 2021)      sdot

`EDGELLAMA_CPU=<tier>` forces one; a tier that this CPU lacks is refused, never tried. A forced tier
also bounds what LLVM may use on its own, so it shows how an older machine computes.

`EDGELLAMA_CPU=<tier>-emulated` is for tests of the x86 tiers on a CPU with AVX2: the kernels are
those of the tier, and each instruction that AVX2 lacks becomes plain vector code.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

ENVIRONMENT = "EDGELLAMA_CPU"


@dataclass(frozen=True)
class Tier:
    name: str
    needs: frozenset[str]  # LLVM's names of the features
    cpu: str  # LLVM's name of the least CPU of this tier
    features: str  # what the tier needs beyond that CPU
    products: str  # the instruction that multiplies bytes, as in the table above, or "portable"
    fma: bool = True
    f16c: bool = True  # one instruction converts float16
    wide: bool = False  # 32 registers of 512 bits
    tiles: bool = False  # AMX tiles of bfloat16
    emulated: bool = False  # by plain vector code on a CPU with AVX2


_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_VNNI = _AVX512 | {"avx512vnni"}
_TILES = frozenset({"amx-tile", "amx-bf16"})
_DOTPROD = frozenset({"dotprod"})
_I8MM = _DOTPROD | {"i8mm"}

GENERIC = Tier("generic", frozenset(), "generic", "", "portable", fma=False, f16c=False)
X86_TIERS = (  # best last
    GENERIC,
    Tier("avx2", _AVX2, "x86-64-v3", "", "vpmaddubsw"),
    Tier("avx_vnni", _AVX2 | {"avxvnni"}, "x86-64-v3", "+avxvnni", "vpdpbusd"),
    Tier("avx512", _AVX512, "x86-64-v4", "", "vpmaddubsw", wide=True),
    Tier("avx512_vnni", _VNNI, "x86-64-v4", "+avx512vnni", "vpdpbusd", wide=True),
    Tier(
        "amx",
        _VNNI | {"avx512bf16"} | _TILES,
        "x86-64-v4",
        "+avx512vnni,+avx512bf16,+amx-tile,+amx-bf16",
        "vpdpbusd",
        wide=True,
        tiles=True,
    ),
)
ARM_TIERS = (
    GENERIC,
    Tier("neon", frozenset(), "generic", "+neon", "smull"),
    Tier("neon_dotprod", _DOTPROD, "generic", "+neon,+dotprod", "sdot"),
    Tier("neon_i8mm", _I8MM, "generic", "+neon,+dotprod,+i8mm", "sdot"),
)
TIERS = {"x86_64": X86_TIERS, "aarch64": ARM_TIERS}


@cache
def architecture() -> str:
    """What LLVM makes code for in this process: x86_64, aarch64 or another.

    Not what the machine is: an x86-64 Python may run on an ARM machine that translates it.
    """
    from llvmlite import binding

    name: str = binding.get_process_triple().partition("-")[0]
    return "aarch64" if name == "arm64" else name  # arm64: as Apple calls it


@cache
def host_features() -> frozenset[str]:
    """LLVM's names of what this CPU and its operating system offer."""
    if architecture() == "aarch64":
        return _arm_features()
    from llvmlite import binding

    present = {name for name, is_there in binding.get_host_cpu_features().items() if is_there}
    return frozenset(present if present >= _TILES and _tiles_granted() else present - _TILES)


def _tiles_granted() -> bool:
    """Ask the system, once for all threads, to keep this process's tile registers.

    Without its consent the first tile instruction ends the process. Others than Linux: not known.
    """
    if sys.platform != "linux":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18  # <asm/prctl.h>, Linux 5.16
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


# Of an ARM CPU LLVM knows only the model, and of a new one not even that: the system is asked.


def _linux_has(place: tuple[int, int]) -> bool:
    word, bit = place
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return bool(getauxval(word) >> bit & 1)


def _macos_has(name: bytes) -> bool:
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    to, length = ctypes.byref(value), ctypes.byref(size)
    failed = ctypes.CDLL(None).sysctlbyname(name, to, length, None, ctypes.c_size_t(0))
    return not failed and value.value != 0  # a system that has never heard of it fails


def _windows_has(number: int) -> bool:
    if sys.platform != "win32":  # nobody asks; for the type checker
        return False
    return bool(ctypes.WinDLL("kernel32").IsProcessorFeaturePresent(number))


_AT_HWCAP, _AT_HWCAP2 = 16, 26
_LINUX = (_linux_has, {"dotprod": (_AT_HWCAP, 20), "i8mm": (_AT_HWCAP2, 13)})  # <asm/hwcap.h>
_ARM_SYSTEMS: dict[str, tuple[Callable[[Any], bool], dict[str, Any]]] = {
    "linux": _LINUX,
    "android": _LINUX,
    "darwin": (
        _macos_has,
        {"dotprod": b"hw.optional.arm.FEAT_DotProd", "i8mm": b"hw.optional.arm.FEAT_I8MM"},
    ),
    "win32": (_windows_has, {"dotprod": 43, "i8mm": 66}),  # PF_ARM_V82_... of <winnt.h>
}


def _arm_features() -> frozenset[str]:
    has, places = _ARM_SYSTEMS.get(sys.platform, (bool, {}))
    return frozenset(name for name, place in places.items() if has(place))


def supported_tiers() -> tuple[Tier, ...]:
    """The tiers that run on this machine, best last."""
    tiers = TIERS.get(architecture(), (GENERIC,))
    return tuple(tier for tier in tiers if tier.needs <= host_features())


def bounded() -> bool:
    """Whether LLVM is to use what the tier names and no more.

    So it is when a tier is forced, and always on ARM, where LLVM would take an unknown CPU for one
    without the instructions that the tier is made of, and end the process.
    """
    return bool(os.environ.get(ENVIRONMENT)) or architecture() == "aarch64"


def emulated_tiers(supported: tuple[Tier, ...]) -> list[Tier]:
    """The tiers above AVX2 for a machine that has AVX2; none for another."""
    names = [tier.name for tier in supported]
    if "avx2" not in names:
        return []
    host = supported[names.index("avx2")]
    return [
        replace(tier, name=f"{tier.name}-emulated", cpu=host.cpu, features="", emulated=True)
        for tier in X86_TIERS[names.index("avx2") + 1 :]
    ]


@cache
def current_tier() -> Tier:
    """The tier of this process; ValueError when the forced one is unknown or not supported here."""
    tiers = supported_tiers()
    wanted = os.environ.get(ENVIRONMENT)
    if not wanted:
        return tiers[-1]
    for tier in (*tiers, *emulated_tiers(tiers)):
        if tier.name == wanted:
            return tier
    names = ", ".join(tier.name for tier in tiers)
    raise ValueError(f"{ENVIRONMENT}={wanted}: this CPU supports {names}")
