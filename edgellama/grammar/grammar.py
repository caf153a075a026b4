"""A grammar: a language, described and checked once, started for every answer that keeps to it."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from edgellama.errors import InvalidRequest
from edgellama.tokenizer import Tokenizer, check_text

from .constraint import Constraint
from .failures import reason, without_place
from .gbnf import gbnf_to_lark
from .lark import checked_lark
from .schema import SchemaReader
from .token_trie import byte_trie, on_a_large_stack, trie_of

_MAX_CHARS = 65_536

# Masks hold every token that may follow, not only the usual spelling of what must: the model
# chooses, and no tokenizer is asked. Written behind the grammar, where it moves no line.
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'


@dataclass(frozen=True, slots=True)
class Grammar:
    """A language that answers keep to. Equal if written alike; free to share between threads.

    Made by a class method; each raises InvalidRequest that names what is not supported, or says
    what is wrong and where.
    """

    source: str  # in llguidance's dialect of Lark, checked
    # Numbers end after some digits in texts that begin with this: JSON, and nothing else.
    json_behind: bytes | None = None

    @classmethod
    def json_schema(cls, schema: dict[str, Any] | bool) -> "Grammar":
        """JSON that validates against `schema`; properties come in the order of the schema."""
        reader = SchemaReader(schema)
        grammar = cls(f"start: %json {reader.text}{_OPTIONS}", json_behind=b"")
        try:
            byte_trie().matcher(grammar.source)
        except InvalidRequest as error:
            place, what = _pattern_at_fault(reader.patterns), without_place(str(error))
            raise InvalidRequest(f"the JSON schema{place}: cannot be enforced: {what}") from None
        return grammar

    @classmethod
    def json_object(cls) -> "Grammar":
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, text: str) -> "Grammar":
        """Texts that a regular expression matches from end to end, in Rust's syntax.

        https://docs.rs/regex/latest/regex/#syntax, without what looks around: `\\b`, `(?=...)`.
        """
        from llguidance import regex_to_lark

        _check_size("the regex", text)
        written = regex_to_lark(_without_anchors(text), "").replace("\n", "\\n")
        grammar = cls(f"start: /{written}/{_OPTIONS}" if written else f'start: ""{_OPTIONS}')
        return grammar._checked("the regex", written_by_caller=False)

    @classmethod
    def gbnf(cls, text: str) -> "Grammar":
        """Texts of a grammar as llama.cpp writes them, with the rule `root`; see gbnf.py."""
        _check_size("the GBNF grammar", text)
        grammar = cls(gbnf_to_lark(text) + _OPTIONS)
        return grammar._checked("the GBNF grammar", written_by_caller=False)

    @classmethod
    def lark(cls, text: str) -> "Grammar":
        """Texts of a Lark grammar with the rule `start`, in llguidance's dialect.

        It may name control tokens (`<|python_tag|>`) and hold schemas (`%json {...}`).
        https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
        """
        _check_size("the Lark grammar", text)
        return cls(checked_lark(text) + _OPTIONS)._checked("the Lark grammar")

    def start(
        self,
        tokenizer: Tokenizer,
        stop_ids: Collection[int],
        *,
        continues: bool = False,
        limit: int | None = None,
    ) -> Constraint:
        """The grammar at the beginning of an answer that any of `stop_ids` ends.

        continues: the answer goes on where another text stood, so that a space in front stays;
        see `Tokenizer.stream`. limit: how many tokens the answer may have, as `in_time` keeps it.
        Raises InvalidRequest for a control token that the vocabulary lacks.
        """
        return Constraint(
            trie_of(tokenizer),
            self.source,
            stop_ids,
            continues=continues,
            limit=limit,
            json_behind=self.json_behind,
        )

    def check(self, text: str) -> bool:
        """Whether the grammar accepts a text, whole. Control tokens are no text."""
        check_text(text)
        matcher = byte_trie().matcher(self.source)
        data = text.encode()
        return matcher.try_consume_tokens(list(data)) == len(data) and bool(matcher.is_accepting())

    def _checked(self, what: str, *, written_by_caller: bool = True) -> "Grammar":
        """Itself, if llguidance can compile it."""
        from llguidance import LLMatcher

        failed, messages = on_a_large_stack(
            lambda: LLMatcher.validate_grammar_with_warnings(self.source)
        )
        try:
            if failed:
                raise InvalidRequest(reason(messages[0]))
            if not messages:  # else it names control tokens, which only a vocabulary can have
                byte_trie().matcher(self.source)
        except InvalidRequest as error:
            text = str(error) if written_by_caller else without_place(str(error))
            raise InvalidRequest(f"{what}: {text}") from None
        return self


def _check_size(what: str, text: str) -> None:
    check_text(text)
    if len(text) > _MAX_CHARS:
        raise InvalidRequest(f"{what} has more than {_MAX_CHARS:,} characters")


def _without_anchors(regex: str) -> str:
    """The regex without ^ and $ at its ends, which say what holds anyway."""
    regex = regex.removeprefix("^")
    body = regex.removesuffix("$")
    n_backslashes = len(body) - len(body.rstrip("\\"))
    return regex if n_backslashes % 2 else body


def _pattern_at_fault(patterns: dict[str, str]) -> str:
    """The place of the first pattern that fails by itself."""
    for place, pattern in patterns.items():
        alone = json.dumps({"type": "string", "pattern": pattern})
        try:
            byte_trie().matcher(f"start: %json {alone}{_OPTIONS}")
        except InvalidRequest:
            return f", {place}"
    return ""
