"""One side of a comparison: a runtime with a model in its own process, which works on request.

    python side.py edgellama|llama.cpp|llama.cpp-mapped|openvino MODEL N_CTX N_THREADS

A request is a line of JSON on standard input, {"work": "prompt" | "decode", "n": int, "depth":
int}; the answer is a line on standard output, {"tokens_per_s", "peak_rss", "private_rss"}, bytes.
The peers' environments run this file too: it imports the standard library and numpy at the top, and
a runtime only where it is used.

All sides do the same work: given token ids, whatever the logits say; a prompt wants the logits of
its last token only, a decoded token wants its own.
"""

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]


class Side(Protocol):
    """A runtime with one sequence."""

    build: str  # its name and version, and the instructions that it uses

    def measure(self, work: str, n: int, depth: int) -> float:
        """Tokens a second of a prompt of `n`, or of decoding `n`, behind `depth` tokens."""
        ...


class StepByStep(ABC):
    """A runtime whose steps we make ourselves, on one text whose beginning stays in the context."""

    def __init__(self, n_ctx: int, vocab_size: int) -> None:
        self._ids = np.random.default_rng(0).integers(0, vocab_size, n_ctx, np.int32)
        self._held = 0  # how much of the text is in the context
        for work in ("prompt", "decode"):  # touches and compiles what a first call needs
            self.measure(work, 8, 0)

    @abstractmethod
    def forward(self, ids: Ids, start: int) -> NDArray[np.float32]:
        """Append ids at position `start`; the logits of the last of them."""

    @abstractmethod
    def rewind(self, length: int) -> None:
        """Forget what comes behind the first `length` tokens."""

    def measure(self, work: str, n: int, depth: int) -> float:
        self._hold(depth)
        if work == "decode":  # the first step after a prompt changes kernels: it is not timed
            self._hold(depth + 1)
        start = self._held
        step = n if work == "prompt" else 1
        started = time.perf_counter()
        for at in range(start, start + n, step):
            self.forward(self._ids[at : at + step], at)
        seconds = time.perf_counter() - started
        self._held = start + n
        return n / seconds

    def _hold(self, length: int) -> None:
        """Have the first `length` tokens of the text in the context, and no others."""
        self._held = min(self._held, length)
        self.rewind(self._held)
        if self._held < length:
            self.forward(self._ids[self._held : length], self._held)
            self._held = length


class Edgellama(StepByStep):
    def __init__(self, path: str, n_ctx: int, n_threads: int) -> None:
        from edgellama import __version__
        from edgellama.backends import load_backend
        from edgellama.config import ModelConfig
        from edgellama.gguf import GGUFFile
        from edgellama.quant.simd.cpu import current_tier
        from edgellama.weights import load_weights

        file = GGUFFile(path)
        config = ModelConfig.from_gguf(file)
        self._backend = load_backend(
            "cpu",
            config,
            load_weights(file, config),
            n_ctx=n_ctx,
            n_sequences=1,
            n_threads=n_threads,
            kv_type="f16",
        )
        self.build = f"edgellama {__version__}, {current_tier().name}"
        super().__init__(n_ctx, config.vocab_size)

    def forward(self, ids: Ids, start: int) -> NDArray[np.float32]:
        from edgellama.backends import Batch

        batch = Batch.of(ids, sequence=0, start=start, wanted="last")
        logits: NDArray[np.float32] = self._backend.forward(batch)[0]
        return logits

    def rewind(self, length: int) -> None:
        self._backend.rewind(0, length)


class LlamaCpp(StepByStep):
    """llama.cpp through the C interface that llama-cpp-python exposes.

    mapped: weights are used where they lie in the file mapping, as edgellama does; otherwise the
    default, where llama.cpp holds a private copy, rearranged for its kernels.
    """

    CHUNK = 512  # its default n_ubatch

    def __init__(self, path: str, n_ctx: int, n_threads: int, *, mapped: bool = False) -> None:
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
        params.n_threads = params.n_threads_batch = n_threads
        self._context = llama_cpp.llama_init_from_model(model, params)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        used = llama_cpp.llama_print_system_info().decode().replace("CPU :", "").split("|")
        names = [field.split("=")[0].strip() for field in used if field.strip().endswith("= 1")]
        self.build = f"llama-cpp-python {llama_cpp.__version__}, {' '.join(names)}"
        super().__init__(n_ctx, self._vocab_size)

    def forward(self, ids: Ids, start: int) -> NDArray[np.float32]:
        api = self._api
        for first in range(0, len(ids), self.CHUNK):
            chunk = ids[first : first + self.CHUNK].tolist()
            tokens = (api.llama_token * len(chunk))(*chunk)  # the batch only points to it
            if api.llama_decode(self._context, api.llama_batch_get_one(tokens, len(chunk))) != 0:
                raise SystemExit("llama_decode failed")
        logits = api.llama_get_logits_ith(self._context, -1)  # waits until they are computed
        return np.ctypeslib.as_array(logits, (self._vocab_size,)).copy()

    def rewind(self, length: int) -> None:
        self._api.llama_memory_seq_rm(self._api.llama_get_memory(self._context), 0, length, -1)


class OpenVino:
    """OpenVINO GenAI, which generates by itself: its own clock tells prompt and decode apart."""

    def __init__(self, path: str, n_ctx: int, n_threads: int) -> None:
        import openvino_genai

        self._api: Any = openvino_genai
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = n_ctx  # a prompt is one piece, as by default
        self._pipeline = openvino_genai.LLMPipeline(
            path, "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=n_threads
        )
        self._vocab_size = json.loads((Path(path) / "config.json").read_text())["vocab_size"]
        self._rng = np.random.default_rng(0)
        self.build = f"openvino-genai {openvino_genai.__version__.split('-')[0]}"
        for _ in range(2):  # its first prompt is several times slower than the third
            self.measure("prompt", min(512, n_ctx // 2), 0)

    def measure(self, work: str, n: int, depth: int) -> float:
        if work == "prompt" and depth:
            raise SystemExit("openvino: a prompt cannot be measured behind others")
        import openvino

        n_prompt, n_new = (n, 1) if work == "prompt" else (depth + 1, n + 1)
        ids = self._rng.integers(0, self._vocab_size, (1, n_prompt), np.int64)
        config = self._api.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = n_new, True, False
        result = self._pipeline.generate(openvino.Tensor(ids), config)
        metrics = result.perf_metrics
        if work == "prompt":
            return n / float(metrics.get_ttft().mean) * 1e3
        return 1e3 / float(metrics.get_tpot().mean)


SIDES: dict[str, Callable[[str, int, int], Side]] = {
    "edgellama": Edgellama,
    "llama.cpp": LlamaCpp,
    "llama.cpp-mapped": lambda *args: LlamaCpp(*args, mapped=True),
    "openvino": OpenVino,
}


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
    name, path, n_ctx, n_threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a runtime prints must not be taken for an answer
    side = SIDES[name](path, int(n_ctx), int(n_threads))
    print(json.dumps({"build": side.build}), file=answers, flush=True)
    for line in sys.stdin:
        answer = {"tokens_per_s": side.measure(**json.loads(line))} | resident_bytes()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
