"""Instruction sets: what each tier compiles to, what is refused, and that all compute the same."""

import os
import subprocess
import sys

import pytest

from edgellama.quant.simd import cpu

COMPILE = """
import sys
from edgellama.quant.simd import cpu
features = set().union(*(tier.needs for tier in cpu.X86_TIERS))
cpu.host_features = lambda: frozenset(features)
cpu.platform.machine = lambda: "x86_64"
from edgellama.quant import q4_0_kernels, q8_0_kernels
for module in (q4_0_kernels, q8_0_kernels):
    for entry in (module.dot, module.tile):
        print(entry.compiled._library.get_asm_str())
"""
IS_X86 = cpu.platform.machine().lower() in ("x86_64", "amd64")


def run(code: str, tier: str, cache: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"EDGELLAMA_CPU": tier, "EDGELLAMA_CACHE_DIR": cache}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not IS_X86, reason="needs an x86-64 machine to compile for its tiers")
@pytest.mark.parametrize(
    ("tier", "has", "lacks"),
    [
        ("generic", (), ("vpmaddubsw", "vpdpbusd", "ymm", "vfmadd")),
        ("avx2", ("vpmaddubsw", "vfmadd", "vphaddd"), ("vpdpbusd", "zmm")),
        ("avx_vnni", ("vpdpbusd", "vfmadd"), ("vpmaddubsw", "zmm")),
        ("avx512_vnni", ("vpdpbusd", "vfmadd"), ("vpmaddubsw",)),
    ],
)
def test_a_tier_compiles_to_its_own_instructions(tier, has, lacks, tmp_path):
    done = run(COMPILE, tier, str(tmp_path))
    assert done.returncode == 0, done.stderr
    for instruction in has:
        assert instruction in done.stdout
    for instruction in lacks:
        assert instruction not in done.stdout


@pytest.mark.parametrize("name", ["neon_i9", "AVX2", "sse9"])
def test_an_unknown_tier_is_refused_with_those_that_exist(name, tmp_path):
    done = run("import edgellama.quant.jit", name, str(tmp_path))
    assert done.returncode == 1
    assert f"EDGELLAMA_CPU={name}: this CPU supports generic" in done.stderr


def test_a_tier_this_cpu_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset({"avx2", "fma", "f16c"}))
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("EDGELLAMA_CPU", "avx512_vnni")
    with pytest.raises(ValueError, match="this CPU supports generic, avx2"):
        cpu.current_tier.__wrapped__()


def test_the_best_tier_is_taken_unless_forced(monkeypatch):
    monkeypatch.delenv("EDGELLAMA_CPU", raising=False)
    assert cpu.current_tier.__wrapped__() == cpu.supported_tiers()[-1]


DIGEST = """
import hashlib, numpy as np, sys
sys.path.insert(0, {tests!r})
from test_kernels import Product
from edgellama.quant import find_format
digest = hashlib.sha256()
for name in ("Q8_0", "Q4_0", "BF16"):
    product = Product(find_format(name), rows=21, cols=352, n=6)
    digest.update(product.run("dot").tobytes())
print(digest.hexdigest())
"""


def test_every_tier_with_fused_multiply_add_gives_the_same_bits(tmp_path):
    tiers = [tier.name for tier in cpu.supported_tiers() if tier.fma]
    code = DIGEST.format(tests=os.path.dirname(__file__))
    digests = {tier: run(code, tier, str(tmp_path)).stdout for tier in tiers}
    assert all(digests.values())
    assert len(set(digests.values())) <= 1
