"""llama.cpp's grammar format."""

import re

import numpy as np
import pytest

from edgellama.errors import InvalidRequest
from edgellama.grammar import Grammar

# The shape of llama.cpp's own grammar for JSON, written anew.
JSON = r"""
root   ::= ws value
value  ::= ( object | array | string | number | "true" | "false" | "null" ) ws  # any
object ::= "{" ws ( member ( "," ws member )* )? "}"
member ::= string ws ":" ws value
array  ::=
  "[" ws (
    value
    ("," ws value)*
  )? "]"
string ::= "\"" ( [^"\\\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} ) )* "\""
number ::= "-"? ( "0" | [1-9] [0-9]* ) ( "." [0-9]+ )?
ws     ::= ( " " | "\n" [ \t]* )?
"""


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        (JSON, ['{"a": [1, -2.5, "x\\n"], "b": {}}', "[]", ' "é"\n'], ['{"a":}', "[1,]", "01"]),
        ('root ::= "a" root "b" | ""', ["", "aabb"], ["ab b", "aab"]),
        ('root ::= root "a" | "b"', ["b", "baa"], ["a", "ab"]),
        ('root ::= a "x"\na ::= [a-z]+', ["abx", "xxx"], ["x", "ab"]),
        ('root ::= "ab" | [a-z]+ "1"', ["ab", "abc1", "ab1"], ["abc"]),
        (r'root ::= "\u00e9" [\u4e00-\u9fff]+ . "\x41"', ["é日本\nA"], ["e日本-A", "é日A"]),
        (r"root ::= [a&&b]+ [\]^-]", ["&a&b]", "a-", "b^"], ["a", "c]"]),
        ("root ::= [^a]{2,3}", ["bc", "b\né"], ["b", "ab", "bbbb"]),
        ('root ::= ("a" | "b"){2} "c"? [0-9]*', ["ab", "bbc17"], ["a", "abcc"]),
        ('root ::= Some-Rule\nSome-Rule ::= "x"\nsomeRule ::= "y"', ["x"], ["y"]),
        ('root ::= "" ""', [""], ["a"]),
    ],
)
def test_texts_of_a_grammar_are_accepted_and_no_others(
    grammar: str, yes: list[str], no: list[str]
) -> None:
    compiled = Grammar.gbnf(grammar)
    assert [text for text in yes if not compiled.check(text)] == []
    assert [text for text in no if compiled.check(text)] == []


def test_a_grammar_without_recursion_is_its_regular_expression() -> None:
    compiled = Grammar.gbnf(
        'root ::= (word "b"?){1,2} word\nword ::= [ab]+ | "c" tail\ntail ::= "a"*'
    )
    pattern = re.compile("(?:(?:[ab]+|ca*)b?){1,2}(?:[ab]+|ca*)")
    rng = np.random.default_rng(0)
    for _ in range(500):
        text = "".join(rng.choice(list("abc"), rng.integers(7)))
        assert compiled.check(text) == bool(pattern.fullmatch(text)), text


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        ("", "no rule root"),
        ('x ::= "a"', "no rule root"),
        ("root ::= x", "line 1, column 10: the rule x is not defined"),
        ('root ::= "a"\n\nroot ::= "b"', "line 3, column 1: the rule root is defined twice"),
        ('root ::= "a', "the string does not end on its line"),
        ("root ::= [a", "the class does not end on its line"),
        ('root ::= ("a"', "expected ) for this parenthesis"),
        ('root ::= "a" )', "line 1, column 14: expected"),
        ('root = "a"', "expected ::="),
        (r'root ::= "\q"', r"\q is no escape"),
        (r'root ::= "\ud800"', r"\ud800 is no character"),
        ("root ::= [z-a]", "the range z-a is empty"),
        ('root ::= "a"{3,1}', "{3,1} repeats at most less than at least"),
        ('root ::= "a"{0,10000000000}', "up to 9 digits"),
        ("root ::= <think>", "token references (<...>, !<...>) are not supported"),
        ("root ::= root", "no text at all matches"),
        ("root ::= " + "(" * 50_000, "more than 100 parentheses"),
        ("\n".join(f'r{i} ::= "a"' for i in range(2000)) + '\nroot ::= "b"', "more than 1000"),
    ],
)
def test_what_is_no_grammar_is_refused_with_its_place(grammar: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        Grammar.gbnf(grammar)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
