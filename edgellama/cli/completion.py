"""`edgellama completion`: what makes a shell complete edgellama's commands, options and files."""

import argparse
import re
from importlib import import_module

HELP = "print what makes a shell complete commands, options and file names"
EXAMPLES = """\
examples:
  edgellama completion bash > ~/.local/share/bash-completion/completions/edgellama
  edgellama completion zsh > ~/.zfunc/_edgellama          with ~/.zfunc in $fpath
  edgellama completion fish > ~/.config/fish/completions/edgellama.fish
  eval "$(edgellama completion bash)"                     in this shell only
"""
SHELLS = ("bash", "zsh", "fish")
# Arguments that are called so are names of files or folders.
_FILES = re.compile(r"FILE|MODEL|PATH|SOURCE|SCRIPT|DIR|\.gguf|\.svg", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("shell", choices=SHELLS, help="the shell to print it for")


def run(args: argparse.Namespace) -> int:
    print(script(args.shell), end="")
    return 0


def script(shell: str) -> str:
    """The script for one of SHELLS, made from what the commands themselves declare."""
    import shtab

    from . import COMMANDS

    parser = argparse.ArgumentParser(prog="edgellama")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command")
    for name, path in COMMANDS.items():
        module = import_module(path)
        command = commands.add_parser(name, help=module.HELP)
        module.add_arguments(command)
        for action in command._actions:
            if action.choices is None and _FILES.search(str(action.metavar or "")):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))
