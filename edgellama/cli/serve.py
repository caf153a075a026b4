"""`edgellama serve`: an HTTP server for OpenAI's clients, with a web page."""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.errors import InvalidRequest

from .loading import add_loading_options, add_speed_options
from .terminal import note
from .text_files import read_text_file

if TYPE_CHECKING:
    from edgellama.server.settings import Settings

HELP = "serve models over HTTP, with a web page"
EXAMPLES = """\
examples:
  edgellama serve                                    the small model that ships with edgellama
  edgellama serve llama-3.2-3b.q4_k_m.gguf --ctx 8192 --parallel 4
  edgellama serve small=llama-1b.gguf large=llama-8b.gguf --max-loaded 1 --idle-unload 300
  EDGELLAMA_API_KEY=... edgellama serve model.gguf --host 0.0.0.0
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
       -d '{"messages": [{"role": "user", "content": "Hello"}]}'

OpenAI's clients take http://127.0.0.1:8080/v1 as their base_url. Requests name a model by its id,
which is its file's name without .gguf, or NAME; without one they get the first.
Only this machine can ask, unless --host says otherwise, and then only with a key.
"""
KEY_VARIABLE = "EDGELLAMA_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument(
        "models",
        nargs="*",
        metavar="[NAME=]MODEL",
        help="GGUF files (default: the small model that ships with edgellama)",
    )
    group = parser.add_argument_group("address")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s)"
    )
    group.add_argument(
        "--port", type=int, default=8080, metavar="N", help="0: any free one (default: %(default)s)"
    )
    group.add_argument("--api-key-file", metavar="FILE", help="keys that open, one a line")
    group.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"a key that opens; seen in lists of processes, so better {KEY_VARIABLE} or a file",
    )
    group.add_argument(
        "--insecure", action="store_true", help="let other machines ask without a key"
    )
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name by which this server may be called; may be given several times",
    )
    group.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="pages from there may ask as well, such as https://example.org",
    )
    _add_model_options(parser.add_argument_group("models"))
    add_speed_options(parser)


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    add_loading_options(group)
    group.add_argument(
        "--parallel",
        type=int,
        default=4,
        metavar="N",
        help="answers that are written at once, by each model (default: %(default)s)",
    )
    group.add_argument(
        "--queue",
        type=int,
        default=32,
        metavar="N",
        help="requests that may wait for that; more are told to come again (default: %(default)s)",
    )
    group.add_argument(
        "--chat-format", metavar="NAME", help="a built-in one in place of the file's own"
    )
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="the same seed gives the same text in any company, on AMX too",
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=600,
        metavar="S",
        help="seconds that an answer may take (default: %(default)s)",
    )
    group.add_argument(
        "--max-loaded",
        type=int,
        default=3,
        metavar="N",
        help="models in memory at a time; they are loaded when asked for (default: %(default)s)",
    )
    group.add_argument(
        "--idle-unload",
        type=float,
        default=0,
        metavar="S",
        help="unload a model that nobody asked for so many seconds; 0: never"
        " (default: %(default)s)",
    )
    group.add_argument(
        "--in-process",
        action="store_true",
        help="compute in the server's own process: some memory less, but its death ends the server",
    )


def run(args: argparse.Namespace) -> int:
    from edgellama.server.run import Server

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("edgellama.server").setLevel(logging.DEBUG if args.debug else logging.INFO)
    settings = _settings(args)
    server = Server(settings)

    def ready() -> None:
        print(f"edgellama serves {', '.join(settings.models)} at {server.address}/v1")
        print(f"The page is at {server.address}/  (Ctrl-C ends it)", flush=True)

    return 130 if server.run(ready) else 0


def _settings(args: argparse.Namespace) -> "Settings":
    from edgellama.server.settings import Settings, models_of

    models = models_of(args.models)
    if args.draft is not None and len(models) > 1:
        raise InvalidRequest("--draft guesses for one model: serve that one alone")
    return Settings(
        models=models,
        host=args.host,
        port=args.port,
        api_keys=_keys(args),
        insecure=args.insecure,
        allow_hosts=frozenset(args.allow_host),
        allow_origins=frozenset(args.allow_origin),
        timeout_s=args.timeout,
        idle_unload_s=args.idle_unload or None,
        max_loaded=args.max_loaded,
        llama={
            "n_ctx": args.ctx or None,
            "n_parallel": args.parallel,
            "queue_limit": args.queue,
            "n_threads": args.threads,
            "kv_type": args.kv_type,
            "chat_format": args.chat_format,
            "draft": args.draft,
            "speculate": not args.no_speculation,
            "deterministic": args.deterministic,
        },
        prefix_cache=args.prefix_cache,
        progress=note if sys.stderr.isatty() else None,
        own_process=not args.in_process,
    )


def _keys(args: argparse.Namespace) -> tuple[str, ...]:
    keys = [args.api_key, os.environ.get(KEY_VARIABLE)]
    if args.api_key_file is not None:
        lines = [line.strip() for line in read_text_file(args.api_key_file).splitlines()]
        if not any(lines):
            raise InvalidRequest(f"{Path(args.api_key_file)} holds no key")
        keys += lines
    return tuple(key for key in keys if key)
