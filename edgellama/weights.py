"""The tensors of a Llama model under their GGUF names: views of the mapped file, never copies.

`blk.3.attn_q.weight` is `layers[3].attn_q`; MODEL.md draws where each of them stands.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .config import ModelConfig
from .errors import ModelFormatError
from .gguf import GGUFFile
from .quant import Format


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix in its packed form; y = W x takes cols values and gives rows."""

    name: str
    format: Format
    rows: int
    cols: int
    data: npt.NDArray[np.uint8]  # (rows, row_bytes), read-only

    def dequantize(self) -> npt.NDArray[np.float32]:
        """(rows, cols) float32, a copy."""
        return self.format.dequantize(self.data)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One transformer block; kv_dim is n_kv_heads * head_dim, heads_dim n_heads * head_dim."""

    attn_norm: npt.NDArray[np.float32]  # (dim,)
    attn_q: Matrix  # (heads_dim, dim)
    attn_k: Matrix  # (kv_dim, dim)
    attn_v: Matrix  # (kv_dim, dim)
    attn_output: Matrix  # (dim, heads_dim)
    ffn_norm: npt.NDArray[np.float32]  # (dim,)
    ffn_gate: Matrix  # (hidden_dim, dim)
    ffn_up: Matrix  # (hidden_dim, dim)
    ffn_down: Matrix  # (dim, hidden_dim)


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Everything a forward reads."""

    token_embd: Matrix  # (vocab_size, dim)
    output_norm: npt.NDArray[np.float32]  # (dim,)
    output: Matrix  # (vocab_size, dim); is token_embd in models with tied embeddings
    rope_factors: npt.NDArray[np.float32]  # (rope_dim // 2,) what each rope frequency is divided by
    layers: tuple[LayerWeights, ...]


def load_weights(file: GGUFFile, config: ModelConfig) -> ModelWeights:
    """Find every tensor the model needs; the views keep the mapping alive.

    Raises ModelFormatError listing what is missing, misshapen or not part of such a model.
    """
    wanted = _expected_shapes(config)
    _check_tensors(file, config, wanted)

    def matrix(name: str) -> Matrix:
        info = file.tensors[f"{name}.weight"]
        rows, cols = info.shape
        return Matrix(info.name, info.format, rows, cols, file.data(info.name))

    def vector(name: str) -> npt.NDArray[np.float32]:
        info = file.tensors[f"{name}.weight"]
        values = info.format.dequantize(file.data(info.name)).reshape(-1)
        if not np.isfinite(values).all():
            raise ModelFormatError(f"{file.path}: {info.name} holds values that are not numbers")
        return values

    def layer(prefix: str) -> LayerWeights:
        return LayerWeights(
            attn_norm=vector(f"{prefix}.attn_norm"),
            attn_q=matrix(f"{prefix}.attn_q"),
            attn_k=matrix(f"{prefix}.attn_k"),
            attn_v=matrix(f"{prefix}.attn_v"),
            attn_output=matrix(f"{prefix}.attn_output"),
            ffn_norm=vector(f"{prefix}.ffn_norm"),
            ffn_gate=matrix(f"{prefix}.ffn_gate"),
            ffn_up=matrix(f"{prefix}.ffn_up"),
            ffn_down=matrix(f"{prefix}.ffn_down"),
        )

    rope_factors = np.ones(config.rope_dim // 2, np.float32)
    if "rope_freqs.weight" in file.tensors:
        rope_factors = vector("rope_freqs")
        if not (rope_factors >= 1e-6).all():  # a frequency divided by less is not finite
            raise ModelFormatError(f"{file.path}: rope_freqs.weight holds factors below 0.000001")
    token_embd = matrix("token_embd")
    return ModelWeights(
        token_embd=token_embd,
        output_norm=vector("output_norm"),
        output=matrix("output") if "output.weight" in file.tensors else token_embd,
        rope_factors=rope_factors * np.float32(config.rope_scale),
        layers=tuple(layer(f"blk.{i}") for i in range(config.n_layers)),
    )


def rope_frequencies(
    config: ModelConfig, rope_factors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """(rope_dim // 2,) radians a position: theta ** (-2i / rope_dim) / factor.

    Rounded to float32 after each step, as torch does it: at position 100,000 the last bit of a
    frequency is 0.006 radians, so agreement with the models as trained needs the same roundings.
    """
    exponents = np.arange(0, config.rope_dim, 2, dtype=np.float32) / np.float32(config.rope_dim)
    powers = config.rope_theta ** exponents.astype(np.float64)
    frequencies: npt.NDArray[np.float32] = np.float32(1) / powers.astype(np.float32) / rope_factors
    return frequencies


def _expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that must be there, in the order of the file format's usual layout."""
    dim, hidden_dim = config.dim, config.hidden_dim
    heads_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab_size, dim),
        "output_norm.weight": (dim,),
    }
    for i in range(config.n_layers):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (dim,),
            f"blk.{i}.attn_q.weight": (heads_dim, dim),
            f"blk.{i}.attn_k.weight": (kv_dim, dim),
            f"blk.{i}.attn_v.weight": (kv_dim, dim),
            f"blk.{i}.attn_output.weight": (dim, heads_dim),
            f"blk.{i}.ffn_norm.weight": (dim,),
            f"blk.{i}.ffn_gate.weight": (hidden_dim, dim),
            f"blk.{i}.ffn_up.weight": (hidden_dim, dim),
            f"blk.{i}.ffn_down.weight": (dim, hidden_dim),
        }
    return shapes


def _check_tensors(file: GGUFFile, config: ModelConfig, wanted: dict[str, tuple[int, ...]]) -> None:
    """Compare the file's tensors with the wanted ones and name the first five that are wrong."""
    optional: dict[str, tuple[int, ...]] = {
        "output.weight": (config.vocab_size, config.dim),
        "rope_freqs.weight": (config.rope_dim // 2,),
    }
    wrong = [f"{name} is missing" for name in wanted if name not in file.tensors]
    for name, info in file.tensors.items():
        shape = wanted.get(name) or optional.get(name)
        if shape is None:
            # Old conversions kept the rope frequencies of every layer; nothing reads them.
            if not name.endswith(".attn_rot_embd.weight"):
                wrong.append(f"{name!r} is not a tensor of a Llama model")
        elif info.shape != shape:
            wrong.append(f"{name} is {info.shape}, expected {shape}")
    if wrong:
        more = f"; and {len(wrong) - 5:,} more" if len(wrong) > 5 else ""
        raise ModelFormatError(f"{file.path}: {'; '.join(wrong[:5])}{more}")
