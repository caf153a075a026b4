"""Fixtures: files as torch.save writes them, assembled by hand, so that they can also lie."""

import io
import struct
import zipfile
from collections.abc import Mapping

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
