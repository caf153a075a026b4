"""What a line of a conversation that begins with a slash does: one table.

All that commands say goes to stderr: standard output is for answers.
"""

import difflib
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edgellama.errors import InvalidRequest
from edgellama.saved_chats import chats_folder, list_chats

from .chat_session import Conversation
from .options import describe
from .terminal import harmless, note
from .text_files import read_text_file

MAX_LISTED = 20


class Leave(Exception):
    """The user has said goodbye."""


class Command(NamedTuple):
    argument: str  # as the help shows it; "" if it takes none
    help: str
    obey: Callable[[Conversation, str], None]  # with what stands behind the command


def take(chat: Conversation, text: str) -> None:
    """Obey a command or answer a message.

    Raises Leave after a goodbye, KeyboardInterrupt after Ctrl-C, and EdgellamaError or OSError for
    what cannot be done, which changes nothing.
    """
    word, _, rest = text.strip().partition(" ")
    if not word.startswith("/") or "/" in word[1:]:
        if text.strip():
            chat.ask(text)
        return
    command = COMMANDS.get(ALIASES.get(word, word))
    if command is None:
        close = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "/help lists them"
        note(f"{word} is not a command; {hint}")
        return
    if rest.strip() and not command.argument:
        raise InvalidRequest(f"{word} takes nothing behind it")
    command.obey(chat, rest.strip())


def _system(chat: Conversation, text: str) -> None:
    if text:
        chat.system = "" if text == "none" else text
        chat.changed()
    note(f"system prompt: {chat.system or 'none'}")


def _set(chat: Conversation, text: str) -> None:
    name, _, value = text.partition(" ")
    name = {"temp": "temperature"}.get(name, name.replace("-", "_"))
    settings = chat.settings
    if not name:
        width = shutil.get_terminal_size().columns - 1
        for known, words in settings.names.items():
            row = f"{known:22} {settings[known]:8} {words}"
            _say(row if len(row) <= width else f"{row[: width - 1]}…")
        return
    if name not in settings.names:
        close = difflib.get_close_matches(name, settings.names, n=1)
        meant = f"; did you mean {close[0]}?" if close else "; /set alone lists them"
        raise InvalidRequest(f"{name} is not a setting{meant}")
    if value.strip():
        settings.set(name, value.strip())
        note(f"{name}: {settings[name]}")
    else:
        note(f"{name}: {settings[name]} ({settings.names[name]})")


def _show(chat: Conversation, _: str) -> None:
    llm = chat.llm
    _say(f"model     {llm.config.name}, {llm.path}")
    _say(f"context   {chat.n_used:,} of {llm.n_ctx:,} tokens")
    _say(f"system    {chat.system or 'none'}")
    changed = [f"{name} {text}" for name, text in chat.settings.changed.items()]
    _say(f"settings  {', '.join(changed) or 'all at their defaults'} (/set shows all)")
    for text in chat.attachments:
        _say(f"attached  {len(text):,} characters, for the next message")
    for message in chat.turns:
        _say(f"\n{message['role']}:\n{message['content']}")


def _save(chat: Conversation, name: str) -> None:
    note(f"saved as {chat.save(name)}")


def _load(chat: Conversation, name: str) -> None:
    if name:
        chat.load(name)
        note(f"{name}: {_messages(len(chat.turns))}, {chat.n_used:,} tokens")
        return
    saved = list_chats()
    for known, entry in list(saved.items())[:MAX_LISTED]:
        first = entry.messages[0]["content"] if entry.messages else ""
        when = f"{entry.updated.astimezone():%Y-%m-%d %H:%M}"
        _say(f"{known:28} {when}  {len(entry.messages):3} messages  {_shortened(first)}")
    if len(saved) > MAX_LISTED:
        note(f"and {len(saved) - MAX_LISTED} older ones, in {chats_folder()}")
    if not saved:
        note("nothing was saved yet; /save NAME does")


def _clear(chat: Conversation, _: str) -> None:
    chat.begin_anew()
    note("the conversation is forgotten; /load lists what is kept")


def _regen(chat: Conversation, _: str) -> None:
    if not chat.turns:
        raise InvalidRequest("nothing was answered yet")
    if chat.settings["seed"] != "none":
        note("the seed is fixed, so the answer will be the same; /set seed none frees it")
    chat.answer_again()


def _undo(chat: Conversation, _: str) -> None:
    if not chat.turns:
        raise InvalidRequest("nothing was answered yet")
    question = chat.turns[-2]["content"]
    chat.turns = chat.turns[:-2]
    chat.changed()
    note(f"taken back: {harmless(_shortened(question))}")


def _read(chat: Conversation, path: str) -> None:
    if not path:
        raise InvalidRequest("name a text file: /read FILE")
    text = read_text_file(str(Path(path).expanduser()))
    n_file, n_all = len(chat.llm.tokenize(text)), chat.count(text)
    if n_all >= chat.llm.n_ctx:
        raise InvalidRequest(
            f"{path} has {n_file:,} tokens, with the conversation so far that makes {n_all:,}, and"
            f" the context holds {chat.llm.n_ctx:,}; /clear forgets the conversation, --ctx gives"
            " more"
        )
    chat.attachments.append(text)
    note(
        f"{path}: {n_file:,} tokens, in front of your next message; the context of"
        f" {chat.llm.n_ctx:,} then has {n_all:,} and more"
    )


def _tokens(chat: Conversation, text: str) -> None:
    if text:
        for id in chat.llm.tokenize(text):
            piece = chat.llm.tokenizer.piece(id).decode(errors="backslashreplace")
            _say(f"{id:8} {piece!r}")
        return
    n_used, n_ctx = chat.count(), chat.llm.n_ctx
    note(
        f"the next prompt has {n_used:,} tokens before your words; the context holds {n_ctx:,}"
        f" ({n_used / n_ctx:.0%} full)"
    )


def _stats(chat: Conversation, _: str) -> None:
    if chat.last is None:
        note("nothing was answered yet")
    else:
        note(
            f"{describe(chat.last.timings)} | context {chat.n_used:,} of {chat.llm.n_ctx:,} tokens"
        )


def _help(chat: Conversation, _: str) -> None:
    for name, command in COMMANDS.items():
        _say(f"{f'{name} {command.argument}':18} {command.help}")
    _say('Alt-Enter, \\ at the end of a line or """ around it give a message more lines.')


def _bye(chat: Conversation, _: str) -> None:
    raise Leave


COMMANDS = {
    "/system": Command("TEXT", "set the system prompt, or show it; none: have none", _system),
    "/set": Command("NAME VALUE", "change how answers are made; alone: show all", _set),
    "/show": Command("", "system prompt, settings, model and messages", _show),
    "/save": Command("NAME", "keep the conversation under a name", _save),
    "/load": Command("NAME", "go on with one that was kept; alone: list them", _load),
    "/clear": Command("", "forget the conversation", _clear),
    "/regen": Command("", "answer the last message anew", _regen),
    "/undo": Command("", "take back the last message and its answer", _undo),
    "/read": Command("FILE", "put a text file in front of the next message", _read),
    "/tokens": Command("TEXT", "its tokens; alone: how full the context is", _tokens),
    "/stats": Command("", "speed of the last answer, and how full the context is", _stats),
    "/help": Command("", "this", _help),
    "/bye": Command("", "leave (also /exit, /quit, Ctrl-D)", _bye),
}
ALIASES = {"/exit": "/bye", "/quit": "/bye", "/?": "/help", "/regenerate": "/regen"}


def _say(text: str) -> None:
    print(harmless(text), file=sys.stderr, flush=True)


def _shortened(text: object) -> str:
    """The first words of a message."""
    return textwrap.shorten(str(text), 40, placeholder="…")


def _messages(n: int) -> str:
    return f"{n} message{'s' if n != 1 else ''}"
