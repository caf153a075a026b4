"""`edgellama chat`: a conversation, in the terminal or line by line through a pipe."""

import argparse
import contextlib
import sys
from collections.abc import Callable

from edgellama import __version__
from edgellama.chat import CHAT_FORMATS, Message
from edgellama.errors import EdgellamaError, InvalidRequest
from edgellama.generate import Answer
from edgellama.llama import Llama
from edgellama.sampling import SamplingOptions

from .options import (
    add_model_options,
    add_sampling_options,
    describe,
    note,
    open_llama,
    sampling_options,
    show,
)

HELP = "talk with a model"
EXAMPLES = """\
examples:
  edgellama chat                                  the small model that ships with edgellama
  edgellama chat llama-3.2-1b.gguf --system "Answer in one sentence." --stats
  edgellama chat vicuna.gguf --chat-format vicuna --temp 0 --ctx 0
  echo "Why is the sky blue?" | edgellama chat llama-3.2-1b.gguf

Ctrl-C stops an answer; Ctrl-D, /bye or Ctrl-C again leaves. /help lists more.
"""
COMMANDS_HELP = '''\
/clear         forget the conversation
/system TEXT   set the system prompt; without TEXT, show it
/stats         speed of the last answer, and how full the context is
/help          this
/bye           leave (also /exit, /quit, Ctrl-D)
A message goes on after a backslash at the end of a line, or between """ and """.'''

_QUOTES = '"""'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add_model_options(parser)
    parser.add_argument("--system", default="", metavar="TEXT", help="the system prompt")
    parser.add_argument(
        "--chat-format",
        metavar="NAME",
        help="how conversations are written:"
        f" {', '.join(CHAT_FORMATS)} (default: as the file says)",
    )
    parser.add_argument(
        "-n",
        "--max-tokens",
        type=int,
        default=-1,
        metavar="N",
        help="most tokens of an answer; -1: until the context is full (default: %(default)s)",
    )
    parser.add_argument(
        "--stats", action="store_true", help="print tokens per second after each answer"
    )
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with open_llama(args, args.chat_format) as llm:
        if llm.chat_format is None:
            raise InvalidRequest(
                f"{llm.path.name} has no chat template: it is a base model, made to continue text."
                " Use `edgellama run`, or name a format: --chat-format"
                f" {'|'.join(CHAT_FORMATS)}"
            )
        conversation = Conversation(
            llm,
            system=args.system,
            max_tokens=None if args.max_tokens == -1 else args.max_tokens,
            stop=args.stop,
            sampling=sampling_options(args),
            stats=args.stats,
        )
        if not interactive:
            return _talk_through_pipe(conversation)
        print(f"edgellama {__version__}: {llm.config.name}, context of {llm.n_ctx:,} tokens.")
        print("Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands.")
        return _talk_in_terminal(conversation)


class Leave(Exception):
    """The user has said goodbye."""


class Conversation:
    """The messages so far, and what a line of input does to them."""

    def __init__(
        self,
        llm: Llama,
        *,
        system: str,
        max_tokens: int | None,
        stop: list[str],
        sampling: SamplingOptions,
        stats: bool,
    ) -> None:
        self.llm = llm
        self.system = system
        self.turns: list[Message] = []  # user and assistant in alternation
        self.last: Answer | None = None
        self._max_tokens = max_tokens
        self._stop = stop
        self._sampling = sampling
        self._stats = stats

    def take(self, text: str) -> None:
        """Obey a command or answer a message, on stdout. Raises Leave after a goodbye."""
        word, _, rest = text.strip().partition(" ")
        if not word.startswith("/") or "/" in word[1:]:
            if text.strip():
                self.answer(text)
        elif word in ("/bye", "/exit", "/quit"):
            raise Leave
        elif word == "/clear":
            self.turns.clear()
            note("the conversation is forgotten")
        elif word == "/system":
            self.system = rest.strip() or self.system
            note(f"system prompt: {self.system or 'none'}")
        elif word == "/stats":
            self.show_stats()
        elif word in ("/help", "/?"):
            print(COMMANDS_HELP, file=sys.stderr)
        else:
            note(f"{word} is not a command; /help lists them")

    def answer(self, text: str) -> None:
        """Stream the answer to a message; it enters the conversation however far it came.

        Raises KeyboardInterrupt after Ctrl-C, and the errors of `Llama.stream_chat`, after which
        the message is not part of the conversation.
        """
        turns: list[Message] = [*self.turns, {"role": "user", "content": text}]
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        generation = self.llm.stream_chat(
            system + turns, max_tokens=self._max_tokens, stop=self._stop, **self._sampling
        )
        try:
            for token in generation:
                show(token.text)
        finally:
            generation.close()
            answer = generation.read()
            if answer.tokens:
                print(flush=True)
                self.turns = [*turns, {"role": "assistant", "content": answer.text}]
                self.last = answer
        if answer.finish_reason == "length" and len(answer.tokens) != self._max_tokens:
            note(
                f"the answer is cut: the context of {self.llm.n_ctx:,} tokens is full; /clear"
                " begins anew, --ctx gives more"
            )
        if self._stats:
            note(describe(answer.timings))

    def show_stats(self) -> None:
        if self.last is None:
            note("nothing was answered yet")
            return
        used = self.last.prompt_tokens + len(self.last.tokens)
        note(f"{describe(self.last.timings)} | context {used:,} of {self.llm.n_ctx:,} tokens")


def _talk_through_pipe(conversation: Conversation) -> int:
    """Each line of standard input is a message; the answers go to standard output."""

    def read_line(prompt: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    with contextlib.suppress(EOFError, Leave):
        while True:
            conversation.take(_read_message(read_line))
    return 0


def _talk_in_terminal(conversation: Conversation) -> int:
    """Until /bye or Ctrl-D (0), or Ctrl-C at an empty prompt right after another Ctrl-C (130)."""
    typed = _edit_lines()
    interrupted = False
    while True:
        try:
            message = _read_message(input)
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            if interrupted and not typed():
                return 130
            interrupted = True
            note("Ctrl-C again leaves")
            continue
        try:
            interrupted = False
            conversation.take(message)
        except Leave:
            return 0
        except KeyboardInterrupt:
            interrupted = True
            note("stopped")
        except EdgellamaError as error:
            print(f"edgellama: error: {error}", file=sys.stderr)


def _edit_lines() -> Callable[[], str]:
    """Give input() history and editing; returns a function that tells what stands on the line."""
    try:
        import readline
    except ImportError:  # Windows, whose console edits lines itself
        return lambda: ""
    return readline.get_line_buffer


def _read_message(read_line: Callable[[str], str]) -> str:
    """One message: a line, lines joined by a backslash at their end, or lines in triple quotes.

    Raises EOFError at the end of input.
    """
    text = read_line(">>> ")
    quoted = text.lstrip().startswith(_QUOTES)
    if quoted:
        text = text.lstrip().removeprefix(_QUOTES)
    with contextlib.suppress(EOFError):  # input that ends inside a message ends the message
        while _QUOTES not in text if quoted else text.endswith("\\"):
            text = (text if quoted else text[:-1]) + "\n" + read_line("... ")
    return text.partition(_QUOTES)[0].strip("\n") if quoted else text
