"""Caffe's protobuf messages: `schema.NetParameter`, `schema.LayerParameter`, `schema.TRAIN`, ...

The classes come from caffe.proto next to this file, compiled at first use into a descriptor pool of its own: a process
may hold any other `caffe_pb2` besides. Messages of another pool cross over as bytes
(`caffe_bridge.dialects.parse_net(message.SerializeToString())`).

    DESCRIPTOR                the FileDescriptor of caffe.proto
    <Message>                 a message class; nested ones and enum values hang off it as protoc has it
    TRAIN, TEST, ...          values of the top-level enums; Phase, ... the enums themselves
"""

from __future__ import annotations

import threading
from importlib import resources
from typing import Any

_lock = threading.Lock()
_loaded: dict[str, Any] = {}


def _contents() -> dict[str, Any]:
    with _lock:  # two sets of classes would not mix
        if not _loaded:
            _loaded.update(_load())
    return _loaded


def _load() -> dict[str, Any]:
    from google.protobuf import descriptor_pool, message_factory
    from google.protobuf.internal import enum_type_wrapper

    from caffe_bridge.proto_compiler import compile_proto

    text = resources.files("caffe_bridge").joinpath("caffe.proto").read_text(encoding="utf-8")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(compile_proto(text, "caffe_bridge/caffe.proto").SerializeToString())
    file = pool.FindFileByName("caffe_bridge/caffe.proto")
    if hasattr(message_factory, "GetMessageClass"):
        message_class = message_factory.GetMessageClass
    else:
        message_class = message_factory.MessageFactory(pool).GetPrototype
    contents: dict[str, Any] = {"DESCRIPTOR": file}
    for name, descriptor in file.message_types_by_name.items():
        contents[name] = message_class(descriptor)
        contents[name].__module__ = __name__  # where pickle finds it
    for name, descriptor in file.enum_types_by_name.items():
        contents[name] = enum_type_wrapper.EnumTypeWrapper(descriptor)
        contents.update((value.name, value.number) for value in descriptor.values)
    return contents


def __getattr__(name: str) -> Any:
    if not name.startswith("__"):
        try:
            return _contents()[name]
        except KeyError:
            pass
    raise AttributeError(f"module 'caffe_bridge.schema' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_contents())
