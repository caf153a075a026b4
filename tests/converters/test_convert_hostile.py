"""Whatever a checkpoint's JSON says, it converts or is refused in words."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from edgellama.converters import convert, open_source
from edgellama.errors import EdgellamaError

ODD_VALUES = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**64, 10**400, 0.5, -1.5, 1e300, 1e-300),
    *("", "x", "64", "../../etc/passwd", "\ud800", "\0", "<s>", [], [None], [[]], [1, "a"], {}),
    *(
        {"a": 1},
        {"content": 5},
        {"type": []},
        [{"id": 1}],
        [{"id": -1, "content": "", "special": 1}],
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every node of a JSON value but its root; long lists by their ends."""
    found = []
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return []
    for key in keys if len(keys) < 60 else keys[:3] + keys[-3:]:
        found += [(*path, key), *places(value[key], (*path, key))]
    return found


def mutated(value: Any, rng: random.Random) -> Any:
    """A copy with one to three nodes replaced or removed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        choices = places(value)
        if not choices:
            break
        *way, last = rng.choice(choices)
        node = value
        for key in way:
            node = node[key]
        if rng.random() < 0.3:
            del node[last]
        else:
            node[last] = copy.deepcopy(rng.choice(ODD_VALUES))
    return value


def tokenizer_json() -> dict[str, Any]:
    """A byte-fallback tokenizer.json that names everything the reader looks at."""
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
    ]
    return {
        "added_tokens": [{"id": id, "content": tokens[id], "special": True} for id in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": {text: id for id, text in enumerate(tokens)},
            "merges": [["▁", "a"], "a b"],
        },
    }


TOKENIZER_CONFIG = {
    "bos_token": "<s>",
    "eos_token": {"content": "</s>"},
    "add_bos_token": True,
    "added_tokens_decoder": {"1": {"content": "<s>", "special": True}},
    "chat_template": [{"name": "default", "template": "{{ messages }}"}],
}
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def check(folder: Path, file: str, rng: random.Random, n: int) -> None:
    """Convert the folder with n mutants of one file; nothing but our errors may come out."""
    valid = json.loads((folder / file).read_text())
    for _ in range(n):
        (folder / file).write_text(json.dumps(mutated(valid, rng)))
        try:
            convert(open_source(folder), folder / "out.gguf", "q4_0")
        except EdgellamaError as error:
            assert str(error)  # noqa: PT017


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "file",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"],
)
def test_odd_json_of_hugging_face(tiny_checkpoint, tmp_path, file, seed):
    folder = tiny_checkpoint(n_layers=1).write_hf(tmp_path / "hf", rope_parameters=ROPE)
    if file == "tokenizer.json" or seed == 2:
        (folder / "tokenizer.model").unlink()
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 261]}))
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 399}))
    check(folder, file, random.Random(seed), 40)


@pytest.mark.parametrize("seed", range(3))
def test_odd_json_of_meta(tiny_checkpoint, tmp_path, seed):
    folder = tiny_checkpoint(n_layers=1).write_meta(
        tmp_path / "meta", 2, use_scaled_rope=True, rope_theta=1e4, head_dim=8
    )
    check(folder, "params.json", random.Random(seed), 40)
