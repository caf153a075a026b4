"""A conversation: what was said, how it is answered, and how it is kept."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from edgellama.chat import Message
from edgellama.errors import InvalidRequest, ResourceError
from edgellama.generate import Generation
from edgellama.llama import Llama
from edgellama.saved_chats import LAST, SavedChat, load_chat, save_chat

from .chat_settings import Settings
from .options import context_limits, describe
from .terminal import note, show

LONG_WAIT = 256  # tokens to be read before the first of the answer: worth a remark


class Display(Protocol):
    """Where an answer is shown as it comes."""

    def wait(self, remark: str) -> None:
        """The answer takes a while to begin."""

    def push(self, text: str) -> None:
        """More of the answer."""

    def finish(self) -> None:
        """It has ended, or was stopped; also called when nothing came."""


class PlainDisplay:
    """The text as it is, for pipes and for terminals without cursor and colours."""

    def __init__(self) -> None:
        self._began = False

    def wait(self, remark: str) -> None: ...

    def push(self, text: str) -> None:
        show(text)
        self._began = True

    def finish(self) -> None:
        if self._began:
            print(flush=True)


class Conversation:
    """The messages so far, what the next is to begin with, and how they are answered.

    Public to read and to change: system, turns, attachments, settings, keeps; call `changed` when
    the first two were.
    """

    def __init__(
        self,
        llm: Llama,
        settings: Settings,
        *,
        keeps: bool,
        display: Callable[[], Display] = PlainDisplay,
        stats: bool = False,
    ) -> None:
        """keeps: save each turn as `last`. display: made anew for each answer."""
        self.llm = llm
        self.system = ""
        self.settings = settings
        self.turns: list[Message] = []  # user and assistant in alternation
        self.attachments: list[str] = []  # texts that the next message will begin with
        self.last: Generation | None = None  # the answer before
        self.n_used = 0  # tokens of the context that the conversation takes
        self._keeps = keeps
        self._display = display
        self._stats = stats
        self._name = ""  # under which it was saved or loaded
        self._saved = SavedChat([])  # as it is kept

    @property
    def messages(self) -> list[Message]:
        """All of it as the model is told, the system prompt first."""
        return self._with_system(self.turns)

    def ask(self, text: str) -> None:
        """Stream the answer to a message; both enter the conversation however far it came.

        Raises KeyboardInterrupt after Ctrl-C, and the errors of `Llama.stream_chat`; if nothing of
        an answer came, the message is not part of the conversation.
        """
        content = "\n\n".join([*self.attachments, text])
        self._answer([*self.turns, {"role": "user", "content": content}])

    def answer_again(self) -> None:
        """Replace the last answer by another; it stays if none comes. Raises as `ask`."""
        self._answer(self.turns[:-1])

    def begin_anew(self) -> None:
        """Forget all but the system prompt and the settings; what was kept stays kept."""
        self.turns, self.attachments = [], []
        self._name, self._saved = "", SavedChat([])
        self.changed()

    def changed(self) -> None:
        """Count the context anew, and keep the conversation."""
        self.n_used = self.count() if self.turns else 0
        self._keep()

    def count(self, *more: str) -> int:
        """Tokens of the conversation with the attachments, and more text, as its next message."""
        content = "\n\n".join([*self.attachments, *more])
        return self.llm.count_tokens([*self.messages, {"role": "user", "content": content}])

    def save(self, name: str = "") -> str:
        """Keep it under a name, without one under its own or by the time it began; the name.

        Raises as `save_chat`.
        """
        self._saved = self._state()
        name = name or self._name or f"{self._saved.created.astimezone():%Y-%m-%d-%H%M%S}"
        save_chat(name, self._saved)
        self._name = name
        return name

    def load(self, name: str) -> None:
        """Go on with a conversation that was kept; raises as `load_chat`, and nothing changes then.

        What was set on the command line stays as it is.
        """
        saved = load_chat(name)
        roles = [message["role"] for message in saved.messages]
        if roles != ["user", "assistant"] * (len(roles) // 2) or not all(
            isinstance(message["content"], str) for message in saved.messages
        ):
            raise InvalidRequest(f"{name}: user and assistant do not take turns in it")
        self.settings = self.settings.with_saved(saved.settings)
        self.system = saved.system
        self.turns, self.attachments = saved.messages, []
        self._name, self._saved = "" if name == LAST else name, saved
        self.changed()

    def _with_system(self, turns: list[Message]) -> list[Message]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return system + turns

    def _answer(self, turns: list[Message]) -> None:
        generation = self.llm.stream_chat(
            self._with_system(turns), logprobs=False, **self.settings.as_arguments()
        )
        display = self._display()
        if generation.prompt_tokens - self.n_used > LONG_WAIT:
            display.wait(f"[reading {generation.prompt_tokens:,} tokens]")
        pieces: list[str] = []
        finish = None
        try:
            for token in generation:
                pieces.append(token.text)
                finish = token.finish_reason
                display.push(token.text)
        finally:
            generation.close()
            if pieces:
                self.turns = [*turns, {"role": "assistant", "content": "".join(pieces)}]
                self.attachments = []
                self.last = generation
                self.n_used = generation.prompt_tokens + len(pieces)
            display.finish()
            if pieces:
                self._keep()
        cut = finish == "length" and context_limits(
            generation.prompt_tokens,
            self.settings.max_tokens,
            self.llm.n_ctx,
            self.settings.context_policy,
        )
        self._report(generation, cut=cut)

    def _report(self, generation: Generation, *, cut: bool) -> None:
        """Say what an answer lacks, and what it cost where that is asked for."""
        dropped = generation.context
        if dropped.dropped_messages:
            note(f"to make room, the oldest {dropped.dropped_messages:,} messages were left out")
        if dropped.dropped_tokens:
            note(f"to make room, {dropped.dropped_tokens:,} of the oldest tokens were forgotten")
        if cut:
            note(
                f"the answer is cut: the context of {self.llm.n_ctx:,} tokens is full; /clear"
                " begins anew, --ctx gives more"
            )
        if self._stats:
            note(describe(generation.timings))

    def _state(self) -> SavedChat:
        return replace(
            self._saved,
            messages=self.turns,
            system=self.system,
            settings=self.settings.changed,
            model_name=self.llm.config.name,
            model_path=str(self.llm.path.absolute()),
        )

    def _keep(self) -> None:
        """Save it as `last`, so that nothing said is lost."""
        if not self._keeps or not self.turns:
            return
        try:
            save_chat(LAST, self._state())
        except ResourceError as error:
            self._keeps = False
            note(f"the conversation is not kept: {error}")
