"""Checkpoints whose weights are holes in a file: zeros that take no disk."""

import json
import math
from pathlib import Path


def write_sparse_llama(
    folder: Path,
    tokenizer_model: bytes,
    *,
    n_layers: int,
    dim: int,
    hidden_dim: int,
    vocab_size: int,
    n_heads: int,
    n_kv_heads: int,
    tied: bool = False,
) -> None:
    """Make a Hugging Face folder in BF16."""
    kv_dim = dim // n_heads * n_kv_heads
    shapes = {"model.embed_tokens": [vocab_size, dim], "model.norm": [dim]}
    if not tied:
        shapes["lm_head"] = [vocab_size, dim]
    for i in range(n_layers):
        for name, shape in {
            "self_attn.q_proj": [dim, dim],
            "self_attn.k_proj": [kv_dim, dim],
            "self_attn.v_proj": [kv_dim, dim],
            "self_attn.o_proj": [dim, dim],
            "mlp.gate_proj": [hidden_dim, dim],
            "mlp.up_proj": [hidden_dim, dim],
            "mlp.down_proj": [dim, hidden_dim],
            "input_layernorm": [dim],
            "post_attention_layernorm": [dim],
        }.items():
            shapes[f"model.layers.{i}.{name}"] = shape
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": dim,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "intermediate_size": hidden_dim,
        "vocab_size": vocab_size,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
