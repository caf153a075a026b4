"""The `edgellama` command: one file a subcommand, found in one table.

Each has HELP (one line), add_arguments(parser) and run(args) -> exit status. The status is 0, or
1 for an error in one line on stderr, 2 for a wrong command line, 130 after Ctrl-C, 141 when the
reader of a pipe has gone.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from edgellama import EdgellamaError, __version__

COMMANDS = {
    "chat": "edgellama.cli.chat",
    "run": "edgellama.cli.run",
    "serve": "edgellama.cli.serve",
    "convert": "edgellama.cli.convert",
    "quantize": "edgellama.cli.quantize",
    "inspect": "edgellama.cli.inspect",
    "tokenize": "edgellama.cli.tokenize",
    "imatrix": "edgellama.cli.imatrix",
    "eval": "edgellama.cli.eval",
    "bench": "edgellama.cli.bench",
    "warmup": "edgellama.cli.warmup",
    "doctor": "edgellama.cli.doctor",
    "completion": "edgellama.cli.completion",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    try:
        status = _run(arguments)
        sys.stdout.flush()  # here, where a broken pipe is still ours to handle
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _discard_stdout()
        return 141
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"edgellama: error: {_in_one_line(error)}", file=sys.stderr)
        return 1


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="edgellama", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="version", version=f"edgellama {__version__}")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("command", nargs="?", choices=COMMANDS, metavar="command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args(arguments)
    if args.help or args.command is None:
        print(_overview())
        return 0 if args.help else 2
    command = import_module(COMMANDS[args.command])
    # Intermixed: what may be left out, such as OUT.gguf, may stand behind options as well.
    parsed = _command_parser(args.command, command).parse_intermixed_args(args.arguments)
    status: int = command.run(parsed)
    return status


def _command_parser(name: str, command: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"edgellama {name}",
        description=command.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _overview() -> str:
    lines = ["usage: edgellama COMMAND ...", "", "Llama models on your own CPU.", ""]
    for name, path in COMMANDS.items():
        lines.append(f"  {name:10} {import_module(path).HELP}")
    lines += [
        "",
        "edgellama chat              talk with the small model that ships with edgellama",
        "edgellama COMMAND --help    what a command takes, with examples",
        "edgellama --version",
    ]
    return "\n".join(lines)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, EdgellamaError):
        words = str(error)
    elif isinstance(error, OSError) and error.strerror is not None:
        words = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, UnicodeDecodeError):
        words = "the input is not UTF-8 text"
    elif isinstance(error, MemoryError):
        words = "there is not enough memory"
    else:
        words = f"{type(error).__name__}: {error} (not expected; --debug shows where)"
    return " ".join(words.split("\n"))


def _prepare_streams() -> None:
    """Pipes carry UTF-8 whatever the locale; no character can fail to print; a closed one is void.

    A terminal keeps its own encoding and shows `?` for what it has no sign for.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            terminal = stream.isatty()
            stream.reconfigure(
                encoding=stream.encoding if terminal else "utf-8",
                errors="strict" if mode == "r" and not terminal else "replace",
            )


def _discard_stdout() -> None:
    """Let what is still buffered vanish: the interpreter would fail to flush it at its end."""
    void = os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, sys.stdout.fileno())
    os.close(void)
