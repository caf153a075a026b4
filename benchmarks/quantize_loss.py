"""What the shipped model loses in files of one size, made by llama.cpp and in our three ways.

    python quantize_loss.py --peer-python peer/bin/python --folder /tmp/loss [--types Q4_K_M,Q6_K]

Of every type, llama.cpp makes a file with an importance matrix, and we make one with the same
importance matrix, one with --calibrate, and one with --size, as large as llama.cpp's. All text is
made by the grammar of examples/train_tiny: TRAINED stories of its training half for the importance
matrix and the calibration, HELD_OUT others to measure on. The loss is the mean KL divergence from
the float32 model, all models run in float32.

Writes the table to standard output and docs/quantization.svg. Files that are in the folder already
are not made again, so a run can be resumed; begin with an empty folder after a change.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np

from edgellama.cli.scatter import Point, write_scatter
from edgellama.gguf_imatrix import read_imatrix
from edgellama.llama import shipped_model

ROOT = Path(__file__).parents[1]
SVG = ROOT / "docs" / "quantization.svg"
TYPES = "Q2_K,Q3_K_M,IQ4_XS,Q4_0,Q4_K_M,Q5_K_M,Q6_K"
WAYS = {  # prefix of a file: head of its column
    "llama.cpp": "llama.cpp, imatrix",
    "imatrix": "`--imatrix`",
    "calibrate": "`--calibrate`",
    "size": "`--size`",
}
STORIES = """
import random, sys
from grammar import make_story
from stories import SKELETONS
n, seed, train = map(int, sys.argv[1:])
rng = random.Random(seed)
stories = (make_story(rng, SKELETONS, train=bool(train)).text for _ in range(n))
sys.stdout.write("\\n\\n".join(stories))
"""
NOT_DRAWN = ("Q4_0", "IQ4_XS")  # nor --imatrix: they lie upon others
TRAINED, TRAINED_SEED = 600, 11  # stories
HELD_OUT, HELD_OUT_SEED = 200, 999


def edgellama(*arguments: str | Path) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "edgellama", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def stories(n: int, seed: int, *, train: bool) -> str:
    """Text of the grammar, whose files are scripts and not a package."""
    folder = ROOT / "examples" / "train_tiny"
    command = [sys.executable, "-c", STORIES, str(n), str(seed), str(int(train))]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def write_inputs() -> None:
    """In the working folder: the texts, the model in float32, and its importance matrix."""
    Path("trained.txt").write_text(stories(TRAINED, TRAINED_SEED, train=True))
    Path("held-out.txt").write_text(stories(HELD_OUT, HELD_OUT_SEED, train=False))
    with shipped_model() as model:
        edgellama("quantize", model, "f32.gguf", "--type", "F32", "--allow-requantize")
    edgellama("imatrix", "f32.gguf", "trained.txt", "-o", "importance.gguf")
    matrix = read_imatrix("importance.gguf")
    means: dict[str, Any] = {
        name: sums / np.float32(matrix.counts[name]) for name, sums in matrix.sums.items()
    }
    np.savez("importance.npz", **means)


def commands(type: str, peer_python: Path, n_chunks: int) -> Iterator[tuple[str, list[str]]]:
    """The file of each way, and how it is made; --size asks for the size of llama.cpp's."""
    theirs = f"llama.cpp-{type}.gguf"
    peer = [str(peer_python), str(ROOT / "benchmarks" / "llama_cpp_quantize.py")]
    yield theirs, [*peer, "f32.gguf", theirs, type, "1", "importance.npz"]
    ours = [sys.executable, "-m", "edgellama", "quantize", "f32.gguf"]
    text = ["--calibrate", "trained.txt", "--chunks", str(n_chunks)]
    imatrix, calibrate, size = (f"{way}-{type}.gguf" for way in list(WAYS)[1:])
    yield imatrix, [*ours, imatrix, "--type", type, "--imatrix", "importance.gguf"]
    yield calibrate, [*ours, calibrate, "--type", type, *text, "--embedding-type", "Q6_K"]
    yield size, [*ours, size, "--size", str(os.path.getsize(theirs)), *text]


def make_files(types: list[str], peer_python: Path, n_chunks: int) -> list[str]:
    made = []
    for type in types:
        for name, command in commands(type, peer_python, n_chunks):
            if not Path(name).exists():
                print(name, file=sys.stderr)
                subprocess.run(command, check=True, stdout=sys.stderr)
            made.append(name)
    return made


def table(types: list[str], rows: dict[str, Any]) -> Iterator[str]:
    yield "| as large as | bytes | bits | " + " | ".join(WAYS.values()) + " |"
    yield "|---" * (3 + len(WAYS)) + "|"
    for type in types:
        peer = f"llama.cpp-{type}.gguf"
        losses = [rows[f"{way}-{type}.gguf"]["divergence"]["mean"] for way in WAYS]
        cells = [type, f"{os.path.getsize(peer):,}", f"{rows[peer]['bits_per_weight']:.2f}"]
        cells += [f"{loss['value']:.5f} ± {100 * loss['error'] / loss['value']:.0f} %"
                  for loss in losses]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def draw(result: dict[str, Any]) -> None:
    points = []
    for row in result["models"]:
        way, _, type = Path(row["model"]).stem.rpartition("-")
        if way == "imatrix" or type in NOT_DRAWN:
            continue
        loss, bits = row["divergence"]["mean"], row["bits_per_weight"]
        label = f"{bits:.2f} bits by size" if way == "size" else f"{way} {type}"
        points.append(Point(bits, loss["value"], loss["error"], label))
    write_scatter(
        SVG,
        points,
        title=f"stories, {result['n_predictions']:,} predictions",
        x_label="bits per weight",
        y_label="mean KL divergence, nats",
        log_y=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True, type=Path, help="has llama-cpp-python")
    parser.add_argument("--folder", required=True, type=Path, help="for texts and models; is kept")
    parser.add_argument("--types", default=TYPES, help="by comma (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=32, help="of the calibration (32)")
    parser.add_argument("--eval-chunks", type=int, default=20, help="measured on (20)")
    options = parser.parse_args()
    types, peer_python = options.types.split(","), options.peer_python.absolute()
    options.folder.mkdir(parents=True, exist_ok=True)
    with chdir(options.folder):
        if not Path("importance.npz").exists():
            write_inputs()
        made = make_files(types, peer_python, options.chunks)
        text = ["--text", "held-out.txt", "--chunks", str(options.eval_chunks)]
        reference = ["--reference", "f32.gguf", "--backend", "reference"]
        printed = edgellama("eval", *made, *text, *reference, "--json")
        Path("losses.json").write_text(printed)
        result = json.loads(printed)
        rows = {row["model"]: row for row in result["models"]}
        print("\n".join(table(types, rows)))
    draw(result)


if __name__ == "__main__":
    main()
