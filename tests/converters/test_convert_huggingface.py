"""Folders as Hugging Face publishes them, held against transformers itself where it is there."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edgellama.converters import Overrides, convert, open_source
from edgellama.errors import CheckpointRefused

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def to_gguf(folder: Path, type: str = "f32", **overrides) -> Path:
    out = folder / "model.gguf"
    convert(open_source(folder, Overrides(**overrides)), out, type)
    return out


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}


def value(path: Path, key: str):
    field = GGUFReader(path).get_field(key)
    return None if field is None else field.contents()


def refusal(folder: Path) -> str:
    """The message with which the folder is refused; no file may be left behind."""
    with pytest.raises(CheckpointRefused) as refused:
        to_gguf(folder)
    assert not list(folder.glob("*.gguf*"))
    return str(refused.value)


@pytest.fixture(scope="session")
def transformers():
    """transformers and torch, the source of truth for these folders."""
    pytest.importorskip("torch", reason="torch is the oracle of this test")
    return pytest.importorskip("transformers", reason="transformers is the oracle of this test")


def random_llama(transformers, folder: Path, tokenizer_model: bytes, **config):
    """A LlamaForCausalLM of 400 tokens with weights large enough to matter, saved in `folder`."""
    import torch

    torch.manual_seed(0)
    settings = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 400,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings | config)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=float(weight.ndim == 1), std=0.1)
    model.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    return model


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_key_value_heads": 1},
        {"num_attention_heads": 2, "head_dim": 24},
        {"intermediate_size": 200},
        {"tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    ],
    ids=lambda config: "-".join(config) or "plain",
)
def test_transformers_computes_the_same_from_our_file(
    transformers, sentencepiece_model, tmp_path, config
):
    import torch

    model = random_llama(transformers, tmp_path, sentencepiece_model, **config)
    to_gguf(tmp_path)
    ours = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.randint(0, 400, (1, 40))
    with torch.no_grad():
        # The same numbers in the same program: not even rounding may differ.
        assert torch.equal(ours(ids).logits, model(ids).logits)


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_rope_divisors_give_the_frequencies_of_transformers(
    transformers, sentencepiece_model, tmp_path, factor, head_dim
):
    import torch

    rope = LLAMA3_ROPE | {"factor": factor, "rope_theta": 500000.0}
    model = random_llama(
        transformers,
        tmp_path,
        sentencepiece_model,
        head_dim=head_dim,
        rope_parameters=rope,
        max_position_embeddings=131072,
    )
    divisors = tensors(to_gguf(tmp_path))["rope_freqs.weight"]
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    plain = (1.0 / (500000.0**exponents)).numpy()
    # One rounding in the division and one in the divisor: 2 ulp of float32.
    np.testing.assert_allclose(
        plain / divisors, model.model.rotary_emb.inv_freq.numpy(), rtol=2.4e-7
    )


def test_rope_is_read_from_the_old_keys_and_the_new(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint(n_heads=4, n_kv_heads=2, head_dim=64)
    old = checkpoint.write_hf(tmp_path / "old", rope_theta=5e5, rope_scaling=LLAMA3_ROPE)
    new = checkpoint.write_hf(
        tmp_path / "new", rope_theta=None, rope_parameters=LLAMA3_ROPE | {"rope_theta": 5e5}
    )
    assert to_gguf(old).read_bytes() == to_gguf(new).read_bytes()
    assert tensors(old / "model.gguf")["rope_freqs.weight"].max() == 8


def test_linear_scaling_is_written_down(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint().write_hf(
        tmp_path / "hf", rope_scaling={"type": "linear", "factor": 4.0}
    )
    path = to_gguf(folder)
    assert value(path, "llama.rope.scaling.type") == "linear"
    assert value(path, "llama.rope.scaling.factor") == 4.0


def test_torch_files_serve_where_there_are_no_safetensors(tiny_checkpoint, tmp_path, torch_writer):
    checkpoint = tiny_checkpoint(n_kv_heads=2)
    folder = checkpoint.write_hf(tmp_path / "hf")
    want = to_gguf(folder).read_bytes()
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    start = 8 + int.from_bytes(data[:8], "little")
    entries, storages = {}, {}
    for name, entry in json.loads(data[8:start]).items():
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        storages[name_key := str(len(storages))] = data[start + begin : start + end]
        storage = torch_writer.storage(name_key, (end - begin) // 2, "BFloat16")
        strides = (shape[1], 1) if len(shape) == 2 else (1,)
        entries[name] = torch_writer.tensor(storage, shape, strides)
    torch_file = torch_writer.zip_file(torch_writer.dictionary(entries), storages)
    (folder / "pytorch_model.bin").write_bytes(torch_file)
    assert to_gguf(folder).read_bytes() == want


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["MllamaForConditionalGeneration"]}, "Mllama"),
        ({"architectures": ["MistralForCausalLM"]}, "Mistral"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor"),
        ({"hidden_size": 128}, "config.json asks for"),
        ({"num_hidden_layers": 3}, "model.layers.2"),
        ({"num_hidden_layers": 1}, "no part of"),
        ({"num_key_value_heads": 4}, "k_proj"),
        ({"vocab_size": 399}, "rows"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
    ],
)
def test_a_config_that_we_cannot_honour_is_refused(tiny_checkpoint, tmp_path, config, words):
    assert words in refusal(tiny_checkpoint(n_kv_heads=2).write_hf(tmp_path / "hf", **config))


def test_a_missing_shard_is_refused_by_name(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint().write_hf(tmp_path / "hf", 3)
    (folder / "model-00001-of-00003.safetensors").unlink()
    assert "model-00001-of-00003.safetensors" in refusal(folder)


def test_a_truncated_file_is_refused(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint().write_hf(tmp_path / "hf")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model.safetensors" in refusal(folder)


def test_a_missing_output_matrix_is_refused_unless_tied(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint(tied=True)
    assert "lm_head.weight" in refusal(
        checkpoint.write_hf(tmp_path / "hf", tie_word_embeddings=False)
    )


def test_a_fine_tune_is_known_by_its_folder(tiny_checkpoint, tmp_path):
    source = open_source(tiny_checkpoint().write_hf(tmp_path / "vicuna-7b-v1.5"))
    assert "ASSISTANT:" in source.metadata["tokenizer.chat_template"]
    assert source.metadata["general.name"] == "vicuna-7b-v1.5"


def test_the_template_of_the_folder_is_kept(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint().write_hf(tmp_path / "hf")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ 'one' }}"}))
    assert value(to_gguf(folder), "tokenizer.chat_template") == "{{ 'one' }}"
    (folder / "chat_template.jinja").write_text("{{ 'file' }}")
    assert value(to_gguf(folder), "tokenizer.chat_template") == "{{ 'file' }}"
    assert value(to_gguf(folder, chat_template="none"), "tokenizer.chat_template") is None
