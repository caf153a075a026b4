"""Meta's folders: params.json, consolidated.NN.pth (one for each rank) and tokenizer.model.

Large models come as slices, one file for each of the GPUs they were trained on. A matrix is cut
along one axis, which is seen by comparing the slice with the full shape that params.json gives:

    wq wk wv w1 w3 output   along the rows (outputs)
    wo w2                   along the columns (inputs)
    tok_embeddings          along the columns in Llama 1 and 2, along the rows in Llama 3
    norms                   not at all: every rank has its own copy

Rows of q and k already lie in GGUF's order. https://github.com/meta-llama/llama-models
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.errors import CheckpointRefused

from . import families
from .checkpoint import LazyTensor, SourceFile, parse_json
from .source import (
    Fingerprint,
    Hyperparameters,
    Overrides,
    RopeScaling,
    Rows,
    Source,
    SourceTensor,
    join_metadata,
    positive_float,
    positive_int,
    rope_tensor,
)
from .templates import load_template
from .tokenizer_model import is_tiktoken, read_tokenizer_model
from .torch_file import open_torch

MAX_SHARDS = 16
_SHARD = re.compile(r"consolidated(?:\.(\d\d))?\.pth")
_FLOATS = ("F32", "BF16", "F16", "F64")

# What params.json says of models that are no plain Llama: (key, what it means).
_OTHER_KINDS = (
    ("vision_chunk_size", "a vision model"),
    ("quantization_args", "an official int4 model (SpinQuant or QLoRA)"),
    ("moe_args", "a mixture of experts (Llama 4)"),
    ("lora_args", "a model with adapters"),
)

_GLOBAL_NAMES = {
    "token_embd.weight": "tok_embeddings.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "output.weight",
}
_LAYER_NAMES = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}
_IGNORED = re.compile(r"(.*\.)?rope\.freqs")  # computed anew by every reader


def claims(path: Path) -> bool:
    """Whether this is a folder of Meta's."""
    return _folder_in(path) is not None


def open_source(path: Path, overrides: Overrides) -> Source:
    """Read all but the weights; CheckpointRefused for what is missing, odd or unsupported."""
    folder = _folder_in(path)
    assert folder is not None  # claims() said so
    shard_files = _shard_files(folder)
    tokenizer_model = _find_tokenizer(folder)
    fingerprint = Fingerprint.of([folder / "params.json", tokenizer_model, *shard_files])
    params = _read_params(folder / "params.json")
    shards = [open_torch(file) for file in shard_files]
    _check_same_names(shards)
    bpe = is_tiktoken(tokenizer_model)
    names = families.folder_names(folder)
    hparams, notes = _hyperparameters(params, shards, bpe, names, overrides)
    family = families.recognise(hparams, bpe=bpe, names=names)
    hparams = replace(hparams, context_length=overrides.context_length or family.context_length)
    chat_format = families.chat_format_of(family, names)
    choice = overrides.chat_template or chat_format
    vocabulary = (
        read_tokenizer_model(
            tokenizer_model, families.llama3_special_tokens(hparams.rope_scaling is not None)
        )
        .with_template(load_template(choice) if choice is not None else None)
        .resized(hparams.vocab_size, tokenizer_model)
    )
    title = families.title(family, hparams, chat_format)
    return Source(
        path=path,
        kind=f"Meta folder, {len(shards)} shard{'s' if len(shards) > 1 else ''}",
        family=title,
        recognised_by=family.reason,
        metadata=join_metadata(overrides.name or title, hparams, vocabulary.metadata()),
        tensors=(*_tensors(hparams, shards), *rope_tensor(hparams)),
        fingerprint=fingerprint,
        notes=(*notes, *vocabulary.notes),
    )


def _folder_in(path: Path) -> Path | None:
    """The folder with params.json: this one, or the `original` in a repository of Hugging Face."""
    for folder in (path, path / "original"):
        if (folder / "params.json").is_file() or any(folder.glob("consolidated*.pth")):
            return folder
    return None


def _read_params(path: Path) -> dict[str, Any]:
    """params.json, whose content may be nested under "model"."""
    file = SourceFile(path)
    params = parse_json(file.read(0, min(file.size, 1 << 20)), path)
    if isinstance(params, dict) and isinstance(params.get("model"), dict):
        params = params["model"]
    if not isinstance(params, dict):
        raise file.refused("is not a table of hyper-parameters")
    for key, words in _OTHER_KINDS:
        if params.get(key):
            raise file.refused(f"{key} is set: this is {words}, which is not supported yet")
    return params


def _shard_files(folder: Path) -> list[Path]:
    """consolidated.00.pth and so on, by rank and without a gap."""
    by_rank: dict[int, Path] = {}
    for path in folder.iterdir():
        if match := _SHARD.fullmatch(path.name):
            by_rank[int(match[1] or 0)] = path
    if not by_rank:
        raise CheckpointRefused(f"{folder}: has params.json but no consolidated.00.pth")
    n = max(by_rank) + 1
    missing = [f"consolidated.{rank:02d}.pth" for rank in range(n) if rank not in by_rank]
    if missing:
        raise CheckpointRefused(f"{folder}: {', '.join(missing)} of {n} shards is missing")
    if n > MAX_SHARDS:
        raise CheckpointRefused(f"{folder}: {n} shards; Meta's largest model has {MAX_SHARDS}")
    if any(folder.glob("fp8_scales_*")):
        raise CheckpointRefused(f"{folder}: an fp8 checkpoint, which is not supported yet")
    return [by_rank[rank] for rank in range(n)]


def _find_tokenizer(folder: Path) -> Path:
    places = (folder, folder.parent, folder / "original")
    for place in places:
        if (place / "tokenizer.model").is_file():
            return place / "tokenizer.model"
    raise CheckpointRefused(
        f"{folder}: no tokenizer.model here, in the folder above or in original/; copy it from the"
        " download"
    )


def _check_same_names(shards: Sequence[Mapping[str, LazyTensor]]) -> None:
    """Ranks of one model hold slices of the same tensors."""
    for rank, shard in enumerate(shards):
        if odd := shards[0].keys() ^ shard.keys():
            raise CheckpointRefused(
                f"shards 00 and {rank:02d} are not of one model: {min(odd)} is in one of them only"
            )


def _hyperparameters(
    params: Mapping[str, Any],
    shards: Sequence[Mapping[str, LazyTensor]],
    bpe: bool,
    names: Sequence[str],
    overrides: Overrides,
) -> tuple[Hyperparameters, list[str]]:
    """What params.json says and the shapes add to it; the context length is still to be found."""
    n = len(shards)
    dim, n_layers, n_heads = (positive_int(params, key) for key in ("dim", "n_layers", "n_heads"))
    n_kv_heads = positive_int(params, "n_kv_heads", n_heads)
    if dim == 16384 and n_kv_heads == n == 16:
        n_kv_heads = 8  # Llama 3.1 405B cut in 16, each key and value head on two ranks
    vocab_size = _vocab_size(params, _local_shape(shards, "tok_embeddings.weight"), n, dim)
    q_rows = _local_shape(shards, "layers.0.attention.wq.weight")[0] * n
    if q_rows % n_heads:
        raise CheckpointRefused(
            f"layers.0.attention.wq.weight: {q_rows} rows do not divide by the {n_heads} heads of"
            " params.json"
        )
    head_dim = positive_int(params, "head_dim", q_rows // n_heads)
    theta = positive_float(
        params, "rope_theta", 500000.0 if bpe or params.get("use_scaled_rope") else 10000.0
    )
    scaling: RopeScaling | None = None
    if params.get("use_scaled_rope"):
        scaling = families.meta_rope_scaling(dim)
    if overrides.rope_factor is not None:
        factor = overrides.rope_factor
        scaling = None if factor == 1 else families.meta_rope_scaling(dim, factor)
    eps = positive_float(params, "norm_eps", 1e-5)
    hidden_dim = _local_shape(shards, "layers.0.feed_forward.w1.weight")[0] * n
    hparams = Hyperparameters(
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        hidden_dim=hidden_dim,
        vocab_size=vocab_size,
        context_length=0,
        norm_eps=eps,
        rope_theta=overrides.rope_theta or theta,
        rope_scaling=scaling,
    )
    bf16 = shards[0]["tok_embeddings.weight"].dtype == "BF16"
    if families.is_early_llama2(hparams, bf16, names):
        note = "norm_eps 1e-06 corrected to 1e-05: an error of the first Llama 2 7B downloads"
        return replace(hparams, norm_eps=1e-5), [note]
    return hparams, []


def _vocab_size(params: Mapping[str, Any], local: tuple[int, ...], n: int, dim: int) -> int:
    """Rows of the embedding, whichever way it is cut."""
    if local[1] == dim:
        rows = local[0] * n
    elif local[1] * n == dim:
        rows = local[0]
    else:
        raise CheckpointRefused(
            f"tok_embeddings.weight: {_slices(n, local)} do not make {dim} columns, the dim of"
            " params.json; a shard is missing, or params.json is another model's"
        )
    declared = params.get("vocab_size", -1)
    if isinstance(declared, int) and declared > 0 and declared != rows:
        raise CheckpointRefused(
            f"tok_embeddings.weight: {_slices(n, local)} make {rows:,} rows, params.json says"
            f" vocab_size {declared:,}; a shard is missing, or params.json is another model's"
        )
    return rows


def _local_shape(shards: Sequence[Mapping[str, LazyTensor]], name: str) -> tuple[int, ...]:
    """The shape of rank 0's slice of a matrix."""
    tensor = shards[0].get(name)
    if tensor is None or len(tensor.shape) != 2:
        raise CheckpointRefused(f"{name} is missing or no matrix; this is not a Llama of Meta's")
    return tensor.shape


def _tensors(
    hparams: Hyperparameters, shards: Sequence[Mapping[str, LazyTensor]]
) -> list[SourceTensor]:
    """Every tensor of the model, joined from its slices, in file order."""
    shapes = hparams.shapes()
    theirs = {name: _meta_name(name) for name in shapes}
    if theirs["output.weight"] not in shards[0]:
        del shapes["output.weight"]  # tied to the embedding
    missing = [theirs[name] for name in shapes if theirs[name] not in shards[0]]
    if missing:
        raise CheckpointRefused(
            f"params.json promises {hparams.n_layers} layers, but {len(missing)} tensors are"
            f" missing: {', '.join(missing[:5])}"
        )
    known = {theirs[name] for name in shapes}
    odd = [name for name in shards[0] if name not in known and not _IGNORED.fullmatch(name)]
    if odd:
        raise CheckpointRefused(
            f"{len(odd)} tensors are no part of a Llama of {hparams.n_layers} layers:"
            f" {', '.join(odd[:5])}"
        )
    return [
        _join(name, shape, [shard[theirs[name]] for shard in shards])
        for name, shape in shapes.items()
    ]


def _meta_name(name: str) -> str:
    """ "blk.3.attn_q.weight" -> "layers.3.attention.wq.weight"."""
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    _, layer, part, _ = name.split(".")
    return f"layers.{layer}.{_LAYER_NAMES[part]}.weight"


def _join(name: str, shape: tuple[int, ...], slices: list[LazyTensor]) -> SourceTensor:
    """One tensor out of the slices of all ranks, each still in its file."""
    first, n = slices[0], len(slices)
    for piece in slices:
        if piece.dtype not in _FLOATS:
            raise CheckpointRefused(
                f"{piece.source}: {piece.name} is {piece.dtype}; supported are"
                f" {', '.join(_FLOATS)}, quantized checkpoints are not"
            )
        if (piece.shape, piece.dtype) != (first.shape, first.dtype):
            raise CheckpointRefused(
                f"{piece.source}: {piece.name} is {piece.dtype} {piece.shape}, in the first shard"
                f" {first.dtype} {first.shape}; the shards are not of one model"
            )
    rows, how = _reader(name, shape, slices)
    return SourceTensor(
        name=name,
        shape=shape,
        stored_as=first.name if n == 1 else f"{first.name} ({n} shards, {how})",
        dtype=first.dtype,
        n_bytes=sum(piece.n_bytes for piece in slices),
        files=tuple(piece.source for piece in slices),
        rows=rows,
    )


def _reader(name: str, shape: tuple[int, ...], slices: list[LazyTensor]) -> tuple[Rows, str]:
    """How to read the full tensor's rows, and in a word how it is cut."""
    local, n = slices[0].shape, len(slices)
    if local == shape and (n == 1 or len(shape) == 1):
        return _Copies(slices).rows, "copies"
    if len(local) == len(shape) == 2:
        if local[1] == shape[1] and local[0] * n == shape[0]:
            return _Stacked(slices).rows, "by rows"
        if local[0] == shape[0] and local[1] * n == shape[1]:
            return _SideBySide(slices).rows, "by columns"
        of_heads = name.endswith(("attn_k.weight", "attn_v.weight"))
        copies, rest = divmod(local[0] * n, shape[0])
        if of_heads and local[1] == shape[1] and copies > 1 and not rest and n % copies == 0:
            groups = [_Copies(slices[i : i + copies]) for i in range(0, n, copies)]
            return _Stacked(groups).rows, f"by rows, each {copies} times"
    raise CheckpointRefused(
        f"{slices[0].name}: {_slices(n, local)} do not make {shape}, which params.json asks for; a"
        " shard is missing, or params.json is another model's"
    )


def _slices(n: int, shape: tuple[int, ...]) -> str:
    return f"{n} slice{'s' if n > 1 else ''} of {shape}"


@dataclass(frozen=True, slots=True)
class _Copies:
    """Ranks that hold the same numbers; that they do is checked as they are read."""

    slices: Sequence[LazyTensor]

    @property
    def n_rows(self) -> int:
        return self.slices[0].n_rows

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        first = self.slices[0].raw(start, stop)
        for other in self.slices[1:]:
            if other.raw(start, stop).tobytes() != first.tobytes():
                raise CheckpointRefused(
                    f"{other.source}: {other.name} differs from the first shard's copy; the shards"
                    " are not of one model"
                )
        return self.slices[0].rows(start, stop)


@dataclass(frozen=True, slots=True)
class _Stacked:
    """Slices one below the other."""

    slices: Sequence[LazyTensor | _Copies]

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        n = self.slices[0].n_rows
        parts = []
        for i in range(start // n, math.ceil(stop / n)):
            parts.append(self.slices[i].rows(max(start - i * n, 0), min(stop - i * n, n)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class _SideBySide:
    """Slices beside each other."""

    slices: Sequence[LazyTensor]

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        return np.concatenate([piece.rows(start, stop) for piece in self.slices], axis=1)
