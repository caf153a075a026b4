"""Hugging Face folders: config.json, weights in safetensors (or torch files), tokenizer files.

Their q and k have each head's rows sorted for another rotation: row j turns with row
j + head_dim / 2, where Meta and GGUF turn neighbours 2j and 2j + 1. The rows are put back; nothing
else differs but names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.errors import CheckpointRefused

from . import families
from .checkpoint import LazyTensor, SourceFile, parse_json
from .families import Family
from .safetensors import INDEX_NAME, SINGLE_NAME, open_safetensors
from .source import (
    Fingerprint,
    Hyperparameters,
    Overrides,
    RopeScaling,
    Source,
    SourceTensor,
    join_metadata,
    positive_float,
    positive_int,
    rope_tensor,
)
from .templates import load_template
from .tokenizer_json import FILES as TOKENIZER_FILES
from .tokenizer_json import read_vocabulary
from .torch_file import open_torch
from .vocabulary import Vocabulary

ARCHITECTURE = "LlamaForCausalLM"
_FLOATS = ("F32", "BF16", "F16", "F64")

# Settings that change the arithmetic: (key of config.json, the value that Llama has).
_NEUTRAL = (
    ("hidden_act", "silu"),
    ("attention_bias", False),
    ("mlp_bias", False),
    ("partial_rotary_factor", 1.0),
    ("quantization_config", None),
)

_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")  # computed anew by every reader


def claims(path: Path) -> bool:
    """Whether this is a folder of Hugging Face's."""
    return (path / "config.json").is_file()


def open_source(path: Path, overrides: Overrides) -> Source:
    """Read all but the weights; CheckpointRefused for what is missing, odd or unsupported."""
    seen = [path / name for name in ("config.json", INDEX_NAME, *TOKENIZER_FILES)]
    fingerprint = Fingerprint.of([*(file for file in seen if file.exists()), *_weight_files(path)])
    config = _read_config(path / "config.json")
    hparams = _hyperparameters(config, overrides)
    vocabulary = read_vocabulary(path, config)
    names = families.folder_names(path)
    family = families.recognise(hparams, bpe=vocabulary.model == "gpt2", names=names)
    vocabulary = _with_chosen_template(vocabulary, overrides, family, names)
    vocabulary = vocabulary.resized(hparams.vocab_size, path)
    chat_format = families.chat_format_of(family, names)
    if chat_format is None and vocabulary.chat_template is not None:
        chat_format = family.chat_format
    title = families.title(family, hparams, chat_format)
    name = overrides.name or families.fine_tune_name(path) or title
    tied = bool(config.get("tie_word_embeddings", False))
    tensors = _tensors(hparams, _open_weights(path), tied)
    return Source(
        path=path,
        kind=f"Hugging Face folder, {ARCHITECTURE}",
        family=title,
        recognised_by=f"config.json; {family.reason}",
        metadata=join_metadata(name, hparams, vocabulary.metadata()),
        tensors=(*tensors, *rope_tensor(hparams)),
        fingerprint=fingerprint,
        notes=vocabulary.notes,
    )


def _with_chosen_template(
    vocabulary: Vocabulary, overrides: Overrides, family: Family, names: list[str]
) -> Vocabulary:
    """The user's template, else the folder's own, else what the folder's name calls for."""
    choice = overrides.chat_template
    if choice is None and vocabulary.chat_template is None:
        choice = families.chat_format_of(family, names)
    return vocabulary if choice is None else vocabulary.with_template(load_template(choice))


def _read_config(path: Path) -> dict[str, Any]:
    file = SourceFile(path)
    config = parse_json(file.read(0, min(file.size, 1 << 20)), path)
    if not isinstance(config, dict):
        raise file.refused("is not a table of settings")
    architectures = config.get("architectures") or [config.get("model_type")]
    if architectures not in ([ARCHITECTURE], ["llama"]):
        raise file.refused(f"the architecture is {architectures}, supported is {ARCHITECTURE}")
    for key, neutral in _NEUTRAL:
        if config.get(key, neutral) not in (neutral, None):
            raise file.refused(f"{key} is {str(config[key])[:60]!r}, supported is {neutral!r}")
    return config


def _hyperparameters(config: Mapping[str, Any], overrides: Overrides) -> Hyperparameters:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointRefused(f"config.json: rope settings are {rope!r}, expected a table")
    dim, n_heads = positive_int(config, "hidden_size"), positive_int(config, "num_attention_heads")
    n_kv_heads = positive_int(config, "num_key_value_heads", n_heads)
    scaling, linear = _rope_scaling(rope)
    if overrides.rope_factor is not None:
        scaling, linear = _with_factor(scaling, overrides.rope_factor), 1.0
    theta = positive_float(rope, "rope_theta", config.get("rope_theta") or 10000.0)
    return Hyperparameters(
        dim=dim,
        n_layers=positive_int(config, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=positive_int(config, "head_dim", max(1, dim // n_heads)),
        hidden_dim=positive_int(config, "intermediate_size"),
        vocab_size=positive_int(config, "vocab_size"),
        context_length=overrides.context_length
        or positive_int(config, "max_position_embeddings", 2048),
        norm_eps=positive_float(config, "rms_norm_eps", 1e-6),
        rope_theta=overrides.rope_theta or theta,
        rope_scaling=scaling,
        linear_scaling=linear,
    )


def _rope_scaling(rope: Mapping[str, Any]) -> tuple[RopeScaling | None, float]:
    """(Llama 3.1's scaling or None, linear factor), as either generation of the key says it."""
    match rope.get("rope_type", rope.get("type", "default")):
        case "default" | None:
            return None, 1.0
        case "linear":
            return None, positive_float(rope, "factor")
        case "llama3":
            scaling = RopeScaling(
                factor=positive_float(rope, "factor"),
                low_freq_factor=positive_float(rope, "low_freq_factor"),
                high_freq_factor=positive_float(rope, "high_freq_factor"),
                original_context=positive_int(rope, "original_max_position_embeddings"),
            )
            return scaling, 1.0
        case other:
            raise CheckpointRefused(
                f"config.json: rope type {other!r}; supported are default, linear and llama3"
            )


def _with_factor(scaling: RopeScaling | None, factor: float) -> RopeScaling | None:
    if factor == 1:
        return None
    old = scaling or RopeScaling(factor)
    return RopeScaling(factor, old.low_freq_factor, old.high_freq_factor, old.original_context)


def _weight_files(path: Path) -> list[Path]:
    """What holds the weights: safetensors if there are any, else the older torch files."""
    if (path / SINGLE_NAME).exists():
        return [path / SINGLE_NAME]
    return sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))


def _open_weights(path: Path) -> dict[str, LazyTensor]:
    files = _weight_files(path)
    if (path / INDEX_NAME).exists() or any(file.suffix == ".safetensors" for file in files):
        return open_safetensors(path)
    if not files:
        raise CheckpointRefused(f"{path}: has config.json, but no {SINGLE_NAME} or {INDEX_NAME}")
    return {name: tensor for file in files for name, tensor in open_torch(file).items()}


def _tensors(
    hparams: Hyperparameters, weights: Mapping[str, LazyTensor], tied: bool
) -> list[SourceTensor]:
    """Every tensor of the model, in file order."""
    shapes = hparams.shapes()
    theirs = {name: _hf_name(name) for name in shapes}
    ignored = {name for name in weights if _IGNORED.fullmatch(name)}
    if tied:
        del shapes["output.weight"]
        ignored.add("lm_head.weight")
    missing = [theirs[name] for name in shapes if theirs[name] not in weights]
    if missing:
        raise CheckpointRefused(
            f"{len(missing)} tensors that config.json promises are missing:"
            f" {', '.join(missing[:5])}"
        )
    odd = weights.keys() - {theirs[name] for name in shapes} - ignored
    if odd:
        raise CheckpointRefused(
            f"{len(odd)} tensors are no part of a {ARCHITECTURE} of {hparams.n_layers} layers:"
            f" {', '.join(sorted(odd)[:5])}"
        )
    return [
        _source_tensor(name, shape, weights[theirs[name]], hparams.head_dim)
        for name, shape in shapes.items()
    ]


def _hf_name(name: str) -> str:
    """ "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"."""
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"


def _source_tensor(
    name: str, shape: tuple[int, ...], tensor: LazyTensor, head_dim: int
) -> SourceTensor:
    if tensor.shape != shape:
        raise CheckpointRefused(
            f"{tensor.source}: {tensor.name} is {tensor.shape}, config.json asks for {shape}"
        )
    if tensor.dtype not in _FLOATS:
        raise CheckpointRefused(
            f"{tensor.source}: {tensor.name} is {tensor.dtype}; supported are {', '.join(_FLOATS)},"
            " quantized checkpoints are not"
        )
    rotated = name.endswith(("attn_q.weight", "attn_k.weight"))
    return SourceTensor(
        name=name,
        shape=shape,
        stored_as=tensor.name,
        dtype=tensor.dtype,
        n_bytes=tensor.n_bytes,
        files=(tensor.source,),
        rows=_NeighboursRotate(tensor, head_dim).rows if rotated else tensor.rows,
    )


@dataclass(frozen=True, slots=True)
class _NeighboursRotate:
    """The rows of q or k in the order in which rows 2j and 2j + 1 of a head turn together."""

    tensor: LazyTensor
    head_dim: int

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        first = start // self.head_dim * self.head_dim
        last = -(-stop // self.head_dim) * self.head_dim
        halves = self.tensor.rows(first, last)
        cols = halves.shape[1]
        pairs = halves.reshape(-1, 2, self.head_dim // 2, cols).swapaxes(1, 2)
        return pairs.reshape(-1, cols)[start - first : stop - first]
