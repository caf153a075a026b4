"""Vocabularies: SentencePiece, tiktoken and tokenizer.json into the keys of GGUF."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.chat import CHAT_FORMATS, find_chat_format
from edgellama.converters.families import llama3_special_tokens
from edgellama.converters.templates import TEMPLATES, load_template
from edgellama.converters.tokenizer_json import read_vocabulary
from edgellama.converters.tokenizer_model import read_tokenizer_model
from edgellama.converters.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, Vocabulary
from edgellama.errors import CheckpointRefused, InvalidRequest
from edgellama.gguf import GGUFFile, write_gguf
from edgellama.tokenizer import Tokenizer, load_tokenizer

LLAMA2_CONFIG = {"bos_token_id": 1, "eos_token_id": 2}


def sentencepiece_vocabulary(model: bytes, folder: Path) -> Vocabulary:
    (folder / "tokenizer.model").write_bytes(model)
    return read_tokenizer_model(folder / "tokenizer.model", ())


def tokenizer_of(vocabulary: Vocabulary, folder: Path) -> Tokenizer:
    """The runtime's tokenizer, through a file that holds nothing but the vocabulary."""
    path = folder / "vocabulary.gguf"
    write_gguf(path, {"general.architecture": "llama"} | vocabulary.metadata(), [])
    with GGUFFile(path) as file:
        return load_tokenizer(file.metadata)


def random_texts(n: int) -> list[str]:
    rng = random.Random(0)
    alphabet = "abcdeghlnorst   \n\t.,'0123é日🦙"
    return ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(n)]


def check_against_sentencepiece(vocabulary: Vocabulary, model: bytes) -> None:
    from sentencepiece import SentencePieceProcessor

    theirs = SentencePieceProcessor(model_proto=model)
    assert len(vocabulary.tokens) == theirs.vocab_size()
    assert vocabulary.scores is not None
    for id, (text, score, type) in enumerate(
        zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True)
    ):
        assert (text, score) == (theirs.id_to_piece(id), theirs.get_score(id))
        assert (type == BYTE) == theirs.is_byte(id)
        assert (type == CONTROL) == theirs.is_control(id)
        assert (type == UNKNOWN) == theirs.is_unknown(id)
    assert vocabulary.ids == {"bos": 1, "eos": 2, "unknown": 0}


def test_sentencepiece_is_read_as_sentencepiece_reads_it(sentencepiece_model, tmp_path):
    vocabulary = sentencepiece_vocabulary(sentencepiece_model, tmp_path)
    check_against_sentencepiece(vocabulary, sentencepiece_model)
    assert vocabulary.add_space_prefix is True
    assert vocabulary.notes == ()


def test_the_official_llama2_vocabulary(llama2_tokenizer_model):
    vocabulary = read_tokenizer_model(llama2_tokenizer_model, ())
    check_against_sentencepiece(vocabulary, llama2_tokenizer_model.read_bytes())


def test_the_official_llama3_vocabulary(llama3_tokenizer_model):
    vocabulary = read_tokenizer_model(llama3_tokenizer_model, llama3_special_tokens(True))
    keys = vocabulary.metadata()
    assert len(vocabulary.tokens) == 128256
    assert vocabulary.merges is not None
    assert len(vocabulary.merges) == 280147
    assert vocabulary.merges[0] == "Ġ Ġ"
    assert vocabulary.tokens[:3] == ["!", '"', "#"]
    ids = {name: keys[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "eot", "eom")}
    assert ids == {"bos": 128000, "eos": 128001, "eot": 128009, "eom": 128008}
    assert keys["tokenizer.ggml.padding_token_id"] == 128004
    assert keys["tokenizer.ggml.pre"] == "llama-bpe"


def test_merges_are_those_of_transformers(tiktoken_model, tmp_path):
    pytest.importorskip("torch", reason="transformers wants torch")
    slow = pytest.importorskip("transformers.convert_slow_tokenizer", reason="the oracle")
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tiktoken_model)
    ranks, merges = slow.TikTokenConverter(str(path)).extract_vocab_merges_from_model(str(path))
    vocabulary = read_tokenizer_model(path, ())
    assert vocabulary.merges == [" ".join(pair) for pair in merges]
    assert vocabulary.tokens == list(ranks)


def test_special_tokens_are_named_by_release():
    first, later = llama3_special_tokens(False), llama3_special_tokens(True)
    assert len(set(first)) == len(set(later)) == 256
    assert first[0] == later[0] == "<|begin_of_text|>"
    assert first[9] == later[9] == "<|eot_id|>"
    assert first[4] == "<|reserved_special_token_2|>"
    assert first[255] == "<|reserved_special_token_250|>"
    assert later[4] == "<|finetune_right_pad_id|>"
    assert later[8] == "<|eom_id|>"
    assert later[10] == "<|python_tag|>"
    assert later[255] == "<|reserved_special_token_247|>"


def test_a_larger_embedding_is_filled_with_unused_tokens(sentencepiece_model, tmp_path):
    vocabulary = sentencepiece_vocabulary(sentencepiece_model, tmp_path).resized(403, tmp_path)
    assert vocabulary.tokens[400:] == ["[PAD400]", "[PAD401]", "[PAD402]"]
    assert vocabulary.types[400:] == [UNUSED] * 3
    assert vocabulary.scores is not None
    assert len(vocabulary.scores) == 403


def test_a_smaller_embedding_is_refused(sentencepiece_model, tmp_path):
    with pytest.raises(CheckpointRefused, match="400 tokens, the embedding 399 rows"):
        sentencepiece_vocabulary(sentencepiece_model, tmp_path).resized(399, tmp_path)


def test_code_llamas_infill_tokens_are_found_by_text(sentencepiece_model, tmp_path):
    vocabulary = sentencepiece_vocabulary(sentencepiece_model, tmp_path)
    marks = ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    vocabulary = replace(vocabulary, tokens=vocabulary.tokens + marks)
    found = vocabulary.named_ids()
    assert [found[name] for name in ("fim_pre", "fim_suf", "fim_mid", "eot")] == [*range(400, 404)]


@settings(max_examples=200)
@given(damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
@pytest.mark.parametrize("kind", ["sentencepiece_model", "tiktoken_model"])
def test_damage_is_refused_and_never_anything_else(kind, damage, request, tmp_path_factory):
    data = bytearray(request.getfixturevalue(kind))
    for at, byte in damage:
        data[at % len(data)] = byte
    path = tmp_path_factory.mktemp("damaged") / "tokenizer.model"
    path.write_bytes(data)
    try:
        vocabulary = read_tokenizer_model(path, ())
    except CheckpointRefused:
        return
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == len(vocabulary.types)


@pytest.mark.parametrize("model_type", ["unigram", "char", "word"])
def test_other_sentencepiece_models_are_refused(model_type, tmp_path):
    from sentencepiece import SentencePieceTrainer

    with open(tmp_path / "tokenizer.model", "wb") as writer:
        SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d e f"] * 20),
            model_writer=writer,
            model_type=model_type,
            vocab_size=12,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    with pytest.raises(CheckpointRefused, match=model_type):
        read_tokenizer_model(tmp_path / "tokenizer.model", ())


def test_added_tokens_follow_a_tokenizer_model(sentencepiece_model, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": 401}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "added_tokens_decoder": {
                    "1": {"content": "<s>", "special": True},
                    "402": {"content": "<|im_end|>", "special": True},
                    "403": {"content": "<mark>", "special": False},
                },
                "eos_token": {"content": "<|im_end|>"},
                "pad_token": "[PAD]",
                "unk_token": None,
            }
        )
    )
    vocabulary = read_vocabulary(tmp_path, LLAMA2_CONFIG)
    assert vocabulary.tokens[400:] == ["[PAD400]", "[PAD]", "<|im_end|>", "<mark>"]
    assert vocabulary.types[400:] == [UNUSED, CONTROL, CONTROL, 4]
    ids = {"bos": 1, "eos": 402, "unknown": 0, "padding": 401, "eot": 402}
    assert vocabulary.named_ids() == ids


def test_an_end_of_turn_that_only_the_generation_config_names_stops(sentencepiece_model, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 300]}))
    assert read_vocabulary(tmp_path, LLAMA2_CONFIG).named_ids()["eot"] == 300


@pytest.fixture
def fast_llama2(sentencepiece_model, tmp_path) -> Path:
    """The SentencePiece model as transformers rewrites it into tokenizer.json."""
    pytest.importorskip("torch", reason="transformers wants torch")
    transformers = pytest.importorskip("transformers", reason="the oracle")
    pytest.importorskip("google.protobuf", reason="transformers reads tokenizer.model with it")
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model)
    folder = tmp_path / "fast"
    transformers.LlamaTokenizerFast.from_pretrained(tmp_path).save_pretrained(folder)
    (folder / "tokenizer.model").unlink(missing_ok=True)
    return folder


def test_tokenizer_json_of_llama2_is_the_same_vocabulary(
    sentencepiece_model, fast_llama2, tmp_path
):
    slow = sentencepiece_vocabulary(sentencepiece_model, tmp_path)
    fast = read_vocabulary(fast_llama2, LLAMA2_CONFIG)
    assert (fast.model, fast.tokens, fast.types) == (slow.model, slow.tokens, slow.types)
    assert fast.ids == slow.ids
    ours, theirs = tokenizer_of(fast, tmp_path), tokenizer_of(slow, tmp_path)
    for text in random_texts(300):
        assert ours.encode(text) == theirs.encode(text)


def write_llama3_tokenizer_json(folder: Path, vocabulary: Vocabulary, *, pairs: bool) -> None:
    """tokenizer.json as the official one is built; merges as strings or, newer, as pairs."""
    from edgellama.converters.tokenizer_json import LLAMA3_PATTERN

    assert vocabulary.merges is not None
    n = vocabulary.types.index(CONTROL)
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated"}
    added = [
        {"id": n + i, "content": text, "special": True}
        for i, text in enumerate(vocabulary.tokens[n:])
    ]
    content = {
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]},
        "model": {
            "type": "BPE",
            "vocab": {text: id for id, text in enumerate(vocabulary.tokens[:n])},
            "merges": [m.split(" ") if pairs else m for m in vocabulary.merges],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"})
    )


@pytest.mark.parametrize("pairs", [False, True])
def test_tokenizer_json_of_llama3_is_the_same_vocabulary(tiktoken_model, tmp_path, pairs):
    (tmp_path / "tokenizer.model").write_bytes(tiktoken_model)
    want = read_tokenizer_model(tmp_path / "tokenizer.model", llama3_special_tokens(True))
    write_llama3_tokenizer_json(tmp_path, want, pairs=pairs)
    assert read_vocabulary(tmp_path, {}) == want


@pytest.mark.slow
def test_the_official_vocabulary_survives_tokenizer_json(llama3_tokenizer_model, tmp_path):
    want = read_tokenizer_model(llama3_tokenizer_model, llama3_special_tokens(True))
    write_llama3_tokenizer_json(tmp_path, want, pairs=True)
    assert read_vocabulary(tmp_path, {}) == want


def test_another_split_pattern_is_refused(tiktoken_model, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(tiktoken_model)
    vocabulary = read_tokenizer_model(tmp_path / "tokenizer.model", llama3_special_tokens(True))
    write_llama3_tokenizer_json(tmp_path, vocabulary, pairs=True)
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace("{1,3}", ""))
    with pytest.raises(CheckpointRefused, match="not as Llama 3 does"):
        read_vocabulary(tmp_path, {})


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"model": {"type": "Unigram", "vocab": []}}',
        '{"model": {"vocab": {"a": 0, "b": 2}, "merges": []}}',
        '{"model": {"vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}',
        '{"model": {"vocab": {"a": 0, "b": 1}, "merges": ["ab"]}}',
        '{"model": {"vocab": {"a": "x"}, "merges": []}}',
        '{"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": [{"id": 1}]}',
    ],
)
def test_a_damaged_tokenizer_json_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointRefused, match=r"tokenizer\.json"):
        read_vocabulary(tmp_path, {})


@pytest.mark.parametrize("name", TEMPLATES)
def test_our_templates_are_recognised_as_their_formats(
    name, sentencepiece_model, tiktoken_model, tmp_path
):
    (tmp_path / "tokenizer.model").write_bytes(
        tiktoken_model if name.startswith("llama3") else sentencepiece_model
    )
    vocabulary = read_tokenizer_model(tmp_path / "tokenizer.model", llama3_special_tokens(True))
    if name == "codellama-70b":
        vocabulary = replace(
            vocabulary,
            tokens=[*vocabulary.tokens, "<step>"],
            types=[*vocabulary.types, NORMAL],
            scores=[*(vocabulary.scores or ()), 0.0],
        )
    tokenizer = tokenizer_of(vocabulary.with_template(load_template(name)), tmp_path)
    # Code Llama's is Llama 2's, and 3.3's is 3.1's: the format is one, under its first name.
    assert (
        find_chat_format(tokenizer) is CHAT_FORMATS[name]
        or CHAT_FORMATS[name].write is CHAT_FORMATS[find_chat_format(tokenizer).name].write
    )


def test_a_llama3_template_ends_turns_with_eot(tiktoken_model, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(tiktoken_model)
    base = read_tokenizer_model(tmp_path / "tokenizer.model", llama3_special_tokens(True))
    chat = base.with_template(load_template("llama3"))
    assert base.ids["eos"] == 280 + 1
    assert chat.ids["eos"] == 280 + 9


def test_a_template_may_be_a_file(tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    assert load_template(str(tmp_path / "mine.jinja")) == "{{ messages }}"
    assert load_template("none") is None
    with pytest.raises(InvalidRequest, match="neither a file nor one of"):
        load_template("no-such-template")
