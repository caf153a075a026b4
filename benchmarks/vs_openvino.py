"""edgellama against OpenVINO GenAI: the same shape, both in 4 bits, in alternation in one run.

    python benchmarks/vs_openvino.py MODEL.gguf --peer-python PYTHON --prepare FOLDER
    python benchmarks/vs_openvino.py MODEL.gguf --peer-python PYTHON --peer-model FOLDER

The first line makes the peer's model: random weights in the sizes of MODEL.gguf, int4, symmetric,
in groups of 32 (a scale each, as Q4_0 has). For a quick look take a small MODEL.gguf. The peer's
environment:

    python -m venv openvino
    openvino/bin/pip install torch==2.13.0 openvino-genai "optimum-intel[openvino]"

(torch and optimum are for `--prepare` alone; a build of torch for CPUs is enough.)
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from comparison import HERE, OURS, Model, Spec, Work, add_arguments, compare, report

from edgellama.config import ModelConfig
from edgellama.gguf import GGUFFile


def transformers_config(path: Path) -> dict[str, Any]:
    """The sizes of a GGUF file as transformers' LlamaConfig names them."""
    with GGUFFile(path) as file:
        config = ModelConfig.from_gguf(file)
        tied = "output.weight" not in file.tensors
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def prepare(peer_python: str, model: Path, folder: Path) -> None:
    sizes = json.dumps(transformers_config(model))
    script = str(HERE / "export_openvino.py")
    subprocess.run([peer_python, script, str(folder), sizes], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt; 0: none")
    parser.add_argument("--peer-python", required=True, help="python of OpenVINO's environment")
    peer = parser.add_mutually_exclusive_group(required=True)
    peer.add_argument("--prepare", type=Path, metavar="FOLDER", help="make the peer's model")
    peer.add_argument("--peer-model", type=Path, metavar="FOLDER", help="the peer's model")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.peer_python, options.model, options.prepare)
        return
    works = [
        Work(work, n, n_threads)
        for n_threads in options.threads
        for work, n in (("prompt", options.prompt), ("decode", options.decode))
        if n
    ]
    specs = [
        Spec(OURS, sys.executable, options.model),
        Spec("openvino", options.peer_python, options.peer_model),
    ]
    report(compare(specs, works, Model.read(options.model), options.rounds), options)


if __name__ == "__main__":
    main()
