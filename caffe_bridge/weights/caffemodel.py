"""Caffe's binary weights: a NetParameter whose layers carry their blobs, of any of its three generations."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from caffe_bridge.errors import WeightsError
from caffe_bridge.weights import blobproto, native_index, wire
from caffe_bridge.weights.contents import StoredBlob, Weights
from caffe_bridge.weights.files import replacing, to_array
from caffe_bridge.weights.old_types import V0_TYPES, V1_TYPES

NET_NAME, NET_V1_LAYERS, NET_LAYER = 1, 2, 100
LAYER_BLOBS = 7
MAX_NAME = 1 << 16
MAX_LAYERS = 1 << 17
MAX_DEFINITION = 1 << 24

LayerHeader = Any  # a LayerParameter message, or (name, type, bottoms, tops)


@dataclass(frozen=True)
class _Kind:
    """Field numbers of one generation of layer message."""

    name: int
    type: int
    blobs: int
    nested: int | None = None


_LAYER, _V1, _V0 = _Kind(1, 2, LAYER_BLOBS), _Kind(4, 5, 6, nested=1), _Kind(1, 2, 50)


@dataclass
class _Layer:
    name: str = ""
    type: str = ""
    blobs: list[StoredBlob] = field(default_factory=list)
    v0: _Layer | None = None


_Walked = tuple[str, list[_Layer], list[_Layer]]


def read(path: str, buffer: mmap.mmap) -> Weights:
    """Index a .caffemodel. Raises WeightsError naming the file and, where known, the layer that is broken."""
    name, layers, old_layers = _native_walk(buffer) or _walk(path, buffer)
    if any(layer.v0 for layer in old_layers):
        layers = [layer.v0 for layer in old_layers if layer.v0 and layer.v0.type != "padding"]
    elif old_layers:
        layers = old_layers
    if not layers:
        raise WeightsError(f"{path}: holds no layers; not a .caffemodel{_hint(buffer)}")
    blobs: dict[str, list[StoredBlob | None]] = {layer.name: list(layer.blobs) for layer in layers}
    types = {layer.name: layer.type for layer in layers}
    return Weights(path, blobs, types, name, read_definition=partial(_read_definition, path, buffer))


def _native_walk(buffer: mmap.mmap) -> _Walked | None:
    """What `_walk` finds, from compiled code; None where that leaves the file to `_walk`."""
    if (found := native_index.index(buffer)) is None:
        return None
    blobs = _stored(buffer, found)
    layers: list[_Layer] = []
    old_layers: list[_Layer] = []
    done = 0
    for number, name_first, name_end, type_first, type_end, blobs_end in found.layers:
        layer = _Layer(_decoded(buffer, name_first, name_end), blobs=blobs[done:blobs_end])
        done = blobs_end
        if number == NET_V1_LAYERS:
            layer.type = V1_TYPES.get(type_first, "")
            old_layers.append(layer)
        elif number == native_index.V0:
            layer.type = _type_name(_decoded(buffer, type_first, type_end), _V0)
            old_layers[-1].v0 = layer
        else:
            layer.type = _decoded(buffer, type_first, type_end)
            layers.append(layer)
    return _decoded(buffer, *found.name), layers, old_layers


def _stored(buffer: mmap.mmap, found: native_index.Places) -> list[StoredBlob]:
    blobs = []
    done = 0
    for legacy, first, count, stride, size, dims_end in found.blobs:
        dims = tuple(found.dims[done:dims_end])
        done = dims_end
        pieces = ((first, count, stride),)
        blobs.append(blobproto.stored_blob(buffer, dims, pieces, "<f8" if size == 8 else "<f4", bool(legacy)))
    return blobs


def _walk(path: str, buffer: mmap.mmap) -> _Walked:
    """The net's name, its layers and its V1 layers, with their blobs."""
    layers: list[_Layer] = []
    old_layers: list[_Layer] = []
    name = ""
    try:
        for item in wire.fields(buffer, 0, len(buffer)):
            if item.number == NET_NAME and item.wire == wire.BYTES:
                name = _text(buffer, item)
            elif item.number in (NET_LAYER, NET_V1_LAYERS) and item.wire == wire.BYTES:
                found, kind = (layers, _LAYER) if item.number == NET_LAYER else (old_layers, _V1)
                found.append(_read_layer(path, buffer, item.first, item.end, kind))
                if len(layers) + len(old_layers) > MAX_LAYERS:
                    raise WeightsError(f"{path}: the file holds more than {MAX_LAYERS} layers")
    except wire.WireError as error:
        raise _unreadable(path, buffer, error) from error
    return name, layers, old_layers


def _read_layer(path: str, buffer: mmap.mmap, start: int, end: int, kind: _Kind) -> _Layer:
    layer = _Layer()
    try:
        _fill_layer(layer, path, buffer, start, end, kind)
    except wire.WireError as error:
        label = f"layer '{layer.name}'" if layer.name else "a layer without a name"
        raise WeightsError(f"{path}: {label} is corrupt at byte {error.offset}: {error}") from error
    return layer


def _fill_layer(layer: _Layer, path: str, buffer: mmap.mmap, start: int, end: int, kind: _Kind) -> None:
    for item in wire.fields(buffer, start, end):
        if item.number == kind.name and item.wire == wire.BYTES:
            layer.name = _text(buffer, item)
        elif item.number == kind.type:
            layer.type = _type(buffer, item, kind)
        elif item.number == kind.blobs and item.wire == wire.BYTES:
            layer.blobs.append(blobproto.parse(buffer, item.first, item.end))
            if len(layer.blobs) > MAX_LAYERS:
                raise wire.WireError(f"a layer has more than {MAX_LAYERS} blobs", item.start)
        elif item.number == kind.nested and item.wire == wire.BYTES:
            layer.v0 = _read_layer(path, buffer, item.first, item.end, _V0)


def _type(buffer: mmap.mmap, item: wire.Field, kind: _Kind) -> str:
    if item.wire == wire.VARINT:
        number = wire.varint(buffer, item.first, item.end)[0]
        return V1_TYPES.get(number, "") if kind is _V1 else ""
    if item.wire != wire.BYTES or kind is _V1:
        return ""
    return _type_name(_text(buffer, item), kind)


def _type_name(text: str, kind: _Kind) -> str:
    return V0_TYPES.get(text, text) if kind is _V0 else text


def _text(buffer: mmap.mmap, item: wire.Field) -> str:
    if item.end - item.first > MAX_NAME:
        raise wire.WireError(f"a name is {item.end - item.first} bytes long", item.start)
    return _decoded(buffer, item.first, item.end)


def _decoded(buffer: mmap.mmap, first: int, end: int) -> str:
    return buffer[first:end].decode("utf-8", "backslashreplace")


# -- what is wrong with a file -------------------------------------------------------------------------------


def _unreadable(path: str, buffer: mmap.mmap, error: wire.WireError) -> WeightsError:
    if not isinstance(error, wire.CutOffError):
        return WeightsError(f"{path}: not a .caffemodel: {error} at byte {error.offset}{_hint(buffer)}")
    inside = ""
    if error.number in (NET_LAYER, NET_V1_LAYERS) and error.first:
        name = _name_of_unfinished(buffer, error.first, _LAYER if error.number == NET_LAYER else _V1)
        inside = f" inside layer '{name}'" if name else " inside a layer"
    return WeightsError(
        f"{path}: truncated at byte {len(buffer)}{inside}: {error}; copy or download the file again{_hint(buffer)}"
    )


def _name_of_unfinished(buffer: mmap.mmap, start: int, kind: _Kind) -> str:
    """The name of a layer message that goes on beyond the end of the file, as far as it is there."""
    name = ""
    try:
        for item in wire.fields(buffer, start, len(buffer)):
            if item.number == kind.name and item.wire == wire.BYTES:
                name = _text(buffer, item)
            elif item.number == kind.nested and item.wire == wire.BYTES:
                name = _name_of_unfinished(buffer, item.first, _V0) or name
    except wire.CutOffError as error:
        if kind.nested and error.number == kind.nested and error.first:
            name = _name_of_unfinished(buffer, error.first, _V0) or name
    except wire.WireError:
        pass
    return name


def _hint(buffer: mmap.mmap) -> str:
    head = buffer[:32]
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        text = " ".join(head.decode("ascii").split())
        return f" (it is a text file, beginning '{text}': a prototxt, a web page or a Git LFS pointer?)"
    return ""


# -- the net stored with the weights -------------------------------------------------------------------------


def _read_definition(path: str, buffer: mmap.mmap) -> Any:
    from caffe_bridge import dialects, upgrade

    parts: list[bytes] = []
    size = 0
    for item in wire.fields(buffer, 0, len(buffer)):
        for part in _without_blobs(buffer, item, {NET_LAYER: _LAYER, NET_V1_LAYERS: _V1}.get(item.number)):
            size += len(part)
            if size > MAX_DEFINITION:
                raise WeightsError(f"{path}: the net's definition is larger than {MAX_DEFINITION >> 20} MB")
            parts.append(part)
    try:
        definition = dialects.parse_net(b"".join(parts))
        upgrade.upgrade_net(definition, path)
    except (WeightsError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: the net stored with the weights cannot be read: {error}") from error
    return definition


def _without_blobs(buffer: mmap.mmap, item: wire.Field, kind: _Kind | None) -> Iterator[bytes]:
    """A field as it stands, in parts; of a layer of this kind, all but its blobs. Nothing of groups: Caffe has none."""
    if item.wire == wire.START_GROUP:
        return
    if kind is None or item.wire != wire.BYTES:
        yield buffer[item.start : min(item.end, item.start + MAX_DEFINITION + 1)]
        return
    inner = [
        part
        for own in wire.fields(buffer, item.first, item.end)
        if own.number != kind.blobs
        for part in _without_blobs(buffer, own, _V0 if own.number == kind.nested else None)
    ]
    yield wire.encode_prefix(item.number, sum(map(len, inner)))
    yield from inner


# -- writing -------------------------------------------------------------------------------------------------


def write_caffemodel(
    path: str | Path,
    layers: Iterable[tuple[LayerHeader, Sequence[Any]]],
    name: str = "",
    diffs: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write weights as Caffe does (Net::ToProto), layer by layer, without holding more than one array in memory.

    Args:
        path: the file; replaced in one step at the end.
        layers: for each layer its LayerParameter message (blobs in it are ignored), or (name, type, bottoms, tops), and
            its arrays or tensors in Caffe's order. float64 is stored as double_data, everything else as float32.
        name: the net's name.
        diffs: gradients to write beside the values, by layer name.

    Raises:
        WeightsError: the file cannot be written, or would be larger than the 2 GB that protobuf lets Caffe read.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        if name:
            file.write(wire.encode_bytes(NET_NAME, name.encode()))
        for header, blobs in layers:
            head, tail = _split_header(_header_bytes(header))
            layer = header[0] if isinstance(header, tuple) else header.name
            gradients = [to_array(diff) for diff in (diffs or {}).get(layer, ())]
            arrays = list(zip_longest((to_array(blob) for blob in blobs), gradients))
            size = len(head) + len(tail) + sum(blobproto.message_size(LAYER_BLOBS, *pair) for pair in arrays)
            if file.tell() + size + 16 > blobproto.MAX_MESSAGE:
                raise WeightsError(
                    f"{path}: the weights take more than the 2 GB Caffe can read from a .caffemodel; "
                    "save them as HDF5 (.caffemodel.h5)"
                )
            file.write(wire.encode_prefix(NET_LAYER, size) + head)
            for array, diff in arrays:
                blobproto.write_message(file.write, LAYER_BLOBS, array, diff)
            file.write(tail)


def _header_bytes(header: LayerHeader) -> bytes:
    if not isinstance(header, tuple):
        from caffe_bridge import dialects

        return dialects.encode(header.SerializeToString())
    name, type_, bottoms, tops = header
    texts = [(1, name), (2, type_), *((3, bottom) for bottom in bottoms), *((4, top) for top in tops)]
    return b"".join(wire.encode_bytes(number, text.encode()) for number, text in texts)


def _split_header(message: bytes) -> tuple[bytes, bytes]:
    """A serialised LayerParameter without blobs, parted where its blobs belong."""
    items = [item for item in wire.fields(message, 0, len(message)) if item.number != LAYER_BLOBS]
    parts = [(item.number, message[item.start : item.end]) for item in items]
    head = b"".join(part for number, part in parts if number < LAYER_BLOBS)
    return head, b"".join(part for number, part in parts if number > LAYER_BLOBS)
