"""What an answer is asked for with, and how people read and change it."""

import argparse
from copy import copy
from typing import Any

from edgellama.errors import InvalidRequest
from edgellama.llama import CONTEXT_POLICIES
from edgellama.sampling import SamplingOptions, SamplingParams

from .options import SAMPLING, read_grammar, read_sampling, sampling_options, sampling_text

OWN = {
    "max_tokens": "most tokens of an answer; -1: until the context is full",
    "context_policy": f"when the context is full: {', '.join(CONTEXT_POLICIES)}",
}


class Settings:
    """Arguments of `Llama.stream_chat` beside the messages.

    Public to read: max_tokens, None for no limit, and context_policy.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """As a command line says. Raises InvalidRequest for what is out of its range."""
        self.max_tokens: int | None = _limit(args.max_tokens)
        self.context_policy: str = args.context_policy
        self._sampling: SamplingOptions = sampling_options(args)
        self._fixed = {"stop": args.stop, "grammar": read_grammar(args)}

    def as_arguments(self) -> dict[str, Any]:
        """For `Llama.stream_chat`."""
        return {
            "max_tokens": self.max_tokens,
            "context_policy": self.context_policy,
            **self._fixed,
            **self._sampling,
        }

    @property
    def names(self) -> dict[str, str]:
        """What can be set, and what it does."""
        return OWN | {name: option.metadata["help"] for name, option in SAMPLING.items()}

    def __getitem__(self, name: str) -> str:
        """A value as `set` takes it."""
        if name == "max_tokens":
            return "-1" if self.max_tokens is None else str(self.max_tokens)
        if name == "context_policy":
            return self.context_policy
        return sampling_text(self._sampling[name])  # type: ignore[literal-required]

    @property
    def changed(self) -> dict[str, str]:
        """What is not at its default, as `set` takes it."""
        return {name: self[name] for name in self.names if self[name] != self._default(name)}

    def with_saved(self, saved: dict[str, Any]) -> "Settings":
        """These, and what was saved of those that are at their defaults here.

        Raises InvalidRequest for what no version of edgellama has saved.
        """
        merged = copy(self)
        for name, text in saved.items():
            if name not in self.names or not isinstance(text, str):
                raise InvalidRequest(f"a saved setting is not known: {name} = {text!r}")
            if name not in self.changed:
                merged.set(name, text)
        return merged

    def set(self, name: str, text: str) -> None:
        """Change one for the answers to come. Raises InvalidRequest, which changes nothing."""
        if name == "max_tokens":
            try:
                limit = int(text)
            except ValueError:
                raise InvalidRequest(f"max_tokens takes a whole number, not {text!r}") from None
            self.max_tokens = _limit(limit)
        elif name == "context_policy":
            if text not in CONTEXT_POLICIES:
                raise InvalidRequest(
                    f"context_policy is one of {', '.join(CONTEXT_POLICIES)}, not {text!r}"
                )
            self.context_policy = text
        else:
            changed: Any = {**self._sampling, name: read_sampling(name, text)}
            SamplingParams(**changed)
            self._sampling = changed

    def _default(self, name: str) -> str:
        own = {"max_tokens": "-1", "context_policy": "error"}
        return own[name] if name in own else sampling_text(SAMPLING[name].default)


def _limit(max_tokens: int) -> int | None:
    if max_tokens == -1:
        return None
    if max_tokens < 1:
        raise InvalidRequest(f"max_tokens must be 1 or more, or -1 for no limit, not {max_tokens}")
    return max_tokens
