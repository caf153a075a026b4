"""Renders a model file's chat template, a program by a stranger, in a process of its own.

    python -m edgellama.chat_template      one JSON request on stdin, one JSON answer on stdout

The template runs in Jinja's sandbox, set up as transformers sets it up. The sandbox keeps it from
files and from Python's insides, but not from endless loops and strings of gigabytes: hence the
process, with its limits on time and memory. Nothing of the template ever runs in the caller's.
"""

import contextlib
import faulthandler
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import EdgellamaError, InvalidRequest, ModelFormatError, ResourceError

MAX_SOURCE_CHARS = 64 << 10
MAX_OUTPUT_BYTES = 16 << 20
MAX_SECONDS = 2  # of a processor's work, for rendering
MAX_BUSY_SECONDS = 30  # that these may take where other programs want the processor too
MAX_START_SECONDS = 60
MAX_MEMORY_BYTES = 512 << 20  # address space, where the system can limit it

_KEY = "tokenizer.chat_template"
_ADVICE = "name a built-in chat format instead"


def render(
    source: str,
    conversations: Sequence[Mapping[str, object]],
    *,
    now: datetime,
    **variables: str,
) -> list[str | EdgellamaError]:
    """The template's text for each conversation, up to where the assistant speaks.

    A conversation is what the template reads: {"messages": [...], "tools": [...] or None, ...}, in
    JSON's types. variables: bos_token, eos_token. In the place of a text stands InvalidRequest
    where the template refused the conversation, ModelFormatError where it failed. Raises
    ModelFormatError if it cannot be parsed or needs more than the limits above, ResourceError if no
    process could be started.
    """
    if len(source) > MAX_SOURCE_CHARS:
        raise ModelFormatError(
            f"{_KEY}: {len(source):,} characters, at most {MAX_SOURCE_CHARS:,} are read; {_ADVICE}"
        )
    request = {
        "source": source,
        "conversations": [dict(conversation) for conversation in conversations],
        "now": now.isoformat(),
        "variables": variables,
    }
    output = _run_helper(json.dumps(request).encode("ascii"))
    try:
        answer = json.loads(output)
    except ValueError:
        raise ModelFormatError(
            f"{_KEY}: rendering it takes more than {MAX_SECONDS} s, "
            f"{MAX_MEMORY_BYTES >> 20} MB or {MAX_OUTPUT_BYTES >> 20} MB of text; {_ADVICE}"
        ) from None
    if "error" in answer:
        raise ModelFormatError(f"{_KEY}: {_one_line(answer['error'])}; {_ADVICE}")
    return [_result(result) for result in answer["results"]]


def _result(result: Mapping[str, str]) -> str | EdgellamaError:
    if "text" in result:
        return result["text"]
    if "refused" in result:
        return InvalidRequest(f"the chat template says: {_one_line(result['refused'])}")
    return ModelFormatError(f"{_KEY}: {_one_line(result['error'])}; {_ADVICE}")


def _one_line(text: str) -> str:
    """A stranger's words, fit for a terminal."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text[:300]).split())
    return words or "no reason given"


def _run_helper(request: bytes) -> bytes:
    """What the helper process prints, cut off after the limit; b"" if it was stopped."""
    if not sys.executable:
        raise ResourceError(f"no Python to render the file's chat template with; {_ADVICE}")
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],  # where -m finds this package, installed or not
        )
    except OSError as error:
        raise ResourceError(f"cannot start a process for the chat template: {error}") from error
    killer = threading.Timer(MAX_START_SECONDS + MAX_BUSY_SECONDS, process.kill)
    killer.daemon = True
    killer.start()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it died early; its output tells
            process.stdin.write(request)
            process.stdin.close()
        return process.stdout.read(MAX_OUTPUT_BYTES + 1)
    finally:
        killer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def main() -> None:
    """The helper process."""

    request = json.load(sys.stdin)
    environment = _environment(datetime.fromisoformat(request["now"]))  # slow if the disk is
    _limit_this_process()
    try:
        answer = _render(environment, request)
    except MemoryError:
        os._exit(1)  # no answer says that a limit was reached
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    output = json.dumps(answer)
    if len(output) <= MAX_OUTPUT_BYTES:
        sys.stdout.write(output)
        sys.stdout.flush()
    os._exit(0)  # no clean-up of what the template made


def _limit_this_process() -> None:
    seconds = MAX_SECONDS
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        work = math.ceil(time.process_time()) + MAX_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (work, work))
        seconds = MAX_BUSY_SECONDS
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    # This watchdog is a thread of C: it strikes even while one long operation holds Python's lock.
    faulthandler.dump_traceback_later(seconds, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115


def _render(environment: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    template = environment.from_string(request["source"])
    results: list[dict[str, str]] = []
    always = {"add_generation_prompt": True, "tools": None, "documents": None}
    for conversation in request["conversations"]:
        try:
            text = template.render(always | request["variables"] | conversation)
            results.append({"text": text})
        except _Refusal as refusal:
            results.append({"refused": str(refusal)})
        except MemoryError:
            raise
        except Exception as error:
            results.append({"error": f"{type(error).__name__}: {error}"})
    return {"results": results}


class _Refusal(Exception):
    """The template called raise_exception."""


def _environment(now: datetime) -> Any:
    """Jinja as chat templates expect it.

    https://huggingface.co/docs/transformers/main/en/chat_templating_writing
    """
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks the assistant's words for training and changes nothing."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise _Refusal(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = now.strftime
    return environment


if __name__ == "__main__":
    main()
