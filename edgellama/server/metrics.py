"""GET /health and /metrics, the latter in Prometheus' text format."""

from starlette.requests import Request
from starlette.responses import Response

from .exchange import models_of, reply
from .prometheus import MEDIA_TYPE, Counts, escape, metric, process_lines

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
    """What the engine counts; and what the server does, unless that is another process."""
    models = [(name, llama.status()) for name, llama in models_of(request).open_now()]
    lines: list[str] = []
    for name, kind, help, field in _ENGINE:
        samples = [(f'{{model="{escape(m)}"}}', getattr(s, field)) for m, s in models]
        lines += metric(name, kind, help, samples)
    lines += metric("models_loaded", "gauge", "Models in memory", [("", len(models))])
    store = request.app.state.prefix_store
    for name, kind, help, field in _STORE if store is not None else ():
        lines += metric(name, kind, help, [("", getattr(store, field))])
    lines += process_lines()
    counts: Counts | None = request.app.state.counts
    if counts is not None:
        lines += counts.lines()
    return Response("\n".join(lines) + "\n", headers={"content-type": MEDIA_TYPE})
