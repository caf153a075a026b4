"""`edgellama inspect`: what a checkpoint or a GGUF file holds, from headers alone."""

import argparse
import json
from collections import Counter
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgellama.converters import Plan, Source

HELP = "show what a checkpoint or GGUF file holds"
EXAMPLES = """\
examples:
  edgellama inspect Llama3.2-1B-Instruct
  edgellama inspect model.gguf --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("path", metavar="PATH", help="folder of a checkpoint, or a GGUF file")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    from edgellama.converters import open_source

    show(describe(open_source(args.path)), as_json=args.json)
    return 0


def describe(source: "Source", plan: "Plan | None" = None) -> dict[str, Any]:
    """All there is to say of a source and, with a plan, of the file it would become."""
    metadata = source.metadata if plan is None else plan.metadata
    tensors: list[dict[str, Any]] = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "source": tensor.stored_as,
            "files": list(tensor.files),
            "stored_type": tensor.dtype,
            "stored_bytes": tensor.n_bytes,
        }
        for tensor in source.tensors
    ]
    notes = source.notes
    if plan is not None:
        notes = plan.notes
        for entry, planned in zip(tensors, plan.tensors, strict=True):
            entry |= {"type": planned.format.name, "bytes": planned.n_bytes}
        if plan.may_be_tied:
            notes += ("output.weight is left out if it turns out to equal token_embd.weight",)
    described: dict[str, Any] = {
        "path": str(source.path),
        "kind": source.kind,
        "family": source.family,
        "recognised_by": source.recognised_by,
        "metadata": {key: _brief(value) for key, value in metadata.items()},
        "tensors": tensors,
        "stored_bytes": sum(tensor.n_bytes for tensor in source.tensors),
        "notes": list(notes),
    }
    if plan is not None:
        from edgellama.converters import file_size

        described["bytes"] = plan.n_bytes
        described["file_bytes"] = file_size(plan)
        described["bits_per_weight"] = round(plan.bits_per_weight, 4)
    return described


def show(described: dict[str, Any], *, as_json: bool = False) -> None:
    """Print what `describe` found."""
    if as_json:
        print(json.dumps(described, ensure_ascii=False, indent=1))
        return
    for key in ("path", "kind", "family", "recognised_by"):
        print(f"{key.replace('_', ' '):16}{described[key]}")
    print()
    for key, value in described["metadata"].items():
        print(f"{key:44}{value}")
    print()
    _print_tensors(described)
    for note in described["notes"]:
        print(f"note: {note}")


def _print_tensors(described: dict[str, Any]) -> None:
    tensors = described["tensors"]
    name_width = max(len(tensor["name"]) for tensor in tensors)
    stored: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for tensor in tensors:
        stored[tensor["stored_type"]] += tensor["stored_bytes"]
        made[tensor.get("type", "")] += tensor.get("bytes", 0)
        types, n_bytes = tensor["stored_type"], tensor["stored_bytes"]
        if "type" in tensor:
            types, n_bytes = f"{types} -> {tensor['type']}", tensor["bytes"]
        shape = " x ".join(str(n) for n in tensor["shape"])
        print(
            f"{tensor['name']:{name_width}}  {shape:>15}  {types:<12}  {n_bytes:>15,}"
            f"  {tensor['source']}"
        )
    print()
    print(f"{len(tensors)} tensors, stored {_sizes(stored)}")
    if "bytes" in described:
        print(f"to be made {_sizes(made)}")
        print(
            f"a file of {described['file_bytes']:,} bytes,"
            f" {described['bits_per_weight']:.2f} bits a weight"
        )


def _sizes(by_type: Counter[str]) -> str:
    parts = ", ".join(f"{type} {n:,}" for type, n in by_type.most_common() if n)
    return f"{by_type.total():,} bytes ({parts})"


def _brief(value: Any) -> Any:
    """A metadata value short enough for a line: long lists by their length, long texts cut."""
    if isinstance(value, str):
        return value if len(value) <= 60 else f"{value[:60]!r}... ({len(value):,} characters)"
    if isinstance(value, Sized):
        return f"[{len(value):,} values]"
    return value
