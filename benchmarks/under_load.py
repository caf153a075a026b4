"""Decoding beside busy processes, as a share of what would be fair, alone or beside llama.cpp.

    python benchmarks/under_load.py MODEL.gguf [--busy 0,2,4] [--peer-python PYTHON]

The busy processes compute and do nothing else, at our own priority. With as many threads as
processors, a fair share beside `busy` of them is threads / (threads + busy) of the quiet speed: on
two processors half beside two, a third beside four.
"""

import argparse
from typing import Any

from comparison import (
    Model,
    Work,
    add_arguments,
    add_llama_cpp,
    compare,
    llama_cpp_specs,
    numbers,
    report,
)


def fair_share(n_cpus: int, n_threads: int, busy: int) -> float:
    """Of the quiet speed, when all that is runnable gets the same time."""
    return min(1.0, n_cpus / (n_threads + busy))


def add_shares(rows: list[dict[str, Any]]) -> None:
    """To each row of a loaded machine: the speeds over the fair part of the quiet speeds."""
    quiet = {row["n_threads"]: row["tokens_per_s"] for row in rows if not row["busy"]}
    for row in rows:
        if row["busy"]:
            fair = fair_share(row["n_cpus"], row["n_threads"], row["busy"])
            row["share_of_fair"] = {
                name: round(speed / (quiet[row["n_threads"]][name] * fair), 3)
                for name, speed in row["tokens_per_s"].items()
            }


def table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0]["tokens_per_s"])
    lines = [
        "| threads | busy processes | " + " | ".join(names) + " |",
        "|---" * (2 + len(names)) + "|",
    ]
    for row in rows:
        cells = []
        for name in names:
            least, most = min(row["samples"][name]), max(row["samples"][name])
            cell = f"{row['tokens_per_s'][name]:.1f} tok/s ({least:.1f} to {most:.1f})"
            if row["busy"]:
                cell += f", {row['share_of_fair'][name]:.0%} of the fair share"
            cells.append(cell)
        lines.append(f"| {row['n_threads']} | {row['busy']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, threads="2")
    parser.add_argument("--busy", type=numbers, default="0,2,4", metavar="N,...")
    add_llama_cpp(parser, sides="edgellama,llama.cpp")
    options = parser.parse_args()
    works = [
        Work("decode", options.decode, n_threads, busy=busy)
        for n_threads in options.threads
        for busy in sorted({0, *options.busy})
    ]
    model = Model.read(options.model)
    rows = compare(llama_cpp_specs(options), works, model, options.rounds)
    add_shares(rows)
    report(rows, options, table)


if __name__ == "__main__":
    main()
