"""Speed behind a long context: decode and prompt at several depths, alone or beside llama.cpp.

python benchmarks/context.py MODEL.gguf [--depths 0,512,2048,8192] [--peer-python PYTHON]
"""

import argparse

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, rounds=3, threads="2", decode=16)
    parser.add_argument("--depths", type=numbers, default="0,512,2048,8192", metavar="N,...")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt; 0: none")
    add_llama_cpp(parser, sides="edgellama,llama.cpp")
    options = parser.parse_args()
    works = [
        Work(work, n, n_threads, depth)
        for n_threads in options.threads
        for depth in sorted(options.depths)
        for work, n in (("decode", options.decode), ("prompt", options.prompt))
        if n
    ]
    model = Model.read(options.model)
    report(compare(llama_cpp_specs(options), works, model, options.rounds), options)


if __name__ == "__main__":
    main()
