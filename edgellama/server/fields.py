"""The fields of a request's body, each taken once; what nobody takes is refused by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgellama.errors import InvalidRequest

from .failures import FieldError

# Fields of OpenAI's API that change nothing here, with the values that are no request for more.
HARMLESS: Mapping[str, tuple[Any, ...] | None] = {  # None: any value
    "user": None,
    "metadata": None,
    "safety_identifier": None,
    "prompt_cache_key": None,  # prefixes are kept whoever asks
    "prompt_cache_retention": None,
    "cache_prompt": (True,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}
# Known to OpenAI's API or llama-server's, and not offered: the message says what to do instead.
NOT_OFFERED: Mapping[str, str] = {
    "audio": "this server writes text only",
    "modalities": "this server writes text only",
    "functions": "send them as `tools`",
    "function_call": "send it as `tool_choice`",
    "store": "no answer is stored; send the whole conversation each time",
    "previous_response_id": "no answer is stored; send the whole conversation as `input`",
    "conversation": "no answer is stored; send the whole conversation as `input`",
    "background": "answers are made while you wait",
    "cache_prompt": "prefixes are always kept; the answer is the same",
    "prediction": "guesses are made without it",
    "reasoning_effort": "the model does not reason apart from its answer",
    "service_tier": "there is one tier",
    "suffix": "text is continued, not filled in",
    "best_of": "ask for `n` answers and choose",
    "n_predict": "it is called `max_tokens` here",
    "verbosity": "say it in the prompt",
    "web_search_options": "there is no search",
}


class Fields:
    """An object of a request. null is as good as absent, as OpenAI's clients mean it."""

    def __init__(self, value: object, where: str = "") -> None:
        """where: path of the object within the request, such as "stream_options."."""
        if not isinstance(value, dict):
            name = where.rstrip(".")
            words = f"{name} must be a JSON object" if name else "the body must be a JSON object"
            raise FieldError(name, words)
        self._where = where
        self._left = {name: member for name, member in value.items() if member is not None}

    def take(self, name: str, default: Any = None) -> Any:
        """The field as it is."""
        return self._left.pop(name, default)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low:,} to {high:,}", value)
        return value

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a string", value)
        return value

    def choice(self, name: str, values: Sequence[str], default: str) -> str:
        value = self.take(name, default)
        if value not in values:
            raise self.wrong(name, f"one of {', '.join(values)}", value)
        return str(value)

    def items(self, name: str) -> list[Any] | None:
        value = self.take(name)
        if value is not None and not isinstance(value, list):
            raise self.wrong(name, "a list", value)
        return value

    def part(self, name: str) -> "Fields | None":
        value = self.take(name)
        return None if value is None else Fields(value, f"{self._where}{name}.")

    def need(self, name: str) -> Any:
        """The field; FieldError if it is absent."""
        if name not in self._left:
            path = self._where + name
            raise FieldError(path, f"{path} is missing", "missing_required_parameter")
        return self.take(name)

    def wrong(self, name: str, expected: str, found: object) -> FieldError:
        return FieldError(
            self._where + name, f"{self._where}{name} must be {expected}, not {in_short(found)}"
        )

    def finish(self) -> None:
        """Raise FieldError for the first field that was not taken and is not harmless."""
        for name, value in self._left.items():
            accepted = HARMLESS.get(name, ())
            if not self._where and (accepted is None or value in accepted):
                continue
            path = self._where + name
            if not self._where and name in NOT_OFFERED:
                raise FieldError(
                    path, f"{path} is not offered: {NOT_OFFERED[name]}", "unsupported_parameter"
                )
            raise FieldError(
                path[:100], f"{in_short(path)} is not a known field", "unknown_parameter"
            )


def in_short(value: object) -> str:
    """A value for a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of thousands of digits, or deep nesting
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def token_bias(value: object, tokenize: Any) -> dict[int, float | bool]:
    """logit_bias by id from OpenAI's map {"id": bias} or llama-server's list [[id or text, bias]].

    A text stands for each of its tokens.
    """
    if isinstance(value, dict):
        pairs = [[_as_id(key), bias] for key, bias in value.items()]
    elif isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value):
        pairs = value
    else:
        raise FieldError(
            "logit_bias",
            "logit_bias must map token ids to numbers, or be a list of [id or text, bias]",
        )
    biases: dict[int, float | bool] = {}
    for key, bias in pairs:
        biases.update((id, bias) for id in (tokenize(key) if isinstance(key, str) else [key]))
    return biases


def _as_id(key: str) -> int:
    if key.isascii() and key.isdigit() and len(key) < 10:
        return int(key)
    raise InvalidRequest(f"logit_bias: {in_short(key)} is not a token id")
