"""Mixes: which type each tensor has in a file of a usual name, such as Q4_K_M.

A mix is one type for most matrices, and rules for those that are worth other bits. Names, rules and
numbers are llama.cpp's (src/llama-quant.cpp): a file has the size that its name promises. The rules
for mixtures of experts and for other architectures are left out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from edgellama.quant import find_format


@dataclass(frozen=True, slots=True)
class Model:
    """What the rules ask about a model."""

    n_layers: int
    n_gqa: int  # query heads to a head of keys and values
    tied: bool = False  # token_embd makes the logits as well
    weighed: bool = False  # there is an importance matrix

    @property
    def output(self) -> str:
        """The matrix that makes the logits."""
        return "token_embd.weight" if self.tied else "output.weight"


Where = Callable[[int, Model], bool]  # of a layer


def _everywhere(layer: int, model: Model) -> bool:
    return True


def _first_2(layer: int, model: Model) -> bool:
    return layer < 2


def _first_4(layer: int, model: Model) -> bool:
    return layer < 4


def _first_16th(layer: int, model: Model) -> bool:
    return layer < model.n_layers // 16


def _first_8th(layer: int, model: Model) -> bool:
    return layer < model.n_layers // 8


def _first_8th_unweighed(layer: int, model: Model) -> bool:
    return _first_8th(layer, model) and not model.weighed


def _first_8th_weighed(layer: int, model: Model) -> bool:
    return _first_8th(layer, model) and model.weighed


def _sensitive(layer: int, model: Model) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = model.n_layers // 8
    return layer < eighth or layer >= 7 * model.n_layers // 8 or (layer - eighth) % 3 == 2


def _shared_by_4(layer: int, model: Model) -> bool:
    """attn_v is small where many query heads share it, and each of its errors counts for all."""
    return model.n_gqa >= 4


@dataclass(frozen=True, slots=True)
class Mix:
    """One line of the table below."""

    file_type: int  # general.file_type of GGUF, which loaders only show
    base: str
    output: str  # type of the matrix that makes the logits
    rules: tuple[tuple[str, Where, str], ...] = ()  # part of a layer, where, type; the first counts


MIXES = {
    "F32": Mix(0, "F32", "F32"),
    "F16": Mix(1, "F16", "F16"),
    "BF16": Mix(32, "BF16", "BF16"),
    "Q8_0": Mix(7, "Q8_0", "Q8_0"),
    "Q6_K": Mix(18, "Q6_K", "Q6_K"),
    "Q5_K_M": Mix(17, "Q5_K", "Q6_K", (
        ("attn_v", _sensitive, "Q6_K"),
        ("ffn_down", _sensitive, "Q6_K"),
    )),
    "Q5_K_S": Mix(16, "Q5_K", "Q6_K"),
    "Q5_1": Mix(9, "Q5_1", "Q6_K"),
    "Q5_0": Mix(8, "Q5_0", "Q6_K", (("ffn_down", _first_8th_weighed, "Q5_1"),)),
    "Q4_K_M": Mix(15, "Q4_K", "Q6_K", (
        ("attn_v", _sensitive, "Q6_K"),
        ("ffn_down", _sensitive, "Q6_K"),
    )),
    "Q4_K_S": Mix(14, "Q4_K", "Q6_K", (
        ("attn_v", _first_4, "Q5_K"),
        ("ffn_down", _first_8th, "Q5_K"),
    )),
    "Q4_1": Mix(3, "Q4_1", "Q6_K"),
    "Q4_0": Mix(2, "Q4_0", "Q6_K", (("ffn_down", _first_8th_weighed, "Q4_1"),)),
    "IQ4_NL": Mix(25, "IQ4_NL", "Q6_K", (
        ("attn_v", _shared_by_4, "Q5_K"),
        ("ffn_down", _first_8th_unweighed, "Q5_K"),
    )),
    "IQ4_XS": Mix(30, "IQ4_XS", "Q6_K", (
        ("attn_v", _shared_by_4, "Q5_K"),
        ("ffn_down", _first_8th_unweighed, "Q5_K"),
    )),
    "Q3_K_L": Mix(13, "Q3_K", "Q6_K", (
        ("attn_v", _everywhere, "Q5_K"),
        ("attn_output", _everywhere, "Q5_K"),
        ("ffn_down", _everywhere, "Q5_K"),
    )),
    "Q3_K_M": Mix(12, "Q3_K", "Q6_K", (
        ("attn_v", _first_2, "Q5_K"),
        ("attn_v", _everywhere, "Q4_K"),
        ("attn_output", _everywhere, "Q4_K"),
        ("ffn_down", _first_16th, "Q5_K"),
        ("ffn_down", _everywhere, "Q4_K"),
    )),
    "Q3_K_S": Mix(11, "Q3_K", "Q6_K"),
    "Q2_K": Mix(10, "Q2_K", "Q6_K", (
        ("attn_v", _shared_by_4, "Q4_K"),
        ("attn_v", _everywhere, "Q3_K"),
        ("attn_output", _everywhere, "Q3_K"),
        ("ffn_down", _everywhere, "Q3_K"),
    )),
    "Q2_K_S": Mix(21, "Q2_K", "Q6_K", (
        ("attn_v", _shared_by_4, "Q4_K"),
        ("ffn_down", _first_8th, "Q4_K"),
    )),
}  # fmt: skip

ALIASES = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}

# What serves instead where the blocks of 256 do not divide the rows: blocks of 32, at more bits.
_INSTEAD = {
    "Q6_K": "Q8_0",
    "Q5_K": "Q5_1",
    "Q4_K": "Q5_0",
    "Q3_K": "Q4_0",
    "Q2_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
}
_INSTEAD |= dict.fromkeys(
    ("IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"), "IQ4_NL"
)

_PART = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def find_mix(name: str) -> tuple[str, Mix]:
    """The usual name and its mix, of a name in any case; ValueError lists those that exist."""
    usual = ALIASES.get(name.upper(), name.upper())
    if usual not in MIXES:
        raise ValueError(f"unknown type {name!r}; known are {', '.join([*MIXES, *ALIASES])}")
    return usual, MIXES[usual]


def tensor_type(mix: Mix, name: str, model: Model) -> str:
    """The type of the matrix `name` in a file of this mix, if its blocks divide the rows."""
    if name == model.output:
        return mix.output
    found = _PART.fullmatch(name)
    if found is None:
        return mix.base
    layer, part = int(found[1]), found[2]
    rules = (type for of, where, type in mix.rules if of == part and where(layer, model))
    chosen = next(rules, mix.base)
    # 70B has 8 query heads to a head of values: for attn_v more bits cost next to nothing.
    if part == "attn_v" and model.n_layers == 80 and model.n_gqa > 1 and chosen in ("Q3_K", "Q4_K"):
        return "Q5_K"
    return chosen


def fitting_type(type: str, cols: int) -> str:
    """`type` if its blocks divide rows of `cols`; else one with blocks of 32, else F16."""
    for candidate in (type, _INSTEAD.get(type, "F16")):
        if cols % find_format(candidate).block_size == 0:
            return candidate
    return "F16"
