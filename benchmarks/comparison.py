"""Sides in alternation: what the comparisons of this folder have in common.

Every round measures each side once, one after the other, so that whatever else the machine does
meets all of them; a side that is not measured sleeps. Beside them, each round reads the weights as
fast as the machine can, for the ceiling of decoding. Reported are medians over the rounds, and
medians of the rounds' own ratios.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import ledger
import numpy as np
from memory_bandwidth import read_bandwidth

from edgellama.config import ModelConfig
from edgellama.gguf import GGUFFile
from edgellama.random_llama import SHAPES

HERE = Path(__file__).parent
OURS = "edgellama"
SPIN = "import os\np = os.getppid()\nwhile os.getppid() == p:\n for _ in range(10**6): pass"
CEILING_PASSES = 3  # the best of them is a round's ceiling


@dataclass(frozen=True, slots=True)
class Spec:
    """A side to be started: its name in side.py, whose python runs it, and its model."""

    name: str
    python: str
    model: Path


@dataclass(frozen=True, slots=True)
class Work:
    """What is timed: one row of a table."""

    work: str  # "decode" or "prompt"
    n: int
    n_threads: int
    depth: int = 0  # tokens in the context before
    busy: int = 0  # processes that compute beside it

    def __str__(self) -> str:
        behind = f" behind {self.depth:,}" if self.depth else ""
        beside = f" beside {self.busy} busy" if self.busy else ""
        threads = "1 thread" if self.n_threads == 1 else f"{self.n_threads} threads"
        return f"{self.work} {self.n}{behind}{beside}, {threads}"


@dataclass(frozen=True)
class Model:
    """A GGUF file and what a decoded token reads of it."""

    path: Path
    label: str  # shape and formats
    weight_bytes: int  # of the tensors that every token reads whole
    kv_bytes: int  # of float16 keys and values, for each token in the context

    @classmethod
    def read(cls, path: Path) -> "Model":
        with GGUFFile(path) as file:
            config = ModelConfig.from_gguf(file)
            sizes: dict[str, int] = {}
            skipped = "token_embd.weight" if "output.weight" in file.tensors else ""
            for name, tensor in file.tensors.items():
                if name != skipped:  # of an untied embedding, a token reads one row
                    sizes[tensor.format.name] = sizes.get(tensor.format.name, 0) + tensor.n_bytes
        shapes = (
            n for n, s in SHAPES.items() if (s.dim, s.n_layers) == (config.dim, config.n_layers)
        )
        formats = sorted(
            (n for n in sizes if n != "F32" or len(sizes) == 1), key=lambda n: -sizes[n]
        )
        return cls(
            path,
            f"{next(shapes, config.name)} {'+'.join(formats)}",
            sum(sizes.values()),
            config.n_layers * config.n_kv_heads * config.head_dim * 2 * 2,
        )

    @cached_property
    def mapped(self) -> "np.memmap[Any, np.dtype[np.uint8]]":
        return np.memmap(self.path, np.uint8, "r")


class SideProcess:
    """A side.py that answers one request at a time."""

    def __init__(self, spec: Spec, n_ctx: int, n_threads: int) -> None:
        arguments = [spec.name, str(spec.model), str(n_ctx), str(n_threads)]
        self._process = subprocess.Popen(
            [spec.python, str(HERE / "side.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name = spec.name
        self.build: str = self._answer()["build"]

    def measure(self, work: Work) -> dict[str, Any]:
        assert self._process.stdin is not None
        request = {"work": work.work, "n": work.n, "depth": work.depth}
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
        with self._process as process:  # closes its pipes and waits
            assert process.stdin is not None
            process.stdin.close()  # after which it ends


@contextmanager
def beside(n_busy: int) -> Iterator[None]:
    """Processes that do nothing but compute, at the same priority and in the same session.

    Linux shares processors out between sessions first (sched_autogroup): started elsewhere, any
    number of them would count as one.
    """
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n_busy)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
        for process in spinning:
            process.wait()


def compare(
    specs: list[Spec], works: Iterable[Work], model: Model, rounds: int
) -> list[dict[str, Any]]:
    """Measure every work on every side; a row (see ledger.py) for each, in the order given.

    Works of one depth are measured in turns, so that no side fills its context once more.
    """
    works = list(works)
    n_ctx = max(work.depth + work.n + 8 for work in works)
    n_ctx = -(-n_ctx // 256) * 256
    rows: dict[Work, dict[str, Any]] = {}
    common = _circumstances(model)
    for n_threads, same_threads in groupby(works, key=lambda work: work.n_threads):
        with ExitStack() as stack:
            sides = [
                stack.enter_context(closing(SideProcess(spec, n_ctx, n_threads))) for spec in specs
            ]
            builds = {side.name: side.build for side in sides}
            for _, group in groupby(same_threads, key=lambda work: work.depth):
                for work, row in _alternate(sides, list(group), model, rounds).items():
                    rows[work] = common | row | {"builds": builds}
    return [rows[work] for work in works]


def _alternate(
    sides: list[SideProcess], works: list[Work], model: Model, rounds: int
) -> dict[Work, dict[str, Any]]:
    samples: dict[Work, dict[str, list[float]]] = {w: {s.name: [] for s in sides} for w in works}
    ceilings: list[float] = []  # bytes a second, one a round
    memory: dict[str, dict[str, int | None]] = {}
    for index in range(rounds):
        ceilings.append(read_bandwidth(model.mapped, works[0].n_threads, CEILING_PASSES))
        for work in works:
            with beside(work.busy):
                for side in sides if index % 2 == 0 else sides[::-1]:
                    answer = side.measure(work)
                    samples[work][side.name].append(answer.pop("tokens_per_s"))
                    memory[side.name] = answer
            shown = ", ".join(f"{name} {s[-1]:.1f}" for name, s in samples[work].items())
            print(f"round {index + 1}/{rounds}, {work}: {shown} tok/s", file=sys.stderr)
    return {work: _row(work, samples[work], ceilings, memory, model) for work in works}


def _row(
    work: Work,
    samples: dict[str, list[float]],
    ceilings: list[float],
    memory: dict[str, dict[str, int | None]],
    model: Model,
) -> dict[str, Any]:
    row = {
        "work": work.work,
        "n": work.n,
        "depth": work.depth,
        "busy": work.busy,
        "n_threads": work.n_threads,
        "tokens_per_s": {name: round(median(speeds), 2) for name, speeds in samples.items()},
        "ratio": {
            name: round(median(a / b for a, b in zip(samples[OURS], speeds, strict=True)), 3)
            for name, speeds in samples.items()
            if name != OURS and OURS in samples
        },
        "read_gb_s": round(median(ceilings) / 1e9, 2),
        "peak_rss": {name: sizes["peak_rss"] for name, sizes in memory.items()},
        "private_rss": {name: sizes["private_rss"] for name, sizes in memory.items()},
        "samples": samples,
    }
    if work.work == "decode":
        # half of the tokens that are decoded stand in the context, too
        read = model.weight_bytes + model.kv_bytes * (work.depth + work.n / 2)
        row["ceiling"] = round(median(ceilings) / read, 2)
        row["share_of_ceiling"] = {
            name: round(median(s * read / c for s, c in zip(speeds, ceilings, strict=True)), 3)
            for name, speeds in samples.items()
        }
    return row


def _circumstances(model: Model) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "commit": ledger.commit(),
        "command": ledger.command(),
        "cpu": _cpu_name(),
        "n_cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "model": model.label,
        "weight_bytes": model.weight_bytes,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    return fields.get("model name", platform.machine())


def table(rows: list[dict[str, Any]]) -> str:
    """Medians in tokens a second, of decoding also its share of the read ceiling, and ratios."""
    names = list(rows[0]["tokens_per_s"])
    peers = list(rows[0]["ratio"])
    lines = [
        "| work | " + " | ".join(names + [f"{OURS} / {peer}" for peer in peers]) + " |",
        "|---" * (1 + len(names) + len(peers)) + "|",
    ]
    for row in rows:
        cells = [_speed(row, name) for name in names]
        cells += [f"{row['ratio'][peer]:.2f}" for peer in peers]
        lines.append(f"| {work_of(row)} | " + " | ".join(cells) + " |")
    for label, key in (("peak RSS", "peak_rss"), ("of it private", "private_rss")):
        cells = [_megabytes([row[key][name] for row in rows]) for name in names]
        lines.append(f"| {label} | " + " | ".join(cells + [""] * len(peers)) + " |")
    return "\n".join(lines)


def work_of(row: dict[str, Any]) -> Work:
    return Work(row["work"], row["n"], row["n_threads"], row["depth"], row["busy"])


def _speed(row: dict[str, Any], name: str) -> str:
    speed = f"{row['tokens_per_s'][name]:.1f} tok/s"
    share = row.get("share_of_ceiling", {}).get(name)
    return f"{speed} ({share:.0%})" if share is not None and not row["busy"] else speed


def _megabytes(sizes: list[int | None]) -> str:
    known = [size for size in sizes if size is not None]
    return f"{max(known) / 1e6:,.0f} MB" if known else "not known"


def circumstances(rows: list[dict[str, Any]]) -> str:
    """What stands above a table: machine, model, sides, and how fast weights can be read."""
    first = rows[0]
    speeds = {
        row["n_threads"]: f"{row['read_gb_s']:.1f} GB/s with {row['n_threads']}"
        f" ({row['read_gb_s'] * 1e9 / first['weight_bytes']:.1f} tok/s)"
        for row in rows
    }
    return (
        f"{first['date']}, commit {first['commit']}; {first['cpu']}, {first['n_cpus']} CPUs, load"
        f" {first['load']}.\n{first['model']}, {first['weight_bytes'] / 1e9:.2f} GB a token;"
        f" {'; '.join(dict.fromkeys(first['builds'].values()))}.\nRead ceiling, by threads:"
        f" {', '.join(speeds.values())}. In brackets: the share of it, at the depth in question."
    )


def add_arguments(
    parser: argparse.ArgumentParser, *, rounds: int = 5, threads: str = "1,2", decode: int = 32
) -> None:
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("--threads", type=numbers, default=threads, metavar="N,...")
    parser.add_argument("--decode", type=int, default=decode, help="tokens to decode; 0: none")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="write every measurement to this file, too")
    parser.add_argument("--record", action="store_true", help=f"append to {ledger.PATH.name}")


def add_llama_cpp(parser: argparse.ArgumentParser, *, sides: str) -> None:
    parser.add_argument("--peer-python", help="python of llama.cpp's environment; none: no peer")
    parser.add_argument("--sides", default=sides, help="which sides (default: %(default)s)")


def llama_cpp_specs(options: argparse.Namespace) -> list[Spec]:
    """The sides that were asked for; without a peer's python, edgellama alone."""
    names = options.sides.split(",") if options.peer_python else [OURS]
    return [
        Spec(name, sys.executable if name == OURS else options.peer_python, options.model)
        for name in names
    ]


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def report(
    rows: list[dict[str, Any]],
    options: argparse.Namespace,
    show: Callable[[list[dict[str, Any]]], str] = table,
) -> None:
    """Print the rows as markdown, and keep them where the options say."""
    print(f"{circumstances(rows)}\n\n{show(rows)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.record:
        ledger.append(rows)
