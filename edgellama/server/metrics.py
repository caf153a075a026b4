"""GET /health and /metrics, the latter in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from .exchange import models_of, reply

# name, type, help, field of EngineStatus
_ENGINE = (
    ("requests_active", "gauge", "Requests that are being answered", "active"),
    ("requests_queued", "gauge", "Requests that wait", "queued"),
    ("kv_tokens", "gauge", "Tokens whose keys and values are held", "kv_tokens"),
    ("requests_total", "counter", "Requests to the model", "requests_total"),
    ("prompt_tokens_total", "counter", "Prompt tokens computed", "prompt_tokens_total"),
    ("cached_tokens_total", "counter", "Prompt tokens that a cache held", "cached_tokens_total"),
    ("predicted_tokens_total", "counter", "Tokens of answers", "predicted_tokens_total"),
    ("prompt_seconds_total", "counter", "Seconds of prompts", "prompt_seconds_total"),
    ("predicted_seconds_total", "counter", "Seconds of answers", "predicted_seconds_total"),
    ("draft_tokens_total", "counter", "Tokens guessed ahead", "draft_tokens_total"),
    ("draft_accepted_total", "counter", "Guesses that were right", "draft_accepted_total"),
    ("steps_total", "counter", "Steps of the model", "steps_total"),
    ("rows_total", "counter", "Tokens read in these steps", "rows_total"),
)
# The same of a PrefixStore.
_STORE = (
    ("prefix_store_hits_total", "counter", "Blocks of prompts found on disk", "hits"),
    ("prefix_store_misses_total", "counter", "Blocks of prompts not found on disk", "misses"),
    ("prefix_store_damaged_total", "counter", "Blocks on disk that were damaged", "damaged"),
    ("prefix_store_bytes", "gauge", "Bytes on disk", "bytes"),
)


async def health(request: Request) -> Response:
    return reply({"status": "ok"})


async def metrics(request: Request) -> Response:
    models = [(name, llama.status()) for name, llama in models_of(request).open_now()]
    lines: list[str] = []
    for name, kind, help, field in _ENGINE:
        samples = [(f'{{model="{_escape(m)}"}}', getattr(s, field)) for m, s in models]
        lines += _metric(name, kind, help, samples)
    lines += _metric("models_loaded", "gauge", "Models in memory", [("", len(models))])
    answered: Counter[int] = request.app.state.answered
    samples = [(f'{{status="{status}"}}', n) for status, n in sorted(answered.items())]
    lines += _metric("http_requests_total", "counter", "HTTP requests by status", samples)
    store = request.app.state.prefix_store
    for name, kind, help, field in _STORE if store is not None else ():
        lines += _metric(name, kind, help, [("", getattr(store, field))])
    n_connections = len(request.app.state.connections)
    lines += _metric("connections", "gauge", "Open connections", [("", n_connections)])
    process = psutil.Process()
    with process.oneshot():
        rss, threads = process.memory_info().rss, process.num_threads()
    lines += _metric("resident_memory_bytes", "gauge", "Memory in use", [("", rss)])
    lines += _metric("threads", "gauge", "Threads of the process", [("", threads)])
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def _metric(name: str, kind: str, help: str, samples: list[tuple[str, Any]]) -> Iterator[str]:
    yield f"# HELP edgellama_{name} {help}."
    yield f"# TYPE edgellama_{name} {kind}"
    for labels, value in samples:
        yield f"edgellama_{name}{labels} {value}"


def _escape(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
