"""Conversations -> prompt tokens, in the format that a model was trained on.

A built-in format writes a conversation as parts: control tokens, and texts that are each encoded on
their own, so that what a person writes can never become a control token or melt into a header.

A file's own template (tokenizer.chat_template, Jinja) has the last word. If it renders some sample
conversations exactly as a built-in format does, it is that format; any other template is rendered
for each prompt, in a process of its own (chat_template.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias, TypedDict

from .chat_template import render
from .errors import EdgellamaError, InvalidRequest
from .tokenizer import Tokenizer, check_text


class Message(TypedDict):
    role: str  # one of ROLES
    content: str


ROLES = ("system", "user", "assistant")
Messages: TypeAlias = Sequence[Message]


class ChatFormat(Protocol):
    """How a model expects a conversation to be written, and where its answers end."""

    @property
    def name(self) -> str: ...

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts at which an answer is over, for models that were trained on plain text."""

    def prompt(
        self, tokenizer: Tokenizer, messages: Messages, *, now: datetime | None = None
    ) -> list[int]:
        """The token ids of a conversation, ending where the assistant speaks.

        now: the time that formats with a date in their header write. Raises InvalidRequest if the
        format cannot express these messages.
        """

    def stop_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The tokens at which an answer is over."""


@dataclass(frozen=True, slots=True)
class Control:
    """A control token in a prompt, by its text; BOS and EOS are whatever the vocabulary has."""

    text: str


BOS, EOS = Control("bos"), Control("eos")
Part: TypeAlias = Control | str


@dataclass(frozen=True, slots=True)
class BuiltInFormat:
    """A format that edgellama knows; see the table CHAT_FORMATS."""

    name: str
    write: Callable[[Messages, datetime], list[Part]]
    stop_tokens: tuple[str, ...] = ()  # beyond the vocabulary's own
    stop_strings: tuple[str, ...] = ()

    def prompt(
        self, tokenizer: Tokenizer, messages: Messages, *, now: datetime | None = None
    ) -> list[int]:
        check_messages(messages)
        ids: list[int] = []
        for part in self.write(messages, now or datetime.now()):
            if isinstance(part, Control):
                ids.append(self._id(tokenizer, part))
            else:
                ids.extend(tokenizer.encode(part))
        return ids

    def text(self, tokenizer: Tokenizer, messages: Messages, *, now: datetime) -> str:
        """What prompt() encodes, written as a template would write it."""
        return "".join(
            tokenizer.piece(self._id(tokenizer, part)).decode()
            if isinstance(part, Control)
            else part
            for part in self.write(messages, now)
        )

    def stop_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        return tokenizer.stop_ids | {self._id(tokenizer, Control(t)) for t in self.stop_tokens}

    def _id(self, tokenizer: Tokenizer, control: Control) -> int:
        if control is BOS or control is EOS:
            id = tokenizer.bos_id if control is BOS else tokenizer.eos_id
        else:
            id = tokenizer.control_tokens.get(control.text)
        if id is None:
            raise InvalidRequest(
                f"the chat format {self.name} needs the control token {control.text}, "
                "which this model's vocabulary lacks; choose another format"
            )
        return id


@dataclass(frozen=True, slots=True)
class TemplateFormat:
    """A template that is no built-in format: rendered by the helper process at every prompt."""

    source: str
    end_ids: frozenset[int] = frozenset()  # seen behind an answer, beyond the vocabulary's own
    name: str = "template"
    stop_strings: tuple[str, ...] = ()

    def prompt(
        self, tokenizer: Tokenizer, messages: Messages, *, now: datetime | None = None
    ) -> list[int]:
        check_messages(messages)
        tokens = tokenizer.control_tokens
        mark = _unused_character(self.source, messages)
        conversations = [
            [{"role": m["role"], "content": guard(m["content"], tokens, mark)} for m in messages]
            for guard in (_guard, _guard_strictly)
        ]
        now = now or datetime.now()
        runs, strict_runs = (
            tokenizer.split(text)
            for text in _texts(_render(self.source, tokenizer, conversations, now))
        )
        if _controls(runs) != _controls(strict_runs):
            raise InvalidRequest(
                "in this file's chat template a message would turn into a control token; "
                "reword it or name a built-in chat format"
            )
        ids: list[int] = []
        for run in runs:
            ids.extend([run] if isinstance(run, int) else tokenizer.encode(run.replace(mark, "")))
        return ids

    def stop_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        return tokenizer.stop_ids | self.end_ids


def find_chat_format(tokenizer: Tokenizer, name: str | None = None) -> ChatFormat | None:
    """The named built-in format, else the file's own; None for a base model, which has none.

    Raises InvalidRequest for a name that is unknown or does not fit the vocabulary, and what
    chat_template.render raises for a template that cannot be used.
    """
    if name is not None:
        if name not in CHAT_FORMATS:
            known = ", ".join(CHAT_FORMATS)
            raise InvalidRequest(f"chat format {name!r} is not known; choose one of {known}")
        format = CHAT_FORMATS[name]
        format.prompt(tokenizer, _SAMPLES[0])  # are all its control tokens there?
        format.stop_ids(tokenizer)
        return format
    if tokenizer.chat_template is None:
        return None
    rendered = _render(tokenizer.chat_template, tokenizer, _SAMPLES, _SAMPLE_TIME)
    for format in CHAT_FORMATS.values():
        try:
            texts = [format.text(tokenizer, sample, now=_SAMPLE_TIME) for sample in _SAMPLES]
            format.stop_ids(tokenizer)
        except InvalidRequest:  # for another vocabulary
            continue
        if texts == rendered:
            return format
    return TemplateFormat(tokenizer.chat_template, _end_ids(tokenizer, rendered))


def check_messages(messages: Messages) -> None:
    """Raises InvalidRequest for what is not a conversation of {"role": ..., "content": text}."""
    if not messages:
        raise InvalidRequest("a conversation needs at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise InvalidRequest(f'message {i}: expected {{"role": ..., "content": ...}}')
        if message["role"] not in ROLES:
            raise InvalidRequest(
                f"message {i}: role {message['role']!r}, expected one of {', '.join(ROLES)}"
            )
        check_text(message["content"])


def _turns(messages: Messages) -> tuple[str | None, list[tuple[str, str]], str]:
    """The system text, the finished (user, assistant) turns and what the user says last."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    first = 0 if system is None else 1
    for i, message in enumerate(messages[first:], first):
        expected = ("user", "assistant")[(i - first) % 2]
        if message["role"] != expected:
            raise InvalidRequest(
                f"message {i} is from {message['role']}, expected {expected}: in this chat format "
                "user and assistant take turns after an optional system message"
            )
    said = [message["content"] for message in messages[first:]]
    if len(said) % 2 == 0:
        raise InvalidRequest("the last message must be the user's: the assistant answers it")
    return system, list(zip(said[:-1:2], said[1::2], strict=True)), said[-1]


def _refuse_tags(messages: Messages, *tags: str) -> None:
    for i, message in enumerate(messages):
        for tag in tags:
            if tag in message["content"]:
                raise InvalidRequest(
                    f"message {i} contains {tag}, with which this chat format marks who speaks"
                )


# Each format below is written down once, as its publisher gave it.


def _llama2(messages: Messages, now: datetime) -> list[Part]:
    """https://github.com/meta-llama/llama/blob/main/llama/generation.py, chat_completion"""
    _refuse_tags(messages, "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
    system, turns, question = _turns(messages)
    users = [user for user, _ in turns] + [question]
    if system is not None:
        users[0] = f"<<SYS>>\n{system}\n<</SYS>>\n\n{users[0]}"
    parts: list[Part] = []
    for user, (_, answer) in zip(users, turns, strict=False):
        parts += [BOS, f"[INST] {user.strip()} [/INST] {answer.strip()} ", EOS]
    return [*parts, BOS, f"[INST] {users[-1].strip()} [/INST]"]


def _codellama_70b(messages: Messages, now: datetime) -> list[Part]:
    """https://github.com/meta-llama/codellama/blob/main/llama/generation.py, Code Llama 70B's"""
    _refuse_tags(messages, "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>")
    _turns(messages)
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": ""}, *messages]
    parts: list[Part] = [BOS]
    for message in messages:
        parts.append(f" Source: {message['role']}")
        if message["content"]:
            parts.append(f"\n\n {message['content'].strip()}")
        parts.append(Control("<step>"))
    return [*parts, " Source: assistant\nDestination: user", "\n\n "]


def _llama3_message(role: str, *texts: str) -> list[Part]:
    return [*_llama3_header(role), *texts, Control("<|eot_id|>")]


def _llama3_header(role: str) -> list[Part]:
    return [Control("<|start_header_id|>"), role, Control("<|end_header_id|>"), "\n\n"]


def _llama3_conversation(messages: Messages) -> list[Part]:
    parts: list[Part] = []
    for message in messages:
        parts += _llama3_message(message["role"], message["content"].strip())
    return parts + _llama3_header("assistant")


def _llama3(messages: Messages, now: datetime) -> list[Part]:
    """https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py, ChatFormat"""
    return [BOS, *_llama3_conversation(messages)]


def _llama3_dated(messages: Messages, date: str) -> list[Part]:
    """Llama 3.1 and later, as Hugging Face publishes them: always a system message, with dates.

    https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct, tokenizer_config.json
    """
    system = ""
    if messages[0]["role"] == "system":
        system, messages = messages[0]["content"].strip(), messages[1:]
    dates = f"Cutting Knowledge Date: December 2023\nToday Date: {date}\n\n"
    return [BOS, *_llama3_message("system", dates, system), *_llama3_conversation(messages)]


def _llama3_1(messages: Messages, now: datetime) -> list[Part]:
    return _llama3_dated(messages, "26 Jul 2024")  # the template's own default, whatever the day


def _llama3_2(messages: Messages, now: datetime) -> list[Part]:
    return _llama3_dated(messages, now.strftime("%d %b %Y"))


def _alpaca(messages: Messages, now: datetime) -> list[Part]:
    """https://github.com/tatsu-lab/stanford_alpaca, whose one turn we repeat for a conversation."""
    system, turns, question = _turns(messages)
    if system is None:
        system = (
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request."
        )
    parts: list[Part] = [BOS]
    ask = "\n\n### Instruction:\n{}\n\n### Response:"
    for user, answer in turns:
        parts += [system + ask.format(user) + answer, EOS]
        system = ""
    return [*parts, system + ask.format(question)]


def _vicuna(messages: Messages, now: datetime) -> list[Part]:
    """https://github.com/lm-sys/FastChat/blob/main/fastchat/conversation.py, vicuna_v1.1"""
    system, turns, question = _turns(messages)
    if system is None:
        system = (
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        )
    parts: list[Part] = [BOS]
    before = f"{system} "
    for user, answer in turns:
        parts += [f"{before}USER: {user} ASSISTANT: {answer}", EOS]
        before = ""
    return [*parts, f"{before}USER: {question} ASSISTANT:"]


_LLAMA2 = BuiltInFormat("llama2", _llama2)
_LLAMA3_1 = BuiltInFormat("llama3.1", _llama3_1)
CHAT_FORMATS: Mapping[str, BuiltInFormat] = {
    "llama2": _LLAMA2,
    "codellama": _LLAMA2,
    "codellama-70b": BuiltInFormat("codellama-70b", _codellama_70b, stop_tokens=("<step>",)),
    "llama3": BuiltInFormat("llama3", _llama3),
    "llama3.1": _LLAMA3_1,
    "llama3.2": BuiltInFormat("llama3.2", _llama3_2),
    "llama3.3": _LLAMA3_1,
    "alpaca": BuiltInFormat("alpaca", _alpaca, stop_strings=("### Instruction:",)),
    "vicuna": BuiltInFormat("vicuna", _vicuna, stop_strings=("USER:",)),
}


# Conversations that tell the formats apart: with and without a system text, whitespace to be
# trimmed or kept, on a day that is no format's default.
_SAMPLE_TIME = datetime(2001, 2, 3)
_ANSWER = "It is 4."
_SAMPLES: Sequence[Messages] = (
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "Hello"}],
    [
        {"role": "system", "content": " Be brief.\n"},
        {"role": "user", "content": "\n 2 + 2?\n\nQuick! "},
        {"role": "assistant", "content": f" {_ANSWER} \n"},
        {"role": "user", "content": " Sure?"},
    ],
    [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Thanks"},
    ],
)


def _render(
    source: str,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Mapping[str, object]]],
    now: datetime,
) -> list[str | EdgellamaError]:
    """The template's texts, each with BOS in front if the vocabulary wants it there."""
    bos, eos = (
        "" if id is None else tokenizer.piece(id).decode(errors="replace")
        for id in (tokenizer.bos_id, tokenizer.eos_id)
    )
    texts = render(source, conversations, now=now, bos_token=bos, eos_token=eos)
    lead = bos if tokenizer.add_bos else ""
    return [
        lead + text if isinstance(text, str) and not text.startswith(lead) else text
        for text in texts
    ]


def _end_ids(tokenizer: Tokenizer, rendered: Sequence[str | EdgellamaError]) -> frozenset[int]:
    """The control token that the template writes behind an assistant's answer, if it does."""
    ids: set[int] = set()
    for text in rendered:
        if isinstance(text, str) and _ANSWER in text:
            behind = text[text.index(_ANSWER) + len(_ANSWER) :].lstrip()
            first = tokenizer.split(behind)[:1]
            ids.update(id for id in first if isinstance(id, int) and id != tokenizer.bos_id)
    return frozenset(ids)


def _texts(results: Sequence[str | EdgellamaError]) -> list[str]:
    """The results; raises the first that is an error."""
    texts: list[str] = []
    for result in results:
        if isinstance(result, EdgellamaError):
            raise result
        texts.append(result)
    return texts


def _controls(runs: Sequence[str | int]) -> list[int]:
    return [run for run in runs if isinstance(run, int)]


def _unused_character(source: str, messages: Messages) -> str:
    """A private-use character that occurs nowhere in what will be rendered."""
    used = set(source).union(*(message["content"] for message in messages))
    return next(c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in used)


def _guard(content: str, control_tokens: Mapping[str, int], mark: str) -> str:
    """`content` with `mark` inside every control token that is written in it.

    To the template the rest is as it was, so that trimming and searching work; the mark is taken
    out again once the control tokens that the template itself wrote have been found.
    """
    for token in sorted(control_tokens, key=len):  # the short ones first: they lie in longer ones
        while token in content:
            content = content.replace(token, token[0] + mark + token[1:])
    return content


def _guard_strictly(content: str, control_tokens: Mapping[str, int], mark: str) -> str:
    """`content` with so many marks that no template can make a control token of its characters.

    A template that glues its own text to a message, or takes something out of it, might: then the
    control tokens are not the same as with _guard.
    """
    for first in {token[0] for token in control_tokens}:
        content = content.replace(first, first + mark)
    body = content.strip()
    return content.replace(body, mark + body + mark, 1) if body else content
