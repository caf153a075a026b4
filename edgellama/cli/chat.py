"""`edgellama chat`: a conversation, in the terminal or line by line through a pipe."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from edgellama import __version__
from edgellama.chat import CHAT_FORMATS
from edgellama.errors import ContextFull, EdgellamaError, InvalidRequest, ResourceError
from edgellama.saved_chats import LAST, load_chat

from .chat_commands import Leave, take
from .chat_lines import read_message
from .chat_session import Conversation, Display, PlainDisplay
from .chat_settings import Settings
from .options import (
    add_context_option,
    add_grammar_options,
    add_model_options,
    add_sampling_options,
    open_llama,
)
from .terminal import is_plain, note

HELP = "talk with a model"
EXAMPLES = """\
examples:
  edgellama chat                                  the small model that ships with edgellama
  edgellama chat llama-3.2-1b.gguf --system "Answer in one sentence." --stats
  edgellama chat vicuna.gguf --chat-format vicuna --temp 0 --ctx 0
  edgellama chat --resume                         go on where the last conversation ended
  edgellama chat llama-3.2-1b.gguf --context-policy truncate-oldest
  echo "Why is the sky blue?" | edgellama chat llama-3.2-1b.gguf

Ctrl-C stops an answer; Ctrl-D, /bye or Ctrl-C again leaves. /help lists more. A message goes on
after Alt-Enter, after a backslash at the end of a line, or between triple quotes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [MODEL] [options]"
    parser.epilog = EXAMPLES
    add_model_options(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=LAST,
        metavar="NAME",
        help="go on with a conversation that was kept: the last, or one that /save gave this name",
    )
    parser.add_argument(
        "-n",
        "--max-tokens",
        type=int,
        default=-1,
        metavar="N",
        help="most tokens of an answer; -1: until the context is full (default: %(default)s)",
    )
    add_context_option(parser)
    parser.add_argument(
        "--chat-format",
        metavar="NAME",
        help="how conversations are written:"
        f" {', '.join(CHAT_FORMATS)} (default: as the file says)",
    )
    parser.add_argument(
        "--stats", action="store_true", help="print tokens per second after each answer"
    )
    parser.add_argument(
        "--plain", action="store_true", help="answers as they are: no Markdown, no colours"
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="keep neither the conversation nor what you type, and no prefixes of it",
    )
    add_grammar_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    in_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    settings = Settings(args)
    if args.private:
        args.prefix_cache = 0
    if args.resume is not None and args.model is None:
        args.model = _model_of(args.resume)
    with open_llama(args, args.chat_format) as llm:
        if llm.chat_format is None:
            raise InvalidRequest(
                f"{llm.path.name} has no chat template: it is a base model, made to continue text."
                " Use `edgellama run`, or name a format: --chat-format"
                f" {'|'.join(CHAT_FORMATS)}"
            )
        chat = Conversation(
            llm,
            settings,
            keeps=not args.private and (in_terminal or args.resume is not None),
            display=_display(args.plain) if in_terminal else PlainDisplay,
            stats=args.stats,
        )
        if args.resume is not None:
            chat.load(args.resume)
        if args.system is not None:
            chat.system = args.system
            chat.changed()
        if not in_terminal:
            return _talk_through_pipe(chat)
        print(f"edgellama {__version__}: {llm.config.name}, context of {llm.n_ctx:,} tokens.")
        print("Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands.")
        if args.resume is not None:
            note(f"{len(chat.turns)} messages, {chat.n_used:,} tokens are there; /show lists them")
        return _talk_in_terminal(chat, keeps=not args.private)


def _model_of(name: str) -> str | None:
    """The file of the model that a kept conversation was with; None for the one that ships."""
    path = load_chat(name).model_path
    if path and not os.path.exists(path):
        raise ResourceError(f"{path}, the model of this conversation, is gone; name another MODEL")
    return path or None


def _display(plain: bool) -> Callable[[], Display]:
    if plain or is_plain() or not sys.stdout.encoding.lower().startswith("utf"):
        return PlainDisplay
    from .chat_markdown import MarkdownDisplay

    return MarkdownDisplay


def _talk_through_pipe(chat: Conversation) -> int:
    """Each line of standard input is a message; the answers go to standard output."""

    def read_line(prompt: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    with contextlib.suppress(EOFError, Leave):
        while True:
            take(chat, read_message(read_line))
    return 0


def _talk_in_terminal(chat: Conversation, *, keeps: bool) -> int:
    """Until /bye or Ctrl-D (0), or Ctrl-C at an empty prompt right after another Ctrl-C (130)."""
    read, typed, silent_keys = _open_terminal(chat, keeps)
    interrupted = False
    while True:
        try:
            message = read()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            if interrupted and not typed():
                return 130
            interrupted = True
            note("Ctrl-C again leaves")
            continue
        try:
            interrupted = False
            with silent_keys():
                take(chat, message)
        except Leave:
            return 0
        except KeyboardInterrupt:
            interrupted = True
            note("stopped")
        except ContextFull as error:
            _print_error(f"{error}; or /clear, /undo, or /set context-policy truncate-oldest")
        except EdgellamaError as error:
            _print_error(str(error))
        except OSError as error:
            _print_error(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _open_terminal(
    chat: Conversation, keeps: bool
) -> tuple[Callable[[], str], Callable[[], str], Callable[[], AbstractContextManager[None]]]:
    """(reads a message, what stands on the line, a context in which keys do not show)."""
    if os.environ.get("TERM") == "dumb":
        return lambda: read_message(input), lambda: "", contextlib.nullcontext
    from .chat_screen import Screen, silent_keys

    screen = Screen(chat, keeps=keeps)
    return screen.read, lambda: screen.typed, silent_keys


def _print_error(text: str) -> None:
    print(f"edgellama: error: {text}", file=sys.stderr)
