"""Fixtures: tiny random Llamas in GGUF, whole down to the vocabulary; official tokenizers."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from random_rows import random_rows

from edgellama.config import ModelConfig
from edgellama.gguf import GGUFFile, TensorToWrite, WriteValue, write_gguf
from edgellama.quant import Format, find_format
from edgellama.weights import load_weights

# Tests started in the background inherit that Ctrl-C is ignored, and so would what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on each run; none fails because the machine is slow.
hypothesis.settings.register_profile(
    "steady",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")

WORDS = (
    "the",
    "and",
    "was",
    "once",
    "upon",
    "time",
    "little",
    "cat",
    "said",
    "hello",
    "Hello",
    "world",
)
LLAMA3_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # token types of GGUF


@pytest.fixture(scope="session")
def tiny_shape() -> Callable[..., ModelConfig]:
    """tiny_shape(n_heads=8, ...) -> ModelConfig of a Llama that runs in milliseconds."""
    return _tiny_shape


@pytest.fixture(scope="session")
def write_tiny_llama() -> Callable[..., Path]:
    """write_tiny_llama(path, format="Q4_0", ...) -> path; arguments as of _write_tiny_llama."""
    return _write_tiny_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in F32 with a SentencePiece vocabulary, to be read and not changed."""
    return _write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """Words that the tiny vocabularies know, in a random order: about 1,300 SentencePiece ids."""
    rng = np.random.default_rng(0)
    return " ".join(rng.choice([*WORDS, "dog", "tree.", "é"], 1000))


@pytest.fixture(scope="session")
def as_transformers() -> Callable[[Path], Any]:
    """as_transformers(path) -> LlamaForCausalLM in float32 with the weights of a GGUF file."""
    pytest.importorskip("torch", reason="needs the extra `oracles`: torch")
    pytest.importorskip("transformers", reason="needs the extra `oracles`: transformers")
    return _as_transformers


@pytest.fixture(scope="session")
def llama2_tokenizer_model() -> Path:
    """The official tokenizer.model of Llama 2 (SentencePiece)."""
    return _official_file("llama2_tokenizer.model")


@pytest.fixture(scope="session")
def llama3_tokenizer_model() -> Path:
    """The official tokenizer.model of Llama 3 (tiktoken)."""
    return _official_file("llama3_tokenizer.model")


def _official_file(name: str) -> Path:
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("EDGELLAMA_TEST_DATA", beside)) / name
    if not path.exists():
        pytest.skip(f"needs Meta's {name}, which may not be passed on; set EDGELLAMA_TEST_DATA")
    return path


def _tiny_shape(**overrides: Any) -> ModelConfig:
    shape: dict[str, Any] = {
        "name": "tiny",
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 16,
        "hidden_dim": 96,
        "vocab_size": 300,
        "context_length": 512,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_dim": overrides.get("head_dim", 16),
    }
    return ModelConfig(**shape | overrides)


def _write_tiny_llama(
    path: str | os.PathLike[str],
    *,
    format: str = "F32",
    output_format: str | None = None,
    seed: int = 0,
    tied: bool = True,
    rope_scaled: bool = False,
    tokenizer: str = "spm",
    metadata: dict[str, WriteValue | None] | None = None,
    **shape: Any,
) -> Path:
    """Write a random model; its matrices have standard deviation 1/sqrt(cols), as trained ones.

    format: of the matrices (output_format: of `output`, or of the tied embedding); vectors are F32.
    rope_scaled: with rope_freqs.weight as Llama 3.2 has it (factor 32 beyond 8192 positions).
    tokenizer: "spm" or "bpe", a vocabulary of about 350 entries that can encode any text.
    metadata: keys to add or replace; None leaves a key out. shape: fields of ModelConfig.
    """
    vocabulary = {"spm": spm_vocabulary, "bpe": bpe_vocabulary}[tokenizer]()
    config = _tiny_shape(**{"vocab_size": len(vocabulary["tokenizer.ggml.tokens"])} | shape)
    keys = model_metadata(config) | vocabulary | (metadata or {})
    tensors = list(_random_tensors(config, format, output_format, seed, tied, rope_scaled))
    write_gguf(path, {key: value for key, value in keys.items() if value is not None}, tensors)
    return Path(path)


def model_metadata(config: ModelConfig) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.name": config.name,
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.context_length,
        "llama.embedding_length": config.dim,
        "llama.block_count": config.n_layers,
        "llama.feed_forward_length": config.hidden_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.dimension_count": config.rope_dim,
        "llama.rope.freq_base": config.rope_theta,
    }


def _as_transformers(path: Path) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with GGUFFile(path) as file:
        c, weights = ModelConfig.from_gguf(file), load_weights(file, ModelConfig.from_gguf(file))
    config = LlamaConfig(
        hidden_size=c.dim,
        intermediate_size=c.hidden_dim,
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        head_dim=c.head_dim,
        vocab_size=c.vocab_size,
        rms_norm_eps=c.norm_eps,
        max_position_embeddings=c.context_length,
        tie_word_embeddings=weights.output is weights.token_embd,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        attn_implementation="eager",
    )

    def to_halves(rows: np.ndarray, n_heads: int) -> np.ndarray:
        """From rope's neighbours (2j, 2j + 1) to (j, j + head_dim / 2)."""
        return rows.reshape(n_heads, -1, 2, c.dim).swapaxes(1, 2).reshape(rows.shape)

    state = {
        "model.embed_tokens": weights.token_embd.dequantize(),
        "model.norm": weights.output_norm,
        "lm_head": weights.output.dequantize(),
    }
    for i, layer in enumerate(weights.layers):
        state |= {
            f"model.layers.{i}.{name}": values
            for name, values in {
                "input_layernorm": layer.attn_norm,
                "self_attn.q_proj": to_halves(layer.attn_q.dequantize(), c.n_heads),
                "self_attn.k_proj": to_halves(layer.attn_k.dequantize(), c.n_kv_heads),
                "self_attn.v_proj": layer.attn_v.dequantize(),
                "self_attn.o_proj": layer.attn_output.dequantize(),
                "post_attention_layernorm": layer.ffn_norm,
                "mlp.gate_proj": layer.ffn_gate.dequantize(),
                "mlp.up_proj": layer.ffn_up.dequantize(),
                "mlp.down_proj": layer.ffn_down.dequantize(),
            }.items()
        }
    model = LlamaForCausalLM(config).eval()
    tensors = {f"{name}.weight": torch.tensor(values) for name, values in state.items()}
    model.load_state_dict(tensors)
    return model


def _random_tensors(
    c: ModelConfig,
    format: str,
    output_format: str | None,
    seed: int,
    tied: bool,
    rope_scaled: bool,
) -> Iterator[TensorToWrite]:
    rng = np.random.default_rng(seed)
    body, output = find_format(format), find_format(output_format or format)
    f32 = find_format("F32")

    def matrix(name: str, rows: int, cols: int, format: Format = body) -> TensorToWrite:
        packed = random_rows(rng, rows, cols, format, cols**-0.5)
        return TensorToWrite(f"{name}.weight", (rows, cols), format, lambda: iter([packed]))

    def vector(name: str, values: np.ndarray) -> TensorToWrite:
        packed = f32.quantize(values[None].astype(np.float32))
        return TensorToWrite(f"{name}.weight", values.shape, f32, lambda: iter([packed]))

    def norm(name: str) -> TensorToWrite:
        return vector(name, rng.normal(1, 0.1, c.dim))

    yield matrix("token_embd", c.vocab_size, c.dim, output if tied else body)
    yield norm("output_norm")
    if not tied:
        yield matrix("output", c.vocab_size, c.dim, output)
    if rope_scaled:
        yield vector("rope_freqs", llama3_rope_factors(c, factor=32))
    heads_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    for i in range(c.n_layers):
        yield norm(f"blk.{i}.attn_norm")
        yield matrix(f"blk.{i}.attn_q", heads_dim, c.dim)
        yield matrix(f"blk.{i}.attn_k", kv_dim, c.dim)
        yield matrix(f"blk.{i}.attn_v", kv_dim, c.dim)
        yield matrix(f"blk.{i}.attn_output", c.dim, heads_dim)
        yield norm(f"blk.{i}.ffn_norm")
        yield matrix(f"blk.{i}.ffn_gate", c.hidden_dim, c.dim)
        yield matrix(f"blk.{i}.ffn_up", c.hidden_dim, c.dim)
        yield matrix(f"blk.{i}.ffn_down", c.dim, c.hidden_dim)


def llama3_rope_factors(
    c: ModelConfig, factor: float, low: float = 1, high: float = 4, original: int = 8192
) -> np.ndarray:
    """(rope_dim / 2,) divisors of Llama 3.1's rope: long waves by `factor`, short ones by 1."""
    wavelength = 2 * np.pi * c.rope_theta ** (np.arange(0, c.rope_dim, 2) / c.rope_dim)
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def spm_vocabulary() -> dict[str, Any]:
    """SentencePiece in small: specials, bytes, pieces that grow letter by letter, then letters."""
    pieces = [f"▁{word}"[:n] for word in WORDS for n in range(2, len(word) + 2)] + ["▁▁"]
    letters = ["▁", *(chr(c) for c in range(33, 127)), "é", "ü", "日", "本"]
    learned = list(dict.fromkeys(pieces + letters))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [
            "<unk>",
            "<s>",
            "</s>",
            *(f"<0x{byte:02X}>" for byte in range(256)),
            *learned,
        ],
        "tokenizer.ggml.scores": -np.maximum(0, np.arange(259 + len(learned)) - 259.0, dtype="f4"),
        "tokenizer.ggml.token_type": np.array(
            [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(learned), np.int32
        ),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def bpe_vocabulary() -> dict[str, Any]:
    """Llama 3's kind in small: 256 bytes, words that grow byte by byte, then the specials."""
    unicode_of = bytes_to_unicode()
    tokens, merges = list(unicode_of.values()), []
    for word in WORDS:
        spelled = "".join(unicode_of[byte] for byte in f" {word}".encode())
        for n in range(2, len(spelled) + 1):
            if spelled[:n] not in tokens:
                tokens.append(spelled[:n])
                merges.append(f"{spelled[: n - 1]} {spelled[n - 1]}")
    types = [NORMAL] * len(tokens) + [CONTROL] * len(LLAMA3_SPECIALS)
    id_of = {token: len(tokens) + i for i, token in enumerate(LLAMA3_SPECIALS)}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [*tokens, *LLAMA3_SPECIALS],
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": id_of["<|begin_of_text|>"],
        "tokenizer.ggml.eos_token_id": id_of["<|end_of_text|>"],
        "tokenizer.ggml.eot_token_id": id_of["<|eot_id|>"],
        "tokenizer.ggml.eom_token_id": id_of["<|eom_id|>"],
    }


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte, in the order of its ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
