"""Fixtures: files as torch.save writes them, assembled by hand, so that they can also lie; and tiny
checkpoints as Meta and Hugging Face publish them.
"""

import io
import json
import random
import struct
import zipfile
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest


class TorchWriter:
    """An assembler for pickle protocol 2, and the two containers of torch.save around it."""

    @staticmethod
    def text(value: str) -> bytes:
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data

    @staticmethod
    def integer(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    @staticmethod
    def tuple_of(*parts: bytes) -> bytes:
        return b"(" + b"".join(parts) + b"t"

    @staticmethod
    def name(module: str, name: str) -> bytes:
        return f"c{module}\n{name}\n".encode()

    @classmethod
    def call(cls, module: str, name: str, *arguments: bytes) -> bytes:
        return cls.name(module, name) + cls.tuple_of(*arguments) + b"R"

    @classmethod
    def dictionary(cls, items: Mapping[str, bytes]) -> bytes:
        return b"}(" + b"".join(cls.text(key) + value for key, value in items.items()) + b"u"

    @classmethod
    def storage(cls, key: str, n: int, kind: str = "Float", view: bytes = b"") -> bytes:
        marker = cls.name("torch", f"{kind}Storage")
        parts = cls.text("storage"), marker, cls.text(key), cls.text("cpu"), cls.integer(n), view
        return cls.tuple_of(*parts) + b"Q"

    @classmethod
    def tensor(
        cls,
        storage: bytes,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        offset: int = 0,
        metadata: bytes = b"",
    ) -> bytes:
        return cls.call(
            "torch._utils",
            "_rebuild_tensor_v2",
            storage,
            cls.integer(offset),
            cls.tuple_of(*map(cls.integer, shape)),
            cls.tuple_of(*map(cls.integer, strides)),
            b"\x89",
            cls.call("collections", "OrderedDict"),
            metadata,
        )

    @staticmethod
    def program(body: bytes) -> bytes:
        return b"\x80\x02" + body + b"."

    @staticmethod
    def archive(
        members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED, root: str = "archive"
    ) -> bytes:
        """A zip file by Python's own writer; members are put under `root`."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, data in members.items():
                archive.writestr(f"{root}/{name}", data)
        return buffer.getvalue()

    @classmethod
    def zip_file(cls, body: bytes, storages: Mapping[str, bytes]) -> bytes:
        members = {"data.pkl": cls.program(body), "byteorder": b"little"}
        return cls.archive(members | {f"data/{key}": data for key, data in storages.items()})

    @classmethod
    def legacy_file(cls, body: bytes, storages: Mapping[str, tuple[int, bytes]]) -> bytes:
        """The form before torch 1.6; a storage is its number of elements and its bytes."""
        return b"".join(
            (
                cls.program(b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")),
                cls.program(cls.integer(1001)),
                cls.program(cls.dictionary({"little_endian": b"\x88"})),
                cls.program(body),
                cls.program(b"](" + b"".join(cls.text(key) for key in storages) + b"e"),
                *(struct.pack("<q", n) + data for n, data in storages.values()),
            )
        )


@pytest.fixture(scope="session")
def torch_writer() -> type[TorchWriter]:
    """Assembles torch files by hand, well-formed or not; see TorchWriter."""
    return TorchWriter


class TinyCheckpoint:
    """A random Llama that can be written as any publisher would: what it is stays the same.

    weights: GGUF name -> float32 array whose lower halves are zero, so that bf16 holds it exactly.
    """

    META_NAMES: ClassVar = {
        "token_embd": "tok_embeddings",
        "output_norm": "norm",
        "output": "output",
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
    HF_NAMES: ClassVar = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }

    def __init__(
        self,
        tokenizer_model: bytes,
        vocab_size: int,
        *,
        n_layers: int = 2,
        dim: int = 64,
        n_heads: int = 8,
        n_kv_heads: int = 8,
        head_dim: int = 8,
        hidden_dim: int = 96,
        tied: bool = False,
        seed: int = 0,
    ) -> None:
        self.tokenizer_model, self.vocab_size = tokenizer_model, vocab_size
        self.dim, self.n_layers, self.hidden_dim = dim, n_layers, hidden_dim
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, head_dim
        q, kv = n_heads * head_dim, n_kv_heads * head_dim
        layer = {
            "attn_norm": (dim,),
            "attn_q": (q, dim),
            "attn_k": (kv, dim),
            "attn_v": (kv, dim),
            "attn_output": (dim, q),
            "ffn_norm": (dim,),
            "ffn_gate": (hidden_dim, dim),
            "ffn_up": (hidden_dim, dim),
            "ffn_down": (dim, hidden_dim),
        }
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab_size, dim)}
        for i in range(n_layers):
            shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
        shapes["output_norm.weight"] = (dim,)
        if not tied:
            shapes["output.weight"] = (vocab_size, dim)
        rng = np.random.default_rng(seed)
        self.weights = {
            name: _cut_to_bf16(rng.normal(len(shape) == 1, 0.1, shape).astype(np.float32))
            for name, shape in shapes.items()
        }

    def write_meta(
        self,
        folder: Path,
        n_shards: int = 1,
        *,
        kind: str = "Float",
        embedding_axis: int = 1,
        **params: object,
    ) -> Path:
        """params.json (with `params` added), consolidated.NN.pth, tokenizer.model.

        embedding_axis: 1 cuts the embedding as Llama 1 and 2 do, 0 as Llama 3.
        """
        axes = {"token_embd": embedding_axis, "attn_output": 1, "ffn_down": 1}
        folder.mkdir(parents=True)
        for rank in range(n_shards):
            tensors, storages = {}, {}
            for name, weight in self.weights.items():
                part = weight
                if weight.ndim == 2:
                    axis = axes.get(name.split(".")[-2], 0)
                    part = np.split(weight, n_shards, axis)[rank]
                key = str(len(storages))
                storages[key] = _stored(part, kind)
                tensors[self._renamed(name, self.META_NAMES, "layers")] = TorchWriter.tensor(
                    TorchWriter.storage(key, part.size, kind),
                    part.shape,
                    tuple(stride // 4 for stride in np.ascontiguousarray(part).strides),
                )
            data = TorchWriter.zip_file(TorchWriter.dictionary(tensors), storages)
            (folder / f"consolidated.{rank:02d}.pth").write_bytes(data)
        values = {
            "dim": self.dim,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "norm_eps": 1e-5,
            "vocab_size": -1,
        }
        (folder / "params.json").write_text(json.dumps(values | params))
        (folder / "tokenizer.model").write_bytes(self.tokenizer_model)
        return folder

    def write_hf(self, folder: Path, n_shards: int = 1, **config: object) -> Path:
        """config.json (with `config` added), safetensors in bf16, tokenizer.model."""
        folder.mkdir(parents=True)
        tensors = {
            self._renamed(name, self.HF_NAMES, "model.layers"): self._in_halves(name, weight)
            for name, weight in self.weights.items()
        }
        names = list(tensors)
        files = ["model.safetensors"]
        if n_shards > 1:
            files = [f"model-{i:05d}-of-{n_shards:05d}.safetensors" for i in range(n_shards)]
            weight_map = {name: files[i % n_shards] for i, name in enumerate(names)}
            (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": weight_map})
            )
        for i, file in enumerate(files):
            part = {name: tensors[name] for name in names[i::n_shards]}
            (folder / file).write_bytes(safetensors_file(part))
        values = {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.hidden_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": "output.weight" not in self.weights,
        }
        (folder / "config.json").write_text(json.dumps(values | config))
        (folder / "tokenizer.model").write_bytes(self.tokenizer_model)
        return folder

    def _in_halves(self, name: str, weight: np.ndarray) -> np.ndarray:
        """Rows of q and k as Hugging Face sorts them: the even rows of a head, then the odd."""
        if not name.endswith(("attn_q.weight", "attn_k.weight")):
            return weight
        heads = weight.reshape(-1, self.head_dim, self.dim)
        return np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(weight.shape)

    @staticmethod
    def _renamed(name: str, names: Mapping[str, str], layers: str) -> str:
        match name.split("."):
            case ["blk", i, part, _]:
                return f"{layers}.{i}.{names[part]}.weight"
            case _:
                return f"{names[name.removesuffix('.weight')]}.weight"


def safetensors_file(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A .safetensors file of float32 arrays, stored as bf16."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = _stored(array, "BFloat16")
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _cut_to_bf16(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _stored(x: np.ndarray, kind: str) -> bytes:
    if kind == "BFloat16":
        return (np.ascontiguousarray(x).view(np.uint32) >> 16).astype("<u2").tobytes()
    return x.astype({"Float": "<f4", "Half": "<f2"}[kind]).tobytes()


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tokenizer.model of 400 pieces, trained with the settings of Llama's."""
    from sentencepiece import SentencePieceTrainer

    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 7))) for _ in range(300)]
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(rng.choices(words, k=12)) for _ in range(300)),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="session")
def tiktoken_model() -> bytes:
    """A tokenizer.model of Llama 3's kind: 256 bytes in GPT-2's order and 24 merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    tokens = [bytes([b]) for b in printable + [b for b in range(256) if b not in printable]]
    tokens += [b" t", b"he", b" the", b"in", b"re", b"on", b" a", b"nd", b" and", b"er", b"ing"]
    tokens += [b"\n\n", b"  ", b"12", b"123", b"\xe6\x97", b"\xe6\x97\xa5", b"us", b"user", b"st"]
    tokens += [b" st", b"or", b" stor", b" story"]
    return b"".join(b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens))


@pytest.fixture(scope="session")
def tiny_checkpoint(sentencepiece_model: bytes) -> Callable[..., TinyCheckpoint]:
    """tiny_checkpoint(n_kv_heads=2, ...) -> TinyCheckpoint with a SentencePiece vocabulary."""
    return partial(TinyCheckpoint, sentencepiece_model, 400)


@pytest.fixture(scope="session")
def tiny_llama3_checkpoint(tiktoken_model: bytes) -> Callable[..., TinyCheckpoint]:
    """tiny_llama3_checkpoint(...) -> TinyCheckpoint with a byte-level BPE vocabulary of 536."""
    return partial(TinyCheckpoint, tiktoken_model, 280 + 256)
