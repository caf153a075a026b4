"""Tool calls as OpenAI's API has them, whole and in the pieces of a stream."""

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants to be called."""

    id: str
    name: str
    arguments: str  # a JSON object, unless the answer was cut off inside it

    def as_openai(self) -> dict[str, Any]:
        """{"id", "type", "function": {"name", "arguments"}}, as in a message's tool_calls."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a chat format writes a call in JSON: opening name middle arguments closing."""

    opening: str = '{"name": "'
    middle: str = '", "parameters": '
    closing: str = "}"
    separator: str = "; "  # between two calls


LLAMA_FORM = CallForm()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The index-th call of the answer has begun; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the index-th call's arguments."""

    index: int
    fragment: str


Delta: TypeAlias = TextDelta | CallStart | CallArguments
