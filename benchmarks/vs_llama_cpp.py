"""edgellama against llama.cpp on one file: alternating in one run, each in its own environment.

    python benchmarks/vs_llama_cpp.py MODEL.gguf --peer-python PATH/TO/peer/bin/python

Decode and prompt at one and two threads, against llama.cpp at its default and kept to the file
mapping. The set-up of the peer is in benchmarks/README.md.
"""

import argparse

from comparison import Model, Work, add_arguments, add_llama_cpp, compare, llama_cpp_specs, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt; 0: none")
    parser.add_argument("--depth", type=int, default=0, help="tokens already in the context")
    add_llama_cpp(parser, sides="edgellama,llama.cpp,llama.cpp-mapped")
    options = parser.parse_args()
    works = [
        Work(work, n, n_threads, options.depth)
        for n_threads in options.threads
        for work, n in (("decode", options.decode), ("prompt", options.prompt))
        if n
    ]
    model = Model.read(options.model)
    report(compare(llama_cpp_specs(options), works, model, options.rounds), options)


if __name__ == "__main__":
    main()
