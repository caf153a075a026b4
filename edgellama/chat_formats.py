"""The chat formats that edgellama knows, each written down once, as its publisher gave it.

A format writes a conversation as parts: control tokens, and texts that are each encoded on their
own, so that what a person writes can never become a control token or melt into a header.

Tools: Llama 3.1 and later write them as their published templates do. The models of the other
formats were not trained on tools; they are told of them in the system text, are asked to call in
the same JSON, and read results as what the user says, or, in Llama 3's format, as ipython.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from .chat_format import ChatFormat
from .chat_messages import Call, Conversation, Messages, Said, check_conversation
from .errors import InvalidRequest
from .tokenizer import Tokenizer
from .tools.calls import LLAMA_FORM, CallForm
from .tools.definitions import Tool, Tools


@dataclass(frozen=True, slots=True)
class Control:
    """A control token in a prompt, by its text; BOS and EOS are whatever the vocabulary has."""

    text: str


BOS, EOS = Control("bos"), Control("eos")
Part: TypeAlias = Control | str


@dataclass(frozen=True, slots=True)
class BuiltInFormat(ChatFormat):
    """A format that edgellama knows; see the table CHAT_FORMATS."""

    name: str
    write: Callable[[Conversation, datetime], list[Part]]
    stop_tokens: tuple[str, ...] = ()  # beyond the vocabulary's own
    stop_strings: tuple[str, ...] = ()
    call_form: CallForm = LLAMA_FORM

    def encode(self, tokenizer: Tokenizer, conversation: Conversation, now: datetime) -> list[int]:
        ids: list[int] = []
        for part in self.write(conversation, now):
            if isinstance(part, Control):
                ids.append(self._id(tokenizer, part))
            else:
                ids.extend(tokenizer.encode(part))
        return ids

    def text(
        self, tokenizer: Tokenizer, messages: Messages, *, tools: Tools = (), now: datetime
    ) -> str:
        """What prompt() encodes, written as a template would write it."""
        return "".join(
            tokenizer.piece(self._id(tokenizer, part)).decode()
            if isinstance(part, Control)
            else part
            for part in self.write(check_conversation(messages, tools), now)
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


# Tools in words, for formats that have no place for them.


def tools_in_words(
    conversation: Conversation, *, default_system: str = "", results_as_user: bool = True
) -> Conversation:
    """The same without tools: they are in the system text, calls and results are texts.

    default_system: what the format says where there is no system message. results_as_user: whether
    the user tells the results, all that follow each other in one message; else they stay a tool's.
    """
    if not conversation.has_tools:
        return conversation
    messages: list[Said] = []
    call_names: dict[str, str] = {}
    behind_result = False
    for said in conversation.messages:
        is_result = said.role == "tool"
        if said.calls:
            call_names |= {call.id: call.name for call in said.calls}
            texts = [said.text, _calls_in_json(said.calls)]
            said = replace(said, text="\n".join(filter(None, texts)), calls=())
        elif is_result and results_as_user:
            name = call_names.get(said.call_id) or said.name or "the call"
            said = replace(said, role="user", text=f"Result of {name}:\n{said.text}")
        if behind_result and results_as_user and said.role == "user":
            said = replace(said, text=f"{messages.pop().text}\n\n{said.text}")
        messages.append(said)
        behind_result = is_result
    if conversation.tools:
        if messages[0].role != "system":
            messages.insert(0, Said(0, "system", default_system))
        texts = [messages[0].text, _tools_described(conversation.tools)]
        messages[0] = replace(messages[0], text="\n\n".join(filter(None, texts)))
    return Conversation(tuple(messages))


def _tools_described(tools: tuple[Tool, ...]) -> str:
    return (
        "You can call these functions:\n\n"
        + "\n\n".join(_json(tool.shown, indent=4) for tool in tools)
        + '\n\nTo call one, answer with nothing but {"name": function name, "parameters": '
        "dictionary of argument name and its value}; write several calls with ; between them. "
        "Their results will be told to you. If no function helps, answer in words."
    )


def _calls_in_json(calls: tuple[Call, ...]) -> str:
    """Where there are several, as tool_choice enforces them and ToolReader reads them."""
    return "; ".join(
        f'{{"name": "{call.name}", "parameters": {_json(call.arguments)}}}' for call in calls
    )


def _json(value: object, indent: int | None = None) -> str:
    """As the filter tojson writes it in chat templates."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


# Llama 2, Code Llama, Alpaca, Vicuna: user and assistant take turns.


def _turns(conversation: Conversation) -> tuple[str | None, list[tuple[str, str]], str]:
    """The system text, the finished (user, assistant) turns and what the user says last."""
    messages = conversation.messages
    system = messages[0].text if messages[0].role == "system" else None
    turns = messages if system is None else messages[1:]
    for i, said in enumerate(turns):
        expected = ("user", "assistant")[i % 2]
        if said.role != expected:
            raise InvalidRequest(
                f"message {said.index} is from {said.role}, expected {expected}: in this chat "
                "format user and assistant take turns after an optional system message"
            )
    texts = [said.text for said in turns]
    if len(texts) % 2 == 0:
        raise InvalidRequest("the last message must be the user's: the assistant answers it")
    return system, list(zip(texts[:-1:2], texts[1::2], strict=True)), texts[-1]


def _refuse_tags(conversation: Conversation, *tags: str) -> None:
    for said in conversation.messages:
        for tag in tags:
            if tag in said.text:
                raise InvalidRequest(
                    f"message {said.index} contains {tag}, with which this chat format marks who "
                    "speaks"
                )


def _llama2(conversation: Conversation, now: datetime) -> list[Part]:
    """https://github.com/meta-llama/llama/blob/main/llama/generation.py, chat_completion"""
    conversation = tools_in_words(conversation)
    _refuse_tags(conversation, "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
    system, turns, question = _turns(conversation)
    users = [user for user, _ in turns] + [question]
    if system is not None:
        users[0] = f"<<SYS>>\n{system}\n<</SYS>>\n\n{users[0]}"
    parts: list[Part] = []
    for user, (_, answer) in zip(users, turns, strict=False):
        parts += [BOS, f"[INST] {user.strip()} [/INST] {answer.strip()} ", EOS]
    return [*parts, BOS, f"[INST] {users[-1].strip()} [/INST]"]


def _codellama_70b(conversation: Conversation, now: datetime) -> list[Part]:
    """https://github.com/meta-llama/codellama/blob/main/llama/generation.py, Code Llama 70B's"""
    conversation = tools_in_words(conversation)
    _refuse_tags(conversation, "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>")
    _turns(conversation)
    messages = conversation.messages
    if messages[0].role != "system":
        messages = (Said(0, "system", ""), *messages)
    parts: list[Part] = [BOS]
    for said in messages:
        parts.append(f" Source: {said.role}")
        if said.text:
            parts.append(f"\n\n {said.text.strip()}")
        parts.append(Control("<step>"))
    return [*parts, " Source: assistant\nDestination: user", "\n\n "]


_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def _alpaca(conversation: Conversation, now: datetime) -> list[Part]:
    """https://github.com/tatsu-lab/stanford_alpaca, whose one turn we repeat for a conversation."""
    conversation = tools_in_words(conversation, default_system=_ALPACA_SYSTEM)
    system, turns, question = _turns(conversation)
    before = _ALPACA_SYSTEM if system is None else system
    parts: list[Part] = [BOS]
    ask = "\n\n### Instruction:\n{}\n\n### Response:"
    for user, answer in turns:
        parts += [before + ask.format(user) + answer, EOS]
        before = ""
    return [*parts, before + ask.format(question)]


def _vicuna(conversation: Conversation, now: datetime) -> list[Part]:
    """https://github.com/lm-sys/FastChat/blob/main/fastchat/conversation.py, vicuna_v1.1"""
    conversation = tools_in_words(conversation, default_system=_VICUNA_SYSTEM)
    system, turns, question = _turns(conversation)
    before = f"{_VICUNA_SYSTEM if system is None else system} "
    parts: list[Part] = [BOS]
    for user, answer in turns:
        parts += [f"{before}USER: {user} ASSISTANT: {answer}", EOS]
        before = ""
    return [*parts, f"{before}USER: {question} ASSISTANT:"]


# Llama 3: every message has a header that names who speaks.


def _llama3_header(role: str) -> list[Part]:
    role = "ipython" if role == "tool" else role
    return [Control("<|start_header_id|>"), role, Control("<|end_header_id|>"), "\n\n"]


def _llama3_message(role: str, *texts: str, end: str = "<|eot_id|>") -> list[Part]:
    return [*_llama3_header(role), *texts, Control(end)]


def _llama3(conversation: Conversation, now: datetime) -> list[Part]:
    """https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py, ChatFormat"""
    parts: list[Part] = [BOS]
    for said in tools_in_words(conversation, results_as_user=False).messages:
        parts += _llama3_message(said.role, said.text.strip())
    return parts + _llama3_header("assistant")


_ASK_FOR_CALL = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and '
    "its value}.Do not use variables.\n\n"
)


def _llama3_dated(
    conversation: Conversation, date: str, built_in: tuple[Tool, ...] = ()
) -> list[Part]:
    """Llama 3.1 and later, as Hugging Face publishes them: always a system message, with dates.

    Other tools than the built-in ones stand before the user's first words. What the assistant says
    beside a call is left out and results are JSON strings, as in the template; where that refuses
    several calls in a message, they are written as the model writes them.

    https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct, tokenizer_config.json
    """
    messages = conversation.messages
    introduction = "Environment: ipython\n" if conversation.tools else ""
    if built_in:
        named = [tool.name for tool in built_in if tool.name != "code_interpreter"]
        introduction += f"Tools: {', '.join(named)}\n\n"
    introduction += f"Cutting Knowledge Date: December 2023\nToday Date: {date}\n\n"
    system = ""
    if messages[0].role == "system":
        system, messages = messages[0].text.strip(), messages[1:]
    parts = [BOS, *_llama3_message("system", introduction, system)]
    asking = "".join(
        _json(tool.shown, indent=4) + "\n\n" for tool in conversation.tools if tool not in built_in
    )
    for said in messages:
        if said.calls:
            end = "<|eom_id|>" if built_in else "<|eot_id|>"
            parts += [*_llama3_header("assistant"), *_llama3_calls(said, built_in), Control(end)]
        elif said.role == "tool":
            parts += _llama3_message("tool", _json(said.text))
        elif said.role == "user" and asking:
            parts += _llama3_message("user", _ASK_FOR_CALL + asking, said.text.strip())
            asking = ""
        else:
            parts += _llama3_message(said.role, said.text.strip())
    if asking:
        raise InvalidRequest("in this chat format tools need a message of the user to stand in")
    return parts + _llama3_header("assistant")


def _llama3_calls(said: Said, built_in: tuple[Tool, ...]) -> list[Part]:
    first = said.calls[0]
    if len(said.calls) > 1 or first.name not in [tool.name for tool in built_in]:
        return [_calls_in_json(said.calls)]
    if not all(isinstance(value, str) for value in first.arguments.values()):
        raise InvalidRequest(f"message {said.index}: the arguments of {first.name} must be texts")
    arguments = ", ".join(f'{name}="{value}"' for name, value in first.arguments.items())
    return [Control("<|python_tag|>"), f"{first.name}.call({arguments})"]


def _llama3_1(conversation: Conversation, now: datetime) -> list[Part]:
    built_in = tuple(tool for tool in conversation.tools if tool.built_in)
    date = "26 Jul 2024"  # the template's own default, whatever the day
    return _llama3_dated(conversation, date, built_in)


def _llama3_2(conversation: Conversation, now: datetime) -> list[Part]:
    return _llama3_dated(conversation, now.strftime("%d %b %Y"))


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
