"""The figures behind SPEED.md: ledger.jsonl, a measured work a line, newest last.

    date, commit, command, cpu, n_cpus, load    when, of what, how, where
    model, weight_bytes                         shape and formats; bytes that a token reads
    work, n, depth, busy, n_threads             "decode" or "prompt", and under which conditions
    tokens_per_s, peak_rss, private_rss         of each side: medians, bytes
    ratio                                       edgellama over each peer, median of the rounds' own
    read_gb_s, ceiling, share_of_ceiling        how fast the weights can be read, and what that
                                                allows decoding (tokens a second)
    builds                                      of each side: version and instructions

Lines are only added: a better figure is a new one.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("ledger.jsonl")
NOT_KEPT = {"samples"}


def append(rows: list[dict[str, Any]], path: Path = PATH) -> None:
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            kept = {key: value for key, value in row.items() if key not in NOT_KEPT}
            file.write(json.dumps(kept) + "\n")


def read(path: Path = PATH) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def command() -> str:
    """This process's command line, files by their names alone."""
    script, *arguments = sys.argv
    words = [Path(word).name if "/" in word or "\\" in word else word for word in arguments]
    return " ".join(["python", f"benchmarks/{Path(script).name}", *words])


def commit() -> str:
    """The commit of this checkout, "-dirty" if files differ from it; "unknown" outside of one."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        cwd=PATH.parent,
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip() if asked.returncode == 0 else "unknown"
