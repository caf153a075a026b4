"""What chat completions, completions and responses have in common: how an answer is to be made.

Names are OpenAI's where it has one and llama-server's for the rest, which are the fields of
`SamplingParams` with its defaults (temperature 0.8, top_k 40, top_p 0.95, min_p 0.05).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from edgellama.generate import Generation, begin_answers
from edgellama.llama import CONTEXT_POLICIES, MAX_TOP_LOGPROBS, Llama
from edgellama.sampling import SamplingParams

from .failures import FieldError
from .fields import Fields, in_short, token_bias

if TYPE_CHECKING:
    from edgellama.grammar import Grammar

MAX_N = 16  # answers to one request
MAX_TOKENS = 2**31 - 1
_SAMPLING = tuple(option.name for option in fields(SamplingParams) if option.name != "logit_bias")
# Fields that say what a text must be, and the maker of that Grammar.
_GRAMMARS = {"json_schema": "json_schema", "grammar": "gbnf", "regex": "regex", "lark": "lark"}


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """One request's wishes, checked as far as they can be without its model."""

    stream: bool = False
    include_usage: bool = False  # in a chunk of its own at the end of a stream
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    max_tokens: int | None = None  # None: until the context is full
    stop: tuple[str, ...] = ()
    grammar: "Grammar | None" = None
    context_policy: str = "error"
    logit_bias: Any = None
    sampling: dict[str, Any] = field(default_factory=dict)  # fields of SamplingParams

    def start(self, llama: Llama, begin: Callable[..., Generation]) -> list[Generation]:
        """The `n` answers, begun: begin(**keywords) makes one, as Llama.generate does.

        With a seed, answer i has seed + i.
        """
        sampling = dict(self.sampling)
        if self.logit_bias is not None:
            sampling["logit_bias"] = token_bias(self.logit_bias, llama.tokenize)

        def begin_one(seed: int | None) -> Generation:
            return begin(
                max_tokens=self.max_tokens,
                stop=self.stop,
                logprobs=self.logprobs,
                top_logprobs=self.top_logprobs,
                context_policy=self.context_policy,
                **sampling | {"seed": seed},
            )

        return begin_answers(begin_one, self.n, sampling.get("seed"))


def take_options(
    body: Fields,
    *,
    max_tokens_names: tuple[str, ...] = ("max_tokens",),
    default_max_tokens: int | None = None,
    take_logprobs: Callable[[Fields], tuple[bool, int]],
    take_grammar: Callable[[Fields], "Grammar | None"],
) -> AnswerOptions:
    """The options in a body. Raises InvalidRequest naming the field that cannot be right."""
    stream = body.flag("stream")
    stream_options = body.part("stream_options")
    include_usage = False
    if stream_options is not None:
        if not stream:
            raise FieldError("stream_options", "stream_options is only for stream=true")
        include_usage = stream_options.flag("include_usage")
        stream_options.flag("include_obfuscation")  # of lengths, against eavesdroppers: not here
        stream_options.finish()
    logprobs, top_logprobs = take_logprobs(body)
    sampling = {name: body.take(name) for name in _SAMPLING if name in body}
    if sampling.get("seed") == -1:  # llama-server's word for none
        del sampling["seed"]
    SamplingParams(**sampling)  # checks it before a model is looked for
    return AnswerOptions(
        stream=stream,
        include_usage=include_usage,
        n=body.whole("n", 1, MAX_N) or 1,
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        max_tokens=_max_tokens(body, max_tokens_names, default_max_tokens),
        stop=_stop(body),
        grammar=take_grammar(body),
        context_policy=body.choice("context_policy", CONTEXT_POLICIES, "error"),
        logit_bias=body.take("logit_bias"),
        sampling=sampling,
    )


def take_chat_logprobs(body: Fields) -> tuple[bool, int]:
    """(whether, how many of the likeliest) from `logprobs` and `top_logprobs`."""
    logprobs = body.flag("logprobs")
    top = body.whole("top_logprobs", 0, MAX_TOP_LOGPROBS) or 0
    if top and not logprobs:
        raise FieldError("top_logprobs", "top_logprobs needs logprobs=true")
    return logprobs, top


def take_completion_logprobs(body: Fields) -> tuple[bool, int]:
    """The older form: `logprobs` is a number."""
    top = body.whole("logprobs", 0, MAX_TOP_LOGPROBS)
    return top is not None, top or 0


def take_grammar(body: Fields) -> "Grammar | None":
    """What the text must be, from one of response_format, json_schema, grammar, regex, lark."""
    given = [name for name in ("response_format", *_GRAMMARS) if name in body]
    if len(given) > 1:
        raise FieldError(given[1], f"{given[1]} cannot be combined with {given[0]}")
    if not given:
        return None
    name = given[0]
    if name == "response_format":
        return response_format(body.part(name))
    value = body.take(name)
    if name != "json_schema" and not isinstance(value, str):
        raise body.wrong(name, "a string", value)
    return _grammar(_GRAMMARS[name], value)


def response_format(format: Fields | None) -> "Grammar | None":
    """{"type": "text" | "json_object" | "json_schema", "json_schema": {"schema": ..., ...}}."""
    if format is None:
        return None
    kind = format.choice("type", ("text", "json_object", "json_schema"), "")
    grammar = None
    if kind == "json_object":
        schema = format.take("schema")  # llama-server's
        grammar = _grammar("json_object") if schema is None else _grammar("json_schema", schema)
    elif kind == "json_schema":
        inner = Fields(format.need("json_schema"), "response_format.json_schema.")
        grammar = schema_of(inner)
    format.finish()
    return grammar


def schema_of(format: Fields) -> "Grammar":
    """{"name", "description", "strict", "schema"}; every schema is enforced, strict or not."""
    format.text("name")
    format.text("description")
    format.flag("strict")
    schema = format.take("schema", {})
    format.finish()
    return _grammar("json_schema", schema)


def _grammar(maker: str, *value: Any) -> "Grammar":
    from edgellama.grammar import Grammar  # where it is used: it loads a large library

    grammar: Grammar = getattr(Grammar, maker)(*value)
    return grammar


def _max_tokens(body: Fields, names: tuple[str, ...], default: int | None) -> int | None:
    given = [name for name in names if name in body]
    if len(given) > 1:
        raise FieldError(given[1], f"{' and '.join(given)} mean the same: send one of them")
    return body.whole(given[0], 1, MAX_TOKENS) if given else default


def _stop(body: Fields) -> tuple[str, ...]:
    stop = body.take("stop", ())
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, list | tuple) or not all(isinstance(s, str) and s for s in stop):
        raise FieldError(
            "stop", f"stop must be a string or a list of strings, not {in_short(stop)}"
        )
    return tuple(stop)
