"""What every chat format has: the base of built-in formats and of files' own templates."""

from abc import ABC, abstractmethod
from datetime import datetime

from .chat_messages import Conversation, Messages, check_conversation
from .tokenizer import Tokenizer
from .tools.calls import CallForm
from .tools.definitions import Tools


class ChatFormat(ABC):
    """How a model expects a conversation to be written, and where its answers end."""

    __slots__ = ()
    name: str
    stop_strings: tuple[str, ...]  # end an answer of models that were trained on plain text
    call_form: CallForm  # how it writes a tool call, and how one is enforced

    def prompt(
        self,
        tokenizer: Tokenizer,
        messages: Messages,
        *,
        tools: Tools = (),
        now: datetime | None = None,
    ) -> list[int]:
        """The token ids of a conversation, ending where the assistant speaks.

        now: the time that formats with a date in their header write. Raises InvalidRequest if these
        are no messages or tools (chat_messages.py, tools/definitions.py), or the format cannot
        express them.
        """
        return self.encode(tokenizer, check_conversation(messages, tools), now or datetime.now())

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, conversation: Conversation, now: datetime) -> list[int]:
        """As prompt(), of what is checked already."""

    @abstractmethod
    def stop_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The tokens at which an answer is over."""
