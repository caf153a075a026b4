"""Families: which Llama a checkpoint is, seen from its numbers, and what that decides.

No checkpoint says its release. Meta's params.json is silent even about the context length and the
rope factor, so they follow from here; Hugging Face's config.json says all and only gets a name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

from .source import Hyperparameters, RopeScaling

# (dim, n_layers, hidden_dim) -> how the release calls that size.
SIZES = {
    (2048, 16, 8192): "1B",
    (3072, 28, 8192): "3B",
    (4096, 32, 11008): "7B",
    (4096, 32, 14336): "8B",
    (5120, 40, 13824): "13B",
    (6656, 60, 17920): "33B",
    (8192, 48, 22016): "34B",
    (8192, 80, 22016): "65B",
    (8192, 80, 28672): "70B",
    (16384, 126, 53248): "405B",
}

FINE_TUNES = ("vicuna", "alpaca")  # known by their folder's name


@dataclass(frozen=True, slots=True)
class Family:
    """A release of Llama."""

    name: str
    reason: str  # how it was recognised, in words
    context_length: int  # tokens it was trained for
    chat_format: str  # of its chat variant: a name of templates.TEMPLATES


def recognise(hparams: Hyperparameters, *, bpe: bool, names: Sequence[str]) -> Family:
    """The family of these numbers (the context length does not count) and kind of vocabulary;
    `names`, of the folder, tell apart what is built alike."""
    words = _words(names)
    if hparams.rope_scaling is not None:
        factor = hparams.rope_scaling.factor
        reason = f"rope scaled by {factor:g}"
        if factor == 32:
            return Family("Llama 3.2", reason, 131072, "llama3")
        if words & {"llama3.3", "3.3"}:
            return Family("Llama 3.3", f"{reason}, folder name", 131072, "llama3")
        return Family("Llama 3.1", reason, 131072, "llama3")
    if bpe:
        return Family("Llama 3", "byte-level BPE vocabulary, plain rope", 8192, "llama3")
    is_70b = hparams.n_layers == 80
    code_chat = "codellama-70b" if is_70b else "llama2"
    if hparams.rope_theta == 1e6:
        return Family("Code Llama", "SentencePiece vocabulary, rope theta 1e6", 16384, code_chat)
    if hparams.vocab_size == 32016:  # 70B-Python and 70B-Instruct, trained on short contexts
        return Family("Code Llama", "SentencePiece vocabulary of 32,016", 4096, code_chat)
    if hparams.n_kv_heads == hparams.n_heads:
        if is_70b:
            return Family("Llama 1", "80 layers without grouped heads: the 65B", 2048, "llama2")
        if hparams.norm_eps == 1e-6 and "llama2" not in words:
            reason = "SentencePiece vocabulary, no grouped heads, norm eps 1e-6"
            return Family("Llama 1", reason, 2048, "llama2")
    reason = f"rope theta {hparams.rope_theta:g}, norm eps {hparams.norm_eps:g}"
    return Family("Llama 2", f"SentencePiece vocabulary, {reason}", 4096, "llama2")


def llama3_special_tokens(rope_scaled: bool) -> list[str]:
    """The 256 tokens behind Llama 3's ranks, which tokenizer.model does not name.

    3.1, recognised by its rope, renamed three of the reserved ones; the ids never changed meaning.
    """
    names = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id"}
    names[9] = "eot_id"
    if rope_scaled:
        names |= {4: "finetune_right_pad_id", 8: "eom_id", 10: "python_tag"}
    reserved = (f"reserved_special_token_{i}" for i in count())
    return [f"<|{names[i] if i in names else next(reserved)}|>" for i in range(256)]


def meta_rope_scaling(dim: int, factor: float | None = None) -> RopeScaling:
    """What the mere `use_scaled_rope: true` of params.json means: 32 for 1B and 3B, else 8."""
    return RopeScaling(factor or (32.0 if dim in (2048, 3072) else 8.0))


def is_early_llama2(hparams: Hyperparameters, bf16: bool, names: Sequence[str]) -> bool:
    """Whether this is a Llama 2 7B that says norm_eps 1e-6, as Llama 1 (in f16) rightly does."""
    is_7b = (hparams.dim, hparams.n_layers, hparams.hidden_dim) == (4096, 32, 11008)
    plain = hparams.rope_theta == 10000 and hparams.vocab_size < 32016
    return is_7b and plain and hparams.norm_eps == 1e-6 and (bf16 or "llama2" in _words(names))


def folder_names(folder: Path) -> list[str]:
    """The names, of the folder and those around it, in which a publisher says what it is."""
    parts = [part for part in folder.resolve().parts if part != "original"]
    around = [part for part in parts[-4:-1] if re.search("llama|vicuna|alpaca", part, re.I)]
    return around + parts[-1:]


def chat_format_of(family: Family, names: Sequence[str]) -> str | None:
    """The format of a chat variant by the folder's name, None for a base model."""
    words = _words(names)
    for fine_tune in FINE_TUNES:
        if any(fine_tune in word for word in words):
            return fine_tune
    return family.chat_format if words & {"chat", "instruct"} else None


def fine_tune_name(folder: Path) -> str | None:
    """What a fine-tune was published as: a folder's name with a size in it, no release's own."""
    name = folder.resolve().name
    has_size = re.search(r"(?<![a-z0-9])\d+(\.\d+)?[bm](?![a-z0-9])", name, re.I)
    return name if has_size and not re.match("(meta-?|code)?llama", name, re.I) else None


def title(family: Family, hparams: Hyperparameters, chat_format: str | None) -> str:
    """general.name for want of a better one: "Llama 3.2 1B Instruct"."""
    size = SIZES.get((hparams.dim, hparams.n_layers, hparams.hidden_dim), "")
    if chat_format in FINE_TUNES:
        variant = chat_format.capitalize()
    else:
        variant = "" if chat_format is None else "Chat" if family.name == "Llama 2" else "Instruct"
    return " ".join(part for part in (family.name, size, variant) if part)


def _words(names: Sequence[str]) -> set[str]:
    """ "Llama-3.3-70B-Instruct", "CodeLlama-7b" -> {"llama", "3.3", "llama3.3", "70b", ...}."""
    words = re.split(r"[^a-z0-9.]+", " ".join(names).lower())
    return {*words, *(a + b for a, b in pairwise(words))}
