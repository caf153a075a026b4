"""Write the trained model as a Hugging Face checkpoint: `python export.py OUT FOLDER`.

OUT is the folder that train.py filled. FOLDER gets config.json, generation_config.json,
model.safetensors (float32), tokenizer.model, tokenizer_config.json, as an official release has
them; `edgellama convert FOLDER -o tiny.gguf --type q8_0` makes the file that ships.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from model import TinyConfig
from safetensors.torch import save_file
from tokenizer import BOS, END_HEADER, END_OF_TURN, EOS, START_HEADER, TinyTokenizer
from torch import Tensor

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
  {{- message['content'] | trim -}}
  {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

# GGUF's name of a layer's tensor -> Hugging Face's
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attention.attn_q": "self_attn.q_proj",
    "attention.attn_k": "self_attn.k_proj",
    "attention.attn_v": "self_attn.v_proj",
    "attention.attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="write the tiny model as a checkpoint folder")
    parser.add_argument("out", type=Path, help="folder with checkpoint.pt and tokenizer.model")
    parser.add_argument("folder", type=Path, help="folder to write")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    config = TinyConfig()
    tokenizer = TinyTokenizer(args.out / "tokenizer.model")
    state = torch.load(args.out / "checkpoint.pt")["model"]
    tensors = {huggingface_name(name): weight.contiguous() for name, weight in state.items()}
    save_file(tensors, args.folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(args.out / "tokenizer.model", args.folder / "tokenizer.model")
    write_json(args.folder / "config.json", model_config(config, tokenizer))
    write_json(args.folder / "generation_config.json", generation_config(tokenizer))
    write_json(args.folder / "tokenizer_config.json", tokenizer_config(tokenizer, config))
    print(f"{args.folder}: {count(tensors):,} parameters")


def huggingface_name(name: str) -> str:
    """`layers.3.ffn_up.weight` -> `model.layers.3.mlp.up_proj.weight`."""
    match name.removesuffix(".weight").split(".", 2):
        case ["token_embd"]:
            return "model.embed_tokens.weight"
        case ["output_norm"]:
            return "model.norm.weight"
        case ["layers", layer, rest]:
            return f"model.layers.{layer}.{LAYER_NAMES[rest]}.weight"
    raise KeyError(name)


def model_config(config: TinyConfig, tokenizer: TinyTokenizer) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": [tokenizer.eos, tokenizer.end_of_turn],
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "initializer_range": 0.02,
        "intermediate_size": config.hidden_dim,
        "max_position_embeddings": config.context_length,
        "mlp_bias": False,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": config.rope_factor,
            "low_freq_factor": config.rope_low_freq_factor,
            "high_freq_factor": config.rope_high_freq_factor,
            "original_max_position_embeddings": config.rope_original_context,
        },
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def generation_config(tokenizer: TinyTokenizer) -> dict[str, object]:
    return {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": [tokenizer.eos, tokenizer.end_of_turn],
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    }


def tokenizer_config(tokenizer: TinyTokenizer, config: TinyConfig) -> dict[str, object]:
    control = (BOS, EOS, START_HEADER, END_HEADER, END_OF_TURN)
    return {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tokenizer.processor.piece_to_id(piece)): added_token(piece) for piece in control
        },
        "bos_token": BOS,
        "eos_token": END_OF_TURN,
        "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": config.context_length,
    }


def added_token(piece: str) -> dict[str, object]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": piece, **flags, "special": True}


def write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def count(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


if __name__ == "__main__":
    main()
