"""Time and peak memory of quantizing a model, beside llama.cpp's quantizer with the same threads.

    python quantize_time.py MODEL-f16.gguf --peer-python peer/bin/python [--types Q4_K_M,Q4_0,Q8_0]

Each run is a process of its own, ours `edgellama quantize`, theirs `llama_model_quantize`; they
take turns, and every round begins with the other side. Ours runs once before: kernels are compiled
then, and the model is in the page cache where it fits. Reported are medians: wall time, processor
time, and the largest resident size, which counts pages of mapped files, too (llama.cpp maps what
it reads, we do not). Needs os.wait4, which Windows has not.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
OURS, THEIRS = "edgellama", "llama.cpp"
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took."""

    wall: float  # seconds
    cpu: float  # seconds
    peak: float  # bytes


def run(command: list[str]) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * MAXRSS_UNIT)


def commands(
    model: Path, output: Path, type: str, n_threads: int, peer_python: str
) -> dict[str, list[str]]:
    ours = [sys.executable, "-m", "edgellama", "quantize", str(model), str(output)]
    theirs = [peer_python, str(HERE / "llama_cpp_quantize.py"), str(model), str(output)]
    return {
        OURS: [*ours, "--type", type, "--threads", str(n_threads), "--quiet"],
        THEIRS: [*theirs, type, str(n_threads)],
    }


def measure(sides: dict[str, list[str]], n_rounds: int, output: Path) -> dict[str, Cost]:
    """The medians of each side."""
    costs: dict[str, list[Cost]] = {side: [] for side in sides}
    for i in range(n_rounds):
        for side in list(sides) if i % 2 == 0 else reversed(list(sides)):
            costs[side].append(run(sides[side]))
            output.unlink()
    return {
        side: Cost(
            median(c.wall for c in found),
            median(c.cpu for c in found),
            median(c.peak for c in found),
        )
        for side, found in costs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a GGUF file in F16")
    parser.add_argument("--peer-python", required=True, help="has llama-cpp-python")
    parser.add_argument("--types", default="Q4_K_M,Q4_0,Q8_0", help="by comma (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="for the files made (default: the system's for such)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgellama-quantize-", dir=options.folder) as folder:
        output = Path(folder) / "made.gguf"
        print(f"{options.model.name}, {options.threads} threads, {options.rounds} rounds;"
              f" load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
        print("| type | side | wall s | processor s | peak MB |\n|---|---|---|---|---|")
        for type in options.types.split(","):
            sides = commands(options.model, output, type, options.threads, options.peer_python)
            run(sides[OURS])  # compiles, and fills the page cache
            found = measure(sides, options.rounds, output)
            for side, cost in found.items():
                cells = f"{cost.wall:.2f} | {cost.cpu:.2f} | {cost.peak / 1e6:,.0f}"
                print(f"| {type} | {side} | {cells} |")
            ours, theirs = found[OURS], found[THEIRS]
            ratios = [ours.wall / theirs.wall, ours.cpu / theirs.cpu, ours.peak / theirs.peak]
            print(
                f"| {type} | ratio | " + " | ".join(f"{r:.2f}" for r in ratios) + " |", flush=True
            )


if __name__ == "__main__":
    main()
