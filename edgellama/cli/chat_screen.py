"""The line at which people type: history, several lines, completion, and figures below it."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from edgellama.errors import EdgellamaError
from edgellama.folders import data_folder, make_private
from edgellama.llama import CONTEXT_POLICIES
from edgellama.saved_chats import list_chats

from .chat_commands import COMMANDS
from .chat_lines import goes_on, unfold
from .chat_session import Conversation
from .terminal import note

MAX_HISTORY_BYTES = 4 << 20  # beyond, a new file is begun, and the one before is kept beside it
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack"})


class Screen:
    """Reads what people type, at a prompt below which stands how full the context is."""

    def __init__(self, chat: Conversation, *, keeps: bool) -> None:
        """keeps: what is typed can be recalled the next time."""
        self._chat = chat
        self._session: PromptSession[str] = PromptSession(
            history=_history() if keeps else InMemoryHistory(),
            multiline=True,
            prompt_continuation="... ",
            key_bindings=_keys(),
            completer=_Completer(chat),
            complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
            bottom_toolbar=self._figures,
            style=_STYLE,
            enable_suspend=True,
        )

    def read(self) -> str:
        """A message or command as it was typed. Raises EOFError and KeyboardInterrupt."""
        print()
        return unfold(self._session.prompt(">>> "))

    @property
    def typed(self) -> str:
        """What stood on the line when Ctrl-C was pressed."""
        return self._session.default_buffer.text

    def _figures(self) -> str:
        """As many of model, speed and context as the terminal is wide, the context first."""
        chat = self._chat
        parts = [
            f"{chat.n_used:,} / {chat.llm.n_ctx:,} tokens ({chat.n_used / chat.llm.n_ctx:.0%})"
        ]
        if chat.last is not None:
            parts.insert(0, f"{chat.last.timings.predicted_per_second:.1f} tok/s")
        parts.insert(0, chat.llm.config.name)
        width = get_app().output.get_size().columns
        while len(line := " · ".join(parts)) >= width and len(parts) > 1:
            del parts[0]
        return line


def _history() -> History:
    """A file for this user alone; in memory only where that cannot be."""
    try:
        make_private(folder := data_folder())
        path = folder / "history"
        if path.exists() and path.stat().st_size > MAX_HISTORY_BYTES:
            path.replace(path.with_name("history.before"))
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        return _History(path)
    except (EdgellamaError, OSError) as error:
        note(f"what you type is not kept: {error}")
        return InMemoryHistory()


class _History(FileHistory):
    """A file that may stop being writable at any time."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        """Send the message, unless it says that it goes on."""
        buffer = event.current_buffer
        if goes_on(buffer.text):
            buffer.newline()
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline()

    return keys


class _Completer(Completer):
    """Commands, and what may stand behind them."""

    def __init__(self, chat: Conversation) -> None:
        self._chat = chat
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        command, space, rest = text.partition(" ")
        if not space:
            words = {name: f"{entry.argument:11} {entry.help}" for name, entry in COMMANDS.items()}
        elif command == "/read":
            yield from self._files.get_completions(Document(rest), event)
            return
        else:
            words = self._words(command, rest)
        start = rest.rpartition(" ")[2] if space else command
        for word, meaning in words.items():
            if word.startswith(start):
                yield Completion(word, -len(start), display_meta=meaning)

    def _words(self, command: str, rest: str) -> dict[str, str]:
        if command == "/set":
            if " " not in rest:
                return self._chat.settings.names
            return dict.fromkeys(CONTEXT_POLICIES, "") if rest.startswith("context") else {}
        if command in ("/load", "/save"):
            return {name: f"{len(saved.messages)} messages" for name, saved in list_chats().items()}
        return {}


@contextlib.contextmanager
def silent_keys() -> Iterator[None]:
    """Keys do not show while an answer does; what was typed is there at the next prompt."""
    try:
        import termios
    except ImportError:  # Windows, where PromptSession alone shows what is typed
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
