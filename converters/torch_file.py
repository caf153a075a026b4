"""Files of torch.save (`consolidated.00.pth`, `pytorch_model.bin`), read without torch.

A file since torch 1.6 is a zip archive whose members are stored, never compressed:
    <root>/data.pkl      a pickle of the tensors' names, shapes, strides and storage keys
    <root>/data/<key>    the bytes of a storage
    <root>/byteorder     "little" (absent in older files)
A file of the legacy form is a sequence of pickles, then of storages:
    magic number, protocol 1001, {"little_endian": ...}, the object, the list of storage keys;
    for each key in this order: number of elements, 8 bytes little-endian, then their bytes.
"""

import os

from .checkpoint import DTYPES, LazyTensor, SourceFile, looks_like, quoted
from .stored_zip import Region, stored_members
from .torch_pickle import PickleReader, TensorView

MAX_PICKLE_BYTES = 4 << 20  # that of Llama 405B has 0.2 MB

_LEGACY_START = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # pickle of 0x1950a86a20f9469cfc6c
_LEGACY_PROTOCOL = 1001


def open_torch(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """The tensors of a torch.save file by name, in its order.

    The file holds a dictionary of tensors, or one whose entry "model" or "state_dict" is such a
    dictionary. Entries that are no tensors are left out.

    Raises:
        CheckpointRefused: not such a file, damaged, incomplete, or wanting more than tensors.
    """
    file = SourceFile(path)
    head = file.read(0, min(file.size, 512))
    if head.startswith(b"PK\x03\x04"):
        value, places = _read_zip(file)
    elif head.startswith(_LEGACY_START):
        value, places = _read_legacy(file)
    elif head[257:262] == b"ustar":
        raise file.refused(
            "is a tar archive as the first versions of torch wrote them; save its state_dict "
            "again with torch 1.6 or later"
        )
    else:
        raise file.refused(f"is not a torch.save file but {looks_like(head)}")
    return {
        name: _lazy(name, view, file, places) for name, view in _named_views(value, file).items()
    }


def _named_views(value: object, file: SourceFile) -> dict[str, TensorView]:
    if isinstance(value, dict):
        for key in ("model", "state_dict"):
            if isinstance(value.get(key), dict):
                value = value[key]
                break
    if not isinstance(value, dict):
        raise file.refused(f"holds a {type(value).__name__} where a dictionary of tensors belongs")
    views: dict[str, TensorView] = {}
    for name, view in value.items():
        if isinstance(view, TensorView):
            if not isinstance(name, str):
                raise file.refused(f"names a tensor by the number {name}")
            views[name] = view
    if not views:
        keys = ", ".join(quoted(str(key)) for key in list(value)[:5]) or "none"
        raise file.refused(f"holds no tensors under names of its own; its keys are {keys}")
    return views


def _lazy(name: str, view: TensorView, file: SourceFile, places: dict[str, Region]) -> LazyTensor:
    storage = view.storage
    place = places.get(storage.key)
    if place is None:
        raise file.refused(
            f"storage {quoted(storage.key)} of tensor {quoted(name)} is missing; the file is "
            "damaged or incomplete"
        )
    if place.n_bytes != storage.n_bytes:
        raise file.refused(
            f"storage {quoted(storage.key)} of tensor {quoted(name)} has {place.n_bytes:,} bytes, "
            f"{storage.n_bytes:,} announced"
        )
    offset = place.offset + view.offset * DTYPES[view.dtype].itemsize
    return LazyTensor(name, view.shape, view.dtype, file, offset, view.strides)


def _read_zip(file: SourceFile) -> tuple[object, dict[str, Region]]:
    """The unpickled object, and where each storage lies."""
    members = stored_members(file)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise file.refused(f"is a zip archive with {len(pickles)} members data.pkl, 1 expected")
    root = pickles[0].removesuffix("data.pkl")
    order = members.get(root + "byteorder")
    if order is not None and file.read(order.offset, min(order.n_bytes, 8)) != b"little":
        raise file.refused(
            "was saved on a big-endian machine; save it again on a little-endian one"
        )
    place = members[pickles[0]]
    if place.n_bytes > MAX_PICKLE_BYTES:
        raise file.refused(
            f"its data.pkl has {place.n_bytes:,} bytes, at most {MAX_PICKLE_BYTES:,} are read"
        )
    reader = PickleReader(file.read(place.offset, place.n_bytes), str(file.path))
    value = reader.read()
    if reader.position != place.n_bytes:
        raise file.refused(f"{place.n_bytes - reader.position:,} bytes follow its pickle")
    start = root + "data/"
    return value, {
        name.removeprefix(start): region
        for name, region in members.items()
        if name.startswith(start)
    }


def _read_legacy(file: SourceFile) -> tuple[object, dict[str, Region]]:
    """The unpickled object, and where each storage lies."""
    reader = PickleReader(file.read(0, min(file.size, MAX_PICKLE_BYTES)), str(file.path))
    reader.read()  # the magic number
    protocol = reader.read()
    if protocol != _LEGACY_PROTOCOL:
        raise file.refused(f"has protocol {protocol!r:.20}, {_LEGACY_PROTOCOL} expected")
    system = reader.read()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise file.refused(
            "was saved on a big-endian machine; save it again on a little-endian one"
        )
    value = reader.read()
    keys = reader.read()
    if not isinstance(keys, list):
        raise file.refused("does not list its storages")
    places: dict[str, Region] = {}
    position = reader.position
    for key in keys:
        storage = reader.storages.get(key) if isinstance(key, str) else None
        if storage is None or key in places:
            raise file.refused(f"lists storage {quoted(str(key))} that no tensor uses, or twice")
        n_elements = int.from_bytes(file.read(position, 8), "little", signed=True)
        if n_elements != storage.n_elements:
            raise file.refused(
                f"storage {quoted(storage.key)} has {n_elements:,} elements, "
                f"{storage.n_elements:,} announced"
            )
        places[storage.key] = Region(position + 8, storage.n_bytes)
        position += 8 + storage.n_bytes
    if position != file.size:
        raise file.refused(
            f"its storages end at byte {position:,}, the file at {file.size:,}; "
            "it is incomplete or damaged"
        )
    return value, places
