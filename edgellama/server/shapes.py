"""Parts of answers: usage, timings and log probabilities, as OpenAI and llama-server spell them."""

from collections.abc import Sequence
from typing import Any

from edgellama.answer import Timings, Token
from edgellama.generate import Generation
from edgellama.tokenizer import Tokenizer

LOWEST_LOGPROB = -9999.0  # OpenAI's stand-in for what JSON cannot say


def usage(generations: Sequence[Generation]) -> dict[str, Any]:
    """Tokens of one or more answers to one prompt; the prompt counts once."""
    first = generations[0]
    return token_counts(
        first.prompt_tokens,
        sum(generation.timings.predicted_n for generation in generations),
        first.timings.cache_n,
    )


def token_counts(n_prompt: int, n_predicted: int, n_cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_predicted,
        "total_tokens": n_prompt + n_predicted,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }


def timings(timings: Timings) -> dict[str, Any]:
    """llama-server's names; milliseconds."""
    shown: dict[str, Any] = {
        "cache_n": timings.cache_n,
        "prompt_n": timings.prompt_n,
        "prompt_ms": round(1e3 * timings.prompt_s, 3),
        "prompt_per_second": round(timings.prompt_per_second, 3),
        "first_token_ms": round(1e3 * timings.first_token_s, 3),
        "predicted_n": timings.predicted_n,
        "predicted_ms": round(1e3 * timings.predicted_s, 3),
        "predicted_per_second": round(timings.predicted_per_second, 3),
    }
    if timings.draft_n:
        shown |= {"draft_n": timings.draft_n, "draft_n_accepted": timings.draft_accepted_n}
    return shown


def costs(generation: Generation, context_policy: str) -> dict[str, Any]:
    """What an answer took, and what a context policy, if one was asked for, left out for it."""
    shown: dict[str, Any] = {"timings": timings(generation.timings)}
    if context_policy != "error":
        shown["context"] = {
            "policy": context_policy,
            "dropped_messages": generation.context.dropped_messages,
            "dropped_tokens": generation.context.dropped_tokens,
        }
    return shown


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """One entry for each token that has text; the end of an answer has none."""
    return [
        {
            **_token(tokenizer, token.id, token.logprob),
            "top_logprobs": [_token(tokenizer, id, p) for id, p in token.top_logprobs],
        }
        for token in tokens
        if not tokenizer.is_control(token.id)
    ]


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[Token], offset: int = 0
) -> dict[str, Any]:
    """The older form, four lists side by side; offset: where in the text the first one stands."""
    shown = [token for token in tokens if not tokenizer.is_control(token.id)]
    texts = [_text(tokenizer, token.id) for token in shown]
    offsets = [offset]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [_finite(token.logprob) for token in shown],
        "top_logprobs": [
            {_text(tokenizer, id): _finite(p) for id, p in token.top_logprobs} for token in shown
        ],
        "text_offset": offsets[:-1],
    }


def _token(tokenizer: Tokenizer, id: int, logprob: float) -> dict[str, Any]:
    piece = tokenizer.piece(id)
    return {
        "token": piece.decode(errors="replace"),
        "logprob": _finite(logprob),
        "bytes": list(piece),
    }


def _text(tokenizer: Tokenizer, id: int) -> str:
    return tokenizer.piece(id).decode(errors="replace")


def _finite(logprob: float) -> float:
    return max(float(logprob), LOWEST_LOGPROB)
