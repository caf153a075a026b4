"""`edgellama tokenize`: text to token ids, and back."""

import argparse
import json
import re
import sys
from contextlib import nullcontext

from edgellama.errors import InvalidRequest
from edgellama.gguf import GGUFFile
from edgellama.llama import shipped_model
from edgellama.tokenizer import Tokenizer, load_tokenizer

from .options import add_text_options, read_text

HELP = "show the token ids of a text, or the text of ids"
EXAMPLES = """\
examples:
  edgellama tokenize model.gguf "Hello, world"
  edgellama tokenize model.gguf --show < story.txt
  edgellama tokenize model.gguf --special -p "<|begin_of_text|>hi<|eot_id|>" --no-bos --json
  edgellama tokenize model.gguf --decode 128000 9906 11
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="GGUF file (default: the small model that ships with edgellama)",
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text, as -p gives it")
    add_text_options(parser)
    parser.add_argument(
        "--decode",
        nargs="*",
        metavar="ID",
        help="print the text of these ids; without any, of those on standard input",
    )
    parser.add_argument(
        "--special",
        action="store_true",
        help="read control tokens written in the text as control tokens",
    )
    parser.add_argument("--no-bos", action="store_true", help="leave out the begin-of-text token")
    parser.add_argument("--show", action="store_true", help="one token a line, with its piece")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON array of ids, with --show of [id, piece]; with --decode a JSON string",
    )


def run(args: argparse.Namespace) -> int:
    model = shipped_model() if args.model is None else nullcontext(args.model)
    with model as path, GGUFFile(path) as file:
        tokenizer = load_tokenizer(file.metadata)
    if args.decode is not None:
        text = tokenizer.decode(_read_ids(args.decode))
        print(json.dumps(text, ensure_ascii=False) if args.json else text)
        return 0
    bos = tokenizer.add_bos and not args.no_bos
    if args.text is not None:
        if args.prompt is not None or args.file is not None:
            raise InvalidRequest("give the text once: as TEXT, with -p or with -f")
        args.prompt = args.text
    ids = tokenizer.encode(read_text(args), bos=bos, special=args.special)
    if args.json:
        pieces = [[i, _piece(tokenizer, i)] for i in ids]
        print(json.dumps(pieces if args.show else ids, ensure_ascii=False))
    elif args.show:
        for i in ids:
            print(f"{i:8} {_piece(tokenizer, i)!r}")
    else:
        print(*ids)
    return 0


def _piece(tokenizer: Tokenizer, token: int) -> str:
    """A piece may be part of a character: such bytes are shown as \\xNN."""
    return tokenizer.piece(token).decode(errors="backslashreplace")


def _read_ids(words: list[str]) -> list[int]:
    """Ids with spaces, commas or brackets between them."""
    text = " ".join(words) if words else sys.stdin.read()
    found = re.split(r"[\s,\[\]]+", text.strip(" \t\r\n,[]"))
    try:
        return [int(word) for word in found if word]
    except ValueError:
        raise InvalidRequest(f"--decode takes whole numbers, not {text[:60]!r}") from None
