"""What comes out of a request: tokens one by one, the whole answer, and what it cost."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from .tools import ToolCall

FinishReason = Literal["stop", "length", "tool_calls"]


class Token(NamedTuple):  # a dataclass takes four times as long to make
    """One step of an answer."""

    text: str  # new text, often one word; empty while a character or stop string is incomplete
    id: int
    # Natural logarithm of the model's own probability, before any sampling option; NaN where it was
    # not asked for.
    logprob: float
    finish_reason: FinishReason | None = None  # set on the last: stop id or string, or no room
    top_logprobs: tuple[tuple[int, float], ...] = ()  # the likeliest ids, best first, as asked for


@dataclass(slots=True)
class Timings:
    """What an answer cost, by the clock: in company a step serves others as well."""

    cache_n: int = 0  # prompt ids that the cache already held
    prompt_n: int = 0  # prompt ids that were run
    prompt_s: float = 0.0  # from the first step to the first token
    first_token_s: float = 0.0  # from the submission to the first token
    predicted_n: int = 0  # tokens chosen, the stop id included
    predicted_s: float = 0.0  # from the first token to the last
    draft_n: int = 0  # ids that were guessed ahead
    draft_accepted_n: int = 0  # of these, the ones that were chosen

    @property
    def prompt_per_second(self) -> float:
        return self.prompt_n / self.prompt_s if self.prompt_s > 0 else 0.0

    @property
    def predicted_per_second(self) -> float:
        """The first token comes out of the prefill, so n tokens are n - 1 steps."""
        return (self.predicted_n - 1) / self.predicted_s if self.predicted_s > 0 else 0.0

    def as_dict(self) -> dict[str, float]:
        rates = {
            "prompt_per_second": self.prompt_per_second,
            "predicted_per_second": self.predicted_per_second,
        }
        return asdict(self) | rates


@dataclass(slots=True)
class ContextReport:
    """What a context policy left out so that the rest fits; nothing, unless it was asked to."""

    dropped_messages: int = 0
    dropped_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    text: str
    tokens: list[int]  # every id that was chosen, the stop id included
    finish_reason: FinishReason | None  # None: closed before its end
    prompt_tokens: int
    timings: Timings
    context: ContextReport = field(default_factory=ContextReport)
    tool_calls: "tuple[ToolCall, ...]" = ()

    @property
    def message(self) -> dict[str, Any]:
        """It as a message, to go on with the conversation."""
        if not self.tool_calls:
            return {"role": "assistant", "content": self.text}
        calls = [call.as_openai() for call in self.tool_calls]
        return {"role": "assistant", "content": self.text or None, "tool_calls": calls}
