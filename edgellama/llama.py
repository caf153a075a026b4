"""`Llama`: a model file, ready to talk.

    with Llama("model.gguf") as llm:
        for token in llm.generate("Once upon a time", max_tokens=64):
            print(token.text, end="")
        print(llm.chat([{"role": "user", "content": "hi"}]).text)

One `Llama` is one session: what a prompt shares with the one before is not computed again, and
threads that use the same `Llama` take turns, answer by answer.
"""

import operator
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .backends import load_backend
from .chat import ChatFormat, Messages, find_chat_format
from .config import ModelConfig
from .errors import InvalidRequest, ResourceError
from .generate import Answer, Generation, Session
from .gguf import GGUFFile
from .sampling import SamplingOptions, SamplingParams
from .tokenizer import Tokenizer, load_tokenizer
from .weights import load_weights

MAX_STOP_STRINGS = 64


class Llama:
    """A Llama model, its tokenizer and one context of `n_ctx` tokens.

    Public to read: path, config, tokenizer, n_ctx, chat_format.
    """

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    n_ctx: int

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int | None = 4096,
        n_threads: int | None = None,
        kv_type: str = "f16",
        backend: str = "cpu",
        chat_format: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Open a GGUF file; without a path, the small model that ships with edgellama.

        n_ctx: tokens that prompt and answer may have together, at most what the model was trained
            for; None is that whole length.
        n_threads: None takes what suits the machine.
        kv_type: how keys and values are kept, "f16" or "q8_0".
        backend: "cpu" or "reference" (plain numpy: slow, for comparisons).
        chat_format: name of a built-in chat format; None takes the one the file asks for.
        progress: told in words what is being waited for, such as the first compilation.

        Raises ModelFormatError for a file that is damaged or of another kind, ResourceError if it
        cannot be read or memory is short, InvalidRequest for an argument out of range.
        """
        if n_ctx is not None:
            n_ctx = _check_int("n_ctx", n_ctx, 1)
        if n_threads is not None:
            n_threads = _check_int("n_threads", n_threads, 1)
        # Whatever fails, what was opened before it is closed.
        with ExitStack() as stack:
            self.path = stack.enter_context(shipped_model()) if path is None else Path(path)
            file = stack.enter_context(GGUFFile(self.path))
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
                n_sequences=1,
                n_threads=n_threads,
                kv_type=kv_type,
                progress=progress,
            )
            self._session = Session(machine)
            stack.callback(self._session.close)
            self._resources = stack.pop_all()

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
        try:
            return self._session.all_logits(checked)
        except MemoryError:
            size = len(checked) * self.config.vocab_size * 4
            raise ResourceError(
                f"the logits of {len(checked):,} positions take {size:,} bytes, which this machine"
                " does not have; ask for fewer positions at a time"
            ) from None

    def generate(
        self,
        prompt: str | Sequence[int] | ArrayLike,
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        **sampling: Unpack[SamplingOptions],
    ) -> Generation:
        """Continue a text, or token ids as they are: an iterator of `Token`.

        A text gets the begin-of-text token where the model wants one, and its control tokens are
        read as plain characters. It ends before a `stop` string, at an id of `stop_ids` or of the
        model's own end, after `max_tokens` (None: until the context is full). `sampling`: the
        fields of `SamplingParams`.
        """
        if isinstance(prompt, str):
            prompt = self.tokenize(prompt, bos=self.tokenizer.add_bos)
        return Generation(
            self._session,
            self.tokenizer,
            self._check_prompt(prompt),
            params=SamplingParams(**sampling),
            max_tokens=_check_max_tokens(max_tokens),
            stop_ids=self.tokenizer.stop_ids.union(self._check_ids(stop_ids)),
            stop_strings=_check_stop(stop),
        )

    def chat(
        self,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        **sampling: Unpack[SamplingOptions],
    ) -> Answer:
        """The assistant's whole answer to a conversation: .text .tokens .finish_reason .timings.

        A message is {"role": "system" | "user" | "assistant", "content": text}. Other arguments as
        for `generate`.
        """
        return self.stream_chat(messages, max_tokens=max_tokens, stop=stop, **sampling).read()

    def stream_chat(
        self,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        **sampling: Unpack[SamplingOptions],
    ) -> Generation:
        """`chat`, token by token."""
        chat_format = self.chat_format
        if chat_format is None:
            raise InvalidRequest(
                f"{self.path.name} has no chat template: it is a base model, made to continue text;"
                " use generate, or name a chat format"
            )
        return Generation(
            self._session,
            self.tokenizer,
            chat_format.prompt(self.tokenizer, messages),
            params=SamplingParams(**sampling),
            max_tokens=_check_max_tokens(max_tokens),
            stop_ids=self.tokenizer.stop_ids | chat_format.stop_ids(self.tokenizer),
            stop_strings=(*chat_format.stop_strings, *_check_stop(stop)),
            continues=False,
        )

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


def _check_max_tokens(max_tokens: int | None) -> int | None:
    return None if max_tokens is None else _check_int("max_tokens", max_tokens, 1)


def _check_stop(stop: str | Sequence[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(string, str) and string for string in strings):
        raise InvalidRequest("stop must be a string or a list of strings, none of them empty")
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"stop has {len(strings):,} strings; {MAX_STOP_STRINGS} at most")
    return strings
