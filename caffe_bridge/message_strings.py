"""Strings of protobuf messages that are no UTF-8, as old tools in other encodings wrote them."""

from __future__ import annotations

from typing import Any


def mend_strings(message: Any) -> None:
    """Replace the bytes that protobuf gives for strings that are no UTF-8 by text with their bytes as `\\xNN`."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if isinstance(value, bytes):
                setattr(message, field.name, _text(value))
            elif not isinstance(value, str):
                for i, item in enumerate(value):
                    if isinstance(item, bytes):
                        value[i] = _text(item)
        elif field.type == field.TYPE_MESSAGE:
            for child in (value,) if hasattr(value, "ListFields") else value:
                mend_strings(child)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
