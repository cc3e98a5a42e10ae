"""Field numbers of the Caffe forks in binary files.

Forks gave the same numbers of LayerParameter, LossParameter and BNParameter to different fields, so what a number means
depends on who wrote the file. caffe.proto keeps every field apart under a private number; here binary layers
are translated, going by the layer's type and by what is in the message itself:

    decode, encode            one serialized LayerParameter
    parse_net, serialize_net  a whole NetParameter
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from caffe_bridge import schema
from caffe_bridge.errors import WeightsError
from caffe_bridge.message_strings import mend_strings

_LAYER, _TYPE, _BOTTOM, _LOSS_PARAM, _BN_PARAM, _UPSAMPLE_PARAM = 100, 2, 3, 101, 152, 20150
_SEGNET_BN, _SEGNET_UPSAMPLE, _YOLO_UPSAMPLE = 45, 137, 150
_PRIVATE = 20000
_NONE, _RFCN_NONE, _PRE_FIXED = 3, 4, 20003

# Of each layer type: the number in the fork's files -> the number in caffe.proto. The first is the one written.
_NUMBERS: dict[bytes, dict[int, int]] = {
    b"BN": {_BN_PARAM: _BN_PARAM, _SEGNET_BN: _BN_PARAM, 137: _BN_PARAM},
    b"Upsample": {_YOLO_UPSAMPLE: _UPSAMPLE_PARAM, _SEGNET_UPSAMPLE: _UPSAMPLE_PARAM, 149: _UPSAMPLE_PARAM},
    b"DenseImageData": {138: 20138},
    b"Interp": {143: 20143, 163: 20143},
    b"SegAccuracy": {144: 20144},
    b"MatWrite": {145: 20145},
    b"DenseCRF": {146: 20146},
    b"DomainTransform": {147: 20147},
    b"AdaptiveBiasChannel": {148: 20148},
    b"Reorg": {149: 20149},
    b"BiasChannel": {149: 20151},
    b"UniqueLabel": {150: 20152},
    b"Proposal": {201: 20201},
}


class _Field(NamedTuple):
    """One field on the wire. `value` is the content for wire type 2, the raw bytes for the others."""

    number: int
    wire_type: int
    value: bytes | memoryview

    def integer(self) -> int:
        """The value of a varint."""
        return _varint(self.value, 0)[0]


def parse_net(data: bytes | memoryview) -> Any:
    """The NetParameter in binary `data` written by Caffe or any of the forks.

    Raises WeightsError if it is not one.
    """
    from google.protobuf.message import DecodeError

    net = schema.NetParameter()
    try:
        net.ParseFromString(_rewrite_layers(data, decode))
    except DecodeError:
        raise WeightsError("this is not a binary NetParameter, or it is cut short") from None
    mend_strings(net)
    return net


def serialize_net(net: Any) -> bytes:
    """The binary form of a NetParameter, under the numbers the forks use."""
    return _rewrite_layers(net.SerializeToString(), encode)


def decode(data: bytes | memoryview) -> bytes:
    """A binary LayerParameter of any fork as one of caffe.proto's, without knowing which fork wrote it.

    Raises WeightsError if the data are malformed.
    """
    fields = list(_fields(data))
    numbers = _NUMBERS.get(_last(fields, _TYPE), {})
    out = []
    for field in fields:
        if field.number == _LOSS_PARAM and field.wire_type == 2:
            field = field._replace(value=_decode_loss(field.value))
        elif field.number in numbers and field.wire_type == 2:
            if numbers[field.number] == _BN_PARAM:
                field = field._replace(value=_decode_bn(field.value, field.number == _SEGNET_BN))
            field = field._replace(number=numbers[field.number])
        out.append(field)
    return _join(out)


def encode(data: bytes | memoryview) -> bytes:
    """The inverse of `decode`: a binary LayerParameter of caffe.proto under the numbers of the fork its type is from.

    Raises WeightsError if the data are malformed.
    """
    fields = list(_fields(data))
    written = {ours: theirs for theirs, ours in reversed(_NUMBERS.get(_last(fields, _TYPE), {}).items())}
    if sum(field.number == _BOTTOM for field in fields) == 2 and _UPSAMPLE_PARAM in written:
        written[_UPSAMPLE_PARAM] = _SEGNET_UPSAMPLE
    out = []
    for field in fields:
        if field.number == _LOSS_PARAM and field.wire_type == 2:
            field = field._replace(value=_encode_loss(field.value))
        elif field.number in written:
            number = written[field.number]
            inner = list(_fields(field.value))
            if number == _BN_PARAM and any(f.number > _PRIVATE for f in inner):
                number = _SEGNET_BN
                field = field._replace(value=_join(_shift(f, -_PRIVATE) for f in inner))
            field = field._replace(number=number)
        out.append(field)
    return _join(out)


def _decode_bn(data: bytes | memoryview, segnet: bool) -> bytes:
    """SegNet's fields 1 to 3 are other ones than PSPNet's; its third is an enum where PSPNet's is a float."""
    fields = list(_fields(data))
    modes = [field for field in fields if field.number == 3 and field.wire_type == 0]
    if not segnet and not modes:
        return bytes(data)
    fields = [_shift(field, _PRIVATE) for field in fields]
    if not modes:
        # Nothing else in an empty message would say that it is SegNet's.
        fields.append(_Field(3 + _PRIVATE, 0, b"\0"))
    return _join(fields)


def _decode_loss(data: bytes | memoryview) -> bytes:
    """SegNet has a flag and class weights where BVLC and R-FCN have the normalization and R-FCN one float."""
    fields = list(_fields(data))
    floats = sum(len(field.value) // 4 for field in fields if field.number == 4)
    out = []
    for field in fields:
        if floats > 1 and field.number in (3, 4):
            field = _shift(field, _PRIVATE)
        elif field.number == 3 and field.wire_type == 0:
            if floats and field.integer() == _NONE:
                field = field._replace(value=_encode_varint(_PRE_FIXED))
            elif field.integer() == _RFCN_NONE:
                field = field._replace(value=_encode_varint(_NONE))
        out.append(field)
    return _join(out)


def _encode_loss(data: bytes | memoryview) -> bytes:
    fields = list(_fields(data))
    rfcn = any(field.number == 4 for field in fields)
    out = []
    for field in fields:
        if field.number > _PRIVATE:
            field = _shift(field, -_PRIVATE)
        elif field.number == 3 and field.wire_type == 0:
            if field.integer() == _PRE_FIXED:
                field = field._replace(value=_encode_varint(_NONE))
            elif field.integer() == _NONE and rfcn:
                field = field._replace(value=_encode_varint(_RFCN_NONE))
        out.append(field)
    return _join(out)


def _rewrite_layers(data: bytes | memoryview, rewrite: Callable[[bytes | memoryview], bytes]) -> bytes:
    return _join(
        field._replace(value=rewrite(field.value)) if field.number == _LAYER and field.wire_type == 2 else field
        for field in _fields(data)
    )


def _shift(field: _Field, by: int) -> _Field:
    return field._replace(number=field.number + by)


def _last(fields: list[_Field], number: int) -> bytes:
    values = [bytes(field.value) for field in fields if field.number == number and field.wire_type == 2]
    return values[-1] if values else b""


def _fields(data: bytes | memoryview) -> Iterator[_Field]:
    """The fields of a serialized message; values are views of the data."""
    view = memoryview(data)
    at = 0
    while at < len(view):
        tag, at = _varint(view, at)
        wire_type = tag & 7
        if wire_type == 0:
            _, end = _varint(view, at)
        elif wire_type == 1:
            end = at + 8
        elif wire_type == 2:
            length, at = _varint(view, at)
            end = at + length
        elif wire_type == 5:
            end = at + 4
        else:
            raise WeightsError(f"malformed message: wire type {wire_type} at byte {at}")
        if end > len(view):
            raise WeightsError(f"malformed message: a field of {end - at} bytes where {len(view) - at} are left")
        yield _Field(tag >> 3, wire_type, view[at:end])
        at = end


def _join(fields: Iterator[_Field] | list[_Field]) -> bytes:
    parts: list[bytes | memoryview] = []
    for number, wire_type, value in fields:
        parts.append(_encode_varint(number << 3 | wire_type))
        if wire_type == 2:
            parts.append(_encode_varint(len(value)))
        parts.append(value)
    return b"".join(parts)


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The varint at an offset and the offset behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WeightsError(f"malformed message: bad varint before byte {at}")


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
