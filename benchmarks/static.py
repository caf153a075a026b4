"""What llvm-mca expects of the kernels' hot loops, for CPUs that are not at hand.

    python benchmarks/static.py amx sapphirerapids [--formats q4_0,q4_k] [--mca llvm-mca]

The kernels of a tier are compiled for a CPU by LLVM's name and not run; `llvm-mca` (Debian: package
llvm) must be on the PATH. Its model has all data in the first cache and knows nothing of AMX tiles;
where it gives zmm arithmetic one port (its sapphirerapids does), servers have two. `dot` is the
loop over a row with one token, `tile` that over blocks with most products, `widen` that for AMX.
"""

import argparse
import json
import os
import re
import subprocess
from collections.abc import Iterator

from edgellama.quant.simd import cpu

LABEL, JUMP = re.compile(r"(\.LBB\w+):"), re.compile(r"\tj\w+\t(\.LBB\w+)")
PRODUCT = re.compile(r"\tvp(?:dpbusd|maddubsw)\t.*%([yz])mm\d+$")
BYTES = {"y": 32, "z": 64}  # of a register


def inner_loops(assembly: str) -> Iterator[list[str]]:
    """The instructions of each loop that holds no other."""
    lines = [line.split("#")[0].rstrip() for line in assembly.splitlines()]
    start = {}
    for end, line in enumerate(lines):
        if label := LABEL.match(line):
            start[label[1]] = end
        elif (jump := JUMP.match(line)) and jump[1] in start:
            body = lines[start[jump[1]] : end + 1]
            labels = {label[1] for label in map(LABEL.match, body) if label}
            back = [j for j in map(JUMP.match, body[:-1]) if j and j[1] in labels]
            if not any(start[j[1]] > start[jump[1]] for j in back):
                yield [line for line in body if re.match(r"\t[^.]", line)]


def products(loop: list[str]) -> int:
    """Multiplications of bytes."""
    return sum(BYTES[found[1]] for found in map(PRODUCT.search, loop) if found)


def widened(loop: list[str]) -> int:
    """Weights that become bfloat16: looked up, or narrowed."""
    looked_up = sum("\tvpermw\t" in line for line in loop)
    return 32 * (looked_up or sum("\tvcvtne2ps2bf16\t" in line for line in loop))


def cycles(loop: list[str], mca: str, name: str) -> float:
    command = [mca, f"-mcpu={name}", "-mtriple=x86_64-linux-gnu", "--json"]
    done = subprocess.run(command, input="\n".join(loop), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    summary = json.loads(done.stdout)["CodeRegions"][0]["SummaryView"]
    return float(summary["TotalCycles"] / summary["Iterations"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tier")
    parser.add_argument("cpu")
    parser.add_argument("--formats", default="q4_0,q8_0,q4_k,q5_k,q6_k")
    parser.add_argument("--mca", default="llvm-mca")
    options = parser.parse_args()
    os.environ[cpu.ENVIRONMENT] = options.tier
    tiers = {tier.name: tier for tier in cpu.X86_TIERS}
    if options.tier not in tiers:
        raise SystemExit(f"tier {options.tier}: expected one of " + ", ".join(tiers))
    features = frozenset().union(*(tier.needs for tier in tiers.values()))
    cpu.host_features = lambda: features  # type: ignore[assignment]

    import numba

    from edgellama.quant import find_format, jit  # jit bounds the CPU: only then name another
    from edgellama.quant.kernel_compiler import link_entry

    settings = jit.numba.config
    settings.CPU_NAME, settings.CPU_FEATURES = options.cpu, ""
    print(f"{options.tier} on {options.cpu}, numba {numba.__version__}\n")
    print("| format | kernel | instructions | on the stack | cycles | for | |\n" + "|---" * 7 + "|")
    for fmt in map(find_format, options.formats.split(",")):
        entries = fmt.products.entries
        for kind in ("dot", "tile", "widen"):
            if kind not in entries:
                continue
            entry = entries[kind]
            loops = list(inner_loops(link_entry(entry.function, entry.name).get_asm_str()))
            size = widened if kind == "widen" else products
            if kind == "dot":
                loops = [loop for loop in loops if any("prefetch" in line for line in loop)]
            loop = max(loops, key=size)
            n, spent = size(loop), cycles(loop, options.mca, options.cpu)
            stack = sum(bool(re.search(r"mm.*\(%rsp|\(%rsp.*mm", line)) for line in loop)
            if kind == "dot":
                rate = f"{n * fmt.bits_per_weight / 8 / spent:.1f} bytes a cycle"
            elif kind == "tile":
                rate = f"{n / spent:.0f} multiply-adds a cycle"
            else:
                rate = f"{32 * spent / n:.1f} cycles for 32 weights"
            print(f"| {fmt.name} | {kind} | {len(loop)} | {stack} | {spent:.1f} | {n} | {rate} |")


if __name__ == "__main__":
    main()
