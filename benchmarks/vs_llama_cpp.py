"""edgellama against llama.cpp on one file: alternating in one run, each in its own environment.

    python benchmarks/vs_llama_cpp.py MODEL.gguf --peer-python PATH/TO/peer/bin/python

Every round measures each side once, one after the other, so that whatever else the machine does
meets all of them; a side that is not measured sleeps. Reported are medians over the rounds, and the
median of the rounds' own ratios. The set-up of the peer is in benchmarks/README.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from memory_bandwidth import read_bandwidth

from edgellama.gguf import GGUFFile

OURS, PEER, PEER_MAPPED = "edgellama", "llama.cpp", "llama.cpp-mapped"


class SideProcess:
    """A side.py that answers one request at a time."""

    def __init__(self, python: str, name: str, model: Path, n_ctx: int) -> None:
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("side.py")), name, str(model), str(n_ctx)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name = name
        self._answer()

    def measure(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True, slots=True)
class Work:
    """One row of the table."""

    work: str  # "decode" or "prompt"
    n_threads: int
    n: int
    depth: int

    def __str__(self) -> str:
        behind = f" behind {self.depth}" if self.depth else ""
        return f"{self.work} {self.n}{behind}, {self.n_threads} thread(s)"


def run(sides: list[SideProcess], works: list[Work], rounds: int) -> dict[str, Any]:
    """{work: {side: [tokens/s of each round]}} and the last memory figures of each side."""
    speeds: dict[str, dict[str, list[float]]] = {
        str(work): {side.name: [] for side in sides} for work in works
    }
    memory: dict[str, dict[str, int | None]] = {}
    for index in range(rounds):
        for work in works:
            for side in sides:
                answer = side.measure(
                    work=work.work, n_threads=work.n_threads, n=work.n, depth=work.depth
                )
                speeds[str(work)][side.name].append(answer.pop("tokens_per_s"))
                memory[side.name] = answer
            shown = ", ".join(f"{s.name} {speeds[str(work)][s.name][-1]:.1f}" for s in sides)
            print(f"round {index + 1}/{rounds}, {work}: {shown} tok/s", file=sys.stderr)
    return {"speeds": speeds, "memory": memory}


def markdown(result: dict[str, Any], names: list[str]) -> str:
    """The table: medians in tokens a second, and ours over each peer's, round by round."""
    ours, peers = names[0], names[1:]
    lines = [
        "| work | " + " | ".join(names + [f"{ours} / {peer}" for peer in peers]) + " |",
        "|---" * (1 + len(names) + len(peers)) + "|",
    ]
    for work, speeds in result["speeds"].items():
        cells = [f"{median(speeds[name]):.1f} tok/s" for name in names]
        for peer in peers:
            ratios = [a / b for a, b in zip(speeds[ours], speeds[peer], strict=True)]
            cells.append(f"{median(ratios):.2f}")
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    for label, key in (("peak RSS", "peak_rss"), ("of it private", "private_rss")):
        sizes = [result["memory"][name][key] for name in names]
        cells = ["not known" if size is None else f"{size / 1e6:,.0f} MB" for size in sizes]
        lines.append(f"| {label} | " + " | ".join(cells + [""] * len(peers)) + " |")
    return "\n".join(lines)


def describe(model: Path, weight_bytes: int, threads: list[int]) -> dict[str, Any]:
    """The machine and the file, and the ceiling that reading the weights sets to decoding."""
    mapped = np.memmap(model, np.uint8, "r")
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu_name(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "model": model.name,
        "file_bytes": model.stat().st_size,
        "weight_bytes": weight_bytes,
        "read_gb_s": {n: read_bandwidth(mapped, n) / 1e9 for n in threads},
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    return fields.get("model name", platform.machine())


def weight_bytes_per_token(model: Path) -> int:
    """Bytes of the tensors that a decoded token reads whole: all but an untied embedding."""
    with GGUFFile(model) as file:
        untied = "output.weight" in file.tensors
        return sum(
            info.n_bytes
            for name, info in file.tensors.items()
            if not (untied and name == "token_embd.weight")
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer-python", required=True, help="python of the peer's environment")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--decode", type=int, default=32, help="tokens to decode; 0: none")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt; 0: none")
    parser.add_argument("--depth", type=int, default=0, help="tokens already in the context")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", default=f"{OURS},{PEER},{PEER_MAPPED}")
    parser.add_argument("--json", type=Path, help="write every measurement to this file, too")
    options = parser.parse_args()

    threads = [int(n) for n in options.threads.split(",")]
    names = options.sides.split(",")
    works = [
        Work(work, n_threads, n, options.depth)
        for work, n in (("decode", options.decode), ("prompt", options.prompt))
        for n_threads in threads
        if n
    ]
    n_ctx = -(-(options.depth + max(options.decode, options.prompt) + 1) // 256) * 256
    weight_bytes = weight_bytes_per_token(options.model)
    machine = describe(options.model, weight_bytes, threads)
    sides = [
        SideProcess(
            sys.executable if name == OURS else options.peer_python, name, options.model, n_ctx
        )
        for name in names
    ]
    try:
        result = {"machine": machine} | run(sides, works, options.rounds)
    finally:
        for side in sides:
            side.close()

    ceilings = (
        f"{n} thread(s) {speed:.1f} GB/s = {speed * 1e9 / weight_bytes:.1f} tok/s"
        for n, speed in machine["read_gb_s"].items()
    )
    print(
        f"{machine['date']}, {machine['cpu']}, load {machine['load']}; {machine['model']}: "
        f"{machine['file_bytes'] / 1e9:.2f} GB, {weight_bytes / 1e9:.2f} GB a token.\n"
        f"Read ceiling: {', '.join(ceilings)}.\n\n{markdown(result, names)}"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
