"""How much sooner the first token comes when an earlier start has read the same prompt.

    python benchmarks/prefix_cache.py MODEL.gguf [--tokens 2000] [--rounds 3]

Every start is a process of its own, and is asked the same prompt of random tokens:

    first     nothing is kept yet: the prompt is read, and its keys and values are kept
    second    they are kept, in a folder that the system has in memory
    disk      the same, to be read from the disk (where that can be arranged)

`prompt` is from asking to the first token, `start` from the creation of the process to that token.
The model is in the page cache, the kernels are compiled. Reported are medians; `kept` is how many
tokens came from the store.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from start import forget, read_through

ANSWER = """
import json, sys, time
import numpy as np
from edgellama import Llama
from edgellama.prefix_store import PrefixStore
path, folder, n_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Llama(path, n_ctx=n_tokens + 64, prefix_store=(store := PrefixStore(folder))) as llm:
    ids = np.random.default_rng(0).integers(0, llm.config.vocab_size, n_tokens).tolist()
    asked = time.perf_counter()
    answer = llm.generate(ids, max_tokens=1, temperature=0.0)
    token = next(iter(answer))
    print(json.dumps([time.perf_counter() - asked, token.id, answer.timings.cache_n]), flush=True)
store.close()
"""


@dataclass
class Start:
    prompt_s: float
    token: int
    kept: int
    start_s: float


def start(model: Path, folder: Path, n_tokens: int) -> Start:
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", ANSWER, str(model), str(folder), str(n_tokens)],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
    if not line or process.returncode:
        raise SystemExit("a start failed")
    return Start(*json.loads(line), seconds)


def show(name: str, starts: list[Start], first: Start | None = None) -> None:
    prompt = median(s.prompt_s for s in starts)
    whole = median(s.start_s for s in starts)
    sooner = f" | {first.prompt_s / prompt:.0f} x | {first.start_s / whole:.1f} x" if first else ""
    print(f"| {name} | {starts[0].kept:,} | {prompt:.3f} s | {whole:.2f} s{sooner or ' | |'} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model: Path = options.model
    read_through(model)
    with tempfile.TemporaryDirectory(prefix="edgellama-prefixes-") as folder:
        prefixes = Path(folder) / "prefixes"
        first = start(model, prefixes, options.tokens)
        files = list(prefixes.iterdir())
        size = sum(path.stat().st_size for path in files)
        print(f"{model.name}, {options.tokens:,} tokens in {len(files)} files of {size:,} bytes")
        print("\n| start | kept | prompt | start | prompt sooner | start sooner |")
        print("|---|---|---|---|---|---|")
        show("first", [first])
        for name in ("second", "disk") if hasattr(os, "posix_fadvise") else ("second",):
            starts = []
            for _ in range(options.rounds):
                if name == "disk":
                    os.sync()
                    for path in files:
                        forget(path)
                starts.append(start(model, prefixes, options.tokens))
            show(name, starts, first)
            if {s.token for s in starts} != {first.token}:
                raise SystemExit("a start that restored its prompt went on differently")


if __name__ == "__main__":
    main()
