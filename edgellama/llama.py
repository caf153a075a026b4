"""`Llama`: a model file, ready to talk.

    with Llama("model.gguf") as llm:
        for token in llm.generate("Once upon a time", max_tokens=64):
            print(token.text, end="")
        print(llm.chat([{"role": "user", "content": "hi"}]).text)

Any number of threads and event loops may use one `Llama`; with `n_parallel` their requests run
together. What a prompt shares with an earlier one is not computed again.
"""

import operator
import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .answer import Answer, ContextReport
from .backends import load_backend
from .backends.base import BlockBackend
from .chat import ChatFormat, Messages, find_chat_format
from .config import ModelConfig
from .embedding import POOLINGS, pool
from .engine import Engine, EngineStatus
from .errors import InvalidRequest, ModelChanged, ResourceError
from .generate import Generation, begin_answers, seed_of
from .gguf import GGUFFile
from .prefix_store import PrefixStore, key_of
from .requests import Request
from .sampling import SamplingOptions, SamplingParams
from .slots import common_prefix
from .speculation import DraftModel
from .tokenizer import Tokenizer, load_tokenizer
from .tools import ToolChoice, ToolReader, Tools, shown_tools, text_of, tool_grammar
from .weights import load_weights

if TYPE_CHECKING:
    from .grammar import Grammar

CONTEXT_POLICIES = ("error", "shift", "truncate-oldest")
MAX_TOP_LOGPROBS = 64
MAX_STOP_STRINGS = 64


class Llama:
    """A Llama model, its tokenizer and `n_parallel` contexts of `n_ctx` tokens.

    Public to read: path, config, tokenizer, n_ctx, n_parallel, chat_format.
    """

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    n_ctx: int
    n_parallel: int

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int | None = 4096,
        n_threads: int | None = None,
        n_parallel: int = 1,
        kv_type: str = "f16",
        backend: str = "cpu",
        chat_format: str | None = None,
        draft: str | os.PathLike[str] | None = None,
        speculate: bool = True,
        prefix_store: PrefixStore | None = None,
        queue_limit: int = 128,
        deterministic: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Open a GGUF file; without a path, the small model that ships with edgellama.

        n_ctx: tokens that prompt and answer may have together, at most what the model was trained
            for; None is that whole length.
        n_threads: None takes what suits the machine.
        n_parallel: how many requests run at once; others wait, `queue_limit` of them at most.
        kv_type: how keys and values are kept, "f16" or "q8_0".
        backend: "cpu" or "reference" (plain numpy: slow, for comparisons).
        chat_format: name of a built-in chat format; None takes the one the file asks for.
        draft: a small model file of the same vocabulary that guesses ahead; None guesses from what
            stands in the text already. speculate=False does not guess. Guesses change no answer.
        prefix_store: keeps keys and values of long prompts on disk, for the next start as well.
        deterministic: the same seed gives the same text in any company also on AMX, where large
            batches are otherwise computed in bfloat16; prompts take longer there. No other CPU
            needs it.
        progress: told in words what is being waited for, such as the first compilation.

        Raises ModelFormatError for a file that is damaged or of another kind, ResourceError if it
        cannot be read or memory is short, InvalidRequest for an argument out of range.
        """
        if n_ctx is not None:
            n_ctx = _check_int("n_ctx", n_ctx, 1)
        if n_threads is not None:
            n_threads = _check_int("n_threads", n_threads, 1)
        self.n_parallel = _check_int("n_parallel", n_parallel, 1)
        self._speculate = speculate
        # Whatever fails, what was opened before it is closed.
        with ExitStack() as stack:
            self.path = stack.enter_context(shipped_model()) if path is None else Path(path)
            file = stack.enter_context(GGUFFile(self.path))
            file.prefetch()
            self._files = {path: path.stat() for path in file.paths}
            self.config = ModelConfig.from_gguf(file)
            self.tokenizer = load_tokenizer(file.metadata)
            if chat_format is not None:
                self.chat_format = find_chat_format(self.tokenizer, chat_format)
            self.n_ctx = min(n_ctx or self.config.context_length, self.config.context_length)
            machine = load_backend(
                backend,
                self.config,
                load_weights(file, self.config),
                n_ctx=self.n_ctx,
                n_sequences=self.n_parallel,
                n_threads=n_threads,
                kv_type=kv_type,
                progress=progress,
            )
            stack.callback(machine.close)
            store_key = ""
            if prefix_store is not None and isinstance(machine, BlockBackend):
                # A deterministic prompt is not computed as AMX would.
                arithmetic = "f32" if deterministic else machine.arithmetic
                store_key = key_of(file, machine.kv_type, arithmetic)
            drafter = None if draft is None else self._load_draft(stack, draft, n_threads, progress)
            self._engine = Engine(
                machine,
                self.tokenizer,
                queue_limit=_check_int("queue_limit", queue_limit, 0),
                store=prefix_store if store_key else None,
                store_key=store_key,
                drafter=drafter,
                deterministic=deterministic,
            )
            stack.callback(self._engine.close)
            self._resources = stack.pop_all()

    def _load_draft(
        self,
        stack: ExitStack,
        path: str | os.PathLike[str],
        n_threads: int | None,
        progress: Callable[[str], None] | None,
    ) -> DraftModel:
        file = stack.enter_context(GGUFFile(Path(path)))
        config = ModelConfig.from_gguf(file)
        vocabulary = load_tokenizer(file.metadata)
        own = self.tokenizer
        if vocabulary.vocab_size != own.vocab_size or any(
            vocabulary.piece(id) != own.piece(id) for id in range(own.vocab_size)
        ):
            raise InvalidRequest(
                f"{path}: its vocabulary is not that of {self.path.name}; a draft model must have"
                " the same tokens"
            )
        machine = load_backend(
            "cpu",
            config,
            load_weights(file, config),
            n_ctx=min(self.n_ctx, config.context_length),
            n_sequences=1,
            n_threads=n_threads,
            progress=progress,
        )
        stack.callback(machine.close)
        return DraftModel(machine)

    @cached_property
    def chat_format(self) -> ChatFormat | None:
        """How conversations are written for this model; None if it is a base model."""
        return find_chat_format(self.tokenizer)

    def tokenize(self, text: str, *, bos: bool = False, special: bool = False) -> list[int]:
        """Token ids of a text.

        bos: begin with the id that begins every document. special: read control tokens written in
        the text, such as <|eot_id|>, as what they say; without it they are ordinary characters.
        Raises InvalidRequest for what is not text.
        """
        return self.tokenizer.encode(text, bos=bos, special=special)

    def detokenize(self, ids: Sequence[int] | ArrayLike) -> str:
        """The text of token ids; control tokens have none."""
        return self.tokenizer.decode(self._check_ids(ids))

    def logits(self, ids: Sequence[int] | ArrayLike) -> NDArray[np.float32]:
        """(n, vocab_size) float32: what each position expects next, from an empty cache.

        Raises InvalidRequest for an id outside the vocabulary, ContextFull for more than n_ctx,
        ResourceError when memory is short.
        """
        checked = self._check_prompt(ids)
        self.check_file()
        try:
            return self._engine.logits(checked)
        except MemoryError:
            size = len(checked) * self.config.vocab_size * 4
            raise ResourceError(
                f"the logits of {len(checked):,} positions take {size:,} bytes, which this machine"
                " does not have; ask for fewer positions at a time"
            ) from None

    def embed(
        self,
        texts: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        pooling: str = "mean",
        normalize: bool = True,
    ) -> NDArray[np.float32]:
        """(n, dim) float32: what the model makes of each text, behind its last norm.

        pooling: "mean" of all tokens, "last" or "cls", the first. normalize: to length one.
        A text gets the begin-of-text token where the model wants one; lists of ids are taken as
        they are. `n_parallel` of them are computed together. Raises as `logits`.
        """
        if pooling not in POOLINGS:
            raise InvalidRequest(f"pooling {pooling!r} is unknown; known are {', '.join(POOLINGS)}")
        prompts = [
            self._check_prompt(
                self.tokenize(text, bos=self.tokenizer.add_bos) if isinstance(text, str) else text
            )
            for text in ([texts] if isinstance(texts, str) else texts)
        ]
        self.check_file()
        vectors = [pool(rows, pooling, normalize) for rows in self._engine.hidden(prompts)]
        return np.array(vectors, np.float32).reshape(len(vectors), self.config.dim)

    def generate(
        self,
        prompt: str | Sequence[int] | ArrayLike,
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        logprobs: bool = True,
        top_logprobs: int = 0,
        grammar: "Grammar | None" = None,
        context_policy: str = "error",
        **sampling: Unpack[SamplingOptions],
    ) -> Generation:
        """Continue a text, or token ids as they are: an iterator of `Token`, begun at once.

        A text gets the begin-of-text token where the model wants one, and its control tokens are
        read as plain characters. It ends before a `stop` string, at an id of `stop_ids` or of the
        model's own end, after `max_tokens` (None: until the context is full).

        logprobs: whether each token tells its own probability, top_logprobs: how many of the
        likeliest ids it tells besides. grammar: what the text must be (see edgellama.grammar).
        sampling: the fields of `SamplingParams`.
        context_policy: "error" refuses a prompt that is too long and ends an answer where the
        context is full; "truncate-oldest" leaves out the oldest ids of such a prompt; "shift"
        makes room for an answer without end by dropping the older half of what it read.
        """
        if isinstance(prompt, str):
            prompt = self.tokenize(prompt, bos=self.tokenizer.add_bos)
        ids = self._check_prompt(prompt)
        n_first = 1 if ids[0] == self.tokenizer.bos_id else 0
        report = ContextReport()
        if _check_policy(context_policy) == "truncate-oldest":
            surplus = max(0, len(ids) - self._room_for_prompt(max_tokens))
            del ids[n_first : n_first + surplus]
            report.dropped_tokens = surplus
        request = Request(
            ids,
            params=_params(sampling),
            max_tokens=_check_max_tokens(max_tokens),
            stop_ids=self.tokenizer.stop_ids.union(self._check_ids(stop_ids)),
            stop_strings=_check_stop(stop),
            logprobs=logprobs,
            top_logprobs=_check_top(top_logprobs),
            grammar=grammar,
            shift_keep=n_first if context_policy == "shift" else None,
            speculate=self._speculate,
        )
        self.check_file()
        return self._engine.submit(request, report)

    def chat(
        self,
        messages: Messages,
        *,
        tools: Tools = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: bool = True,
        top_logprobs: int = 0,
        grammar: "Grammar | None" = None,
        context_policy: str = "error",
        **sampling: Unpack[SamplingOptions],
    ) -> Answer:
        """The assistant's whole answer: .text .tokens .finish_reason .tool_calls .timings.

        Messages and tools have the shapes of OpenAI's API: {"role": "user", "content": text}, and
        {"type": "function", "function": {"name": ..., "parameters": JSON schema}}. Calls of tools
        are not in the text. parallel_tool_calls=False: calls that are enforced, by tool_choice or a
        strict tool, are one at most. Other arguments as for `generate`.
        """
        generation = self.stream_chat(
            messages,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            max_tokens=max_tokens,
            stop=stop,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            grammar=grammar,
            context_policy=context_policy,
            **sampling,
        )
        return self._read_chat(generation, sampling.get("seed"), tools, tool_choice)

    def _read_chat(
        self,
        generation: Generation,
        seed: int | None,
        tools: Tools = (),
        tool_choice: ToolChoice = "auto",
    ) -> Answer:
        """The whole answer, with the calls in it."""
        shown = shown_tools(tools, tool_choice)
        if not shown:
            return generation.read()
        if seed is not None:  # the same ids for the same request, others in the next turn
            seed = int(seed) * 1_000_003 + generation.prompt_tokens
        reader = ToolReader(self.tokenizer, shown, seed=seed)
        deltas = [delta for token in generation for delta in reader.push(token)]
        deltas += reader.finish()
        answer = replace(generation.read(), text=text_of(deltas), tool_calls=reader.calls)
        if answer.tool_calls and answer.finish_reason == "stop":
            return replace(answer, finish_reason="tool_calls")
        return answer

    def stream_chat(
        self,
        messages: Messages,
        *,
        tools: Tools = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: bool = True,
        top_logprobs: int = 0,
        grammar: "Grammar | None" = None,
        context_policy: str = "error",
        **sampling: Unpack[SamplingOptions],
    ) -> Generation:
        """`chat`, token by token; what calls tools is text here (edgellama.tools reads it).

        context_policy "truncate-oldest" leaves out whole turns, never the system message.
        """
        chat_format = self._need_chat_format()
        max_tokens = _check_max_tokens(max_tokens)
        report = ContextReport()
        shown = [tool.shown for tool in shown_tools(tools, tool_choice)]
        if _check_policy(context_policy) == "truncate-oldest":
            messages = self._newest(messages, shown, max_tokens, report)
        prompt = self._chat_prompt(messages, shown)
        calls = tool_grammar(tools, tool_choice, chat_format, parallel_tool_calls)
        if calls is not None and grammar is not None:
            raise InvalidRequest("tools whose calls are enforced leave no room for a grammar")
        shift_keep = None
        if context_policy == "shift":
            shift_keep = self._n_of_beginning(messages, prompt)
        request = Request(
            prompt,
            params=_params(sampling),
            max_tokens=max_tokens,
            stop_ids=self.tokenizer.stop_ids | chat_format.stop_ids(self.tokenizer),
            stop_strings=(*chat_format.stop_strings, *_check_stop(stop)),
            continues=False,
            logprobs=logprobs,
            top_logprobs=_check_top(top_logprobs),
            grammar=grammar or calls,
            shift_keep=shift_keep,
            speculate=self._speculate,
        )
        self.check_file()
        return self._engine.submit(request, report)

    def answers(
        self, asked: str | Sequence[int] | ArrayLike | Messages, n: int, **options: Any
    ) -> list[Answer]:
        """`n` answers to the same prompt or, if messages are given, in the same conversation.

        A long prompt is read once; `n_parallel` answers are written at a time, the others wait in
        the queue. options: those of `generate` or `chat`; with a seed, answer i is the one that
        seed + i gives. Raises as these do, after which no answer goes on.
        """
        n, seed = _check_int("n", n, 1), options.pop("seed", None)
        is_chat = isinstance(asked, Sequence) and any(isinstance(m, Mapping) for m in asked[:1])
        ask: Callable[..., Generation] = self.stream_chat if is_chat else self.generate
        generations = begin_answers(lambda own: ask(asked, seed=own, **options), n, seed)
        tools = {name: options[name] for name in ("tools", "tool_choice") if name in options}
        try:
            if not is_chat:
                return [generation.read() for generation in generations]
            return [
                self._read_chat(generation, seed_of(seed, i), **tools)
                for i, generation in enumerate(generations)
            ]
        finally:
            for generation in generations:
                generation.close()

    def count_tokens(self, messages: Messages, tools: Tools = ()) -> int:
        """Tokens of a conversation as the model reads it, up to where it would answer."""
        return len(self._chat_prompt(messages, tools))

    def check_file(self) -> None:
        """Raise ModelChanged if the file was written to since it was opened; requests do it first.

        A file that was removed, or replaced by another of its name, stays as it was for those who
        opened it.
        """
        for path, before in self._files.items():
            try:
                now = path.stat()
            except OSError:
                continue
            if (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino) and (
                (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
            ):
                raise ModelChanged(
                    f"{path}: was written to after it was opened ({before.st_size:,} bytes then,"
                    f" {now.st_size:,} now); open it again. To replace a model in use, write the"
                    " new one beside it and rename it"
                )

    def status(self) -> EngineStatus:
        """What is running and waiting, and sums since the start."""
        return self._engine.status()

    def _need_chat_format(self) -> ChatFormat:
        if self.chat_format is None:
            raise InvalidRequest(
                f"{self.path.name} has no chat template: it is a base model, made to continue text;"
                " use generate, or name a chat format"
            )
        return self.chat_format

    def _chat_prompt(self, messages: Messages, tools: Tools) -> list[int]:
        return self._need_chat_format().prompt(self.tokenizer, messages, tools=tools)

    def _room_for_prompt(self, max_tokens: int | None) -> int:
        """Tokens a prompt may keep so that an answer has room: a quarter of the context, or less
        if it may only have less, and a half at most."""
        answer = self.n_ctx // 4 if max_tokens is None else min(max_tokens, self.n_ctx // 2)
        return max(1, self.n_ctx - answer)

    def _newest(
        self,
        messages: Messages,
        tools: Tools,
        max_tokens: int | None,
        report: ContextReport,
    ) -> Messages:
        """As many of the newest turns as leave room for an answer, behind the system messages."""
        first = 0
        while first < len(messages) and messages[first].get("role") in ("system", "developer"):
            first += 1
        users = [i for i, m in enumerate(messages) if i >= first and m.get("role") == "user"]
        room = self._room_for_prompt(max_tokens)

        def fits(start: int) -> bool:
            return len(self._chat_prompt([*messages[:first], *messages[start:]], tools)) <= room

        starts = [first, *(i for i in users if i > first)]
        kept = starts[min(bisect_left(starts, True, key=fits), len(starts) - 1)]
        report.dropped_messages = kept - first
        return [*messages[:first], *messages[kept:]]

    def _n_of_beginning(self, messages: Messages, prompt: Sequence[int]) -> int:
        """Ids of the prompt that belong to the system message and what stands before it."""
        system = [m for m in messages[:1] if m.get("role") in ("system", "developer")]
        other = self._chat_prompt([*system, {"role": "user", "content": ""}], ())
        return common_prefix(other, prompt)

    def close(self) -> None:
        """Give back memory, threads and file; a step that runs in another thread ends first."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_ids(self, ids: Sequence[int] | ArrayLike) -> list[int]:
        try:
            array = np.asarray(ids)
        except ValueError:  # lists of unequal length inside
            array = np.empty((0, 0))
        if array.shape == (0,):
            return []
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InvalidRequest("token ids must be a list of whole numbers")
        vocab_size = self.config.vocab_size
        wrong = np.flatnonzero((array < 0) | (array >= vocab_size))
        if wrong.size:
            raise InvalidRequest(
                f"token id {array[wrong[0]]} at index {wrong[0]} is outside the vocabulary of"
                f" {vocab_size:,}"
            )
        return [int(i) for i in array]

    def _check_prompt(self, ids: Sequence[int] | ArrayLike) -> list[int]:
        checked = self._check_ids(ids)
        if not checked:
            raise InvalidRequest("the prompt is empty; at least one token is needed")
        return checked


def shipped_model() -> AbstractContextManager[Path]:
    """The file of the small model inside the package, while the context lasts."""
    model = resources.files(f"{__package__}.models") / "tiny.gguf"
    if not model.is_file():
        raise ResourceError(
            "this installation has no edgellama/models/tiny.gguf, the model that ships with"
            " edgellama; install it again, or name a model file"
        )
    return resources.as_file(model)


def _check_int(name: str, value: object, low: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or number < low:
        raise InvalidRequest(f"{name} must be a whole number, {low} or more, not {value!r}")
    return number


def _params(options: SamplingOptions) -> SamplingParams:
    return SamplingParams(**options)  # type: ignore[arg-type]  # it makes tuples of sequences


def _check_policy(policy: str) -> str:
    if policy not in CONTEXT_POLICIES:
        known = ", ".join(CONTEXT_POLICIES)
        raise InvalidRequest(f"context_policy {policy!r} is unknown; known are {known}")
    return policy


def _check_top(n: int) -> int:
    if _check_int("top_logprobs", n, 0) > MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs is {n}; {MAX_TOP_LOGPROBS} at most")
    return n


def _check_max_tokens(max_tokens: int | None) -> int | None:
    return None if max_tokens is None else _check_int("max_tokens", max_tokens, 1)


def _check_stop(stop: str | Sequence[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(string, str) and string for string in strings):
        raise InvalidRequest("stop must be a string or a list of strings, none of them empty")
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"stop has {len(strings):,} strings; {MAX_STOP_STRINGS} at most")
    return strings
