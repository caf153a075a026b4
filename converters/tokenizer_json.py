"""tokenizer.json and its neighbours: the vocabulary as Hugging Face stores it.

    tokenizer.model          SentencePiece, as Meta's (Llama 1, 2, Code Llama and their fine-tunes)
    tokenizer.json           vocabulary, merges, normalizer, split pattern, added tokens
    added_tokens.json        {token: id} behind a tokenizer.model, of older fine-tunes
    tokenizer_config.json    the names of bos, eos, unk, pad; added tokens once more; chat_template
    chat_template.jinja      the template in a file of its own; it goes first

https://github.com/huggingface/tokenizers
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgellama.errors import CheckpointRefused

from .checkpoint import SourceFile, parse_json
from .templates import read_template
from .tokenizer_model import is_tiktoken, read_tokenizer_model
from .vocabulary import (
    BYTE,
    CONTROL,
    MAX_TOKENS,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    check_tokens,
    is_unicode,
)

# The only split pattern of a Llama's byte-level BPE.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_MAX_JSON_BYTES = 128 << 20
# Score of a token that no merge makes: never the best pair. As SentencePiece has it for some.
_NEVER_MERGED = -1e9

FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
)


def read_vocabulary(folder: Path, config: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a Hugging Face folder; `config` is its config.json.

    Raises CheckpointRefused for one that is missing, damaged, or of no Llama's kind.
    """
    settings = _read_json(folder / "tokenizer_config.json") or {}
    model, fast = folder / "tokenizer.model", folder / "tokenizer.json"
    if model.is_file() and not is_tiktoken(model):
        vocabulary = read_tokenizer_model(model, ())
        vocabulary = _with_added(vocabulary, _added_tokens(folder, settings), model)
    elif fast.is_file():
        vocabulary = _read_tokenizer_json(fast)
    else:
        raise CheckpointRefused(
            f"{folder}: neither a SentencePiece tokenizer.model nor tokenizer.json is here"
        )
    if vocabulary.add_space_prefix:
        adds = _flag(settings, "add_prefix_space", True)
        vocabulary = replace(vocabulary, add_space_prefix=adds)
    vocabulary = replace(
        vocabulary,
        ids=vocabulary.ids | _special_ids(vocabulary, settings, config),
        add_bos=_flag(settings, "add_bos_token", True),
        add_eos=_flag(settings, "add_eos_token", False),
    )
    vocabulary = _with_other_stop(vocabulary, folder, config)
    return vocabulary.with_template(_chat_template(folder, settings))


def _read_json(path: Path) -> dict[str, Any] | None:
    """The table in a JSON file, None if there is no such file."""
    if not path.is_file():
        return None
    file = SourceFile(path)
    if file.size > _MAX_JSON_BYTES:
        raise file.refused(f"{file.size:,} bytes are no tokenizer")
    value = parse_json(file.read(0, file.size), path, max_values=8 * MAX_TOKENS)
    if not isinstance(value, dict):
        raise file.refused("is JSON, but not a table")
    return value


def _read_tokenizer_json(path: Path) -> Vocabulary:
    content = _read_json(path) or {}
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise CheckpointRefused(f"{path}: holds no BPE model; Llama's tokenizers are BPE")
    try:
        ids = {str(text): int(id) for text, id in model["vocab"].items()}
        merges = [_merge(merge) for merge in model["merges"]]
        added = {int(a["id"]): (str(a["content"]), bool(a["special"])) for a in _added(content)}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointRefused(f"{path}: not a tokenizer.json, or damaged: {error!r}") from error
    by_id = {id: text for text, id in ids.items()} | {id: text for id, (text, _) in added.items()}
    if not by_id or sorted(by_id) != list(range(len(by_id))):
        raise CheckpointRefused(f"{path}: its ids are not 0, 1, 2, ... without gap or double")
    tokens = [by_id[i] for i in range(len(by_id))]
    check_tokens(tokens, path)
    known = set(tokens)
    for left, right in merges:
        if not {left, right, left + right} <= known:
            raise CheckpointRefused(f"{path}: the merge of {left!a} and {right!a} has no token")
    if "<0x00>" in ids:
        return _byte_fallback(content, tokens, merges, added)
    _check_llama3_split(content, path)
    return Vocabulary(
        model="gpt2",
        tokens=tokens,
        types=[_added_type(*added[i]) if i in added else NORMAL for i in range(len(tokens))],
        merges=[f"{left} {right}" for left, right in merges],
    )


def _added(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(content.get("added_tokens") or ())


def _merge(merge: object) -> tuple[str, str]:
    """Written as "left right" by older versions, as a pair by newer ones."""
    left, right = merge.split(" ") if isinstance(merge, str) else list(merge)  # type: ignore[call-overload]
    return str(left), str(right)


def _byte_fallback(
    content: Mapping[str, Any],
    tokens: list[str],
    merges: list[tuple[str, str]],
    added: Mapping[int, tuple[str, bool]],
) -> Vocabulary:
    """A SentencePiece model that was rewritten as merges: an earlier merge is a higher score."""
    rank: dict[str, int] = {}
    for left, right in merges:
        rank.setdefault(left + right, len(rank))
    unknown = str(content["model"].get("unk_token") or "<unk>")
    types = []
    for id, text in enumerate(tokens):
        if text == unknown:
            types.append(UNKNOWN)
        elif _BYTE_TOKEN.fullmatch(text):
            types.append(BYTE)
        else:
            types.append(_added_type(*added[id]) if id in added else NORMAL)
    return Vocabulary(
        model="llama",
        tokens=tokens,
        types=types,
        scores=[-float(rank[text]) if text in rank else _NEVER_MERGED for text in tokens],
        ids={"unknown": tokens.index(unknown)} if unknown in tokens else {},
        add_space_prefix=_adds_space(content),
    )


def _adds_space(content: Mapping[str, Any]) -> bool:
    """Whether text gets a space in front: a normalizer that prepends it, or Metaspace."""
    if any(step.get("type") == "Prepend" for step in _steps(content, "normalizer", "normalizers")):
        return True
    splitters = _steps(content, "pre_tokenizer", "pretokenizers")
    return any(
        step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never"
        for step in splitters
    )


def _check_llama3_split(content: Mapping[str, Any], path: Path) -> None:
    steps = _steps(content, "pre_tokenizer", "pretokenizers")
    patterns = [step["pattern"] for step in steps if isinstance(step.get("pattern"), dict)]
    found = [pattern.get("Regex") for pattern in patterns] or [step.get("type") for step in steps]
    if LLAMA3_PATTERN not in found:
        raise CheckpointRefused(
            f"{path}: splits text by {str(found)[:60]}, not as Llama 3 does; such a tokenizer is"
            " not supported"
        )


def _steps(content: Mapping[str, Any], key: str, inner_key: str) -> list[dict[str, Any]]:
    """A normalizer or splitter and, if it is a sequence, what it consists of."""
    outer = content.get(key)
    inner = outer.get(inner_key) if isinstance(outer, dict) else None
    steps = [outer, *(inner if isinstance(inner, list) else ())]
    return [step for step in steps if isinstance(step, dict)]


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[int, tuple[str, bool]]:
    """id -> (text, special) of the tokens added behind a tokenizer.model."""
    found: dict[int, tuple[str, bool]] = {}
    try:
        for text, id in (_read_json(folder / "added_tokens.json") or {}).items():
            found[int(id)] = (text, _looks_special(text))
        for entry in _added(_read_json(folder / "tokenizer.json") or {}):
            found[int(entry["id"])] = (str(entry["content"]), bool(entry["special"]))
        for key, entry in (settings.get("added_tokens_decoder") or {}).items():
            found[int(key)] = (str(entry["content"]), bool(entry["special"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointRefused(f"{folder}: its added tokens are damaged: {error!r}") from error
    return found


def _with_added(
    vocabulary: Vocabulary, added: Mapping[int, tuple[str, bool]], path: Path
) -> Vocabulary:
    """The vocabulary with tokens behind its own; a gap is filled with unused ones."""
    n = len(vocabulary.tokens)
    new = {id: entry for id, entry in added.items() if id >= n}
    if not new:
        return vocabulary
    if max(new) >= MAX_TOKENS:
        raise CheckpointRefused(f"{path.parent}: an added token has id {max(new):,}")
    ids = range(n, max(new) + 1)
    tokens = vocabulary.tokens + [new[i][0] if i in new else f"[PAD{i}]" for i in ids]
    check_tokens(tokens, path.parent)
    return replace(
        vocabulary,
        tokens=tokens,
        types=vocabulary.types + [_added_type(*new[i]) if i in new else UNUSED for i in ids],
        scores=(vocabulary.scores or []) + [-1000.0] * len(ids),
    )


def _added_type(text: str, special: bool) -> int:
    return CONTROL if special or _looks_special(text) else USER_DEFINED


def _looks_special(text: str) -> bool:
    """Older files do not say it; user text must never become such a token."""
    return re.fullmatch(r"<\|.*\|>|</?s>|<(pad|unk|mask)>|\[[A-Z]+\]", text) is not None


def _special_ids(
    vocabulary: Vocabulary, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, int]:
    """bos, eos, unknown and padding: by the tokenizer's settings, else by config.json."""
    found: dict[str, int] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = settings.get(f"{key}_token")
        text = token.get("content") if isinstance(token, dict) else token
        id = vocabulary.id_of(text) if isinstance(text, str) else None
        if id is None and name not in vocabulary.ids:
            value = config.get(f"{key}_token_id")
            value = value[0] if isinstance(value, list) and value else value
            id = value if isinstance(value, int) and not isinstance(value, bool) else None
        if id is not None and 0 <= id < len(vocabulary.tokens):
            found[name] = id
    return found


def _with_other_stop(vocabulary: Vocabulary, folder: Path, config: Mapping[str, Any]) -> Vocabulary:
    """With an end of turn that only the list of ids in generation_config.json names."""
    generation = _read_json(folder / "generation_config.json") or {}
    stops = generation.get("eos_token_id", config.get("eos_token_id"))
    named = vocabulary.named_ids()
    if not isinstance(stops, list) or "eot" in named:
        return vocabulary
    for id in stops:
        if isinstance(id, int) and 0 <= id < len(vocabulary.tokens) and id not in named.values():
            return replace(vocabulary, ids=vocabulary.ids | {"eot": id})
    return vocabulary


def _flag(settings: Mapping[str, Any], key: str, default: bool) -> bool:
    value = settings.get(key)
    return value if isinstance(value, bool) else default


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return read_template(folder / "chat_template.jinja")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named[0].get("template") if named else None
    if not isinstance(template, str) or not template:
        return None
    if not is_unicode(template):
        raise CheckpointRefused(f"{folder}: chat_template of tokenizer_config.json is not Unicode")
    return template
