"""Write a GGUF with the exact shape of a published Llama and random weights.

python benchmarks/random_llama.py llama-3.2-1b q4_0 /tmp/1b-q4_0.gguf

The matrix that makes the logits is in Q6_K, as in usual files; `--output-type q4_0` writes all
matrices in one format.
"""

import argparse
from pathlib import Path

from edgellama.random_llama import SHAPES, TYPES, write_random_llama


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=[name.lower() for name in TYPES])
    parser.add_argument("out", type=Path)
    parser.add_argument("--output-type", help="format of the output matrix (usual: Q6_K)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_random_llama(
        options.out,
        SHAPES[options.shape],
        options.type,
        output_type=options.output_type,
        seed=options.seed,
    )
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
