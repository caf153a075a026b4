"""Instruction sets: what each tier compiles to, what is refused, and that all compute the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgellama.quant.simd import cpu
from edgellama.quant.system import NAMES

COMPILE = """
import struct
import sys
from llvmlite import binding
from edgellama.quant.simd import cpu
wanted = sys.argv[1]
if wanted != cpu.architecture():
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    binding.get_process_triple = lambda: wanted + "-unknown-linux-gnu"
    cpu.architecture = lambda: wanted
features = set().union(*(tier.needs for tier in cpu.TIERS[wanted]))
cpu.host_features = lambda: frozenset(features)
from edgellama.quant import find_format
from edgellama.quant.entry import Entry
from edgellama.quant.kernel_compiler import link_entry

def undefined(elf):
    (headers,), (size, n) = struct.unpack_from("<Q", elf, 40), struct.unpack_from("<HH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, headers + i * size) for i in range(n)]
    for _, kind, _, _, offset, length, link, *_ in sections:
        for at in range(offset, offset + length if kind == 2 else 0, 24):  # of the symbol table
            name, _, _, section = struct.unpack_from("<IBBH", elf, at)
            if name and not section:
                text = sections[link][4] + name
                yield elf[text : elf.index(0, text)].decode()

def show(entry):
    library = link_entry(entry.function, entry.name)
    print(library.get_asm_str())
    if sys.platform == "linux":
        print("needs:", *undefined(library.object_file()))

if cpu.current_tier().name == "generic":  # the least instructions, the most calls
    show(Entry("edgellama.step", "step"))
for name in ("Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q4_0", "IQ4_NL"):
    entries = find_format(name).products.entries
    for entry in (entries[kind] for kind in sys.argv[2:]):
        show(entry)
"""
BYTES_BY_SMULL = r"smull\tv\d+\.8h"  # other widths multiply other things
MADE_OF = {  # instructions that a tier's kernels have, and that they must not have (patterns)
    "generic": ((), ("vpmaddubsw", "vpdpbusd", "ymm", "vfmadd")),
    "avx2": (("vpmaddubsw", "vfmadd", "vphaddd", "vpshufb"), ("vpdpbusd", "zmm")),
    "avx_vnni": (("vpdpbusd", "vfmadd"), ("vpmaddubsw", "zmm")),
    "avx512": (("vpmaddubsw", "vfmadd", "zmm"), ("vpdpbusd",)),
    "avx512_vnni": (("vpdpbusd", "vfmadd", "zmm"), ("vpmaddubsw", "bf16")),
    "amx": (
        ("ldtilecfg", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease", "vcvtne2ps2bf16"),
        ("vpdpbusd",),
    ),
    "neon": (
        (BYTES_BY_SMULL, "sadalp\tv", "addp\tv", "fmla\tv", "fcvtl\tv", "tbl\tv"),
        ("sdot", "smmla"),
    ),
    "neon_dotprod": (("sdot\tv", "addp\tv", "fmla\tv", "fcvtl\tv"), (BYTES_BY_SMULL, "smmla")),
    "neon_i8mm": (("sdot\tv", "addp\tv", "fmla\tv", "fcvtl\tv"), (BYTES_BY_SMULL,)),
}
TIERS = [  # generic only once
    (architecture, tier.name)
    for architecture, tiers in cpu.TIERS.items()
    for tier in tiers
    if (architecture, tier.name) != ("aarch64", "generic")
]


def run(code: str, tier: str, cache: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"EDGELLAMA_CPU": tier, "EDGELLAMA_CACHE_DIR": cache}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("architecture", "tier"), TIERS)
def test_a_tier_compiles_to_its_own_instructions(architecture, tier, tmp_path):
    if architecture != cpu.architecture() and sys.platform != "linux":
        pytest.skip("LLVM loads foreign code only in the object format of Linux")
    kinds = ("batch", "widen") if tier == "amx" else ("dot", "tile")
    done = run(COMPILE, tier, str(tmp_path), architecture, *kinds)
    assert done.returncode == 0, done.stderr
    has, lacks = MADE_OF[tier]
    assert [instruction for instruction in has if not re.search(instruction, done.stdout)] == []
    assert [instruction for instruction in lacks if re.search(instruction, done.stdout)] == []
    needs = set().union(*(line.split() for line in re.findall("needs:(.*)", done.stdout)))
    assert needs <= {"memcpy", "memset", *NAMES}  # or loading it would end a process


@pytest.mark.parametrize("name", ["neon_i9", "AVX2", "sse9"])
def test_an_unknown_tier_is_refused_with_those_that_exist(name, tmp_path):
    done = run("import edgellama.quant.jit", name, str(tmp_path))
    assert done.returncode == 1
    assert f"EDGELLAMA_CPU={name}: this CPU supports generic" in done.stderr


@pytest.mark.parametrize(
    ("architecture", "features", "lacking", "names"),
    [
        ("x86_64", {"avx2", "fma", "f16c"}, "avx512_vnni", "generic, avx2$"),
        ("aarch64", set(), "neon_dotprod", "generic, neon$"),
        ("aarch64", {"dotprod"}, "neon_i8mm", "generic, neon, neon_dotprod$"),
        ("aarch64", {"i8mm"}, "neon_i8mm", "generic, neon$"),
        ("riscv64", {"v"}, "neon", "generic$"),
    ],
)
def test_a_tier_this_cpu_lacks_is_refused(monkeypatch, architecture, features, lacking, names):
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset(features))
    monkeypatch.setattr(cpu, "architecture", lambda: architecture)
    monkeypatch.setenv("EDGELLAMA_CPU", lacking)
    with pytest.raises(ValueError, match=f"this CPU supports {names}"):
        cpu.current_tier.__wrapped__()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are not asked")
def test_tiles_need_the_consent_of_the_system(monkeypatch):
    from llvmlite import binding

    claimed = dict.fromkeys(("avx2", "amx-tile", "amx-bf16"), True)
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: claimed)
    monkeypatch.setattr(cpu, "architecture", lambda: "x86_64")
    granted = Path("/proc/cpuinfo").read_text().find("amx_tile") >= 0  # else the kernel refuses
    assert ("amx-tile" in cpu.host_features.__wrapped__()) == granted


def test_an_arm_cpu_on_an_unknown_system_has_plain_neon(monkeypatch):
    monkeypatch.setattr(cpu, "architecture", lambda: "aarch64")
    monkeypatch.setattr(cpu.sys, "platform", "plan9")
    assert cpu.host_features.__wrapped__() == frozenset()


@pytest.mark.skipif(cpu.architecture() != "aarch64", reason="needs an ARM CPU")
def test_llvm_is_told_what_an_arm_cpu_has():
    code = "from edgellama.quant import jit; print(jit.numba.config.CPU_FEATURES)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(found.stdout.strip().split(",")) >= {f"+{name}" for name in cpu.host_features()}


def test_the_best_tier_is_taken_unless_forced(monkeypatch):
    monkeypatch.delenv("EDGELLAMA_CPU", raising=False)
    assert cpu.current_tier.__wrapped__() == cpu.supported_tiers()[-1]


DIGEST = """
import hashlib, numpy as np, sys
sys.path += {tests!r}
from test_kernels import Product
from edgellama.quant import find_format
digest = hashlib.sha256()
for name, cols in (("Q8_0", 352), ("Q6_K", 512), ("Q4_0", 352), ("BF16", 352),
                   ("IQ4_NL", 352), ("IQ4_XS", 512), ("Q5_K", 512), ("Q4_K", 512), ("Q3_K", 512),
                   ("Q2_K", 512), ("Q5_1", 352), ("Q5_0", 352), ("Q4_1", 352)):
    product = Product(find_format(name), rows=21, cols=cols, n=6)
    digest.update(product.run(sys.argv[1]).tobytes())
print(digest.hexdigest())
"""


# sha256 of what the kernels compute; it changes with the order of their sums and nothing else
SAME_EVERYWHERE = "cf6883a1e5d8ec9e2e2e5a18e7b741328915b1c4fb594af26d57ff99dccd1483"


EMULATED = [tier.name for tier in cpu.emulated_tiers(cpu.supported_tiers())]
DIGESTS = [(tier.name, "dot") for tier in cpu.supported_tiers() if tier.fma]
DIGESTS += [(tier, "tile") for tier in EMULATED if not tier.startswith("amx")]  # as avx512_vnni


@pytest.mark.parametrize(("tier", "kind"), DIGESTS)
def test_every_tier_with_fused_multiply_add_gives_the_same_bits(tier, kind, tmp_path):
    folder = Path(__file__).parent
    folders = [str(folder), str(folder.parent)]
    done = run(DIGEST.format(tests=folders), tier, str(tmp_path), kind)
    assert done.stdout.strip() == SAME_EVERYWHERE, done.stderr


PROMPT = """
import sys
sys.path += {tests!r}
import test_kernels as t
for name in ("Q4_0", "Q8_0", "Q6_K", "BF16"):
    t.test_a_batch_on_tiles_is_the_product_of_bfloat16(t.find_format(name), 37, 33)
print("done")
"""


@pytest.mark.skipif(not EMULATED, reason="needs AVX2")
def test_the_kernels_for_tiles_work_where_tiles_are_emulated(tmp_path):
    folder = Path(__file__).parent
    done = run(
        PROMPT.format(tests=[str(folder), str(folder.parent)]), "amx-emulated", str(tmp_path)
    )
    assert done.stdout == "done\n", done.stderr
