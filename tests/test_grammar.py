"""A grammar over tokens: masks, undoing, ends, and the text that comes of it."""

import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LLAMA3_SPECIALS, bpe_vocabulary, spm_vocabulary
from grammar_drives import answer, llama3_tokenizer, may_follow

from edgellama.converters.tokenizer_model import read_tokenizer_model
from edgellama.errors import InvalidRequest
from edgellama.grammar import Constraint, Grammar
from edgellama.tokenizer import Tokenizer, load_tokenizer

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
WORDS = Grammar.regex("(the|and|was)( (the|cat))*[.!]")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def spm() -> Tokenizer:
    return load_tokenizer(spm_vocabulary())


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return load_tokenizer(bpe_vocabulary())


@pytest.fixture(scope="module")
def llama2(llama2_tokenizer_model: Path) -> Tokenizer:
    return load_tokenizer(read_tokenizer_model(llama2_tokenizer_model, ()).metadata())


@pytest.fixture(scope="module")
def llama3(llama3_tokenizer_model: Path) -> Tokenizer:
    return llama3_tokenizer(llama3_tokenizer_model, LLAMA3_SPECIALS)


@pytest.fixture(params=["spm", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def started(grammar: Grammar, tokenizer: Tokenizer, text: str = "") -> Constraint:
    """The constraint behind a text that continues another, spelled in the smallest tokens."""
    constraint = grammar.start(tokenizer, tokenizer.stop_ids, continues=True)
    single = {tokenizer.piece(id): id for id in reversed(range(tokenizer.vocab_size))}
    for byte in text.encode():
        constraint.accept(single[bytes([byte])])
    return constraint


@pytest.mark.parametrize("text", ["", "th", "the", "was ", "and cat"])
def test_the_mask_holds_exactly_the_tokens_that_lead_to_a_match(
    text: str, tokenizer: Tokenizer
) -> None:
    words = ("", "the", "and", "was", "once", "é")
    matches = [f"{a}{b}{c}{d}" for a in words for b in ("", " ") for c in words for d in ".!"]
    matches += ["the cat", "and cat said", "time"]
    grammar = Grammar.regex("|".join(map(re.escape, matches)))
    allowed = may_follow(started(grammar, tokenizer, text), tokenizer)
    for id in range(tokenizer.vocab_size):
        if not tokenizer.is_control(id):
            whole = text.encode() + tokenizer.piece(id)
            leads = any(match.encode().startswith(whole) for match in matches)
            assert allowed[id] == leads, tokenizer.piece(id)


def test_control_tokens_are_no_text(bpe: Tokenizer) -> None:
    allowed = may_follow(started(Grammar.regex("<.*>|.*"), bpe), bpe)
    assert {id for id in bpe.control_tokens.values() if allowed[id]} == bpe.stop_ids


def test_undo_is_as_if_the_tokens_had_never_been(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        constraint, plain = (WORDS.start(tokenizer, tokenizer.stop_ids) for _ in range(2))
        ids = answer(WORDS, tokenizer, int(rng.integers(1000)))
        assert ids is not None
        keep = int(rng.integers(len(ids) + 1))
        for id in ids:
            constraint.accept(id)
        constraint.accept(min(tokenizer.stop_ids))
        constraint.undo(len(ids) + 1 - keep)
        for id in ids[:keep]:
            plain.accept(id)
        assert constraint.finished == plain.finished
        assert (may_follow(constraint, tokenizer) == may_follow(plain, tokenizer)).all()


def test_the_stop_ids_may_follow_exactly_where_the_grammar_accepts(bpe: Tokenizer) -> None:
    stops = sorted(bpe.stop_ids)
    constraint = started(Grammar.regex("ab?"), bpe)
    assert not may_follow(constraint, bpe)[stops].any()
    constraint = started(Grammar.regex("ab?"), bpe, "a")
    assert may_follow(constraint, bpe)[stops].all()
    assert not constraint.finished
    constraint = started(Grammar.regex("ab?"), bpe, "ab")
    assert np.flatnonzero(may_follow(constraint, bpe)).tolist() == stops
    assert constraint.finished
    constraint.accept(stops[0])
    assert constraint.finished
    assert np.flatnonzero(may_follow(constraint, bpe)).tolist() == stops


def test_a_stop_id_that_is_text_may_not_cut_what_is_unfinished(bpe: Tokenizer) -> None:
    x = bpe.encode("x")[0]
    constraint = Grammar.regex("x?y").start(bpe, {x})
    assert not may_follow(constraint, bpe)[x]
    with pytest.raises(InvalidRequest, match="may not follow"):
        constraint.accept(bpe.encode("z")[0])
    constraint.accept(bpe.encode("y")[0])
    assert may_follow(constraint, bpe)[x]


def test_a_token_that_may_not_follow_changes_nothing(tokenizer: Tokenizer) -> None:
    constraint = started(Grammar.json_schema(OBJECT), tokenizer, '{"a":')
    before = may_follow(constraint, tokenizer)
    for id in (*np.flatnonzero(~before)[:50].tolist(), -1, tokenizer.vocab_size):
        with pytest.raises(InvalidRequest, match="may not follow"):
            constraint.accept(id)
    assert (may_follow(constraint, tokenizer) == before).all()
    with pytest.raises(ValueError, match="cannot undo"):
        constraint.undo(100)


def test_masked_logits_keep_their_values_and_rows_beyond_the_vocabulary_are_masked(
    tokenizer: Tokenizer,
) -> None:
    logits = np.random.default_rng(0).normal(size=tokenizer.vocab_size + 5).astype(np.float32)
    before = logits.copy()
    masked = started(WORDS, tokenizer).mask(logits)
    allowed = may_follow(started(WORDS, tokenizer), tokenizer)
    assert (logits == before).all()
    assert (masked[:-5][allowed] == logits[:-5][allowed]).all()
    assert np.isneginf(masked[:-5][~allowed]).all()
    assert np.isneginf(masked[-5:]).all()


@pytest.mark.parametrize("family", ["spm", "bpe", "llama2", "llama3"])
def test_the_text_of_the_tokens_is_what_the_grammar_accepts(
    family: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(family)
    for seed in range(5):
        for source in (PERSON, {"enum": [" lead", "  two", "é日"]}):
            grammar = Grammar.json_schema(source)
            ids = answer(grammar, tokenizer, seed, patience=10)
            assert ids is not None
            assert grammar.check(tokenizer.decode(ids)), tokenizer.decode(ids)


@pytest.mark.parametrize("family", ["spm", "llama2"])
@pytest.mark.parametrize("pattern", [r" ?[a-z]{1,3} b", r" [a-z]+", r"[a-z ]{1,4}\.", "  y"])
@pytest.mark.parametrize("continues", [False, True])
def test_a_leading_space_is_text_only_where_sentencepiece_keeps_it(
    family: str, pattern: str, continues: bool, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(family)
    grammar = Grammar.regex(pattern)
    for seed in range(8):
        ids = answer(grammar, tokenizer, seed, patience=3, continues=continues)
        assert ids is not None
        decoder = tokenizer.stream()
        if continues:
            for id in tokenizer.encode("Hello"):
                decoder.push(id)
        text = "".join(map(decoder.push, ids)) + decoder.flush()
        assert re.fullmatch(pattern, text), text


def test_the_first_token_may_be_a_word_with_its_space_before(spm: Tokenizer) -> None:
    the = spm.token_id("▁the")
    assert the is not None
    grammar = Grammar.regex("the( the)?")
    assert may_follow(grammar.start(spm, spm.stop_ids), spm)[the]
    assert not may_follow(grammar.start(spm, spm.stop_ids, continues=True), spm)[the]


def test_grammars_are_equal_if_written_alike_and_can_be_keys() -> None:
    one, other = Grammar.json_schema(OBJECT), Grammar.json_schema(dict(OBJECT))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Grammar.json_object()


def test_one_grammar_serves_several_threads(bpe: Tokenizer) -> None:
    grammar = Grammar.json_schema(PERSON)
    texts: dict[int, str] = {}

    def run(seed: int) -> None:
        texts[seed] = bpe.decode(answer(grammar, bpe, seed) or [])

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {seed: bpe.decode(answer(grammar, bpe, seed) or []) for seed in range(8)}


def test_a_json_object_is_an_object() -> None:
    grammar = Grammar.json_object()
    assert grammar.check('{"a": [1, {"b":null}]}')
    for text in ("[]", "3", '{"a":}', "{", ""):
        assert not grammar.check(text)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("^ab|c$", ["ab", "c"], ["abc", "a"]),
        (r"a\$", ["a$"], ["a"]),
        (r"a\\$", ["a\\"], ["a", "a\\$"]),
        ("a/b", ["a/b"], ["ab"]),
        ("x\ny", ["x\ny"], ["xy"]),
        (r"\d{2}[^a]", ["12b", "12é"], ["12a", "1b"]),
        ("(?i)ab", ["AB"], ["abc"]),
        ("", [""], ["a"]),
        ("a{0,1000000000}", ["", "aaa"], ["b"]),
    ],
)
def test_a_regex_matches_from_end_to_end(pattern: str, yes: list[str], no: list[str]) -> None:
    grammar = Grammar.regex(pattern)
    assert [text for text in yes if not grammar.check(text)] == []
    assert [text for text in no if grammar.check(text)] == []


@pytest.mark.parametrize(
    ("make", "text", "says"),
    [
        (Grammar.regex, "(", "unclosed group"),
        (Grammar.regex, r"\bword", "lookarounds not supported"),
        (Grammar.regex, "(a)\\1", "backreferences are not supported"),
        (Grammar.regex, "[a&&b]", "no text at all matches"),
        (Grammar.regex, "(" * 10_000, "regex"),
        (Grammar.regex, "a" * 100_000, "more than 65,536 characters"),
        (Grammar.regex, "\ud800", "lone surrogate"),
        (Grammar.regex, 5, "expected text"),
        (Grammar.lark, 'start: "a" x', 'line 1, column 8: unknown name: "x"'),
        (Grammar.lark, 'start: "a', "line 1"),
        (Grammar.lark, "a: /b/", "no start rule"),
        (Grammar.lark, "start: a\na: b\nb: a", "no text at all matches"),
        (Grammar.lark, "start[max_tokens=3]: /a*/", "max_tokens is not supported"),
        (Grammar.lark, 'start: a\na[stop="b"]: /a*/', "line 2: stop is not supported"),
        (Grammar.lark, 'start: %json {"uniqueItems": true}', '#/uniqueItems: "uniqueItems"'),
        (Grammar.lark, 'start: %json {"type":', "line 1: %json"),
        (Grammar.lark, "start: %json " + "[" * 60_000, "%json"),
        (Grammar.lark, "start: " + "(" * 60_000, "deeply nested"),
        (Grammar.lark, "start: T0\n" + "\n".join(f"T{i}: T{i + 1}" for i in range(2000)), "1000"),
        (Grammar.lark, 'start: %lark { start: "a" }', "%lark is not supported"),
    ],
)
def test_what_is_no_grammar_is_refused_in_a_line(make: Any, text: Any, says: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        make(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_lark_may_name_control_tokens_and_hold_schemas(bpe: Tokenizer) -> None:
    grammar = Grammar.lark('start: <|python_tag|> %json {"type": "integer"} <|eom_id|>')
    tag, eom = bpe.control_tokens["<|python_tag|>"], bpe.control_tokens["<|eom_id|>"]
    constraint = grammar.start(bpe, bpe.stop_ids)
    assert np.flatnonzero(may_follow(constraint, bpe)).tolist() == [tag]
    for id in (tag, *bpe.encode("12")):
        constraint.accept(id)
    assert may_follow(constraint, bpe)[eom]
    assert not may_follow(constraint, bpe)[bpe.control_tokens["<|eot_id|>"]]
    constraint.accept(eom)
    assert constraint.finished
    constraint.undo(1)
    assert not constraint.finished


def test_a_control_token_that_a_vocabulary_lacks_is_an_error(spm: Tokenizer) -> None:
    grammar = Grammar.lark("start: <|python_tag|>")
    with pytest.raises(InvalidRequest, match="unknown special token"):
        grammar.start(spm, spm.stop_ids)


def test_lark_words_that_are_text_are_text() -> None:
    grammar = Grammar.lark('start: "%json {" /stop=%json/ // %json max_tokens=3\n# stop=')
    assert grammar.check("%json {stop=%json")
