"""How long a start takes: `import edgellama`, and from nothing to the first token.

    python benchmarks/start.py MODEL.gguf [--rounds 5]

Each start is a process of its own, from its creation until it says that it is there:

    python             an interpreter that does nothing, for comparison
    import             `import edgellama`
    warm               to the first token: kernels compiled before, the model in the page cache
    model not cached   the same, the model to be read from the disk (where that can be arranged)
    first ever         the model in the page cache, nothing compiled, in an empty kernel cache

Reported are medians.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

READY = "print('ready', flush=True)"
IMPORT = f"import edgellama; {READY}"
FIRST_TOKEN = f"""
import sys
from edgellama import Llama
with Llama(sys.argv[1], progress=lambda words: print(words, file=sys.stderr)) as llm:
    next(iter(llm.generate("Once upon a time", max_tokens=1)))
    {READY}
"""


def seconds_until_ready(program: str, *arguments: str, cache: Path | None = None) -> float:
    environment = os.environ | ({"EDGELLAMA_CACHE_DIR": str(cache)} if cache else {})
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its modules compiled
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        said = process.stderr.read().decode()
    if line.split() != [b"ready"]:
        raise SystemExit(f"a start failed: {said}")
    if cache and "compiling" not in said:
        raise SystemExit(f"nothing was compiled in the empty cache {cache}: {said}")
    return seconds


def forget(path: Path) -> None:
    """Have the page cache drop a file that nobody has mapped."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def starts(model: Path) -> dict[str, Callable[[], float]]:
    def first_token(cache: Path | None = None) -> float:
        return seconds_until_ready(FIRST_TOKEN, str(model), cache=cache)

    def not_cached() -> float:
        forget(model)
        return first_token()

    def first_ever() -> float:
        with tempfile.TemporaryDirectory(prefix="edgellama-start-") as folder:
            return first_token(Path(folder))

    found: dict[str, Callable[[], float]] = {
        "python": lambda: seconds_until_ready(READY),
        "import": lambda: seconds_until_ready(IMPORT),
        "warm": first_token,
    }
    if hasattr(os, "posix_fadvise"):
        found["model not cached"] = not_cached
    return found | {"first ever": first_ever}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="names of starts, by comma (default: all)")
    options = parser.parse_args()
    chosen = starts(options.model)
    if options.only:
        chosen = {name: chosen[name] for name in options.only.split(",")}
    seconds_until_ready(FIRST_TOKEN, str(options.model))  # compiles, and fills the caches
    print(f"{options.model.name}, {options.rounds} rounds\n\n| start | seconds |\n|---|---|")
    for name, start in chosen.items():
        times = []
        for _ in range(options.rounds):
            if name != "model not cached":
                read_through(options.model)
            times.append(start())
        print(
            f"| {name} | {median(times):.2f} ({min(times):.2f} to {max(times):.2f}) |", flush=True
        )


if __name__ == "__main__":
    main()
