"""Folders as Meta publishes them: slices joined, the family recognised, damage refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edgellama.converters import Overrides, convert, open_source
from edgellama.converters.families import (
    chat_format_of,
    is_early_llama2,
    meta_rope_scaling,
    recognise,
)
from edgellama.converters.source import Hyperparameters
from edgellama.errors import CheckpointRefused, EdgellamaError


def to_gguf(folder: Path, type: str = "f32", **overrides) -> Path:
    out = folder.with_suffix(".gguf")
    convert(open_source(folder, Overrides(**overrides)), out, type)
    return out


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}


def value(path: Path, key: str):
    field = GGUFReader(path).get_field(key)
    return None if field is None else field.contents()


def refusal(folder: Path) -> str:
    """The message with which the folder is refused; no file may be left behind."""
    out = folder.with_suffix(".gguf")
    with pytest.raises(CheckpointRefused) as refused:
        convert(open_source(folder), out, "q8_0")
    assert not list(folder.parent.glob("*.gguf*"))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_weights_arrive_unchanged(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint(n_kv_heads=2)
    found = tensors(to_gguf(checkpoint.write_meta(tmp_path / "meta")))
    assert found.keys() == checkpoint.weights.keys()
    for name, weight in checkpoint.weights.items():
        np.testing.assert_array_equal(found[name], weight)


def test_one_model_is_one_file_however_it_was_cut(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint()
    folders = [checkpoint.write_meta(tmp_path / f"meta{n}", n) for n in (1, 2, 4, 8)]
    folders += [checkpoint.write_meta(tmp_path / "halves", 2, kind="BFloat16")]
    folders += [checkpoint.write_hf(tmp_path / "hf"), checkpoint.write_hf(tmp_path / "hf3", 3)]
    assert len({to_gguf(folder).read_bytes() for folder in folders}) == 1


def test_llama3_cuts_its_embedding_by_rows(tiny_llama3_checkpoint, tmp_path):
    checkpoint = tiny_llama3_checkpoint()
    whole = checkpoint.write_meta(tmp_path / "whole")
    cut = checkpoint.write_meta(tmp_path / "cut", 4, embedding_axis=0)
    assert to_gguf(cut).read_bytes() == to_gguf(whole).read_bytes()


def test_heads_need_not_divide_the_width(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint(n_heads=4, n_kv_heads=2, head_dim=24)
    path = to_gguf(checkpoint.write_meta(tmp_path / "meta", 2))
    assert value(path, "llama.attention.key_length") == 24
    assert value(path, "llama.rope.dimension_count") == 24
    np.testing.assert_array_equal(
        tensors(path)["blk.1.attn_q.weight"], checkpoint.weights["blk.1.attn_q.weight"]
    )


def test_heads_that_two_ranks_share_are_taken_once(tiny_checkpoint, tmp_path):
    """As in the 405B cut in 16: n_kv_heads of params.json is half of what the slices hold."""
    checkpoint = tiny_checkpoint(n_kv_heads=2)
    want = tensors(to_gguf(checkpoint.write_meta(tmp_path / "whole")))
    for name in list(checkpoint.weights):
        if name.endswith(("attn_k.weight", "attn_v.weight")):
            heads = checkpoint.weights[name].reshape(2, 8, 64)
            checkpoint.weights[name] = heads.repeat(2, axis=0).reshape(32, 64)
    found = tensors(to_gguf(checkpoint.write_meta(tmp_path / "shared", 4)))
    for name, weight in want.items():
        np.testing.assert_array_equal(found[name], weight)


def test_shared_heads_that_differ_are_refused(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint(n_kv_heads=4)
    folder = checkpoint.write_meta(tmp_path / "meta", 4, n_kv_heads=2)
    assert "layers.0.attention.wk.weight differs" in refusal(folder)


def test_copies_of_a_norm_that_differ_are_refused(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint(seed=0).write_meta(tmp_path / "meta", 2)
    other = tiny_checkpoint(seed=1).write_meta(tmp_path / "other", 2)
    (other / "consolidated.01.pth").replace(folder / "consolidated.01.pth")
    assert "differs from the first shard's copy" in refusal(folder)


def test_an_output_that_repeats_the_embedding_is_left_out(tiny_checkpoint, tmp_path):
    tied = tiny_checkpoint(tied=True)
    want = to_gguf(tied.write_meta(tmp_path / "tied"))
    tied.weights["output.weight"] = tied.weights["token_embd.weight"]
    assert to_gguf(tied.write_meta(tmp_path / "repeated")).read_bytes() == want.read_bytes()
    assert "output.weight" not in tensors(want)


def test_params_may_be_nested_and_the_tokenizer_above(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint().write_meta(tmp_path / "LLaMA" / "7B")
    want = to_gguf(folder).read_bytes()
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps({"model": params}))
    (folder / "tokenizer.model").replace(tmp_path / "LLaMA" / "tokenizer.model")
    assert to_gguf(folder).read_bytes() == want


def test_a_repository_with_the_files_in_original_is_found(tiny_checkpoint, tmp_path):
    tiny_checkpoint().write_meta(tmp_path / "Llama-2-7b-chat" / "original")
    source = open_source(tmp_path / "Llama-2-7b-chat")
    assert source.kind == "Meta folder, 1 shard"
    assert "[INST]" in source.metadata["tokenizer.chat_template"]


def test_scaled_rope_becomes_a_tensor(tiny_llama3_checkpoint, tmp_path):
    checkpoint = tiny_llama3_checkpoint(n_heads=4, n_kv_heads=4, head_dim=128)
    folder = checkpoint.write_meta(tmp_path / "meta", rope_theta=5e5, use_scaled_rope=True)
    path = to_gguf(folder)
    assert value(path, "llama.context_length") == 131072
    divisors = tensors(path)["rope_freqs.weight"]
    # As Hugging Face's inv_freq has it for head_dim 128 and factor 8: to the last float32 digits.
    middle = [1.207484, 1.553415, 2.026313, 2.69453, 3.684253, 5.257327]
    np.testing.assert_allclose(divisors[29:35], middle, rtol=1e-6)
    assert set(divisors[:29]) == {1.0}
    assert set(divisors[35:]) == {8.0}


def test_what_the_user_says_goes_first(tiny_llama3_checkpoint, tmp_path):
    checkpoint = tiny_llama3_checkpoint(n_heads=4, n_kv_heads=4, head_dim=64)
    folder = checkpoint.write_meta(tmp_path / "meta", use_scaled_rope=True)
    path = to_gguf(
        folder,
        name="mine",
        chat_template="llama3",
        context_length=77,
        rope_theta=20000.0,
        rope_factor=32.0,
    )
    assert value(path, "general.name") == "mine"
    assert "<|start_header_id|>" in value(path, "tokenizer.chat_template")
    assert value(path, "llama.context_length") == 77
    assert value(path, "llama.rope.freq_base") == 20000.0
    assert tensors(path)["rope_freqs.weight"].max() == 32


def test_a_rope_factor_of_one_switches_the_scaling_off(tiny_llama3_checkpoint, tmp_path):
    folder = tiny_llama3_checkpoint().write_meta(tmp_path / "meta", use_scaled_rope=True)
    assert "rope_freqs.weight" not in tensors(to_gguf(folder, rope_factor=1.0))


# Of every release: vocabulary, dim, layers, heads, kv heads, vocab, eps, theta, scaled rope, the
# names around it, and what follows: family, context, rope factor, chat format.
RELEASES = [
    ("spm", 4096, 32, 32, 32, 32000, 1e-6, 1e4, False, ["7B"], "Llama 1", 2048, None, None),
    ("spm", 8192, 80, 64, 64, 32000, 1e-5, 1e4, False, ["65B"], "Llama 1", 2048, None, None),
    ("spm", 4096, 32, 32, 32, 32000, 1e-5, 1e4, False, ["llama-2-7b"], "Llama 2", 4096, None, None),
    (
        *("spm", 8192, 80, 64, 8, 32000, 1e-5, 1e4, False, ["llama-2-70b-chat"]),
        *("Llama 2", 4096, None, "llama2"),
    ),
    (
        *("spm", 4096, 32, 32, 32, 32016, 1e-5, 1e6, False, ["CodeLlama-7b-Instruct"]),
        *("Code Llama", 16384, None, "llama2"),
    ),
    (
        *("spm", 8192, 80, 64, 8, 32016, 1e-5, 1e4, False, ["CodeLlama-70b-Instruct"]),
        *("Code Llama", 4096, None, "codellama-70b"),
    ),
    (
        *("bpe", 4096, 32, 32, 8, 128256, 1e-5, 5e5, False, ["Meta-Llama-3-8B-Instruct"]),
        *("Llama 3", 8192, None, "llama3"),
    ),
    (
        *("bpe", 16384, 126, 128, 8, 128256, 1e-5, 5e5, True, ["Llama3.1-405B"]),
        *("Llama 3.1", 131072, 8, None),
    ),
    (
        *("bpe", 2048, 16, 32, 8, 128256, 1e-5, 5e5, True, ["Llama3.2-1B-Instruct"]),
        *("Llama 3.2", 131072, 32, "llama3"),
    ),
    (
        *("bpe", 3072, 28, 24, 8, 128256, 1e-5, 5e5, True, ["Llama-3.2-3B"]),
        *("Llama 3.2", 131072, 32, None),
    ),
    (
        *("bpe", 8192, 80, 64, 8, 128256, 1e-5, 5e5, True, ["Llama-3.3-70B-Instruct"]),
        *("Llama 3.3", 131072, 8, "llama3"),
    ),
]


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release[9][0])
def test_every_release_is_recognised(release):
    kind, dim, n_layers, n_heads, n_kv_heads, vocab_size, eps, theta, scaled, names = release[:10]
    hparams = Hyperparameters(
        *(dim, n_layers, n_heads, n_kv_heads),
        head_dim=dim // n_heads,
        hidden_dim=4 * dim,
        vocab_size=vocab_size,
        context_length=0,
        norm_eps=eps,
        rope_theta=theta,
        rope_scaling=meta_rope_scaling(dim) if scaled else None,
    )
    family = recognise(hparams, bpe=kind == "bpe", names=names)
    factor = hparams.rope_scaling and hparams.rope_scaling.factor
    found = (family.name, family.context_length, factor, chat_format_of(family, names))
    assert found == release[10:]


def test_the_wrong_eps_of_early_llama2_is_noticed_and_llama1_left_alone():
    shape = (4096, 32, 32, 32, 128, 11008, 32000, 0)
    seven_b = Hyperparameters(*shape, norm_eps=1e-6, rope_theta=1e4)
    assert is_early_llama2(seven_b, False, ["llama-2-7b-chat"])
    assert is_early_llama2(seven_b, True, ["7B"])  # Llama 1 came in f16
    assert not is_early_llama2(seven_b, False, ["7B"])


@pytest.mark.parametrize("missing", [0, 1, 3])
@pytest.mark.parametrize("embedding_axis", [0, 1])
def test_a_missing_shard_is_refused(tiny_checkpoint, tmp_path, missing, embedding_axis):
    folder = tiny_checkpoint().write_meta(tmp_path / "meta", 4, embedding_axis=embedding_axis)
    (folder / f"consolidated.{missing:02d}.pth").unlink()
    assert "missing" in refusal(folder)


def test_a_truncated_shard_is_refused(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint().write_meta(tmp_path / "meta", 2)
    shard = folder / "consolidated.01.pth"
    shard.write_bytes(shard.read_bytes()[:-5000])
    assert "consolidated.01.pth" in refusal(folder)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dim": 128}, "dim"),
        ({"dim": "64"}, "dim is '64'"),
        ({"dim": None}, "dim is missing"),
        ({"n_layers": 1}, "no part of a Llama of 1 layers"),
        ({"n_layers": 1000000}, "1,000,000 layers"),
        ({"n_heads": 7}, "wq.weight: 64 rows do not divide by the 7 heads"),
        ({"n_layers": 3}, "layers.2.attention_norm.weight"),
        ({"n_heads": 4}, "wk.weight"),
        ({"n_kv_heads": 3}, "do not divide"),
        ({"n_kv_heads": 4}, "wk.weight"),
        ({"vocab_size": 401}, "vocab_size 401"),
        ({"norm_eps": -1.0}, "norm_eps"),
        ({"vision_chunk_size": 448}, "vision"),
        ({"quantization_args": {"scheme": "int4"}}, "int4"),
    ],
)
def test_a_wrong_params_json_is_refused(tiny_checkpoint, tmp_path, wrong, words):
    folder = tiny_checkpoint(n_kv_heads=2).write_meta(tmp_path / "meta", **wrong)
    assert words in refusal(folder)


def test_params_that_are_no_json_are_refused(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint().write_meta(tmp_path / "meta")
    (folder / "params.json").write_text('{"dim": 64')
    assert "params.json" in refusal(folder)


@pytest.mark.parametrize(
    "damage", [b"", b"<html>", b"\x0a\x05\x0a\x03abc\xff", b"IQ== 0\nIg== 2\n"]
)
def test_a_damaged_tokenizer_is_refused(tiny_checkpoint, tmp_path, damage):
    folder = tiny_checkpoint().write_meta(tmp_path / "meta")
    (folder / "tokenizer.model").write_bytes(damage)
    assert "tokenizer.model" in refusal(folder)


def test_the_tokenizer_of_a_larger_model_is_refused(tiny_checkpoint, tiktoken_model, tmp_path):
    folder = tiny_checkpoint().write_meta(tmp_path / "meta")
    (folder / "tokenizer.model").write_bytes(tiktoken_model)
    assert "536 tokens, the embedding 400 rows" in refusal(folder)


def test_a_missing_tokenizer_is_refused(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint().write_meta(tmp_path / "meta")
    (folder / "tokenizer.model").unlink()
    assert "tokenizer.model" in refusal(folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["blk.1.ffn_down.weight", "output_norm.weight"])
def test_weights_that_are_no_numbers_are_refused_by_name(tiny_checkpoint, tmp_path, bad, name):
    checkpoint = tiny_checkpoint()
    checkpoint.weights[name].reshape(-1)[-1] = bad
    assert name in refusal(checkpoint.write_meta(tmp_path / "meta"))


def test_shards_of_different_models_are_refused(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint().write_meta(tmp_path / "meta", 2)
    other = tiny_checkpoint().write_meta(tmp_path / "other", 2, kind="BFloat16")
    (other / "consolidated.01.pth").replace(folder / "consolidated.01.pth")
    assert "not of one model" in refusal(folder)


def test_a_folder_with_nothing_to_convert_is_refused(tmp_path):
    with pytest.raises(CheckpointRefused, match=r"params\.json"):
        open_source(tmp_path)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(EdgellamaError, match="does not exist"):
        open_source(tmp_path / "nothing")
