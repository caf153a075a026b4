"""Tokenizers against the official encoders, on the official vocabularies and on hostile ones."""

import base64
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.errors import InvalidRequest, ModelFormatError
from edgellama.tokenizer import Tokenizer, load_tokenizer

BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
# GPT-2's printable alphabet, byte by byte, written out rather than computed.
ALPHABET = (
    "ĀāĂăĄąĆćĈĉĊċČčĎďĐđĒēĔĕĖėĘęĚěĜĝĞğ"
    "Ġ!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`"
    "abcdefghijklmnopqrstuvwxyz{|}~ġ"
    "ĢģĤĥĦħĨĩĪīĬĭĮįİıĲĳĴĵĶķĸĹĺĻļĽľĿŀŁł"
    "¡¢£¤¥¦§¨©ª«¬Ń®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏ"  # noqa: RUF001
    "ÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ"  # noqa: RUF001
)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
]


def spm_metadata(pieces: list[tuple[str, float, int]], **keys: Any) -> dict[str, Any]:
    texts, scores, types = zip(*pieces, strict=True)
    metadata = {
        "model": "llama",
        "pre": "default",
        "tokens": list(texts),
        "scores": np.array(scores, np.float32),
        "token_type": np.array(types, np.int32),
        **keys,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}


def bpe_metadata(tokens: list[str], specials: list[str], **keys: Any) -> dict[str, Any]:
    metadata = {
        "model": "gpt2",
        "pre": "llama-bpe",
        "tokens": tokens + specials,
        "token_type": np.array([1] * len(tokens) + [3] * len(specials), np.int32),
        **keys,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}


def small_spm(*more: tuple[str, float, int], **keys: Any) -> dict[str, Any]:
    """<unk> <s> </s>, the bytes, "▁" "a" "▁a", then `more` from id 262 on."""
    return spm_metadata(
        [
            ("<unk>", 0, 2),
            ("<s>", 0, 3),
            ("</s>", 0, 3),
            *((piece, 0, 6) for piece in BYTE_PIECES),
            ("▁", -2, 1),
            ("a", -3, 1),
            ("▁a", -1, 1),
            *more,
        ],
        **keys,
    )


def small_bpe(**keys: Any) -> dict[str, Any]:
    """The 256 bytes, "ab" (256), "abc" (257), then <|begin_of_text|> <|eot_id|> (258, 259)."""
    return bpe_metadata([*ALPHABET, "ab", "abc"], ["<|begin_of_text|>", "<|eot_id|>"], **keys)


@pytest.fixture(scope="module")
def official_spm(llama2_tokenizer_model: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(llama2_tokenizer_model))


@pytest.fixture(scope="module")
def llama2(official_spm: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    def kind(id: int) -> int:
        if official_spm.IsUnknown(id):
            return 2
        return 3 if official_spm.IsControl(id) else 6 if official_spm.IsByte(id) else 1

    return load_tokenizer(
        spm_metadata(
            [
                (official_spm.IdToPiece(id), official_spm.GetScore(id), kind(id))
                for id in range(official_spm.GetPieceSize())
            ],
            bos_token_id=1,
            eos_token_id=2,
        )
    )


@pytest.fixture(scope="module")
def llama3_ranks(llama3_tokenizer_model: Path) -> dict[bytes, int]:
    lines = llama3_tokenizer_model.read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}


@pytest.fixture(scope="module")
def official_bpe(llama3_ranks: dict[bytes, int]) -> tiktoken.Encoding:
    specials = {text: 128000 + i for i, text in enumerate(LLAMA3_SPECIALS)}
    return tiktoken.Encoding(
        "llama3", pat_str=LLAMA3_SPLIT, mergeable_ranks=llama3_ranks, special_tokens=specials
    )


@pytest.fixture(scope="module")
def llama3_metadata(llama3_ranks: dict[bytes, int]) -> dict[str, Any]:
    tokens = ["".join(ALPHABET[byte] for byte in token) for token in llama3_ranks]
    return bpe_metadata(tokens, LLAMA3_SPECIALS, bos_token_id=128000, eos_token_id=128009)


@pytest.fixture(scope="module")
def llama3(llama3_metadata: dict[str, Any]) -> Tokenizer:
    return load_tokenizer(llama3_metadata)


CODE = (
    'def f(x):\n\treturn [i**2 for i in x if i != 0x1F]  # {"a": null}\r\n'
    "    int main() { p->q += 1; }\n"
)
EMOJI = ("🦙", "👩‍👩‍👧", "🇫🇷", "👍🏽", "❤️", "1️⃣")
SCRIPTS = (
    (0x20, 0x7E),
    (0xA1, 0x24F),  # Latin
    (0x300, 0x36F),  # combining marks
    (0x370, 0x52F),  # Greek, Cyrillic
    (0x531, 0x7BF),  # Armenian, Hebrew, Arabic, Syriac
    (0x900, 0xDFF),  # Indic
    (0xE01, 0x1FFF),  # Thai to Greek Extended
    (0x2000, 0x2BFF),  # punctuation, symbols, arrows, box drawing
    (0x3040, 0x30FF),  # kana
    (0x4E00, 0x9FFF),  # Han
    (0xAC00, 0xD7A3),  # Hangul
    (0xE000, 0xFFFF),  # private use, presentation forms
    (0x10000, 0x10FFFF),
)


def random_strings(count: int, seed: int) -> Iterator[str]:
    """Every script, runs of whitespace, emoji, control characters, code; but never U+2581."""
    rng = random.Random(seed)

    def run() -> str:
        match rng.randrange(6):
            case 0:
                return rng.choice(" \t\n\r\u00a0\u2028\u3000") * rng.randint(1, 9)
            case 1:
                return rng.choice(EMOJI)
            case 2:
                return "".join(chr(rng.randrange(0x20)) for _ in range(3)) + "\x7f\x85"
            case 3:
                begin = rng.randrange(len(CODE))
                return CODE[begin : begin + rng.randint(1, 30)]
            case 4:
                return rng.choice(("the quick", " 12345 ", "<|eot_id|>", "</s>", "don't", "É", "ß"))
            case _:
                low, high = rng.choice(SCRIPTS)
                return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 12)))

    for _ in range(count):
        yield "".join(run() for _ in range(rng.randint(1, 5))).replace("\u2581", "")


def test_llama2_ids_are_sentencepieces_and_decode_to_the_text(
    llama2: Tokenizer, official_spm: sentencepiece.SentencePieceProcessor
) -> None:
    for text in random_strings(10_000, seed=1):
        ids = llama2.encode(text)
        assert ids == official_spm.EncodeAsIds(text)
        assert llama2.decode(ids) == text


def test_llama3_ids_are_tiktokens_and_decode_to_the_text(
    llama3: Tokenizer, official_bpe: tiktoken.Encoding
) -> None:
    for text in random_strings(10_000, seed=2):
        ids = llama3.encode(text)
        assert ids == official_bpe.encode(text, disallowed_special=())
        assert llama3.decode(ids) == text


def test_the_first_llama3_ids_are_those_of_all_tokens(
    llama3_metadata: dict[str, Any], official_bpe: tiktoken.Encoding
) -> None:
    texts = [text for text in random_strings(80, seed=5) if text]
    for begin in range(0, 48, 12):  # few of each: so many short texts do without all tokens
        fresh = load_tokenizer(llama3_metadata)
        for text in texts[begin : begin + 12]:
            assert fresh.encode(text) == official_bpe.encode(text, disallowed_special=())


def test_a_word_that_a_fine_tune_added_is_found_in_the_first_text_and_later(
    llama3_ranks: dict[bytes, int],
) -> None:
    tokens = ["".join(ALPHABET[byte] for byte in token) for token in llama3_ranks]
    metadata = bpe_metadata([*tokens, "edgellama"], LLAMA3_SPECIALS)
    types = metadata["tokenizer.ggml.token_type"]
    types[len(tokens)] = 4
    tokenizer = load_tokenizer(metadata)
    first = tokenizer.encode("an edgellama runs")
    assert first.count(len(tokens)) == 1
    assert tokenizer.decode(first) == "an edgellama runs"
    tokenizer.encode("long " * 100)
    assert tokenizer.encode("an edgellama runs") == first


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("Hello world", [15043, 3186]),
        (" ", [259]),
        ("  a", [259, 263]),
        ("a  b\n\tc", [263, 29871, 289, 13, 12, 29883]),
        ("1234", [29871, 29896, 29906, 29941, 29946]),
        ("日本 🦙", [29871, 30325, 30346, 29871, 243, 162, 169, 156]),
        ("<s>", [529, 29879, 29958]),
    ],
)
def test_llama2_vectors(llama2: Tokenizer, text: str, ids: list[int]) -> None:
    assert llama2.encode(text) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("Hello world", [9906, 1917]),
        ("\n\n", [271]),
        (" \n\n", [4815]),
        ("ipython", [23799, 4690]),
        ("12345", [4513, 1774]),
        ("This is a test sentence.", [2028, 374, 264, 1296, 11914, 13]),
    ],
)
def test_llama3_vectors(llama3: Tokenizer, text: str, ids: list[int]) -> None:
    assert llama3.encode(text) == ids


def test_llama2_decodes_any_ids_as_sentencepiece_does(
    llama2: Tokenizer, official_spm: sentencepiece.SentencePieceProcessor
) -> None:
    rng = random.Random(3)
    for _ in range(2_000):
        # half of them bytes and controls, so that broken UTF-8 and leading spaces are common
        ids = [rng.randrange(rng.choice((264, 32000))) for _ in range(rng.randint(0, 8))]
        assert llama2.decode(ids) == official_spm.Decode(ids)


def test_every_llama3_token_stands_for_its_bytes(
    llama3: Tokenizer, llama3_ranks: dict[bytes, int]
) -> None:
    assert [llama3.piece(id) for id in range(128_000)] == list(llama3_ranks)
    assert llama3.piece(128009) == b"<|eot_id|>"


@pytest.mark.parametrize("run", ["a", " ", "aB3 ", "\n", "🦙"])
def test_long_texts_are_cut_where_metas_encoder_cuts_them(
    llama3: Tokenizer, official_bpe: tiktoken.Encoding, run: str
) -> None:
    def metas_parts(text: str) -> Iterator[str]:
        for begin in range(0, len(text), 400_000):
            part = text[begin : begin + 400_000]
            start = length = 0
            for i, char in enumerate(part):
                length = length + 1 if i and char.isspace() == part[i - 1].isspace() else 1
                if length > 25_000:
                    yield part[start:i]
                    start, length = i, 1
            yield part[start:]

    text = (run * 60_000)[:60_001] + "x\u2003y"
    assert llama3.encode(text) == [
        id for part in metas_parts(text) for id in official_bpe.encode_ordinary(part)
    ]


def test_the_cut_after_400_000_characters(
    llama3: Tokenizer, official_bpe: tiktoken.Encoding
) -> None:
    text = "word " * 100_000
    halves = (
        official_bpe.encode_ordinary(text[:400_000]),
        official_bpe.encode_ordinary(text[400_000:]),
    )
    assert llama3.encode(text) == [*halves[0], *halves[1]]


@pytest.mark.parametrize("text", ["<|eot_id|>", "<|begin_of_text|>hi<|eot_id|>", "<|python_tag|>"])
def test_llama3_text_never_becomes_a_control_token(llama3: Tokenizer, text: str) -> None:
    ids = llama3.encode(text)
    assert max(ids) < 128_000
    assert llama3.decode(ids) == text


@given(st.lists(st.sampled_from(["<s>", "</s>", "<unk>", "<0x41>", "<", "s", ">", " ", "a"])))
def test_spm_text_never_becomes_a_control_token(words: list[str]) -> None:
    tokenizer = SMALL_SPM
    ids = tokenizer.encode("".join(words))
    assert not any(tokenizer.is_control(id) or id == 0 for id in ids)
    assert tokenizer.decode(ids) == "".join(words)


def test_control_tokens_are_parsed_when_asked_for(llama3: Tokenizer) -> None:
    ids = llama3.encode("<|start_header_id|>user<|end_header_id|>\n\nHello", bos=True, special=True)
    assert ids == [128000, 128006, 882, 128007, 271, 9906]


def test_the_longer_of_two_control_tokens_is_parsed() -> None:
    tokenizer = load_tokenizer(small_spm(("<e>", 0, 3), ("<e><x>", 0, 3)))
    assert tokenizer.encode("<e><x><e>", special=True) == [263, 262]


def test_an_end_of_turn_token_of_the_wrong_type_is_still_no_text() -> None:
    tokenizer = load_tokenizer(small_spm(("<|im_end|>", 0, 4), eos_token_id=262))
    assert 262 not in tokenizer.encode("<|im_end|>")
    assert tokenizer.decode([262]) == ""


def test_words_added_by_a_fine_tune_are_text_and_stay_whole() -> None:
    for metadata in (
        small_spm(("<think>", 0, 4)),
        bpe_metadata(
            [*ALPHABET], ["x", "<think>"], token_type=np.array([1] * 256 + [3, 4], np.int32)
        ),
    ):
        tokenizer = load_tokenizer(metadata)
        id = tokenizer.token_id("<think>")
        assert id is not None
        assert tokenizer.encode("a<think>a").count(id) == 1
        assert tokenizer.decode(tokenizer.encode("a<think>a")) == "a<think>a"


def test_every_end_of_turn_stops(llama3: Tokenizer, llama2: Tokenizer) -> None:
    assert llama3.stop_ids == {128001, 128008, 128009}
    assert llama2.stop_ids == {2}


def test_stop_tokens_are_found_by_key_and_by_text() -> None:
    by_text = load_tokenizer(small_bpe())
    assert by_text.stop_ids == {259}
    by_key = load_tokenizer(small_spm(("<|end|>", 0, 3), eot_token_id=262))
    assert by_key.stop_ids == {2, 262}


def test_bos_stands_in_front_once(llama2: Tokenizer) -> None:
    assert llama2.encode("Hello world", bos=True) == [1, 15043, 3186]
    assert llama2.add_bos


def test_bos_asked_of_a_vocabulary_without_one_is_refused() -> None:
    tokenizer = load_tokenizer(bpe_metadata([*ALPHABET], ["<|eot_id|>"]))
    assert not tokenizer.add_bos
    with pytest.raises(InvalidRequest, match="no beginning-of-sequence"):
        tokenizer.encode("a", bos=True)


def test_the_file_decides_about_bos_and_the_dummy_prefix() -> None:
    tokenizer = load_tokenizer(small_spm(add_bos_token=False, add_space_prefix=False))
    assert not tokenizer.add_bos
    assert tokenizer.encode("a") == [260]
    assert tokenizer.decode([261]) == " a"


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([1, 15043, 2], "Hello"),
        ([259, 15043], "  Hello"),
        ([29871], ""),
        ([1, 29871, 15043], " Hello"),
        ([2, 15043, 1, 15043], "Hello Hello"),
        ([243, 162], "��"),
    ],
)
def test_llama2_decoding_drops_one_space_at_the_start(
    llama2: Tokenizer, ids: list[int], text: str
) -> None:
    assert llama2.decode(ids) == text


SMALL_SPM = load_tokenizer(small_spm(("🦙", -4, 1)))
SMALL_BPE = load_tokenizer(small_bpe())


@pytest.mark.parametrize("tokenizer", [SMALL_SPM, SMALL_BPE], ids=["spm", "bpe"])
@given(data=st.data())
def test_streamed_pieces_join_to_the_decoded_text(tokenizer: Tokenizer, data: Any) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    stream = tokenizer.stream()
    assert "".join([stream.push(id) for id in ids]) + stream.flush() == tokenizer.decode(ids)


@pytest.mark.parametrize("tokenizer", [SMALL_SPM, SMALL_BPE], ids=["spm", "bpe"])
@given(text=st.text())
def test_a_stream_emits_whole_characters_only(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("\u2581", "").replace("\ufffd", "")
    stream = tokenizer.stream()
    pushed = [stream.push(id) for id in tokenizer.encode(text)]
    assert "\ufffd" not in "".join(pushed)
    assert stream.flush() == ""
    assert "".join(pushed) == text


def test_a_character_cut_off_by_the_end_is_flushed_as_one_sign_a_byte_or_one() -> None:
    for tokenizer, shown in ((SMALL_SPM, "��"), (SMALL_BPE, "�")):
        stream = tokenizer.stream()
        llama = tokenizer.encode("🐫")[-4:]
        assert [stream.push(id) for id in llama[:2]] == ["", ""]
        assert stream.flush() == shown  # as sentencepiece and tiktoken show it


@pytest.mark.parametrize("tokenizer", [SMALL_SPM, SMALL_BPE], ids=["spm", "bpe"])
@pytest.mark.parametrize("text", ["\ud83e", "a\udd99b", "\ud83e\udd99"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        tokenizer.encode(text)


@pytest.mark.parametrize("tokenizer", [SMALL_SPM, SMALL_BPE], ids=["spm", "bpe"])
@pytest.mark.parametrize("id", [-1, 100_000])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, id: int) -> None:
    with pytest.raises(InvalidRequest, match=f"token id {id}: the vocabulary holds 0 to"):
        tokenizer.decode([id])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "unigram"}, "'unigram' is not known"),
        ({"model": None}, "None is not known"),
        ({"tokens": None}, "no vocabulary"),
        ({"tokens": []}, "no vocabulary"),
        ({"scores": None}, "scores: expected 262 numbers, found 0"),
        ({"scores": [0.0] * 261}, "scores: expected 262 numbers, found 261"),
        ({"scores": [float("nan")] * 262}, "score of token 0 is nan"),
        ({"token_type": "all normal"}, "token_type: expected 262 numbers"),
        ({"token_type": [7] * 262}, "token 0 is of type 7"),
        ({"token_type": [1] * 262}, "SentencePiece refuses this vocabulary"),
        ({"eos_token_id": 262}, "eos_token_id: 262 is not an id of this vocabulary"),
        ({"bos_token_id": -1}, "bos_token_id: -1 is not an id"),
        ({"bos_token_id": "first"}, "bos_token_id: 'first' is not an id"),
        ({"tokens": ["a"] * 262}, "'a' is typed as a byte"),
        ({"tokens": [""] * 262}, "token 0 is ''"),
        ({"tokens": [1] * 262}, "expected an array of strings"),
    ],
)
def test_damaged_spm_vocabularies_are_refused(change: dict[str, Any], message: str) -> None:
    metadata = small_spm() | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(ModelFormatError, match=message):
        load_tokenizer(metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre": "deepseek-llm"}, "'deepseek-llm' is not known; .* llama-bpe"),
        ({"tokens": [*ALPHABET, "ab", "ab", "x", "y"]}, "doubled"),
        ({"tokens": [*ALPHABET, "ab", "", "x", "y"]}, "empty"),
        ({"tokens": [*ALPHABET, "ab", "日", "x", "y"]}, "not in GPT-2's byte alphabet"),
        ({"tokens": [*ALPHABET, "ab", "a b", "x", "y"]}, "not in GPT-2's byte alphabet"),
        ({"tokens": ["xyz", *ALPHABET[1:], "ab", "abc", "x", "y"]}, "1 of the 256 .* 0x00"),
    ],
)
def test_damaged_bpe_vocabularies_are_refused(change: dict[str, Any], message: str) -> None:
    metadata = small_bpe() | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(ModelFormatError, match=message):
        load_tokenizer(metadata)


def test_the_first_llama3_files_which_named_no_pre_tokenizer_are_read() -> None:
    metadata = small_bpe()
    del metadata["tokenizer.ggml.pre"]
    assert load_tokenizer(metadata).encode("abc") == [257]


WORDS = st.text("ab<>s/▁ é\n\x00", max_size=6)


@settings(max_examples=60)
@given(st.lists(st.tuples(WORDS, st.floats(width=32), st.integers(0, 7)), max_size=8))
def test_a_vocabulary_of_anything_loads_or_is_refused(pieces: list[Any]) -> None:
    metadata = small_spm(*pieces)
    try:
        tokenizer = load_tokenizer(metadata)
    except ModelFormatError:
        return
    text = "ab<s></s> é\n\x00"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_vocabulary_of_128k_tokens_loads_within_half_a_second_of_work(
    llama3_metadata: dict[str, Any],
) -> None:
    def load() -> float:
        begin = time.process_time()
        load_tokenizer(llama3_metadata)
        return time.process_time() - begin

    assert min(load() for _ in range(3)) < 0.5


@pytest.mark.parametrize("text", ["a", " ", "\n", "🦙", "ab cd "])
def test_encoding_takes_time_in_proportion_to_the_text(
    llama2: Tokenizer, llama3: Tokenizer, text: str
) -> None:
    for tokenizer in (llama2, llama3):

        def encode(n: int, tokenizer: Tokenizer = tokenizer) -> float:
            begin = time.process_time()
            tokenizer.encode((text * n)[:n])
            return time.process_time() - begin

        small, large = (min(encode(n) for _ in range(3)) for n in (25_000, 200_000))
        assert large < 40 * small + 0.1  # 8 times the text; quadratic would take 64 times


def test_the_libraries_are_imported_when_a_vocabulary_needs_them() -> None:
    code = (
        "import sys, edgellama.tokenizer; print({'tiktoken', 'sentencepiece'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
