"""Caffe's message classes and enum values, as the module protoc would make."""

from typing import Any

from caffe_bridge import schema


def __getattr__(name: str) -> Any:
    return getattr(schema, name)
