"""Answers that are complete when their tokens run out, whatever was chosen until then."""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import bpe_vocabulary, spm_vocabulary
from grammar_drives import may_follow
from random_schema import RandomSchema, validates

from edgellama import Llama
from edgellama.grammar import Constraint, Grammar
from edgellama.grammar.ending import Ending, least_text
from edgellama.grammar.json_place import MOST_DIGITS, JsonPlace
from edgellama.grammar.regex_tails import regex_tails
from edgellama.grammar.token_trie import byte_trie, trie_of
from edgellama.grammar.walk import ORDERS, Walk
from edgellama.speculation import Speculation
from edgellama.tokenizer import Tokenizer, load_tokenizer

QUESTION: list[Any] = [{"role": "user", "content": "Plan a trip."}]
TRIP = {
    "type": "object",
    "properties": {
        "legs": {"type": "array", "items": {"$ref": "#/$defs/leg"}, "minItems": 1},
        "mode": {"enum": ["rail", "foot", None]},
        "cost": {"type": "number", "minimum": -3, "maximum": 12.5},
    },
    "required": ["legs", "mode", "cost"],
    "additionalProperties": False,
    "$defs": {
        "leg": {
            "type": "object",
            "properties": {"to": {"type": "string"}, "km": {"type": "number"}},
            "required": ["to", "km"],
            "additionalProperties": False,
        }
    },
}
# What a model may go on with for ever, and a hasty answer may not leave out.
TREE = {
    "type": "object",
    "properties": {
        "child": {"$ref": "#"},
        "mail": {"type": "string", "format": "email"},
        "sevens": {"type": "array", "items": {"type": "integer", "multipleOf": 7, "minimum": 1}},
        "code": {"type": "string", "pattern": "^(ab)*c[0-9]{3}$"},
    },
    "required": ["mail", "sevens", "code"],
    "additionalProperties": False,
}
LIST_GBNF = 'root ::= "- " item ("\\n- " item)*\nitem ::= [a-z]+ " (" [0-9]+ ")"'


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama() as shipped:
        yield shipped


@pytest.fixture(scope="module", params=["spm", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return load_tokenizer(spm_vocabulary() if request.param == "spm" else bpe_vocabulary())


def wander(constraint: Constraint, tokenizer: Tokenizer, limit: int, seed: int) -> list[int]:
    """The ids of a model that chooses anything that may follow but an end."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    while len(ids) < limit:
        allowed = may_follow(constraint, tokenizer)
        stops = allowed[sorted(tokenizer.stop_ids)].any()
        allowed[sorted(tokenizer.stop_ids)] = False
        if not allowed.any():
            assert stops
            break
        id = constraint.in_time(int(rng.choice(np.flatnonzero(allowed))))
        constraint.accept(id)
        if id in tokenizer.stop_ids:
            break
        ids.append(id)
    return ids


@pytest.mark.parametrize("ten", range(10))
def test_answers_to_random_schemas_are_complete_within_any_limit(
    ten: int, tokenizer: Tokenizer
) -> None:
    for seed in range(10 * ten, 10 * ten + 10):
        schema = RandomSchema(seed).schema()
        grammar = Grammar.json_schema(schema)
        least = least_text(grammar.source)
        assert least is not None
        assert validates(schema, least.decode())
        limit = len(least) + seed  # a byte takes at most a token
        constraint = grammar.start(tokenizer, tokenizer.stop_ids, limit=limit)
        text = tokenizer.decode(wander(constraint, tokenizer, limit, seed))
        assert validates(schema, text), f"seed {seed}: {text}"


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.json_schema(TREE),
        Grammar.json_object(),
        Grammar.gbnf(LIST_GBNF),
        Grammar.regex("[a-z]+(, [a-z]+)*[.!]"),
        Grammar.regex("(no )*yes"),
        Grammar.lark('start: "<" %json {"type": "array", "minItems": 4} ">"'),
    ],
)
def test_any_kind_of_grammar_comes_to_its_end(grammar: Grammar, tokenizer: Tokenizer) -> None:
    for seed in range(8):
        limit = 90 + seed
        constraint = grammar.start(tokenizer, tokenizer.stop_ids, limit=limit)
        text = tokenizer.decode(wander(constraint, tokenizer, limit, seed))
        assert grammar.check(text), text


def test_one_token_less_than_it_takes_is_cut_and_no_error(tokenizer: Tokenizer) -> None:
    grammar = Grammar.json_schema({"const": "xyzzy"})
    least = len(trie_of(tokenizer).spell(b'"xyzzy"'))
    for limit in (least - 1, least):
        constraint = grammar.start(tokenizer, tokenizer.stop_ids, limit=limit)
        text = tokenizer.decode(wander(constraint, tokenizer, limit, seed=0))
        assert (text == '"xyzzy"') == (limit == least)
        assert '"xyzzy"'.startswith(text)


def test_without_a_limit_nothing_is_hurried(tokenizer: Tokenizer) -> None:
    grammar = Grammar.regex("[a-z]+")
    constraint = grammar.start(tokenizer, tokenizer.stop_ids)
    assert len(wander(constraint, tokenizer, 300, seed=0)) == 300
    assert not constraint.hurried


def test_what_was_taken_back_leaves_no_trace(tokenizer: Tokenizer) -> None:
    grammar, limit = Grammar.json_schema(TREE), 120
    plain, other = (grammar.start(tokenizer, tokenizer.stop_ids, limit=limit) for _ in range(2))
    ids = wander(plain, tokenizer, limit, seed=3)
    for id in ids[:60]:
        assert other.in_time(id) == id
        other.accept(id)
    n = len(wander(other, tokenizer, limit - 60, seed=6))
    assert other.hurried
    other.undo(n)
    assert not other.hurried
    for id in ids[60:]:
        assert other.in_time(id) == id
        other.accept(id)


def test_a_grammar_that_names_control_tokens_is_cut(tokenizer: Tokenizer) -> None:
    name = next(iter(tokenizer.control_tokens))
    grammar = Grammar.lark(f"start: {name} /[a-z]+x/")
    constraint = grammar.start(tokenizer, tokenizer.stop_ids, limit=5)
    constraint.accept(tokenizer.control_tokens[name])
    assert len(wander(constraint, tokenizer, 4, seed=0)) == 4


def test_an_ending_goes_on_from_what_was_written() -> None:
    grammar = Grammar.json_schema(TREE).source
    text = b'{"mail": "a'
    ending = Ending(grammar, text)
    for data in (b"@", b"b.c", b'","sevens":[7', b'0],"code":"ab', b"c12"):
        behind = ending.find_behind(data)
        ending.write(data)
        text += data
        assert behind is not None
        assert ending.find() == behind
        assert validates(TREE, (text + behind).decode())
    assert ending.find_behind(b"x") is None


@pytest.mark.slow
def test_answers_of_the_shipped_model_to_random_schemas_validate(llm: Llama) -> None:
    """At the usual sampling it lets half of them go on for ever."""
    hurried = 0
    for seed in range(1000, 1060):
        schema = RandomSchema(seed).schema()
        grammar = Grammar.json_schema(schema)
        limit = 150 + len(least_text(grammar.source) or b"")
        answer = llm.chat(QUESTION, grammar=grammar, seed=seed, max_tokens=limit)
        assert validates(schema, answer.text), f"seed {seed}: {answer.text}"
        hurried += answer.finish_reason == "length"
    assert 0 < hurried < 60


@pytest.mark.parametrize("temperature", [0.0, 0.8, 2.0])
def test_the_shipped_models_trips_validate_and_end_by_themselves(
    llm: Llama, temperature: float
) -> None:
    schema = json.loads(json.dumps(TRIP))
    schema["properties"]["legs"]["maxItems"] = 2
    schema["$defs"]["leg"]["properties"]["to"]["maxLength"] = 20
    for seed in range(4):
        answer = llm.chat(
            QUESTION, grammar=Grammar.json_schema(schema), seed=seed, temperature=temperature
        )
        assert answer.finish_reason == "stop"
        assert validates(schema, answer.text), answer.text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number"},
        {"type": "number", "minimum": 0},
        {"type": "number", "exclusiveMaximum": 0},
        {"type": "number", "multipleOf": 7},
        {"type": "number", "minimum": -0.5, "maximum": 0.5},
        {"type": "number", "minimum": 1e-15, "maximum": 3e-15},
        {"type": "integer"},
        {},
    ],
)
def test_numbers_end(schema: dict[str, Any], llm: Llama) -> None:
    numbers = {"type": "array", "items": schema, "minItems": 3, "maxItems": 3}
    for seed in range(3):
        answer = llm.chat(
            QUESTION,
            grammar=Grammar.json_schema(numbers),
            seed=seed,
            temperature=1.5,
            max_tokens=800,
            logit_bias={id: 5.0 for digit in "0123456789" for id in digit_ids(llm, digit)},
        )
        assert validates(numbers, answer.text), answer.text
        digits = re.findall("[0-9]+", re.sub(r'"(\\.|[^"\\])*"', "", answer.text))
        assert max(map(len, digits), default=0) <= MOST_DIGITS, answer.text
        json.loads(answer.text, parse_constant=pytest.fail)


def digit_ids(llm: Llama, digit: str) -> list[int]:
    id = llm.tokenizer.token_id(digit)
    return [] if id is None else [id]


def test_digits_in_strings_are_not_counted(llm: Llama) -> None:
    grammar = Grammar.json_schema({"type": "string", "pattern": "^[0-9]{60}$"})
    answer = llm.chat(QUESTION, grammar=grammar, max_tokens=100, seed=0)
    assert re.fullmatch('"[0-9]{60}"', answer.text)


def test_arguments_of_a_call_are_whole_when_the_tokens_run_out(llm: Llama) -> None:
    words = {"type": "array", "items": {"type": "string"}, "minItems": 2}
    parameters = {"type": "object", "properties": {"words": words}, "required": ["words"]}
    tool = {"type": "function", "function": {"name": "say", "parameters": parameters}}
    for seed in range(5):
        answer = llm.chat(QUESTION, tools=[tool], tool_choice="required", seed=seed, max_tokens=80)
        assert answer.tool_calls
        for call in answer.tool_calls:
            assert validates(parameters, call.arguments), answer.text


def test_the_same_text_with_and_without_guesses(
    llm: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Guesses are made whether they pay or not.
    monkeypatch.setattr(Speculation, "_best_number", lambda self, most: most)
    grammar = Grammar.json_schema({"type": "array", "items": {"type": "boolean"}})
    options: dict[str, Any] = {"grammar": grammar, "temperature": 0, "max_tokens": 80}
    guessed = llm.chat(QUESTION, **options)
    with Llama(speculate=False) as other:
        plain = other.chat(QUESTION, **options)
    assert guessed.timings.draft_accepted_n > 0
    assert plain.text == guessed.text
    assert plain.finish_reason == guessed.finish_reason == "length"
    assert validates(True, plain.text)


def test_a_hurried_end_is_told_and_a_chosen_one_is_not(llm: Llama) -> None:
    strings = Grammar.json_schema({"type": "array", "items": {"type": "string"}, "minItems": 40})
    hurried = llm.chat(QUESTION, grammar=strings, seed=0, max_tokens=150)
    assert hurried.finish_reason == "length"
    assert len(json.loads(hurried.text)) >= 40
    chosen = llm.chat(QUESTION, grammar=Grammar.regex("yes|no"), max_tokens=10)
    assert chosen.finish_reason == "stop"


def test_an_ending_that_cannot_be_found_is_looked_for_again(llm: Llama) -> None:
    hard = {"type": "string", "pattern": r"^\S+(ab){3}$"}
    schema = {
        "type": "object",
        "properties": {"hard": hard, "words": {"type": "array", "items": {"type": "string"}}},
        "required": ["hard", "words"],
        "additionalProperties": False,
    }
    tokenizer, limit = llm.tokenizer, 120
    assert least_text(Grammar.json_schema(schema).source) is None
    constraint = Grammar.json_schema(schema).start(tokenizer, tokenizer.stop_ids, limit=limit)
    start = tokenizer.encode('{"hard": "xababab", "words": [', bos=False)
    for id in start:
        assert constraint.in_time(id) == id
        constraint.accept(id)
    rest = wander(constraint, tokenizer, limit - len(start), seed=0)
    assert validates(schema, tokenizer.decode([*start, *rest]))


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\S+@\S+\.com$",
        r"^[^@]+@[^@]+\.[a-z]{2,}$",
        r"^https?://.+\.pdf$",
        r"\d{2}$",
        r"^.{10}\d[A-F0-9]-$",
        r"(foo|bar)baz$",
        r'^.*"x\\y$',
        r"^(?:a|b)+é$",
        r"^/[a-z/]+/end$",
        "",
    ],
)
def test_a_pattern_that_looks_alike_everywhere_is_completed(pattern: str) -> None:
    schema = {"type": "object", "properties": {"/": {"type": "string", "pattern": pattern}},
              "required": ["/"]}  # fmt: skip
    grammar = Grammar.json_schema(schema).source
    for text in (b"", b'{"/":"a', b'{"/":"/ab/'):
        ending = Ending(grammar, text)
        if byte_trie().matcher(grammar).try_consume_tokens(list(text)) < len(text):
            continue  # not what the pattern begins with
        behind = ending.find()
        assert behind is not None
        assert validates(schema, (text + behind).decode())


@pytest.mark.parametrize("regex", ["[a-z]+ing", r"\w+@\w+/x", "[^.]*[.]{3}"])
def test_a_regex_that_looks_alike_everywhere_is_completed(regex: str) -> None:
    grammar = Grammar.regex(regex)
    text = least_text(grammar.source)
    assert text is not None
    assert grammar.check(text.decode())


def test_tails_are_of_expressions_and_of_nothing_else() -> None:
    assert regex_tails(Grammar.json_schema({"enum": ["/a/", "a/b", "c/d"]}).source) == []
    schema = {"type": "string", "pattern": r"^a\.(?:[x-z]{2}|\d+)$"}
    tails = regex_tails(Grammar.json_schema(schema).source)
    assert tails == [b"a.xx", b".xx", b"xx", b"0"]


@pytest.mark.parametrize(
    "pattern",
    [
        "a" * 60_000,
        "[a-z]{4000000000}",
        "(a|b)?" * 9_000,
        "x{1" * 20_000,
        "(?:" * 50 + "." + ")" * 50,
    ],
)
def test_tails_of_any_expression_are_few_and_short(pattern: str) -> None:
    tails = regex_tails("start: %json " + json.dumps({"pattern": pattern}))
    assert len(tails) <= 200
    assert max(map(len, tails)) <= 200 * 20


def test_long_strings_are_no_circle() -> None:
    for schema in ({"type": "string", "minLength": 1000}, {"const": "ab" * 500}):
        text = least_text(Grammar.json_schema(schema).source)
        assert text is not None
        assert validates(schema, text.decode())


def test_a_search_takes_no_more_steps_than_it_may() -> None:
    grammar = Grammar.json_schema({"type": "string", "minLength": 100_000}).source
    walk = Walk(byte_trie().matcher(grammar), JsonPlace(), ORDERS[0], [b"a"] * 50)
    assert walk.to_end(1000) is None
    assert 1000 <= walk.n_steps < 1000 + 256 + 50
    ending = Ending(grammar)
    for _ in range(20):
        assert ending.find() is None
    assert ending.find_behind(b'"') is None
