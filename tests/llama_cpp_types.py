"""llama.cpp as an oracle for mixes: what it would make of a GGUF file, by its own dry run.

    python tests/llama_cpp_types.py     writes tests/golden/mixes.json anew

needs llama-cpp-python beside edgellama. The file holds, by kind of model and by mix, the parts
of a layer by their runs of types from the first layer to the last.
"""

import ctypes
import itertools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "mixes.json"

# Of 8 query heads; all but the last two have rows that blocks of 256 divide.
KINDS: dict[str, dict[str, Any]] = {
    "2 layers, tied": {"n_layers": 2, "n_kv_heads": 8, "tied": True},
    "5 layers, 4 heads share": {"n_layers": 5, "n_kv_heads": 2, "tied": False},
    "8 layers, 8 heads share, tied": {"n_layers": 8, "n_kv_heads": 1, "tied": True},
    "16 layers, 4 heads share, tied": {"n_layers": 16, "n_kv_heads": 2, "tied": True},
    "22 layers, 8 heads share": {"n_layers": 22, "n_kv_heads": 1, "tied": False},
    "28 layers, 2 heads share, tied": {"n_layers": 28, "n_kv_heads": 4, "tied": True},
    "32 layers": {"n_layers": 32, "n_kv_heads": 8, "tied": False},
    "32 layers, 4 heads share": {"n_layers": 32, "n_kv_heads": 2, "tied": False},
    "36 layers, 4 heads share, tied": {"n_layers": 36, "n_kv_heads": 2, "tied": True},
    "80 layers": {"n_layers": 80, "n_kv_heads": 8, "tied": False},
    "80 layers, 8 heads share": {"n_layers": 80, "n_kv_heads": 1, "tied": False},
    "16 layers, weighed": {"n_layers": 16, "n_kv_heads": 8, "tied": False, "weighed": True},
    "32 layers, 4 heads share, weighed": {
        "n_layers": 32,
        "n_kv_heads": 2,
        "tied": True,
        "weighed": True,
    },
    "narrow feed-forward": {"n_layers": 9, "n_kv_heads": 2, "tied": False, "hidden_dim": 288},
    "narrow everywhere": {"n_layers": 9, "n_kv_heads": 2, "tied": True, "dim": 96, "head_dim": 12},
}


def shape_of(kind: str) -> dict[str, Any]:
    shape = {"dim": 256, "n_heads": 8, "head_dim": 32, "hidden_dim": 256} | KINDS[kind]
    shape.pop("weighed", None)
    return shape


def columns(kind: str) -> dict[str, int]:
    """Name -> columns of every matrix."""
    shape = shape_of(kind)
    dim, heads_dim = shape["dim"], shape["n_heads"] * shape["head_dim"]
    cols = {"token_embd.weight": dim} | ({} if shape["tied"] else {"output.weight": dim})
    for i in range(shape["n_layers"]):
        for part in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
            cols[f"blk.{i}.{part}.weight"] = dim
        cols[f"blk.{i}.attn_output.weight"] = heads_dim
        cols[f"blk.{i}.ffn_down.weight"] = shape["hidden_dim"]
    return cols


def write_kind(write_tiny_llama: Any, path: Path, kind: str) -> Path:
    """A model of this kind with F16 matrices."""
    shape = shape_of(kind)
    written: Path = write_tiny_llama(path, format="F16", rope_dim=shape["head_dim"], **shape)
    return written


def dry_run(path: Path, file_type: int, *, weighed: bool = False) -> dict[str, str]:
    """Tensor name -> the type that llama.cpp would give it, in a file of this general.file_type."""
    import llama_cpp

    said: list[str] = []

    def listen(level: int, text: bytes, data: ctypes.c_void_p) -> None:
        said.append(text.decode(errors="replace"))

    callback = llama_cpp.llama_log_callback(listen)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.dry_run = file_type, 1, True
    if weighed:
        one = (ctypes.c_float * 1)(1.0)
        entries = (llama_cpp.llama_model_imatrix_data * 2)()
        entries[0].name, entries[0].size = b"blk.0.ffn_up.weight", 1
        entries[0].data = ctypes.cast(one, ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    failed = llama_cpp.llama_model_quantize(
        str(path).encode(), str(path.with_suffix(".out")).encode(), ctypes.byref(params)
    )
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), None)  # `listen` ends here
    text = "".join(said)
    if failed:
        raise RuntimeError(text[-2000:])
    line = re.compile(r"\] +(\S+) +- \[.*type = +(\w+), size = .*?(?:\((\w+)\))?\n")
    return {name: (new or old).upper() for name, old, new in line.findall(text)}


def in_runs(types: dict[str, str]) -> dict[str, str]:
    """Name -> type, in short: {"Q6_K*2 Q4_K": "attn_v ffn_down", ...}, the parts by their runs."""
    parts: dict[str, list[tuple[int, str]]] = {}
    for name, type in types.items():
        found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
        assert found is not None, name
        parts.setdefault(found[2], []).append((int(found[1] or 0), type))
    short: dict[str, str] = {}
    for part, of_layers in sorted(parts.items()):
        runs = [
            (type, len(list(run)))
            for type, run in itertools.groupby(type for _, type in sorted(of_layers))
        ]
        key = " ".join(type if n == 1 else f"{type}*{n}" for type, n in runs)
        short[key] = f"{short[key]} {part}" if key in short else part
    return short


def main() -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import _write_tiny_llama

    from edgellama.converters.mixes import MIXES

    golden: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, shape in KINDS.items():
            path = write_kind(_write_tiny_llama, Path(folder) / "model.gguf", kind)
            golden[kind] = {}
            for mix, line in MIXES.items():
                types = dry_run(path, line.file_type, weighed=shape.get("weighed", False))
                matrices = {name: type for name, type in types.items() if "norm" not in name}
                golden[kind][mix] = in_runs(matrices)
    kinds = [
        f"{json.dumps(kind)}: {{\n"
        + ",\n".join(f" {json.dumps(mix)}: {json.dumps(runs)}" for mix, runs in of_kind.items())
        + "}"
        for kind, of_kind in golden.items()
    ]
    GOLDEN.write_text("{" + ",\n".join(kinds) + "}\n")


if __name__ == "__main__":
    main()
