"""One side of a comparison: loads a model in its own process and works on request.

    python side.py edgellama|llama.cpp|llama.cpp-mapped MODEL N_CTX

A request is a line of JSON on standard input, {"work": "prompt" | "decode", "n_threads": int, "n":
int, "depth": int}; the answer is a line on standard output, {"tokens_per_s", "peak_rss",
"private_rss"}, bytes. The peer's environment runs this file too: it imports the standard library
and numpy at the top, and a runtime only where it is used.

Both sides do the same work: the same token ids, whatever the logits say; a prompt wants the logits
of its last token only, a decoded token wants its own, and reads them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]


class Side(Protocol):
    """A runtime with one sequence; `forward` appends ids to it and returns the last logits."""

    vocab_size: int

    def set_threads(self, n_threads: int) -> None: ...
    def reset(self) -> None: ...
    def forward(self, ids: Ids) -> NDArray[np.float32]: ...


class Edgellama:
    def __init__(self, path: str, n_ctx: int) -> None:
        from edgellama.config import ModelConfig
        from edgellama.gguf import GGUFFile
        from edgellama.weights import load_weights

        file = GGUFFile(path)
        self._config = ModelConfig.from_gguf(file)
        self._weights = load_weights(file, self._config)
        self._n_ctx = n_ctx
        self._n_threads = 0
        self._backend: Any = None
        self.vocab_size = self._config.vocab_size

    def set_threads(self, n_threads: int) -> None:
        from edgellama.backends import load_backend

        if n_threads == self._n_threads:
            return
        if self._backend is not None:
            self._backend.close()
        self._backend = load_backend(
            "cpu",
            self._config,
            self._weights,
            n_ctx=self._n_ctx,
            n_sequences=1,
            n_threads=n_threads,
            kv_type="f16",
        )
        self._n_threads = n_threads

    def reset(self) -> None:
        self._backend.drop(0)
        self._position = 0

    def forward(self, ids: Ids) -> NDArray[np.float32]:
        from edgellama.backends import Batch

        batch = Batch.of(ids, sequence=0, start=self._position, wanted="last")
        self._position += len(ids)
        logits: NDArray[np.float32] = self._backend.forward(batch)[0]
        return logits


class LlamaCpp:
    """llama.cpp through the C interface that llama-cpp-python exposes.

    mapped: weights are used where they lie in the file mapping, as edgellama does; otherwise the
    default, where llama.cpp holds a private copy, rearranged for its kernels.
    """

    CHUNK = 512  # its default n_batch and n_ubatch

    def __init__(self, path: str, n_ctx: int, *, mapped: bool = False) -> None:
        import llama_cpp

        self._api: Any = llama_cpp
        self._keep = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._keep, None)
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.use_extra_bufts = not mapped
        model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not model:
            raise SystemExit(f"llama.cpp refuses {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, self.CHUNK, self.CHUNK
        self._context = llama_cpp.llama_init_from_model(model, params)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def set_threads(self, n_threads: int) -> None:
        self._api.llama_set_n_threads(self._context, n_threads, n_threads)

    def reset(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def forward(self, ids: Ids) -> NDArray[np.float32]:
        api = self._api
        for start in range(0, len(ids), self.CHUNK):
            chunk = ids[start : start + self.CHUNK].tolist()
            tokens = (api.llama_token * len(chunk))(*chunk)  # the batch only points to it
            if api.llama_decode(self._context, api.llama_batch_get_one(tokens, len(chunk))) != 0:
                raise SystemExit("llama_decode failed")
        logits = api.llama_get_logits_ith(self._context, -1)  # waits until they are computed
        return np.ctypeslib.as_array(logits, (self.vocab_size,)).copy()


SIDES: dict[str, Callable[[str, int], Side]] = {
    "edgellama": Edgellama,
    "llama.cpp": LlamaCpp,
    "llama.cpp-mapped": lambda path, n_ctx: LlamaCpp(path, n_ctx, mapped=True),
}


def measure(side: Side, work: str, n_threads: int, n: int, depth: int) -> float:
    """Tokens a second of a prompt of `n`, or of decoding `n` one by one, behind `depth` tokens."""
    ids = np.random.default_rng(0).integers(0, side.vocab_size, depth + n + 1, np.int32)
    side.set_threads(n_threads)
    side.reset()
    side.forward(ids[:2])  # compiles or touches what a first call needs
    side.reset()
    if depth:
        side.forward(ids[:depth])
    if work == "prompt":
        started = time.perf_counter()
        side.forward(ids[depth : depth + n])
        return n / (time.perf_counter() - started)
    side.forward(ids[depth : depth + 1])  # the first step after a prompt changes kernels: untimed
    started = time.perf_counter()
    for i in range(depth + 1, depth + 1 + n):
        side.forward(ids[i : i + 1])
    return n / (time.perf_counter() - started)


def resident_bytes() -> dict[str, int | None]:
    """Peak resident size, and what of the present one is private (not file pages); Linux only."""
    try:
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
    except OSError:
        return {"peak_rss": None, "private_rss": None}
    keys = {"peak_rss": "VmHWM", "private_rss": "RssAnon"}
    return {name: int(lines[key].split()[0]) * 1024 for name, key in keys.items()}


def main() -> None:
    name, path, n_ctx = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a runtime prints must not be taken for an answer
    side = SIDES[name](path, int(n_ctx))
    print(json.dumps({"ready": name}), file=answers, flush=True)
    for line in sys.stdin:
        answer = {"tokens_per_s": measure(side, **json.loads(line))} | resident_bytes()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
