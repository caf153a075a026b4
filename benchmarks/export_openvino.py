"""Write a Llama of given sizes with random weights as an OpenVINO model of int4 weights.

    python export_openvino.py FOLDER '{"hidden_size": 2048, ...}'

Runs in the environment of OpenVINO (vs_openvino.py says how to make it), and needs about six bytes
of memory and of disk a weight. The sizes are the fields of transformers' LlamaConfig.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, sizes = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16)
    with tempfile.TemporaryDirectory(dir=folder.parent) as checkpoint:
        model.save_pretrained(checkpoint)
        del model
        subprocess.run(
            [
                str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino",
                "--model", checkpoint, "--task", "text-generation-with-past",
                "--weight-format", "int4", "--sym", "--group-size", "32", "--ratio", "1.0",
                str(folder),
            ],
            check=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
