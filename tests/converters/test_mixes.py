"""Mixes: each tensor of a file of a usual name has the type that llama.cpp gives it."""

import json

import pytest
from gguf import LlamaFileType
from llama_cpp_types import GOLDEN, KINDS, columns, dry_run, in_runs, shape_of, write_kind

from edgellama.converters.mixes import MIXES, Model, find_mix, fitting_type, tensor_type
from edgellama.quant import find_format


def our_types(kind: str, mix: str) -> dict[str, str]:
    shape = shape_of(kind)
    model = Model(
        n_layers=shape["n_layers"],
        n_gqa=shape["n_heads"] // shape["n_kv_heads"],
        tied=shape["tied"],
        weighed=KINDS[kind].get("weighed", False),
    )
    return {
        name: fitting_type(tensor_type(MIXES[mix], name, model), cols)
        for name, cols in columns(kind).items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_types_are_those_frozen_from_llama_cpp(kind):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[kind]
    assert {mix: in_runs(our_types(kind, mix)) for mix in MIXES} == golden


@pytest.mark.parametrize("kind", ["22 layers, 8 heads share", "16 layers, weighed"])
def test_types_are_those_of_llama_cpp_itself(write_tiny_llama, tmp_path, kind):
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python beside edgellama")
    path = write_kind(write_tiny_llama, tmp_path / "model.gguf", kind)
    for mix, line in MIXES.items():
        theirs = dry_run(path, line.file_type, weighed=KINDS[kind].get("weighed", False))
        ours = our_types(kind, mix)
        assert ours == {name: theirs[name] for name in ours}, mix


def test_q4_k_m_of_a_32_layer_model_raises_half_of_ffn_down():
    model = Model(n_layers=32, n_gqa=4)
    types = [tensor_type(MIXES["Q4_K_M"], f"blk.{i}.ffn_down.weight", model) for i in range(32)]
    raised = [i for i, type in enumerate(types) if type == "Q6_K"]
    assert raised == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert tensor_type(MIXES["Q4_K_M"], "blk.0.attn_q.weight", model) == "Q4_K"


def test_the_output_is_the_embedding_where_they_are_tied():
    for tied, (embedding, output) in {True: ("Q6_K", "Q4_K"), False: ("Q4_K", "Q6_K")}.items():
        model = Model(n_layers=2, n_gqa=1, tied=tied)
        assert tensor_type(MIXES["Q4_K_S"], "token_embd.weight", model) == embedding
        assert tensor_type(MIXES["Q4_K_S"], "output.weight", model) == output


@pytest.mark.parametrize("type", ["Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS"])
def test_rows_that_256_does_not_divide_get_blocks_of_32_at_no_fewer_bits(type):
    instead = find_format(fitting_type(type, 288))
    assert instead.block_size == 32
    assert instead.bits_per_weight >= find_format(type).bits_per_weight
    assert fitting_type(type, 512) == type
    assert fitting_type(type, 40) == "F16"


def test_file_types_are_those_that_gguf_py_lists():
    listed = {kind.name.partition("_")[2]: kind.value for kind in LlamaFileType}
    assert {name: mix.file_type for name, mix in MIXES.items()}.items() <= listed.items()


def test_names_are_found_in_any_case_and_by_their_short_forms():
    assert find_mix("q4_k")[0] == "Q4_K_M"
    assert find_mix("Q5_k")[0] == "Q5_K_M"
    assert find_mix("iq4_xs") == ("IQ4_XS", MIXES["IQ4_XS"])
    with pytest.raises(ValueError, match=r"'q9'.*known are F32.*Q4_K_M"):
        find_mix("q9")
